"""What a run looks like in a terminal: progress with an estimate, final table, status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from extract.decode.ahead import Job
from extract.faults.ledger import Failure
from extract.watcher import Watcher
from shared.videos.remote import RemoteFile

LOG_EVERY_S = 30.0


class RunDisplay(Watcher):
    """Progress of an extraction, weighted by file size; in a log file, a line every 30 seconds."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        self._console = console
        self._sizes = {job.video: _size(job) for job in jobs}
        self._promised: dict[str, int] = {}
        self._done_bytes, self._videos, self._failed, self._frames = 0.0, 0, 0, 0
        self._last_frame: dict[str, int] = {}
        self._started = self._logged = time.monotonic()
        self._total = len(jobs)
        self._waits = False  # for other runs
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[videos]}/{task.fields[total_videos]} videos"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]:.0f} frames/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(
            "extract", total=max(1.0, sum(self._sizes.values())), videos=0, total_videos=self._total, rate=0.0, note=""
        )

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def opened(self, job: Job, promised_frames: int) -> None:
        self._promised[job.video] = promised_frames
        self._progress.update(self._task, note=job.video[-40:])

    def reached(self, job: Job, frame: int) -> None:
        new = frame - self._last_frame.get(job.video, -1)
        if new <= 0:
            return
        self._last_frame[job.video] = frame
        self._frames += new
        share = min(0.99, frame / self._promised[job.video]) if self._promised.get(job.video) else 0.0
        self._update(self._sizes[job.video] * share)

    def ended(self, job: Job, failure: Failure | None) -> None:
        self._done_bytes += self._sizes[job.video]
        self._videos += 1
        if failure is not None:
            self._failed += 1
            self._console.print(f"failed  {failure.path}: {failure.stage}: {failure.message}")
        self._update(0.0)

    def waits(self, jobs: Sequence[Job], holder: str) -> None:
        note = _waiting(len(jobs), holder)
        self._progress.update(self._task, note=note)
        now = time.monotonic()
        if not self._console.is_terminal and (not self._waits or now - self._logged > LOG_EVERY_S):
            self._logged = now
            self._console.print(note)
        self._waits = True

    def _update(self, current_bytes: float) -> None:
        now = time.monotonic()
        rate = self._frames / max(1e-9, now - self._started)
        done = self._done_bytes + current_bytes
        self._progress.update(self._task, completed=done, videos=self._videos, rate=rate)
        if not self._console.is_terminal and now - self._logged > LOG_EVERY_S:
            self._logged = now
            share = done / max(1.0, sum(self._sizes.values()))
            left = (now - self._started) * (1 - share) / share if share else float("inf")
            self._console.print(
                f"{self._videos}/{self._total} videos, {share:.0%}, {rate:.0f} frames/s, about {left:.0f} s left"
            )


def _waiting(count: int, holder: str) -> str:
    return f"waiting for {count} videos that {holder or 'another run'} is at work on"


class StepDisplay:
    """Progress of something that is done one by one: ``verb`` ("rendering") says what, ``things`` to what."""

    def __init__(self, console: Console, verb: str, things: str) -> None:
        self._console, self._verb, self._things, self._waited = console, verb, things, False
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(f"{verb} {things}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> StepDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._progress.stop()

    def reached(self, done: int, total: int) -> None:
        """``done`` of ``total`` are done."""
        if self._task is None:
            self._console.print(f"{self._verb} {total} {self._things}")
            self._task = self._progress.add_task(self._verb, total=total)
        self._progress.update(self._task, completed=done)

    def waits(self, count: int, holder: str) -> None:
        """Nothing is left but what other runs are at work on."""
        if not self._waited:
            self._console.print(_waiting(count, holder))
        self._waited = True


def _size(job: Job) -> float:
    if isinstance(job.file, RemoteFile):  # nobody is asked for it
        return float((job.file.root.listed(job.file.path) or {}).get("bytes", 1e6))
    try:
        return float(job.file.stat().st_size) if job.file.is_file() else 1e6
    except OSError:
        return 1.0
