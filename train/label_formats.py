"""Official annotation files -> per-frame arrays. Row i is frame i, 0-based in decode order; NaN = masked.

One rule keeps the numbers honest: a reader never drops, skips or shifts a row. Anything it does not understand is an
error with file and line.
"""

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from shared.names import unknown_name
from train.labels import MAX_FRAMES, LabelError

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
