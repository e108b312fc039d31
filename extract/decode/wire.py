"""Events on their way from a decoder process: a few words of JSON each, and the bytes of its array.

Not pickle: what comes from a process that reads hostile files is looked at, never run. numpy, and no more.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from extract.child_process import fill, receive_bytes, send_bytes
from extract.decode.events import Failed, Opened, Read
from extract.decode.sampling import Item, Window


@dataclass(frozen=True)
class Ready:
    """The process has started."""


@dataclass(frozen=True)
class Alive:
    """Something was read or decoded since the last message; ``frames`` so far."""

    frames: int


@dataclass(frozen=True)
class Spent:
    """Comes before the last event of a video.

    Attributes:
        seconds: spent decoding and resizing it, summed over threads.
        exhausted: the process ran out of the memory it may take; it should not be used again.
    """

    seconds: float
    exhausted: bool


Message = Ready | Alive | Spent | Opened | Item | Window | Read | Failed
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Ready, Alive, Spent, Opened, Item, Window, Read, Failed)}
MAX_WORDS, MAX_ARRAY_BYTES = 2**20, 2**31  # what a process that was taken over may have this one set aside
# An array of objects would be one of addresses.
ARRAYS = {(Item, "pixels"): "uint8", (Window, "frames"): "int64", (Read, "pts"): "float64"}
TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
FACTS = {"source": "dict", "fps": "float", "decoder": "str", "truncated": "dict", "shown": "dict"} | dict.fromkeys(
    ("num_frames", "width", "height", "rotation", "missing_frames", "leading"), "int"
)
OPTIONAL = {"truncated", "leading"}


def send(link: socket.socket, message: Message) -> None:
    """Wait until the other side has room, and send.

    Raises:
        OSError: nobody is there.
    """
    values = {f.name: getattr(message, f.name) for f in fields(message)}
    arrays = {name: np.ascontiguousarray(value) for name, value in values.items() if isinstance(value, np.ndarray)}
    forms = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    plain = {name: value for name, value in values.items() if name not in arrays}
    words = json.dumps({"kind": type(message).__name__, "arrays": forms, "values": plain}).encode("ascii")
    send_bytes(link, words)
    for array in arrays.values():
        if array.nbytes:
            link.sendall(array.data.cast("B"))


def receive(link: socket.socket, waiting: Callable[[], None] = lambda: None) -> Message:
    """The next message; waits for it.

    Args:
        waiting: called whenever the time-out of ``link`` is over; may raise to wait no longer.

    Raises:
        EOFError, OSError: the other side has gone, or cut a message off.
        ValueError: not a message.
    """
    data = receive_bytes(link, waiting, MAX_WORDS)
    try:
        message, arrays = _parsed(data)
    except Exception as error:  # MemoryError and RecursionError among them
        raise ValueError(f"not a message: {error!r}") from None
    for array in arrays:
        if array.nbytes:
            fill(link, array.data.cast("B"), waiting)
    return message


def _parsed(data: bytearray) -> tuple[Message, list[np.ndarray]]:
    """A message, and its arrays, which are still to be filled; raises anything."""
    words = json.loads(data)
    kind, values, arrays = KINDS[words["kind"]], dict(words["values"]), {}
    for name, (dtype, shape) in words["arrays"].items():
        if ARRAYS.get((kind, name)) != dtype:
            raise ValueError(f"an array of {dtype} for {name}")
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * np.dtype(dtype).itemsize > (
            MAX_ARRAY_BYTES
        ):
            raise ValueError(f"an array of shape {shape}")
        values[name] = arrays[name] = np.empty(shape, dtype)
    for field in fields(kind):
        if field.name in values and not _is(values[field.name], str(field.type)):
            raise ValueError(f"{field.name} should be {field.type}")
    message: Message = kind(**values)
    if isinstance(message, Read):
        _check_facts(message)
    return message, list(arrays.values())


def _check_facts(read: Read) -> None:
    facts, source = read.facts, read.facts["source"]
    for name, value in facts.items():
        if not _is(value, FACTS[name]):
            raise ValueError(f"{name} should be {FACTS[name]}")
    if FACTS.keys() - facts.keys() - OPTIONAL or not (_is(source["path"], "str") and _is(source["sha256"], "str")):
        raise ValueError("facts are missing")
    if "truncated" in facts and not all(_is(facts["truncated"][name], "int") for name in ("decoded", "promised")):
        raise ValueError("truncated should be two numbers")
    if not all(type(value) in (bool, int, str) for value in facts["shown"].values()):
        raise ValueError("shown should be words, numbers and yes or no")
    if read.pts.shape != (facts["num_frames"],):
        raise ValueError("one time for each frame is expected")


def _is(value: Any, annotation: str) -> bool:
    """Whether a field of a message may have this value."""
    if annotation == "np.ndarray":
        return isinstance(value, np.ndarray)
    if annotation not in TYPES:
        return isinstance(value, dict)
    if type(value) not in TYPES[annotation]:
        return False
    return isinstance(value, str) or -(2**63) <= value < 2**63  # not NaN either


__all__ = ["Alive", "Message", "Ready", "Spent", "receive", "receive_bytes", "send", "send_bytes"]
