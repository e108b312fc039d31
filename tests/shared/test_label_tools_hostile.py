"""Damaged and hostile files of annotation tools: a LabelError with file and place, and nothing else, soon."""

import json
import random
from pathlib import Path

import pytest

from shared.labels.annotations import LabelError
from shared.labels.tools.table import TOOLS, read_tool
from tests.shared.tool_samples import (
    AGGREGATED,
    CVAT,
    EAF,
    FORMAT_OF,
    SAMPLES,
    STUDIO,
    TABULAR,
    TIMELINE,
    VIA,
    VTT,
    studio,
)

BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]>"
)


def refuse(folder: Path, name: str, text: str | bytes, match: str, format_name: str | None = None) -> None:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LabelError, match=match) as caught:
        read_tool(path, format_name)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("<ANNOTATION_DOCUMENT", f"{BOMB}<ANNOTATION_DOCUMENT", r":2: .*without a document type.*DOCTYPE"),
        ("</TIER>", "", "well-formed"),
        ('encoding="UTF-8"', 'encoding="x-nothing"', "UTF-8"),
        ("<HEADER", "<a>" * 5000 + "<HEADER", "nested at most 60"),
        ("ANNOTATION_DOCUMENT", "ANNOTATIONS", "mismatched tag|root element"),
        ('TIME_UNITS="milliseconds"', 'TIME_UNITS="PAL-frames"', "milliseconds.*PAL-frames"),
        ('TIME_VALUE="1000"', 'TIME_VALUE="nan"', r":9: expected a number as TIME_VALUE \(milliseconds\), found 'nan'"),
        ('TIME_VALUE="1000"', 'TIME_VALUE="1e999"', "number as TIME_VALUE"),
        ('TIME_VALUE="1000"', f'TIME_VALUE="{"9" * 9999}"', "number as TIME_VALUE"),
        ('TIME_VALUE="1000"', 'TIME_VALUE="-2000"', "a start from 0"),
        ('TIME_VALUE="1000"', 'TIME_VALUE="9000"', "an end from the start"),
        ('TIME_SLOT_ID="ts4" TIME_VALUE="2500"', 'TIME_SLOT_ID="ts4"', "ts2' of annotation 'a1', which has none"),
        ('TIME_SLOT_ID="ts4"', 'TIME_SLOT_ID="ts1"', "every TIME_SLOT_ID once"),
        ('TIME_SLOT_REF2="ts4"', 'TIME_SLOT_REF2="ts9"', ":25: .*TIME_ORDER lists, found 'ts9'"),
        ('ANNOTATION_REF="a2"', 'ANNOTATION_REF="a5"', "which is its own ancestor"),
        ('ANNOTATION_REF="a2"', 'ANNOTATION_REF="a99"', "'a99', which is not there"),
        (' ANNOTATION_REF="a2"', "", "attribute ANNOTATION_REF"),
        ('TIER_ID="mood"', "", "attribute TIER_ID"),
    ],
)
def test_elan(tmp_path: Path, old: str, new: str, match: str) -> None:
    refuse(tmp_path, "a.eaf", changed(EAF, old, new), match)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('frame="10"', 'frame="11"', "in steps of 5"),
        ('frame="5"', 'frame="0"', "from 5 in steps"),
        ('frame="5"', 'frame="NaN"', "a number as a frame number, found 'NaN'"),
        ('frame="50"', 'frame="55"', "below 51"),
        ("step=5", "step=0", "step=5, found 'step=0'"),
        ("<start_frame>5", "<start_frame>-1", "start_frame, found '-1'"),
        (' label="dog"', "", "an attribute label"),
        ("<task>", "<nothing/><task2>", "mismatched"),
    ],
)
def test_cvat(tmp_path: Path, old: str, new: str, match: str) -> None:
    refuse(tmp_path, "a.xml", changed(CVAT, old, new), match)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("1.25", "NaN", "NaN, which is no number"),
        ("1.25", "-Infinity", "-Infinity"),
        ("1.25", "9" * 5000, "digits"),
        ("1.25", "1e400", "a number as a time"),
        ("1.25", "-1", "a start from 0"),
        ("1.25", "3.5", "an end from the start"),
        ("[1.25, 3]", "[1, 2, 3]", "at most two times"),
        ("[1.25, 3]", '"x"', r"a list as 'z', found 'x' \(metadata '1_x'\)"),
        ('{"1": "1", "2"', '{"1": "7", "2"', "an option of 'act', found '7'"),
        ('{"1": "1", "2"', '{"9": "1", "2"', "attribute '9', found None"),
        ('"vid": "2"', '"vid": "3"', "a 'vid' that is in 'view'"),
        ('["1"]', '["1", "2"]', "one file per view, found 2"),
        ('"metadata"', '"_via_img_metadata"', "VIA 3"),
        ('"file":', '"view":', "'view' twice in one object"),
    ],
)
def test_via(tmp_path: Path, old: str, new: str, match: str) -> None:
    refuse(tmp_path, "a.json", changed(VIA, old, new), match, "via")


