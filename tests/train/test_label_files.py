"""Labels out of files of annotation tools, and predictions back into them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shared.cache import FeatureCache
from shared.labels.tools.table import read_tool
from shared.labels.tools.types import Segment, VideoSegments
from shared.labels.tools.writing import write_segments, write_videos
from shared.manifest import load_manifest
from tests.train.test_cli import QUICK, call, refused
from train.data.own_task import find_task
from train.data.tracks import read_tracks
from train.experiments.segments import joined
from train.tasks import TASKS

FPS = 25.0


def spans_of(clip: Any) -> list[tuple[int, int, str]]:
    """[start, end) and a word, of a clip whose features tell the words."""
    words = np.where(clip.violence[:, 0] > 0, "fight", np.where(np.nan_to_num(clip.va[:, 0]) > 0, "play", "rest"))
    edges = [0, *(np.flatnonzero(words[1:] != words[:-1]) + 1).tolist(), clip.num_frames]
    return [(a, b, str(words[a])) for a, b in pairwise(edges)]


def as_segments(clip: Any) -> list[Segment]:
    return [Segment(a / FPS, b / FPS, a, b, "action", word) for a, b, word in spans_of(clip)]


@pytest.fixture(scope="module")
def folder(clips: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos of the made-up cache, an ELAN file beside each, and one Label Studio export of all."""
    root = tmp_path_factory.mktemp("tools")
    (root / "videos").mkdir()
    exported = []
    for clip in clips:
        (root / f"videos/{clip.id}.mp4").write_bytes(b"")
        name, seconds = f"{clip.id}.mp4", clip.num_frames / FPS
        write_segments(root / f"videos/{clip.id}.eaf", name, seconds, clip.num_frames, FPS, as_segments(clip))
        exported.append(VideoSegments(name, seconds, clip.num_frames, FPS, as_segments(clip)))
    write_videos(root / "studio.json", exported)
    rows = [f"videos/{clip.id}.mp4,{clip.id},{clip.group}" for clip in clips]
    (root / "videos.csv").write_text("\n".join(["path,id,group", *rows]) + "\n")
    for name, more in {
        "elan": '[tasks.action]\nformat = "elan"\ntrain = "videos/*.eaf"\n',
        "ending": '[tasks.action]\ntrain = "videos/*.eaf"\n',
        "studio": '[tasks.action]\nformat = "labelstudio"\ntrain = "studio.json"\n',
    }.items():
        (root / f"{name}.toml").write_text(f'name = "made"\n[videos]\ntable = "videos.csv"\n{more}')
    return root


@pytest.mark.parametrize("name", ["elan", "ending", "studio"])
def test_every_frame_gets_the_label_that_the_tool_gave_it(folder: Path, clips: list[Any], name: str) -> None:
    found = find_task(load_manifest(folder / f"{name}.toml"), "action")
    assert found.task.class_names == ("fight", "play", "rest")
    frames = {clip.id: clip.num_frames for clip in clips}
    tracks, _ = read_tracks(found.manifest, found.task, frames, lambda video: np.arange(frames[video]) / FPS)
    labels = {track.video_id: track.labels[:, 0] for track in tracks}
    for clip in clips:
        for a, b, word in spans_of(clip):
            assert set(labels[clip.id][a:b]) == {float(found.task.class_names.index(word))}
    assert {track.split for track in tracks} == {"train"}


def test_words_of_one_tier_as_labels_that_may_hold_at_once(folder: Path, clips: list[Any]) -> None:
    found = find_task(load_manifest(folder / "elan.toml"), "action", "multilabel")
    assert (found.task.label_names, found.task.presence) == (("fight", "play", "rest"), True)
    frames = {clip.id: clip.num_frames for clip in clips}
    tracks, _ = read_tracks(found.manifest, found.task, frames, lambda video: np.arange(frames[video]) / FPS)
    assert all((track.labels.sum(axis=1) == 1).all() for track in tracks)


def test_tiers_are_labels_that_may_hold_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    marks = [Segment(0.2, 0.6, 5, 15, "smile", "x"), Segment(0.4, 1.0, 10, 25, "talk", "y")]
    write_segments(tmp_path / "a.eaf", "a.mp4", 1.2, 30, FPS, marks)
    found = find_task(load_manifest(tmp_path), "smile,talk")
    assert found.notes == ("2 annotations out of 1 label files",)
    tracks, _ = read_tracks(found.manifest, found.task, {"a.mp4": 30}, lambda video: np.arange(30) / FPS)
    smile, talk = tracks[0].labels.T
    assert smile.tolist() == [float(5 <= f < 15) for f in range(30)]
    assert talk.tolist() == [float(10 <= f < 25) for f in range(30)]


