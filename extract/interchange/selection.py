"""What an export takes from a cache, what is missing there, and how much room it needs."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from extract.captions.recaption import NEXT
from extract.interchange.whole_output import OutputError
from shared.cache import CacheError, FeatureCache, StreamData
from shared.cache.arrays import checksum
from shared.names import unknown_name

SHOWN = 5


@dataclass(frozen=True)
class Selection:
    """What is exported.

    Attributes:
        videos: video id -> its complete streams out of ``streams``, sorted; a video without one is left out.
        streams: every stream that is exported.
        missing: one line per kind of thing that is not complete, with counts.
        num_values: numbers in all features together.
    """

    videos: dict[str, list[str]]
    streams: tuple[str, ...]
    missing: list[str]
    num_values: int


def select(cache: FeatureCache, wanted: Sequence[str] | None, expected: Collection[str] | None) -> Selection:
    """Look at the metadata of every video.

    Args:
        wanted: streams; None takes all there are.
        expected: ids of the videos of the data set, None if they are not known.

    Raises:
        CacheError: nothing to export, or metadata are damaged.
        ValueError: no video has a stream that is wanted.
    """
    found = {v: sorted(set(cache.streams(v)) - {NEXT}) for v in cache.group_ids()}
    known = sorted(set().union(*found.values()))
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"--streams: {unknown_name('stream', name, known)}")
    streams = tuple(dict.fromkeys(wanted or known))
    videos = {v: [s for s in streams if s in has] for v, has in found.items() if set(has) & set(streams)}
    if not videos:
        raise CacheError(f"{cache.url} has no complete stream; extract first, see python -m extract run --help")
    num_values = 0
    for video, names in videos.items():
        for one in cache.find(video, names)[1].values():
            num_values += one.num_rows * one.shape[-1]
    absent = sorted({*found, *(expected or ())} - videos.keys())
    return Selection(videos, streams, _missing(videos, streams, absent), num_values)


def read_whole(cache: FeatureCache, video: str, stream: str) -> StreamData:
    """One stream, its arrays compared with the sha256 that were noted when they were written.

    Raises:
        CacheError: it is damaged.
    """
    data, noted = cache.read(video, stream), cache.checksums(video, stream)
    for name, values in stream_arrays(data).items():
        if checksum(values) != noted.get(name):
            raise CacheError(
                f"{video}/{stream}/{name}: sha256 differs from the one stored when it was written; find all such "
                "places with: python -m extract verify, and extract again with --overwrite damaged"
            )
    return data


def stream_arrays(data: StreamData) -> dict:
    """The arrays of a stream by their names in the cache."""
    import numpy as np

    arrays = {"features": data.features}
    if data.frames is not None:
        arrays["frames"] = data.frames
    for name in ("captions", "thumbnails"):
        if (strings := getattr(data, name)) is not None:
            arrays[name] = np.array(strings, dtype=object)
    return arrays


def check_room(place: Path, num_bytes: int) -> None:
    """Refuse an export that cannot fit.

    Raises:
        OutputError: says how much is needed and how much there is.
    """
    free = shutil.disk_usage(place.parent).free
    if num_bytes > free:
        raise OutputError(
            f"--output {place}: needs {num_bytes / 2**20:.0f} MiB, the disk has {free / 2**20:.0f} MiB left; make "
            "room, give another place, or choose --streams"
        )


@contextmanager
def full_disk_explained(place: Path) -> Iterator[None]:
    """Say in words that a disk is full; libraries hide it in messages of their own."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        text = str(error)
        if getattr(error, "errno", None) in full or any(f"errno = {n}," in text for n in full):
            raise OutputError(
                f"--output {place}: the disk is full (or a limit of file sizes is reached); nothing was changed. "
                "Make room, or give another place"
            ) from error
        raise


def _missing(videos: dict[str, list[str]], streams: Sequence[str], absent: Sequence[str]) -> list[str]:
    has = Counter(s for names in videos.values() for s in names)
    lines = [f"{len(videos) - has[s]} of {len(videos)} videos lack stream {s}" for s in streams if has[s] < len(videos)]
    if absent:
        some = ", ".join(absent[:SHOWN]) + ", ..." * (len(absent) > SHOWN)
        lines.append(f"{len(absent)} videos have no complete stream ({some})")
    return lines
