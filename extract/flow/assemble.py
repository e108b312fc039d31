"""One video's rows on their way from the encoders to the cache.

Batches are packed across videos, so the rows of a video arrive in pieces, and its last rows may arrive while the next
videos are already being encoded. ``Assembly`` puts the pieces in order and knows when nothing is missing;
``WriteThread`` does the writing beside the encoders, bounded in what may wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extract.decode.ahead import Job
from extract.encoders.contract import Rows, TimelineEncoder, WindowEncoder, join_rows
from extract.faults.systemic import CacheWriteError
from extract.sharing.claims import ClaimLost
from shared.cache import CacheError, FeatureCache, VideoInfo
from shared.cache.arrays import StreamWriter
from shared.recipe import Recipe

MAX_WAITING_WRITES = 64


class WriteThread:
    """Runs writes in order in one thread. A write that fails for the data fails its video; any other ends the run."""

    def __init__(self, url: str = "") -> None:
        self._url = url  # of the cache, for messages
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._room = threading.BoundedSemaphore(MAX_WAITING_WRITES)
        self._fatal: BaseException | None = None
        self.seconds = 0.0

    def submit(self, assembly: Assembly, write: Callable[[], None]) -> None:
        """Queue one write; waits while too many are queued.

        Raises:
            CacheWriteError: an earlier write failed for a reason that is not the video's.
        """
        self._raise_fatal()
        self._room.acquire()
        self._pool.submit(self._run, assembly, write)

    def drain(self) -> None:
        """Wait until everything queued is written."""
        self._pool.submit(lambda: None).result()
        self._raise_fatal()

    def close(self) -> None:
        """Drop what is queued and stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, assembly: Assembly, write: Callable[[], None]) -> None:
        started = time.perf_counter()
        try:
            if assembly.error is None and self._fatal is None:
                write()
        except CacheError as error:
            assembly.error = error
        except BaseException as error:
            self._fatal = error
        finally:
            self.seconds += time.perf_counter() - started
            self._room.release()

    def _raise_fatal(self) -> None:
        if isinstance(self._fatal, OSError):
            reason = str(self._fatal.strerror or self._fatal).removeprefix(f"{self._url}/")
            raise CacheWriteError(f"the cache {self._url} cannot be written: {reason}") from self._fatal
        if self._fatal is not None:
            raise self._fatal


class Assembly:
    """Collects the rows of one video and writes them as they become final.

    Attributes:
        error: set when a value of this video was refused (not finite, float16 overflow, changed file), or when another
            run has taken it over.
        written: every row and the completion markers are on disk.
        num_windows: windows the video turned out to have, once it was closed.
        captions: captions of the rows written so far.
    """

    def __init__(
        self,
        job: Job,
        cache: FeatureCache,
        writes: WriteThread,
        encoders: Mapping[str, TimelineEncoder | WindowEncoder],
        recipes: Mapping[str, Recipe],
        holds: Callable[[str], bool] = lambda video: True,
    ) -> None:
        self._holds = holds  # whether a video is still this run's
        self.job = job
        self.error: CacheError | None = None
        self.written = False
        self.num_windows = 0
        self.captions: list[str] = []
        self._cache, self._writes = cache, writes
        self._missing = dict.fromkeys(job.streams, 0)
        self._rows: dict[str, list[tuple[int, Rows]]] = {s: [] for s in job.streams}  # one row each, not yet final
        self._recipes = recipes
        self._kinds = {s: encoders[s].kind for s in job.streams}
        self._writers: dict[str, StreamWriter] = {}

    def expect(self, stream: str, count: int = 1) -> None:
        """A row of this stream is on its way."""
        self._missing[stream] += count

    @property
    def is_whole(self) -> bool:
        """Whether every row that was announced has come."""
        return not any(self._missing.values())

    def add_windows(self, stream: str, features: np.ndarray) -> None:
        """Rows of a window stream: float32 (n, T, D)."""
        self._missing[stream] -= len(features)
        self._write(stream, Rows(features), None)

    def add_frames(self, stream: str, frames: np.ndarray, rows: Rows) -> None:
        """Rows of a timeline stream: int32 (n,) and n rows."""
        self._missing[stream] -= len(frames)
        self._rows[stream] += [(frame, rows.part(i, i + 1)) for i, frame in enumerate(frames.tolist())]
        # Windows start ever later, so nothing more than a window behind the newest frame can still arrive. Only the
        # tail window, off the stride's grid, falls back among the frames already there.
        self._write_frames(stream, before=int(frames.max()) - self._cache.window.size)

    def close(self, info: VideoInfo) -> None:
        """Write what is left and the markers, now that every row is there and the video was read to its end."""
        self.num_windows = len(self._cache.window.starts(info.num_frames))
        for stream, kind in self._kinds.items():
            if kind == "timeline":
                self._write_frames(stream, before=None)

        def mark() -> None:
            self._check_claim()
            self._cache.write_info(self.job.video, info)
            for stream in self.job.streams:
                self._writers[stream].finish()
            self._check_claim()
            self.written = True

        self._writes.submit(self, mark)

    def _write_frames(self, stream: str, before: int | None) -> None:
        rows = sorted(self._rows[stream], key=lambda row: row[0])
        count = sum(before is None or row[0] < before for row in rows)
        ready, self._rows[stream] = rows[:count], rows[count:]
        if ready:
            frames = np.array([r[0] for r in ready], dtype=np.int32)
            self._write(stream, join_rows([r[1] for r in ready]), frames)

    def _write(self, stream: str, rows: Rows, frames: np.ndarray | None) -> None:
        self.captions += rows.captions or ()

        def append() -> None:
            if stream not in self._writers:
                self._writers[stream] = self._cache.writer(
                    self.job.video, stream, kind=self._kinds[stream], recipe=self._recipes[stream]
                )
            self._writers[stream].append(rows.features, frames, rows.captions, rows.thumbnails)

        self._writes.submit(self, append)

    def _check_claim(self) -> None:
        if not self._holds(self.job.video):
            raise ClaimLost(f"{self.job.video}: another run has taken it over")
