"""Files of annotation tools, written here by hand in the documented formats: spans, clocks, names."""

from pathlib import Path

import pytest

from shared.labels.annotations import LabelError
from shared.labels.tools.table import TOOLS, read_tool
from shared.labels.tools.types import ToolFile, media_names
from tests.shared.tool_samples import AUDACITY, EAF, FORMAT_OF, SAMPLES, SRT, TABULAR, TIMELINE, studio


def read(folder: Path, name: str, text: str | bytes | None = None, format_name: str | None = None) -> list[ToolFile]:
    path = folder / name
    content = SAMPLES[name] if text is None else text
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_tool(path, format_name)


def seconds(file: ToolFile) -> list[tuple]:
    return [(m.column, m.value, m.start_s, m.end_s) for m in file.marks]


def frames(file: ToolFile) -> list[tuple]:
    return [(m.column, m.value, *m.frames) for m in file.marks if m.frames is not None]


def test_elan(tmp_path: Path) -> None:
    (file,) = read(tmp_path, "a.eaf")
    assert file.media == ("a.mp4", "C:/my films/a.mp4", "C:/my%20films/a.mp4")
    assert seconds(file) == [
        ("notes", "unsure", 2.0, 2.5),  # the time of the one it refers to, and 500 ms between the clocks
        ("notes", "very", 2.0, 2.5),
        ("mood", "calm", 1.5, 2.0),
        ("mood", "angry & loud", 2.0, 2.5),
        ("mood", "", 2.5, 3.0),
    ]
    assert file.marks[2].where.endswith("a.eaf:21")


def test_via(tmp_path: Path) -> None:
    first, second = read(tmp_path, "via.json")
    assert first.media == ("a.mp4",)
    assert seconds(first) == [
        ("act", "run", 1.25, 3.0),
        ("who", "Ann", 1.25, 3.0),
        ("who", "Bob", 1.25, 3.0),
        ("say", "hi there", 4.5, 4.5),
    ]
    assert second.media[0] == "h.org/x/b c.mp4"
    assert "b c.mp4" in second.media
    assert seconds(second) == [("act", "walk", 0.0, None)]


def test_labelstudio(tmp_path: Path) -> None:
    (file,) = read(tmp_path, "studio.json")
    assert file.media == ("1a2b3c4d-a.mp4", "a.mp4")
    assert file.fps == 25
    assert frames(file) == [("mood", "calm", 0, 10), ("box", "dog", 2, 20), ("box", "dog", 40, 100)]
    assert seconds(file)[-1] == ("snd", "x", 0.5, 2.0)


def test_labelstudio_which_annotations_count(tmp_path: Path) -> None:
    cancelled = [{"was_cancelled": True, "result": [TIMELINE]}]
    assert read(tmp_path, "c.json", studio(annotations=cancelled))[0].marks == ()
    guess = [{"result": [TIMELINE]}]
    assert read(tmp_path, "p.json", studio(annotations=[], predictions=guess))[0].marks == ()  # not labelled by anyone
    whole = {"id": "w", "type": "choices", "from_name": "kind", "value": {"choices": ["indoors"]}}
    assert seconds(read(tmp_path, "w.json", studio(whole))[0]) == [("kind", "indoors", 0.0, None)]
    text = {"id": "t", "type": "textarea", "from_name": "t", "value": {"text": ["x"]}}
    assert len(read(tmp_path, "t.json", studio(text, TIMELINE))[0].marks) == 1
    with pytest.raises(LabelError, match="results with a time"):
        read(tmp_path, "t.json", studio(text))
    local = studio(TIMELINE, data={"video": "/data/local-files/?d=films/b%20c.mp4"})
    assert read(tmp_path, "l.json", local)[0].media == ("films/b c.mp4", "b c.mp4")


def test_cvat(tmp_path: Path) -> None:
    (file,) = read(tmp_path, "cvat.xml")
    assert file.media == ("films/a.mp4", "a.mp4")
    assert frames(file) == [
        ("mood", "calm", 5, 10),
        ("label", "dog", 5, 20),
        ("mood", "angry", 10, 20),
        ("label", "dog", 40, 51),
        ("label", "rain", 10, 20),
        ("label", "rain", 50, 51),
    ]


