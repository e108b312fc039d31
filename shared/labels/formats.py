"""Official annotation files -> per-frame arrays. Row i is frame i, 0-based in decode order; NaN = masked.

One rule keeps the numbers honest: a reader never drops, skips or shifts a row. Anything it does not understand is an
error with file and line.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from shared.labels.annotations import AU_NAMES, EXPR_NAMES, MAX_FRAMES, VA_NAMES, LabelError
from shared.labels.columns import choice_words, columns_called, places_words
from shared.names import unknown_name

MASKED_DVD = -1.0
MASKED_VA = -5.0
MASKED_CLASS = -1.0  # EXPR and AU
# Of a DVD file, the official name first; all count frames from 1. What the next ones count from cannot be known.
FRAME_NAMES = ("frame_number", "frame", "frame_no", "frame_num", "frame_nr")
UNCLEAR_FRAME_NAMES = ("frame_index", "frame_idx", "frame_id", "index", "idx")
LABEL_NAMES = ("label", "labels", "violent", "violence", "violence_label", "predicted_label", "class", "target", "gt")


def _lower(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


# Headers of the neighbouring files in an Aff-Wild2 download, so that a wrong folder is named and not just refused.
_KNOWN_HEADERS: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        VA_NAMES: "a VA file",
        _lower(EXPR_NAMES): "an EXPR file (8 expressions)",
        _lower(EXPR_NAMES[:7]): "an EXPR file of the 2020 edition (7 expressions)",
        _lower(AU_NAMES): "an AU file (12 action units)",
        tuple(f"au{n}" for n in (1, 2, 4, 6, 12, 15, 20, 25)): "an AU file of the 2020 edition (8 action units)",
        ("frame_number", "label"): "a DVD file",
        ("image_location", *VA_NAMES): "a VA submission template, which holds no labels",
        ("image_location", *_lower(EXPR_NAMES)): "an EXPR submission template, which holds no labels",
        ("image_location", *_lower(AU_NAMES)): "an AU submission template, which holds no labels",
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


def _parse_rows(
    path: Path, body: str, expected: str, num_fields: int, columns: Sequence[int] | None = None
) -> np.ndarray:
    """Numeric columns of comma-separated rows -> (rows, columns) float64, vectorised.

    The line at fault is looked for only on failure. Blank lines between rows are errors and not skipped: a skipped
    line would shift every later frame.

    Args:
        path: For messages.
        body: The text after the header.
        expected: A good row, in words.
        num_fields: Fields of a row.
        columns: The fields to read, in this order; others may hold anything. None, or all: no row may have more.
    """
    wanted = list(range(num_fields) if columns is None else columns)
    every = len(wanted) == num_fields
    try:
        table = pd.read_csv(
            io.StringIO(body),
            header=None,
            usecols=None if every else wanted,
            dtype=dict.fromkeys(wanted, np.float64),
            skip_blank_lines=False,
            keep_default_na=False,
        )
        rows = table[wanted].to_numpy(np.float64)  # (rows, columns)
        if table.shape[1] == len(wanted) and np.isfinite(rows).all():
            return rows
    except (ValueError, KeyError):  # ValueError includes the errors of the pandas parser
        pass
    for line, text in enumerate(body.split("\n"), start=2):
        fields = text.split(",")
        complete = len(fields) == num_fields if every else len(fields) > max(wanted)
        if not complete or not all(_is_number(fields[i]) for i in wanted):
            raise LabelError(path, line, expected, repr(text.strip()))
    # Python and pandas differ on a few spellings of a number, such as 1_000.
    raise LabelError(path, None, expected, "a number that is not written as a plain decimal")


def _affwild2_body(path: Path, names: Sequence[str]) -> str:
    """The rows of an Aff-Wild2 file whose header is checked.

    Raises:
        LabelError: The header of another task or edition (the message says which), or no rows.
    """
    header, _, body = _read_text(path).partition("\n")
    if _names(header) != _lower(names):
        seems = _KNOWN_HEADERS.get(_names(header))
        found = repr(header.strip()[:80]) + (f": this seems to be {seems}" if seems else "")
        raise LabelError(path, 1, f"the header {','.join(names)!r}", found)
    if not body:
        raise LabelError(path, None, "at least one row", "only a header")
    return body


def _refuse(path: Path, bad: np.ndarray | np.bool, expected: str, values: np.ndarray) -> None:
    """Raise at the first row where `bad` (rows,) is true; `values` is (rows, columns)."""
    if bad.any():
        row = int(np.argmax(bad))
        raise LabelError(path, row + 2, expected, ",".join(f"{value:g}" for value in values[row]))


def _dvd_columns(path: Path, header: str) -> tuple[int, int]:
    """Positions of frame number and label, by name."""
    names = _names(header)
    frames, labels = columns_called(names, FRAME_NAMES), columns_called(names, LABEL_NAMES)
    if len(frames) == len(labels) == 1:
        return frames[0], labels[0]
    why = [
        f"{choice_words(names, found, key)} ({places_words(found)})"
        for key, found in ((FRAME_NAMES[0], frames), (LABEL_NAMES[0], labels))
        if len(found) > 1
    ]
    if not frames and (unclear := columns_called(names, UNCLEAR_FRAME_NAMES)):
        why = [f"{names[unclear[0]]!r} may count from 0 or from 1; call it Frame_Number, which counts from 1"]
    found = "; ".join([repr(header.strip()[:200]), *why])
    raise LabelError(path, 1, "the header 'Frame_Number,Label'", found)


def read_dvd_csv(path: Path | str) -> np.ndarray:
    """A DVD annotation: one CSV per video, header `Frame_Number,Label`.

    Frame_Number is 1-based, so number f is row f - 1. Numbers may come in any order and with gaps; frames that are
    absent, or labelled -1, are masked. Columns are found by name (``FRAME_NAMES``, ``LABEL_NAMES``), in any order and
    among others.

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
    names, columns = _names(header), (frame_at, label_at)
    rows = _parse_rows(path, body, "a row of numbers 'Frame_Number,Label'", len(names), columns)
    number, label = rows.T  # (rows,) each
    whole = (number == np.floor(number)) & (number >= 1) & (number <= MAX_FRAMES)
    _refuse(path, ~whole, f"a whole Frame_Number from 1 to {MAX_FRAMES}", number[:, None])
    _refuse(path, ~np.isin(label, (0.0, 1.0, MASKED_DVD)), "a Label of 0, 1 or -1 (masked)", label[:, None])
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
    values = _parse_rows(path, _affwild2_body(path, VA_NAMES), "two numbers 'valence,arousal'", 2)  # (L, 2)
    masked = (values == MASKED_VA).any(axis=1)  # (L,)
    bad = ((np.abs(values) > 1) & (values != MASKED_VA)).any(axis=1)
    _refuse(path, bad, "values in [-1, 1], or -5 (masked)", values)
    labels = values.astype(np.float32)
    labels[masked] = np.nan
    return labels


