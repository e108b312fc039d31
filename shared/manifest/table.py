"""The CSV table of a manifest: one row per video, or one row per labelled segment of a video.

Columns (shared/manifest/columns.py; any other name can be mapped with ``columns`` in the manifest; further columns are
told and not used): ``path`` (required), ``id``, ``group``, ``split``, ``fold``, ``fps``, ``frames`` or ``duration``
(seconds: how long the video is, about), ``start`` and ``end`` (0-based frames, end exclusive) or ``start_s`` and
``end_s`` (seconds, also mm:ss.s and hh:mm:ss), ``label`` (task violence: 0 or 1), ``valence`` and ``arousal`` (task va:
-1 to 1), ``expr`` (0 to 7 or a name), ``AU1`` to ``AU26`` (0 or 1). Any other column can be a task of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from shared.labels import tables
from shared.labels.annotations import EXPR_NAMES, MAX_FRAMES
from shared.labels.columns import code, first_spelling, flag, folded, number, seconds, whole_number
from shared.labels.tables import TextTable
from shared.manifest.columns import AU_COLUMNS, LABEL_WORDS, SPLIT_WORDS, find_columns
from shared.names import plain_path, stays_below, unknown_name, video_id

TASK_COLUMNS = {"violence": ("label",), "va": ("valence", "arousal"), "expr": ("expr",), "au": AU_COLUMNS}
# No row is labelled in these columns: they say which video it is, and which part of it.
NO_LABELS = ("path", "id", "group", "split", "fold", "fps", "frames", "duration", "start", "end", "start_s", "end_s")


@dataclass(frozen=True)
class Segment:
    """Labelled frames [start, end) of a video; end None means up to the last frame.

    Attributes:
        values: one number per output of the task; NaN where the row leaves it empty.
        where: file and line, for messages.
        in_seconds: start and end are seconds of the video's own clock, not frames.
        fps: the rate by which a tool has counted these frames, where it states one.
    """

    video_id: str
    start: float
    end: float | None
    values: tuple[float, ...]
    where: str
    in_seconds: bool = False
    fps: float | None = None


@dataclass
class LabelTable:
    """The rows of a table that name a video, as they stand; from them come labels in columns of one's own.

    Attributes:
        file: name of the table, for messages.
        segments: the part of a video that each row labels, without values.
        columns: name as the header has it -> cell of each of these rows.
        decimal: what stands before the fraction of a number, "." or ",".
    """

    file: str
    segments: list[Segment]
    columns: dict[str, list[str]]
    decimal: str = "."


class Segments(dict[str, tuple[Segment, ...]]):
    """Task name -> its segments.

    Attributes:
        in_frames: the header says that they are frames: start_frame, end_frame.
        table: the rows as they stand.
    """

    in_frames = False
    table: LabelTable | None = None


class Problems:
    """Collects what is wrong, each with its place, so that a user mends everything in one go.

    Attributes:
        lines: what is wrong.
        notes: what is not wrong, but has to be told.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note one problem."""
        self.lines.append(f"{where}: {what}")

    def note(self, text: str) -> None:
        """Note what is no mistake, but must be told."""
        self.notes.append(text)

    def unknown_keys(self, where: str, values: Mapping[str, Any], known: set[str]) -> None:
        """Note every key that is not known; a typo must not silently change nothing."""
        for key in sorted(set(values) - known):
            self.add(where, unknown_name("key", key, known))


def read_table(
    name: str, columns: Any, root: Path, source: Path, id_rule: str, problems: Problems, unit: str = ""
) -> tuple[list[dict[str, Any]], Segments | None]:
    """Read the table.

    Returns:
        One dict per video (path, id, where and, if given, group, split, fold, fps), and per task its segments; None
        instead of segments if the table could not be read.
    """
    file = source if source.suffix.lower() in tables.READERS else root / name
    if source != file and not stays_below(name, root):
        problems.add("[videos] table", f"{name!r} leaves the root")
        return [], None
    read = _read_file(file, problems)
    found = {} if read is None else find_columns(read.frame, columns, file.name, problems)
    if read is None or "path" not in found:
        return [], None
    frame = read.frame
    if unit == "s":  # the manifest says what start and end are
        found = {{"start": "start_s", "end": "end_s"}.get(key, key): place for key, place in found.items()}
    table = pd.DataFrame({key: frame.iloc[:, place].str.strip() for key, place in found.items()})
    ours = {place for key, place in found.items() if key in NO_LABELS}
    free = {str(n).strip(): frame.iloc[:, i] for i, n in enumerate(frame.columns) if i not in ours and str(n).strip()}
    videos, segments = _read_rows(table, free, read, file.name, id_rule, problems)
    segments.in_frames = any("frame" in folded(frame.columns[found[k]]) for k in ("start", "end") if k in found)
    return videos, segments


def _read_file(file: Path, problems: Problems) -> TextTable | None:
    try:
        table = tables.read_table(file)
    except FileNotFoundError:
        problems.add("[videos] table", f"there is no table {file}")
    except OSError as error:
        problems.add(file.name, f"cannot be read: {error.strerror or error}")
    except tables.TableError as error:
        problems.add(file.name, str(error))
    else:
        for note in table.notes:
            problems.note(f"{file.name}: {note}")
        return table
    return None


def _read_rows(
    table: pd.DataFrame, free: Mapping[str, pd.Series], read: TextTable, file: str, id_rule: str, problems: Problems
) -> tuple[list[dict[str, Any]], Segments]:
    videos: dict[str, dict[str, Any]] = {}
    groups: dict[str, str] = {}
    tasks = {t: c for t, c in TASK_COLUMNS.items() if set(c) <= set(table.columns)}
    segments: dict[str, list[Segment]] = {t: [] for t in tasks}
    has_segments = not {"start", "end", "start_s", "end_s"}.isdisjoint(table.columns)
    kept: list[int] = []
    bare: list[Segment] = []
    rows: list[dict[str, str]] = table.to_dict("records")  # type: ignore[assignment]
    for place, (line, row) in enumerate(zip(read.rows, rows, strict=True)):
        where = f"{file}:{line}"
        if not any(row.values()):
            continue  # a blank line
        if not row["path"]:
            problems.add(where, "empty path")
            continue
        path = plain_path(row["path"].replace("\\", "/"))
        name = row.get("id") or video_id(path, id_rule)
        entry = {"path": path, "id": name, "where": where, **_video_fields(row, where, problems)}
        if group := row.get("group"):
            entry["group"] = first_spelling(groups, group)
        old = videos.setdefault(path, entry)
        if old is not entry:
            if not has_segments:
                need = "segments need start and end, or start_s and end_s"
                problems.add(where, f"{path!r} is listed twice (first at {old['where']}); {need}")
            elif any(old.get(k) != entry.get(k) for k in ("id", "group", "split", "fold", "fps")):
                problems.add(where, f"id, group, split, fold or fps of {path!r} differ from {old['where']}")
        start, end, in_seconds = _span(row, read.decimal, where, problems)
        for task, names in tasks.items():
            values = tuple(_number(row[n], n, read.decimal, where, problems) for n in names)
            segments[task].append(Segment(name, start, end, values, where, in_seconds))
        kept.append(place)
        bare.append(Segment(name, start, end, (), where, in_seconds))
    found = Segments({t: tuple(s) for t, s in segments.items()})
    cells = {name: column.str.strip() for name, column in free.items()}
    found.table = LabelTable(file, bare, {name: column.iloc[kept].tolist() for name, column in cells.items()})
    found.table.decimal = read.decimal
    return list(videos.values()), found


def _video_fields(row: Mapping[str, str], where: str, problems: Problems) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if row.get("split"):
        fields["split"] = SPLIT_WORDS.get(row["split"].lower())
        if fields["split"] is None:
            problems.add(f"{where} column split", f"expected train, val or test, found {row['split']!r}")
    if row.get("fold"):
        fold = whole_number(row["fold"])
        if fold is not None and fold < 10_000:
            fields["fold"] = fold
        else:
            problems.add(f"{where} column fold", f"expected a whole number below 10000, found {row['fold'][:40]!r}")
    if row.get("fps"):
        fields["fps"] = _rate(row["fps"], where, problems)
    for name in ("frames", "duration"):
        try:
            length = float(row.get(name) or "nan")
        except ValueError:  # 00:01:20, say: the container is asked, too
            continue
        if 0 < length < MAX_FRAMES:
            fields[name] = length
    return fields


def _rate(text: str, where: str, problems: Problems) -> float | None:
    try:
        top, _, bottom = text.partition("/")
        rate = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        rate = -1.0
    if not 0 < rate < 10_000:
        problems.add(f"{where} column fps", f"expected frames per second such as 25 or 30000/1001, found {text[:40]!r}")
        return None
    return rate


def _span(row: Mapping[str, str], decimal: str, where: str, problems: Problems) -> tuple[float, float | None, bool]:
    """Start, end (None: the video's) and whether they are seconds."""
    if any(row.get(key) for key in ("start_s", "end_s")):
        if any(row.get(key) for key in ("start", "end")):
            problems.add(where, "has start or end in frames and in seconds; leave one of the two empty")
        return *_limits(row, "start_s", "end_s", partial(_seconds, decimal=decimal), where, problems), True
    return *_limits(row, "start", "end", _frame, where, problems), False


def _limits(
    row: Mapping[str, str],
    first: str,
    last: str,
    read: Callable[[str], float | str],
    where: str,
    problems: Problems,
) -> tuple[float, float | None]:
    limits: dict[str, float | None] = {first: 0, last: None}
    for key in limits:
        if text := row.get(key, ""):
            found = read(text)
            if isinstance(found, str):
                problems.add(f"{where} column {key}", f"expected {found}, found {text[:40]!r}")
            else:
                limits[key] = found
    start, end = limits[first] or 0, limits[last]
    if end is not None and end <= start:
        problems.add(where, f"the segment ends ({end}, exclusive) where or before it starts ({start})")
    return start, end


def _frame(text: str) -> int | str:
    number = whole_number(text)
    return f"a 0-based frame number up to {MAX_FRAMES}" if number is None or number > MAX_FRAMES else number


def _seconds(text: str, decimal: str) -> float | str:
    found = seconds(text, decimal)
    return "seconds such as 12.5, or mm:ss.s, or hh:mm:ss" if found is None else found


def _number(text: str, column: str, decimal: str, where: str, problems: Problems) -> float:
    if not text:
        return float("nan")
    if column == "label":
        known = flag(text, LABEL_WORDS)
        what = "0 or 1 (or violent / non-violent)"
    elif column == "expr":
        known = code(text, EXPR_NAMES)
        what = f"0 to {len(EXPR_NAMES) - 1}, -1, or one of {', '.join(EXPR_NAMES)}"
    elif column in AU_COLUMNS:
        known = float("nan") if text in ("-1", "-1.0") else flag(text, LABEL_WORDS)
        what = "0, 1 or -1"
    else:
        known, what = _signed(text, decimal), "a number from -1 to 1"
    if known is None:
        problems.add(f"{where} column {column}", f"expected {what}, found {text[:40]!r}")
    return float("nan") if known is None else known


def _signed(text: str, decimal: str) -> float | None:
    """A number from -1 to 1; -5 is Aff-Wild2's mark for "no annotation"."""
    value = number(text, decimal)
    if value == -5:
        return float("nan")
    return value if value is not None and -1 <= value <= 1 else None