def test_cvat_images(tmp_path: Path) -> None:
    (file,) = read(tmp_path, "images.xml")
    assert frames(file) == [
        ("label", "dog", 0, 2),
        ("label", "dog", 3, 4),
        ("mood", "calm", 0, 1),
        ("label", "rain", 1, 2),
    ]


def test_cvat_project_of_two_tasks(tmp_path: Path) -> None:
    task = "<task><id>{0}</id><size>9</size><source>{0}.mp4</source></task>"
    track = '<track label="x" task_id="{0}"><box frame="{0}" outside="0"/></track>'
    text = f"<annotations><meta><project><tasks>{task.format(1)}{task.format(2)}</tasks></project></meta>"
    files = read(tmp_path, "p.xml", text + track.format(2) + track.format(1) + "</annotations>")
    assert [(f.media, frames(f)) for f in files] == [
        (("1.mp4",), [("label", "x", 1, 9)]),
        (("2.mp4",), [("label", "x", 2, 9)]),
    ]


def test_audacity(tmp_path: Path) -> None:
    (file,) = read(tmp_path, "a.txt")
    assert file.media == ()
    assert seconds(file) == [("", "calm", 0.5, 1.75), ("", "bang here", 2.0, 2.0), ("", "", 3.0, 4.0)]


def test_webvtt(tmp_path: Path) -> None:
    assert seconds(read(tmp_path, "a.vtt")[0]) == [
        ("Ann", "Hello you & me again", 1.0, 2.5),
        ("", "plain", 360000.0, 360001.0),
    ]


def test_srt(tmp_path: Path) -> None:
    assert seconds(read(tmp_path, "a.srt")[0]) == [("", "Hi you", 1.0, 2.5), ("", "x", 60.5, 61.0)]


def test_boris(tmp_path: Path) -> None:
    first, second = read(tmp_path, "boris.csv")
    assert first.media == ("films/a.mp4", "a.mp4")
    assert seconds(first) == [("Ann", "walk", 1.5, 3.25), ("", "bark", 2.0, 2.0)]
    assert second.media == ("b.mp4",)
    (file,) = read(tmp_path, "boris.tsv")
    assert seconds(file) == [("Ann", "bark", 2.0, 2.0), ("Ann", "walk", 1.5, 3.25)]


@pytest.mark.parametrize(("name", "format_name"), [*zip(SAMPLES, FORMAT_OF, strict=True)])
def test_the_format_is_found_by_ending_and_content(tmp_path: Path, name: str, format_name: str) -> None:
    assert read(tmp_path, name) == read(tmp_path, name, format_name=format_name)
    assert format_name in TOOLS


def test_other_endings_and_names(tmp_path: Path) -> None:
    assert len(read(tmp_path, "subtitles.txt", SRT)[0].marks) == 2
    assert len(read(tmp_path, "events.txt", TABULAR)[0].marks) == 2
    assert len(read(tmp_path, "labels", AUDACITY, "audacity")[0].marks) == 3
    with pytest.raises(ValueError, match="did you mean 'elan'"):
        read(tmp_path, "a.eaf", format_name="elann")
    with pytest.raises(ValueError, match=r"did you mean '\.eaf'.*name the format"):
        read(tmp_path, "a.eafx", EAF)
    with pytest.raises(LabelError, match=r"b\.json: expected a file of via or labelstudio"):
        read(tmp_path, "b.json", "[1]")


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("file:///home/me/a.mp4", ("/home/me/a.mp4", "a.mp4")),
        ("C:\\films\\a  b.mp4", ("C:/films/a  b.mp4", "a  b.mp4")),
        ("./100%.mp4", ("100%.mp4",)),
        ("", ()),
        (None, ()),
    ],
)
def test_names_of_media(written: str | None, names: tuple[str, ...]) -> None:
    assert media_names(written) == names