def with_value(**value: object) -> str:
    return studio(TIMELINE | {"value": TIMELINE["value"] | value})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (STUDIO[:-5], ":1: expected JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"video": "a.mp4", "mood": []}]', "not JSON-MIN"),
        ("[7]", "an object as a task, found 7"),
        (with_value(ranges=[{"start": 0, "end": 3}]), "a whole number from 1"),
        (with_value(ranges=[{"start": 5, "end": 4}]), "a whole number from 5"),
        (with_value(ranges=[{"start": True, "end": 4}]), "a number as 'start'"),
        (with_value(ranges=[{"start": 1, "end": 10**300}]), "a number as 'end'"),
        (with_value(ranges={}), "a list as 'ranges'"),
        (with_value(timelinelabels=[None]), "a text as a label, found None"),
        (with_value(duration=0.0000001), "a frame rate"),
        (studio(TIMELINE, TIMELINE | {"value": TIMELINE["value"] | {"duration": 5}}), "one frame rate per task"),
        (studio(TIMELINE | {"value": 3, "id": [[[]]]}), "an object as 'value'"),
        (studio({"type": "labels", "value": {"start": "x", "end": 2, "labels": ["a"]}}), "'start' "),
    ],
)
def test_labelstudio(tmp_path: Path, text: str, match: str) -> None:
    refuse(tmp_path, "a.json", text, match, "labelstudio")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.txt", "1\t2\ta\n-1\t2\tb\n", ":2: expected a start from 0"),
        ("a.txt", "1\t2\ta\n3\t2\tb\n", ":2: expected an end from the start"),
        ("a.txt", "1\t2\ta\nnan\t2\tb\n", ":2: expected a number"),
        ("a.txt", "1\t2\ta\n\n3 4 b\n", ":3: expected start, end and label"),
        ("a.vtt", "00:01.000 --> 00:02.000\nx\n", ":1: expected WEBVTT"),
        ("a.vtt", changed(VTT, "00:02.500", "00:00.500"), ":10: expected an end from the start"),
        ("a.vtt", changed(VTT, "00:02.500", "soon"), ":10: expected a time such as"),
        ("a.vtt", VTT + "\nlonely\n", "expected a time such as"),
        ("a.vtt", "WEBVTT\n00:01.000 --> 00:02.000\nx\n", ":2: expected an empty line before a cue"),
        ("a.vtt", changed(VTT, "\n\n100:", "\n100:"), ":13: expected an empty line before a cue"),
        ("a.srt", "1\n00:00:99,0 --> 00:01:00,0\nx\n", ":2: expected a time"),
        ("a.csv", "a,b\n1,2\n", "a header with Behavior"),
        ("a.csv", changed(AGGREGATED, "3.25", "1.25"), ":2: expected an end from the start"),
        ("a.csv", changed(AGGREGATED, "3.25", "NA"), "a stop of a STATE event"),
        ("a.csv", changed(AGGREGATED, "1.5", "00:00:01.5"), "export times as seconds"),
        ("a.csv", changed(AGGREGATED, "#1:films/a.mp4", "#1:a.mp4;#1:b.mp4"), "one media file per player"),
        ("a.csv", changed(AGGREGATED, "Subject", "Behavior"), "could each be the behavior"),
        ("a.csv", AGGREGATED + 'o2,"' + "x" * 200_000 + '",1\n', "field larger than field limit"),
        ("a.tsv", changed(TABULAR, "STOP", "START"), "in turn for each subject"),
        ("a.tsv", changed(TABULAR, "3.25\ta.mp4\tAnn", "3.25\ta.mp4\tBob"), "in turn for each subject"),
        ("a.tsv", "\n".join(TABULAR.split("\n")[:-2]), ":6: expected a STOP for every START"),
    ],
)
def test_text_formats(tmp_path: Path, name: str, text: str, match: str) -> None:
    refuse(tmp_path, name, text, match)


