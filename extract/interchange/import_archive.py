"""An HDF5 file of ``extract export`` -> a cache that holds the same, array for array and attribute for attribute.

Every array is compared with its sha256 before it is written. Axes: as in shared/cache/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extract.interchange.external_facts import MAX_FRAMES
from extract.interchange.hdf5_layout import FORMAT, FORMAT_VERSION, VIDEOS, FeatureFileError
from extract.interchange.hdf5_reading import (
    attributes,
    is_export,
    names_in,
    numbers,
    open_hdf5,
    subgroup,
    texts,
    values,
)
from extract.interchange.video_facts import facts_problem
from extract.interchange.writing import whole_stream
from shared.cache import FeatureCache, RecipeMismatch, VideoInfo
from shared.cache.arrays import STRING_ARRAYS, checksum
from shared.cache.seals import SEAL, sealed, stream_seal, video_seal
from shared.cache.verify import attributes_digest
from shared.names import name_key, name_problem, unknown_name
from shared.recipe import fingerprint
from shared.windows import WindowSpec

NO_SEALS = (
    "the file was exported by an earlier version and has no seals: that no video or stream in it was moved or renamed, "
    "and no fact of a video changed, cannot be told; where the cache is still there, export it again"
)


@dataclass(frozen=True)
class ArchiveFacts:
    """What a file says of itself.

    Attributes:
        window: of the cache that was exported, without streams that were imported into it.
        imported: those, with their samples per window.
        sealed: whether everything in it carries a seal; exports of earlier versions have none.
    """

    dataset: str
    window: WindowSpec
    imported: dict[str, int]
    made_with: dict[str, Any]
    sealed: bool


@dataclass(frozen=True)
class ArchiveMarks:
    """What a file says of one stream of one video, checked."""

    kind: str
    recipe: dict[str, Any]
    checksums: dict[str, str]


@dataclass(frozen=True)
class ArchiveStream(ArchiveMarks):
    """The same with its arrays by name, checked as well."""

    arrays: dict[str, np.ndarray]


def is_archive(place: Path) -> bool:
    """Whether this is an HDF5 file that ``extract export`` wrote.

    Raises:
        FeatureFileError: it is no HDF5 file.
    """
    with open_hdf5(place) as file:
        return is_export(file)


def import_archive(
    place: Path,
    cache_of: Callable[[ArchiveFacts], FeatureCache] | None,
    *,
    streams: Sequence[str] | None = None,
    known: Collection[str] | None = None,
    overwrite: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, list[str]]:
    """Check and store every stream; safe to interrupt and to repeat.

    What the file says of videos and streams is checked before the cache is opened, arrays as they are read.

    Args:
        cache_of: opens the cache to write to; None only checks.
        streams: names to take; None takes all.
        known: ids of the manifest's videos; None takes any.
        overwrite: streams to replace where they are of another recipe.
        tell: gets what a reader must know of the file.

    Returns:
        Video id -> the streams that were written, or would be.

    Raises:
        FeatureFileError: the file is not what it should be.
        RecipeMismatch: a stream is there already and was made in another way, or with other numbers.
    """
    written: dict[str, list[str]] = {}
    with open_hdf5(place) as file:
        facts = _facts(file)
        videos = subgroup(file, VIDEOS)
        names = _video_names(videos, known)
        chosen = {v: _stream_names(subgroup(videos, v), streams) for v in names}
        if streams and (lost := set(streams) - set().union(*chosen.values())):
            has = {s for v in names for s in _stream_names(subgroup(videos, v), None)}
            raise FeatureFileError(f"{place}: {unknown_name('stream', sorted(lost)[0], has)}")
        for video, wanted in chosen.items():
            info = _info(subgroup(videos, video), facts, video)
            for stream in wanted:
                _marks(subgroup(subgroup(videos, video), stream), info, facts, video, stream)
        if not facts.sealed:
            tell(NO_SEALS)
        cache = cache_of(facts) if cache_of else None
        for number, (video, wanted) in enumerate(chosen.items(), 1):
            info = _info(subgroup(videos, video), facts, video)
            for stream in wanted:
                found = _stream(subgroup(subgroup(videos, video), stream), info, facts, video, stream)
                if cache is None or _store(cache, video, info, stream, found, stream in overwrite):
                    written.setdefault(video, []).append(stream)
            progress(number, len(chosen))
    return written


def _facts(file: h5py.File) -> ArchiveFacts:
    place = file.filename
    marks = attributes(file)
    if marks.get("format") != FORMAT or marks.get("format_version") != FORMAT_VERSION:
        raise FeatureFileError(
            f"{place}: expected format {FORMAT} version {FORMAT_VERSION}, found {marks.get('format')!r} version "
            f"{marks.get('format_version')!r}; export it again with this version of crossgru"
        )
    imported = marks.get("imported", {})
    try:
        window = WindowSpec.from_dict(marks["window"])
        own = {s: n for s, n in window.samples.items() if s not in imported}
        window = WindowSpec(window.size, window.stride, own, window.sampling)
        made_with = dict(marks.get("made_with", {}))
        if SEAL in marks and sealed(marks)[SEAL] != marks[SEAL]:
            raise ValueError("they were changed since they were written")
        return ArchiveFacts(str(marks["dataset"]), window, dict(imported), made_with, SEAL in marks)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FeatureFileError(f"{place}: its attributes are damaged ({error}); export it again") from None


def _video_names(videos: h5py.Group, known: Collection[str] | None) -> list[str]:
    problems, seen = [], set()
    found = names_in(videos)
    for name in found:
        if problem := name_problem(name):
            problems.append(problem)
        elif known is not None and name not in known:
            problems.append(unknown_name("video", name, known) if len(known) < 20 else f"unknown video {name!r}")
        elif name_key(name) in seen:
            problems.append(f"id {name!r} differs from another one in case only")
        seen.add(name_key(name))
    if problems:
        raise FeatureFileError(f"{videos.file.filename}: {len(problems)} problems\n  " + "\n  ".join(problems[:20]))
    if not seen:
        raise FeatureFileError(f"{videos.file.filename}: expected videos, found none")
    return found


def _stream_names(video: h5py.Group, wanted: Sequence[str] | None) -> list[str]:
    names = [n for n in names_in(video) if n not in ("pts", "starts")]
    for name in names:
        if problem := name_problem(name):
            raise FeatureFileError(f"{video.file.filename}: {video.name}: {problem}")
    return sorted(n for n in names if wanted is None or n in wanted)


def _info(group: h5py.Group, facts: ArchiveFacts, video: str) -> VideoInfo:
    where = f"{group.file.filename}: {group.name}"
    marks = attributes(group)
    stored = numbers(group, "pts", kinds="f", num_axes=(1,))
    if not 1 <= len(stored) <= MAX_FRAMES or len(stored) != marks.get("num_frames"):
        raise FeatureFileError(f"{where}: {len(stored)} times for {marks.get('num_frames')} frames; export it again")
    pts = values(stored).astype(np.float64)
    checks = marks.pop("checksums", None)
    if not isinstance(checks, dict) or checksum(pts) != checks.get("pts") or not np.isfinite(pts).all():
        raise FeatureFileError(f"{where}/pts: damaged (its sha256 differs); copy or export the file again")
    seal = marks.pop(SEAL, None)
    if problem := facts_problem(marks):
        raise FeatureFileError(f"{where}: the facts of the video are damaged ({problem}); export it again")
    if (facts.sealed or "attributes" in checks) and attributes_digest(marks) != checks.get("attributes"):
        raise FeatureFileError(
            f"{where}: the facts of the video are damaged (source, fps, ... changed since they were written); export "
            "it again"
        )
    _check_seal(seal, video_seal(video, checks), facts, where)
    return VideoInfo(pts=pts, **marks)


def _check_seal(found: Any, expected: str, facts: ArchiveFacts, where: str) -> None:
    if found != expected and (facts.sealed or found is not None):
        raise FeatureFileError(
            f"{where}: not what was written here (moved or renamed from another place, or its metadata were changed); "
            "export it again"
        )


def _marks(group: h5py.Group, info: VideoInfo, facts: ArchiveFacts, video: str, stream: str) -> ArchiveMarks:
    where = f"{group.file.filename}: {group.name}"
    marks = attributes(group)
    kind, recipe, checks = marks.get("kind"), marks.get("recipe"), marks.get("checksums")
    expected = {"window": {"features"}, "timeline": {"features", "frames"}}.get(str(kind))
    if expected is None or not isinstance(recipe, dict) or not isinstance(checks, dict):
        raise FeatureFileError(f"{where}: kind, recipe or checksums are damaged; export it again")
    if fingerprint(recipe) != marks.get("fingerprint") or checks.keys() - set(STRING_ARRAYS) != expected:
        raise FeatureFileError(f"{where}: the recipe does not match its fingerprint, or arrays are missing")
    features = numbers(group, "features", kinds="f", num_axes=(3,) if kind == "window" else (2,))
    window = WindowSpec(
        facts.window.size, facts.window.stride, {**facts.window.samples, **facts.imported}, facts.window.sampling
    )
    most = len(window.starts(info.num_frames)) if kind == "window" else info.num_frames
    if features.dtype != np.float16 or len(features) > most:
        raise FeatureFileError(
            f"{where}: expected float16 and at most {most} rows, found {features.dtype} {features.shape}"
        )
    marks = {"kind": str(kind), "recipe": recipe, "checksums": checks, SEAL: marks.get(SEAL)}
    _check_seal(marks[SEAL], stream_seal(f"{video}/{stream}", marks, features.shape), facts, where)
    return ArchiveMarks(str(kind), recipe, checks)


def _stream(group: h5py.Group, info: VideoInfo, facts: ArchiveFacts, video: str, stream: str) -> ArchiveStream:
    where = f"{group.file.filename}: {group.name}"
    marks = _marks(group, info, facts, video, stream)
    kind, checks = marks.kind, marks.checksums
    features = numbers(group, "features", kinds="f", num_axes=(3,) if kind == "window" else (2,))
    arrays = {"features": values(features)}
    if kind == "timeline":
        stored = numbers(group, "frames", kinds="iu", num_axes=(1,))
        if len(stored) != len(features):
            raise FeatureFileError(f"{where}: {len(stored)} frames for {len(features)} rows")
        arrays["frames"] = values(stored).astype(np.int32)
        _check_frames(arrays["frames"], info, where)
    for name in sorted(checks.keys() & set(STRING_ARRAYS)):
        arrays[name] = texts(group, name)
    for name, array in arrays.items():
        if len(array) != len(features) or checksum(array) != checks.get(name):
            raise FeatureFileError(f"{where}/{name}: damaged (its sha256 differs); copy or export the file again")
    return ArchiveStream(kind, marks.recipe, checks, arrays)


def _check_frames(frames: np.ndarray, info: VideoInfo, where: str) -> None:
    if (np.diff(frames) <= 0).any() or frames[0] < 0 or frames[-1] >= info.num_frames:
        raise FeatureFileError(f"{where}/frames: expected ascending frames below {info.num_frames}")


def _store(cache: FeatureCache, video: str, info: VideoInfo, stream: str, found: ArchiveStream, replace: bool) -> bool:
    """Whether the stream had to be written."""
    if cache.has(video, stream, None if replace else found.recipe):
        same = cache.streams(video)[stream] == found.recipe and cache.checksums(video, stream) == found.checksums
        if same:
            return False
        if not replace:
            raise RecipeMismatch(
                f"stream {stream!r} of video {video!r} is in {cache.url} already, by the same recipe and with other "
                f"numbers; give another cache (--cache NEW.zarr), or replace it: --overwrite {stream}"
            )
    cache.write_info(video, info)
    strings = {name: found.arrays[name].tolist() for name in STRING_ARRAYS if name in found.arrays}
    with whole_stream(cache, video, stream, found.kind, found.recipe) as writer:
        writer.append(found.arrays["features"], found.arrays.get("frames"), **strings)
    return True
