"""Label files of annotation tools as the rows of a table, matched to the videos of a data set.

A tier, track or attribute is a column, and each of its annotations a row. A file names its video, or is called like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from shared.labels.annotations import annotation_files, track_to_video
from shared.labels.tools.table import TOOLS, read_tool
from shared.labels.tools.types import Mark, ToolFile
from shared.manifest import LabelTable, Manifest, Segment
from shared.manifest.tasks import BY_ENDING

UNNAMED = "label"  # the column of a format that has only one
# Files that are taken from a folder of videos without being asked for: their endings mean nothing else.
PLAIN = ("**/*.eaf", "**/*.vtt", "**/*.srt")
SHOWN = 5


@dataclass
class ToolLabels:
    """What tools say of a data set.

    Attributes:
        table: a row per annotation, one cell of which is filled.
        notes: what was read, and what could not be matched.
        splits: video id -> part of the pattern that its file matched, if that is "train", "val" or "test".
    """

    table: LabelTable
    notes: list[str] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)


def read_label_files(manifest: Manifest, patterns: Mapping[str, Sequence[str]], format_name: str | None) -> ToolLabels:
    """All label files that match.

    Args:
        manifest: the data set; patterns are below its root.
        patterns: part ("train", "val", "test", or "" for none) -> patterns.
        format_name: of ``TOOLS``; None: each file by its ending.

    Raises:
        ValueError: no file matches, or none names a video of the data set.
        LabelError: a file is wrong; the place is named.
    """
    found = ToolLabels(LabelTable("labels", [], {}))
    rows: list[tuple[Mark, str, float | None]] = []
    files, lost = 0, []
    names = _names_of_videos(manifest)
    for part, own in patterns.items():
        for file in annotation_files(manifest.root, tuple(own)):
            files += 1
            tools = read_tool(file, format_name)
            for one in tools:
                video_id = _video_of(one, names) or (_called_like(file, manifest) if len(tools) == 1 else None)
                if video_id is None:
                    lost.append(f"{file.name} ({', '.join(one.media[:1]) or 'names no video'})")
                    continue
                rows += [(mark, video_id, one.fps) for mark in one.marks]
                if part:
                    found.splits[video_id] = part
    if not files:
        wanted = ", ".join(p for own in patterns.values() for p in own)
        raise ValueError(f"no label file below {manifest.root} matches {wanted}")
    if not rows:
        raise ValueError(
            f"{files} label files, but none has an annotation of a video of the data set: {', '.join(lost[:SHOWN])}. A "
            "file names its video, or is called like it"
        )
    found.notes.append(f"{len(rows)} annotations out of {files} label files")
    if lost:
        more = " ..." if len(lost) > SHOWN else ""
        found.notes.append(f"{len(lost)} label files are of no video here: {', '.join(lost[:SHOWN])}{more}")
    _fill(found.table, rows)
    return found


def _fill(table: LabelTable, rows: Iterable[tuple[Mark, str, float | None]]) -> None:
    rows = list(rows)
    table.columns.update({mark.column or UNNAMED: [] for mark, _, _ in rows})
    # Where nobody has written anything into the annotations of a tier, that they are there is what they say.
    silent = set(table.columns) - {mark.column or UNNAMED for mark, _, _ in rows if mark.value}
    for mark, video_id, fps in rows:
        column = mark.column or UNNAMED
        for name, cells in table.columns.items():
            cells.append((mark.value or "yes" * (name in silent)) if name == column else "")
        if mark.frames is not None:
            start, end = mark.frames
            table.segments.append(Segment(video_id, start, end, (), mark.where, False, fps))
        else:
            table.segments.append(Segment(video_id, mark.start_s or 0.0, mark.end_s, (), mark.where, True))


def _names_of_videos(manifest: Manifest) -> dict[str, str]:
    """What a file may call a video -> its id; names that two videos share are left out."""
    found: dict[str, str] = {}
    shared: set[str] = set()
    for video in manifest.videos:
        path = PurePosixPath(video.path)
        for name in {video.path, path.name, path.stem, video.id}:
            if found.setdefault(name.casefold(), video.id) != video.id:
                shared.add(name.casefold())
    return {name: video_id for name, video_id in found.items() if name not in shared}


def _video_of(tool: ToolFile, names: Mapping[str, str]) -> str | None:
    for media in tool.media:
        path = PurePosixPath(media.replace("\\", "/"))
        parts = [part for part in path.parts if part not in ("/", ".", "..")]
        tried = ["/".join(parts[n:]) for n in range(len(parts))]  # the whole path, then less and less of it
        for name in [*tried, path.stem]:
            if name.casefold() in names:
                return names[name.casefold()]
    return None


def _called_like(file: Path, manifest: Manifest) -> str | None:
    ids = {video.id: video for video in manifest.videos}
    stems = {PurePosixPath(video.path).stem: video.id for video in manifest.videos}
    return track_to_video(file.stem, ids) or stems.get(file.stem)


# ------------------------------------------------------------------ several labels at once


def presence(table: LabelTable, columns: Sequence[str], values: Sequence[str] | None) -> list[Segment]:
    """Where annotations lie, as yes and no of every output: segments that do not overlap and cover each video.

    Args:
        table: rows of a tool.
        columns: each is an output, whatever its annotations say; or the one column of ``values``.
        values: each is an output of that column.
    """
    marks: dict[str, list[tuple[Segment, int]]] = {}
    for row, segment in enumerate(table.segments):
        for k, column in enumerate(columns):
            if text := table.columns[column][row]:
                output = k if values is None else values.index(text)
                marks.setdefault(segment.video_id, []).append((segment, output))
    width, found = len(columns if values is None else values), []
    for video_id, own in marks.items():
        edges = sorted({0.0, *(s.start for s, _ in own), *(s.end for s, _ in own if s.end is not None)})
        for start, end in zip(edges, [*edges[1:], None], strict=True):
            here = {k for s, k in own if s.start <= start and (s.end is None or s.end > start)}
            cells = tuple(float(k in here) for k in range(width))
            found.append(replace(own[0][0], start=start, end=end, values=cells, video_id=video_id))
    return found


__all__ = ["BY_ENDING", "PLAIN", "TOOLS", "ToolLabels", "presence", "read_label_files"]