def test_a_track_of_many_boxes(tmp_path: Path) -> None:
    boxes = "".join(f'<box frame="{i}"><attribute name="n">{i % 2}</attribute></box>' for i in range(20_000))
    path = tmp_path / "a.xml"
    path.write_text(f'<annotations><meta><task/></meta><track label="x">{boxes}</track></annotations>')
    assert len(read_tool(path)[0].marks) == 20_001


@pytest.mark.parametrize("format_name", TOOLS)
@pytest.mark.parametrize("content", [b"\xff\xfe1\x002", b"\x00\x00", b"caf\xe9"])
def test_bytes_that_are_no_text(tmp_path: Path, format_name: str, content: bytes) -> None:
    refuse(tmp_path, "a.any", content, "UTF-8|NUL|well-formed", format_name)


@pytest.mark.parametrize("format_name", ["elan", "via", "labelstudio", "cvat", "webvtt", "boris"])
def test_an_empty_file(tmp_path: Path, format_name: str) -> None:
    refuse(tmp_path, "a.any", b"", "expected", format_name)


def test_halves_of_characters_do_not_come_through(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(changed(VIA, '"run"', '"\\ud800run"'))
    values = [mark.value for file in read_tool(path) for mark in file.marks]
    assert values[0].encode() == b"?run"


def test_long_chains_end_soon(tmp_path: Path) -> None:
    """What would take for ever if each step looked at all others."""
    num = 20_000
    refs = "".join(
        f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b{i}" ANNOTATION_REF="b{i + 1}"/></ANNOTATION>' for i in range(num)
    )
    slots = "".join(f'<TIME_SLOT TIME_SLOT_ID="s{i}"/>' for i in range(num))
    span = "<ALIGNABLE_ANNOTATION ANNOTATION_ID='{0}' TIME_SLOT_REF1='s{0}' TIME_SLOT_REF2='s{1}'/>"
    spans = "".join(f"<ANNOTATION>{span.format(i, i + 1)}</ANNOTATION>" for i in range(num - 1))
    refuse(
        tmp_path, "a.eaf", changed(EAF, '<TIER TIER_ID="mood">', f'<TIER TIER_ID="mood">{refs}'), "which is not there"
    )
    long = changed(
        changed(EAF, "</TIME_ORDER>", f"{slots}</TIME_ORDER>"), '<TIER TIER_ID="mood">', f'<TIER TIER_ID="mood">{spans}'
    )
    refuse(tmp_path, "a.eaf", long, "which has none")
    twice = json.dumps({str(i): i for i in range(num)})[:-1] + ', "7": 1}'
    refuse(tmp_path, "a.json", twice, "'7' twice", "via")


@pytest.mark.parametrize(("name", "format_name"), [*zip(SAMPLES, FORMAT_OF, strict=True)])
def test_damage_is_a_value_error_or_nothing(tmp_path: Path, name: str, format_name: str) -> None:
    rng = random.Random(name)
    path, good = tmp_path / name, SAMPLES[name].encode()
    survived, messages = 0, list[str]()
    for _ in range(200):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at, kind = rng.randrange(len(data)), rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + rng.randrange(1, 40)]
            elif kind == 2:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 60)]
            else:
                data[at] = rng.choice(b'0123456789-.,:"{}[]<>\t\n\\&')
            data = data or bytearray(b"x")
        path.write_bytes(data)
        for chosen in (None, format_name):
            try:
                survived += len(read_tool(path, chosen))
            except ValueError as error:
                messages.append(str(error))
    assert survived > 0
    assert [message for message in messages if name not in message] == []
