"""Labels per frame: a track, laid onto the frames of its video. Row i is frame i, 0-based; NaN = masked.

The length of an annotation and of its video meet in one place only, `align`. Files are read in
shared/labels/formats.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from shared.labels.annotations import MAX_FRAMES, LabelError


@dataclass(frozen=True, eq=False)
class Track:
    """The annotation of one person, or of the whole frame, in one video.

    Attributes:
        name: Stem of the annotation file; ends in `_left` or `_right` for one of two people.
        video_id: The video whose features this track uses; several tracks may share one.
        group: Tracks of one group never part in any fold (parts of one recording, left and right twins).
        split: Official split ("train", "val", "test") or None.
        fold: Fold given by the manifest, or None.
        labels: (F_rows, K) float32, NaN = masked; one row per annotated frame, not yet aligned to the video.
        source: The annotation file.
    """

    name: str
    video_id: str
    group: str
    split: str | None
    fold: int | None
    labels: np.ndarray
    source: str

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.dtype != np.float32:
            raise ValueError(
                f"{self.source}: labels must be (F_rows, K) float32, not {self.labels.shape} {self.labels.dtype}"
            )


@dataclass(frozen=True)
class AlignReport:
    """What `align` met. Counts of rows and frames.

    Attributes:
        rows: Rows of the annotation (L).
        frames: Decoded frames of the video (F).
        missing: Frames past the last row: masked.
        extra: Rows past the last frame: cut.
        invalid: Rows that fall on a frame and hold a masked value.
        cut: Rows past the last frame that hold a valid label.
    """

    rows: int
    frames: int
    missing: int
    extra: int
    invalid: int
    cut: int

    @property
    def labelled(self) -> int:
        """Frames with a valid label."""
        return min(self.rows, self.frames) - self.invalid


def align(labels: np.ndarray, num_frames: int) -> tuple[np.ndarray, AlignReport]:
    """Lay the rows of an annotation onto the frames of its video. The only place where the two lengths meet.

    Row i is frame i. Surplus rows are cut, missing rows become NaN, nothing is ever shifted or rescaled: official
    files are up to 49 rows off the true frame count, always at the end.

    Args:
        labels: (L, K) float32, NaN = masked.
        num_frames: F, the number of frames that were decoded.

    Returns:
        (num_frames, K) float32 and the counts.
    """
    if labels.ndim != 2:
        raise ValueError(f"labels must be (L, K), not {labels.shape}")
    if num_frames < 0:
        raise ValueError(f"num_frames must be 0 or more, not {num_frames}")
    num_rows = len(labels)
    kept = min(num_rows, num_frames)
    if num_rows == num_frames and labels.dtype == np.float32:
        return labels, AlignReport(num_rows, num_frames, 0, 0, kept - count_valid(labels), 0)
    aligned = np.full((num_frames, labels.shape[1]), np.nan, np.float32)  # (F, K)
    aligned[:kept] = labels[:kept]
    invalid = kept - count_valid(aligned[:kept])
    cut = count_valid(labels[kept:])
    return aligned, AlignReport(num_rows, num_frames, num_frames - kept, num_rows - kept, invalid, cut)


def count_valid(labels: np.ndarray) -> int:
    """Rows of (F, K) labels without a masked value."""
    return int(np.count_nonzero(np.isfinite(labels).all(axis=1)))


def segments_to_frames(
    table: pd.DataFrame, columns: Sequence[str], num_frames: int, source: Path | str = "segments"
) -> np.ndarray:
    """Labels given per segment -> labels per frame.

    Each row of `table` labels the frames [start, end) with the values in `columns`. `start` and `end` may be absent or
    empty: then the segment begins at frame 0, or ends with the video; a row with neither labels the whole video. A
    segment without an end that begins past the end of the video labels nothing.

    Args:
        table: The rows of one track. Keep the index `pandas.read_csv` gave: index i is line i + 2 in messages.
        columns: The K value columns; an empty cell masks.
        num_frames: F of the video.
        source: The file, for messages.

    Returns:
        (L, K) float32 with L = F, or the largest `end` where that is more (`align` cuts and counts it). NaN where no
        segment lies.

    Raises:
        LabelError: A missing column, a bound that is not a whole number of 0 or more, an empty segment, a value that
            is no number, or two segments that give one frame different values.
    """
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise LabelError(source, 1, f"the columns {', '.join(columns)}", f"no column {', '.join(absent)}")
    lines = [int(i) + 2 for i in table.index]
    start = _bounds(table, "start", 0, lines, source)
    end = _bounds(table, "end", num_frames, lines, source)
    closed = table["end"].notna().to_numpy() if "end" in table.columns else np.zeros(len(table), bool)
    values = _segment_values(table, columns, lines, source)  # (rows, K)
    return label_frames(lines, start, end, closed, values, num_frames, source)


def label_frames(
    lines: Sequence[int | str],
    start: Sequence[int] | np.ndarray,
    end: Sequence[int] | np.ndarray,
    closed: Sequence[bool] | np.ndarray,
    values: np.ndarray,
    num_frames: int,
    source: Path | str = "segments",
) -> np.ndarray:
    """``segments_to_frames`` of segments that are known to be well-formed.

    Args:
        lines: (rows,) for messages.
        start, end, closed: (rows,) each; where a segment is not closed, its end is the video's.
        values: (rows, K) float32, NaN masks.
        num_frames, source: as there; so are result and errors.
    """
    end = np.asarray(end, np.int64)
    length = max(num_frames, int(end.max(initial=0)))
    labels = np.full((length, values.shape[1]), np.nan, np.float32)  # (L, K)
    if len(lines) == 1 and not (closed[0] and start[0] >= end[0]):  # of a million clips, most have one label each
        labels[start[0] : end[0]] = values[0]
        return labels
    owner = np.full(length, -1)  # (L,) row that labelled the frame
    for row, line in enumerate(lines):
        part = slice(start[row], end[row])
        if closed[row] and start[row] >= end[row]:
            raise LabelError(source, line, "start before end", f"[{start[row]}, {end[row]})")
        clash = (owner[part] >= 0) & ~_same(labels[part], values[row]).all(axis=1)
        if clash.any():
            frame = start[row] + int(np.argmax(clash))
            raise LabelError(
                source, line, "one label per frame", f"lines {lines[owner[frame]]} and {line} differ on frame {frame}"
            )
        labels[part], owner[part] = values[row], row
    return labels


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _bounds(table: pd.DataFrame, name: str, default: int, lines: list[int], source: Path | str) -> np.ndarray:
    """One bound of every segment -> (rows,) int64, with `default` where the cell is empty."""
    if name not in table.columns:
        return np.full(len(table), default, np.int64)
    given = table[name].notna().to_numpy()
    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = given & ~((numbers >= 0) & (numbers <= MAX_FRAMES) & (numbers == np.floor(numbers)))
    if bad.any():
        row = int(np.argmax(bad))
        raise LabelError(
            source, lines[row], f"a whole '{name}' frame from 0 to {MAX_FRAMES}", repr(table[name].iloc[row])
        )
    return np.where(given, numbers, default).astype(np.int64)


def _segment_values(table: pd.DataFrame, columns: Sequence[str], lines: list[int], source: Path | str) -> np.ndarray:
    """The value columns -> (rows, K) float32, NaN where a cell is empty."""
    values = np.empty((len(table), len(columns)), np.float32)
    for k, name in enumerate(columns):
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        bad = (table[name].notna().to_numpy() & np.isnan(numbers)) | np.isinf(numbers)
        if bad.any():
            row = int(np.argmax(bad))
            raise LabelError(source, lines[row], f"a number in '{name}'", repr(table[name].iloc[row]))
        values[:, k] = numbers
    return values
