"""Arrays of the feature cache: how one is written, read back and checked.

No compressor on float16 features (it gains 8 % and costs 2-5 times the read time); one chunk per array up to 8 MiB
(a chunk per window reads 20 times slower). Longer arrays are written chunk by chunk while the video is still being
decoded, so that memory does not grow with its length.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from shared.recipe import Recipe, fingerprint

CHUNK_BYTES = 8 * 2**20
LOST_CAPTION = "\x00lost chunk"
# What a chunk that is not on disk reads as. Nothing of it can be written, so that a lost chunk never looks like data.
FILL: dict[str, Any] = {"features": np.nan, "pts": np.nan, "frames": -1, "captions": LOST_CAPTION}


class CacheError(ValueError):
    """The cache lacks, or damaged, what was asked of it; the message says what and what to do."""


def checksum(values: np.ndarray) -> str:
    """sha256 of an array's little-endian C-order bytes; of strings, of their UTF-8 bytes with NUL between."""
    if values.dtype.kind in "OTU":
        return hashlib.sha256("\x00".join(values.tolist()).encode("utf-8", errors="surrogatepass")).hexdigest()
    return hashlib.sha256(
        np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).data
    ).hexdigest()


def make_array(group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any) -> zarr.Array:
    """An empty array of the cache's layout."""
    return group.create_array(
        name,
        shape=shape,
        chunks=tuple(max(1, c) for c in chunks),
        dtype="str" if dtype is str else dtype,
        compressors=None if dtype is str else Crc32cCodec(),
        fill_value=FILL[name],
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def write_array(group: zarr.Group, name: str, values: np.ndarray) -> str:
    """Write a whole array as one chunk; returns its checksum."""
    dtype = str if values.dtype == object else values.dtype
    array = make_array(group, name, values.shape, values.shape, dtype)
    if values.size:
        array[...] = values
    return checksum(values)


def read_array(group: zarr.Group, name: str, where: str) -> np.ndarray:
    """Read a whole array, refusing lost or damaged chunks.

    Raises:
        CacheError: a chunk is lost or damaged (CRC-32C).
        KeyError: the array does not exist.
    """
    try:
        array = group[name]
        if not isinstance(array, zarr.Array):
            raise CacheError(f"{where}: expected an array, found a group")
        values = np.asarray(array[...])
    except KeyError:
        raise
    except Exception as error:
        if isinstance(error, CacheError):
            raise
        # zarr reports damage in many classes (codec, JSON, buffer sizes); to a user all of them mean the same.
        raise CacheError(f"{where}: damaged ({error or type(error).__name__}); {MEND}") from error
    lost = (values == FILL[name]).any() if values.dtype.kind in "iOTU" else not np.isfinite(values).all()
    if values.size and lost:
        raise CacheError(f"{where}: a chunk is lost or damaged; {MEND}")
    return values


MEND = "find all such places with: python -m extract verify, and extract again with --overwrite"


class StreamWriter:
    """Writes one stream of one video, row block by row block. ``finish`` marks it complete; until then it is nothing.

    Rows are windows, (T, D) each, or unique frames, (D,) each, in ascending order.
    """

    def __init__(self, video: zarr.Group, stream: str, *, kind: str, recipe: Recipe, where: str) -> None:
        assert kind in ("window", "timeline"), kind
        self._group = video.create_group(stream)
        self._kind, self._recipe, self._where = kind, recipe, where
        self._pending: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []
        self._captions: list[str] = []
        self._array: zarr.Array | None = None
        self._hash = hashlib.sha256()
        self.num_rows = 0
        self._num_written = 0

    def append(self, features: np.ndarray, frames: np.ndarray | None = None, captions: list[str] | None = None) -> None:
        """Add rows.

        Args:
            features: float (n, T, D) or (n, D).
            frames: int (n,) for a timeline stream.
            captions: n strings for a text stream.

        Raises:
            CacheError: a value is not finite, or overflows float16; the message names video, stream and row.
        """
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(features, dtype="<f2")
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            unit = "window" if self._kind == "window" else "row of frame"
            place = self.num_rows + row if frames is None else int(frames[row])
            raw = np.asarray(features[row], dtype=np.float64)
            why = (
                "a NaN or infinity" if not np.isfinite(raw).all() else f"{np.abs(raw).max():.3g}, too large for float16"
            )
            raise CacheError(f"{self._where}: {unit} {place} holds {why}; nothing of this stream was stored")
        self._pending.append(rows)
        self.num_rows += len(rows)
        self._hash.update(rows.data)
        if frames is not None:
            self._frames.append(np.asarray(frames, dtype=np.int32))
        if captions is not None:
            self._captions += [c.replace("\x00", " ") for c in captions]
        self._flush()

    def finish(self) -> None:
        """Write what is left and, last of all, the marker."""
        self._flush(last=True)
        checks = {"features": self._hash.hexdigest()}
        if self._kind == "timeline":
            frames = np.concatenate(self._frames) if self._frames else np.zeros(0, np.int32)
            assert len(frames) == self.num_rows
            assert (np.diff(frames) > 0).all()
            checks["frames"] = write_array(self._group, "frames", frames)
        if self._captions:
            assert len(self._captions) == self.num_rows
            checks["captions"] = write_array(self._group, "captions", np.array(self._captions, dtype=object))
        self._group.attrs.put(
            {
                "kind": self._kind,
                "recipe": dict(self._recipe),
                "fingerprint": fingerprint(self._recipe),
                "checksums": checks,
                "complete": True,
            }
        )

    def _flush(self, last: bool = False) -> None:
        """Write whole chunks; with ``last``, everything."""
        waiting = sum(map(len, self._pending))
        chunk = max(1, CHUNK_BYTES // max(1, self._pending[0][:1].nbytes)) if waiting else 1
        if not last and waiting <= chunk:
            return
        rows = np.concatenate(self._pending) if self._pending else np.zeros((0, 1), "<f2")
        count = len(rows) if last else len(rows) // chunk * chunk
        if self._array is None:  # a stream that fits one chunk gets exactly that chunk
            shape = (count, *rows.shape[1:])
            self._array = make_array(self._group, "features", shape, (min(chunk, count), *rows.shape[1:]), "<f2")
        else:
            self._array.resize((self._num_written + count, *rows.shape[1:]))
        if count:
            self._array[self._num_written : self._num_written + count] = rows[:count]
        self._num_written += count
        self._pending = [rows[count:]]
