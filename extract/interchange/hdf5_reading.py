"""HDF5 files made by others, read with care: only what lies in the file itself, and only what was really written.

For the process of extract/interchange/hdf5_child.py alone: the HDF5 library may crash or hang over any of them.

HDF5 can point outside of a file (external and soft links, external storage, virtual data sets), hold references, and
declare shapes without any data, which read as zeros. None of that is taken for features.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from extract.interchange.hdf5_layout import FORMAT, FeatureFileError

MAX_CHUNK_BYTES = 256 * 2**20
MAX_TEXT_BYTES = 16 * 2**20
TEXTS_AT_ONCE = 64
BLOCK_BYTES = 16 * 2**20


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Around every call of HDF5, which has no classes of errors: what it says, in words.

    Raises:
        FeatureFileError: the file is damaged.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError, MemoryError) as error:
        why = str(error) or type(error).__name__
        raise FeatureFileError(
            f"{where}: expected an HDF5 file, found one that is cut short, damaged or none ({why}); copy it again"
        ) from None


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        FeatureFileError: it is no HDF5 file, or damaged.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise FeatureFileError(f"{path}: expected an HDF5 file, found a folder or a device; give the file itself")
    with reading(str(path)):
        file = h5py.File(path, "r", locking=False)  # some network disks have no locks; exports are moved there whole
    with file:
        yield file


def is_export(file: h5py.File) -> bool:
    """Whether ``extract export`` wrote it."""
    with reading(_where(file)):
        mark = file.attrs.get("format")
    return isinstance(mark, str) and mark == FORMAT


def names_in(group: h5py.Group) -> list[str]:
    """Names of everything in a group."""
    with reading(_where(group)):
        return sorted(group)


def attributes(group: h5py.Group) -> Iterator[tuple[str, bool | int | float | str]]:
    """Names and values of attributes.

    Raises:
        FeatureFileError: they are damaged, or of a kind that ``encode_attributes`` does not give.
    """
    with reading(_where(group)):
        names = list(group.attrs)
    for name in names:
        with reading(_where(group)):
            value = group.attrs[name]
        if isinstance(value, np.bool_ | np.integer | np.floating) and value.itemsize <= 8:
            yield name, value.item()
        elif isinstance(value, str):
            yield name, value
        else:
            kind = type(value).__name__
            raise FeatureFileError(
                f"{_where(group)}, attribute {name!r}: expected a number or a text, found {kind}; export it again"
            )


def blocks(found: h5py.Dataset, first: int, last: int) -> Iterator[np.ndarray]:
    """Rows first to last - 1 of numbers, in parts; whole chunks where that is possible."""
    row_bytes = found.dtype.itemsize * math.prod(found.shape[1:])
    chunk = found.chunks[0] if found.chunks else 1
    step = max(1, BLOCK_BYTES // (row_bytes * chunk)) * chunk
    native = found.dtype.newbyteorder("=")
    while first < last:
        after = min(last, (first // step + 1) * step)
        with reading(_where(found)):
            block = np.asarray(found[first:after], native)
        yield block
        first = after


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """What a group holds under a name.

    Raises:
        FeatureFileError: nothing, or a link to somewhere else.
    """
    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    if "/" in name:  # no name has one; HDF5 would take it for a way, and follow the links on it
        raise FeatureFileError(f"{where}: the name {name!r} is damaged; copy or export the file again")
    with reading(where):
        link = group.get(name, getlink=True)
    if link is None:
        raise FeatureFileError(f"{where} is missing; export or write the file again")
    if not isinstance(link, h5py.HardLink):
        kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
        raise FeatureFileError(f"{where}: expected data, found {kind}, which is not followed; put the data there")
    with reading(where):
        found = group[name]
    if not isinstance(found, h5py.Group | h5py.Dataset):
        raise FeatureFileError(f"{where}: expected a group or a data set, found a named type")
    return found


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """As ``member``, a group only."""
    found = member(group, name)
    if not isinstance(found, h5py.Group):
        raise FeatureFileError(f"{_where(found)}: expected a group, found a data set")
    return found


def numbers(group: h5py.Group, name: str, *, kinds: str, num_axes: tuple[int, ...]) -> h5py.Dataset:
    """A data set of numbers that is all there.

    Args:
        kinds: kinds of dtype, as numpy's letters ("f" or "iu").
        num_axes: how many axes it may have.

    Raises:
        FeatureFileError: another type or shape, or not all of it lies in the file.
    """
    found = member(group, name)
    where = _where(found)
    if not isinstance(found, h5py.Dataset):
        raise FeatureFileError(f"{where}: expected a data set, found a group")
    with reading(where):
        _ = found.dtype, found.shape  # types that numpy does not have
    words = {"f": "float16, float32 or float64", "iu": "whole numbers"}[kinds]
    if found.dtype.kind not in kinds or found.dtype.itemsize > 8:
        raise FeatureFileError(f"{where}: expected {words}, found {found.dtype}; convert it")
    if found.shape is None or len(found.shape) not in num_axes:
        axes = " or ".join(map(str, num_axes))
        raise FeatureFileError(f"{where}: expected {axes} axes, found shape {found.shape}")
    _check_storage(found, where)
    return found


def texts(group: h5py.Group, name: str) -> Iterator[str]:
    """The rows of a data set of variable-length texts.

    Raises:
        FeatureFileError: another type or shape, too long, not UTF-8, or not all of it lies in the file.
    """
    found = member(group, name)
    where = _where(found)
    if not isinstance(found, h5py.Dataset) or h5py.check_string_dtype(found.dtype) is None or found.ndim != 1:
        raise FeatureFileError(f"{where}: expected a list of texts; write it with dtype=h5py.string_dtype()")
    _check_storage(found, where)
    # A file that says so may have every row point to one long text: what is read is bounded by what the file holds.
    limit, size = found.file.id.get_filesize() + MAX_TEXT_BYTES, 0
    for row in range(len(found)):
        if row % TEXTS_AT_ONCE == 0:  # one by one takes ten times as long
            with reading(where):
                some = found[row : row + TEXTS_AT_ONCE]
        value = some[row % TEXTS_AT_ONCE]
        size += len(value)
        if len(value) > MAX_TEXT_BYTES or size > limit:
            raise FeatureFileError(f"{where}: text {row} is too long ({len(value)} bytes; {size} so far)")
        try:
            yield value.decode("utf-8") if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as error:
            raise FeatureFileError(f"{where}: text {row} is not UTF-8 ({error})") from None


def _check_storage(found: h5py.Dataset, where: str) -> None:
    with reading(where):
        _check_written(found, where)


def _check_written(found: h5py.Dataset, where: str) -> None:
    plist = found.id.get_create_plist()
    if found.is_virtual or plist.get_external_count():
        raise FeatureFileError(f"{where}: its data are in other files, which are not read; put them into this one")
    if found.size == 0:
        raise FeatureFileError(f"{where}: expected rows, found shape {found.shape}")
    if found.chunks is None:
        there = found.id.get_storage_size() >= found.size * found.dtype.itemsize
    else:
        wanted = math.prod(-(-n // c) for n, c in zip(found.shape, found.chunks, strict=True))
        there = found.id.get_num_chunks() == wanted
        if math.prod(found.chunks) * found.dtype.itemsize > MAX_CHUNK_BYTES:
            raise FeatureFileError(f"{where}: chunks of shape {found.chunks} are too large; write smaller ones")
    if not there:
        raise FeatureFileError(
            f"{where}: declares shape {found.shape}, but not all of its data were written; write the file again"
        )


def _where(found: h5py.Group | h5py.Dataset) -> str:
    return f"{found.file.filename}: {found.name}"
