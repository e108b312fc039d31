"""A decoder process: reads one video at a time and sends what ``video_events`` says, until nobody listens any more.

Started by extract/decode/process.py. FFmpeg and PIL read hostile files here, so that a crash, a hang or a lack of
memory is the end of this process and of one video. It imports no torch, jax or zarr: it starts in a fifth of a second.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, cast

from extract.child_process import GIB, SETUP_FAILED, bound_memory, receive_bytes
from extract.decode.events import Failed, Job, Read
from extract.decode.one_video import failure, video_events
from extract.decode.preparing import MAX_THREADS, InOrder, PreparePool, num_cores
from extract.decode.turns import LOOK_S, Turns
from extract.decode.wire import Alive, Message, Ready, Spent, send
from extract.preparation import Preparation
from shared.process.interrupts import leave_to_parent
from shared.windows import WindowSpec

THREAD_BYTES = 80 * 2**20  # address space of a thread: its stack, and what malloc sets aside for it


@dataclass(frozen=True)
class PreparingHalf:
    """What a decoder process needs of an encoder."""

    kind: str
    context: tuple[int, ...]
    prepare: Preparation


@dataclass(frozen=True)
class Work:
    """A video to decode and how.

    Attributes:
        window: fields of a ``WindowSpec``.
        number: of the video in its run; the earliest of all that are being read goes first.
        memory_bytes: that the process may take beyond what it has when it begins its first video.
        alive_s: the longest that it may be silent while it works.
    """

    job: Job
    window: Mapping[str, Any]
    encoders: Mapping[str, PreparingHalf]
    number: int
    memory_bytes: int
    alive_s: float


def main(handle: int, table: int, row: int, rows: int) -> None:
    """Serve a socket until its other end is closed, which ends the process at once.

    Args:
        handle: file descriptor of the socket.
        table: file descriptor of the ``Turns`` of ``rows`` processes, of which this one has ``row``.
    """
    leave_to_parent()
    link, works = socket.socket(fileno=handle), SimpleQueue[bytearray]()
    threading.Thread(target=_listen, args=(link, works), daemon=True).start()
    turns, number = Turns(rows, os.fdopen(table, "r+b")), 0

    def wait_for_turn() -> None:
        while turns.others_first(number):
            time.sleep(LOOK_S)

    def tell(waiting: int) -> None:
        turns.note(row, number, waiting)

    pool = PreparePool(min(num_cores(), MAX_THREADS), wait_for_turn, tell)
    bounded = False
    try:
        send(link, Ready())
        while True:
            given = works.get()
            work = pickle.loads(given) if bounded else _set_up(given, pool.threads)
            number, bounded = work.number, True
            _Reading(link, pool, work).run()
    except (_Gone, OSError):
        os._exit(0)


def _set_up(given: bytearray, threads: int) -> Work:
    """The first work; unpickling it imports what is missing. An error ends the process, and is no video's fault."""
    try:
        work: Work = pickle.loads(given)
        bound_memory(work.memory_bytes + (threads + 2) * THREAD_BYTES)
    except Exception:
        traceback.print_exc()  # the last words
        os._exit(SETUP_FAILED)
    return work


def _listen(link: socket.socket, works: SimpleQueue[bytearray]) -> None:
    """A thread of its own, so that the end of the parent is noticed in the middle of a decode."""
    try:
        while True:
            works.put(receive_bytes(link))
    except (EOFError, OSError):
        os._exit(0)


class _Reading:
    """One video being read."""

    def __init__(self, link: socket.socket, pool: PreparePool, work: Work) -> None:
        self._link, self._pool, self._work = link, pool, work
        self._sent_at = time.perf_counter()
        self._waited_s = 0.0

    def run(self) -> None:
        """Send everything, a ``Read`` or a ``Failed`` last; raises ``_Gone`` only."""
        started, prepared_s, exhausted = time.perf_counter(), self._pool.seconds, False
        in_order = InOrder[Any](self._pool, 0)
        work, encoders = self._work, cast(Mapping[str, Any], self._work.encoders)
        events = video_events(work.job, WindowSpec.from_dict(work.window), encoders, self._alive)
        end: Message | None = None
        try:
            for event in in_order(events):
                if isinstance(event, Read):
                    end = event
                else:
                    self._send(event)
        except _Gone:
            raise
        except Exception as error:  # whatever a hostile file provokes takes down this video only
            end = failed = failure(error)
            if exhausted := isinstance(error, MemoryError) or MemoryError.__name__ in failed.message:
                words = f"{failed.message}; a decoder may take {self._work.memory_bytes / GIB:.1f} GiB"
                end = Failed(failed.stage, failed.error, words)
        finally:
            in_order.give_up()
        assert end is not None
        busy_s = time.perf_counter() - started - self._waited_s - in_order.waited_s
        self._send(Spent(busy_s + self._pool.seconds - prepared_s, exhausted))
        self._send(end)

    def _alive(self, frames: int) -> None:
        # By whoever reads and decodes, not by a thread beside: that one would be alive while the decoder hangs.
        if time.perf_counter() - self._sent_at > self._work.alive_s:
            self._send(Alive(frames))

    def _send(self, message: Message) -> None:
        before = time.perf_counter()
        try:
            send(self._link, message)
        except OSError as error:
            raise _Gone from error
        self._sent_at = time.perf_counter()
        self._waited_s += self._sent_at - before


class _Gone(Exception):
    """Nobody listens; told from what a video may raise."""
