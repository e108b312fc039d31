"""Captions as a file that people and programs edit: columns video, frame, time_s, caption, as CSV or as Parquet.

Both keep every caption and every id exactly: quotes, line breaks, spaces at the ends, empty captions, words such as
"NA" and ids such as "007". CSV is UTF-8 with every text in quotes. ``time_s`` is for people and is not read back.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

COLUMNS = ("video", "frame", "time_s", "caption")
SUFFIXES = (".csv", ".parquet")
SHOWN = 5
EDIT = "Export what the cache has (python -m extract captions DATASET --out FILE) and change the column caption only."


class CaptionFileError(ValueError):
    """A file of captions cannot be read; the message says what was expected and what to do."""


class CaptionRow(NamedTuple):
    """One row: the video's id, the 0-based frame, its time in seconds (NaN if it was not read), the caption."""

    video: str
    frame: int
    time_s: float
    caption: str


@dataclass(frozen=True)
class Captions:
    """What a file says.

    Attributes:
        place: the file, for messages.
        videos: video id -> frame -> caption.
        repeated: (video, frame) of rows whose video and frame an earlier row has.
    """

    place: str
    videos: Mapping[str, Mapping[int, str]]
    repeated: Sequence[tuple[str, int]] = ()

    @property
    def num_captions(self) -> int:
        """Rows without the repeated ones."""
        return sum(map(len, self.videos.values()))

    def sha256(self) -> str:
        """Of the content: one JSON line [video, frame, caption] per row, sorted by video and frame. The same for CSV,
        Parquet and any order of rows."""
        digest = hashlib.sha256()
        for video, captions in sorted(self.videos.items()):
            for frame, caption in sorted(captions.items()):
                digest.update(json.dumps([video, frame, caption], separators=(",", ":")).encode() + b"\n")
        return digest.hexdigest()


