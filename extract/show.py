"""What a run looks like in a terminal: progress with an estimate, final table, status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
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
from rich.table import Table

from extract.decode import Job
from extract.pipeline import Summary, Watcher
from extract.recaption import NEXT
from shared.cache import FeatureCache
from shared.cache_types import truncated_words
from shared.ledger import Failure
from shared.manifest import Manifest
from shared.recipe import Recipe
from shared.remote_files import RemoteFile
from shared.windows import WindowSpec

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


def print_summary(console: Console, summary: Summary, url: str, retry: str) -> None:
    """The table that ends a run: what was done, where the time went, what failed and why."""
    if summary.done:
        wall = max(summary.wall_s, 1e-9)
        console.print(
            f"{summary.num_frames} frames, {summary.num_windows} windows in {wall:.1f} s "
            f"({summary.num_frames / wall:.0f} frames/s, {summary.num_windows / wall:.1f} windows/s)"
        )
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary.seconds.items())
        console.print(f"busy seconds (stages overlap): {parts}")
    table = Table("", "videos", box=None, pad_edge=False)
    table.add_row("done", str(len(summary.done)))
    table.add_row("skipped (complete)", str(len(summary.skipped)))
    if summary.others:
        table.add_row("done by another run", str(len(summary.others)))
    table.add_row("failed", str(len(summary.failed)))
    if quarantined := sum(failure.quarantined for failure in summary.failed.values()):
        table.add_row("of these quarantined", str(quarantined))
    console.print(table)
    for failure in summary.failed.values():
        console.print(f"  {failure.path}: {failure.stage}: {failure.message} (attempts: {failure.attempts})")
    if summary.gaps:
        some = ", ".join(f"{path} ({count})" for path, count in list(summary.gaps.items())[:5])
        more = " ..." * (len(summary.gaps) > 5)
        console.print(
            f"{len(summary.gaps)} frame folders lack pictures; the nearest earlier one stands in: {some}{more}"
        )
    if summary.truncated:
        console.print(truncated_words(summary.truncated))
    for line in summary.captions.lines() if summary.captions is not None else ():
        console.print(line)
    if summary.failed:
        console.print(f"Failures are kept in {ledger_place(url)}. Try them again with: {retry}")
    if replaced := set(summary.recaptioned) & set(summary.done):
        console.print(f"text that came from a captions file was replaced in {len(replaced)} videos")
    if summary.left:
        console.print(f"{len(summary.left)} videos are damaged still, and nothing of it was replaced here:")
        for video, why in summary.left.items():
            console.print(f"  {video}: {why}")
    console.print(f"cache: {url}")


def print_status(console: Console, manifest: Manifest, cache: FeatureCache, failures: Mapping[str, Failure]) -> int:
    """Completeness per stream and every failed video. Returns 0 if all is complete, else 1."""
    windows = gaps = 0
    untouched, begun = [], []
    alike: dict[tuple[tuple[str, str], ...], list[int]] = {}  # streams with fingerprints -> frames of videos with them
    truncated: dict[str, Mapping[str, int]] = {}
    window, facts = cache.window, cache.facts().check()
    names, recipes = list(window.samples), facts.recipes
    touched = {*names, NEXT}
    for video in manifest.videos:
        known = facts.videos.get(video.id)
        if known is not None and known.streams:
            alike.setdefault(tuple(known.streams.items()), []).append(known.num_frames)
            gaps += known.missing_frames
            if known.truncated is not None:
                truncated[video.path] = known.truncated
            windows += num_windows(window, known.num_frames)
            if NEXT in known.streams:
                begun.append(video.id)
        if (known is None or known.streams.keys().isdisjoint(touched)) and video.id not in failures:
            untouched.append(video.id)
    done, ways = 0, {}  # type: int, dict[str, Counter[str]]
    for streams, lengths in alike.items():
        own = [(name, mark) for name, mark in streams if name != NEXT]  # that is half a replacement, no stream
        for name, mark in own:
            ways.setdefault(name, Counter())[mark] += len(lengths)
        done += len(lengths) if {name for name, _ in own} >= set(names) else 0
    complete = {name: found.total() for name, found in ways.items()}
    frames, total = sum(map(sum, alike.values())), len(manifest.videos)
    console.print(f"{cache.url}: {done}/{total} videos complete, {frames} frames, {windows} windows")
    table = Table("stream", "complete", "encoder", box=None, pad_edge=False)
    for name in sorted(set(names) | set(complete)):
        made = _encoder([recipes[mark] for mark in ways.get(name, ())])
        table.add_row(name, f"{complete.get(name, 0)}/{total}", made)
    console.print(table)
    texts = list(ways.get("text", ()))
    if len(texts) == 1 and isinstance(captioner := recipes[texts[0]].get("captioner"), dict):
        digest = f" (sha256 {captioner['sha256'][:12]})" if captioner.get("captioner") == "file" else ""
        console.print(f"captions by {captioner.get('captioner')}{digest}")
    if begun:
        some = ", ".join(begun[:5]) + " ..." * (len(begun) > 5)
        console.print(
            f"a recaption was interrupted in {len(begun)} videos ({some}): the same command again finishes it, "
            "and extract run --overwrite text puts text of this cache's own captioner there instead"
        )
    mixed = {name: ", ".join(map(str, found.values())) for name, found in ways.items() if len(found) > 1}
    for name, counts in mixed.items():
        console.print(
            f"stream {name} was made in {len(ways[name])} ways ({counts} videos), which training refuses: repeat the "
            f"command that was interrupted, or extract with --overwrite {name}"
        )
    ids = {video.id for video in manifest.videos}
    gone = [f for v, f in failures.items() if v in ids]
    for failure in gone:
        state = "quarantined" if failure.quarantined else "failed"
        console.print(f"{state}  {failure.path}: {failure.stage}: {failure.message} (attempts: {failure.attempts})")
    if gaps:
        console.print(f"{gaps} of these frames have no picture of their own in their frame folder")
    if truncated:
        console.print(truncated_words(truncated))
    if untouched:
        console.print(
            f"not extracted yet: {len(untouched)} ({', '.join(untouched[:5])}{' ...' * (len(untouched) > 5)})"
        )
    return 0 if done == total and not mixed else 1


@lru_cache(maxsize=4096)  # a million videos have few lengths
def num_windows(window: WindowSpec, num_frames: int) -> int:
    """N of a video."""
    return len(window.starts(num_frames))


def _encoder(recipes: Sequence[Recipe]) -> str:
    """What made a stream, in words; of one that was made in several ways, none of them."""
    if len(recipes) > 1:
        return f"made in {len(recipes)} ways"
    return " ".join(str(r[k]) for r in recipes for k in ("encoder", "architecture", "model", "weights") if k in r)


def ledger_place(url: str) -> str:
    """Where the ledger of a cache is."""
    from shared.ledger import FailureLedger

    return FailureLedger(url).location


def _size(job: Job) -> float:
    if isinstance(job.file, RemoteFile):  # nobody is asked for it
        return float((job.file.root.listed(job.file.path) or {}).get("bytes", 1e6))
    try:
        return float(job.file.stat().st_size) if job.file.is_file() else 1e6
    except OSError:
        return 1.0
