"""Videos where they lie: which files are videos, by their names, and objects of a store that are videos.

Nothing here opens a video, and nothing reads a manifest: decoder processes import it.
"""
