"""Submissions: an official template in, one value for every row out, in the order of the template.

VA, EXPR and AU are one flat text file: a header, then `<track>/<number>.jpg,values` with 1-based numbers. DVD is a
folder of CSVs, see train/submission/dvd.py. What is written is read again and checked by train/submission/check.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from shared.labels.annotations import AU_NAMES, EXPR_NAMES, MAX_FRAMES, VA_NAMES, LabelError
from shared.process.whole_file import whole_file
from train.judging.evaluate import TrackScores
from train.tasks import Task

LOCATION = "image_location"
FLAT_COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType({"va": VA_NAMES, "expr": EXPR_NAMES, "au": AU_NAMES})
DECIMALS = 5


class SubmissionError(LabelError):
    """A template or submission that is not what its format demands; names the file and the first line at fault."""


@dataclass(frozen=True, eq=False)
class FlatTemplate:
    """The template of a flat file.

    Attributes:
        path: where it was read from.
        header: its first line.
        locations: first field of every row, as it stands.
        tracks: names of the tracks, in order of appearance.
        rows: track -> int64 (n,), rows of the template (0-based, without header).
        frames: track -> int64 (n,), the frame of each of these rows, 0-based.
    """

    path: Path
    header: str
    locations: list[str]
    tracks: list[str]
    rows: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines of a text file, without the end of the last one.

    Raises:
        SubmissionError: empty, or not text.
    """
    try:
        text = path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise SubmissionError(path, None, "text in UTF-8", f"a byte that is not ({error.reason})") from None
    if not text.strip():
        raise SubmissionError(path, None, "a header line and rows", "an empty file")
    return text.removesuffix("\n").split("\n")


def flat_header(task: Task) -> str:
    """The header line of a task's flat file."""
    return ",".join((LOCATION, *FLAT_COLUMNS[task.name]))


def read_flat_template(task: Task, path: Path) -> FlatTemplate:
    """The organisers' example file of a task: its rows say which frames are wanted, and in which order.

    The values in it are dummies and are not looked at; rows may lack them. The header of EXPR names nine fields while
    its rows have two.

    Raises:
        SubmissionError: the header of another task, or a row that is no `<track>/<number>.jpg`.
    """
    lines = read_lines(path, "utf-8-sig")
    names = [name.strip().lower() for name in lines[0].split(",")]
    if names != flat_header(task).lower().split(","):
        other = [name for name in FLAT_COLUMNS if names == [LOCATION, *(c.lower() for c in FLAT_COLUMNS[name])]]
        seems = f": the template of task {other[0]!r}" if other else ""
        raise SubmissionError(path, 1, f"the header {flat_header(task)!r}", repr(lines[0][:80]) + seems)
    locations: list[str] = []
    known: set[str] = set()
    tracks: dict[str, tuple[list[int], list[int]]] = {}
    for number, line in enumerate(lines[1:], start=2):
        location = line.partition(",")[0]
        track, frame = _place(path, number, location)
        if location in known:
            raise SubmissionError(path, number, "every frame once", f"{location!r} again")
        known.add(location)
        tracks.setdefault(track, ([], []))
        tracks[track][0].append(number - 2)
        tracks[track][1].append(frame)
        locations.append(location)
    if not locations:
        raise SubmissionError(path, None, "at least one row", "only a header")
    return FlatTemplate(
        path,
        lines[0].strip(),
        locations,
        [*tracks],
        {track: np.array(rows, np.int64) for track, (rows, _) in tracks.items()},
        {track: np.array(frames, np.int64) for track, (_, frames) in tracks.items()},
    )


def _place(path: Path, line: int, location: str) -> tuple[str, int]:
    """`2-30-640x360/00001.jpg` -> ("2-30-640x360", 0)."""
    folder, _, name = location.rpartition("/")
    stem = name.partition(".")[0]
    track = folder.rpartition("/")[2]
    number = stem.isascii() and stem.isdecimal() and len(stem) <= 20  # Python refuses to read thousands of digits
    if not track or not number or not 1 <= int(stem) <= MAX_FRAMES:
        raise SubmissionError(path, line, "<track>/<frame from 00001>.jpg", repr(location[:80]))
    return track, int(stem) - 1  # 1-based file -> 0-based frame


def nearest_valid(scores: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, int]:
    """Scores of some frames, taken from the nearest frame that has one; of two equally near the earlier.

    Official row counts differ from decoded ones by up to 49, always at the end, so frames past the end are normal.

    Args:
        scores: float (F, K'), NaN where no window covers the frame; at least one frame must have a score.
        frames: int64 (n,), 0-based, may lie past F.

    Returns:
        float (n, K') without NaN, and how many of the frames had no score of their own.
    """
    known = np.flatnonzero(np.isfinite(scores).all(axis=1))
    if not len(known):
        raise ValueError("no frame of the track has a score")
    after = np.minimum(np.searchsorted(known, frames), len(known) - 1)
    before = np.maximum(np.searchsorted(known, frames, side="right") - 1, 0)
    closer = np.abs(known[before] - frames) <= np.abs(known[after] - frames)
    source = np.where(closer, known[before], known[after])  # (n,)
    return scores[source], int((source != frames).sum())


def row_values(task: Task, scores: np.ndarray) -> list[str]:
    """What stands behind the location: (n, K') scores -> n strings; values in range, decisions as whole numbers."""
    if task.kind == "regression":
        values = np.round(np.clip(scores, *task.label_range), DECIMALS) + 0.0  # -0.0 + 0.0 is 0.0
        return [",".join(f"{v:.{DECIMALS}f}" for v in row) for row in values.tolist()]
    if task.kind == "multilabel":
        return [",".join("1" if v > 0.5 else "0" for v in row) for row in scores.tolist()]
    decided = scores.argmax(axis=1) if task.kind == "classes" else scores[:, 0] > 0.5
    return [str(int(v)) for v in decided.tolist()]


def write_flat(
    task: Task, template: FlatTemplate, results: Mapping[str, TrackScores], missing: str, output: Path
) -> int:
    """Write the flat file of VA, EXPR or AU in one step.

    Args:
        task: what was predicted.
        template: which rows, in which order.
        results: track -> scores, post-processed or raw.
        missing: what stands in rows of a track without scores; "" where there is none such.
        output: the file.

    Returns:
        How many rows took the value of another frame.

    Raises:
        ValueError: a track has no scores and ``missing`` is empty, or the output is the template.
    """
    if output.exists() and output.samefile(template.path):
        raise ValueError(f"the submission would overwrite its template {template.path}; give another --output")
    values, filled = [missing] * len(template.locations), 0
    for track in template.tracks:
        rows = template.rows[track]
        if track not in results:
            if not missing:
                raise ValueError(f"track {track!r} of the template has no scores")
            continue
        scores, borrowed = nearest_valid(results[track].scores, template.frames[track])
        filled += borrowed
        for row, value in zip(rows.tolist(), row_values(task, scores), strict=True):
            values[row] = value
    body = (f"{location},{value}\n" for location, value in zip(template.locations, values, strict=True))
    write_text(output, f"{template.header}\n" + "".join(body))
    return filled


def write_text(file: Path, text: str) -> None:
    """Write a text in one step, with LF line ends everywhere."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as opened:
        opened.write(text.encode("utf-8"))
