"""What stage 2 looks like in a terminal."""
