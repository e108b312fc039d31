"""Arrays of the feature cache: how one is written, read back and checked.

No compressor on float16 features (it gains 8 % and costs 2-5 times the read time); one chunk per array up to 8 MiB
(a chunk per window reads 20 times slower). Longer arrays are written chunk by chunk while the video is still being
decoded, so that memory does not grow with its length.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec

from shared.cache.direct import ChunkError, find_plain
from shared.cache.nodes import MEND, METADATA, CacheError, put, put_group, stage
from shared.cache.seals import SEAL, stream_seal
from shared.recipe import Recipe, fingerprint

CHUNK_BYTES = 8 * 2**20
LOST_STRING = "\x00lost chunk"
# What a chunk that is not on disk reads as. Nothing of it can be written, so that a lost chunk never looks like data.
FILL: dict[str, Any] = {
    "features": np.nan,
    "pts": np.nan,
    "frames": -1,
    "captions": LOST_STRING,
    "thumbnails": LOST_STRING,
}
STRING_ARRAYS = ("captions", "thumbnails")
# Names of the axes by their number, so that xarray, too, knows which axes are the same.
AXES = {1: ("row",), 2: ("row", "feature"), 3: ("window", "sample", "feature")}


def checksum(values: np.ndarray) -> str:
    """sha256 of an array's little-endian C-order bytes; of strings, of their UTF-8 bytes with NUL between."""
    if values.dtype.kind in "OTU":
        return hashlib.sha256("\x00".join(values.tolist()).encode("utf-8", errors="surrogatepass")).hexdigest()
    return hashlib.sha256(_little_endian(values).data).hexdigest()


def make_array(group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any) -> zarr.Array:
    """An empty array of the cache's layout, in a group that has none of that name."""
    return group.create_array(
        name,
        shape=shape,
        chunks=tuple(max(1, c) for c in chunks),
        dtype="str" if dtype is str else dtype,
        compressors=Crc32cCodec(),
        fill_value=FILL[name],
        dimension_names=("frame",) if name == "pts" else AXES[len(shape)],
        config={"write_empty_chunks": True},
    )


def whole_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Keys and values of arrays of one chunk each, as ``make_array`` and an assignment would store them.

    Making an array and assigning to it takes milliseconds, more than anything else that a short clip's rows need. So
    zarr makes one array of each kind; here its metadata get other shapes, and chunks are put together by hand.
    """
    staged: dict[str, bytes] = {}
    for name, values in arrays.items():
        staged[f"{name}/{METADATA}"] = _metadata(
            name, "str" if values.dtype == object else values.dtype.str, values.shape
        )
        if values.size:
            chunk = _packed(values.tolist()) if values.dtype == object else _little_endian(values).tobytes()
            check = google_crc32c.value(chunk).to_bytes(4, "little")
            staged[f"{name}/c/" + "/".join("0" * values.ndim)] = chunk + check
    return staged


def _packed(strings: list[str]) -> bytes:
    """Zarr's codec vlen-utf8: the number of strings, then each with the number of its bytes before it (uint32)."""
    coded = [s.encode() for s in strings]
    return b"".join([struct.pack("<I", len(coded)), *(struct.pack("<I", len(c)) + c for c in coded)])


def _little_endian(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)


