"""What it costs: frames, bytes, hours and memory, before anything is decoded.

In: a manifest, a preset, what the cache has, and measurements of a minute on this machine. Out: counts (cost.py),
speeds (calibrate.py), hours with their bounds (estimate.py), batch sizes that fit in memory (memory.py).
Promises: a figure that is not known is a range, or is said to be missing; nothing is written.
"""
