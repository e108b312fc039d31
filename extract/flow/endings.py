"""How a video ends in a run, and who is told: the ledger, the summary, the claims, whoever watches."""

from __future__ import annotations

from dataclasses import dataclass

from extract.faults.ledger import FailureLedger
from extract.faults.retrying import failed_again
from extract.faults.systemic import FirstFailures
from extract.flow.life import Life, State
from extract.jobs.planning import TEXT, drop_replacement
from extract.jobs.summary import Summary
from extract.sharing.shared_jobs import SharedJobs
from extract.watcher import Watcher
from shared.cache import FeatureCache


@dataclass(frozen=True)
class Endings:
    """What is done at the end of a video, by its last state. Nothing of it is at work any more."""

    cache: FeatureCache
    ledger: FailureLedger
    summary: Summary
    shared: SharedJobs
    first: FirstFailures
    watcher: Watcher

    def tell(self, life: Life) -> None:
        """A video has reached its last state."""
        {State.COMPLETE: self._complete, State.FAILED: self._failed, State.LOST: self._lost}[life.state](life)

    def _complete(self, life: Life) -> None:
        video = life.job.video
        if video in self.shared.failures:
            self.ledger.resolve(video)
        if TEXT in life.job.streams:
            drop_replacement(self.cache, video)
        self.shared.finished(life.job)
        assert life.info is not None
        self.summary.completed(life.job, life.info, life.rows.num_windows, life.rows.captions)
        self.first.works()
        self.watcher.ended(life.job, None)

    def _failed(self, life: Life) -> None:
        video = life.job.video
        assert life.failure is not None
        failure = failed_again(self.shared.failures.get(video), life.failure, life.job.file)
        self.cache.abandon(video, life.job.streams)
        self.ledger.record(failure)
        self.shared.finished(life.job)
        self.summary.failed[video] = failure
        self.first.add(failure)
        self.watcher.ended(life.job, failure)

    def _lost(self, life: Life) -> None:
        self.shared.lost(life.job)  # what lies in the cache is the other run's
