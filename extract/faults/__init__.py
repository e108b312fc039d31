"""What went wrong: failures of videos, and faults that are not the videos'.

In: what a run met. Out: rows of ``failures.jsonl`` beside the cache, and a decision: go on, try again, or stop.
Promises: a failure is never lost and never stops a run; a fault that all videos share stops it early and is not put
down to them (systemic.py, on a cluster doubts.py); a video that kills its run is found out (inflight.py).
"""