def read_affwild2_expr(path: Path | str) -> np.ndarray:
    """An Aff-Wild2 expression annotation: the eight names as header, then one class number per frame.

    The header has eight fields and a row has one, so a CSV reader that believes the header reads seven empty columns.
    The first row after the header is frame 0; `-1` masks.

    Returns:
        (L, 1) float32 of 0..7 in the order of the header, NaN masked.

    Raises:
        LabelError: The header of another task or edition, a row that is not one number, a blank line between rows, or
            a class that is not 0..7 or -1.
    """
    path = Path(path)
    values = _parse_rows(path, _affwild2_body(path, EXPR_NAMES), "one class number", 1)  # (L, 1)
    known = np.isin(values[:, 0], (MASKED_CLASS, *range(len(EXPR_NAMES))))
    _refuse(path, ~known, f"a class from 0 to {len(EXPR_NAMES) - 1}, or -1 (masked)", values)
    return np.where(values == MASKED_CLASS, np.nan, values).astype(np.float32)


def read_affwild2_au(path: Path | str) -> np.ndarray:
    """An Aff-Wild2 action unit annotation: the twelve names as header, then twelve 0 or 1 per frame.

    The first row after the header is frame 0. A `-1` in any unit masks the frame, as the published readers do.

    Returns:
        (L, 12) float32 of 0 and 1, NaN masked.

    Raises:
        LabelError: The header of another task or edition, a row that is not twelve numbers, a blank line between rows,
            or a value other than 0, 1 and -1.
    """
    path = Path(path)
    num = len(AU_NAMES)
    values = _parse_rows(path, _affwild2_body(path, AU_NAMES), f"{num} numbers, one per action unit", num)  # (L, 12)
    _refuse(path, ~np.isin(values, (0.0, 1.0, MASKED_CLASS)).all(axis=1), "values of 0, 1 or -1 (masked)", values)
    labels = values.astype(np.float32)
    labels[(values == MASKED_CLASS).any(axis=1)] = np.nan
    return labels


# Every file format by the name a manifest uses. A new one is a reader above and a line here.
FORMATS: Mapping[str, Callable[[Path | str], np.ndarray]] = MappingProxyType(
    {
        "dvd": read_dvd_csv,
        "affwild2-va": read_affwild2_va,
        "affwild2-expr": read_affwild2_expr,
        "affwild2-au": read_affwild2_au,
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
