"""Data in: annotations and cached features -> tensors from which batches are gathered.

In: a manifest, a task, a cache. Out: tracks with one label per frame (tracks.py, labels.py), features resident on the
device, in memory or in a file (features.py, resident.py, memory.py).
Promises: row i of a label is frame i of the decoded video; a frame without a label is masked, never guessed.
"""
