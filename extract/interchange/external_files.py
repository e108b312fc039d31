"""Features that were made elsewhere, as files: one .npy per video, or one HDF5 file with a data set per video.

    FOLDER/<video>.npy           float (U, D), a row per frame, or (N, T, D), a row per window
    FOLDER/<video>.frames.npy    int (U,), which frame each row is of (optional)
    FOLDER/<video>.pts.npy       float (F,), when each frame of the video is shown, in seconds (optional)

    FILE.h5  /<video>            the same array, or a group with `features` and, optionally, `frames` and `pts`

Nothing is unpickled, and no link is followed.

Axes: F frames of a video, N windows, T samples in a window, U rows, D feature size.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from extract.interchange.hdf5_file import Group
from extract.interchange.hdf5_layout import FeatureFileError

BLOCK_BYTES = 16 * 2**20
MAX_ROW_VALUES = 2**22
SIDES = ("frames", "pts")


@dataclass(frozen=True)
class ExternalRows:
    """What a file says of one video.

    Attributes:
        name: of the video, as the file has it.
        where: how messages call the features.
        shape: (U, D) or (N, T, D).
        frames: int64 (U,), or None if the file does not say.
        pts: float64 (F,), or None.
        read: first, last -> rows first to last - 1.
    """

    name: str
    where: str
    shape: tuple[int, ...]
    frames: np.ndarray | None
    pts: np.ndarray | None
    read: Callable[[int, int], np.ndarray]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row and rows of parts that are small enough for memory."""
        step = max(1, BLOCK_BYTES // (8 * int(np.prod(self.shape[1:]))))
        for first in range(0, self.shape[0], step):
            yield first, np.asarray(self.read(first, min(first + step, self.shape[0])))


def open_npy(place: Path) -> dict[str, ExternalRows]:
    """The arrays of a folder, or one .npy file, by name.

    Raises:
        FeatureFileError: a file is not an array of numbers, or lies elsewhere.
    """
    folder = place if place.is_dir() else place.parent
    files = sorted(folder.glob("*.npy")) if place.is_dir() else [place]
    root = os.path.realpath(folder)
    arrays = {}
    for file in files:
        if os.path.commonpath([root, os.path.realpath(file)]) != root:
            raise FeatureFileError(f"{file} is a link that leaves {folder}; put the file itself there")
        arrays[file.name.removesuffix(".npy")] = file
    found = {}
    for name, file in arrays.items():
        stem, _, side = name.rpartition(".")
        if side in SIDES and stem in arrays:
            continue
        beside = {s: _load_side(folder / f"{name}.{s}.npy", s) for s in SIDES}
        # Mapped anew for every read: a process may have 65,530 maps.
        found[name] = _rows(name, str(file), _load_rows(file).shape, beside, partial(_read_npy, file))
    if not found:
        raise FeatureFileError(f"{place}: expected .npy files named after videos, found none")
    return found


def open_external_hdf5(file: Group) -> dict[str, ExternalRows]:
    """The data sets of an HDF5 file by name. Errors as of ``open_npy``."""
    found = {}
    for name in file.names():
        group = file.group(name) if (inside := file.is_group(name)) else file
        stored = group.numbers("features" if inside else name, kinds="f", num_axes=(2, 3))
        beside: dict[str, np.ndarray | None] = dict.fromkeys(SIDES)
        for side in set(SIDES).intersection(group.names()) if inside else ():
            beside[side] = group.numbers(side, kinds="iu" if side == "frames" else "f", num_axes=(1,)).values()
        found[name] = _rows(name, stored.where, stored.shape, beside, stored.values)
    if not found:
        raise FeatureFileError(f"{file.file}: expected a data set or a group per video, found nothing")
    return found


def digest_of(place: Path) -> str:
    """sha256 of a file; of a folder of .npy files, of their names and sha256; frames and times beside count, too."""
    if place.suffix != ".npy" and not place.is_dir():
        return _file_digest(place)
    digest = hashlib.sha256()
    for file in sorted(place.glob("*.npy")) if place.is_dir() else [place, *_sides_of(place)]:
        digest.update(f"{file.name} {_file_digest(file)}\n".encode("utf-8", errors="surrogateescape"))
    return digest.hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sides_of(file: Path) -> list[Path]:
    return [side for s in SIDES if (side := file.with_name(f"{file.stem}.{s}.npy")).exists()]


def _rows(
    name: str,
    where: str,
    shape: tuple[int, ...],
    beside: Mapping[str, np.ndarray | None],
    read: Callable[[int, int], np.ndarray],
) -> ExternalRows:
    if 0 in shape or np.prod(shape[1:], dtype=float) > MAX_ROW_VALUES:
        raise FeatureFileError(f"{where}: expected rows of 1 to {MAX_ROW_VALUES} numbers, found shape {shape}")
    frames = None if beside["frames"] is None else _whole_numbers(beside["frames"], f"{where}, frames")
    pts = None if beside["pts"] is None else np.asarray(beside["pts"], np.float64)
    return ExternalRows(name, where, tuple(map(int, shape)), frames, pts, read)


def _read_npy(file: Path, first: int, last: int) -> np.ndarray:
    return _load_rows(file)[first:last]


def _load_rows(file: Path) -> np.ndarray:
    return _load(file, "f", (2, 3))


def _whole_numbers(frames: np.ndarray, where: str) -> np.ndarray:
    if (frames > np.iinfo(np.int32).max).any():
        raise FeatureFileError(f"{where}: expected frame numbers, found {frames.max()}")
    return frames.astype(np.int64)


def _load_side(file: Path, side: str) -> np.ndarray | None:
    if not os.path.lexists(file):
        return None
    return np.array(_load(file, "iu" if side == "frames" else "f", (1,)))


def _load(file: Path, kinds: str, num_axes: tuple[int, ...]) -> np.ndarray:
    """An array on disk, mapped into memory: one that is shorter than it says is refused, not made up."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise FeatureFileError(f"{file}: expected a .npy file, found a folder or a device")
    try:
        with np.errstate(over="ignore"):  # a shape that is too large gets our words, not numpy's warning as well
            values = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # headers are parsed by Python: a hostile one may raise anything
        raise FeatureFileError(
            f"{file}: expected an array as numpy.save writes it, without pickled objects, found something else or a "
            f"part of one ({error}); save it again"
        ) from None
    if values.dtype.kind not in kinds or values.dtype.itemsize > 8:
        wanted = "whole numbers" if kinds == "iu" else "float16, float32 or float64"
        raise FeatureFileError(f"{file}: expected {wanted}, found {values.dtype}; convert it with array.astype")
    if values.ndim not in num_axes:
        axes = " or ".join(map(str, num_axes))
        raise FeatureFileError(f"{file}: expected {axes} axes, found shape {values.shape}")
    return values
