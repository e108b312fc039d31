"""Tasks that are columns of a table: what is made of their cells, and whole runs from such a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from shared.cache import FeatureCache
from shared.manifest import Manifest, ManifestError, load_manifest
from tests.train.test_cli import QUICK, call, refused
from train.data.own_task import find_task, plain_code, with_labels
from train.data.spans import to_frames
from train.data.tracks import read_tracks
from train.tasks import TASKS, Task


def data_set(folder: Path, header: str, rows: Sequence[str], tasks: str = "") -> Manifest:
    """A table whose videos are there, and a manifest around it if it says something of tasks."""
    for row in rows:
        (folder / row.split(",")[0]).write_bytes(b"")
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    if not tasks:
        return load_manifest(folder / "t.csv")
    (folder / "t.toml").write_text(f'[videos]\ntable = "t.csv"\n{tasks}', encoding="utf-8")
    return load_manifest(folder / "t.toml")


def cells(folder: Path, values: Sequence[str], name: str = "x") -> Manifest:
    rows = [f"v{n}.mp4,{value}" for n, value in enumerate(values)]
    return data_set(folder, f"path,{name}", rows)


def labels_of(found: Any, frames: int = 3) -> dict[str, list[list[float]]]:
    ids = {video.id: frames for video in found.manifest.videos}
    tracks, _ = read_tracks(found.manifest, found.task, ids)
    return {track.video_id: track.labels.tolist() for track in tracks}


# ------------------------------------------------------------------ what a column is


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["run", "walk", "fall", "Run "], "classes", ("fall", "run", "walk")),
        (["yes", "no", "YES", ""], "binary", ("not x", "x")),
        (["0", "1", "1.0"], "binary", ("not x", "x")),
        (["TRUE", "False", "true"], "binary", ("not x", "x")),
        (["cat", "dog", "dog"], "binary", ("cat", "dog")),
        (["1", "2", "3", "3"], "classes", ("1", "2", "3")),
        (["10", "2", "9", "2"], "regression", ()),
        (["0", "2", "5", "7", "10"], "regression", ()),
        (["0.5", "1.5", "2"], "regression", ()),
        (["-1", "0", "1"], "classes", ("-1", "0", "1")),
        ([str(n) for n in range(9)], "regression", ()),
    ],
)
def test_what_is_made_of_a_column(tmp_path: Path, values: list[str], kind: str, names: tuple[str, ...]) -> None:
    found = find_task(cells(tmp_path, values), "x")
    assert (found.task.kind, found.task.class_names) == (kind, names)
    assert found.words.startswith("task x: column x as ")
    assert Task.from_dict(json.loads(json.dumps(found.task.to_dict()))) == found.task


def test_cells_become_numbers_of_classes(tmp_path: Path) -> None:
    found = find_task(cells(tmp_path, ["run", "Walk", "", "n/a", " run"]), "X")
    assert labels_of(found) == {"v0.mp4": [[0.0]] * 3, "v1.mp4": [[1.0]] * 3, "v4.mp4": [[0.0]] * 3}
    assert "run (2 rows), Walk (1 rows), the second is the positive one" in found.words


def test_several_columns(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, "path,smile,talk,pain", ["a.mp4,1,yes,3", "b.mp4,0,no,4.5", "c.mp4,1,no,10"])
    found = find_task(manifest, "smile, talk")
    assert (found.task.kind, found.task.outputs, found.task.label_names) == ("multilabel", 2, ("smile", "talk"))
    assert labels_of(found, 1) == {"a.mp4": [[1, 1]], "b.mp4": [[0, 0]], "c.mp4": [[1, 0]]}
    found = find_task(manifest, "smile,pain")
    assert (found.task.kind, found.task.ranges) == ("regression", ((0.0, 1.0), (3.0, 10.0)))
    assert found.task.scale == ((0.5, 6.5), (0.5, 3.5))


def test_one_option_away(tmp_path: Path) -> None:
    manifest = cells(tmp_path, ["1", "2", "3"])
    assert find_task(manifest, "x", "regression").task.label_range == (1.0, 3.0)
    assert find_task(cells(tmp_path, ["0", "3", "9"]), "x", "classes").task.class_names == ("0", "3", "9")
    with pytest.raises(ValueError, match="unknown kind of task 'clases'; did you mean 'classes'"):
        find_task(manifest, "x", "clases")


def test_a_manifest_says_it(tmp_path: Path) -> None:
    tasks = (
        '[tasks.action]\nkind = "classes"\ncolumns = ["act"]\nclasses = ["walk", "run", "fall"]\n'
        'ignore = ["unclear", ""]\nbackground = "walk"\nwindow_label = "center"\nloss = "focal"\n'
        '[tasks.down]\ncolumns = ["act"]\nclasses = ["fall", "walk"]\nignore = ["run", "unclear"]\npositive = "fall"\n'
        '[tasks.pain]\nkind = "regression"\ncolumns = ["p"]\nrange = [0, 10]\nmetric = "ccc"\n'
    )
    rows = ["a.mp4,0,2,run,3", "a.mp4,3,4,fall,4", "b.mp4,0,1,unclear,9", "b.mp4,1,2,walk,10"]
    manifest = data_set(tmp_path, "path,start,end,act,p", rows, tasks)
    found = find_task(manifest, "action")
    assert (found.task.default_loss, found.task.window_label, found.words) == ("focal", "center", "")
    assert labels_of(found, 5)["a.mp4"] == [[1.0], [1.0], [0.0], [2.0], [0.0]]
    nan = float("nan")
    assert np.array_equal(labels_of(found, 3)["b.mp4"], [[nan], [0.0], [0.0]], equal_nan=True)
    assert find_task(manifest, "down").task.class_names == ("walk", "fall")
    pain = find_task(manifest, "pain").task
    assert (pain.limits, pain.metric, pain.scale) == (((0.0,), (10.0,)), "ccc_mean", ((5.0,), (5.0,)))


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        (["a", "b"], "y", "unknown task 'y'"),
        (["", ""], "x", "column 'x' is empty: there is nothing to learn"),
        (["a", "a"], "x", "every label in column 'x' is 'a': there is nothing to tell apart"),
        (["1.5", "1.5"], "x", "every label in column 'x' is 1.5: there is nothing to learn"),
        ([f"word {n}" for n in range(60)], "x", "60 different values, which are no classes"),
        (["a", "b"], "x,x", "a column is there twice"),
    ],
)
def test_columns_that_cannot_be_learned(tmp_path: Path, values: list[str], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_task(cells(tmp_path, values), name)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ('[tasks.x]\nkind = "clases"\n', "unknown kind of task 'clases'; did you mean 'classes'"),
        ('[tasks.x]\nclasses = ["a", "c"]\n', r"t.csv:3 column x: unknown class 'b'"),
        ('[tasks.x]\npositive = "z"\n', r"expected one of two classes \(a, b\), found 'z'"),
        ('[tasks.x]\nmetric = "f2"\n', "unknown metric 'f2'"),
        ('[tasks.x]\nloss = "mse"\n', "unknown loss 'mse'"),
        ('[tasks.x]\nbackground = "q"\n', "unknown class 'q'"),
        ('[tasks.x]\nkind = "regression"\n', "t.csv:2 column x: expected a number, found 'a'"),
    ],
)
def test_what_a_manifest_says_is_checked(tmp_path: Path, tasks: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_task(data_set(tmp_path, "path,x", ["a.mp4,a", "b.mp4,b"], tasks), "x")


def test_mistakes_of_a_manifest_are_told_when_it_is_read(tmp_path: Path) -> None:
    tasks = '[tasks.x]\nclasses = 3\nrange = [2, 1]\ncolour = "red"\n[tasks.y]\ncolumns = ["nope"]\n'
    with pytest.raises(ManifestError) as caught:
        data_set(tmp_path, "path,x", ["a.mp4,a"], tasks)
    for part in (
        "[tasks.x] classes: expected a list of texts, found 3",
        "[tasks.x] range: expected two numbers, the smaller first, found [2, 1]",
        "[tasks.x]: unknown key 'colour'",
        '[tasks.y]: format = "table", but the table of [videos] has no column nope; it has x',
    ):
        assert part in str(caught.value)


def test_a_run_reads_another_table_by_its_own_classes(tmp_path: Path) -> None:
    task = find_task(cells(tmp_path, ["run", "walk", "fall"]), "x").task
    (tmp_path / "b").mkdir()
    other = with_labels(cells(tmp_path / "b", ["WALK", "", "walk"]), task)
    assert [s.values for s in other.tasks["x"].segments if s.values[0] == s.values[0]] == [(2.0,), (2.0,)]
    with pytest.raises(ValueError, match=r"t.csv:3 column x: unknown class 'jump'"):
        with_labels(cells(tmp_path / "b", ["walk", "jump"]), task)


@pytest.mark.parametrize(("text", "code"), [(" Run  fast ", "run fast"), ("1.0", "1"), ("01", "1"), ("É", "é")])
def test_codes(text: str, code: str) -> None:
    assert plain_code(text) == code


# ------------------------------------------------------------------ clocks


def test_seconds_are_placed_by_the_times_of_the_frames(tmp_path: Path) -> None:
    rows = ["a.mp4,0:00.5,00:00:02,1", "a.mp4,2,,0"]
    manifest = data_set(tmp_path, "path,start_s,end_s,x", rows)
    times = np.array([0.0, 0.4, 0.5, 1.9, 1.9995, 2.0, 5.0])  # a frame rate that varies
    found = find_task(manifest, "x")
    tracks, report = read_tracks(found.manifest, found.task, {"a.mp4": 7}, lambda video: times)
    nan = float("nan")
    assert np.array_equal(tracks[0].labels[:, 0], [nan, nan, 1, 1, 0, 0, 0], equal_nan=True)
    assert report.spans == []


def test_odd_segments_are_told_with_their_rows(tmp_path: Path) -> None:
    rows = ["a.mp4,0,1,1", "a.mp4,0.5,9,1", "a.mp4,0.001,0.002,1"]
    manifest = data_set(tmp_path, "path,start_s,end_s,x", [*rows, "b.mp4,0,1,0"])
    found = find_task(manifest, "x")
    times = np.arange(50) / 25
    _, report = read_tracks(found.manifest, found.task, {"a.mp4": 50, "b.mp4": 50}, lambda video: times)
    assert report.spans == [
        "t.csv:3: ends at 9 s, a.mp4 at 2.00 s",
        "t.csv:4: no frame of a.mp4 is shown in this segment; it labels nothing",
        "t.csv:3: overlaps t.csv:2, with the same label",
    ]
    assert report.lines()[-1].startswith("t.csv:3: ends at 9 s")


def test_segments_that_contradict_each_other_are_refused_with_their_rows(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, "path,start_s,end_s,x", ["a.mp4,0,1,1", "a.mp4,0.5,2,0"])
    found = find_task(manifest, "x")
    with pytest.raises(ValueError, match=r"t.csv:3: .* lines 2 and 3 differ on frame 13"):
        read_tracks(found.manifest, found.task, {"a.mp4": 50}, lambda video: np.arange(50) / 25)


@pytest.mark.parametrize("text", ["1:75", "-1", "1:2:3:4", "abc", "1e9", "0x10", "::", "1:-5"])
def test_what_is_no_time_is_refused_with_its_row(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=r"t.csv:2 column end_s: expected seconds such as 12.5"):
        data_set(tmp_path, "path,start_s,end_s,x", [f"a.mp4,0,{text},1"])


def test_a_manifest_can_say_that_the_unit_is_seconds(tmp_path: Path) -> None:
    data_set(tmp_path, "path,start,end,x", ["a.mp4,1,2,1", "b.mp4,,,0"])
    (tmp_path / "t.toml").write_text('[videos]\ntable = "t.csv"\nunit = "s"\n')
    (first, second) = load_manifest(tmp_path / "t.toml").table.segments  # type: ignore[union-attr]
    assert (first.start, first.end, first.in_seconds, second.in_seconds) == (1.0, 2.0, True, False)


def test_frames_of_videos_that_are_not_cached_cannot_be_counted() -> None:
    assert to_frames([], "v", {}, None, []) == []


# ------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def table(clips: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up clips with labels as people write them: three words, a rating, two yes and no, official numbers."""
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for clip in clips:
        (folder / "videos").mkdir(exist_ok=True)
        (folder / f"videos/{clip.id}.mp4").write_bytes(b"")
        words = np.where(clip.violence[:, 0] > 0, "Fight", np.where(np.nan_to_num(clip.va[:, 0]) > 0, "play", "rest"))
        edges = [0, *(np.flatnonzero(words[1:] != words[:-1]) + 1).tolist(), clip.num_frames]
        for start, end in pairwise(edges):
            middle = np.nan_to_num(clip.va[(start + end) // 2])
            rows.append(
                {
                    "path": f"videos/{clip.id}.mp4",
                    "id": clip.id,
                    "group": clip.group,
                    "start_s": f"{start / 25:.3f}",
                    "end_s": f"{end / 25:.3f}",
                    "action": words[start],
                    "pain": round(float(5 + 5 * middle[0]), 1),
                    "up": "yes" if middle[0] > 0 else "no",
                    "high": int(middle[1] > 0),
                }
            )
    pd.DataFrame(rows).to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


def train(table: Path, cache: FeatureCache, tmp_path: Path, task: str, *more: str) -> tuple[Path, dict[str, Any], str]:
    result = call(
        "cv", table, "--task", task, "--cache", cache.url, "--runs", tmp_path, "--no-baselines", *QUICK, *more
    )
    assert result.exit_code == 0, result.output
    (run,) = tmp_path.iterdir()
    return run, json.loads((run / "metrics.json").read_text()), result.output


@pytest.mark.parametrize(
    ("task", "metric", "names"),
    [
        ("action", "macro_f1", ("f1_fight", "ap_play", "auc_rest", "balanced_accuracy")),
        ("pain", "ccc_mean", ("pearson_mean", "mae_mean", "rmse_mean")),
        ("up,high", "f1_mean", ("f1_up", "ap_high", "map")),
    ],
)
def test_from_a_column_to_a_report(
    table: Path, cache: FeatureCache, tmp_path: Path, task: str, metric: str, names: tuple[str, ...]
) -> None:
    run, metrics, output = train(table, cache, tmp_path, task)
    assert metrics["metric"] == metric
    assert metrics["value"] > metrics["baselines"]["constant"] + 0.1
    assert set(names) <= metrics["scores"].keys() == metrics["intervals"].keys()
    assert all(np.isfinite([metrics["scores"][n], *metrics["intervals"][n]]).all() for n in metrics["scores"])
    assert f"task {task}: column" in output
    for name in ("Fight", "play", "rest") if task == "action" else (("pain",) if task == "pain" else ("up", "high")):
        assert name in (run / "report.html").read_text(encoding="utf-8")
    again = call("evaluate", table, "--run", run, "--cache", cache.url)
    assert again.exit_code == 0, again.output
    assert "labels have changed" not in again.output
    scored = call("predict", "--cache", cache.url, "--run", run, "--output", tmp_path / "scores.csv")
    assert scored.exit_code == 0, scored.output
    if task == "pain":
        assert pd.read_csv(tmp_path / "scores.csv")["score"].between(0, 10).all()


def test_a_permuted_control_of_an_own_task_scores_chance(table: Path, cache: FeatureCache, tmp_path: Path) -> None:
    _, metrics, _ = train(table, cache, tmp_path, "action", "--permute-labels")
    assert metrics["value"] < 0.45


@pytest.mark.parametrize("task", ["violence", "va", "expr", "au"])
def test_official_labels_from_columns_give_the_numbers_of_the_official_files(
    made: SimpleNamespace, clips: list[Any], cache: FeatureCache, manifest: Path, tmp_path: Path, task: str
) -> None:
    folder, rows = tmp_path / "data", []
    (folder / "videos").mkdir(parents=True)
    columns = {"violence": ["label"], "expr": ["expr"]}.get(task, list(TASKS[task].label_names))
    for clip in clips:
        (folder / f"videos/{clip.id}.mp4").write_bytes(b"")
        for n, values in enumerate(clip.labels(task)):
            cells = ["" if np.isnan(v) else f"{v:.4f}" if task == "va" else f"{v:.0f}" for v in values]
            rows.append([f"videos/{clip.id}.mp4", clip.id, clip.group, n, n + 1, *cells])
    header = ["path", "id", "group", "start", "end", *columns]
    pd.DataFrame(rows, columns=header).to_csv(folder / "t.csv", index=False)
    found = {}
    for name, source in (("files", manifest), ("table", folder / "t.csv")):
        runs = tmp_path / name
        runs.mkdir()
        found[name] = train(source, cache, runs, task)[1]
    assert found["files"]["scores"] == found["table"]["scores"]
    assert found["files"]["value"] == found["table"]["value"]


def test_labels_of_whole_videos_are_scored_per_video(clips: list[Any], cache: FeatureCache, tmp_path: Path) -> None:
    folder, rows = tmp_path / "data", []
    folder.mkdir()
    for clip in clips:
        (folder / f"{clip.id}.mp4").write_bytes(b"")
        rows.append(f"{clip.id}.mp4,{clip.id},{clip.group},{'much' if clip.violence.mean() > 0.5 else 'little'}")
    (folder / "t.csv").write_text("\n".join(["path,id,group,amount", *rows]) + "\n")
    run, metrics, output = train(folder / "t.csv", cache, tmp_path / "runs", "amount")
    table = pd.read_parquet(run / "predictions.parquet").dropna(subset=["score", "label"])
    videos = table.groupby("video")[["label", "score"]].mean()
    found = metrics["video"]
    assert (metrics["level"], found["videos"]) == ("video", len(clips))
    assert found["value"] == pytest.approx(f1_score(videos["label"], videos["score"] > 0.5, average="macro"))
    assert f"labels are of whole videos: macro F1 per video {found['value']:.4f}" in output
    assert f"{found['value']:.3f}</div>\n  <div>macro F1 per video" in (run / "report.html").read_text(encoding="utf-8")


def test_mistyped_tasks_are_told_with_what_there_is(table: Path, cache: FeatureCache, tmp_path: Path) -> None:
    said = refused("cv", table, "--task", "acton", "--cache", cache.url, "--runs", tmp_path)
    assert "unknown task 'acton'; did you mean 'action'" in said
