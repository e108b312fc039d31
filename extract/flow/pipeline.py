"""Stage 1, top to bottom: decode -> encode -> write.

Decode workers run ahead (extract/decode/ahead.py), this thread packs full batches (packing.py) and feeds the encoders,
one writer thread fills the cache (assemble.py). Every video goes through the states of life.py and ends in one of three
ways (endings.py). It counts when its last marker is on disk; whatever happens before leaves nothing that a reader would
see. Several such runs share one cache (extract/sharing/shared_jobs.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress

import numpy as np

from extract.decode.ahead import DecodeAhead, Event, Failed, Finished, Job, Opened
from extract.decode.decoders import VideoDecoders
from extract.decode.sampling import Item, Window
from extract.encoders.contract import Rows, TimelineEncoder, WindowEncoder
from extract.faults.ledger import FailureLedger
from extract.faults.systemic import FirstFailures, SystemicFailure
from extract.flow.assemble import Assembly, WriteThread
from extract.flow.endings import Endings
from extract.flow.life import ENDS, Life, State, Step
from extract.flow.packing import TimelinePacker, WindowPacker
from extract.jobs.summary import Summary
from extract.sharing.claims import Claims
from extract.sharing.locks import open_claims
from extract.sharing.shared_jobs import SharedJobs
from extract.watcher import Watcher
from shared.cache import FeatureCache

MAX_QUEUE_BYTES = 512 * 2**20
Encoders = Mapping[str, TimelineEncoder | WindowEncoder]


def run(
    jobs: Sequence[Job],
    cache: FeatureCache,
    encoders: Encoders,
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
    started, watcher = time.perf_counter(), watcher or Watcher()
    recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
    claims = claims or open_claims(cache.url)
    shared = SharedJobs(jobs, cache, recipes, ledger, claims, summary, watcher)
    # For as long as nothing has worked, failures may have one cause outside the videos.
    first = first or FirstFailures.after(shared.failures, bool(summary.skipped), workers)
    flow = Flow(cache, encoders, claims, Endings(cache, ledger, summary, shared, first, watcher))
    decode = DecodeAhead(cache.window, encoders, workers, max_queue_bytes, decoders=decoders)
    try:
        for claimed in shared.rounds():
            with closing(decode.run(claimed)) as videos:
                for job, events in videos:
                    if job.video in summary.suspects:
                        flow.finish()  # it may end the run; nothing else should wait for it
                    flow.take(job, events)
                    if first.alike:
                        flow.finish()  # a short video that works may still wait for a batch to fill
                        if first.alike:
                            first.check(shared.later)
            flow.finish()
        assert not flow.lives, f"rows never came for {sorted(flow.lives)}"
    except SystemicFailure:
        for failure in first.uncounted():
            ledger.record(failure)
        raise
    finally:
        flow.close()
        claims.close()
    summary.seconds = {"decode": decode.seconds, **flow.seconds}
    summary.wall_s = time.perf_counter() - started
    return summary


class Flow:
    """The videos of a run between their claim and their end, and the batches in which their frames lie together.

    Attributes:
        lives: video -> where it is; in the order in which they were taken.
    """

    def __init__(self, cache: FeatureCache, encoders: Encoders, claims: Claims, endings: Endings) -> None:
        self.lives: dict[str, Life] = {}
        self._cache, self._encoders, self._claims, self._endings = cache, encoders, claims, endings
        self._recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
        self._writes = WriteThread(cache.url)
        self._clock = {"waiting": 0.0, **{f"encode {stream}": 0.0 for stream in encoders}}
        self._packers = {stream: self._packer(stream) for stream in encoders}

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> wall seconds in which it was at work."""
        return {**self._clock, "write": self._writes.seconds}

    def take(self, job: Job, events: Iterator[Event]) -> None:
        """A video from its first event to its last; then whatever has ended meanwhile ends."""
        if job.changed:
            self._cache.drop(job.video, job.streams)
        rows = Assembly(job, self._cache, self._writes, self._encoders, self._recipes, self._claims.holds)
        life = self.lives[job.video] = Life(job, rows)
        for event in self._timed(events):
            match event:
                case Opened():
                    life.step(Step.OPENED)
                    self._endings.watcher.opened(job, event.promised_frames)
                case Failed():
                    life.broke(event.stage, event.error, event.message)
                    self._end(life)
                case Finished():
                    for packer in self._packers.values():
                        packer.close(job.video)
                    life.read(event.info)
                case _:
                    self._encode(life, event)
        self._settle()

    def finish(self) -> None:
        """Encode what waits for company, write what there is, and let every video end that can."""
        for stream, packer in self._packers.items():
            with self._timing(f"encode {stream}"):
                packer.flush()
        self._writes.drain()
        self._settle()

    def close(self) -> None:
        """Stop. What is under way leaves nothing behind, unless another run has taken it over."""
        self._writes.close()
        for video, life in self.lives.items():
            with suppress(Exception):  # the store may be what failed; what stays behind is unmarked and will be redone
                if life.look() is not State.LOST:
                    self._cache.abandon(video, life.job.streams)

    def _encode(self, life: Life, event: Item | Window) -> None:
        packer = self._packers[event.stream]
        with self._timing(f"encode {event.stream}"):
            if packer.yields_row(event):
                life.rows.expect(event.stream)
            packer.add(life.job.video, event)  # type: ignore[arg-type]
        if isinstance(event, Item):
            self._endings.watcher.reached(life.job, event.frame)

    def _settle(self) -> None:
        for life in list(self.lives.values()):
            if life.look() in ENDS:
                self._end(life)

    def _end(self, life: Life) -> None:
        if life.state is not State.COMPLETE:
            for packer in self._packers.values():
                packer.forget(life.job.video)
            self._writes.drain()
        del self.lives[life.job.video]
        self._endings.tell(life)

    def _packer(self, stream: str) -> TimelinePacker | WindowPacker:
        encoder = self._encoders[stream]

        def windows(video: str, features: np.ndarray) -> None:
            self.lives[video].rows.add_windows(stream, features)
            self.lives[video].came()

        def frames(video: str, numbers: np.ndarray, rows: Rows) -> None:
            self.lives[video].rows.add_frames(stream, numbers, rows)
            self.lives[video].came()

        if encoder.kind == "window":
            return WindowPacker(encoder, windows, self._cache.window.size)  # type: ignore[arg-type]
        return TimelinePacker(encoder, frames)  # type: ignore[arg-type]

    def _timed(self, events: Iterator[Event]) -> Iterator[Event]:
        while True:
            with self._timing("waiting"):
                event = next(events, None)
            if event is None:
                return
            yield event

    @contextmanager
    def _timing(self, what: str) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._clock[what] += time.perf_counter() - before


__all__ = ["MAX_QUEUE_BYTES", "run"]
