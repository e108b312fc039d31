"""Tables as people write them: columns that are nearly ours or there twice, spellings of numbers and of groups."""

from pathlib import Path

import pytest

from shared.labels.tables import WORDS
from shared.manifest import load_manifest
from tests.shared.test_manifest import problems_of, table, toml, touch


@pytest.mark.parametrize(
    ("header", "cells", "asked"),
    [
        ("groups", "g", "group"),
        ("Group ID", "g", "group"),
        ("gruop", "g", "group"),
        ("clip-group", "g", "group"),
        ("start_time", "1.5", "start"),
        ("Onset", "00:01.5", "start"),
        ("t0", "0", "start"),
        ("stop", "2 s", "end"),
        ("offset", "2", "end"),
        ("folds", "1", "fold"),
        ("CV fold", "1", "fold"),
        ("spilt", "anything", "split"),
        ("subset", "train", "split"),
        ("lable", "anything", "label"),
        ("frame_rate", "30000/1001", "fps"),
        ("valance", "0", "valence"),
    ],
)
def test_a_column_that_nearly_is_one_of_ours_is_asked_about(
    tmp_path: Path, header: str, cells: str, asked: str
) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    name = table(tmp_path, f"path,{header}", f"a.mp4,{cells}", "b.mp4,").name
    (problem,) = problems_of(tmp_path / name)
    assert problem.startswith(f"videos.csv:1: column {header!r} is not one that is read; did you mean {asked!r}?")
    assert f'columns = {{{asked} = "{header}"}}' in problem
    assert ("start_s,end_s in seconds" in problem) == (asked in ("start", "end"))
    no = toml(tmp_path, f'[videos]\ntable = "videos.csv"\ncolumns = {{{asked} = ""}}\n')
    assert load_manifest(no).notes == (
        f"videos.csv: further columns, each of which can be a task (--task NAME): {header}",
    )


def test_columns_with_other_meanings_are_listed_once_and_not_asked_about(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    others = "source,action,scene,orig_id,source_start_frame,n_frames,class,start_time,state,folder,gold,gender,set"
    source = table(
        tmp_path, f",path,{others}", "0,a.mp4,x,hug,lot,7,22,64,hug,2024-05-01,CA,f,1,m,A", "1,b.mp4" + "," * 13
    )
    assert load_manifest(source).notes == (
        f"videos.csv: further columns, each of which can be a task (--task NAME): {others.replace(',', ', ')}",
    )
    assert load_manifest(table(tmp_path, "path,label", "a.mp4,1", "b.mp4,0")).notes == ()


@pytest.mark.parametrize("header", ["Start Frame,END-FRAME,Label", "start,end,label", "startFrame,End,violent"])
def test_spellings_of_one_column_name_take_effect(tmp_path: Path, header: str) -> None:
    touch(tmp_path, "a.mp4")
    found = load_manifest(table(tmp_path, f"File_Name,{header}", "a.mp4,2,50.0,1", "a.mp4,5e+01,,0.0")).tasks[
        "violence"
    ]
    assert [(s.start, s.end, s.values) for s in found.segments] == [(2, 50, (1.0,)), (50, None, (0.0,))]
    assert found.in_frames == ("frame" in header.lower())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,Label,label", "Label and label could each be the label; say which in a manifest: columns = {label = "),
        ("path,label,label", "label and label could each be the label; rename or remove one (columns 2 and 3)"),
        ("path,label,label.1", 'columns = {label = "label.1"}, or rename or remove one (columns 2 and 3)'),
        ("Path,label,path", "Path and path could each be the path"),
        ("path,violent,violence", "violent and violence could each be the label"),
        ("video_path,label,x", "no column for the path"),
    ],
)
def test_a_column_that_is_there_twice_is_asked_about(tmp_path: Path, header: str, message: str) -> None:
    touch(tmp_path, "0", "1")
    (problem,) = problems_of(table(tmp_path, header, "0,0,1", "1,1,0"))
    assert message in problem
    assert ("did you mean 'video_path'" in problem) == ("video_path" in header)


