"""Shards: the part of a data set that one of n processes extracts, so that nobody has to hand out work.

Every process splits the whole data set by itself and takes its part. So the split depends on the videos alone, never on
what is extracted already: processes of one array start hours apart. Balanced by frames (what decoding and encoding
cost), longest first, each to the shard with the least so far (R. L. Graham, "Bounds on multiprocessing timing
anomalies", SIAM J. Appl. Math. 17, 1969): no shard has more than the mean and one video.

How long a video is says the manifest's table (columns frames or duration), else its container; opening that takes
milliseconds, so for large data sets what was found is kept beside the cache (``<cache>.lengths/``). Each entry follows
from path, size and time of its file alone, so it does not matter who found it or when. Videos on an object store count
by their bytes, and so do files that promise more frames than they have room for: one that lies about its length would
take a shard alone. Where processes do see different files, because some were added or could not be read for a moment,
their parts may overlap, which claims make harmless, or leave videos out, which ``extract status`` shows.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from extract.video import UnreadableFile, VideoError, open_video, source_stamp
from shared.cache.folder import Folder
from shared.manifest import Manifest, Video

THREADS = 8
NOTED_FROM = 500  # opening fewer containers takes a second or two
USUAL_RATE = 25.0  # frames/s, for a table that has the duration only
USUAL_FRAMES_PER_BYTE = 1 / 5000  # where no video has both, but some have frames
# A black picture that never changes takes 21 to 52 bytes a frame in H.264, HEVC, VP9, AV1 and MPEG-4 (64x64, measured).
MIN_FRAME_BYTES = 10
MAX_SHARDS = 1_000_000
PAUSE_S = 0.5
Progress = Callable[[int, int], None]
Key = tuple[str, int, int]  # path, bytes, mtime_ns


class Length(NamedTuple):
    """Of one video: frames, None if it does not say; bytes of its file where they were looked at."""

    frames: float | None
    num_bytes: int = 0


UNKNOWN = Length(None)


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (1 to ``count``) of ``count``."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Split:
    """A data set in parts.

    Attributes:
        parts: ids of videos, per shard.
        weights: id -> frames, about.
        mark: the same in every process that split the same videos in the same way.
    """

    parts: tuple[tuple[str, ...], ...]
    weights: Mapping[str, float]
    mark: str

    def of(self, manifest: Manifest, shard: Shard) -> Manifest:
        """The data set with the videos of one shard only."""
        mine = frozenset(self.parts[shard.number - 1])
        return replace(manifest, videos=tuple(v for v in manifest.videos if v.id in mine))

    def words(self, shard: Shard) -> str:
        """What a shard has of the whole."""
        mine = self.parts[shard.number - 1]
        frames, total = sum(self.weights[v] for v in mine), sum(self.weights.values())
        return (
            f"shard {shard} of split {self.mark}: {len(mine)} of {len(self.weights)} videos, about "
            f"{frames / max(total, 1e-9):.1%} of the frames"
        )


def parse_shard(text: str) -> Shard:
    """ "2/4" as a shard.

    Raises:
        ValueError: not of that form, not from 1 to the number of shards, or more shards than ``MAX_SHARDS``.
    """
    number, _, count = text.strip().partition("/")
    if number.isdecimal() and count.isdecimal() and max(len(number), len(count)) <= 9:
        shard = Shard(int(number), int(count))
        if 1 <= shard.number <= shard.count <= MAX_SHARDS:
            return shard
    raise ValueError(
        f"--shard: expected i/n with i from 1 to n and n up to {MAX_SHARDS}, such as 1/4, 2/4, 3/4 and 4/4 for four "
        f"processes; found {text[:40]!r}"
    )


def split(manifest: Manifest, count: int, url: str, progress: Progress = lambda done, total: None) -> Split:
    """Split a data set.

    Args:
        url: its cache, beside which lengths of many videos are kept.
        progress: gets (done, total) while containers are opened.

    Raises:
        RemoteError: the object store does not say how large its videos are.
    """
    weights = _weights(manifest, url, progress)
    digest = hashlib.sha256(json.dumps([count, sorted(weights.items())]).encode()).hexdigest()
    return Split(balanced(weights, count), weights, digest[:8])


def balanced(weights: Mapping[str, float], count: int) -> tuple[tuple[str, ...], ...]:
    """Ids in ``count`` parts of about the same weight; none has more than the mean and the heaviest id."""
    parts: list[list[str]] = [[] for _ in range(count)]
    # Videos without a weight are spread, too: the number of videos decides between equal loads.
    loads = [(0.0, 0, place) for place in range(count)]
    for name in sorted(weights, key=lambda name: (-weights[name], name)):
        load, videos, place = loads[0]
        parts[place].append(name)
        heapq.heapreplace(loads, (load + weights[name], videos + 1, place))
    return tuple(tuple(sorted(part)) for part in parts)


def _weights(manifest: Manifest, url: str, progress: Progress) -> dict[str, float]:
    """Video id -> frames, about; whole numbers, so that sums do not depend on their order."""
    lengths = {v.id: Length(frames) for v in manifest.videos if (frames := _from_table(v)) is not None}
    rest = [v for v in manifest.videos if v.id not in lengths]
    if rest and manifest.remote is not None:
        listing = manifest.remote.files()
        sizes = {v.id: int(listing.get(v.path, {}).get("bytes", 0)) for v in manifest.videos}
        lengths = {v.id: Length(lengths.get(v.id, UNKNOWN).frames, sizes[v.id]) for v in manifest.videos}
    elif rest:
        lengths |= _from_containers(manifest, rest, url, progress)
    both = [(found.frames, found.num_bytes) for found in lengths.values() if found.frames and found.num_bytes]
    rate = sum(frames for frames, _ in both) / sum(size for _, size in both) if both else 1.0
    if not both and any(found.frames for found in lengths.values()):
        rate = USUAL_FRAMES_PER_BYTE
    return {
        v: float(round(found.num_bytes * rate if found.frames is None else found.frames))
        for v, found in lengths.items()
    }


def _from_table(video: Video) -> float | None:
    if video.frames is None and video.duration_s is not None:
        return video.duration_s * (video.fps or USUAL_RATE)
    return video.frames


def _from_containers(manifest: Manifest, videos: Sequence[Video], url: str, progress: Progress) -> dict[str, Length]:
    folder = Folder(f"{url.rstrip('/')}.lengths")
    noted, found = _read_notes(folder), {}
    new: dict[Key, Length] = {}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="length") as pool:
        results = pool.map(lambda video: _from_container(manifest.local_file(video), video, noted), videos)
        for video, (key, length) in zip(videos, results, strict=True):
            found[video.id] = length
            if key is not None and key not in noted:
                new[key] = length
            progress(len(found), len(videos))
    if len(new) >= NOTED_FROM:
        with suppress(OSError, ValueError):  # the next process finds it out by itself
            _write_notes(folder, new)
    return found


def _from_container(file: Path, video: Video, noted: Mapping[Key, Length]) -> tuple[Key | None, Length]:
    """A file that cannot be opened has no frames; one that does not say how many, or lies, counts by its bytes."""
    for last_try in (False, True):
        try:
            stamp = source_stamp(file)
            key = (video.path, stamp["bytes"], stamp["mtime_ns"])
            if key in noted:
                return key, noted[key]
            with open_video(file, video.fps) as opened:
                frames = opened.promised_frames or round(opened.duration_s * opened.fps)
            return key, Length(frames if frames and _has_room(stamp["bytes"], frames) else None, stamp["bytes"])
        except UnreadableFile:  # perhaps only now, and other processes would split otherwise
            if last_try:
                break
            time.sleep(PAUSE_S)
        except VideoError:
            return key, Length(0, stamp["bytes"])
    return None, Length(0)


def _read_notes(folder: Folder) -> dict[Key, Length]:
    noted: dict[Key, Length] = {}
    try:
        names = sorted(folder.sizes())
    except OSError:
        return noted
    for name in names:
        with suppress(OSError, ValueError):  # a damaged file is as good as none
            for line in (folder.read(name) or b"").decode().splitlines():
                noted.update(_parse_note(line))
    return noted


def _parse_note(line: str) -> dict[Key, Length]:
    """A line of a file that anything may have happened to; nothing if it cannot be what was written."""
    try:
        path, num_bytes, mtime_ns, frames = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return {}
    if not (isinstance(path, str) and type(num_bytes) is type(mtime_ns) is int):
        return {}
    if frames is not None and not (type(frames) in (int, float) and _has_room(num_bytes, frames)):
        return {}
    return {(path, num_bytes, mtime_ns): Length(frames, num_bytes)}


def _has_room(num_bytes: int, frames: float) -> bool:
    """Whether so many frames can be in a file; not for NaN, infinity and less than none."""
    return frames >= 0 and frames * MIN_FRAME_BYTES <= num_bytes


def _write_notes(folder: Folder, new: Mapping[Key, Length]) -> None:
    text = "".join(json.dumps([*key, length.frames]) + "\n" for key, length in sorted(new.items()))
    # Named by what is in it: processes that start together find the same, and leave one file.
    folder.write(f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl", text.encode())


__all__ = ["MAX_SHARDS", "Shard", "Split", "balanced", "parse_shard", "split"]
