"""The CSV table of a manifest: one row per video, or one row per labelled segment of a video.

Columns (shared/manifest/columns.py; any other name can be mapped with ``columns`` in the manifest; further columns are
told and not used): ``path`` (required), ``id``, ``group``, ``split``, ``fold``, ``fps``, ``frames`` or ``duration``
(seconds: how long the video is, about), ``start`` and ``end`` (0-based frames, end exclusive), ``label`` (task
violence: 0 or 1), ``valence`` and ``arousal`` (task va: -1 to 1).
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shared.labels.annotations import MAX_FRAMES
from shared.labels.columns import first_spelling, folded, whole_number
from shared.manifest.columns import LABEL_WORDS, SPLIT_WORDS, find_columns
from shared.names import plain_path, stays_below, unknown_name, video_id

TASK_COLUMNS = {"violence": ("label",), "va": ("valence", "arousal")}


@dataclass(frozen=True)
class Segment:
    """Labelled frames [start, end) of a video; end None means up to the last frame.

    Attributes:
        values: one number per output of the task; NaN where the row leaves it empty.
        where: file and line, for messages.
    """

    video_id: str
    start: int
    end: int | None
    values: tuple[float, ...]
    where: str


class Segments(dict[str, tuple[Segment, ...]]):
    """Task name -> its segments.

    Attributes:
        in_frames: the header says that they are frames: start_frame, end_frame.
    """

    in_frames = False


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
    name: str, columns: Any, root: Path, source: Path, id_rule: str, problems: Problems
) -> tuple[list[dict[str, Any]], Segments | None]:
    """Read the table.

    Returns:
        One dict per video (path, id, where and, if given, group, split, fold, fps), and per task its segments; None
        instead of segments if the table could not be read.
    """
    file = source if source.suffix.lower() == ".csv" else root / name
    if source != file and not stays_below(name, root):
        problems.add("[videos] table", f"{name!r} leaves the root")
        return [], None
    frame = _read_csv(file, problems)
    found = {} if frame is None else find_columns(frame, columns, file.name, problems)
    if frame is None or "path" not in found:
        return [], None
    table = pd.DataFrame({key: frame.iloc[:, place].str.strip() for key, place in found.items()})
    videos, segments = _read_rows(table, file.name, id_rule, problems)
    segments.in_frames = any("frame" in folded(frame.columns[found[k]]) for k in ("start", "end") if k in found)
    return videos, segments


def _read_csv(file: Path, problems: Problems) -> pd.DataFrame | None:
    """All cells as text; the columns are called as the header has it, also if a name is there twice."""
    try:
        header, separator = _read_header(file)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with more cells than the header
            # Blank lines are kept, so that row numbers are line numbers; index_col=False, or a comma at the end of the
            # rows would shift every column.
            frame = pd.read_csv(
                file,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                skipinitialspace=True,
                skip_blank_lines=False,
                index_col=False,
            )
    except FileNotFoundError:
        problems.add("[videos] table", f"there is no table {file}")
    except UnicodeDecodeError as error:
        problems.add(file.name, f"not UTF-8 text ({error}); save it as UTF-8")
    except pd.errors.ParserWarning:
        problems.add(file.name, "not a CSV table: rows have more cells than the header (a comma at their end?)")
    except (ValueError, OSError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        problems.add(file.name, f"not a CSV table: {error}")
    else:
        if separator != ",":
            problems.note(f"{file.name}: its columns are separated by {separator!r}, not by commas, and read like that")
        if len(header) == frame.shape[1]:
            frame.columns = pd.Index(header)
        return frame.fillna("")  # cells that a short row lacks
    return None


def _read_header(file: Path) -> tuple[list[str], str]:
    """Names of the columns as they stand, and what separates them: a comma, if the header has one."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        for separator in ",;\t|":
            opened.seek(0)
            header = next(csv.reader(opened, delimiter=separator, skipinitialspace=True), [])
            if "\x00" in "".join(header):
                raise ValueError("a NUL in its first line, as in UTF-16; save it as UTF-8")
            if len(header) > 1:
                return header, separator
    return header, ","


def _read_rows(
    table: pd.DataFrame, file: str, id_rule: str, problems: Problems
) -> tuple[list[dict[str, Any]], Segments]:
    videos: dict[str, dict[str, Any]] = {}
    groups: dict[str, str] = {}
    tasks = {t: c for t, c in TASK_COLUMNS.items() if set(c) <= set(table.columns)}
    segments: dict[str, list[Segment]] = {t: [] for t in tasks}
    has_segments = "start" in table.columns or "end" in table.columns
    rows: list[dict[str, str]] = table.to_dict("records")  # type: ignore[assignment]
    for number, row in enumerate(rows, start=2):
        where = f"{file}:{number}"
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
                problems.add(where, f"{path!r} is listed twice (first at {old['where']}); segments need start and end")
            elif any(old.get(k) != entry.get(k) for k in ("id", "group", "split", "fold", "fps")):
                problems.add(where, f"id, group, split, fold or fps of {path!r} differ from {old['where']}")
        span = _span(row, where, problems)
        for task, names in tasks.items():
            values = tuple(_number(row[n], n, where, problems) for n in names)
            segments[task].append(Segment(name, *span, values, where))
    return list(videos.values()), Segments({t: tuple(s) for t, s in segments.items()})


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


def _span(row: Mapping[str, str], where: str, problems: Problems) -> tuple[int, int | None]:
    limits: dict[str, int | None] = {"start": 0, "end": None}
    for key in limits:
        text = row.get(key, "")
        if not text:
            continue
        number = whole_number(text)
        if number is not None and number <= MAX_FRAMES:
            limits[key] = number
        else:
            what = f"expected a 0-based frame number up to {MAX_FRAMES}, found {text[:40]!r}"
            problems.add(f"{where} column {key}", what)
    start, end = limits["start"] or 0, limits["end"]
    if end is not None and end <= start:
        problems.add(where, f"the segment ends ({end}, exclusive) where or before it starts ({start})")
    return start, end


def _number(text: str, column: str, where: str, problems: Problems) -> float:
    if not text:
        return float("nan")
    if column == "label":
        known = LABEL_WORDS.get(text.lower())
        if known is None and (number := whole_number(text)) in (
            0,
            1,
        ):  # 1.0 is what programs make of 1 beside empty cells
            known = float(number == 1)
        if known is None:
            problems.add(f"{where} column label", f"expected 0 or 1 (or violent / non-violent), found {text[:40]!r}")
        return float("nan") if known is None else known
    try:
        value = float(text)
    except ValueError:
        value = float("inf")
    if value == -5:  # Aff-Wild2's mark for "no annotation"
        return float("nan")
    if not -1 <= value <= 1:
        problems.add(f"{where} column {column}", f"expected a number from -1 to 1, found {text[:40]!r}")
        return float("nan")
    return value
