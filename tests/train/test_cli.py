"""The command line on a small made-up cache: whole runs, the control, resuming after a kill, and every way to err."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from rich.console import Console
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from shared.cache import FeatureCache
from shared.cache.verify import attributes_digest
from train.__main__ import app
from train.config import TrainConfig
from train.show.training import percent

QUICK = ["--hidden", "8", "--epochs", "4", "--learning-rate", "0.02", "--batch-size", "16"]
COMMANDS = ["cv", "predict", "evaluate", "report", "submit", "validate-submission", "oracle", "audit", "ablate"]


def call(*arguments: object) -> Result:
    """Run a command; whatever it says, it must not say it as a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


def only_run(runs: Path) -> Path:
    (run,) = runs.iterdir()
    return run


@pytest.fixture(scope="session")
def trained(manifest: Path, cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Both tasks, trained once: task -> run folder, and what was printed."""
    runs, output = tmp_path_factory.mktemp("runs"), {}
    for task in ("violence", "va"):
        more = ["--no-baselines"] if task == "va" else []
        result = call("cv", manifest, "--task", task, "--cache", cache.url, "--runs", runs, *QUICK, *more)
        assert result.exit_code == 0, result.output
        output[task] = result.output
    folders = {task: next(runs.glob(f"made-{task}-*")) for task in output}
    return SimpleNamespace(runs=runs, output=output, **folders)


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


# --- cv ---


def test_both_ways_of_training_folds_score_the_same_and_say_so(trained, manifest, cache, tmp_path: Path) -> None:
    assert "cross_gru: folds train all at once on cpu: " in trained.output["va"]
    one = ["--folds-at-once", "one-by-one", "--no-baselines"]
    result = call("cv", manifest, "--task", "va", "--cache", cache.url, "--runs", tmp_path, *QUICK, *one)
    assert "cross_gru: folds train one after another on cpu, as asked for" in result.stderr
    found, expected = metrics_of(only_run(tmp_path)), metrics_of(trained.va)
    assert found["best_epochs"] == expected["best_epochs"]
    assert found["folds"] == pytest.approx(expected["folds"], abs=1e-4)


@pytest.mark.parametrize("task", ["violence", "va"])
def test_a_run_is_a_folder(trained: SimpleNamespace, task: str, clips) -> None:
    run = getattr(trained, task)
    names = {"config.json", "metrics.json", "predictions.parquet", "checkpoints", "report.html", "tensorboard"}
    assert names <= {p.name for p in run.iterdir()}
    metrics = metrics_of(run)
    assert list(metrics)[:7] == ["task", "metric", "value", "folds", "interval", "baselines", "differences"]
    assert metrics["task"] == task
    assert len(metrics["folds"]) == 5
    assert metrics["value"] > 0.8 > metrics["baselines"]["constant"]
    assert metrics["coverage"] == 1.0
    assert metrics["notes"] == ["made-up data"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == sorted(
        f"fold{k}.{kind}" for k in range(1, 6) for kind in ("json", "safetensors")
    )
    table = pd.read_parquet(run / "predictions.parquet")
    assert len(table) == sum(c.num_frames for c in clips)
    config = json.loads((run / "config.json").read_text())
    assert sorted(config["sources"]) == sorted(c.id for c in clips)
    assert config["train"]["head_options"]["hidden"] == 8
    assert config["train"]["loss"] == {"violence": "focal", "va": "mse"}[task]
    report = (run / "report.html").read_text()
    assert "frame 4 of scene" in report or "frame 12 of scene" in report  # captions from the cache


def test_the_value_is_that_of_the_predictions(trained: SimpleNamespace) -> None:
    table = pd.read_parquet(trained.violence / "predictions.parquet")
    expected = f1_score(table["label"] > 0.5, table["score"] > 0.5, average="macro")
    assert metrics_of(trained.violence)["value"] == pytest.approx(expected, abs=1e-9)
    table = pd.read_parquet(trained.va / "predictions.parquet").dropna()
    both = []
    for name in ("valence", "arousal"):
        x, y = (table[f"{c}_{name}"].to_numpy(np.float64) for c in ("score", "label"))
        both.append(2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
    assert metrics_of(trained.va)["value"] == pytest.approx(np.mean(both), abs=1e-6)


def test_the_table_of_the_paper_is_printed(trained: SimpleNamespace) -> None:
    for task in ("violence", "va"):
        metrics, output = metrics_of(getattr(trained, task)), trained.output[task]
        header = next(line for line in output.splitlines() if "fold 1" in line)
        assert header.split() == [*(w for k in range(1, 6) for w in ("fold", str(k))), "mean", "std"]
        row = next(line for line in output.splitlines() if line.startswith("frames"))
        expected = [*metrics["folds"], metrics["mean"], metrics["std"]]
        assert row.split()[1:] == [f"{v:.4f}" for v in expected]
        assert "95 % interval" in output
    assert set(metrics_of(trained.violence)["baselines"]) == {"constant", "video", "image", "text"}
    assert "text stream alone" in trained.output["violence"]
    for name, gap in metrics_of(trained.violence)["differences"].items():
        low, high = gap["interval"]
        row = next(line for line in trained.output["violence"].splitlines() if line.startswith(f"{name} "))
        after = metrics_of(trained.violence)["postprocessed"]["differences"][name]
        cells = [f"{gap['value']:+.3f} ({low:.3f} to {high:.3f})", f"{after['value']:+.3f}"]
        assert -1 < row.find(cells[0]) < row.rfind(cells[1])  # raw first, post-processed to its right
    lines = trained.output["violence"].splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("all folds pooled")) :]
    assert max(len(line) for line in table if not line.startswith(("run:", "report:"))) <= 80


def test_the_official_split_and_a_table_wider_than_a_terminal(manifest, cache, tmp_path: Path) -> None:
    base = ["cv", manifest, "--task", "va", "--cache", cache.url, "--head", "text", "--no-baselines", *QUICK[:2]]
    result = call(*base, "--epochs", 1, "--runs", tmp_path / "a", "--folds", "official")
    assert result.exit_code == 0, result.output
    assert len(metrics_of(only_run(tmp_path / "a"))["folds"]) == 1
    result = call(*base, "--epochs", 1, "--runs", tmp_path / "b", "--num-folds", 10)
    metrics = metrics_of(only_run(tmp_path / "b"))
    for value in (*metrics["folds"], metrics["mean"], metrics["std"]):
        assert f"{value:.4f}" in result.output  # nothing is cut at 80 columns


def test_permuted_labels_score_chance(trained: SimpleNamespace, manifest, cache, tmp_path: Path) -> None:
    """Macro F1 of a coin is about .5 and CCC of noise about 0; the same pipeline scores above .8 on its own labels."""
    for task, chance in (("violence", 0.5), ("va", 0.0)):
        more = ["--permute-labels", "--no-baselines", "--runs", tmp_path / task]
        result = call("cv", manifest, "--task", task, "--cache", cache.url, *QUICK, *more)
        assert result.exit_code == 0, result.output
        metrics = metrics_of(only_run(tmp_path / task))
        assert metrics["value"] == pytest.approx(chance, abs=0.2)
        assert "a control that must score chance" in metrics["notes"][-1]


def test_a_control_is_not_resumed_as_the_real_thing(trained: SimpleNamespace, manifest, cache, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.va, run)
    command = ["cv", manifest, "--task", "va", "--cache", cache.url, *QUICK, "--no-baselines", "--resume", run]
    assert "permuted: the run has false, now true" in refused(*command, "--permute-labels")


def test_videos_that_lack_a_stream_are_left_out_and_told(made, manifest, clips, tmp_path: Path) -> None:
    made.write_cache(tmp_path / "c.zarr", clips[2:])
    made.write_cache(tmp_path / "c.zarr", clips[:2], streams=["video"])
    command = ["cv", manifest, "--task", "va", "--cache", tmp_path / "c.zarr", "--head", "image", "--no-baselines"]
    result = call(*command, "--epochs", 1, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "2 cached videos lack a stream and are left out: scene0-0, scene0-1" in result.stderr
    metrics = metrics_of(only_run(tmp_path / "runs"))
    assert metrics["num_videos"] == len(clips) - 2
    known = [int(np.isfinite(c.va).all(axis=1).sum()) for c in clips]
    assert metrics["coverage"] == pytest.approx(sum(known[2:]) / sum(known))
    assert f"coverage {percent(metrics['coverage'])}" in result.stdout
    assert metrics["coverage"] < 1
    # scene0 belongs to the validation split; what is missing of it can be tested by no fold
    result = call(*command, "--epochs", 1, "--runs", tmp_path / "official", "--folds", "official")
    metrics, tested = metrics_of(only_run(tmp_path / "official")), [c.split == "val" for c in clips]
    labelled = sum(n for n, test in zip(known, tested, strict=True) if test)
    assert metrics["coverage"] == pytest.approx(1 - sum(known[:2]) / labelled)


def test_the_videos_themselves_are_not_needed(trained, manifest, cache, tmp_path: Path) -> None:
    shutil.copytree(manifest.parent, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "videos")
    moved = tmp_path / "data" / manifest.name
    result = call(
        "cv", moved, "--task", "va", "--cache", cache.url, "--runs", tmp_path / "runs", *QUICK, "--no-baselines"
    )
    assert result.exit_code == 0, result.output
    assert metrics_of(only_run(tmp_path / "runs"))["value"] == metrics_of(trained.va)["value"]
    assert call("evaluate", moved, "--cache", cache.url, "--run", trained.va).exit_code == 0


def test_other_features_of_the_same_recipe_are_not_resumed(made, trained, manifest, clips, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.va, run)
    url = tmp_path / "c.zarr"
    made.write_cache(url, [replace(c, va=-c.va) for c in clips])
    told = refused("cv", manifest, "--task", "va", "--cache", url, *QUICK, "--no-baselines", "--resume", run)
    assert "features_sha256.image: the run has" in told


def test_tracks_of_no_fold_are_told(made, clips, cache, tmp_path: Path) -> None:
    manifest = made.write_labels(tmp_path / "data", clips)
    table = tmp_path / "data" / "videos.csv"
    header, *lines = table.read_text().splitlines()
    folds = ["" if k < 2 else str(k // 2 % 2) for k in range(len(lines))]
    table.write_text("\n".join([f"{header},fold", *(f"{a},{b}" for a, b in zip(lines, folds, strict=True))]) + "\n")
    command = ["cv", manifest, "--task", "va", "--cache", cache.url, "--head", "text", "--no-baselines"]
    result = call(*command, "--epochs", 1, "--runs", tmp_path / "runs", "--folds", "column")
    assert result.exit_code == 0, result.output
    note = f"2 of {len(clips)} tracks are in no fold (no fold given): scene0-0, scene0-1"
    assert f"note: {note}" in result.stderr
    run = only_run(tmp_path / "runs")
    assert note in metrics_of(run)["notes"]
    assert not {"scene0-0", "scene0-1"} & json.loads((run / "config.json").read_text())["sources"].keys()


def test_truncated_videos_are_told(manifest, clips, cache, tmp_path: Path) -> None:
    copy, name = tmp_path / "copy.zarr", clips[0].id
    shutil.copytree(cache.url, copy)  # without its index
    info = replace(cache.info(name), truncated={"decoded": 10, "promised": 90})
    file = copy / "videos" / name / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"] |= info.attrs()
    group["attributes"]["checksums"]["attributes"] = attributes_digest(info.attrs())
    file.write_text(json.dumps(group))
    command = ["cv", manifest, "--task", "va", "--cache", copy, "--head", "text", "--no-baselines", "--epochs", 1]
    result = call(*command, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    note = f"1 videos end early and are taken as far as they go: {name} (10 of 90 frames)"
    assert f"note: {note}" in result.stderr
    run = only_run(tmp_path / "runs")
    assert note in metrics_of(run)["notes"]
    assert note in (run / "report.html").read_text()


# --- predict, evaluate, report ---


@pytest.fixture(scope="session")
def newcomers(made, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Other videos of the same making, and their labels."""
    root, clips = tmp_path_factory.mktemp("new"), made.make_clips(3, 2, seed=99)
    url = root / "new.zarr"
    made.write_cache(url, clips, dataset="new")
    manifest = made.write_labels(root / "data", clips)
    manifest.write_text(manifest.read_text().replace('name = "made"', 'name = "new"'))
    return SimpleNamespace(url=url, clips=clips, manifest=manifest)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("task", ["violence", "va"])
def test_predict_scores_new_videos(trained, newcomers, tmp_path: Path, task: str, suffix: str) -> None:
    output = tmp_path / "deep" / f"scores{suffix}"
    result = call("predict", "--cache", newcomers.url, "--runs", trained.runs, "--task", task, "--output", output)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    scores = ["score"] if task == "violence" else ["score_valence", "score_arousal"]
    assert list(table) == ["track", "video", "frame", "time_s", *scores]
    assert len(table) == sum(c.num_frames for c in newcomers.clips)
    for clip in newcomers.clips:
        part = table[table["video"] == clip.id]
        np.testing.assert_allclose(part["time_s"], np.arange(clip.num_frames) / 25, atol=1e-5)
        assert f"{clip.id}: {clip.num_frames} frames" in result.stdout
        found, truth = part[scores].to_numpy(), clip.labels(task)
        valid = np.isfinite(truth).all(1)
        assert np.corrcoef(found[valid, 0], truth[valid, 0])[0, 1] > 0.5


def test_predict_one_video(trained, newcomers, tmp_path: Path) -> None:
    clip, output = newcomers.clips[1], tmp_path / "one.csv"
    base = ["predict", "--cache", newcomers.url, "--run", trained.violence]
    assert call(*base, "--video", clip.id, "--output", output).exit_code == 0
    one = pd.read_csv(output)
    assert set(one["video"]) == {clip.id}
    assert call(*base, "--output", output).exit_code == 0
    every = pd.read_csv(output)
    np.testing.assert_allclose(one["score"], every[every["video"] == clip.id]["score"], atol=2e-5)
    assert "no complete video 'nobody'" in refused(*base, "--video", "nobody")
    assert "must end in .csv, .parquet, .jsonl (a row per frame) or .eaf" in refused(
        *base, "--output", tmp_path / "x.xlsx"
    )


def changed(made, newcomers, tmp_path: Path, **values: object) -> Path:
    recipe = {"image": made.recipe_of("image") | values}
    made.write_cache(tmp_path / "c.zarr", newcomers.clips[:1], recipe)
    return tmp_path / "c.zarr"


def test_other_features_are_refused_with_the_difference(made, trained, newcomers, tmp_path: Path) -> None:
    url = changed(made, newcomers, tmp_path, model="another")
    for command in (["predict"], ["evaluate", newcomers.manifest]):
        told = refused(*command, "--cache", url, "--run", trained.violence)
        assert "other features of stream 'image'" in told
        assert 'model: the run has "made-up", this cache "another"' in told


def test_other_library_versions_are_a_note(made, trained, newcomers, tmp_path: Path) -> None:
    url = changed(made, newcomers, tmp_path, versions={"torch": "2.0"})
    result = call("predict", "--cache", url, "--run", trained.violence)
    assert result.exit_code == 0, result.output
    assert "note: stream 'image' was extracted with other library versions" in result.stderr


def test_other_windows_are_refused_and_another_stride_is_not(made, trained, newcomers, tmp_path: Path) -> None:
    spec = type(made.SPEC)
    for name, window, status in (
        ("size", spec(24, 8, made.SPEC.samples), 2),
        ("sampling", spec(16, 8, made.SPEC.samples, "endpoints"), 2),
        ("samples", spec(16, 8, {**made.SPEC.samples, "text": 4}), 2),
        ("stride", spec(16, 4, made.SPEC.samples), 0),
    ):
        made.write_cache(tmp_path / f"{name}.zarr", newcomers.clips[:1], window=window)
        result = call("predict", "--cache", tmp_path / f"{name}.zarr", "--run", trained.violence)
        assert result.exit_code == status, result.output
        assert status == 0 or f"{name}" in result.stderr


def test_predict_leaves_out_videos_that_lack_a_stream(made, trained, newcomers, tmp_path: Path) -> None:
    made.write_cache(tmp_path / "c.zarr", newcomers.clips[:1])
    made.write_cache(tmp_path / "c.zarr", newcomers.clips[1:2], streams=["video", "image"])
    result = call("predict", "--cache", tmp_path / "c.zarr", "--run", trained.violence)
    assert result.exit_code == 0, result.output
    assert f"videos that lack a stream, not scored: {newcomers.clips[1].id}" in result.stderr
    assert newcomers.clips[0].id in result.stdout


@pytest.mark.parametrize("task", ["violence", "va"])
def test_evaluate_on_another_data_set(trained, newcomers, task: str) -> None:
    base = ["evaluate", newcomers.manifest, "--cache", newcomers.url, "--runs", trained.runs, "--task", task]
    result = call(*base)
    assert result.exit_code == 0, result.output
    name = {"violence": "macro F1", "va": "mean CCC"}[task]
    row = next(line for line in result.stdout.splitlines() if line.startswith(name))
    assert float(row.removeprefix(name).split()[0]) > 0.8
    assert "in-sample" not in result.stderr


def test_in_sample_scores_are_told_whatever_the_name(
    made, trained, manifest, newcomers, cache, clips, tmp_path
) -> None:
    url = tmp_path / "mixed.zarr"
    known = [replace(c, id=f"renamed-{c.id}") for c in clips[:3]]
    made.write_cache(url, [*known, *newcomers.clips], dataset="other")
    for command, numbers in (
        (["evaluate", manifest, "--cache", cache.url], f"{len(clips)} of {len(clips)}"),
        (["predict", "--cache", cache.url, "--video", clips[0].id], "1 of 1"),
        (["predict", "--cache", url], f"3 of {3 + len(newcomers.clips)}"),
    ):
        result = call(*command, "--run", trained.va)
        assert result.exit_code == 0, result.output
        assert f"note: {numbers} videos were in this run's training data: their scores are in-sample" in result.stderr


def test_validation_videos_of_an_official_split_are_not_in_sample(manifest, cache, clips, tmp_path: Path) -> None:
    command = ["cv", manifest, "--task", "va", "--cache", cache.url, "--head", "text", "--no-baselines"]
    call(*command, "--epochs", 1, "--runs", tmp_path, "--folds", "official")
    tested, learned = (next(c.id for c in clips if c.split == split) for split in ("val", "train"))
    predict = ["predict", "--cache", cache.url, "--run", only_run(tmp_path), "--video"]
    assert "in-sample" not in call(*predict, tested).stderr
    assert "1 of 1 videos were in this run's training data" in call(*predict, learned).stderr


def test_report_is_written_again(trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.violence, run)
    (run / "report.html").unlink()
    assert call("report", "--run", run).exit_code == 0
    assert "of scene" in (run / "report.html").read_text()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"cache": str(tmp_path / "gone.zarr")}))
    result = call("report", "--run", run)
    assert result.exit_code == 0
    assert "note: without captions" in result.stderr
    (run / "predictions.parquet").unlink()
    assert "predictions.parquet" in refused("report", "--run", run)