def check_suffix(path: Path, option: str) -> None:
    """Refuse a file whose name does not say its format.

    Raises:
        CaptionFileError: names the formats.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise CaptionFileError(f"{option} takes a file that ends in {' or '.join(SUFFIXES)}, found {str(path)!r}")


def write_captions(path: Path, rows: Sequence[CaptionRow]) -> None:
    """Write a file, all of it or nothing.

    Raises:
        CaptionFileError: unknown format.
        OSError: it cannot be written.
    """
    check_suffix(path, "--out")
    part = path.with_name(path.name + ".part")
    try:
        _write_csv(part, rows) if path.suffix.lower() == ".csv" else _write_parquet(part, rows)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_captions(path: Path) -> Captions:
    """Read a file that ``write_captions`` wrote and someone edited; also without the column time_s.

    Raises:
        CaptionFileError: not of that form; the message names the place.
        OSError: it cannot be read.
    """
    check_suffix(path, "--from")
    videos: dict[str, dict[int, str]] = {}
    repeated = []
    for row in _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path):
        if "\x00" in row.caption:
            raise CaptionFileError(
                f"{path}: the caption of video {row.video!r}, frame {row.frame}, holds a NUL character"
            )
        captions = videos.setdefault(row.video, {})
        if row.frame in captions:
            repeated.append((row.video, row.frame))
        captions.setdefault(row.frame, row.caption)
    return Captions(str(path), videos, repeated)


# ------------------------------------------------------------------ CSV


def _write_csv(path: Path, rows: Sequence[CaptionRow]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _read_csv(path: Path) -> Iterator[CaptionRow]:
    # newline="": line breaks inside of captions stay what they are. -sig: spreadsheets put a mark in front.
    with path.open(encoding="utf-8-sig", newline="") as file, _long_fields():
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_columns(path, header)
            at = {name: header.index(name) for name in header}
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    found = f"{len(row)} fields, expected {len(header)} ({', '.join(header)})"
                    raise CaptionFileError(f"{path}, line {reader.line_num}: {found}; put texts with commas in quotes")
                yield CaptionRow(
                    row[at["video"]], _frame(row[at["frame"]], path, reader.line_num), float("nan"), row[at["caption"]]
                )
        except UnicodeDecodeError as error:
            raise CaptionFileError(f"{path} is not UTF-8 text ({error}); save it as CSV UTF-8") from None
        except csv.Error as error:
            raise CaptionFileError(f"{path}, line {reader.line_num}: not valid CSV ({error}). {EDIT}") from None


def _frame(text: str, path: Path, line: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise CaptionFileError(f"{path}, line {line}: frame is {text!r}, expected a whole number such as 16. {EDIT}")
    return int(text)


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(2**31 - 1)  # the limit of 128 KiB is for untrusted input; a caption may be longer
    try:
        yield
    finally:
        csv.field_size_limit(before)


# ------------------------------------------------------------------ Parquet


def _write_parquet(path: Path, rows: Sequence[CaptionRow]) -> None:
    arrow, parquet = _arrow()
    types = {"video": arrow.string(), "frame": arrow.int64(), "time_s": arrow.float64(), "caption": arrow.string()}
    columns = [[getattr(row, name) for row in rows] for name in COLUMNS]
    parquet.write_table(
        arrow.Table.from_arrays(
            [arrow.array(c, t) for c, t in zip(columns, types.values(), strict=True)], names=list(COLUMNS)
        ),
        path,
    )


def _read_parquet(path: Path) -> Iterable[CaptionRow]:
    arrow, parquet = _arrow()
    with path.open("rb") as file:
        try:
            table = parquet.read_table(file)
        except (arrow.ArrowException, OSError) as error:
            raise CaptionFileError(f"{path} is not a Parquet file that can be read: {error}") from None
    _check_columns(path, table.column_names)
    columns = {}
    for name in ("video", "frame", "caption"):
        column = table[name]
        if arrow.types.is_dictionary(column.type):  # categories of pandas
            column = column.cast(column.type.value_type)
        of_its_kind = arrow.types.is_integer if name == "frame" else _is_text(arrow)
        if not of_its_kind(column.type):
            wanted = "whole numbers" if name == "frame" else "strings"
            hint = "" if name == "frame" else "; read a CSV with dtype=str, so that ids like 007 stay what they are"
            raise CaptionFileError(f"{path}: column {name!r} is of type {column.type}, expected {wanted}{hint}")
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            hint = "; an empty caption is an empty string" if name == "caption" else ""
            raise CaptionFileError(
                f"{path}, row {row}: column {name!r} has no value ({column.null_count} such rows){hint}"
            )
        columns[name] = column.to_pylist()
    if negative := [f for f in columns["frame"] if f < 0]:
        raise CaptionFileError(f"{path}: frame is {negative[0]}, expected a whole number such as 16. {EDIT}")
    return [CaptionRow(v, f, float("nan"), c) for v, f, c in zip(*columns.values(), strict=True)]


def _is_text(arrow: Any) -> Any:
    return lambda kind: arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or str(kind) == "string_view"


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CaptionFileError(
            "Parquet needs the package pyarrow; install it, or use a file that ends in .csv"
        ) from None
    return pyarrow, pyarrow.parquet


def _check_columns(path: Path, found: Sequence[str]) -> None:
    needed = [name for name in COLUMNS if name != "time_s"]
    wrong = [f"no column {name!r}" for name in needed if name not in found]
    wrong += [f"unknown column {name!r}" for name in found if name not in COLUMNS][:SHOWN]
    wrong += [f"column {name!r} is there twice" for name in needed if list(found).count(name) > 1]
    if wrong:
        raise CaptionFileError(
            f"{path}: {'; '.join(wrong)}. Expected the columns {', '.join(COLUMNS)} with commas between them, found "
            f"{', '.join(map(repr, found)) or 'nothing'}. {EDIT}"
        )
