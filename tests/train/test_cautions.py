"""What is said beside a score: copies across groups, labels without a choice, and seconds where frames are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shared.cache.facts import VideoFacts
from shared.manifest import load_manifest
from train.__main__ import app
from train.data.labels import Track
from train.data.tracks import read_tracks
from train.judging.cautions import cautions, find_copies
from train.judging.folds import ALWAYS_TRAIN, UNUSED
from train.tasks import TASKS

NAN = np.nan


def track(name: str, group: str, *rows: tuple[float, ...]) -> Track:
    return Track(name, name, group, None, None, np.array(rows, np.float32), "x")


def facts(**contents: str | None) -> dict[str, VideoFacts]:
    return {video: VideoFacts(9, 0, None, None, None, content, {}) for video, content in contents.items()}


# --- copies ---


def test_copies_across_groups_are_told_with_what_their_labels_say() -> None:
    tracks = [
        track("a", "g1", (1.0,), (NAN,)),
        track("b", "g2", (1.0,), (NAN,)),  # the same video and labels in another group
        track("c", "g3", (0.0,), (1.0,)),
        track("d", "g4", (1.0,), (1.0,)),  # the same video with other labels
        track("e", "g3", (0.0,), (1.0,)),  # the same video in the same group as c
        track("f", "g5", (0.0,), (1.0,)),  # of unknown content, as g
        track("g", "g6", (0.0,), (1.0,)),
    ]
    known = facts(a="1", b="1", c="2", d="2", e="2", f=None, g=None)
    assert find_copies(tracks, known) == [["a", "b"], ["c", "d", "e"]]
    (told,) = cautions(TASKS["violence"], tracks, [0, 1, 0, 0, 1, 1, 1], known)
    assert told == (
        "5 videos are byte-identical to a video of another group: a (group g1) = b (group g2); c (group g3) = d (group "
        "g4) = e (group g3), with different labels. They leak between folds: give them one group, or remove one"
    )
    # An unused copy is on no side of a fold; one that always trains is.
    parted = [0, UNUSED, 0, UNUSED, 0, ALWAYS_TRAIN, ALWAYS_TRAIN]
    assert cautions(TASKS["violence"], tracks, parted, known) == []
    (told,) = cautions(TASKS["violence"], tracks, [0, ALWAYS_TRAIN, 0, UNUSED, 0, ALWAYS_TRAIN, 0], known)
    assert told.startswith("2 videos are byte-identical to a video of another group: a (group g1) = b (group g2).")


# --- labels ---

VALUES: dict[str, list[tuple[str, list[tuple[float, ...]], list[str]]]] = {
    "violence": [
        ("0 0 0 0", [(0.0,)] * 4, ["only class 0 (nonviolent) occurs in the tested labels: this score says nothing"]),
        ("1", [(1.0,), (1.0,), (NAN,), (1.0,)], ["only class 1 (violent) occurs in"]),
        (
            "by fold",
            [(0.0,), (0.0,), (1.0,), (1.0,)],
            [
                "each of the folds 1, 2 tests on labels without nonviolent or violent: its score says little",
                "each of the folds 1, 2 learns from labels without nonviolent or violent: its score says little",
            ],
        ),
        (
            "one fold",
            [(0.0,), (0.0,), (1.0,), (0.0,)],
            ["fold 1 tests on labels without violent", "fold 2 learns from"],
        ),
        ("fine", [(0.0,), (1.0,), (1.0,), (0.0,)], []),
    ],
    "va": [
        ("both", [(0.5, 0.1)] * 4, ["the same in every tested label: valence, arousal; this score says nothing"]),
        (
            "valence",
            [(0.5, 0.1), (0.5, 0.2), (0.5, 0.1), (0.5, 0.3)],
            ["the same in every tested label: valence; its score says nothing, and it counts in the mean"],
        ),
        ("fine", [(0.5, 0.1), (0.4, 0.2), (0.5, 0.1), (0.3, 0.3)], []),
    ],
    "expr": [
        ("one", [(3.0,)] * 4, ["only class 3 (fear) occurs in the tested labels"]),
        (
            "some",
            [(3.0,), (0.0,)] * 2,
            ["no tested label is anger, disgust, happiness, sadness, surprise, other: F1 0"],
        ),
    ],
    "au": [
        ("none", [(0.0,) * 12] * 4, ["the same in every tested label: AU1, AU2, AU4,"]),
        ("fine", [(0.0,) * 12, (1.0,) * 12] * 2, []),
    ],
}


@pytest.mark.parametrize(("task", "case"), [(task, case) for task, cases in VALUES.items() for case in cases])
def test_labels_without_a_choice_are_told(task: str, case: tuple[str, list[tuple[float, ...]], list[str]]) -> None:
    _, labels, expected = case
    tracks = [track(f"v{i}", f"g{i}", row) for i, row in enumerate(labels)]
    told = cautions(TASKS[task], tracks, [0, 0, 1, 1], {})
    assert len(told) == len(expected)
    assert all(line.startswith(start) for line, start in zip(told, expected, strict=True))


def test_only_tested_labels_count() -> None:
    tracks = [track("a", "a", (0.0,)), track("b", "b", (1.0,)), track("c", "c", (1.0,)), track("d", "d", (0.0,))]
    told = cautions(TASKS["violence"], tracks, [0, ALWAYS_TRAIN, UNUSED, ALWAYS_TRAIN], {})
    assert told == ["only class 0 (nonviolent) occurs in the tested labels: this score says nothing"]


def test_audit_says_all_of_it(made, clips, tmp_path: Path) -> None:
    own = [*clips[:6], replace(clips[0], id="again", group="elsewhere")]
    url = tmp_path / "c.zarr"
    made.write_cache(url, own, streams=["image"], dataset="t")
    lines = ["path,id,group,label,weather", *(f"videos/{c.id}.mp4,{c.id},{c.group},0,sun" for c in own)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    arguments = ["audit", tmp_path / "t.csv", "--task", "violence", "--cache", url, "--num-folds", 2]
    done = CliRunner().invoke(app, [*map(str, arguments), "--output", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    assert done.stderr.count("note: t.csv: further columns, each of which can be a task (--task NAME): weather\n") == 1
    assert "WARNING: only class 0 (nonviolent) occurs in the tested labels: this score says nothing" in done.stdout
    assert "WARNING: 2 videos are byte-identical to a video of another group: again (group elsewhere) = " in done.stdout
    assert json.loads((tmp_path / "a.json").read_text())["copies"] == [["again", clips[0].id]]


# --- seconds ---


def spans(folder: Path, header: str, *rows: str) -> Path:
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(b"")
    (folder / "t.csv").write_text("\n".join([f"path,{header},label", *rows]) + "\n")
    return folder / "t.csv"


def read(source: Path, fps: float, num_frames: dict[str, int]) -> list[Track]:
    manifest = load_manifest(source)
    return read_tracks(manifest, TASKS["violence"], num_frames, lambda video: np.arange(num_frames[video]) / fps)[0]


def test_spans_in_seconds_are_refused_and_the_header_can_say_frames(tmp_path: Path) -> None:
    rows = ["a.mp4,0,1,0", "a.mp4,1,4,1", "b.mp4,2.0,10.0,1"]
    num_frames = {"a.mp4": 100, "b.mp4": 250}
    with pytest.raises(ValueError, match=r"did you mean start_s, end_s\? The last segment of 'b.mp4', which has 250"):
        read(spans(tmp_path, "start,end", *rows), 25, num_frames)
    (tmp_path / "m.toml").write_text('[videos]\ntable = "t.csv"\ncolumns = {start = "from", end = "to"}\n')
    spans(tmp_path, "from,to", *rows)
    with pytest.raises(ValueError, match=r"t.csv: every end is below the duration in seconds"):
        read(tmp_path / "m.toml", 25, num_frames)
    tracks = read(spans(tmp_path, "start_frame,end_frame", *rows), 25, num_frames)
    assert [int(np.isfinite(t.labels).sum()) for t in tracks] == [4, 8]


@pytest.mark.parametrize(
    ("rows", "fps", "num_frames"),
    [
        (["a.mp4,0,3,0", "b.mp4,0,5,1"], 25, 100),  # one end lies past the duration of 4 s
        (["a.mp4,0,3,0", "b.mp4,2,,1"], 25, 100),  # one is open
        (["a.mp4,0,3,0", "b.mp4,,,1"], 25, 100),
        (["a.mp4,0,3,0", "b.mp4,0,100,1"], 1, 100),  # a frame is a second
        (["a.mp4,0,1,0", "b.mp4,0,1,1"], 25, 30),  # too short to tell
    ],
)
def test_spans_that_may_be_frames_are_read(tmp_path: Path, rows: list[str], fps: float, num_frames: int) -> None:
    tracks = read(spans(tmp_path, "start,end", *rows), fps, {"a.mp4": num_frames, "b.mp4": num_frames})
    assert [t.name for t in tracks] == ["a.mp4", "b.mp4"]


def test_durations_are_not_asked_for_where_the_number_of_frames_rules_seconds_out(tmp_path: Path) -> None:
    manifest = load_manifest(spans(tmp_path, "start,end", "a.mp4,0,50,0", "b.mp4,0,3,1"))
    tracks, _ = read_tracks(manifest, TASKS["violence"], {"a.mp4": 100, "b.mp4": 100}, {}.__getitem__)
    assert len(tracks) == 2
