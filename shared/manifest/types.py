"""What a manifest is read into: a data set, its videos and where its labels are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.manifest.table import LabelTable, Segment
from shared.names import printable
from shared.videos.remote import RemoteFile, RemoteRoot, Source

MAX_SHOWN = 20


class ManifestError(ValueError):
    """Everything that is wrong with a manifest, each with its place."""

    def __init__(self, source: str, problems: list[str], hint: str = "") -> None:
        self.problems = problems
        shown = [f"  {printable(p)}" for p in problems[:MAX_SHOWN]]
        if len(problems) > MAX_SHOWN:
            shown.append(f"  ... and {len(problems) - MAX_SHOWN} more")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{source}: {count}\n" + "\n".join(shown) + (f"\n\n{hint}" if hint else ""))


@dataclass(frozen=True)
class Video:
    """One video of a data set.

    Attributes:
        id: unique, safe as a file and group name.
        path: posix path below the root: a video file or a folder of numbered images.
        group: videos of one group never cross folds.
        split: "train", "val", "test" or None.
        fold: given fold number, or None.
        fps: frame rate of a frame folder, or None.
        frames, duration_s: length as the table has it, or None; shards are balanced by it, nothing else.
    """

    id: str
    path: str
    group: str
    split: str | None = None
    fold: int | None = None
    fps: float | None = None
    frames: float | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class TaskSource:
    """Where the labels of one task are.

    Attributes:
        format: name of a label reader of the train stage, or "table".
        files: split name ("train", "val") -> glob patterns below the root; empty for "table".
        segments: labelled segments, for "table".
        in_frames: the table's header says itself that start and end are frames.
        background: the label of frames between the segments of a video; None: they are not annotated.
        declared: what a manifest says of a task of its own (shared/manifest/tasks.py), lists as tuples.
    """

    format: str
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    in_frames: bool = False
    declared: Mapping[str, Any] = field(default_factory=dict)
    background: float | None = None


@dataclass(frozen=True)
class Manifest:
    """A validated data set.

    Attributes:
        name: names the cache and the runs.
        root: folder of the data; of annotation files only, where the videos are at a URL.
        videos: sorted by id.
        tasks: task name -> where its labels are.
        source: the file, folder or URL it was read from.
        layout: which files go where, in words.
        note: shown wherever numbers of this data set appear.
        remote: where the videos are, if that is an object store.
        notes: what was passed over and why, and whatever else is no mistake but must be told once.
        table: its rows as they stand, for labels in columns of one's own.
    """

    name: str
    root: Path
    videos: tuple[Video, ...]
    tasks: Mapping[str, TaskSource]
    source: Path | str
    layout: str = ""
    note: str = ""
    remote: RemoteRoot | None = None
    notes: tuple[str, ...] = ()
    table: LabelTable | None = None

    def file(self, video: Video) -> Source:
        """The video's file or folder on this machine, or its object on a store."""
        return self.root / video.path if self.remote is None else RemoteFile(self.remote, video.path)

    def local_file(self, video: Video) -> Path:
        """``file``, for what needs it on a disk.

        Raises:
            ValueError: it is on an object store.
        """
        if self.remote is not None:
            raise ValueError(
                f"the videos of {self.name} are at {self.remote.url}; only 'run' reads them there. Give a folder with "
                "copies: --root FOLDER"
            )
        return self.root / video.path
