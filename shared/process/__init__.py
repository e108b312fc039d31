"""What both command lines do as programs: signals, the terminal, whole files, the machine they run on.

Nothing here knows videos, features or labels. A reader of a cache needs none of it.
"""
