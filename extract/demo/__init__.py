"""The demo data set: videos of a drawn world with labels that are true, in the official file formats.

In: a seed. Out: mp4 files and label files below ``data/demo``; the same bytes of labels on every machine.
Promises: labels come from the story (story.py) and not from the pictures; an interrupted rendering goes on.
"""
