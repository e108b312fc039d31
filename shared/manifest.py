"""A data set as text: a TOML manifest, optionally with a CSV table of videos, validated as a whole.

    name = "mydata"                      # letters, digits, - and _ (default: the file's own name)
    root = "../data/mydata"              # where the files are; relative to the manifest (default: its folder)
    layout = "..."                       # free text: which files go where; shown when they are missing
    note = "rendered data"               # free text, shown wherever scores of this data set appear

    [videos]                             # which videos; `glob` or `table`
    glob = ["videos/*.mp4"]              # patterns below root; a folder of numbered images matches as one video
    table = "videos.csv"                 # or a CSV below root: columns path [id group split fold fps] and labels
    columns = {path = "clip"}            # the table's own column names, where they differ
    id = "path"                          # "path" (videos/a.mp4 -> videos__a.mp4) or "stem" (a)
    group = '^(scene\\d+)'                # regular expression on the id; groups never cross folds (default: the id)
    split = {train = "a/*", val = "b/*"} # official split by pattern of the whole path; * crosses folders

    [tasks.violence]                     # labels per task
    format = "table"                     # columns label [start end] of the table: one row per video or per segment
    [tasks.va]
    format = "affwild2-va"               # or official annotation files, one per track
    train = "VA/Train_Set/*.txt"         # a pattern, or a list of them
    val = "VA/Validation_Set/*.txt"

A bare CSV or a folder of videos is a data set too: ``load_manifest("clips.csv")``. Every problem is reported at once,
with its place. Unknown keys are errors.
"""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.manifest_files import VIDEO_SUFFIXES, is_frame_folder, is_pattern_below, match_videos
from shared.manifest_table import Problems, Segment, Segments, read_table
from shared.names import name_problem, stays_below, video_id

TABLE_FORMAT = "table"
MAX_SHOWN = 20


class ManifestError(ValueError):
    """Everything that is wrong with a manifest, each with its place."""

    def __init__(self, source: str, problems: list[str], hint: str = "") -> None:
        self.problems = problems
        shown = [f"  {p}" for p in problems[:MAX_SHOWN]]
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
    """

    id: str
    path: str
    group: str
    split: str | None = None
    fold: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class TaskSource:
    """Where the labels of one task are.

    Attributes:
        format: name of a label reader of the train stage, or "table".
        files: split name ("train", "val") -> glob patterns below the root; empty for "table".
        segments: labelled segments, for "table".
    """

    format: str
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A validated data set.

    Attributes:
        name: names the cache and the runs.
        root: folder of the data.
        videos: sorted by id.
        tasks: task name -> where its labels are.
        source: the file or folder it was read from.
        layout: which files go where, in words.
        note: shown wherever numbers of this data set appear.
    """

    name: str
    root: Path
    videos: tuple[Video, ...]
    tasks: Mapping[str, TaskSource]
    source: Path
    layout: str = ""
    note: str = ""

    def file(self, video: Video) -> Path:
        """The video's file or folder on this machine."""
        return self.root / video.path


