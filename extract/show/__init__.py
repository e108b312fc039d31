"""What the commands look like in a terminal."""
