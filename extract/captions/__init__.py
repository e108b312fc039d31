"""Captions as text: out of a cache into a file, edited by people, and back into the cache without the videos.

In: a cache, or a table with the columns video, frame, time_s, caption. Out: the same table, or text streams.
Promises: a caption goes to the frame it was written for or is refused by name; an interrupted exchange leaves the old
text or the new one, never a mixture.
"""
