"""Drafts to items on all cores: converting to RGB and resizing, which costs several times what decoding does.

Videos that are decoded by threads of one process share one pool, which serves the earliest video first; a decoder
process has a pool of its own and waits for its turn (extract/decode/turns.py).
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from extract.decode.sampling import Draft, Item

MAX_THREADS = 16  # beyond, the copies that hold Python's lock leave nothing to gain

Event = TypeVar("Event")
Result = Future[list[Item]]


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class PreparePool:
    """Threads that prepare drafts, lowest rank first, and within a rank in the order of submission.

    Args:
        wait_for_turn: asked before each draft, by one thread at a time; returns when the pool may work.
        tell: told how many drafts wait, whenever that changes.

    Attributes:
        threads: how many; they are started by the first draft.
        seconds: seconds spent preparing, summed over threads.
    """

    def __init__(
        self,
        threads: int,
        wait_for_turn: Callable[[], None] = lambda: None,
        tell: Callable[[int], None] = lambda waiting: None,
    ) -> None:
        self.threads, self.seconds = threads, 0.0
        self._wait_for_turn, self._tell, self._turn = wait_for_turn, tell, threading.Lock()
        self._running: list[threading.Thread] = []
        self._drafts: list[tuple[int, int, Result, Draft]] = []  # a heap
        self._count, self._closed = 0, False
        self._changed = threading.Condition()

    def submit(self, rank: int, draft: Draft) -> Result:
        """Queue one draft; cancel the future to give it up."""
        future: Result = Future()
        with self._changed:
            self._count += 1
            heapq.heappush(self._drafts, (rank, self._count, future, draft))
            self._tell(len(self._drafts))
            self._changed.notify()
            if not self._running:
                self._running = [
                    threading.Thread(target=self._work, name="decode-prepare") for _ in range(self.threads)
                ]
                for thread in self._running:
                    thread.start()
        return future

    def close(self) -> None:
        """Give up what is queued, wait for what is being prepared."""
        with self._changed:
            self._closed = True
            for _, _, future, _ in self._drafts:
                future.cancel()
            self._drafts.clear()
            self._changed.notify_all()
        for thread in self._running:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._turn:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or bool(self._drafts))
                self._wait_for_turn()
                with self._changed:
                    if self._closed:
                        return
                    _, _, future, draft = heapq.heappop(self._drafts)
                    self._tell(len(self._drafts))
            if not future.set_running_or_notify_cancel():
                continue
            started = time.perf_counter()
            try:
                future.set_result(draft.items())
            except BaseException as error:
                future.set_exception(error)
            with self._changed:
                self.seconds += time.perf_counter() - started
            del future, draft  # a thread that waits must not keep a picture alive


class InOrder(Generic[Event]):
    """The events of one video with its drafts prepared, in order, while the pool works on the next ones.

    Args:
        pool: who prepares.
        rank: of this video.

    Attributes:
        waited_s: seconds spent waiting for the pool.
    """

    def __init__(self, pool: PreparePool, rank: int) -> None:
        self._pool, self._rank = pool, rank
        self._ahead = 4 * pool.threads  # drafts under way: enough that no thread idles while this one decodes
        self._waiting: deque[Event | Result] = deque()
        self._num_drafts = 0
        self.waited_s = 0.0

    def __call__(self, events: Iterable[Event | Draft]) -> Iterator[Event | Item]:
        """Items take the place of drafts. What preparing, or the events themselves, raise is raised in that place: what
        came before it is always handed out, so that it does not depend on timing."""
        failure: Exception | None = None
        source = iter(events)
        while True:
            try:
                event = next(source)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            self._add(event)
            del event
            while self._waiting and (self._num_drafts > self._ahead or self._is_ready(self._waiting[0])):
                yield from self._take()
        while self._waiting:
            yield from self._take()
        try:
            if failure is not None:
                raise failure
        finally:
            failure = None  # its traceback holds this frame, and this frame would hold it

    def _add(self, event: Event | Draft) -> None:
        if isinstance(event, Draft):
            self._waiting.append(self._pool.submit(self._rank, event))
            self._num_drafts += 1
        else:
            self._waiting.append(event)

    def give_up(self) -> None:
        """Nobody wants what is still under way."""
        for event in self._waiting:
            if isinstance(event, Future):
                event.cancel()
        self._waiting.clear()

    @staticmethod
    def _is_ready(event: Event | Result) -> bool:
        return not isinstance(event, Future) or event.done()

    def _take(self) -> Iterator[Event | Item]:
        event = self._waiting.popleft()
        if not isinstance(event, Future):
            yield event
            return
        self._num_drafts -= 1
        started = time.perf_counter()
        items = event.result()
        self.waited_s += time.perf_counter() - started
        yield from items
