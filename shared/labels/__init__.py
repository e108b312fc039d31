"""Label files as people and tools write them: official formats, and tables with named columns.

In: text files. Out: arrays per frame, NaN where there is no label. Row i is frame i, 0-based in decode order.
Promises: columns are taken by name; a name that is nearly right is asked about and never guessed.
"""
