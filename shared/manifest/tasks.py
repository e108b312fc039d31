"""The [tasks] of a manifest: where the labels of each task are, and what a task of one's own is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.manifest.files import is_pattern_below
from shared.manifest.table import Problems, Segments
from shared.manifest.types import TaskSource

TABLE_FORMAT, BY_ENDING = "table", "tool"
OF_TOOLS = (".eaf", ".vtt", ".srt", ".json", ".xml")  # endings that official label files do not have
SPLITS = {"train", "val", "test"}
# What a manifest says of a task of its own: key -> what it is, for messages.
TEXT, TEXTS, NUMBERS = "a text", "a list of texts", "two numbers, the smaller first"
DECLARED: Mapping[str, str] = {
    "kind": TEXT,
    "columns": TEXTS,
    "classes": TEXTS,
    "ignore": TEXTS,
    "positive": TEXT,
    "range": NUMBERS,
    "metric": TEXT,
    "loss": TEXT,
    "window_label": TEXT,
    "background": TEXT,
}


def read_tasks(raw: Any, segments: Segments | None, problems: Problems) -> dict[str, TaskSource]:
    """``segments`` is None where the table could not be read, which is a problem of its own."""
    in_frames = segments is not None and segments.in_frames
    if not isinstance(raw, Mapping):
        problems.add("[tasks]", "expected a table per task, such as [tasks.violence]")
        return {}
    tasks = {}
    for name, values in raw.items():
        if not isinstance(values, Mapping):
            problems.add(f"[tasks.{name}]", f"expected a table, found {values!r}")
            continue
        if (source := _read_task(name, values, segments, in_frames, problems)) is not None:
            tasks[name] = source
    for name, found in (segments or {}).items():
        tasks.setdefault(name, TaskSource(TABLE_FORMAT, {}, found, in_frames))
    return tasks


def _read_task(
    name: str, values: Mapping[str, Any], segments: Segments | None, in_frames: bool, problems: Problems
) -> TaskSource | None:
    where = f"[tasks.{name}]"
    problems.unknown_keys(where, values, {"format", *SPLITS, *DECLARED})
    declared = _declared(where, values, problems)
    given = {part: values[part] for part in values if part in SPLITS}
    files = {part: tuple(value) if isinstance(value, list) else (value,) for part, value in given.items()}
    # Files of annotation tools say by their ending what they are.
    plain = all(isinstance(p, str) and p.lower().endswith(OF_TOOLS) for own in files.values() for p in own)
    form = values.get("format", BY_ENDING if files and plain else TABLE_FORMAT if declared and not files else None)
    if not isinstance(form, str):
        problems.add(f"{where} format", 'missing; for example "table", "dvd" or "affwild2-va"')
        return None
    if form == TABLE_FORMAT:
        return _from_table(name, declared, segments, in_frames, problems)
    if not files:
        problems.add(where, 'expected a pattern of annotation files: train = "..." and, if there is one, val')
        return None
    for part, patterns in files.items():
        if not patterns or not all(map(is_pattern_below, patterns)):
            problems.add(f"{where} {part}", f"expected a pattern below the root, found {given[part]!r}")
    return TaskSource(form, files, declared=declared)


def _from_table(
    name: str, declared: Mapping[str, Any], segments: Segments | None, in_frames: bool, problems: Problems
) -> TaskSource:
    found = segments.get(name, ()) if segments is not None else ()
    columns = declared.get("columns", () if found else (name,))
    has = segments.table.columns if segments is not None and segments.table is not None else {}
    if segments is not None and not found and (absent := [c for c in columns if c not in has]):
        usual = {"violence": "label", "va": "valence and arousal"}.get(name, absent[0])
        names = f"; it has {', '.join(has)}" if has else ""
        problems.add(f"[tasks.{name}]", f'format = "table", but the table of [videos] has no column {usual}{names}')
    if declared and not found:
        declared = {"columns": columns, **declared}
    return TaskSource(TABLE_FORMAT, {}, found, in_frames, declared)


def _declared(where: str, values: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """What a manifest says of a task of its own, lists as tuples."""
    found: dict[str, Any] = {}
    for key, what in DECLARED.items():
        if key not in values:
            continue
        value = values[key]
        if what == TEXTS:
            value = (value,) if isinstance(value, str) else value
            fits = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value) and len(value) > 0
        elif what == NUMBERS:
            fits = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
            fits = fits and value[0] < value[1]
        else:
            fits = isinstance(value, str)
        if not fits:
            problems.add(f"{where} {key}", f"expected {what}, found {values[key]!r}")
            continue
        found[key] = tuple(value) if isinstance(value, list) else value
    return found
