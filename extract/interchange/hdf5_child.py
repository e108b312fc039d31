"""The process that reads an HDF5 file made by others, and answers what is asked of it until nobody asks any more.

Started by extract/interchange/hdf5_file.py. HDF5 may crash over a damaged file, take all memory, or turn in a circle
that no signal but SIGKILL ends: here that is the end of this process. What it sends is JSON and the bytes of numbers,
never pickle: who asked looks at it as at the file itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from extract.child_process import GIB, bound_memory, memory_peak, receive_bytes, send_bytes
from extract.interchange import hdf5_reading as reading
from extract.interchange.hdf5_layout import FeatureFileError

PART_BYTES = 2**20  # of words that are sent together
END = b"null"


def main(handle: int, memory_bytes: int, timeout_s: float) -> None:
    """Serve a socket until its other end is closed.

    Args:
        handle: file descriptor of the socket.
        memory_bytes: that the process may take beyond what it has when it begins.
        timeout_s: the longest that it may be silent while it works.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    bound_memory(memory_bytes)

    def bound_time(given_s: float) -> None:
        # By the system: no thread of Python's runs while HDF5 turns in a circle, and nobody else may be left to end it.
        signal.setitimer(signal.ITIMER_REAL, given_s)

    link = socket.socket(fileno=handle)
    serve(link, memory_bytes, timeout_s, bound_time)
    os._exit(0)  # without closing the file, over which HDF5 may hang as well


def serve(
    link: socket.socket, memory_bytes: int, timeout_s: float, bound_time: Callable[[float], None] = lambda given_s: None
) -> None:
    """Answer until nobody is there; ``bound_time`` is told how long the next part of an answer may take, or 0."""
    answers = Answers(memory_bytes, min(1.0, timeout_s / 4))
    with link, suppress(EOFError, OSError):
        send_bytes(link, END)  # it is up
        while True:
            what, *arguments = json.loads(receive_bytes(link))
            parts, words = answers.parts(what, arguments), b""
            while words != END:
                bound_time(2 * timeout_s)  # whoever asked is the first to lose patience, and can say so
                words, block = next(parts)
                bound_time(0)
                send_bytes(link, words)
                if block is not None:
                    link.sendall(block.data.cast("B"))


class Answers:
    """What can be asked. Places are the names on the way to them; every answer is a generator.

    Args:
        memory_bytes: that the process may take, for the words of an error.
        alive_s: the longest that words are gathered before they are sent.
    """

    def __init__(self, memory_bytes: int, alive_s: float) -> None:
        self._memory_bytes, self._alive_s = memory_bytes, alive_s
        self._before = memory_peak()
        self._opened = ExitStack()
        self._place = ""
        self._group = lru_cache(maxsize=8)(self._group_at)

    def parts(self, what: str, arguments: list[Any]) -> Iterator[tuple[bytes, np.ndarray | None]]:
        """An answer as it is sent: lists of words, blocks of numbers with their number of rows, and an end."""
        words: list[str] = []
        size, began = 0, time.monotonic()
        try:
            for item in getattr(self, what)(*arguments):
                if isinstance(item, np.ndarray):
                    yield json.dumps({"rows": len(item)}).encode(), np.ascontiguousarray(item)
                    continue
                words.append(json.dumps(item))
                size += len(words[-1])
                if size > PART_BYTES or time.monotonic() - began > self._alive_s:
                    yield f"[{','.join(words)}]".encode(), None
                    words, size, began = [], 0, time.monotonic()
            yield f"[{','.join(words)}]".encode(), None
        except Exception as error:  # whatever a hostile file provokes
            yield json.dumps({"problem": self._problem(error)}).encode(), None
        yield END, None

    def _problem(self, error: Exception) -> str:
        said = str(error)
        if not isinstance(error, FeatureFileError):
            said = f"{self._place}: expected an HDF5 file, found one that is damaged ({error!r}); copy it again"
        # What HDF5 says does not tell: a buffer that is doubled until that fails is of more than a quarter by then.
        if (took := memory_peak() - self._before) > self._memory_bytes / 4:
            took_most = f"{took / GIB:.1f} of the {self._memory_bytes / GIB:.1f} GiB of memory"
            said += f"; it may want too much memory: the process that reads it took {took_most} that it may take"
        return said

    def open(self, place: str) -> Iterator[bool]:
        """Open a file, and close the one before."""
        self._group.cache_clear()
        self._opened.close()
        self._place = place
        self._file = self._opened.enter_context(reading.open_hdf5(Path(place)))
        yield True

    def is_export(self) -> Iterator[bool]:
        yield reading.is_export(self._file)

    def _group_at(self, place: tuple[str, ...]) -> h5py.Group:
        return reading.subgroup(self._group(place[:-1]), place[-1]) if place else self._file

    def is_group(self, place: list[str]) -> Iterator[bool]:
        *group, name = place
        yield isinstance(reading.member(self._group(tuple(group)), name), h5py.Group)

    def names(self, place: list[str]) -> Iterator[str]:
        yield from reading.names_in(self._group(tuple(place)))

    def attributes(self, place: list[str]) -> Iterator[tuple[str, bool | int | float | str]]:
        yield from reading.attributes(self._group(tuple(place)))

    def numbers(self, place: list[str], kinds: str, num_axes: list[int]) -> Iterator[tuple[str, list[int]]]:
        """Dtype and shape of a data set."""
        *group, name = place
        found = reading.numbers(self._group(tuple(group)), name, kinds=kinds, num_axes=tuple(num_axes))
        yield found.dtype.name, [int(n) for n in found.shape]

    def values(self, place: list[str], first: int, last: int) -> Iterator[np.ndarray]:
        """Rows of what ``numbers`` told of."""
        *group, name = place
        found = reading.member(self._group(tuple(group)), name)
        yield from reading.blocks(cast(h5py.Dataset, found), first, last)

    def texts(self, place: list[str]) -> Iterator[str]:
        *group, name = place
        yield from reading.texts(self._group(tuple(group)), name)
