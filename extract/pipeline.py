"""Stage 1, top to bottom: decode -> encode -> write.

Decode workers run ahead (extract/decode.py), this thread packs full batches (extract/plan.py) and feeds the encoders,
one writer thread fills the cache (extract/assemble.py). A video counts when its last marker is on disk; whatever
happens before leaves nothing that a reader would see.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from extract.assemble import Assembly, WriteThread
from extract.decode import DecodeAhead, Event, Failed, Finished, Job, Opened
from extract.encoders.captioners.quality import CaptionCounts
from extract.encoders.contract import Rows, TimelineEncoder, WindowEncoder
from extract.plan import TimelinePacker, WindowPacker
from extract.sampling import Item
from extract.video import VideoError, open_video, read_source, source_stamp
from shared.cache import CacheError, FeatureCache, RecipeMismatch
from shared.ledger import Failure, FailureLedger
from shared.manifest import Manifest

# Stop when this many videos fail for one cause and none has worked: the fault is then not in the videos.
SYSTEMIC_FAILURES = 8
PROBES = 8  # videos further on that are looked at first
MAX_QUEUE_BYTES = 512 * 2**20


class SystemicFailure(RuntimeError):
    """Every video fails for the same cause; going on would only repeat it."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        done, skipped: ids of videos completed now, and complete before.
        failed: id -> why, for videos that failed now or earlier and were not tried again.
        gaps: path of a frame folder done now -> pictures it lacks (the nearest earlier one stands in).
        captions: counts what is wrong with the captions written now, where somebody asked for it.
        seconds: stage -> busy wall seconds ("decode" summed over workers, "waiting": encoders waiting for frames).
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    captions: CaptionCounts | None = None
    num_frames: int = 0
    num_windows: int = 0
    wall_s: float = 0.0

    @property
    def exit_status(self) -> int:
        """0 all complete, 1 some failed, 2 nothing could work."""
        if not self.failed:
            return 0
        return 1 if self.done or self.skipped else 2


class Watcher:
    """Is told what happens; the command line shows it. Does nothing by itself."""

    def opened(self, job: Job, promised_frames: int) -> None:
        """A video was opened; 0 frames promised if the container does not say."""

    def reached(self, job: Job, frame: int) -> None:
        """An item of this frame went to an encoder."""

    def ended(self, job: Job, failure: Failure | None) -> None:
        """A video is complete in the cache, or has failed."""


def plan_jobs(
    manifest: Manifest,
    cache: FeatureCache,
    recipes: Mapping[str, Mapping[str, Any]],
    ledger: FailureLedger,
    *,
    overwrite: Sequence[str] = (),
    retry_failed: bool = False,
) -> tuple[list[Job], Summary]:
    """Which videos still need which streams.

    Raises:
        RecipeMismatch: a complete stream was made by another recipe and is not to be overwritten.
        CacheError: files are not the ones that the cache was made from, and not all of their streams are overwritten.
    """
    summary, jobs, strangers = Summary(), [], []
    failed = ledger.failures()
    for video in manifest.videos:
        file, changed = manifest.file(video), _changed(cache, video.id, manifest.file(video))
        if changed and (cache.streams(video.id).keys() & cache.window.samples.keys()) - set(overwrite):
            strangers.append(video.path)
            continue
        missing = tuple(s for s in recipes if changed or _is_missing(cache, video.id, s, recipes[s], s in overwrite))
        if not missing:
            summary.skipped.append(video.id)
        elif video.id in failed and not retry_failed and not changed:
            summary.failed[video.id] = failed[video.id]
        else:
            jobs.append(Job(video.id, video.path, file, video.fps, missing, changed))
    if strangers:
        some = ", ".join(strangers[:5]) + " ..." * (len(strangers) > 5)
        raise CacheError(
            f"{len(strangers)} of {len(manifest.videos)} videos are not the files that {cache.url} was made from: "
            f"{some}\n"
            "If the cache belongs to another data set of the same name, give a new one: --cache NEW.zarr (CACHE= for "
            "make). If the files were replaced, extract them again: --overwrite all."
        )
    return jobs, summary


