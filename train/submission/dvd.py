"""DVD submissions: a folder with one CSV per video, copied from the organisers' where they give one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.labels.annotations import MAX_FRAMES, is_stray
from shared.labels.columns import choice_words, columns_called, places_words
from shared.labels.formats import FRAME_NAMES
from shared.names import name_problem
from train.judging.evaluate import TrackScores
from train.submission.files import SubmissionError, nearest_valid, read_lines, row_values, write_text
from train.tasks import Task

FRAME_COLUMN, LABEL_COLUMN = "Frame_Number", "Label"


@dataclass(frozen=True, eq=False)
class DvdTemplate:
    """The template of one DVD video.

    Attributes:
        name: file name, `<id>.csv`.
        header: its fields.
        rows: fields of every row; empty where the template has a header only, or there is none.
        frame_at, label_at: positions of frame number and label.
    """

    name: str
    header: tuple[str, ...]
    rows: list[list[str]]
    frame_at: int
    label_at: int

    @property
    def video(self) -> str:
        return self.name.removesuffix(".csv")

    def frames(self, num_frames: int) -> np.ndarray:
        """int64 (n,), 0-based: those of the rows, else all of the video."""
        if not self.rows:
            return np.arange(num_frames, dtype=np.int64)
        return np.array([int(row[self.frame_at]) - 1 for row in self.rows], np.int64)


def blank_dvd_template(video: str, label_column: str | None) -> DvdTemplate:
    """What is written where the organisers gave no file: frame number and label, all frames."""
    return DvdTemplate(f"{video}.csv", (FRAME_COLUMN, label_column or LABEL_COLUMN), [], 0, 1)


def read_dvd_templates(folder: Path, label_column: str | None) -> list[DvdTemplate]:
    """The organisers' CSVs, to be copied with the label filled in.

    Args:
        folder: with one `<id>.csv` per video.
        label_column: name of the column to fill; None: the one called Label or Predicted_Label, else the one beside the
            frame number, if there are two.

    Raises:
        SubmissionError: no CSV, columns that cannot be told, or a frame number that is none.
    """
    files = list(csv_files(folder))
    if not files:
        raise SubmissionError(folder, None, "one CSV per video", "no .csv file")
    return [_read_dvd_template(file, label_column) for file in files]


def csv_files(folder: Path) -> Iterator[Path]:
    """The CSVs of a folder by name, without what file systems leave."""
    if not folder.is_dir():
        raise SubmissionError(folder, None, "a folder with one CSV per video", "no folder")
    yield from sorted(f for f in folder.iterdir() if f.suffix.lower() == ".csv" and not is_stray(f))


def _read_dvd_template(file: Path, label_column: str | None) -> DvdTemplate:
    lines = read_lines(file, "utf-8-sig")
    header = tuple(name.strip() for name in lines[0].split(","))
    frame_at, label_at = _template_columns(file, header, label_column)
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        fields = [field.strip() for field in line.split(",")]
        fields += [""] * (len(header) - len(fields))  # a template may leave the label out
        frame = fields[frame_at]
        counts = frame.isdecimal() and len(frame) <= 20  # Python refuses to read thousands of digits
        if len(fields) != len(header) or not counts or not 1 <= int(frame) <= MAX_FRAMES:
            raise SubmissionError(file, number, f"{len(header)} fields and a frame number from 1", repr(line[:80]))
        rows.append(fields)
    return DvdTemplate(file.name, header, rows, frame_at, label_at)


def _template_columns(file: Path, header: tuple[str, ...], label_column: str | None) -> tuple[int, int]:
    """Positions of frame number and label by name; beside the frame number, an only other column is the label."""
    frames = columns_called(header, FRAME_NAMES)
    labels = columns_called(header, (label_column,) if label_column else (LABEL_COLUMN, "Predicted_Label"))
    if len(header) == 2 and len(frames) == 1 and not labels and not label_column:
        labels = [1 - frames[0]]
    if len(frames) == len(labels) == 1:
        return frames[0], labels[0]
    unclear = [f"; {choice_words(header, f, 'one')} ({places_words(f)})" for f in (frames, labels) if len(f) > 1]
    wanted = f"a header with the columns {FRAME_COLUMN!r} and {label_column or LABEL_COLUMN!r} (--label-column NAME)"
    raise SubmissionError(file, 1, wanted, repr(",".join(header)) + "".join(unclear))


def write_dvd(
    task: Task, templates: Sequence[DvdTemplate], results: Mapping[str, TrackScores], missing: str, output: Path
) -> int:
    """Write a folder of CSVs with hard labels for every frame.

    Args:
        task: violence.
        templates: one per video.
        results: video -> scores.
        missing: label of videos without scores; "" where there is none such.
        output: the folder; must be new or empty, so that no file of another submission is handed in with it.

    Returns:
        How many rows took the value of another frame.

    Raises:
        ValueError: a video has no scores or no name for a file, or the folder is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; give a new --output")
    for template in templates:  # names of a cache or a folder that somebody else made
        if problem := name_problem(template.name):
            raise ValueError(f"video {template.video!r} cannot be the name of a file: {problem}")
    filled = 0
    for template in templates:
        if template.video in results:
            scores = results[template.video].scores
            frames = template.frames(len(scores))
            chosen, borrowed = nearest_valid(scores, frames)
            labels, filled = row_values(task, chosen), filled + borrowed
        elif missing and template.rows:
            frames = template.frames(0)
            labels = [missing] * len(frames)
        else:
            raise ValueError(f"video {template.video!r} has no scores")
        rows = template.rows or [[str(f + 1), ""] for f in frames.tolist()]
        lines = [",".join(template.header)]
        for row, label in zip(rows, labels, strict=True):
            lines.append(",".join([*row[: template.label_at], label, *row[template.label_at + 1 :]]))
        write_text(output / template.name, "\n".join(lines) + "\n")
    return filled
