"""Decode workers: each reads one video ahead of the encoders into a queue bounded in bytes.

The encoders take videos strictly in order, so that batches do not depend on timing; while they work on one video, the
workers already decode the next ones. Large frames are converted and resized by a pool of threads that all videos share
and that serves the earliest video first, so that one long video keeps every core busy.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.encoders.contract import TimelineEncoder, WindowEncoder
from extract.preparing import MAX_THREADS, InOrder, PreparePool, num_cores
from extract.sampling import Draft, Item, Window, draft_video
from extract.video import DecodedFrame, OpenVideo, VideoError, open_video, read_source
from shared.cache import VideoInfo
from shared.windows import WindowSpec

# Frames below this many pixels are resized sooner than handed to another thread.
MIN_POOLED_PIXELS = 320 * 240


@dataclass(frozen=True)
class Job:
    """One video to decode, and for which streams.

    Attributes:
        changed: the file is not the one that the cached streams were made from; they are void.
    """

    video: str
    path: str
    file: Path
    fps: float | None
    streams: tuple[str, ...]
    changed: bool = False


@dataclass(frozen=True)
class Opened:
    """The video could be opened."""

    promised_frames: int
    nbytes: int = 0


@dataclass(frozen=True)
class Finished:
    """The video was read to its end."""

    info: VideoInfo
    nbytes: int = 0


@dataclass(frozen=True)
class Failed:
    """The video cannot be used; everything already emitted of it is void."""

    stage: str
    error: str
    message: str
    nbytes: int = 0


Event = Opened | Item | Window | Finished | Failed


class Stopped(Exception):
    """Nobody reads these events any more."""


class ByteQueue:
    """A queue bounded by the bytes of its waiting events; an event larger than the bound passes alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max, self._held = max_bytes, 0
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, event: Event) -> None:
        """Wait for room, and add the event; raises ``Stopped`` after ``close``."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + event.nbytes <= self._max)
            self.check()
            self._events.append(event)
            self._held += event.nbytes
            self._changed.notify_all()

    def get(self) -> Event:
        """Wait for an event; raises ``Stopped`` after ``close``."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._events))
            self.check()
            event = self._events.popleft()
            self._held -= event.nbytes
            self._changed.notify_all()
            return event

    def check(self) -> None:
        """Raises ``Stopped`` after ``close``; for writers that have much to do before they put anything."""
        if self._closed:
            raise Stopped

    def close(self) -> None:
        """No more reading: drop what waits, wake up whoever waits."""
        with self._changed:
            self._closed = True
            self._events.clear()
            self._changed.notify_all()

    def until_end(self) -> Iterator[Event]:
        """All events up to the one that ends a video."""
        while True:
            event = self.get()
            yield event
            if isinstance(event, Finished | Failed):
                return


class DecodeAhead:
    """Decodes jobs in order, ``workers`` at a time, each into its own bounded queue.

    Attributes:
        seconds: seconds spent decoding and resizing, summed over threads.
    """

    def __init__(
        self,
        spec: WindowSpec,
        encoders: Mapping[str, TimelineEncoder | WindowEncoder],
        workers: int,
        max_bytes: int,
    ) -> None:
        self._spec, self._encoders, self._workers = spec, encoders, workers
        self._share = max(1, max_bytes // (workers + 1))  # the video being read, and those decoded ahead
        self._lock = threading.Lock()
        self.seconds = 0.0

    def run(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Iterator[Event]], None, None]:
        """Yield every job with its events; the last event of a job is ``Finished`` or ``Failed``.

        Asking for the next job ends the reading of the one before. Close the generator (``contextlib.closing``) when
        leaving early: it stops the workers within a frame.
        """
        queues: deque[tuple[Job, ByteQueue]] = deque()
        readers = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        pool = PreparePool(min(num_cores(), MAX_THREADS))
        try:
            for number, job in enumerate(jobs):
                queues.append((job, ByteQueue(self._share)))
                readers.submit(self._decode, *queues[-1], InOrder(pool, number))
                if len(queues) > self._workers:
                    yield from self._hand_out(queues)
            while queues:
                yield from self._hand_out(queues)
        finally:
            for _, events in queues:
                events.close()
            readers.shutdown(wait=True, cancel_futures=True)
            pool.close()
            self.seconds += pool.seconds

    @staticmethod
    def _hand_out(queues: deque[tuple[Job, ByteQueue]]) -> Iterator[tuple[Job, Iterator[Event]]]:
        job, events = queues[0]  # stays there while it is read, so that it is closed whatever happens
        yield job, events.until_end()
        queues.popleft()
        events.close()

    def _decode(self, job: Job, events: ByteQueue, in_order: InOrder[Event]) -> None:
        started, waited = time.perf_counter(), 0.0
        try:
            for event in in_order(self._events(job, events.check)):
                before = time.perf_counter()
                events.put(event)
                waited += time.perf_counter() - before
        except Stopped:
            pass
        except Exception as error:  # whatever a hostile file provokes takes down this video only
            stage = error.stage if isinstance(error, VideoError) else "decode"
            with suppress(Stopped):
                events.put(Failed(stage, type(error).__name__, str(error) or repr(error)))
        finally:
            in_order.give_up()
            with self._lock:
                self.seconds += time.perf_counter() - started - waited - in_order.waited_s

    def _events(self, job: Job, check: Callable[[], None]) -> Iterator[Event | Draft]:
        source = read_source(job.file, check)
        encoders = {s: self._encoders[s] for s in job.streams}
        times: list[float] = []

        def note(frame: DecodedFrame) -> None:
            check()
            times.append(frame.pts_s)

        with open_video(job.file, job.fps) as video:
            yield Opened(video.promised_frames)
            for event in draft_video(video.frames, self._spec, encoders, note):
                if isinstance(event, Draft) and video.width * video.height < MIN_POOLED_PIXELS:
                    yield from event.items()
                else:
                    yield event
            yield Finished(_info(job, video, times, source))


def _info(job: Job, video: OpenVideo, times: list[float], source: Mapping[str, Any]) -> VideoInfo:
    return VideoInfo(
        source={"path": job.path, **source},
        fps=round(video.fps, 6),
        num_frames=len(times),
        width=video.width,
        height=video.height,
        rotation=video.rotation,
        decoder=video.decoder,
        pts=np.array(times, dtype=np.float64),
        missing_frames=video.missing_frames,
    )


__all__ = ["ByteQueue", "DecodeAhead", "Event", "Failed", "Finished", "Job", "Opened", "Stopped"]
