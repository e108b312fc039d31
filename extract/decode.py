"""Decode workers: each reads one video ahead of the encoders into a queue bounded in bytes.

The encoders take videos strictly in order, so that batches do not depend on timing; while they work on one video, the
workers already decode the next ones.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from extract.encoders.contract import TimelineEncoder, WindowEncoder
from extract.plan import Item, Window, sample_video
from extract.video import DecodedFrame, OpenVideo, VideoError, open_video, source_digest
from shared.cache import VideoInfo
from shared.windows import WindowSpec


@dataclass(frozen=True)
class Job:
    """One video to decode, and for which streams."""

    video: str
    path: str
    file: Path
    fps: float | None
    streams: tuple[str, ...]


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


class ByteQueue:
    """A queue bounded by the bytes of its waiting events; an event larger than the bound passes alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max, self._held = max_bytes, 0
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, event: Event) -> bool:
        """Wait for room. False if nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + event.nbytes <= self._max)
            if self._closed:
                return False
            self._events.append(event)
            self._held += event.nbytes
            self._changed.notify_all()
            return True

    def get(self) -> Event:
        """Wait for an event."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._events))
            event = self._events.popleft()
            self._held -= event.nbytes
            self._changed.notify_all()
            return event

    def close(self) -> None:
        """No more reading: writers give up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass
class DecodeClock:
    """Seconds that decode workers spent working, and frames they decoded, summed over workers."""

    seconds: float = 0.0
    frames: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, seconds: float, frames: int) -> None:
        with self.lock:
            self.seconds += seconds
            self.frames += frames


class DecodeAhead:
    """Decodes jobs in order, ``workers`` at a time, each into its own bounded queue."""

    def __init__(
        self,
        spec: WindowSpec,
        encoders: Mapping[str, TimelineEncoder | WindowEncoder],
        workers: int,
        max_bytes: int,
    ) -> None:
        self._spec, self._encoders = spec, encoders
        self._workers, self._share = workers, max(1, max_bytes // workers)
        self.clock = DecodeClock()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Iterator[Event]]]:
        """Yield every job with its events; the last event of a job is ``Finished`` or ``Failed``."""
        ahead: deque[tuple[Job, ByteQueue]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="decode") as pool:
            try:
                for job in jobs:
                    events = ByteQueue(self._share)
                    pool.submit(self._decode, job, events)
                    ahead.append((job, events))
                    if len(ahead) >= self._workers + 1:
                        yield self._drain(*ahead.popleft())
                while ahead:
                    yield self._drain(*ahead.popleft())
            finally:
                for _, events in ahead:
                    events.close()
                pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _drain(job: Job, events: ByteQueue) -> tuple[Job, Iterator[Event]]:
        def read() -> Iterator[Event]:
            try:
                while True:
                    event = events.get()
                    yield event
                    if isinstance(event, Finished | Failed):
                        return
            finally:
                events.close()

        return job, read()

    def _decode(self, job: Job, events: ByteQueue) -> None:
        started, waited, count = time.perf_counter(), 0.0, [0]
        try:
            for event in self._events(job, count):
                before = time.perf_counter()
                if not events.put(event):
                    return
                waited += time.perf_counter() - before
        except VideoError as error:
            events.put(Failed(error.stage, "VideoError", str(error)))
        except Exception as error:  # whatever a hostile file provokes takes down this video only
            events.put(Failed("decode", type(error).__name__, str(error) or repr(error)))
        finally:
            self.clock.add(time.perf_counter() - started - waited, count[0])

    def _events(self, job: Job, count: list[int]) -> Iterator[Event]:
        size, sha256 = _digest(job.file)
        encoders = {s: self._encoders[s] for s in job.streams}
        times: list[float] = []

        def note(frame: DecodedFrame) -> None:
            times.append(frame.pts_s)
            count[0] += 1

        with open_video(job.file, job.fps) as video:
            yield Opened(video.promised_frames)
            yield from sample_video(video.frames, self._spec, encoders, note)
            yield Finished(_info(job, video, times, size, sha256))


def _digest(file: Path) -> tuple[int, str]:
    try:
        return source_digest(file)
    except OSError as error:
        raise VideoError("open", f"cannot be read: {error.strerror or error}") from None


def _info(job: Job, video: OpenVideo, times: list[float], size: int, sha256: str) -> VideoInfo:
    return VideoInfo(
        source={"path": job.path, "bytes": size, "sha256": sha256},
        fps=round(video.fps, 6),
        num_frames=len(times),
        width=video.width,
        height=video.height,
        rotation=video.rotation,
        decoder=video.decoder,
        pts=np.array(times, dtype=np.float64),
        missing_frames=video.missing_frames,
    )


__all__ = ["ByteQueue", "DecodeAhead", "Event", "Failed", "Finished", "Job", "Opened"]
