"""Is a downloaded data set usable? Videos and official label files, matched and counted without decoding anything.

The manifest says which files belong to the data set, so what is reported here is what extraction and training will use.
Frame counts come from containers, which promise a few frames more or less than they hold, unless a cache knows better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from extract.video import VideoError, open_video
from shared.cache import FeatureCache
from shared.labels.annotations import LabelError, annotation_files, is_stray, track_to_video
from shared.labels.formats import FORMATS, read_labels
from shared.manifest import Manifest
from shared.videos.names import VIDEO_SUFFIXES

# Tracks of the published editions, to tell an incomplete download.
OFFICIAL_TRACKS: Mapping[tuple[str, str, str], int] = {
    ("affwild2", "va", "train"): 356,
    ("affwild2", "va", "val"): 76,
    ("affwild2", "expr", "train"): 248,
    ("affwild2", "expr", "val"): 70,
    ("affwild2", "au", "train"): 295,
    ("affwild2", "au", "val"): 105,
    ("dvd", "violence", "train"): 103,
    ("dvd", "violence", "val"): 17,
}


@dataclass
class Part:
    """The label files of one split of one task.

    Attributes:
        task, split: whose.
        files: label files found, strays left out.
        official: how many the published edition has; None if that is not known.
        tracks: usable track -> its video.
        rows, invalid: label rows of the usable tracks, and those without a valid label.
        without_video: tracks whose video is not there.
        refused: what is wrong with each file that cannot be used.
        off: usable track -> label rows minus frames; tracks of videos with unknown length are left out.
    """

    task: str
    split: str
    files: int = 0
    official: int | None = None
    tracks: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    invalid: int = 0
    without_video: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    off: dict[str, int] = field(default_factory=dict)


@dataclass
class Checkup:
    """What was found below a root.

    Attributes:
        name, root: of the data set.
        places: folder of videos -> file ending ("folder" for pictures) -> how many.
        broken: why a video cannot be opened, one line each.
        parts: the labels of every task and split.
        unlabelled: videos without a label of any task.
        strays: names that file systems leave, and how often.
        others: files beside videos or labels that are neither.
        crops: folder with face crops -> number of tracks in it.
        mixed: tracks that one task trains on and another tests.
        crossing: groups that lie in train and val of one task.
        counted: where frame counts come from, in words.
    """

    name: str
    root: Path
    counted: str
    places: dict[str, Counter[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    strays: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    crops: dict[str, int] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)
    crossing: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 all that is there is usable, 1 some is not, 2 nothing is."""
        if not any(part.tracks for part in self.parts):
            return 2
        unusable = self.broken or self.crossing or any(p.without_video or p.refused for p in self.parts)
        return 1 if unusable else 0


def examine(manifest: Manifest, cache: FeatureCache | None = None) -> Checkup:
    """Look at every video and every label file of a data set.

    Args:
        manifest: with tasks in official formats.
        cache: features that were extracted already: their frame counts are exact.
    """
    found = Checkup(manifest.name, manifest.root, "as decoded" if cache is not None else "about, by container")
    frames = _look_at_videos(manifest, cache, found)
    seen: dict[tuple[str, str], str] = {}
    for task, source in manifest.tasks.items():
        if source.format not in FORMATS:  # a table, or files of an annotation tool
            continue
        for split, patterns in source.files.items():
            part = Part(task, split, official=OFFICIAL_TRACKS.get((manifest.name, task, split)))
            files = annotation_files(manifest.root, patterns)
            part.files = len(files)
            for file in files:
                _look_at_labels(file, source.format, part, frames, seen)
            found.parts.append(part)
            _look_beside({f.parent for f in files}, {f.name for f in files}, found)
    _compare_parts(manifest, found)
    return found


def _look_at_videos(manifest: Manifest, cache: FeatureCache | None, found: Checkup) -> dict[str, int]:
    """Usable video -> frames, 0 if nobody knows."""
    frames: dict[str, int] = {}
    for video in manifest.videos:
        file = manifest.local_file(video)
        kind = "folder" if file.is_dir() else file.suffix.lower().lstrip(".")
        found.places.setdefault(str(Path(video.path).parent), Counter())[kind] += 1
        info = cache.info(video.id) if cache is not None else None
        if info is not None:
            frames[video.id] = info.num_frames
            continue
        try:
            with open_video(file) as opened:
                frames[video.id] = opened.promised_frames
        except VideoError as error:
            found.broken.append(f"{video.path}: {error}")
    parents = {manifest.local_file(v).parent for v in manifest.videos}
    names = {manifest.local_file(v).name for v in manifest.videos}
    _look_beside({p for p in parents if p.is_dir()}, names, found)
    for pattern in ("cropped*", "*/cropped*"):
        for folder in sorted(p for p in manifest.root.glob(pattern) if p.is_dir() and not is_stray(p)):
            tracks = [p for p in folder.iterdir() if p.is_dir() and not is_stray(p)]
            found.crops[folder.relative_to(manifest.root).as_posix()] = len(tracks)
    return frames


def _look_beside(folders: set[Path], known: set[str], found: Checkup) -> None:
    """Note what lies beside the files that are used."""
    for folder in sorted(folders):
        for path in folder.iterdir():
            if is_stray(path):
                found.strays["._*" if path.name.startswith("._") else path.name] += 1
            elif path.name not in known and not path.is_dir() and path.suffix.lower() not in VIDEO_SUFFIXES:
                found.others.append(path.relative_to(found.root).as_posix())


def _look_at_labels(
    file: Path, form: str, part: Part, frames: Mapping[str, int], seen: dict[tuple[str, str], str]
) -> None:
    """Read one label file into its part. Anything that training would refuse is a line in `refused`."""
    track = file.stem
    try:
        labels = read_labels(file, form)  # (L, K)
    except (LabelError, OSError) as error:
        part.refused.append(str(error))
        return
    if (part.task, track) in seen:
        part.refused.append(f"{file}: track {track!r} is annotated twice, also in {seen[part.task, track]}")
        return
    seen[part.task, track] = str(file)
    video = track_to_video(track, frames)
    if video is None:
        part.without_video.append(track)
        return
    part.tracks[track] = video
    part.rows += len(labels)
    part.invalid += int((~np.isfinite(labels).all(axis=1)).sum())
    if frames[video]:
        part.off[track] = len(labels) - frames[video]


def _compare_parts(manifest: Manifest, found: Checkup) -> None:
    """Videos without labels, tracks on both sides of two tasks, groups on both sides of one."""
    used = {video for part in found.parts for video in part.tracks.values()}
    found.unlabelled = [v.id for v in manifest.videos if v.id not in used]
    group_of = {v.id: v.group for v in manifest.videos}
    trained = {t for part in found.parts if part.split == "train" for t in part.tracks}
    tested = {t for part in found.parts if part.split != "train" for t in part.tracks}
    found.mixed = sorted(trained & tested)
    for task in dict.fromkeys(part.task for part in found.parts):
        sides: dict[str, set[str]] = {}
        for part in found.parts:
            if part.task == task:
                for video in part.tracks.values():
                    sides.setdefault(group_of[video], set()).add(part.split)
        found.crossing += [f"{task}: {group}" for group, splits in sorted(sides.items()) if len(splits) > 1]
