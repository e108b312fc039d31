"""What the commands of the command line do; each returns the exit status (0 done, 2 it could not be done)."""