# --- errors ---


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task", "violense"], "did you mean 'violence'"),
        (["--task", "va", "--head", "cross_gur"], "did you mean 'cross_gru'"),
        (["--task", "va", "--head-option", "droput=0.5"], "did you mean 'dropout'"),
        (["--task", "va", "--head-option", "dropout"], "NAME=NUMBER"),
        (["--task", "va", "--loss", "mze"], "did you mean 'mse'"),
        (["--task", "va", "--loss", "focal"], "takes the losses mse, ccc, mse_ccc, not 'focal'"),
        (["--task", "va", "--folds", "grup"], "did you mean 'group'"),
        (["--task", "va", "--folds", "random"], "did you mean 'random-windows'"),
        (["--task", "va", "--folds", "random-windows", "--permute-labels"], "no control on random windows"),
        (["--task", "va", "--preset", "augmentd"], "did you mean 'augmented'"),
        (["--task", "va", "--augment", "nois=0.1"], "did you mean 'noise'"),
        (["--task", "va", "--augment", "mixup=-1"], "augmentation mixup must be 0 (off) or more, found -1"),
        (["--task", "va", "--autoencode", "-1"], "autoencode must be 0 (off) or more"),
        (["--task", "va", "--folds", "column"], "fold column must name folds"),
        (["--task", "va", "--window-label", "meen"], "did you mean 'mean'"),
        (["--task", "va", "--window-label", "any"], "takes mean or center"),
        (["--task", "va", "--device", "gpu"], "torch sees no GPU"),
        (["--task", "va", "--folds-at-once", "togehter"], "did you mean 'together'"),
        (["--task", "va", "--precision", "bfloat61"], "did you mean 'bfloat16'"),
        (["--task", "va", "--num-folds", "11"], "11 folds need at least 11 groups, found 10"),
        (["--task", "va", "--num-folds", "1"], "--num-folds"),
        (["--task", "va", "--hidden", "10"], "must be a multiple of attention_heads"),
        (["--task", "va", "--learning-rate", "0"], "learning_rate must be above 0"),
        (["--task", "va", "--seed", "-1"], "seed must be from 0"),
        (["--task", "va", "--cache", "nowhere.zarr"], "no feature cache at nowhere.zarr"),
        (["--task", "va", "--root", "nowhere"], "there is no folder nowhere"),
        (["--task", "va", "--resume", "nowhere"], "nowhere is not a run folder"),
        ([], "--task"),
    ],
)
def test_cv_refuses_before_it_makes_a_run(manifest, cache, tmp_path: Path, arguments: list[str], expected: str) -> None:
    runs = tmp_path / "runs"
    assert expected in refused("cv", manifest, "--cache", cache.url, "--runs", runs, *arguments)
    assert not runs.exists()


