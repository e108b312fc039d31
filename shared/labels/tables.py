"""Tables as people have them: text in any of the usual encodings and separators, spreadsheets, Parquet, JSON Lines.

What is found is told; what cannot be told for certain is refused with its row. Nothing is guessed silently.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

SEPARATORS = ",;\t|"
WORDS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
MAX_BYTES = 2**31
MAX_ROWS = 10_000_000
TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
LOOKED_AT = 50  # rows that tell the separator
_WITH_COMMA = re.compile(r"[+-]?\d+,\d+")
_WITH_POINT = re.compile(r"[+-]?\d+\.\d+")
# First bytes of files that are no table, whatever their name says.
_OTHERS = {
    b"PK\x03\x04": "a zip archive, as .xlsx files are: call it .xlsx",
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls): save it as .xlsx or CSV",
    b"PAR1": "a Parquet file: call it .parquet",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive: unpack it",
}


class TableError(ValueError):
    """A file that is no table; the message says what it is, where, and what to do."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text.

    Attributes:
        frame: columns as the header has them; cells without spaces around them, "" where empty.
        rows: number of each row as an editor or a spreadsheet shows it, from 1.
        decimal: what stands before the fraction of a number, "." or ",".
        notes: what is not as in a plain UTF-8 file with commas.
    """

    frame: pd.DataFrame
    rows: tuple[int, ...]
    decimal: str = "."
    notes: tuple[str, ...] = field(default=())


def read_table(file: Path) -> TextTable:
    """Read a table by the ending of its name.

    Raises:
        TableError: what is wrong, with row and column.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    if file.is_dir():
        raise TableError("not a CSV table: it is a folder")
    if not (size := file.stat().st_size):
        raise TableError("not a CSV table: the file is empty")
    if size > MAX_BYTES:
        raise TableError(f"{size / 2**30:.1f} GiB; tables of up to 2 GiB are read: leave out columns, or split it")
    suffix = file.suffix.lower()
    table = READERS.get(suffix, _read_text)(file)
    if len(table.frame) > MAX_ROWS:
        raise TableError(f"{len(table.frame)} rows; up to {MAX_ROWS} are read: split it")
    return table


# ------------------------------------------------------------------ text


def _read_text(file: Path) -> TextTable:
    text, notes = _decoded(file.read_bytes())
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    separator = _separator(lines)
    header, rows, numbers = _split(lines, separator)
    if separator != ",":
        notes.append(f"its columns are separated by {WORDS[separator]}, not by commas, and read like that")
    frame = pd.DataFrame(rows, columns=range(len(header)), dtype=str)
    frame.columns = pd.Index(header)
    decimal = _decimal(frame, numbers) if separator != "," else "."
    if decimal == ",":
        notes.append("its numbers have a decimal comma, and are read like that")
    return TextTable(frame, tuple(numbers), decimal, tuple(notes))


