"""Label files of annotation tools, read and written.

In: files of ELAN, VIA, Label Studio, CVAT, Audacity, WebVTT, SRT and BORIS. Out: spans with a column and a value, on
the tool's own clock; and from segments, files that these tools open. Promises: nothing is shifted, what is passed over
is said at the top of each reader, hostile input is a LabelError with its place, a written file is whole or not there.
"""
