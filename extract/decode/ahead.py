"""Decode workers: each reads one video ahead of the encoders into a queue bounded in bytes.

The encoders take videos strictly in order, so that batches do not depend on timing; while they work on one video, the
workers already decode the next ones. Every worker has a process that decodes for it (extract/decode/decoders.py), so
that a video which crashes or hangs the decoder is the end of that process only. A full queue is not read into any more;
the process then waits in its turn. A video on an object store is copied first (extract/decode/fetching.py).

Encoders whose ``prepare`` cannot be sent to another process have their videos decoded by threads of this one. Both ways
give the same events. Large frames are converted and resized by a pool of threads, per process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from extract.decode.child import PreparingHalf
from extract.decode.decoders import TIMEOUT_S, Decoders, VideoDecoders, finished, portable
from extract.decode.events import Event, Failed, Finished, Job, Opened, Read, Stopped
from extract.decode.fetching import Copies
from extract.decode.one_video import failure, video_events
from extract.decode.preparing import MAX_THREADS, InOrder, PreparePool, num_cores
from extract.encoders.contract import TimelineEncoder, WindowEncoder
from extract.video import VideoError
from shared.windows import WindowSpec


class ByteQueue:
    """A queue bounded by the bytes of its waiting events; an event larger than the bound passes alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max, self._held = max_bytes, 0
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: Exception | None = None

    def put(self, event: Event) -> None:
        """Wait for room, and add the event; raises ``Stopped`` after ``close``."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + event.nbytes <= self._max)
            self.check()
            self._events.append(event)
            self._held += event.nbytes
            self._changed.notify_all()

    def get(self) -> Event:
        """Wait for an event; raises ``Stopped`` after ``close``, and what ``fail`` was told after the last event."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._events) or self._failure is not None)
            self.check()
            if not self._events:
                assert self._failure is not None
                raise self._failure
            event = self._events.popleft()
            self._held -= event.nbytes
            self._changed.notify_all()
            return event

    def fail(self, error: Exception) -> None:
        """Nothing more will come, and no video is to blame."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

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

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Around a thread that fills it: what is wrong with the video is the last event, anything else ends the run."""
        try:
            yield
        except Stopped:  # nobody wants the rest
            return
        except VideoError as error:
            with suppress(Stopped):
                self.put(failure(error))
        except Exception as error:
            self.fail(error)

    def until_end(self) -> Iterator[Event]:
        """All events up to the one that ends a video."""
        while True:
            event = self.get()
            yield event
            if isinstance(event, Finished | Failed):
                return


class DecodeAhead:
    """Decodes jobs in order, ``workers`` at a time, each into its own bounded queue.

    Args:
        timeout_s: seconds without a sign of life after which a decoder process is given up.
        decoders: processes to use, with a time-out of their own, which whoever made them closes. Without them each
            ``run`` starts and ends its own.
        processes: False to decode in threads of this process, where a decoder that crashes takes everything with it.
            So it is in any case if an encoder has no ``preparation`` that can be sent.

    Attributes:
        seconds: seconds spent decoding and resizing, summed over threads.
    """

    def __init__(
        self,
        spec: WindowSpec,
        encoders: Mapping[str, TimelineEncoder | WindowEncoder],
        workers: int,
        max_bytes: int,
        *,
        timeout_s: float = TIMEOUT_S,
        decoders: VideoDecoders | None = None,
        processes: bool = True,
    ) -> None:
        self._spec, self._encoders, self._workers = spec, encoders, workers
        self._share = max(1, max_bytes // (workers + 1))  # the video being read, and those decoded ahead
        self._halves = portable(encoders) if processes else None
        self._timeout_s, self._decoders = timeout_s, decoders
        self._copies = Copies()
        self._lock = threading.Lock()
        self.seconds = 0.0

    def run(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Iterator[Event]], None, None]:
        """Yield every job with its events; the last event of a job is ``Finished`` or ``Failed``.

        Asking for the next job ends the reading of the one before. Close the generator (``contextlib.closing``) when
        leaving early: it stops the workers within a frame.

        Raises:
            DecoderStartError: decoder processes do not come up.
        """
        queues: deque[tuple[int, Job, ByteQueue]] = deque()
        readers = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        pool = PreparePool(min(num_cores(), MAX_THREADS))
        decoders = self._decoders or Decoders(self._workers, self._timeout_s)
        try:
            for number, job in enumerate(jobs):
                queues.append((number, job, ByteQueue(self._share)))
                if self._halves is not None:
                    readers.submit(self._read, *queues[-1], decoders, self._halves)
                else:
                    readers.submit(self._decode, *queues[-1], pool)
                if len(queues) > self._workers:
                    yield from self._hand_out(queues, decoders)
            while queues:
                yield from self._hand_out(queues, decoders)
        finally:
            for *_, events in queues:
                events.close()
            decoders.stop()
            if self._decoders is None:
                decoders.close()
            readers.shutdown(wait=True, cancel_futures=True)
            self._copies.close()
            pool.close()
            self.seconds += pool.seconds

    @staticmethod
    def _hand_out(
        queues: deque[tuple[int, Job, ByteQueue]], decoders: VideoDecoders
    ) -> Iterator[tuple[Job, Iterator[Event]]]:
        number, job, events = queues[0]  # stays there while it is read, so that it is closed whatever happens
        decoders.wait_for(number)
        yield job, events.until_end()
        queues.popleft()
        events.close()

    def _read(
        self, number: int, job: Job, events: ByteQueue, decoders: VideoDecoders, halves: Mapping[str, PreparingHalf]
    ) -> None:
        """Have a job decoded by another process."""
        with events.filled():
            with nullcontext(job) if decoders.fetches else self._copies.of(job, events.check) as here:
                seconds = decoders.decode(number, here, self._spec, halves, events.put, events.check)
            with self._lock:
                self.seconds += seconds

    def _decode(self, number: int, job: Job, events: ByteQueue, pool: PreparePool) -> None:
        """Decode a job in this thread."""
        started, waited, in_order = time.perf_counter(), 0.0, InOrder[Any](pool, number)

        def progress(frames: int) -> None:
            events.check()

        try:
            with self._copies.of(job, events.check) as here:
                for event in in_order(video_events(here, self._spec, self._encoders, progress)):
                    before = time.perf_counter()
                    events.put(finished(event) if isinstance(event, Read) else event)
                    waited += time.perf_counter() - before
        except Stopped:
            pass
        except Exception as error:  # whatever a hostile file provokes takes down this video only
            with suppress(Stopped):
                events.put(failure(error))
        finally:
            in_order.give_up()
            with self._lock:
                self.seconds += time.perf_counter() - started - waited - in_order.waited_s


__all__ = ["ByteQueue", "DecodeAhead", "Decoders", "Event", "Failed", "Finished", "Job", "Opened", "Stopped"]