def _decoded(raw: bytes) -> tuple[str, list[str]]:
    """The text, and what of its encoding must be told."""
    for mark, what in _OTHERS.items():
        if raw.startswith(mark):
            raise TableError(f"not a CSV table: {what}")
    for mark, name in ((b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32")):
        if raw.startswith(mark):
            return _as(raw, name), [f"it is {name.upper()} text"]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _as(raw, "utf-16"), ["it is UTF-16 text"]
    head = raw[:4096]
    if b"\x00" in head:
        wide = [head[0::2].count(0), head[1::2].count(0)]
        if max(wide) > 0.9 * len(head) / 2 and min(wide) < 0.1 * len(head) / 2:
            name = "utf-16-be" if wide[0] > wide[1] else "utf-16-le"
            return _as(raw, name), ["it is UTF-16 text without a mark"]
    if b"\x00" in raw:
        raise TableError("not a CSV table: it has NUL bytes, so it is no text; save it as CSV in UTF-8")
    try:
        text, notes = raw.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        text = _as(raw, "cp1252")
        notes = [f"it is no UTF-8 text (row {line}) and was read as Windows-1252; check the names with accents"]
    if text.lstrip()[:9].lower().startswith(("<!doctype", "<html")):
        raise TableError("not a CSV table: it is a web page; download the table itself")
    return text, notes


def _as(raw: bytes, name: str) -> str:
    try:
        return raw.decode(name).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise TableError(f"neither UTF-8 nor {name} text ({error.reason}); save it as UTF-8") from None


def _separator(text: str) -> str:
    """What separates the columns: of those that the header has, the one by which the most rows have as many cells."""
    head = "\n".join(text.split("\n", LOOKED_AT + 1)[: LOOKED_AT + 1])
    best, most = ",", (-1.0, 0)
    for separator in SEPARATORS:
        rows = [row for row in _cells(head, separator) if row and any(row) and not row[0].startswith("#")]
        if not rows or len(rows[0]) < 2:
            continue
        width = len(_trimmed(rows[0]))
        fits = sum(len(_trimmed(row)) <= width <= len(row) + (len(row) > 1) for row in rows) / len(rows)
        if (fits, separator == ",") > (most[0], bool(most[1])) and width > 1:
            best, most = separator, (fits, int(separator == ","))
    return best


def _cells(text: str, separator: str) -> list[list[str]]:
    try:
        return list(csv.reader(text.split("\n"), delimiter=separator, skipinitialspace=True))
    except csv.Error:
        return []


def _trimmed(row: Sequence[str]) -> list[str]:
    """A row without empty cells at its end: some programs put a separator there."""
    end = len(row)
    while end > 0 and not row[end - 1].strip():
        end -= 1
    return list(row[:end])


def _split(text: str, separator: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows as wide as it, and the number of the line in which each begins."""
    reader = csv.reader((line + "\n" for line in text.split("\n")), delimiter=separator, skipinitialspace=True)
    header: list[str] | None = None
    rows, numbers, line = [], [], 1
    try:
        for row in reader:
            number, line = line, reader.line_num + 1
            cells = [cell.strip() for cell in row]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if header is None:
                header = (
                    cells if len(_trimmed(cells)) == len(cells) else _trimmed(cells) + cells[len(_trimmed(cells)) :]
                )
                continue
            if len(cells) > len(header):
                cells = _trimmed(cells)
            if len(cells) > len(header):
                raise TableError(
                    f"not a CSV table: rows have more cells than the header (a comma at their end?): row {number} has "
                    f"{len(cells)}, the header {len(header)}. Put texts with {separator!r} in quotes"
                )
            rows.append(cells + [""] * (len(header) - len(cells)))
            numbers.append(number)
    except csv.Error as error:
        raise TableError(f"not a CSV table: {error} (row {line})") from None
    return header or [], rows, numbers


def _decimal(frame: pd.DataFrame, numbers: Sequence[int]) -> str:
    """Whether numbers have a decimal comma.

    Raises:
        TableError: some have a comma and some a point.
    """
    found: dict[str, tuple[int, str]] = {}
    for place in range(frame.shape[1]):
        for row, text in enumerate(frame.iloc[:, place]):
            for mark, form in ((",", _WITH_COMMA), (".", _WITH_POINT)):
                if mark not in found and form.fullmatch(text):
                    found[mark] = (numbers[row], text)
        if len(found) == 2:
            (first, one), (second, other) = found[","], found["."]
            raise TableError(
                f"numbers have a decimal comma in row {first} ({one}) and a decimal point in row {second} ({other}); "
                "write all in one way"
            )
    return "," if "," in found else "."


# ------------------------------------------------------------------ other files


def _read_excel(file: Path) -> TextTable:
    try:
        sheets = pd.read_excel(file, sheet_name=None, header=None, dtype=object, engine="openpyxl")
    except ImportError:
        raise TableError("spreadsheets are read with openpyxl, which is not installed: pip install openpyxl") from None
    except Exception as error:  # whatever openpyxl and zipfile make of a damaged file
        raise TableError(f"not an Excel file: {type(error).__name__}: {str(error)[:200]}") from None
    filled = {name: sheet for name, sheet in sheets.items() if not sheet.dropna(how="all").empty}
    if not filled:
        raise TableError("every sheet is empty")
    name, sheet = next(iter(filled.items()))
    notes = [f"sheet {name!r} is read, of {', '.join(map(repr, sheets))}"] if len(filled) > 1 else []
    rows = [[_shown(cell) for cell in row] for row in sheet.itertuples(index=False)]
    return _from_rows(rows, list(range(1, len(rows) + 1)), notes)


def _shown(cell: Any) -> str:
    """A cell as a person sees it: 50, not 50.0."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _read_parquet(file: Path) -> TextTable:
    try:
        frame = pd.read_parquet(file)
    except ImportError:
        raise TableError("Parquet files are read with pyarrow, which is not installed: pip install pyarrow") from None
    except Exception as error:  # pyarrow's own
        raise TableError(f"not a Parquet file: {str(error)[:200]}") from None
    rows = [[str(name) for name in frame.columns], *([_shown(c) for c in row] for row in frame.itertuples(index=False))]
    return _from_rows(rows, list(range(len(rows))), [])


def _read_json_lines(file: Path) -> TextTable:
    text, notes = _decoded(file.read_bytes())
    rows: list[Mapping[str, Any]] = []
    numbers = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TableError(f"row {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise TableError(f"row {number}: expected an object with a key per column, found {type(row).__name__}")
        if nested := [k for k, v in row.items() if isinstance(v, (dict, list))]:
            raise TableError(
                f"row {number} column {nested[0]}: expected a text or a number, found {row[nested[0]]!r:.60}"
            )
        rows.append(row)
        numbers.append(number)
    header = list(dict.fromkeys(key for row in rows for key in row))
    return _from_rows([header, *([_shown(row.get(key)) for key in header] for row in rows)], [0, *numbers], notes)


def _from_rows(rows: Sequence[Sequence[str]], numbers: Sequence[int], notes: Sequence[str]) -> TextTable:
    """The first row that is not empty is the header."""
    kept = [(n, list(row)) for n, row in zip(numbers, rows, strict=True) if any(row) and not row[0].startswith("#")]
    if not kept:
        raise TableError("it has no rows")
    header = kept[0][1]
    if again := [name for name, count in Counter(filter(None, header)).items() if count > 1 and not name]:
        raise TableError(f"column {again[0]!r} is there twice")
    frame = pd.DataFrame([row for _, row in kept[1:]], columns=range(len(header)), dtype=str)
    frame.columns = pd.Index(header)
    return TextTable(frame, tuple(n for n, _ in kept[1:]), ".", tuple(notes))


READERS: Mapping[str, Callable[[Path], TextTable]] = {
    **dict.fromkeys(TEXT_SUFFIXES, _read_text),
    ".xlsx": _read_excel,
    ".xlsm": _read_excel,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}
