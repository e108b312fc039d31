"""What the commands of the command line do; each returns the exit status.

0 all complete; 1 some videos failed, or something was found to be wrong; 2 bad usage, or nothing could work.
"""