def _is_missing(cache: FeatureCache, video_id: str, stream: str, recipe: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether a stream must be extracted. To overwrite is to replace what is of another recipe or damaged; what is
    whole and right stays, so that an interrupted --overwrite goes on where it was."""
    if not overwrite:
        return not cache.has(video_id, stream, recipe)
    try:
        return not cache.has(video_id, stream, recipe) or not cache.is_whole(video_id, stream)
    except RecipeMismatch:
        return True


def _changed(cache: FeatureCache, video_id: str, file: Path) -> bool:
    """Whether a file or folder is another one than the cached streams were decoded from.

    Same size and time: the same. Another time only (a copy, a checkout): its sha256 decides.
    """
    cached = cache.source(video_id)
    if not cached or not file.exists():
        return False
    try:
        stamp = source_stamp(file)
        if stamp["bytes"] != cached.get("bytes"):
            return True
        return stamp["mtime_ns"] != cached.get("mtime_ns") and read_source(file)["sha256"] != cached.get("sha256")
    except VideoError:
        return False  # decoding will say what is wrong with it


def run(
    jobs: Sequence[Job],
    cache: FeatureCache,
    encoders: Mapping[str, TimelineEncoder | WindowEncoder],
    ledger: FailureLedger,
    summary: Summary,
    *,
    workers: int = 2,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
    watcher: Watcher | None = None,
) -> Summary:
    """Extract every job into the cache.

    Args:
        jobs, summary: from ``plan_jobs``; the summary is completed and returned.
        encoders: stream -> encoder, for every stream of any job.
        workers: videos decoded at once.
        max_queue_bytes: prepared frames that may wait for the encoders, over all workers.

    Raises:
        SystemicFailure: all videos fail for one cause.
        CacheWriteError: disk full, store unreachable. What is complete stays complete.
    """
    watcher = watcher or Watcher()
    started = time.perf_counter()
    clock = {"waiting": 0.0, **{f"encode {stream}": 0.0 for stream in encoders}}
    recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
    attempts = {name: failure.attempts for name, failure in ledger.failures().items()}
    writes = WriteThread()
    assemblies: dict[str, Assembly] = {}  # videos between their first frame and their completion marker
    failures: list[Failure] = []  # of this run
    watchful = not summary.skipped  # nothing has worked yet: failures may have one cause outside the videos

    # ------------------------------------------------------------------ a video ends
    def complete(assembly: Assembly) -> None:
        name = assembly.job.video
        del assemblies[name]
        if name in attempts:
            ledger.resolve(name)
        summary.done.append(name)
        summary.num_windows += assembly.num_windows
        if summary.captions is not None:
            summary.captions.add(name, assembly.captions)
        if assembly.info is not None:
            summary.num_frames += assembly.info.num_frames
            if assembly.info.missing_frames:
                summary.gaps[assembly.job.path] = assembly.info.missing_frames
        watcher.ended(assembly.job, None)

    def fail(assembly: Assembly, stage: str, error: str, message: str) -> None:
        name = assembly.job.video
        failure = Failure(name, assembly.job.path, stage, error, message, attempts.get(name, 0) + 1)
        for packer in packers.values():
            packer.forget(name)
        writes.drain()
        del assemblies[name]
        cache.abandon(name, assembly.job.streams)
        ledger.record(failure)
        summary.failed[name] = failure
        failures.append(failure)
        watcher.ended(assembly.job, failure)

    def settle() -> None:
        for assembly in list(assemblies.values()):
            if assembly.error is not None:
                fail(assembly, "write", type(assembly.error).__name__, str(assembly.error))
            elif assembly.complete:
                complete(assembly)

    # ------------------------------------------------------------------ encoders -> assemblies
    def windows_done(stream: str, name: str, features: np.ndarray) -> None:
        assemblies[name].add_windows(stream, features)

    def frames_done(stream: str, name: str, frames: np.ndarray, rows: Rows) -> None:
        assemblies[name].add_frames(stream, frames, rows)

    packers: dict[str, TimelinePacker | WindowPacker] = {}
    for stream, encoder in encoders.items():
        if encoder.kind == "window":
            packers[stream] = WindowPacker(encoder, partial(windows_done, stream), cache.window.size)  # type: ignore[arg-type]
        else:
            packers[stream] = TimelinePacker(encoder, partial(frames_done, stream))  # type: ignore[arg-type]

    def finish_pending() -> None:
        for stream, packer in packers.items():
            before = time.perf_counter()
            packer.flush()
            clock[f"encode {stream}"] += time.perf_counter() - before
        writes.drain()
        settle()

    # ------------------------------------------------------------------ decode -> encoders
    decode = DecodeAhead(cache.window, encoders, workers, max_queue_bytes)
    try:
        with closing(decode.run(jobs)) as videos:
            for number, (job, events) in enumerate(videos, start=1):
                if job.changed:
                    cache.drop(job.video, job.streams)
                assembly = assemblies[job.video] = Assembly(job, cache, writes, encoders, recipes)
                for event in _timed(events, clock):
                    match event:
                        case Opened():
                            watcher.opened(job, event.promised_frames)
                        case Failed():
                            fail(assembly, event.stage, event.error, event.message)
                        case Finished():
                            for packer in packers.values():
                                packer.close(job.video)
                            assembly.end(event.info)
                        case _:
                            packer, before = packers[event.stream], time.perf_counter()
                            if packer.yields_row(event):
                                assembly.expect(event.stream)
                            packer.add(job.video, event)  # type: ignore[arg-type]
                            clock[f"encode {event.stream}"] += time.perf_counter() - before
                            if isinstance(event, Item):
                                watcher.reached(job, event.frame)
                settle()
                if watchful and not summary.done and len(failures) >= SYSTEMIC_FAILURES:
                    finish_pending()  # a short video that works may still wait for a batch to fill
                    if not summary.done and (cause := _common_cause(failures, jobs[number:])):
                        raise SystemicFailure(cause)
                    watchful = False
        finish_pending()
        assert not assemblies, f"rows never came for {sorted(assemblies)}"
    finally:
        writes.close()
        for name, assembly in list(assemblies.items()):
            with suppress(OSError):  # the store may be what failed; what stays behind is unmarked and will be redone
                cache.abandon(name, assembly.job.streams)

    summary.seconds = {"decode": decode.seconds, **clock, "write": writes.seconds}
    summary.wall_s = time.perf_counter() - started
    return summary


def _timed(events: Iterator[Event], clock: dict[str, float]) -> Iterator[Event]:
    while True:
        before = time.perf_counter()
        event = next(events, None)
        clock["waiting"] += time.perf_counter() - before
        if event is None:
            return
        yield event


def _common_cause(failures: Sequence[Failure], later: Sequence[Job]) -> str | None:
    """What to tell the user if every video of this run failed for one cause, and those to come would, too."""
    # Names and numbers differ from video to video; the kind of failure does not.
    causes = {(f.stage, f.error, re.sub(r"\d+", "#", f.message.replace(f.video, "*"))) for f in failures}
    if len(causes) > 1:
        return None
    last, spread = failures[-1], np.linspace(0, len(later) - 1, PROBES).round().astype(int) if later else ()
    # A few broken files at the front of a list are no reason to stop: look whether videos further on can be read.
    if last.stage in ("open", "decode") and any(_opens(later[i]) for i in sorted(set(spread))):
        return None
    return (
        f"the first {len(failures)} videos all failed for one cause, so the run stops here:\n"
        f"  {last.stage}: {last.message}\nMend it, then run again with --retry-failed."
    )


def _opens(job: Job) -> bool:
    """Whether the first frame of a video can be decoded."""
    try:
        with open_video(job.file, job.fps) as video:
            return next(iter(video.frames), None) is not None
    except VideoError:
        return False
