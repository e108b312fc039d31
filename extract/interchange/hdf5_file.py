"""An HDF5 file made by others, as seen from an import: a process of its own reads it, nothing here calls HDF5.

See extract/interchange/hdf5_child.py. What that sends is looked at as what the file says: any of it may be a lie.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from extract.child_process import GIB, LOOK_S, ChildProcess, Lost, fill, receive_bytes, usual_memory
from extract.interchange.hdf5_layout import FeatureFileError, decode_attributes

TIMEOUT_S = 60.0
MAX_PART_BYTES = 2**27  # a text of 16 MiB as JSON, and more
DTYPES = {"f": ("float16", "float32", "float64"), "iu": tuple(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64))}


class ReaderLost(ValueError):
    """The process that reads the file crashed, hung or was killed: nothing more can be had of the file."""


class ReaderProcess(ChildProcess):
    """A ``ChildProcess`` that runs extract/interchange/hdf5_child.py; raises as that."""

    who, doing = "reader", "reading of HDF5 files"

    def __init__(self, memory_bytes: int, timeout_s: float) -> None:
        super().__init__("extract.interchange.hdf5_child", numbers=(memory_bytes, timeout_s))


class ReaderThread(ReaderProcess):
    """The same where the system has no such processes: a thread of this one, which nothing bounds."""

    def __init__(self, memory_bytes: int, timeout_s: float) -> None:
        from extract.interchange.hdf5_child import serve

        self._link, theirs = socket.socketpair()
        self._link.settimeout(LOOK_S)
        threading.Thread(target=serve, args=(theirs, memory_bytes, timeout_s), daemon=True).start()

    def end(self) -> None:
        """Close our end, on which the thread ends."""
        self._link.close()


@contextmanager
def open_hdf5(place: Path, timeout_s: float = TIMEOUT_S, memory_bytes: int | None = None) -> Iterator[Group]:
    """The root of a file, open for reading.

    Args:
        timeout_s: the longest that the process which reads it may be silent while it is waited for.
        memory_bytes: that it may take; by default as one decoder.

    Raises:
        FeatureFileError: it is no HDF5 file, or damaged.
        ReaderLost: the library crashes or hangs over it; likewise of everything that is read from it.
        ChildStartError: the system starts no more processes.
    """
    memory_bytes = memory_bytes or usual_memory(1)
    reader = (ReaderProcess if os.name == "posix" else ReaderThread)(memory_bytes, timeout_s)
    file = _File(reader, place, timeout_s, memory_bytes)
    try:
        with file.explained():
            reader.wait_for_start(_part, timeout_s, lambda: None)
        file.ask_one(_is_bool, "open", str(place))
        yield Group(file, ())
    finally:
        reader.end()


@dataclass(frozen=True)
class _File:
    """The process that has it open."""

    reader: ChildProcess
    place: Path
    timeout_s: float
    memory_bytes: int

    def ask(self, fits: Callable[[Any], bool], *question: Any, room: np.ndarray | None = None) -> list[Any]:
        """The items of an answer.

        Args:
            fits: whether an item can be one.
            question: a method of ``hdf5_child.Answers`` and its arguments.
            room: for rows of numbers, all of which must come.
        """
        items: list[Any] = []
        problem, filled = "", 0

        def receive(link: socket.socket, waiting: Callable[[], None]) -> Any:
            part = _part(link, waiting, None if room is None else room[filled:])
            if isinstance(part, list) and not all(map(fits, part)):
                raise ValueError("not an answer")
            if part is None and room is not None and not problem and filled < len(room):
                raise ValueError(f"{filled} of {len(room)} rows")
            return part

        with self.explained():
            self.reader.send(json.dumps(question).encode())
            while (part := self.reader.listen(receive, self.timeout_s)) is not None:
                match part:
                    case list():
                        items += part
                    case str():
                        problem = part
                    case _:
                        filled += part
        if problem:
            raise FeatureFileError(problem)
        return items

    def ask_one(self, fits: Callable[[Any], bool], *question: Any) -> Any:
        """As ``ask``, of an answer of one item."""
        if len(items := self.ask(fits, *question)) != 1:
            raise ReaderLost(f"{self.place}: the reader process sent {len(items)} answers to one question; run again")
        return items[0]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the end of the process means for the user."""
        try:
            yield
        except Lost as lost:
            if lost.killed:
                why = ", which others send, or the system for want of memory; run the same command again"
            elif lost.error.endswith("Hung"):
                why = (
                    ". The HDF5 library hangs over a damaged file, or the disk is slow: copy or export the file again, "
                    f"or give it more time: --file-timeout {4 * self.timeout_s:g}"
                )
            else:
                why = ". The HDF5 library crashed over it: the file is damaged; copy or export it again"
            raise ReaderLost(f"{self.place}: {str(lost).replace('{}', '')}{why}") from None