def test_other_commands_refuse_in_words(trained, newcomers, tmp_path: Path) -> None:
    predict = ["predict", "--cache", newcomers.url]
    assert "no finished run below" in refused(*predict, "--runs", tmp_path)
    assert "did you mean 'va'" in refused(*predict, "--runs", tmp_path, "--task", "vaa")
    assert "is not a run folder" in refused(*predict, "--run", tmp_path)
    assert "is a run of task 'va', not of 'violence'" in refused(*predict, "--run", trained.va, "--task", "violence")
    assert "no feature cache at" in refused("predict", "--cache", tmp_path / "c.zarr", "--run", trained.va)
    assert "did you mean 'demo'" in refused("cv", "dmeo", "--task", "va")
    assert "did you mean 'demo'" in refused("evaluate", "dmeo", "--run", trained.va)
    assert "no finished run below" in refused("report", "--runs", tmp_path)
    labels = tmp_path / "labels"
    shutil.copytree(newcomers.manifest.parent, labels)
    file = next((labels / "va" / "train").iterdir())
    file.write_text(file.read_text().replace("valence", "valance"))
    told = refused("evaluate", labels / "made.toml", "--cache", newcomers.url, "--run", trained.va)
    assert f"{file}:1: expected the header 'valence,arousal'" in told
    (file.parent / "empty.csv").write_text("path\n")
    assert call("cv", file.parent / "empty.csv", "--task", "va").exit_code == 2


