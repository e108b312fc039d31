"""Several runs on one cache share its videos: a job is claimed when the decoder asks for it (claims.py).

What another run holds is put aside, and looked at again when everything else is done. By then it is complete, or in the
ledger, or the other run has ended and this one takes it over; else this one waits. It waits only when it holds nothing
itself, so that two runs never wait for each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from extract.decode.events import Job
from extract.faults.ledger import Failure, FailureLedger
from extract.faults.systemic import CacheWriteError
from extract.jobs.planning import DAMAGED, is_missing
from extract.jobs.summary import Summary
from extract.sharing.claims import Claims
from extract.watcher import Watcher
from shared.cache import FeatureCache

MAX_POLL_S = 10.0
LEDGER_S = 5.0  # an object store's ledger is not read again sooner


class SharedJobs:
    """The jobs that become this run's own.

    Args:
        jobs, summary: of ``plan_jobs``; what others complete or fail at is added to the summary.
        recipes: stream -> recipe, of every stream of any job.

    Attributes:
        later: jobs that nobody has looked at yet.
        failures: the ledger, as of when the last job was claimed.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        cache: FeatureCache,
        recipes: Mapping[str, Mapping[str, Any]],
        ledger: FailureLedger,
        claims: Claims,
        summary: Summary,
        watcher: Watcher,
    ) -> None:
        self.later = jobs
        self._cache, self._recipes, self._claims = cache, recipes, claims
        self._summary, self._watcher = summary, watcher
        self._aside: list[Job] = []
        self._contested: set[str] = set()
        self._origins = {job.video: self._origin(job.video) for job in jobs if job.changed}
        self._ledger = _Ledger(ledger)
        self._known = self.failures = self._ledger.failures()

    def rounds(self) -> Iterator[Iterator[Job]]:
        """Jobs that were claimed, in order, first of all of them and then of those put aside, until none is left.

        Finish everything of one round before asking for the next: it may wait for other runs, which wait for this one.
        """
        waiting, pause = self.later, self._claims.poll_s
        while waiting:
            left = len(waiting)
            claimed = self._claimed(waiting)
            if (job := next(claimed, None)) is not None:
                yield chain((job,), claimed)
            waiting, self._aside = self._aside, []
            if waiting and job is None:
                pause = self._claims.poll_s if len(waiting) < left else min(MAX_POLL_S, 1.5 * pause)
                self._watcher.waits(waiting, str(self._claims.holder(waiting[0].video, waiting[0].streams) or ""))
                time.sleep(pause)

    def finished(self, job: Job) -> None:
        """A job has ended, well or not."""
        self._claims.give(job.video)

    def lost(self, job: Job) -> None:
        """The claim of a job was lost while it was at work; at the end, what is there is looked at closely."""
        self._claims.give(job.video)
        self._contested.add(job.video)
        self._aside.append(job)

    def _claimed(self, waiting: Sequence[Job]) -> Iterator[Job]:
        for number, job in enumerate(waiting, start=1):
            self.later = waiting[number:]
            if not self._take(job):
                self._aside.append(job)
                continue
            try:
                left = self._left(job)
            except BaseException:
                self._claims.give(job.video)
                raise
            if left is not None:
                yield left
            else:
                self._claims.give(job.video)

    def _take(self, job: Job) -> bool:
        try:
            return self._claims.take(job.video, job.streams)
        except OSError as error:
            raise CacheWriteError(f"videos cannot be claimed beside the cache: {error}") from error

    def _left(self, job: Job) -> Job | None:
        """What is left of a job that was planned a while ago, now that no other run can be at work on it."""
        self.failures = self._ledger.failures()
        failure = self.failures.get(job.video)
        if failure is not None and failure != self._known.get(job.video):
            self._summary.failed[job.video] = failure
            self._watcher.ended(job, failure)
            return None
        changed = job.changed and self._origin(job.video) == self._origins[job.video]
        streams = tuple(s for s in job.streams if changed or self._is_missing(job.video, s))
        if streams:
            return replace(job, streams=streams, changed=changed)
        self._summary.others.append(job.video)
        self._watcher.ended(job, None)
        return None

    def _is_missing(self, video: str, stream: str) -> bool:
        repair = DAMAGED in self._summary.overwrite
        look_closely = repair or stream in self._summary.overwrite or video in self._contested
        return is_missing(self._cache, video, stream, self._recipes[stream], look_closely, repair=repair)

    def _origin(self, video: str) -> tuple[dict[str, Any], str]:
        """What a video was decoded from and by: another one once somebody has decoded it again."""
        return self._cache.source(video), self._cache.decoder(video)


class _Ledger:
    """A ledger that is read again only when it may have changed."""

    def __init__(self, ledger: FailureLedger) -> None:
        self._ledger = ledger
        self._mark: Any = None
        self._failures: dict[str, Failure] = {}

    def failures(self) -> dict[str, Failure]:
        mark = self._now()
        if mark != self._mark:
            self._failures, self._mark = self._ledger.failures(), mark
        return self._failures

    def _now(self) -> Any:
        if self._ledger.remote:
            return time.monotonic() // LEDGER_S
        try:
            found = os.stat(self._ledger.location)
        except OSError:
            return "none"
        return found.st_ino, found.st_size, found.st_mtime_ns