def test_a_manifest_says_which_of_two_columns(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    table(tmp_path, "path,Label,label", "a.mp4,0,1")
    found = load_manifest(toml(tmp_path, '[videos]\ntable = "videos.csv"\ncolumns = {label = "Label"}\n'))
    assert [s.values for s in found.tasks["violence"].segments] == [(0.0,)]
    table(tmp_path, "path,label,label", "a.mp4,0,1")
    (problem,) = problems_of(toml(tmp_path, '[videos]\ntable = "videos.csv"\ncolumns = {label = "label"}\n'))
    assert "rename or remove one (columns 2 and 3)" in problem


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("fold", "2.0", 2),
        ("fold", "2.00e+00", 2),
        ("fold", "2.5", None),
        ("fold", "1,000", None),
        ("fold", "1_0", None),
        ("fold", "-1.0", None),
        ("start", "50.", 50),
        ("start", "50.5", None),
        ("start", "1e9", None),
        ("label", "2.0", None),
    ],
)
def test_whole_numbers_as_programs_write_them(tmp_path: Path, column: str, text: str, value: int | None) -> None:
    touch(tmp_path, "a.mp4")
    cells = {"path": "a.mp4", "label": "1", column: text}
    source = table(tmp_path, ",".join(cells), ",".join(f'"{cell}"' for cell in cells.values()))
    if value is None:
        (problem,) = problems_of(source)
        assert f"column {column}: expected" in problem
        assert repr(text) in problem
        return
    found = load_manifest(source)
    assert value == (found.videos[0].fold if column == "fold" else found.tasks["violence"].segments[0].start)


def test_spellings_of_a_group_that_look_the_same_are_one(tmp_path: Path) -> None:
    spelled = [
        "caf\u00e9 1",
        "cafe\u0301 1",
        "cafe\u0301  1",
        "caf\u00e9\u00a01",
        "caf\u00e9\u200b 1",
        "Caf\u00e9 1",
        "7",
        "7.0",
        "",
    ]
    touch(tmp_path, *(f"{i}.mp4" for i in range(9)))
    source = table(tmp_path, "path,group", *(f"{i}.mp4,{name}" for i, name in enumerate(spelled)))
    found = load_manifest(source)
    assert [v.group for v in found.videos] == [*[spelled[0]] * 5, "Caf\u00e9 1", "7", "7.0", "8.mp4"]
    (note,) = found.notes
    assert note.startswith(
        "groups that differ in spelling only are different groups: 'caf\u00e9 1' and 'Caf\u00e9 1'; '7' and"
    )
    two = table(tmp_path, "path,start,end,group", "0.mp4,0,5,cafe\u0301", "0.mp4,5,9,caf\u00e9")  # rows of one video
    assert [v.group for v in load_manifest(two).videos] == ["cafe\u0301"]  # a name that is spelled one way stays
    for name in ("caf\u00e9_a.mp4", "cafe\u0301_b.mp4"):
        touch(tmp_path / "d", name)
    rule = load_manifest(toml(tmp_path, "root = 'd'\n[videos]\nglob = '*'\ngroup = '^[^_]+'\n"))
    assert len({v.group for v in rule.videos}) == 1


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_read_and_told(tmp_path: Path, separator: str) -> None:
    touch(tmp_path, "a.mp4", "b, c.mp4")
    lines = ["path,label,group", "a.mp4,1,x", "b! c.mp4,0,y"]
    found = load_manifest(table(tmp_path, *(line.replace(",", separator).replace("!", ",") for line in lines)))
    assert [(v.id, v.group) for v in found.videos] == [("a.mp4", "x"), ("b, c.mp4", "y")]
    assert found.notes == (
        f"videos.csv: its columns are separated by {WORDS[separator]}, not by commas, and read like that",
    )
