"""Who does it: how several runs, on one machine or many, share the videos of one cache.

In: jobs. Out: jobs that nobody else is at, each with a claim on its video.
Promises: two runs never write one stream of one video; a run that died holds nothing for long: the system frees its
locks (claims.py), and its leases on an object store run out (leases.py). A run on many machines: extract/cluster/.
"""
