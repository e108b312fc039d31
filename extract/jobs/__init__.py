"""What is to be done: which videos of a data set need which streams.

In: a manifest and what the cache has. Out: jobs, in the order in which they are done, and the sums of the run.
Promises: what is whole is not done again; a video that changed is never mixed with what was made of it before; the
shards of n processes cover every video once (shards.py); a repair touches what is damaged and nothing else (repair.py).
"""
