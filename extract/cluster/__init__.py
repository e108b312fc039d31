"""``extract run --engine ray``: the same pipeline on the machines of a Ray cluster. The only folder that imports ray.

    decode tasks (CPUs) -> one encoder process per GPU, each with a whole extract/flow/pipeline.py -> the cache
                                     ^ shares of the videos, v what happened
                                  the driver: plan, ledger, progress, exit status

An encoder process is an actor: it loads the models once, packs batches across its videos and writes to the cache
itself. The driver deals out the videos in shares and puts a new actor in the place of one that died, whose videos it
deals out again; claims and completion markers make that safe, as they do for two runs on one cache. Which node runs
what, and which is lost, is Ray's business.

Actors of Ray's core, and not Ray Data: a fixed pool of Ray Data may keep an actor that has died in its place, and then
it waits for ever (ray-project/ray, issue 62746, which was open like 41258 when this was written; of the proposed fixes
62936 and 63755 had been closed, and 65543 was open).
"""

from __future__ import annotations

import os

# Ray reads these when it is imported. Nothing is sent to its makers, and what it says of itself is not for a terminal.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # a node says when a process has died; so do we, where it matters
}
