"""Stage 1, top to bottom: decode -> encode -> write.

Decode workers run ahead (extract/decode/ahead.py), this thread packs full batches (extract/plan.py) and feeds the
encoders, one writer thread fills the cache (extract/assemble.py). A video counts when its last marker is on disk;
whatever happens before leaves nothing that a reader would see. Several such runs share one cache (extract/sharing.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial

import numpy as np

from extract.assemble import Assembly, ClaimLost, WriteThread
from extract.decode.ahead import DecodeAhead, Event, Failed, Finished, Job, Opened
from extract.decode.decoders import VideoDecoders
from extract.decode.sampling import Item
from extract.encoders.contract import Rows, TimelineEncoder, WindowEncoder
from extract.jobs import TEXT, Summary, Watcher, drop_replacement, plan_jobs
from extract.plan import TimelinePacker, WindowPacker
from extract.retrying import failed_again
from extract.sharing import SharedJobs
from extract.systemic import FirstFailures, SystemicFailure
from shared.cache import FeatureCache
from shared.claims import Claims, open_claims
from shared.ledger import Failure, FailureLedger

MAX_QUEUE_BYTES = 512 * 2**20


def run(
    jobs: Sequence[Job],
    cache: FeatureCache,
    encoders: Mapping[str, TimelineEncoder | WindowEncoder],
    ledger: FailureLedger,
    summary: Summary,
    *,
    workers: int = 2,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
    decoders: VideoDecoders | None = None,
    watcher: Watcher | None = None,
    claims: Claims | None = None,
    first: FirstFailures | None = None,
) -> Summary:
    """Extract every job into the cache, together with other runs that do the same.

    Args:
        jobs, summary: from ``plan_jobs``; the summary is completed and returned.
        encoders: stream -> encoder, for every stream of any job.
        workers: videos decoded at once.
        max_queue_bytes: prepared frames that may wait for the encoders, over all workers.
        decoders: what decodes, if it was started already: processes of this machine, or tasks of a cluster.
        claims: on the cache; closed at the end.
        first: looks at the failures, where that is not for this run alone to do.

    Raises:
        RecipeMismatch: another run has begun to fill the cache by another recipe.
        SystemicFailure: all videos fail for one cause.
        CacheWriteError: disk full, store unreachable. What is complete stays complete.
    """
    watcher = watcher or Watcher()
    started = time.perf_counter()
    clock = {"waiting": 0.0, **{f"encode {stream}": 0.0 for stream in encoders}}
    recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
    claims = claims or open_claims(cache.url)
    shared = SharedJobs(jobs, cache, recipes, ledger, claims, summary, watcher)
    writes = WriteThread(cache.url)
    assemblies: dict[str, Assembly] = {}  # videos between their first frame and their completion marker
    # For as long as nothing has worked, failures may have one cause outside the videos.
    first = first or FirstFailures.after(shared.failures, bool(summary.skipped), workers)

    # ------------------------------------------------------------------ a video ends
    def complete(assembly: Assembly) -> None:
        name = assembly.job.video
        del assemblies[name]
        if name in shared.failures:
            ledger.resolve(name)
        if TEXT in assembly.job.streams:
            drop_replacement(cache, name)
        shared.finished(assembly.job)
        summary.done.append(name)
        first.works()
        summary.num_windows += assembly.num_windows
        if summary.captions is not None:
            summary.captions.add(name, assembly.captions)
        if assembly.info is not None:
            summary.num_frames += assembly.info.num_frames
            if assembly.info.missing_frames:
                summary.gaps[assembly.job.path] = assembly.info.missing_frames
            if assembly.info.truncated is not None:
                summary.truncated[assembly.job.path] = assembly.info.truncated
            if assembly.info.leading:
                summary.leading[assembly.job.path] = assembly.info.leading
        watcher.ended(assembly.job, None)

    def fail(assembly: Assembly, stage: str, error: str, message: str) -> None:
        name = assembly.job.video
        failure = failed_again(
            shared.failures.get(name), Failure(name, assembly.job.path, stage, error, message), assembly.job.file
        )
        forget(name)
        cache.abandon(name, assembly.job.streams)
        ledger.record(failure)
        shared.finished(assembly.job)
        summary.failed[name] = failure
        first.add(failure)
        watcher.ended(assembly.job, failure)

    def forget(name: str) -> None:
        for packer in packers.values():
            packer.forget(name)
        writes.drain()
        del assemblies[name]

    def settle() -> None:
        for assembly in list(assemblies.values()):
            if isinstance(assembly.error, ClaimLost):
                forget(assembly.job.video)  # what lies in the cache is the other run's
                shared.lost(assembly.job)
            elif assembly.error is not None:
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
    def encode(job: Job, events: Iterator[Event]) -> None:
        if job.changed:
            cache.drop(job.video, job.streams)
        assembly = assemblies[job.video] = Assembly(job, cache, writes, encoders, recipes, claims.holds)
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

    decode = DecodeAhead(cache.window, encoders, workers, max_queue_bytes, decoders=decoders)
    try:
        for claimed in shared.rounds():
            with closing(decode.run(claimed)) as videos:
                for job, events in videos:
                    if job.video in summary.suspects:
                        finish_pending()  # it may end the run; nothing else should wait for it
                    encode(job, events)
                    settle()
                    if first.alike:
                        finish_pending()  # a short video that works may still wait for a batch to fill
                        if first.alike:
                            first.check(shared.later)
            finish_pending()
        assert not assemblies, f"rows never came for {sorted(assemblies)}"
    except SystemicFailure:
        for failure in first.uncounted():
            ledger.record(failure)
        raise
    finally:
        writes.close()
        for name, assembly in list(assemblies.items()):
            with suppress(Exception):  # the store may be what failed; what stays behind is unmarked and will be redone
                if not isinstance(assembly.error, ClaimLost):
                    cache.abandon(name, assembly.job.streams)
        claims.close()

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


__all__ = ["MAX_QUEUE_BYTES", "Summary", "Watcher", "plan_jobs", "run"]
