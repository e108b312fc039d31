"""The encoder processes of a run, as the driver sees them: what each was given, and what it has in its hands."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from extract.cluster.actor import EncoderActor, Post
from extract.decode.events import Job
from shared.videos.remote import RemoteFile

MAX_SHARE = 256  # videos
MIN_SHARE = 4
UNKNOWN_BYTES = 1e6  # of a frame folder
STRIKES = 2  # processes that died over a video; then it is tried once more, alone


@dataclass(eq=False)
class Member:
    """One encoder process.

    Attributes:
        loading, news, share, probe: what it was asked and has not answered yet.
        hands: video id -> job, of what it was given and has not ended.
        opened: of these, the ones that it has begun.
        useful: it has ended a video.
    """

    actor: Any
    loading: Any = None
    news: Any = None
    share: Any = None
    probe: Any = None
    hands: dict[str, Job] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    useful: bool = False

    @property
    def pending(self) -> list[Any]:
        """What may come from it."""
        return [r for r in (self.loading, self.share, self.news, self.probe) if r is not None]

    @property
    def idle(self) -> bool:
        """Whether it is up and has nothing to do."""
        return self.loading is None and self.share is None


def start_member(post: Post, gpu: bool) -> Member:
    """A new process, on a GPU of its own or on any node with a CPU. It comes up by and by.

    Without a GPU no CPU is kept for it: as in a local run, encoders and decoders share the cores of a machine.
    Neither is one where no decode tasks compete for them.
    """
    options: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
    if gpu:
        options["num_gpus"] = 1
    if post.decoders:
        options["num_cpus"] = 0
    actor = EncoderActor.options(**options).remote(post)
    return Member(actor, loading=actor.load.remote())


class Shares:
    """The videos that nobody has been given yet, dealt out in ever smaller shares, so that all end at about one time.

    Args:
        suspects: video id -> runs and processes that died over it. They come last, one at a time.
    """

    def __init__(self, jobs: Iterable[Job], suspects: dict[str, int], num_members: int) -> None:
        self.suspects, self._members = suspects, num_members
        self._jobs: deque[tuple[Job, float]] = deque()
        self._last: deque[Job] = deque()
        self.put_back(jobs)

    def __len__(self) -> int:
        return len(self._jobs) + len(self._last)

    def __iter__(self) -> Iterator[Job]:
        return chain((job for job, _ in self._jobs), self._last)

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Add videos, which come next."""
        jobs = list(jobs)
        self._jobs.extendleft((job, _weight(job)) for job in reversed(jobs) if job.video not in self.suspects)
        self._last.extend(job for job in jobs if job.video in self.suspects)

    def take(self, *, alone: bool) -> list[Job]:
        """The next share; empty if there is none for now.

        Args:
            alone: nobody else is at work, so that nobody loses anything if a suspect ends its process.
        """
        if not self._jobs:
            return [self._last.popleft()] if self._last and alone else []
        if self._members == 1:  # nobody to share with
            return [self._jobs.popleft()[0] for _ in range(min(len(self._jobs), MAX_SHARE))]
        most = sum(weight for _, weight in self._jobs) / (2 * self._members)
        share, taken = list[Job](), 0.0
        while self._jobs and len(share) < MAX_SHARE and (len(share) < MIN_SHARE or taken < most):
            job, weight = self._jobs.popleft()
            share.append(job)
            taken += weight
        return share


def _weight(job: Job) -> float:
    """What a video costs: by the bytes of its file, which takes no opening."""
    if isinstance(job.file, RemoteFile):  # nobody is asked for it
        return float((job.file.root.listed(job.file.path) or {}).get("bytes", UNKNOWN_BYTES))
    with suppress(OSError):
        if job.file.is_file():
            return float(job.file.stat().st_size)
    return UNKNOWN_BYTES
