"""What becomes of the jobs of a run on a cluster: who has which, who died over which, and the sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from extract.cluster.actor import News
from extract.cluster.members import STRIKES, Member, Shares
from extract.decode.events import Job
from extract.faults.doubts import Doubts
from extract.faults.ledger import Failure, FailureLedger
from extract.faults.retrying import failed_again
from extract.jobs.summary import Summary
from extract.watcher import Watcher


class Deal:
    """The jobs of one run. Only this writes the ledger.

    Attributes:
        shares: jobs that nobody has.
        doubts: whether failures are the videos' own.
    """

    def __init__(
        self, jobs: Sequence[Job], ledger: FailureLedger, summary: Summary, watcher: Watcher, members: int
    ) -> None:
        self._ledger, self.summary, self._watcher = ledger, summary, watcher
        self._strikes: dict[str, int] = {}
        self._again: set[str] = set()  # dealt out twice
        here = [replace(job, file=job.file.absolute()) if isinstance(job.file, Path) else job for job in jobs]
        self.shares = Shares(here, dict(summary.suspects), members)
        self.doubts = Doubts[Member](ledger, bool(summary.skipped))

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """What a share has taken."""
        for stage, spent in seconds.items():
            self.summary.seconds[stage] = self.summary.seconds.get(stage, 0.0) + spent

    def take(self, member: Member, news: Sequence[News]) -> None:
        """What a process tells."""
        for one in news:
            job = member.hands.get(one.video)
            match one.what:
                case "record":
                    self._ledger.record(one.value)
                case "resolve":
                    self._ledger.resolve(one.video)
                case "waits":
                    names, holder = one.value
                    self._watcher.waits([member.hands[name] for name in names if name in member.hands], holder)
                case "opened" if job is not None:
                    member.opened.add(one.video)
                    self._watcher.opened(job, one.value)
                case "reached" if job is not None:
                    self._watcher.reached(job, one.value)
                case "ended" if job is not None:
                    del member.hands[one.video]
                    member.opened.discard(one.video)
                    member.useful = True
                    assert one.part is not None
                    self._add(one.part)
                    if one.value is not None:
                        self.doubts.failed(member, one.value)
                    elif one.part.done:
                        self.doubts.works(member, job)
                    self._watcher.ended(job, one.value)

    def lost(self, member: Member, why: str) -> None:
        """A process has died; its videos are dealt out again."""
        again = []
        for job in member.hands.values():
            name = job.video
            self._again.add(name)
            if name in member.opened:
                self._strikes[name] = self._strikes.get(name, 0) + 1
            if self._strikes.get(name, 0) > STRIKES:
                self._fail(job, why)
                continue
            if self._strikes.get(name, 0) == STRIKES:
                self.shares.suspects[name] = STRIKES
            again.append(job)
        self.shares.put_back(again)

    def _fail(self, job: Job, why: str) -> None:
        words = (
            f"{self._strikes[job.video]} encoder processes died while they were at it, the last one at it alone: {why}"
        )
        now = Failure(job.video, job.path, "encode", "EncoderDied", words)
        failure = failed_again(self._ledger.failures().get(job.video), now, job.file)
        self._ledger.record(failure)
        self.summary.failed[job.video] = failure
        self._watcher.ended(job, failure)

    def _add(self, part: Summary) -> None:
        whole = self.summary
        # Complete when it was dealt out again: the process had done it before it died, and could not say so any more.
        whole.done += part.done + [v for v in part.others if v in self._again]
        whole.others += [v for v in part.others if v not in self._again]
        whole.failed |= part.failed
        whole.gaps |= part.gaps
        whole.truncated |= part.truncated
        whole.leading |= part.leading
        whole.num_frames += part.num_frames
        whole.num_windows += part.num_windows
        if part.captions is not None:
            if whole.captions is None:
                whole.captions = part.captions
            else:
                whole.captions.merge(part.captions)