def test_another_frame_rate_is_refused_with_both(folder: Path, clips: list[Any]) -> None:
    found = find_task(load_manifest(folder / "studio.toml"), "action")
    frames = {clip.id: clip.num_frames for clip in clips}
    with pytest.raises(ValueError, match=r"counted at 25.000 per second, .* has 30.000: labels would be up to"):
        read_tracks(found.manifest, found.task, frames, lambda video: np.arange(frames[video]) / 30)


def test_files_of_no_video_are_told_or_end_it(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    mark = [Segment(0.0, 0.4, 0, 10, "x", "run"), Segment(0.4, 1, 10, 25, "x", "walk")]
    write_segments(tmp_path / "other.eaf", "other.mp4", 1.2, 30, FPS, mark)
    with pytest.raises(ValueError, match=r"1 label files, but none has an annotation of a video .* other.eaf \(other"):
        find_task(load_manifest(tmp_path), "x")
    write_segments(tmp_path / "a.eaf", "a.mp4", 1.2, 30, FPS, mark)
    assert "1 label files are of no video here: other.eaf" in " ".join(find_task(load_manifest(tmp_path), "x").notes)
    with pytest.raises(ValueError, match=r"no label file below .* matches none"):
        find_task(load_manifest(tmp_path), "x", None, ["none*.eaf"])


@pytest.mark.parametrize("name", ["elan", "studio"])
def test_from_a_file_of_a_tool_to_a_report_and_back(
    folder: Path, cache: FeatureCache, tmp_path: Path, name: str, clips: list[Any]
) -> None:
    places = ["--cache", cache.url, "--runs", tmp_path / "runs"]
    result = call("cv", folder / f"{name}.toml", "--task", "action", *places, "--no-baselines", *QUICK)
    assert result.exit_code == 0, result.output
    assert "annotations out of" in result.output
    (run,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["value"] > metrics["baselines"]["constant"] + 0.1
    assert call("evaluate", folder / f"{name}.toml", "--run", run, "--cache", cache.url).exit_code == 0

    base = ["predict", "--cache", cache.url, "--run", run]
    frames = call(*base, "--output", tmp_path / "frames.jsonl")
    assert frames.exit_code == 0, frames.output
    table = pd.read_json(tmp_path / "frames.jsonl", lines=True)
    assert len(table) == sum(clip.num_frames for clip in clips)
    for output in ("seg.json", "seg.csv", "seg.parquet", "one.eaf", "one.vtt"):
        only = ["--video", clips[0].id] if output.startswith("one") else []
        done = call(*base, "--output", tmp_path / output, "--segments", "--min-length", "0.2", *only)
        assert done.exit_code == 0, done.output
        assert "segments of" in done.output
    written = read_tool(tmp_path / "one.eaf")[0]
    own = table[table["video"] == clips[0].id]
    decided = own[["score_fight", "score_play", "score_rest"]].to_numpy().argmax(axis=1)
    covered = 0
    for mark in written.marks:
        first, last = round(mark.start_s * FPS), round(mark.end_s * FPS)  # type: ignore[operator]
        assert set(decided[first:last]) == {["fight", "play", "rest"].index(mark.value)}
        covered += last - first
    assert covered > 0.5 * len(own)
    many = call(*base, "--output", tmp_path / "all.eaf")
    assert many.exit_code == 0, many.output
    assert len(list(tmp_path.glob("all.*.eaf"))) == len(clips)
    assert "must end in" in refused(*base, "--output", tmp_path / "x.docx")


def test_gaps_are_closed_before_short_segments_go() -> None:
    where = np.array([1, 1, 0, 1, 1, 0, 0, 0, 1], bool)
    starts, ends = list(range(9)), list(range(1, 10))
    assert joined(where, starts, ends, 0, 0) == [(0, 2), (3, 5), (8, 9)]
    assert joined(where, starts, ends, 0, 1) == [(0, 5), (8, 9)]
    assert joined(where, starts, ends, 2, 1) == [(0, 5)]
    assert joined(np.zeros(3, bool), starts, ends, 0, 0) == []
    assert "violence" in TASKS
