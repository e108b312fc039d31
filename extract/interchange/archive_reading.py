"""An HDF5 file of ``extract export``, read with care: every part is compared with what was noted when it was written.

Axes: as in shared/cache/__init__.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.interchange.hdf5_file import Group
from extract.interchange.hdf5_layout import FORMAT, FORMAT_VERSION, VIDEOS, FeatureFileError, contents_of
from extract.interchange.video_facts import MAX_FRAMES, facts_problem
from shared.cache import VideoInfo
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
NO_CONTENTS = (
    "the file was exported by an earlier version and does not say how many videos and streams it has: that none was "
    "removed cannot be told; where the cache is still there, export it again"
)


@dataclass(frozen=True)
class ArchiveFacts:
    """What a file says of itself.

    Attributes:
        window: of the cache that was exported, without streams that were imported into it.
        imported: those, with their samples per window.
        sealed: whether everything in it carries a seal; exports of earlier versions have none.
        contents: how many videos, and how many of each stream, it has; None in exports of earlier versions.
    """

    dataset: str
    window: WindowSpec
    imported: dict[str, int]
    made_with: dict[str, Any]
    sealed: bool
    contents: dict[str, Any] | None


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


@dataclass(frozen=True)
class Archive:
    """An open file.

    Attributes:
        facts: of the file as a whole.
        chosen: video id -> the streams that are to be taken.
    """

    facts: ArchiveFacts
    chosen: dict[str, list[str]]
    videos: Group

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the file."""
        if not self.facts.sealed:
            return [NO_SEALS]
        return [NO_CONTENTS] if self.facts.contents is None else []

    def info(self, video: str) -> VideoInfo:
        """Facts of a video, checked.

        Raises:
            FeatureFileError: they are damaged.
        """
        return _info(self.videos.group(video), self.facts, video)

    def marks(self, video: str, stream: str, info: VideoInfo) -> ArchiveMarks:
        """What is noted of a stream, checked; errors as of ``info``."""
        return _marks(self.videos.group(video).group(stream), info, self.facts, video, stream)

    def stream(self, video: str, stream: str, info: VideoInfo) -> ArchiveStream:
        """A stream with its arrays, checked; errors as of ``info``."""
        return _stream(self.videos.group(video).group(stream), info, self.facts, video, stream)


def open_archive(file: Group, *, streams: Sequence[str] | None = None, known: Collection[str] | None = None) -> Archive:
    """Take an open file for an export, and see that all its videos and streams are there.

    Args:
        streams: names to take; None takes all.
        known: ids of the manifest's videos; None takes any.

    Raises:
        FeatureFileError: the file is not what it should be.
    """
    facts = read_facts(file)
    videos = file.group(VIDEOS)
    found = {v: _stream_names(videos.group(v)) for v in _video_names(videos, known)}
    has = set().union(*found.values())
    if streams and (lost := set(streams) - has):
        raise FeatureFileError(f"{file.file}: {unknown_name('stream', sorted(lost)[0], has)}")
    wanted = set(streams or has)
    _check_contents(file.file, facts, found, None if streams is None else wanted)
    return Archive(facts, {v: [s for s in names if s in wanted] for v, names in found.items()}, videos)


def read_facts(file: Group) -> ArchiveFacts:
    place = file.file
    marks = file.attributes()
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
        contents = marks.get("contents")
        if contents is not None and not isinstance(contents["streams"], dict):
            raise ValueError("contents have no streams")
        return ArchiveFacts(str(marks["dataset"]), window, dict(imported), made_with, SEAL in marks, contents)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FeatureFileError(f"{place}: its attributes are damaged ({error}); export it again") from None


def _video_names(videos: Group, known: Collection[str] | None) -> list[str]:
    problems, seen = [], set()
    found = videos.names()
    for name in found:
        if problem := name_problem(name):
            problems.append(problem)
        elif known is not None and name not in known:
            problems.append(unknown_name("video", name, known) if len(known) < 20 else f"unknown video {name!r}")
        elif name_key(name) in seen:
            problems.append(f"id {name!r} differs from another one in case only")
        seen.add(name_key(name))
    if problems:
        raise FeatureFileError(f"{videos.file}: {len(problems)} problems\n  " + "\n  ".join(problems[:20]))
    if not seen:
        raise FeatureFileError(f"{videos.file}: expected videos, found none")
    return found


