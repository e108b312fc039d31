"""Faults that are not the videos': where every video fails for one cause, going on would only repeat it.

No decoder for any of them, a disk that cannot be read, weights that make nothing but NaN: the first failures look alike
and nothing has worked. Then the cause is told once, and the run ends. A few broken files at the front of a list look
alike, too, so some of the videos further on are tried first.
"""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from extract.child_process import Lost, usual_memory
from extract.decode.child import Work
from extract.decode.events import Failed, Job, Read, Stopped
from extract.decode.fetching import Copies
from extract.decode.process import DecoderProcess, DecoderStartError
from extract.decode.turns import Turns
from extract.decode.wire import Alive
from extract.faults.ledger import VERDICTS, Failure
from extract.video import VideoError, open_video

# Stop when this many videos fail for one cause and none has worked: the fault is then not in the videos.
SYSTEMIC_FAILURES = 8
READING = frozenset({"open", "decode"})  # stages that other videos can be asked about
PROBES = 8  # videos further on that are looked at first
PROBE_S = 60.0  # for all of them


class CacheWriteError(OSError):
    """The cache cannot be written, whatever the video: disk full, store unreachable, no permission."""


class SystemicFailure(RuntimeError):
    """Every video fails for the same cause; going on would only repeat it."""


class FirstFailures:
    """Looks at the failures of a run for as long as nothing has worked.

    Args:
        before: videos that failed in an earlier run. That they fail again says nothing of the machine.
        worked: whether earlier runs have completed some. The last few may then well all be broken.
        workers: decoder processes that share the machine's memory.
    """

    def __init__(self, before: Collection[str] = (), worked: bool = False, workers: int = 1) -> None:
        self._before, self._worked, self._workers = frozenset(before), worked, workers
        self._all: list[Failure] = []
        self._last: list[Failure] = []
        self._trusted = False  # something has worked

    @classmethod
    def after(cls, known: Mapping[str, Failure], worked: bool, workers: int = 1) -> FirstFailures:
        """Of a run that finds these failures in the ledger."""
        before = [video for video, failure in known.items() if failure.blamed or failure.stage not in READING]
        return cls(before, worked, workers)

    def add(self, failure: Failure) -> None:
        """A video has failed."""
        if self._trusted:
            return
        self._all.append(failure)
        if failure.video not in self._before:
            self._last = [*self._last, failure][-SYSTEMIC_FAILURES:]

    def works(self) -> None:
        """A video is complete: whatever fails now is that video's own fault."""
        self._trusted = True

    @property
    def trusted(self) -> bool:
        """Whether a video is complete, so that failures are not looked at any more."""
        return self._trusted

    @property
    def alike(self) -> bool:
        """Whether so many in a row failed for one cause, and nothing has worked, that ``check`` should be asked."""
        return not self._trusted and len(self._last) == SYSTEMIC_FAILURES and len(set(map(_cause, self._last))) == 1

    def check(self, later: Sequence[Job]) -> None:
        """End the run, unless videos to come do better.

        Args:
            later: what nobody has looked at yet.

        Raises:
            SystemicFailure: says the cause, and how to go on.
        """
        self.settle(self.asks and any_opens(later, self._workers), bool(later))

    @property
    def asks(self) -> bool:
        """Whether other videos can be asked about what failed."""
        return self._last[-1].stage in READING

    def settle(self, readable: bool, left: bool, whose: str = "") -> None:
        """As ``check``, where somebody has looked at the videos to come.

        Args:
            readable: any of them opens.
            left: there are any.
            whose: the failures were, for the words.
        """
        last = self._last[-1]
        if readable or (self._worked and not left):
            self._all, self._last = [], []  # the next so many in a row are looked at anew
            return
        hint = ""
        if last.stage not in READING and "NaN" in last.message:
            hint = "\nAn encoder that gives NaN for every video has broken weights, or a --dtype that it cannot take."
        raise SystemicFailure(
            f"the first {len(self._last)} videos{whose} all failed for one cause, so the run stops here:\n"
            f"  {last.stage}: {last.message}{hint}\n"
            + (
                "Mend it, then run again with --retry-failed; without that, the next run leaves these videos for later."
                if last.error in VERDICTS
                else "Mend it, then run again; it does not count against these videos."
            )
        )

    def uncounted(self) -> list[Failure]:
        """The failures that ended the run, as they should be in the ledger: no tries of their videos."""
        cause = _cause(self._last[-1])
        return [replace(f, attempts=f.attempts - 1) for f in self._all if _cause(f) == cause]


def _cause(failure: Failure) -> tuple[str, str, str]:
    """What failures for one cause have in common: names and numbers differ from video to video, the words do not."""
    text = failure.message
    for name in filter(None, (failure.video, failure.path)):
        text = text.replace(name, "*")
    return failure.stage, failure.error, re.sub(r"\d+", "#", text)


def spread(jobs: Sequence[Job]) -> list[Job]:
    """Some of these, from the first to the last."""
    if not jobs:
        return []
    return [jobs[n] for n in sorted(set(np.linspace(0, len(jobs) - 1, PROBES).round().astype(int).tolist()))]


def any_opens(jobs: Sequence[Job], workers: int) -> bool:
    """Whether the first frame of any of some videos, spread over all of these, can be decoded.

    Args:
        workers: decoder processes that share the machine's memory.
    """
    ends = time.monotonic() + PROBE_S

    def check() -> None:
        if time.monotonic() > ends:
            raise Stopped

    opens = _opens if os.name == "posix" else _opens_here
    with closing(Copies()) as copies, suppress(Stopped):
        for job in spread(jobs):
            # Nothing that one of them does to its process is a word about the next.
            with suppress(VideoError, Lost, DecoderStartError), copies.of(job, check) as here:
                if opens(here, usual_memory(workers), check):
                    return True
    return False


def _opens(job: Job, memory_bytes: int, check: Callable[[], None]) -> bool:
    """As a run decodes: what is wrong with its decoder processes is wrong with this one."""
    assert isinstance(job.file, Path)
    window = {"size": 1, "stride": 1, "samples": {"none": 1}}
    work = Work(replace(job, file=job.file.absolute(), streams=()), window, {}, 0, memory_bytes, alive_s=0)
    with closing(Turns(1)) as turns:
        decoder = DecoderProcess(turns, 0, 1)
        try:
            for message in decoder.read(pickle.dumps(work), PROBE_S / 4, check, lambda: True):
                if isinstance(message, Read) or (isinstance(message, Alive) and message.frames):
                    return True
                if isinstance(message, Failed):
                    break
        finally:
            decoder.end()
    return False


def _opens_here(job: Job, memory_bytes: int, check: Callable[[], None]) -> bool:
    """Where there are no decoder processes."""
    assert isinstance(job.file, Path)
    with open_video(job.file, job.fps) as video:
        return next(iter(video.frames), None) is not None
