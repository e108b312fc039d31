"""What is written for annotation tools is read back with the same spans, and is whole or not there."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from shared.labels.tools.table import read_tool
from shared.labels.tools.types import Segment, VideoSegments
from shared.labels.tools.writing import WRITERS, holds_many, write_segments, write_videos

FPS = 30000 / 1001
SEGMENTS = [
    Segment(0.0, 10 / FPS, 0, 10, "mood", 'calm & <b> "x" -->', 0.75),
    Segment(10 / FPS, 20 / FPS, 10, 20, "mood", "Ärger, \U0001f600", None),
    Segment(15 / FPS, 16 / FPS, 15, 16, "who > me", "two\nlines", 1.0),
    Segment(3700.0, 3700.5, 99, 100, "", "end", 0.0),
]
VIDEO = VideoSegments("films/a  b.mp4", 3701.0, 100, FPS, SEGMENTS)


def write(path: Path, video: VideoSegments = VIDEO) -> Path:
    write_segments(path, video.media, video.duration_s, video.num_frames, video.fps, video.segments)
    return path


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("ending", "unnamed"), [(".eaf", "default"), (".vtt", "")])
def test_times_come_back_to_the_millisecond(tmp_path: Path, ending: str, unnamed: str) -> None:
    (file,) = read_tool(write(tmp_path / f"a{ending}"))
    found = sorted((m.column, m.value, m.start_s, m.end_s) for m in file.marks)
    expected = sorted((s.column or unnamed, one_line(s.value), s.start_s, s.end_s) for s in SEGMENTS)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row[2:] == pytest.approx(other[2:], abs=0.00051)
    if ending == ".eaf":
        assert file.media[0] == VIDEO.media


def test_frames_and_rates_come_back(tmp_path: Path) -> None:
    path = tmp_path / "labelstudio.json"
    other = VideoSegments("b.mp4", 4.0, 100, 25.0, [])
    write_videos(path, [VIDEO, other])
    first, second = read_tool(path)
    expected = [(s.column or "timeline", one_line(s.value), s.start_frame, s.end_frame) for s in SEGMENTS]
    assert [(m.column, m.value, *(m.frames or ())) for m in first.marks] == expected
    assert first.fps == pytest.approx(FPS, rel=1e-9)
    assert first.media[0] == VIDEO.media
    assert (second.media, second.marks) == (("b.mp4",), ())
    task = json.loads(path.read_text())[0]
    assert "annotations" not in task
    assert [r.get("score") for r in task["predictions"][0]["result"]] == [0.75, None, 1.0, 0.0]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_tables_hold_everything(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    write_videos(path, [VIDEO, replace(VIDEO, media="b.mp4", segments=SEGMENTS[:1])])
    read = {".csv": pd.read_csv, ".jsonl": lambda p: pd.read_json(p, lines=True), ".parquet": pd.read_parquet}[ending]
    frame = read(path).fillna({"column": "", "score": -1})
    assert list(frame["video"]) == [VIDEO.media] * 4 + ["b.mp4"]
    rows = [*frame[["column", "value", "start_frame", "end_frame"]].itertuples(index=False, name=None)]
    expected = [(s.column, one_line(s.value), s.start_frame, s.end_frame) for s in SEGMENTS]
    assert rows == [*expected, expected[0]]
    assert frame["start_s"][:4].tolist() == pytest.approx([s.start_s for s in SEGMENTS], abs=1e-9)
    assert frame["score"].tolist() == [0.75, -1, 1, 0, 0.75]


@pytest.mark.parametrize("ending", WRITERS)
def test_nothing_to_write_is_a_file_too(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a{ending}", replace(VIDEO, segments=[]))
    if ending in (".eaf", ".vtt", ".json"):
        assert [file.marks for file in read_tool(path)] == [()]
    elif ending == ".csv":
        assert list(pd.read_csv(path).columns)[:3] == ["video", "column", "value"]
    assert holds_many(path) == (ending not in (".eaf", ".vtt"))


@pytest.mark.parametrize("seed", range(20))
def test_random_segments_come_back(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fps = rng.choice([10.0, 23.976, 25.0, 59.94])
    cuts = sorted(rng.sample(range(1000), 40))
    segments = [
        Segment(a / fps, b / fps, a, b, rng.choice("AB"), f"x{chr(rng.randrange(0xA1, 0x3000))}<&>")
        for a, b in zip(cuts[::2], cuts[1::2], strict=True)
    ]
    video = VideoSegments("v.mp4", 1000 / fps, 1000, fps, segments)
    for ending in (".eaf", ".vtt", ".json"):
        (file,) = read_tool(write(tmp_path / f"a{ending}", video))
        marks = sorted(file.marks, key=lambda m: m.frames or (m.start_s, m.end_s))
        assert [(m.column, m.value) for m in marks] == [(s.column, one_line(s.value)) for s in segments]
        for mark, segment in zip(marks, segments, strict=True):
            if mark.frames:
                assert mark.frames == (segment.start_frame, segment.end_frame)
            else:
                assert (round(mark.start_s * fps), round(mark.end_s * fps)) == (segment.start_frame, segment.end_frame)


def test_what_cannot_be_written_leaves_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.eaf"
    path.write_text("before")
    overlap = [Segment(0, 2, 0, 20, "m", "a"), Segment(1, 3, 10, 30, "m", "b")]
    wrong = [
        (path, [replace(VIDEO, segments=overlap)], "'m' overlap at 1.0 s"),
        (path, [VIDEO, VIDEO], "the segments of one video, not of 2"),
        (path, [], "not of 0"),
        (path, [replace(VIDEO, segments=[Segment(0, 1, 5, 5, "m", "a")])], "at least a frame"),
        (path, [replace(VIDEO, segments=[Segment(0, 1, 5, 101, "m", "a")])], "frames 5-101 of 100"),
        (path, [replace(VIDEO, segments=[Segment(float("nan"), 1, 5, 6, "m", "a")])], "found nan-1 s"),
        (path, [replace(VIDEO, fps=float("inf"))], "a rate above 0"),
        (tmp_path / "a.vt", [VIDEO], r"did you mean '\.vtt'"),
    ]
    for file, videos, match in wrong:
        with pytest.raises(ValueError, match=match):
            write_videos(file, videos)
    monkeypatch.setattr("os.replace", _full)
    with pytest.raises(OSError, match="full"):
        write(path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.eaf"]


def _full(*_: object) -> None:
    raise OSError(28, "full")


def test_texts_that_xml_and_json_cannot_hold(tmp_path: Path) -> None:
    odd = replace(VIDEO, media="v\ud800.mp4", segments=[Segment(0, 1, 0, 10, "a\x00b", "x\x0b\ud800y\ufffe")])
    (file,) = read_tool(write(tmp_path / "a.eaf", odd))
    assert (file.media[0], file.marks[0].column, file.marks[0].value) == ("v?.mp4", "a b", "x ?y")
    assert read_tool(write(tmp_path / "a.vtt", odd))[0].marks[0].column == "a b"
    (file,) = read_tool(write(tmp_path / "a.json", odd))
    assert (file.media[0], file.marks[0].column, file.marks[0].value) == ("v?.mp4", "a b", "x ?y\ufffe")
