"""BORIS events (.csv, .tsv, .txt): aggregated (Start (s), Stop (s)) or tabular (Time with START, STOP and POINT).

The column is the subject ("" for none), the value the behaviour. Rows before the header are passed over, and so are
modifiers, but a STOP ends the START with the same ones. A point is a mark that ends where it starts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from shared.labels.columns import choice_words, columns_called, folded
from shared.labels.tools.types import Found, Mark, Place, ToolFile, media_names, read_text

_COLUMNS = {
    "behavior": ("behavior", "behaviour"),
    "media": ("media file name", "media file", "media file path", "media files", "source"),
    "subject": ("subject",),
    "status": ("status", "behavior type", "behaviour type", "event type"),
    "start": ("start (s)", "start"),
    "stop": ("stop (s)", "stop"),
    "time": ("time", "time (s)"),
    "observation": ("observation id",),
    "offset": ("time offset (s)", "time offset"),
}
_MAX_HEADER, _MAX_FIELDS = 200, 300  # rows of metadata before the header
_NOTHING = ("", "na", "nan", "none")
_PLAYER = re.compile(r"(?:player\s*)?#?(\d{1,2})\s*:\s*", re.IGNORECASE)
_NEXT_PLAYER = re.compile(r"\s*[;|\n]\s*(?=(?:player\s*)?#?\d{1,2}\s*:)", re.IGNORECASE)

Cell = Callable[[str], str]


def read(path: Path) -> list[ToolFile]:
    """One entry per media file, in the order of the file.

    Raises:
        LabelError: No header, a STOP without a START or the other way round, or one event over several media files.
    """
    rows = _rows(path)
    at, columns = _header(path, rows)
    extra = [i for i, name in enumerate(rows[at][1]) if folded(name).startswith("modifier")]
    marks: dict[tuple[str, ...], list[Mark]] = {}
    started: dict[tuple[object, ...], tuple[Place, float]] = {}
    for line, row in rows[at + 1 :]:
        if not any(field.strip() for field in row):
            continue
        place = Place(path, line)

        def cell(name: str, row: list[str] = row) -> str:
            text = row[columns[name]].strip() if name in columns and columns[name] < len(row) else ""
            return "" if text.lower() in _NOTHING else text

        media = _media(place, cell("media"))
        found = marks.setdefault(media, [])
        if "start" in columns:
            found += _aggregated(place, cell)
        else:
            key = (
                media,
                cell("observation"),
                cell("subject"),
                cell("behavior"),
                *(row[i] for i in extra if i < len(row)),
            )
            found += _tabular(place, cell, key, started)
    for place, _ in started.values():
        raise place.error("a STOP for every START", Found("a START without one"))
    return [ToolFile(media, None, tuple(found)) for media, found in marks.items()]


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Rows with the numbers of their last lines."""
    text = read_text(path)
    head = next((line for line in text.split("\n") if "behavio" in line.lower()), "")
    reader = csv.reader(text.split("\n"), delimiter=max("\t;,", key=head.count))
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise Place(path, reader.line_num).error("rows of a table", Found(str(error)[:80])) from None


def _header(path: Path, rows: list[tuple[int, list[str]]]) -> tuple[int, dict[str, int]]:
    """Where the header is, and which columns hold what."""
    for i, (line, row) in enumerate(rows[:_MAX_HEADER]):
        if len(row) > _MAX_FIELDS or not any("behavio" in field.lower() for field in row):
            continue
        hits = {key: columns_called(row, names) for key, names in _COLUMNS.items()}
        timed = (hits["start"] and hits["stop"]) or (hits["time"] and hits["status"])
        if not (hits["behavior"] and timed):
            continue
        for key, several in hits.items():
            if len(several) > 1 and key != "media":
                raise Place(path, line).error("one column of each name", Found(choice_words(row, several, key)))
        columns = {key: found[0] for key, found in hits.items() if found}
        if not (hits["start"] and hits["stop"]):
            columns.pop("start", None)
        return i, columns
    expected = "a header with Behavior and either 'Start (s)' and 'Stop (s)' or Time and Status (or Behavior type)"
    raise Place(path).error(expected, Found(f"none in the first {min(len(rows), _MAX_HEADER)} rows"))


def _media(place: Place, text: str) -> tuple[str, ...]:
    """Names of the media file; of several players each has its own, all run together."""
    if len(text) > 4096:
        raise place.error("the name of a media file", text)
    parts = [part for part in _NEXT_PLAYER.split(text) if part]
    players = [match[1] for part in parts if (match := _PLAYER.match(part))]
    if len(set(players)) < len(players):
        raise place.error("one media file per player (events over files in a row have no place in one)", text)
    return media_names(*(_PLAYER.sub("", part, count=1) if _PLAYER.match(part) else part for part in parts))


def _time(place: Place, cell: Cell, name: str) -> float:
    """A time in seconds, of the media file."""
    if cell("offset") and place.number(cell("offset"), "the time offset"):
        raise place.error("a time offset of 0 (times are taken as those of the video)", cell("offset"))
    return place.number(cell(name).replace(",", "."), f"{name} (seconds; export times as seconds)")


def _aggregated(place: Place, cell: Cell) -> list[Mark]:
    start_s = _time(place, cell, "start")
    point = cell("status").upper() == "POINT" or not cell("stop")
    if point and cell("status").upper() == "STATE":
        raise place.error("a stop of a STATE event", Found("none"))
    end_s = start_s if point else _time(place, cell, "stop")
    return [place.span(start_s, end_s, _subject(cell), cell("behavior"))]


def _tabular(
    place: Place, cell: Cell, key: tuple[object, ...], started: dict[tuple[object, ...], tuple[Place, float]]
) -> list[Mark]:
    time_s, status = _time(place, cell, "time"), cell("status").upper()
    if status == "POINT":
        return [place.span(time_s, time_s, _subject(cell), cell("behavior"))]
    if status == "START" and key not in started:
        started[key] = place, time_s
        return []
    if status == "STOP" and key in started:
        start_place, start_s = started.pop(key)
        return [start_place.span(start_s, time_s, _subject(cell), cell("behavior"))]
    raise place.error("START, STOP or POINT, and START and STOP in turn for each subject and behaviour", status)


def _subject(cell: Cell) -> str:
    return "" if folded(cell("subject")) == folded("No focal subject") else cell("subject")