@lru_cache(maxsize=1024)  # clips of one data set have few lengths
def _metadata(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """``zarr.json`` of an array of one chunk."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [max(1, n) for n in shape]}}
    document = _model_array(name, dtype, len(shape)) | {"shape": list(shape), "chunk_grid": grid}
    return json.dumps(document, indent=2).encode()


@lru_cache(maxsize=64)
def _model_array(name: str, dtype: str, num_axes: int) -> dict[str, Any]:
    """Metadata that zarr gives an array of one value, as JSON."""
    staging, staged = stage()
    shape = (1,) * num_axes
    make_array(staging, name, shape, shape, str if dtype == "str" else np.dtype(dtype))
    return json.loads(staged[f"{name}/{METADATA}"].to_bytes())


def read_array(group: zarr.Group, name: str, where: str) -> np.ndarray:
    """Read a whole array, refusing lost or damaged chunks.

    Args:
        group: where to look.
        name: of the array, or its path below the group.
        where: how messages call it.

    Raises:
        CacheError: the array does not exist, or a chunk of it is lost or damaged (CRC-32C).
    """
    values = _read_plain(group, name)
    if values is None:
        array = open_array(group, name, where)
        try:
            values = np.asarray(array[...])
        except Exception as error:
            raise _damaged(where, error) from error
    fill = FILL[name.rpartition("/")[2]]
    if (values.dtype.kind in "OTU") != isinstance(fill, str) or values.dtype.kind not in "ifOTU":
        raise CacheError(f"{where}: damaged (not an array of the kind that was written); {MEND}")
    lost = not np.isfinite(values).all() if values.dtype.kind == "f" else (values == fill).any()
    if values.size and lost:
        raise CacheError(f"{where}: a chunk is lost or damaged; {MEND}")
    return values


def open_array(group: zarr.Group, name: str, where: str) -> zarr.Array:
    """An array that is not read yet; arguments and errors as of ``read_array``."""
    try:
        array = group[name]
    except KeyError:
        raise CacheError(f"{where}: the array is missing; {MEND}") from None
    except Exception as error:
        raise _damaged(where, error) from error
    if not isinstance(array, zarr.Array):
        raise CacheError(f"{where}: damaged (not an array of the kind that was written); {MEND}")
    return array


def _damaged(where: str, error: Exception) -> CacheError:
    # zarr reports damage in many classes (codec, JSON, buffer sizes); to a user all of them mean the same.
    return CacheError(f"{where}: damaged ({error or type(error).__name__}); {MEND}")


def _read_plain(group: zarr.Group, name: str) -> np.ndarray | None:
    """The fast way to an array, or None where it does not lead there: zarr finds out why, and has the last word."""
    try:
        plain = find_plain(group.store, f"{group.path}/{name}")
        return None if plain is None else plain.read()
    except (ChunkError, OSError):
        return None


class StreamWriter:
    """Writes one stream of one video, row block by row block. ``finish`` marks it complete; until then it is nothing.

    Rows are windows, (T, D) each, or unique frames, (D,) each, in ascending order. ``finished`` is called in the end.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        *,
        kind: str,
        recipe: Recipe,
        where: str,
        finished: Callable[[], None] = lambda: None,
    ) -> None:
        assert kind in ("window", "timeline"), kind
        self._store, self._path, self._finished = store, path, finished
        put_group(self._store, self._path, {})
        self._kind, self._recipe, self._where = kind, dict(recipe), where
        self._pending: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []
        self._strings: dict[str, list[str]] = {}
        self._array: zarr.Array | None = None
        self._row_shape: tuple[int, ...] | None = None
        self._hash = hashlib.sha256()
        self.num_rows = 0
        self._num_written = 0

    def append(
        self,
        features: np.ndarray,
        frames: np.ndarray | None = None,
        captions: list[str] | None = None,
        thumbnails: list[str] | None = None,
    ) -> None:
        """Add rows. The arrays are copied.

        Args:
            features: float (n, T, D) or (n, D).
            frames: int (n,) for a timeline stream.
            captions: n strings for a text stream.
            thumbnails: n base64 JPEGs for a text stream that keeps pictures beside its captions.

        Raises:
            CacheError: a value is not finite, or overflows float16, or the shapes do not fit; the message names
                video, stream and row.
        """
        with np.errstate(over="ignore"):
            rows = np.array(features, dtype="<f2", order="C")
        strings = {k: v for k, v in (("captions", captions), ("thumbnails", thumbnails)) if v is not None}
        self._check_shapes(rows, frames, strings)
        self._check_values(rows, features, frames)
        self._pending.append(rows)
        self.num_rows += len(rows)
        self._hash.update(rows.data)
        if frames is not None:
            self._frames.append(np.array(frames, dtype=np.int32))
        for name, values in strings.items():
            self._strings.setdefault(name, []).extend(_storable(v) for v in values)
        self._flush()

    def finish(self) -> None:
        """Write what is left and, last of all, the marker."""
        small: dict[str, np.ndarray] = {}
        self._flush(last=small)
        checks = {"features": self._hash.hexdigest()}
        if self._kind == "timeline":
            frames = np.concatenate(self._frames) if self._frames else np.zeros(0, np.int32)
            assert (np.diff(frames) > 0).all()
            small["frames"] = frames
        small |= {name: np.array(values, dtype=object) for name, values in self._strings.items()}
        for name, values in small.items():
            assert len(values) == self.num_rows, (self._where, name)
            if name != "features":
                checks[name] = checksum(values)
        marks: dict[str, Any] = {"kind": self._kind, "recipe": self._recipe, "fingerprint": fingerprint(self._recipe)}
        shape = (self.num_rows, *(self._row_shape or (1,)))
        marks["checksums"] = checks
        marks |= {SEAL: stream_seal(self._where, marks, shape), "complete": True}
        put(self._store, self._path, whole_arrays(small), marks)
        self._finished()

    def _flush(self, last: dict[str, np.ndarray] | None = None) -> None:
        """Write whole chunks; with ``last``, everything, but leave a stream that fits one chunk there to be written."""
        row_shape = self._row_shape or (1,)
        chunk = max(1, CHUNK_BYTES // max(2, 2 * int(np.prod(row_shape))))
        waiting = sum(map(len, self._pending))
        if last is None and waiting <= chunk:
            return
        rows = np.concatenate([*self._pending, np.zeros((0, *row_shape), "<f2")])
        count = waiting if last is not None else waiting // chunk * chunk
        if self._array is None and last is not None and count <= chunk:
            last["features"] = rows
            return
        if self._array is None:
            group = zarr.open_group(self._store, path=self._path, mode="r+")
            self._array = make_array(group, "features", (count, *row_shape), (min(chunk, count), *row_shape), "<f2")
        elif count:
            self._array.resize((self._num_written + count, *row_shape))
        if count:
            self._array[self._num_written : self._num_written + count] = rows[:count]
        self._num_written += count
        self._pending = [rows[count:].copy()]  # a copy, to let the rows that are written go

    def _check_shapes(self, rows: np.ndarray, frames: np.ndarray | None, strings: dict[str, list[str]]) -> None:
        num_axes = 3 if self._kind == "window" else 2
        if rows.ndim != num_axes or rows.shape[1:] != (self._row_shape or rows.shape[1:]):
            wanted = self._row_shape or ("T, D" if self._kind == "window" else "D")
            raise CacheError(f"{self._where}: expected features of shape (n, {wanted}), found {rows.shape}")
        mixed = self._row_shape is not None and strings.keys() != self._strings.keys()
        self._row_shape = rows.shape[1:]
        if mixed or (frames is None) != (self._kind == "window"):
            raise CacheError(f"{self._where}: frames belong to timeline streams, captions to all rows or to none")
        for name, values in (("frames", frames), *strings.items()):
            if values is not None and len(values) != len(rows):
                raise CacheError(f"{self._where}: {len(values)} {name} for {len(rows)} rows")

    def _check_values(self, rows: np.ndarray, features: np.ndarray, frames: np.ndarray | None) -> None:
        finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
        if finite.all():
            return
        row = int(np.argmin(finite))
        unit = "window" if frames is None else "row of frame"
        place = self.num_rows + row if frames is None else int(frames[row])
        raw = np.asarray(features[row], dtype=np.float64)
        bad = not np.isfinite(raw).all()
        why = "a NaN or infinity" if bad else f"{np.abs(raw).max():.3g}, too large for float16"
        raise CacheError(f"{self._where}: {unit} {place} holds {why}; nothing of this stream was stored")


def _storable(caption: str) -> str:
    """Without what UTF-8 or the checksum's separator cannot hold: NUL becomes a space, lone surrogates "?"."""
    return caption.replace("\x00", " ").encode("utf-8", errors="replace").decode("utf-8")