def _stream_names(video: Group) -> list[str]:
    names = [n for n in video.names() if n not in ("pts", "starts")]
    for name in names:
        if problem := name_problem(name):
            raise FeatureFileError(f"{video.where}: {problem}")
    return sorted(names)


def _check_contents(
    place: Path, facts: ArchiveFacts, found: dict[str, list[str]], wanted: Collection[str] | None
) -> None:
    """Refuse a file from which videos or streams (of those that are wanted, None: all) were removed, or added to it."""
    if facts.contents is None:
        return
    said, there = facts.contents, contents_of(found)
    streams, own = said["streams"], there["streams"]
    lines = [f"{said.get('videos')} videos, found {there['videos']}"] if said.get("videos") != there["videos"] else []
    for name in sorted({*streams, *own} if wanted is None else wanted):
        if streams.get(name, 0) != own.get(name, 0):
            lines.append(f"{streams.get(name, 0)} videos with stream {name}, found {own.get(name, 0)}")
    if lines:
        raise FeatureFileError(
            f"{place}: expected {'; '.join(lines)}: some were removed or added since it was exported; copy it again, "
            "or export it again"
        )


def _info(group: Group, facts: ArchiveFacts, video: str) -> VideoInfo:
    where = group.where
    marks = group.attributes()
    stored = group.numbers("pts", kinds="f", num_axes=(1,))
    if not 1 <= len(stored) <= MAX_FRAMES or len(stored) != marks.get("num_frames"):
        raise FeatureFileError(f"{where}: {len(stored)} times for {marks.get('num_frames')} frames; export it again")
    pts = stored.values().astype(np.float64)
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


def _marks(group: Group, info: VideoInfo, facts: ArchiveFacts, video: str, stream: str) -> ArchiveMarks:
    where = group.where
    marks = group.attributes()
    kind, recipe, checks = marks.get("kind"), marks.get("recipe"), marks.get("checksums")
    expected = {"window": {"features"}, "timeline": {"features", "frames"}}.get(str(kind))
    if expected is None or not isinstance(recipe, dict) or not isinstance(checks, dict):
        raise FeatureFileError(f"{where}: kind, recipe or checksums are damaged; export it again")
    if fingerprint(recipe) != marks.get("fingerprint") or checks.keys() - set(STRING_ARRAYS) != expected:
        raise FeatureFileError(f"{where}: the recipe does not match its fingerprint, or arrays are missing")
    features = group.numbers("features", kinds="f", num_axes=(3,) if kind == "window" else (2,))
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


def _stream(group: Group, info: VideoInfo, facts: ArchiveFacts, video: str, stream: str) -> ArchiveStream:
    where = group.where
    marks = _marks(group, info, facts, video, stream)
    kind, checks = marks.kind, marks.checksums
    features = group.numbers("features", kinds="f", num_axes=(3,) if kind == "window" else (2,))
    arrays = {"features": features.values()}
    if kind == "timeline":
        stored = group.numbers("frames", kinds="iu", num_axes=(1,))
        if len(stored) != len(features):
            raise FeatureFileError(f"{where}: {len(stored)} frames for {len(features)} rows")
        arrays["frames"] = stored.values().astype(np.int32)
        _check_frames(arrays["frames"], info, where)
    for name in sorted(checks.keys() & set(STRING_ARRAYS)):
        arrays[name] = group.texts(name)
    for name, array in arrays.items():
        if len(array) != len(features) or checksum(array) != checks.get(name):
            raise FeatureFileError(f"{where}/{name}: damaged (its sha256 differs); copy or export the file again")
    return ArchiveStream(kind, marks.recipe, checks, arrays)


def _check_frames(frames: np.ndarray, info: VideoInfo, where: str) -> None:
    if (np.diff(frames) <= 0).any() or frames[0] < 0 or frames[-1] >= info.num_frames:
        raise FeatureFileError(f"{where}/frames: expected ascending frames below {info.num_frames}")