def test_damaged_checkpoints_are_refused_in_words(trained, newcomers, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.va, run)
    (run / "checkpoints" / "fold3.safetensors").write_bytes(b"\x00" * 40)
    told = refused("predict", "--cache", newcomers.url, "--run", run)
    assert "fold3.safetensors is damaged: it is not what fold3.json beside it names" in told
    (run / "config.json").write_text("{")
    assert "config.json is damaged" in refused("predict", "--cache", newcomers.url, "--run", run)


# --- help ---


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS)], ids=lambda c: " ".join(c) or "main")
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    """This is what makes it answer at once: neither torch nor jax, nor even the array libraries."""
    code = (
        "import sys\n"
        "from train.__main__ import app\n"
        f"try:\n    app({[*command, '--help']!r})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'jax', 'numpy', 'pandas', 'zarr', 'sklearn', 'matplotlib', 'transformers'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "Usage" in done.stdout


def test_training_imports_no_encoder_and_no_decoder() -> None:
    code = (
        "import sys, train.commands.runs, train.show.report\n"
        "print({'jax', 'open_clip', 'torchvision', 'transformers', 'av', 'extract'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_an_interrupt_says_how_to_go_on(manifest, cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from train.show import training as show

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    stop: Callable[..., None] = interrupt
    monkeypatch.setattr(show.CvDisplay, "epoch", stop)
    result = call("cv", manifest, "--task", "va", "--cache", cache.url, "--runs", tmp_path, *QUICK)
    assert result.exit_code == 130
    assert f"--resume {only_run(tmp_path)}" in result.stderr


@pytest.mark.parametrize("at_once", [True, False])
def test_the_bar_is_full_at_the_end_whenever_folds_stop(at_once: bool) -> None:
    from train.show.training import CvDisplay

    scores = {
        0: [0.1, 0.5, 0.4, 0.3],
        1: [0.1, 0.2, 0.3, 0.4, 0.5],
    }  # only the first runs out of patience
    rows = [(e, k, {"epoch": e + 1, "val_score": s}) for k, own in scores.items() for e, s in enumerate(own)]
    with CvDisplay(Console(file=io.StringIO()), "video", [0, 1], TrainConfig(max_epochs=5, patience=2)) as display:
        seen = []
        for _, fold, row in sorted(rows, key=lambda r: r[:2]) if at_once else rows:
            display.epoch(fold, row)
            seen.append(display.completed)
    assert seen == ([1, 2, 3, 4, 5, 6, 8, 9, 10] if at_once else [1, 2, 3, 5, 6, 7, 8, 9, 10])


def test_the_working_folder_is_left_alone(trained: SimpleNamespace, working_folder: set[str]) -> None:
    assert set(os.listdir()) - working_folder <= {".pytest_cache"}