def load_manifest(source: str | Path, root: str | Path | None = None, *, cached: Collection[str] = ()) -> Manifest:
    """Read and validate a data set.

    Args:
        source: a TOML manifest, a CSV table of videos, a folder of videos or one video file.
        root: overrides the manifest's root.
        cached: paths below the root of videos that are extracted already; they need not exist on this machine.

    Raises:
        ManifestError: lists every problem with its place.
        FileNotFoundError: ``source`` itself does not exist.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"no manifest, table or video folder at {source}")
    if source.is_dir():
        name = name_from(source.resolve().name)
        if is_frame_folder(source):
            parent = source.resolve().parent
            return _build(source, {"name": name, "videos": {}}, root or parent, cached, [source.resolve().name])
        return _build(source, {"name": name, "videos": {"glob": ["**/*"]}}, root or source, cached)
    if source.suffix.lower() == ".csv":
        raw: dict[str, Any] = {"name": name_from(source.stem), "videos": {"table": source.name}}
        return _build(source, raw, root or source.parent, cached)
    if source.suffix.lower() in VIDEO_SUFFIXES:
        raw = {"name": name_from(source.stem), "videos": {}}
        return _build(source, raw, root or source.parent, cached, [source.name])
    try:
        raw = tomllib.loads(source.read_text(encoding="utf-8-sig"))  # Windows editors add a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(str(source), [f"not a TOML file: {error}"]) from None
    return _build(source, raw, root, cached)


def _build(
    source: Path,
    raw: Mapping[str, Any],
    root: str | Path | None,
    cached: Collection[str],
    paths: list[str] | None = None,
) -> Manifest:
    problems = Problems()
    name = _read_top(raw, name_from(source.stem), problems)
    base = (
        Path(root)
        if root is not None
        else Path(os.path.normpath(source.parent / Path(str(raw.get("root", "."))).expanduser()))
    )
    layout = str(raw.get("layout", "")).strip()
    hint = f"Expected below {base}:\n{layout}" if layout else ""
    _check_videos(raw.get("videos"), paths, problems)
    if not base.is_dir():
        problems.add(
            "root", f"there is no folder {base}; put the data there or give another place with --root (ROOT= for make)"
        )
        _read_tasks(raw.get("tasks", {}), None, problems)  # every problem at once
        raise ManifestError(str(source), problems.lines, hint)
    videos, segments = _read_videos(raw.get("videos"), base, source, paths, frozenset(cached), problems)
    tasks = _read_tasks(raw.get("tasks", {}), segments, problems)
    if problems.lines:
        raise ManifestError(str(source), problems.lines, hint)
    if not videos:
        what = f"{raw['videos']['table']} has no rows" if "table" in raw["videos"] else f"no video found below {base}"
        raise ManifestError(str(source), [f"[videos]: {what}"], hint)
    return Manifest(name, base, tuple(videos), tasks, source, layout, str(raw.get("note", "")).strip())


def _read_top(raw: Mapping[str, Any], fallback: str, problems: Problems) -> str:
    problems.unknown_keys("top level", raw, {"name", "root", "layout", "note", "videos", "tasks"})
    name = raw.get("name", fallback)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        problems.add("name", f"expected 1 to 64 letters, digits, - or _, found {name!r}")
        return "invalid"
    return name


def _check_videos(raw: Any, paths: list[str] | None, problems: Problems) -> None:
    """What can be said of [videos] without looking at the data."""
    where = "[videos]"
    if not isinstance(raw, Mapping):
        problems.add(where, "missing; say which videos: [videos] with `glob` or `table`")
        return
    problems.unknown_keys(where, raw, {"glob", "table", "columns", "id", "group", "split"})
    if raw.get("id", "path") not in ("path", "stem"):
        problems.add(f"{where} id", f'expected "path" or "stem", found {raw["id"]!r}')
    _compile(raw.get("group"), f"{where} group", problems)
    split = raw.get("split", {})
    patterns = split.values() if isinstance(split, Mapping) else [None]
    if not all(isinstance(p, str) and p for p in patterns) or not set(split) <= {"train", "val", "test"}:
        problems.add(f"{where} split", f"expected patterns for train, val or test, found {split!r}")
    if paths is None and ("glob" in raw) + ("table" in raw) != 1:
        problems.add(where, "give exactly one of `glob` and `table`")
    if "columns" in raw and "table" not in raw:
        problems.add(f"{where} columns", "names columns of a `table`, and there is none")


def _read_videos(
    raw: Any, root: Path, source: Path, paths: list[str] | None, cached: frozenset[str], problems: Problems
) -> tuple[list[Video], Segments | None]:
    if problems.lines and (not isinstance(raw, Mapping) or (paths is None and ("glob" in raw) + ("table" in raw) != 1)):
        return [], None
    id_rule = "stem" if raw.get("id") == "stem" else "path"
    group_rule = _compile(raw.get("group"), "", Problems())
    split = raw.get("split") if isinstance(raw.get("split"), Mapping) else {}
    split = {part: pattern for part, pattern in split.items() if isinstance(pattern, str) and pattern}
    segments: Segments | None = {}
    if "table" in raw:
        rows, segments = read_table(str(raw["table"]), raw.get("columns", {}), root, source, id_rule, problems)
    else:
        if paths is None:
            found = match_videos(raw["glob"], root, problems)
            paths = [*found, *sorted(cached.difference(found))]
        rows = [{"path": p, "id": video_id(p, id_rule), "where": f"[videos] {p}"} for p in paths]
    return _videos_from_rows(rows, root, group_rule, split, cached, problems), segments


def _videos_from_rows(
    rows: list[dict[str, Any]],
    root: Path,
    group_rule: re.Pattern[str] | None,
    split: Mapping[str, str],
    cached: frozenset[str],
    problems: Problems,
) -> list[Video]:
    videos: list[Video] = []
    seen: dict[str, str] = {}
    for row in rows:
        path, name, where = row["path"], row["id"], row["where"]
        if not stays_below(path, root):
            problems.add(where, f"path {path!r} leaves the root (absolute, '..', or a link to outside)")
            continue
        if path not in cached and not os.path.exists(root / path):  # Path.exists raises if the path is too long
            problems.add(where, f"no file or folder {path!r} below {root}")
            continue
        if message := name_problem(name):
            problems.add(where, message)
            continue
        key = name.casefold()  # two ids that differ in case only are one file on some systems
        if key in seen:
            problems.add(where, f'id {name!r} is taken by {seen[key]!r}; give the rows an `id` column, or id = "path"')
            continue
        seen[key] = path
        group = row.get("group") or _group_of(name, group_rule)
        parts = [s for s, pattern in split.items() if fnmatch.fnmatchcase(path, pattern)]  # * crosses folders
        if len(parts) > 1:
            problems.add(where, f"the split patterns of {' and '.join(parts)} both match {path!r}")
        part = row.get("split") or (parts[0] if parts else None)
        videos.append(Video(name, path, group, part, row.get("fold"), row.get("fps")))
    return sorted(videos, key=lambda v: v.id)


def _read_tasks(raw: Any, segments: Segments | None, problems: Problems) -> dict[str, TaskSource]:
    """``segments`` is None where the table could not be read, which is a problem of its own."""
    if not isinstance(raw, Mapping):
        problems.add("[tasks]", "expected a table per task, such as [tasks.violence]")
        return {}
    tasks = {}
    for name, values in raw.items():
        where = f"[tasks.{name}]"
        if not isinstance(values, Mapping):
            problems.add(where, f"expected a table, found {values!r}")
            continue
        problems.unknown_keys(where, values, {"format", "train", "val", "test"})
        form = values.get("format")
        given = {part: value for part, value in values.items() if part != "format"}
        files = {part: tuple(value) if isinstance(value, list) else (value,) for part, value in given.items()}
        if not isinstance(form, str):
            problems.add(f"{where} format", 'missing; for example "table", "dvd" or "affwild2-va"')
        elif form == TABLE_FORMAT:
            if segments is not None and name not in segments:
                columns = {"violence": "label", "va": "valence and arousal"}.get(name, "its label")
                problems.add(where, f'format = "table", but the table of [videos] has no column {columns}')
            tasks[name] = TaskSource(form, {}, (segments or {}).get(name, ()))
        elif not files:
            problems.add(where, 'expected a pattern of annotation files: train = "..." and, if there is one, val')
        else:
            for part, patterns in files.items():
                if not patterns or not all(map(is_pattern_below, patterns)):
                    problems.add(f"{where} {part}", f"expected a pattern below the root, found {given[part]!r}")
            tasks[name] = TaskSource(form, files)
    for name, found in (segments or {}).items():
        tasks.setdefault(name, TaskSource(TABLE_FORMAT, {}, found))
    return tasks


def _compile(pattern: Any, where: str, problems: Problems) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(str(pattern))
    except re.error as error:
        problems.add(where, f"not a regular expression: {error}")
        return None


def _group_of(name: str, rule: re.Pattern[str] | None) -> str:
    match = rule.search(name) if rule else None
    if match is None:
        return name
    return (match.group(1) if match.re.groups else None) or match.group(0) or name


def name_from(text: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")
    return cleaned[:64] or "data"


__all__ = [
    "Manifest",
    "ManifestError",
    "Segment",
    "TaskSource",
    "Video",
    "load_manifest",
]
