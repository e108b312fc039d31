"""Plain arrays of a cache on a local disk, read with a few system calls straight into memory that the caller gives.

zarr takes about a millisecond to open an array and returns a new one that has to be copied into place. Training reads
thousands of small arrays at once, so for the one layout that this project writes (little-endian numbers, no
compression, a CRC-32C behind every chunk, chunks along the first axis) the files are read here. Whatever is not exactly
that, or not on a local disk, is left to zarr.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

import google_crc32c
import numpy as np
from zarr.abc.store import Store
from zarr.storage import LocalStore

DTYPES = {"float16": "<f2", "float64": "<f8", "int32": "<i4"}
CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
KEYS = {"name": "default", "configuration": {"separator": "/"}}
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_AT_HAND = hasattr(os, "preadv") and sys.byteorder == "little"


class ChunkError(ValueError):
    """A chunk is lost, cut short or does not have its checksum, or holds a value that is not finite."""


@dataclass(frozen=True)
class PlainArray:
    """Where an array lies and how it is cut: chunk k holds the rows from k * chunk_rows on.

    Attributes:
        path: folder of the array.
        shape, dtype: of the array.
        chunk_rows: rows in a chunk; the last one is filled up to as many.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_rows: int

    def read_into(self, out: np.ndarray, *, finite: bool = False) -> None:
        """Read everything into an array of this shape and dtype, C order; ``finite`` refuses NaN and infinities.

        Raises:
            ChunkError: says which chunk and why.
            OSError: a file cannot be read.
        """
        if out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"expected a C-order array {self.shape} of {self.dtype}, found {out.shape} of {out.dtype}")
        if not out.size:
            return
        target = out.reshape(-1).view(np.uint8)
        row_bytes = out.nbytes // len(out)
        size = self.chunk_rows * row_bytes
        for number, first in enumerate(range(0, len(target), size)):
            key = "/".join([str(number), *["0"] * (len(self.shape) - 1)])
            part = target[first : first + size]
            _read_chunk(f"{self.path}/c/{key}", part, size - len(part), self.dtype if finite else None)

    def read(self) -> np.ndarray:
        """Everything as a new array; errors as of ``read_into``."""
        out = np.empty(self.shape, self.dtype)
        self.read_into(out)
        return out


def find_plain(store: Store, path: str) -> PlainArray | None:
    """The array at a path of a store, or None where only zarr can say what is there."""
    if not _AT_HAND or not isinstance(store, LocalStore):
        return None
    folder = f"{store.root}/{path}"
    raw = read_file(f"{folder}/zarr.json")
    try:
        document = json.loads(raw or b"")
        grid = document["chunk_grid"]
        shape, chunks = document["shape"], grid["configuration"]["chunk_shape"]
        plain = (
            document["node_type"] == "array"
            and document["zarr_format"] == 3
            and document["codecs"] == CODECS
            and document["chunk_key_encoding"] == KEYS
            and not document.get("storage_transformers")
            and grid["name"] == "regular"
            and shape
            and all(type(n) is int and n >= 0 for n in shape)
            and type(chunks[0]) is int
            and chunks[0] > 0
            and chunks[1:] == [max(1, n) for n in shape[1:]]
        )
        if plain and document["data_type"] in DTYPES:
            return PlainArray(folder, tuple(shape), np.dtype(DTYPES[document["data_type"]]), chunks[0])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):  # damaged: zarr finds the words for it
        pass
    return None


def read_file(path: str) -> bytes | None:
    """A small file, or None if there is no such file. ``open`` would take three system calls more."""
    try:
        file = os.open(path, _READ_ONLY)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        parts = [os.read(file, 65536)]
        while len(parts[-1]) == 65536:
            parts.append(os.read(file, 65536))
    except IsADirectoryError:
        return None
    finally:
        os.close(file)
    return b"".join(parts) if len(parts) > 1 else parts[0]


def _read_chunk(path: str, out: np.ndarray, padding: int, finite: np.dtype | None) -> None:
    """Fill uint8 ``out`` from a chunk's file, which goes on with padding and ends with a CRC-32C of both."""
    try:
        file = os.open(path, _READ_ONLY)
    except (FileNotFoundError, NotADirectoryError):
        raise ChunkError(f"chunk {path} is lost") from None
    try:
        tail = bytearray(padding + 5)  # one more than there may be
        at = 0
        while at < len(out) and (count := os.preadv(file, [out[at:].data, tail], at)):
            at += count  # one call, except beyond 2 GiB
        if at != len(out) + padding + 4:
            raise ChunkError(f"chunk {path} does not have the size that was written")
    finally:
        os.close(file)
    # Over the whole chunk at once: short calls would pass Python's lock from thread to thread all the time.
    crc = google_crc32c.extend(google_crc32c.value(out), bytes(tail[:padding]))
    if crc != int.from_bytes(tail[padding : padding + 4], "little"):
        raise ChunkError(f"chunk {path} does not have its checksum (CRC-32C)")
    if finite is not None and not _all_finite(out.view(finite)):
        raise ChunkError(f"chunk {path} holds a value that is not finite")


def _all_finite(values: np.ndarray) -> bool:
    """Whether no value (n,) is NaN or infinite; n >= 1.

    numpy tests float16 one by one, but finds the largest of many whole numbers quickly: the bits of a positive float16
    that is not finite are 0x7c00 or more as int16, those of a negative one 0xfc00 or more as uint16.
    """
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    return bool(values.view(np.int16).max() < 0x7C00 and values.view(np.uint16).max() < 0xFC00)
