"""Tables as people have them: encodings, separators, decimal commas, spreadsheets; and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared.labels.columns import flag, number, seconds
from shared.labels.tables import TableError, read_table
from shared.manifest import ManifestError, load_manifest


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def rows_of(file: Path) -> list[list[str]]:
    return read_table(file).frame.to_numpy().tolist()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_ends_of_lines_and_separators(tmp_path: Path, encoding: str, end: str, separator: str) -> None:
    lines = ["path;label;who", "a.mp4;1;Jürgen", 'b.mp4; "x; y" ;Zoë ', "c.mp4"]
    text = end.join(line.replace(";", separator) for line in [*lines, ""])
    table = read_table(write(tmp_path, text.encode(encoding)))
    middle = f"x{separator} y"
    assert table.frame.to_numpy().tolist() == [["a.mp4", "1", "Jürgen"], ["b.mp4", middle, "Zoë"], ["c.mp4", "", ""]]
    assert list(table.frame.columns) == ["path", "label", "who"]
    assert table.rows == (2, 3, 4)
    told = " ".join(table.notes)
    assert ("UTF-16" in told) == encoding.startswith("utf-16")
    assert ("Windows-1252" in told) == (encoding == "cp1252")
    assert ("separated by" in told) == (separator != ",")


def test_comments_empty_rows_and_cells_of_several_lines_keep_the_row_numbers(tmp_path: Path) -> None:
    text = '# made by hand\n\npath,label\n# more\na.mp4,"two\nlines"\n\n,,\nb.mp4,0,\n'
    table = read_table(write(tmp_path, text))
    assert table.frame.to_numpy().tolist() == [["a.mp4", "two\nlines"], ["b.mp4", "0"]]
    assert table.rows == (5, 9)


def test_decimal_commas(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "path;x;y\na.mp4;0,5;1\nb.mp4;12,25;2\n"))
    assert table.decimal == ","
    assert any("decimal comma" in note for note in table.notes)
    with pytest.raises(TableError, match=r"decimal comma in row 2 \(0,5\) and a decimal point in row 3 \(0.7\)"):
        read_table(write(tmp_path, "path;x\na.mp4;0,5\nb.mp4;0.7\n"))
    assert read_table(write(tmp_path, "path,x\na.mp4,0.5\n")).decimal == "."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "a zip archive, as .xlsx files are: call it .xlsx"),
        (b"\xd0\xcf\x11\xe0rest", "an old Excel file"),
        (b"PAR1rest", "a Parquet file: call it .parquet"),
        (b"%PDF-1.4", "a PDF"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"path,x\na.mp4,\x001\n", "it has NUL bytes, so it is no text"),
        (b"path,x\na,1\nb,2,3\n", r"row 3 has 3, the header 2. Put texts with ',' in quotes"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_table_is_called_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_table(write(tmp_path, content))


def test_spreadsheets(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"path": ["a.mp4", "b.mp4"], "start_s": [0.5, 2], "n": [50.0, None], "yes": [True, False]})
    with pd.ExcelWriter(tmp_path / "t.xlsx") as writer:
        frame.to_excel(writer, index=False, sheet_name="labels")
        frame.to_excel(writer, index=False, sheet_name="other")
    table = read_table(tmp_path / "t.xlsx")
    assert table.frame.to_numpy().tolist() == [["a.mp4", "0.5", "50", "TRUE"], ["b.mp4", "2", "", "FALSE"]]
    assert table.rows == (2, 3)
    assert table.notes == ("sheet 'labels' is read, of 'labels', 'other'",)
    with pytest.raises(TableError, match="not an Excel file"):
        read_table(write(tmp_path, "no", "u.xlsx"))


def test_parquet_and_json_lines(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["a.mp4", "b.mp4"], "x": [1.0, None], "word": ["run", None]})
    frame.to_parquet(tmp_path / "t.parquet")
    wanted = [["a.mp4", "1", "run"], ["b.mp4", "", ""]]
    assert rows_of(tmp_path / "t.parquet") == wanted
    lines = [json.dumps({"path": "a.mp4", "x": 1, "word": "run"}), "", json.dumps({"path": "b.mp4", "x": None})]
    table = read_table(write(tmp_path, "\n".join(lines), "t.jsonl"))
    assert (table.frame.to_numpy().tolist(), table.rows) == (wanted, (1, 3))
    for text, message in (
        ('{"a": 1}\n{"a": ', "row 2 is no JSON"),
        ("[1]", "row 1: expected an object"),
        ('{"a": {"b": 1}}', r"row 1 column a: expected a text or a number, found \{'b': 1\}"),
    ):
        with pytest.raises(TableError, match=message):
            read_table(write(tmp_path, text, "u.jsonl"))
    with pytest.raises(TableError, match="not a Parquet file"):
        read_table(write(tmp_path, "PAR1no", "u.parquet"))


@pytest.mark.parametrize("name", ["t.tsv", "t.txt", "t.tab"])
def test_other_endings_are_data_sets(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mp4").touch()
    manifest = load_manifest(write(tmp_path, "path\tstart_s\tend_s\tlabel\na.mp4\t0,5\t0:01,5\t1\n", name))
    (segment,) = manifest.tasks["violence"].segments
    assert (segment.start, segment.end, segment.in_seconds, segment.values) == (0.5, 1.5, True, (1.0,))


def test_damaged_tables_end_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    text = "\ufeffpath;start_s;end_s;word\r\n" + 'a.mp4;0,5;1,5;"run; fast"\r\n' * 20
    rng = np.random.default_rng(5)
    for encoding in ("utf-8", "utf-16"):
        whole = bytearray(text.encode(encoding))
        for _ in range(200):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), rng.integers(1, 20)):
                damaged[place] = rng.integers(0, 256)
            try:
                load_manifest(write(tmp_path, bytes(damaged[: rng.integers(1, len(whole) + 1)])))
            except ManifestError as error:
                assert "t.csv" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [("1e3", ".", 1000.0), ("3,5", ",", 3.5), ("3,5", ".", None), ("1.234,5", ",", None), ("nan", ".", None)],
)
def test_numbers(text: str, decimal: str, value: float | None) -> None:
    assert number(text, decimal) == value


@pytest.mark.parametrize(
    ("text", "value"), [("TRUE", 1.0), ("No", 0.0), ("1.0", 1.0), ("0", 0.0), ("2", None), ("maybe", None)]
)
def test_flags(text: str, value: float | None) -> None:
    assert flag(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.5", 12.5),
        ("1:02.5", 62.5),
        ("01:00:00", 3600.0),
        ("00:00:01,5", 1.5),
        ("3 s", 3.0),
        ("1:60", None),
        ("", None),
    ],
)
def test_seconds(text: str, value: float | None) -> None:
    assert seconds(text) == value
