"""Captions as a file that people and programs edit: columns video, frame, time_s, caption, as CSV or as Parquet.

Both keep every caption and every id exactly: quotes, line breaks, spaces at the ends, empty captions, words such as
"NA" and ids such as "007". CSV is UTF-8 with every text in quotes. ``time_s`` is for people and is not read back,
nor are columns that somebody added.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from shared.process.whole_file import whole_file

COLUMNS = ("video", "frame", "time_s", "caption")
NEEDED = ("video", "frame", "caption")
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
        ignored: columns that were not read, without time_s and the index of a pandas table.
    """

    place: str
    videos: Mapping[str, Mapping[int, str]]
    repeated: Sequence[tuple[str, int]] = ()
    ignored: Sequence[str] = ()

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


def check_out(path: Path) -> None:
    """Refuse a place that ``write_captions`` cannot write to, before the work is done.

    Raises:
        CaptionFileError: unknown format, or no such folder.
    """
    check_suffix(path, "--out")
    if not path.parent.is_dir():
        raise CaptionFileError(f"--out {path}: there is no folder {path.parent}; make it, or give another place")


def write_captions(path: Path, rows: Sequence[CaptionRow]) -> None:
    """Write a file, all of it or nothing.

    Raises:
        CaptionFileError: unknown format, or no such folder.
        OSError: it cannot be written.
    """
    check_out(path)
    with whole_file(path) as file:
        _write_csv(file, rows) if path.suffix.lower() == ".csv" else _write_parquet(file, rows)


def read_captions(path: Path) -> Captions:
    """Read a file that ``write_captions`` wrote and someone edited; also without the column time_s or with others.

    Raises:
        CaptionFileError: not of that form; the message names the place.
        OSError: it cannot be read.
    """
    check_suffix(path, "--from")
    videos: dict[str, dict[int, str]] = {}
    repeated = []
    rows, ignored = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    for row in rows:
        if "\x00" in row.caption:
            raise CaptionFileError(
                f"{path}: the caption of video {row.video!r}, frame {row.frame}, holds a NUL character"
            )
        captions = videos.setdefault(row.video, {})
        if row.frame in captions:
            repeated.append((row.video, row.frame))
        captions.setdefault(row.frame, row.caption)
    return Captions(str(path), videos, repeated, ignored)


# ------------------------------------------------------------------ CSV


def _write_csv(file: BinaryIO, rows: Sequence[CaptionRow]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    text.detach()  # flushes, and leaves the file open


def _read_csv(path: Path) -> tuple[list[CaptionRow], list[str]]:
    """Rows, and the names of columns that were ignored."""
    rows = []
    # newline="": line breaks inside of captions stay what they are. -sig: spreadsheets put a mark in front.
    with path.open(encoding="utf-8-sig", newline="") as file, _long_fields():
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            # pandas writes its index as a first column without a name
            ignored = _check_columns(path, header, index=header[:1] if header[:1] == [""] else ())
            at = {name: header.index(name) for name in header}
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    found = f"{len(row)} fields, expected {len(header)} ({', '.join(header)})"
                    raise CaptionFileError(f"{path}, line {reader.line_num}: {found}; put texts with commas in quotes")
                frame = _frame(row[at["frame"]], path, reader.line_num)
                rows.append(CaptionRow(row[at["video"]], frame, float("nan"), row[at["caption"]]))
        except UnicodeDecodeError as error:
            raise CaptionFileError(f"{path} is not UTF-8 text ({error}); save it as CSV UTF-8") from None
        except csv.Error as error:
            raise CaptionFileError(f"{path}, line {reader.line_num}: not valid CSV ({error}). {EDIT}") from None
    return rows, ignored


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


def _write_parquet(file: BinaryIO, rows: Sequence[CaptionRow]) -> None:
    arrow, parquet = _arrow()
    types = {"video": arrow.string(), "frame": arrow.int64(), "time_s": arrow.float64(), "caption": arrow.string()}
    columns = [[getattr(row, name) for row in rows] for name in COLUMNS]
    arrays = [arrow.array(c, t) for c, t in zip(columns, types.values(), strict=True)]
    parquet.write_table(arrow.Table.from_arrays(arrays, names=list(COLUMNS)), file)


def _read_parquet(path: Path) -> tuple[list[CaptionRow], list[str]]:
    """Rows, and the names of columns that were ignored."""
    arrow, parquet = _arrow()
    with path.open("rb") as file:
        try:
            source = parquet.ParquetFile(file)
            schema = source.schema_arrow
            ignored = _check_columns(path, schema.names, index=_pandas_index(schema))
            table = source.read(columns=list(NEEDED))
        except (arrow.ArrowException, OSError) as error:
            raise CaptionFileError(f"{path} is not a Parquet file that can be read: {error}") from None
    columns = {}
    for name in NEEDED:
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
    return [CaptionRow(v, f, float("nan"), c) for v, f, c in zip(*columns.values(), strict=True)], ignored


def _pandas_index(schema: Any) -> list[str]:
    """Columns in which pandas keeps the index of a table; a range it keeps as a description, not as a column."""
    return [name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)]


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


def _check_columns(path: Path, found: Sequence[str], *, index: Collection[str]) -> list[str]:
    """The columns of a file that are not read, without time_s and those in which pandas keeps an index.

    Raises:
        CaptionFileError: a column that is needed is absent or there twice.
    """
    others = [name for name in found if name not in COLUMNS]
    wrong = [f"no column {name!r}{_meant(name, others)}" for name in NEEDED if name not in found]
    wrong += [f"column {name!r} is there twice" for name in NEEDED if list(found).count(name) > 1]
    if wrong:
        raise CaptionFileError(
            f"{path}: {'; '.join(wrong)}. Expected the columns {', '.join(COLUMNS)} with commas between them, found "
            f"{', '.join(map(repr, found)) or 'nothing'}. {EDIT}"
        )
    return [name for name in others if name not in index]


def _meant(name: str, others: Sequence[str]) -> str:
    """A hint at the column that may be the one that is needed, or nothing."""
    folded = {other.strip().lower(): other for other in others}
    close = difflib.get_close_matches(name, folded, n=1)
    return f" (did you mean {folded[close[0]]!r}? Then name it {name})" if close else ""
