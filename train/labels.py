"""Official annotation files -> per-frame arrays. Row i is frame i, 0-based in decode order; NaN = masked.

Two rules keep the numbers honest. A reader never drops, skips or shifts a row: anything it does not understand is an
error with file and line. And the length of a file and of its video meet in one place only, `align`.
"""

import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from train.tasks import unknown_name

MAX_FRAMES = 20_000_000  # 92 h at 60 fps: a larger frame number is a typing error, not a video to allocate for
MASKED_DVD = -1.0
MASKED_VA = -5.0

VA_HEADER = ("valence", "arousal")
# Headers of the neighbouring files in an Aff-Wild2 download, so that a wrong folder is named and not just refused.
_EXPR_7 = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
_OTHER_HEADERS: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        (*_EXPR_7, "other"): "an EXPR file (8 expressions)",
        _EXPR_7: "an EXPR file of the 2020 edition (7 expressions)",
        tuple(f"au{n}" for n in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)): "an AU file (12 action units)",
        tuple(f"au{n}" for n in (1, 2, 4, 6, 12, 15, 20, 25)): "an AU file of the 2020 edition (8 action units)",
        ("frame_number", "label"): "a DVD file",
        ("image_location", *VA_HEADER): "a VA submission template, which holds no labels",
        ("arousal", "valence"): "a VA file with its columns swapped",
    }
)


class LabelError(ValueError):
    """An annotation that cannot be trusted.

    Attributes:
        file: The annotation file.
        line: 1-based line in it, or None where no single line is at fault.
        expected: What the format demands.
        found: What stands there.
    """

    def __init__(self, file: Path | str, line: int | None, expected: str, found: str) -> None:
        self.file, self.line, self.expected, self.found = str(file), line, expected, found
        where = self.file if line is None else f"{self.file}:{line}"
        super().__init__(f"{where}: expected {expected}, found {found}")


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
    """

    rows: int
    frames: int
    missing: int
    extra: int
    invalid: int

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
    aligned = np.full((num_frames, labels.shape[1]), np.nan, np.float32)  # (F, K)
    aligned[:kept] = labels[:kept]
    invalid = int(np.isnan(aligned[:kept]).any(axis=1).sum())
    return aligned, AlignReport(num_rows, num_frames, num_frames - kept, num_rows - kept, invalid)


def track_to_video(track_name: str, video_ids: Collection[str]) -> str | None:
    """The video a track annotates: the id equal to its name, else equal to it without `_left` or `_right`.

    Two people in one video are two tracks, and the main person may keep the bare name, so this is many-to-one.

    Returns:
        The video id, or None where neither exists.
    """
    if track_name in video_ids:
        return track_name
    for suffix in ("_left", "_right"):
        bare = track_name.removesuffix(suffix)
        if bare != track_name and bare in video_ids:
            return bare
    return None


def _read_text(path: Path) -> str:
    """The file as text without byte-order mark and trailing blank lines; never empty."""
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise LabelError(path, None, "text in UTF-8", f"a byte that is not ({error.reason})") from error
    if "\x00" in text:
        raise LabelError(path, text[: text.index("\x00")].count("\n") + 1, "text", "a NUL byte")
    if not text:
        raise LabelError(path, None, "a header line and rows", "an empty file")
    return text


def _names(header: str) -> tuple[str, ...]:
    return tuple(name.strip().strip('"').lower() for name in header.split(","))


def _is_number(text: str) -> bool:
    """Whether the text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _parse_pairs(
    path: Path, body: str, expected: str, columns: tuple[int, int] = (0, 1), num_fields: int = 2
) -> np.ndarray:
    """Two numeric columns of comma-separated rows -> (rows, 2) float64, vectorised.

    The line at fault is looked for only on failure. Blank lines between rows are errors and not skipped: a skipped
    line would shift every later frame. With more than two columns the others may hold anything.
    """
    wanted = list(columns) if num_fields > 2 else None
    try:
        table = pd.read_csv(
            io.StringIO(body),
            header=None,
            usecols=wanted,
            dtype=dict.fromkeys(columns, np.float64),
            skip_blank_lines=False,
            keep_default_na=False,
        )
        pairs = table[list(columns)].to_numpy(np.float64)  # (rows, 2)
        if table.shape[1] == 2 and np.isfinite(pairs).all():
            return pairs
    except (ValueError, KeyError):  # ValueError includes the errors of the pandas parser
        pass
    for line, text in enumerate(body.split("\n"), start=2):
        fields = text.split(",")
        complete = len(fields) == num_fields if wanted is None else len(fields) > max(columns)
        if not complete or not all(_is_number(fields[i]) for i in columns):
            raise LabelError(path, line, expected, repr(text.strip()))
    # Python and pandas differ on a few spellings of a number, such as 1_000.
    raise LabelError(path, None, expected, "a number that is not written as a plain decimal")


def _dvd_columns(path: Path, header: str) -> tuple[int, int]:
    """Positions of frame number and label: by name, else the first two columns."""
    names = _names(header)
    expected = "the header 'Frame_Number,Label'"
    if len(names) < 2 or all(_is_number(name) for name in names):
        raise LabelError(path, 1, expected, repr(header.strip()))
    if "frame_number" in names and "label" in names:
        return names.index("frame_number"), names.index("label")
    if names[0] == "label" or "frame_number" in names[1:]:
        # One known name in the wrong place: taking the first two columns would swap frames and labels.
        raise LabelError(path, 1, expected, repr(header.strip()))
    return 0, 1


