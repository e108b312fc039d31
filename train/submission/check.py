"""Is this a valid submission? The files are read again, row by row against the template; the first fault is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from shared.labels.annotations import EXPR_NAMES
from train.submission.dvd import csv_files, read_dvd_templates
from train.submission.files import (
    FLAT_COLUMNS,
    SubmissionError,
    flat_header,
    read_flat_template,
    read_lines,
)
from train.tasks import Task

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_CLASSES = frozenset(str(k) for k in range(len(EXPR_NAMES)))
_BITS = frozenset("01")


def _in_range(fields: list[str]) -> bool:
    return all(_NUMBER.fullmatch(field) is not None and -1 <= float(field) <= 1 for field in fields)


# Task -> fields after the location, what they must be in words, and the check.
_ROWS: Mapping[str, tuple[int, str, Callable[[list[str]], bool]]] = {
    "va": (2, "two numbers from -1 to 1", _in_range),
    "expr": (1, "one class number from 0 to 7", lambda fields: fields[0] in _CLASSES),
    "au": (len(FLAT_COLUMNS["au"]), "twelve values of 0 or 1", lambda fields: _BITS.issuperset(fields)),
}


def check_flat(task: Task, file: Path, template: Path) -> int:
    """Check the flat file of VA, EXPR or AU.

    Every row of the template must be there, in its order, with the right number of values, none of them NaN, all in
    range; nothing else may be there.

    Returns:
        The number of rows.

    Raises:
        SubmissionError: the first violation, with its line.
    """
    wanted = read_flat_template(task, template)
    lines = read_lines(file)
    if lines[0].strip().lower() != flat_header(task).lower():
        raise SubmissionError(file, 1, f"the header {flat_header(task)!r}", repr(lines[0][:80]))
    num_fields, words, valid = _ROWS[task.name]
    for number, (line, location) in enumerate(zip(lines[1:], wanted.locations, strict=False), start=2):
        found, *fields = line.split(",")
        if found != location:
            raise SubmissionError(file, number, f"{location!r}, which stands there in the template", repr(found[:80]))
        if len(fields) != num_fields or not valid(fields):
            raise SubmissionError(file, number, f"{words} after the location", repr(",".join(fields)[:80]))
    rows, expected = len(lines) - 1, len(wanted.locations)
    if rows < expected:
        raise SubmissionError(
            file, len(lines) + 1, f"{wanted.locations[rows]!r} and {expected} rows", "the end of the file"
        )
    if rows > expected:
        raise SubmissionError(
            file, expected + 2, f"the end of the file after {expected} rows", repr(lines[expected + 1][:80])
        )
    return rows


def check_dvd(
    folder: Path, template: Path | None, label_column: str | None, videos: Mapping[str, int] | None = None
) -> int:
    """Check a folder of DVD submissions.

    Frames must be those of the template, else 1..N without a gap; labels are 0 or 1.

    Args:
        folder: with one CSV per video.
        template: folder with the organisers' CSVs, if there is one: the same files, columns and frames are wanted.
        label_column: as for ``read_dvd_templates``.
        videos: video -> frames, if known: all of them are wanted where there is no template.

    Returns:
        The number of rows of all files.

    Raises:
        SubmissionError: the first violation, with its file and line.
    """
    wanted = {t.name: t for t in read_dvd_templates(template, label_column)} if template else {}
    files = {f.name: f for f in csv_files(folder)}
    expected = set(wanted) or {f"{video}.csv" for video in videos or {}} or set(files)
    for name in sorted(expected ^ set(files)):
        what = "a file that the template has" if name in expected else "only files that the template has"
        raise SubmissionError(folder / name, None, what, "none" if name in expected else "this one")
    if not files:
        raise SubmissionError(folder, None, "one CSV per video", "no .csv file")
    num_rows = 0
    for found, name in zip(read_dvd_templates(folder, label_column), sorted(files), strict=True):
        file, like = files[name], wanted.get(name)
        if like is not None and found.header != like.header:
            raise SubmissionError(file, 1, f"the header {','.join(like.header)!r}", repr(",".join(found.header)))
        frames = [int(row[found.frame_at]) for row in found.rows]
        known = (videos or {}).get(found.video)
        goal = (
            [int(row[like.frame_at]) for row in like.rows]
            if like is not None and like.rows
            else [*range(1, (known or len(frames)) + 1)]
        )
        for number, (row, frame) in enumerate(zip(found.rows, goal, strict=False), start=2):
            if int(row[found.frame_at]) != frame:
                raise SubmissionError(file, number, f"frame {frame}", f"frame {row[found.frame_at]}")
            if row[found.label_at] not in _BITS:
                raise SubmissionError(file, number, "a label of 0 or 1", repr(row[found.label_at]))
        if len(frames) != len(goal) or not frames:
            raise SubmissionError(file, None, f"{len(goal) or 'some'} rows", f"{len(frames)}")
        num_rows += len(frames)
    return num_rows