@dataclass(frozen=True)
class Group:
    """A group of an open file. Everything that is asked of it raises ``FeatureFileError`` and ``ReaderLost``.

    Attributes:
        path: the names on the way to it.
    """

    _file: _File
    path: tuple[str, ...]

    @property
    def file(self) -> Path:
        """The file."""
        return self._file.place

    @property
    def where(self) -> str:
        """How messages call it."""
        return self.where_is()

    def where_is(self, *names: str) -> str:
        """How messages call what it holds."""
        return f"{self.file}: /{'/'.join((*self.path, *names))}"

    def is_export(self) -> bool:
        """Whether ``extract export`` wrote the file."""
        return bool(self._file.ask_one(_is_bool, "is_export"))

    def names(self) -> list[str]:
        """Of everything in it."""
        return self._file.ask(_is_text, "names", self.path)

    def attributes(self) -> dict[str, Any]:
        """As ``encode_attributes`` was given them."""
        found = self._file.ask(_is_attribute, "attributes", self.path)
        return decode_attributes(dict(found), self.where)

    def is_group(self, name: str) -> bool:
        """Whether it holds a group under this name, or else a data set."""
        return bool(self._file.ask_one(_is_bool, "is_group", (*self.path, name)))

    def group(self, name: str) -> Group:
        """A group in it; that it is one is seen when something is asked of it."""
        return Group(self._file, (*self.path, name))

    def numbers(self, name: str, *, kinds: str, num_axes: tuple[int, ...]) -> Numbers:
        """A data set of numbers that is all there.

        Args:
            kinds: kinds of dtype, as numpy's letters ("f" or "iu").
            num_axes: how many axes it may have.
        """
        path = (*self.path, name)
        fits = partial(_is_form, kinds, num_axes)
        dtype, shape = self._file.ask_one(fits, "numbers", path, kinds, num_axes)
        return Numbers(self._file, path, self.where_is(name), np.dtype(dtype), tuple(shape))

    def texts(self, name: str) -> np.ndarray:
        """A data set of variable-length texts: object (n,)."""
        return np.array(self._file.ask(_is_text, "texts", (*self.path, name)), dtype=object)


@dataclass(frozen=True)
class Numbers:
    """A data set of numbers; errors as of ``Group``."""

    _file: _File
    path: tuple[str, ...]
    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def values(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Rows first to last - 1, all by default."""
        last = len(self) if last is None else last
        shape = (last - first, *self.shape[1:])
        if (size := math.prod(shape) * self.dtype.itemsize) > self._file.memory_bytes:
            raise FeatureFileError(
                f"{self.where}: {size / GIB:.1f} GiB at once are more than the {self._file.memory_bytes / GIB:.1f} GiB "
                "that an import may take"
            )
        rows = np.empty(shape, self.dtype)
        self._file.ask(lambda item: False, "values", self.path, first, last, room=rows)
        return rows


def _part(
    link: socket.socket, waiting: Callable[[], None], room: np.ndarray | None = None
) -> list[Any] | str | int | None:
    """What is sent at once: items, a problem, the number of rows that now are in ``room``, or None, the end.

    Raises:
        ValueError: none of these.
    """
    try:
        part = json.loads(receive_bytes(link, waiting, MAX_PART_BYTES))
    except RecursionError:
        raise ValueError("deep nesting") from None
    if part is None or isinstance(part, list):
        return part
    if isinstance(part, dict) and isinstance(problem := part.get("problem"), str):
        return problem
    rows = part.get("rows") if isinstance(part, dict) else None
    if room is not None and isinstance(rows, int) and 0 < rows <= len(room):
        fill(link, room[:rows].data.cast("B"), waiting)
        return rows
    raise ValueError("not a part of an answer")


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _is_bool(item: Any) -> bool:
    return isinstance(item, bool)


def _is_form(kinds: str, num_axes: tuple[int, ...], item: Any) -> bool:
    """Whether these are a dtype and a shape."""
    dtype, shape = item if isinstance(item, list) and len(item) == 2 else ("", [])
    return dtype in DTYPES[kinds] and isinstance(shape, list) and len(shape) in num_axes and all(map(_is_count, shape))


def _is_count(item: Any) -> bool:
    return type(item) is int and item > 0


def _is_attribute(item: Any) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 2
        and _is_text(item[0])
        and isinstance(item[1], bool | int | float | str)
    )