def read_dvd_csv(path: Path | str) -> np.ndarray:
    """A DVD annotation: one CSV per video, header `Frame_Number,Label`.

    Frame_Number is 1-based, so number f is row f - 1. Numbers may come in any order and with gaps; frames that are
    absent, or labelled -1, are masked. Names are matched without case; failing that the first two columns are taken.

    Returns:
        (L, 1) float32 with L = the largest Frame_Number: 0 non-violent, 1 violent, NaN masked.

    Raises:
        LabelError: Another header, a field that is no number, a frame number that is not a whole number of 1 or more,
            a label other than 0, 1 and -1, or one frame with two different labels.
    """
    path = Path(path)
    header, _, body = _read_text(path).partition("\n")
    frame_at, label_at = _dvd_columns(path, header)
    if not body:
        raise LabelError(path, None, "at least one row", "only a header")
    number, label = _parse_pairs(
        path, body, "a row of numbers 'Frame_Number,Label'", (frame_at, label_at), len(_names(header))
    ).T  # (rows,) each

    def refuse(bad: np.ndarray, expected: str, values: np.ndarray) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise LabelError(path, row + 2, expected, f"{values[row]:g}")

    whole = (number == np.floor(number)) & (number >= 1) & (number <= MAX_FRAMES)
    refuse(~whole, f"a whole Frame_Number from 1 to {MAX_FRAMES}", number)
    refuse(~np.isin(label, (0.0, 1.0, MASKED_DVD)), "a Label of 0, 1 or -1 (masked)", label)
    index = number.astype(np.int64) - 1  # 1-based file -> 0-based frame
    _refuse_conflicts(path, index, label)
    labels = np.full((int(index.max()) + 1, 1), np.nan, np.float32)  # (L, 1)
    labels[index, 0] = np.where(label == MASKED_DVD, np.nan, label)
    return labels


def _refuse_conflicts(path: Path, index: np.ndarray, label: np.ndarray) -> None:
    """Raise at the first line that gives a frame another label than an earlier line did."""
    order = np.argsort(index, kind="stable")
    clash = (np.diff(index[order]) == 0) & (np.diff(label[order]) != 0)
    if clash.any():
        at = int(np.argmin(np.where(clash, order[1:], len(order))))
        first, again = order[at], order[at + 1]
        raise LabelError(
            path,
            int(again) + 2,
            f"one label per frame (frame {index[again] + 1} is {label[first]:g} in line {first + 2})",
            f"{label[again]:g}",
        )


def read_affwild2_va(path: Path | str) -> np.ndarray:
    """An Aff-Wild2 valence-arousal annotation: header `valence,arousal`, then one row per frame, without index.

    The first row after the header is frame 0. A `-5` in either value masks both: an annotator who could not judge one
    judged neither.

    Returns:
        (L, 2) float32 in [-1, 1], NaN masked.

    Raises:
        LabelError: The header of another task or edition (the message says which), a row that is not two numbers,
            a blank line between rows, or a value outside [-1, 1] other than -5.
    """
    path = Path(path)
    header, _, body = _read_text(path).partition("\n")
    if _names(header) != VA_HEADER:
        seems = _OTHER_HEADERS.get(_names(header))
        found = repr(header.strip()[:80]) + (f": this seems to be {seems}" if seems else "")
        raise LabelError(path, 1, "the header 'valence,arousal'", found)
    if not body:
        raise LabelError(path, None, "at least one row", "only a header")
    values = _parse_pairs(path, body, "two numbers 'valence,arousal'")  # (L, 2)
    masked = (values == MASKED_VA).any(axis=1)  # (L,)
    bad = ((np.abs(values) > 1) & (values != MASKED_VA)).any(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        found = ",".join(f"{value:g}" for value in values[row])
        raise LabelError(path, row + 2, "values in [-1, 1], or -5 (masked)", found)
    labels = values.astype(np.float32)
    labels[masked] = np.nan
    return labels


def segments_to_frames(
    table: pd.DataFrame, columns: Sequence[str], num_frames: int, source: Path | str = "segments"
) -> np.ndarray:
    """Labels given per segment -> labels per frame.

    Each row of `table` labels the frames [start, end) with the values in `columns`. `start` and `end` may be absent or
    empty: then the segment begins at frame 0, or ends with the video; a row with neither labels the whole video.

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
    values = _segment_values(table, columns, lines, source)  # (rows, K)
    length = max(num_frames, int(end.max(initial=0)))
    labels = np.full((length, len(columns)), np.nan, np.float32)  # (L, K)
    owner = np.full(length, -1)  # (L,) row that labelled the frame
    for row, line in enumerate(lines):
        part = slice(start[row], end[row])
        if start[row] >= end[row]:
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


# Every file format by the name a manifest uses. A new one (EXPR, AU) is a reader above and a line here.
FORMATS: Mapping[str, Callable[[Path | str], np.ndarray]] = MappingProxyType(
    {
        "dvd": read_dvd_csv,
        "affwild2-va": read_affwild2_va,
    }
)


def read_labels(path: Path | str, format_name: str) -> np.ndarray:
    """Read one annotation file of a named format -> (L, K) float32, NaN masked.

    Raises:
        ValueError: No such format; the message carries the closest match.
        LabelError: The file is not what the format demands.
    """
    if format_name not in FORMATS:
        raise ValueError(unknown_name("label format", format_name, FORMATS))
    return FORMATS[format_name](path)
