"""All four tasks from official files to a checked submission on the command line, with post-processing side by side."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from shared.labels.annotations import AU_NAMES, EXPR_NAMES
from train.__main__ import app
from train.runs.folder import open_run
from train.tasks import TASKS

QUICK = ["--head", "image", "--hidden", "8", "--epochs", "4", "--learning-rate", "0.02", "--batch-size", "16"]
HEADERS = {"va": "valence,arousal", "expr": ",".join(EXPR_NAMES), "au": ",".join(AU_NAMES)}


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="session")
def runs(manifest: Path, cache, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One quick run of each task: task -> folder, and what was printed."""
    root, output = tmp_path_factory.mktemp("protocol-runs"), {}
    for task in TASKS:
        command = ["cv", manifest, "--task", task, "--cache", cache.url, "--runs", root, "--num-folds", 3, *QUICK]
        result = call(*command, "--no-baselines")
        assert result.exit_code == 0, result.output
        output[task] = result.output
    return SimpleNamespace(root=root, output=output, **{task: next(root.glob(f"made-{task}-*")) for task in TASKS})


def template(path: Path, task: str, clips, extra: int = 2) -> Path:
    """A template with dummy values; the last track is a second person, and rows run past the decoded end."""
    names = [(c.id, c.num_frames) for c in clips] + [(f"{clips[0].id}_right", clips[0].num_frames)]
    dummy = {"va": "0.5,-0.5", "expr": "0", "au": ",".join("0" * 12)}[task]
    rows = [f"{name}/{n:05d}.jpg,{dummy}" for name, frames in names for n in range(1, frames + extra + 1)]
    path.write_text("\n".join([f"image_location,{HEADERS[task]}", *rows]) + "\n")
    return path


@pytest.mark.parametrize("task", TASKS)
def test_raw_and_post_processed_stand_side_by_side(runs, task: str) -> None:
    metrics, output = json.loads((getattr(runs, task) / "metrics.json").read_text()), runs.output[task]
    after = metrics["postprocessed"]
    header = next(line for line in output.splitlines() if line.startswith("score "))
    interval = ["95", "%", "interval"]
    assert header.split()[1:] == ["raw", *interval, "post-processed", *interval]
    assert list(metrics["scores"]) == list(after["scores"])
    for row, part in (("frames", metrics), ("post-processed", after)):
        line = next(line for line in output.splitlines() if line.startswith(row))
        assert line.split()[1:] == [f"{v:.4f}" for v in (*part["folds"], part["mean"], part["std"])]
    assert after["gain"]["value"] == pytest.approx(after["value"] - metrics["value"])
    assert len(after["settings"]) == 3
    assert "smoothed on each side (median of folds)" in output
    assert ("share of labelled windows (as the loss weighs it)" in output) == (task != "va")
    assert "coverage 100.0 %" in output
    assert f"{after['value']:.3f}" in (getattr(runs, task) / "report.html").read_text()
    assert metrics["value"] > metrics["baselines"]["constant"] + 0.1


@pytest.mark.parametrize("task", HEADERS)
def test_a_submission_is_written_and_valid(runs, cache, clips, tmp_path: Path, task: str) -> None:
    wanted, output = template(tmp_path / "t.txt", task, clips), tmp_path / "s.txt"
    command = ["submit", cache.url, "--run", getattr(runs, task), "--template", wanted, "--output", output]
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert "checked: valid" in result.stdout
    assert f"{2 * (len(clips) + 1)} rows took the value of the nearest" in result.stdout
    assert "in-sample" in result.stderr
    assert call("validate-submission", output, "--task", task, "--template", wanted).exit_code == 0
    lines = output.read_text().splitlines()
    assert len(lines) == len(wanted.read_text().splitlines())
    twins = [line.partition(",")[2] for line in lines if line.startswith((f"{clips[0].id}/", f"{clips[0].id}_right/"))]
    assert twins[: len(twins) // 2] == twins[len(twins) // 2 :]  # two people of one video have the same features
    again = call(*command)
    assert again.exit_code == 2
    assert f"{output} exists; give another --output, or replace it with --overwrite" in again.stderr
    assert output.read_text().splitlines() == lines
    raw = tmp_path / "raw.txt"
    assert call(*command[:-1], raw, "--raw").exit_code == 0
    assert call(*command[:-1], raw, "--raw", "--overwrite").exit_code == 0
    settings = json.loads((getattr(runs, task) / "metrics.json").read_text())["postprocessed"]["combined"]
    plain = {"half_widths": 0, "thresholds": 0.5}
    changes = any(v != plain[k] for k in plain for v in settings[k]) or settings["prior_strength"]
    assert (raw.read_text() == output.read_text()) == (not changes)
    lines[7] = lines[7].partition(",")[0] + ",nan"
    output.write_text("\n".join(lines) + "\n")
    result = call("validate-submission", output, "--task", task, "--template", wanted)
    assert result.exit_code == 1
    assert f"not valid: {output}:8: expected" in result.stdout
    wanted.write_text("something else\n")
    result = call("validate-submission", output, "--task", task, "--template", wanted)
    assert result.exit_code == 2
    assert "the template cannot be used, so nothing was checked" in result.stderr


def test_the_submission_says_what_predict_says(runs, cache, clips, tmp_path: Path) -> None:
    wanted, output, table = template(tmp_path / "t.txt", "va", clips[:3]), tmp_path / "s.txt", tmp_path / "p.parquet"
    base = [cache.url, "--run", runs.va, "--output"]
    assert call("submit", *base, output, "--template", wanted, "--raw").exit_code == 0
    assert call("predict", *base, table).exit_code == 0
    scores = pd.read_parquet(table)
    for clip in clips[:3]:
        lines = [x for x in output.read_text().splitlines() if x.startswith(f"{clip.id}/")]
        found = np.array([x.split(",")[1:] for x in lines], np.float64)[: clip.num_frames]
        expected = scores.loc[scores["track"] == clip.id, ["score_valence", "score_arousal"]].to_numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("column", [None, "Predicted_Label"])
def test_a_dvd_submission_is_a_folder(runs, cache, clips, tmp_path: Path, column: str | None) -> None:
    output = tmp_path / "out"
    more = ["--label-column", column] if column else []
    result = call("submit", cache.url, "--run", runs.violence, "--output", output, *more)
    assert result.exit_code == 0, result.output
    assert sorted(f.stem for f in output.iterdir()) == sorted(c.id for c in clips)
    for clip in clips:
        table = pd.read_csv(output / f"{clip.id}.csv")
        assert list(table) == ["Frame_Number", column or "Label"]
        assert table["Frame_Number"].tolist() == list(range(1, clip.num_frames + 1))
        assert set(table[column or "Label"]) <= {0, 1}
    assert call("validate-submission", output, "--task", "violence", *more).exit_code == 0
    first = output / f"{clips[0].id}.csv"
    first.write_text(first.read_text().replace("3,", "3,x", 1))
    result = call("validate-submission", output, "--task", "violence", *more)
    assert result.exit_code == 1
    assert f"{first}:4: expected a label of 0 or 1" in result.stdout
    assert "not an empty folder" in call("submit", cache.url, "--run", runs.violence, "--output", output).stderr


def test_ids_of_a_folder_of_videos_meet_the_names_of_a_template(made, runs, clips, tmp_path: Path) -> None:
    """`extract run FOLDER` calls a video 0008.mp4, the organisers call it 0008."""
    made.write_cache(tmp_path / "c.zarr", [replace(c, id=f"{c.id}.mp4") for c in clips[:2]])
    base = ["submit", tmp_path / "c.zarr", "--run", runs.violence, "--output"]
    assert call(*base, tmp_path / "out").exit_code == 0
    names = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert names == sorted(f"{c.id}.csv" for c in clips[:2])
    result = call(*base, tmp_path / "again", "--template", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for name in names:
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "out" / name).read_text()


def test_tracks_without_features_stop_it_unless_told_otherwise(made, runs, clips, tmp_path: Path) -> None:
    made.write_cache(tmp_path / "c.zarr", clips[1:3])
    wanted, output = template(tmp_path / "t.txt", "expr", clips[:3]), tmp_path / "s.txt"
    command = ["submit", tmp_path / "c.zarr", "--run", runs.expr, "--template", wanted, "--output", output]
    result = call(*command)
    assert result.exit_code == 2
    assert f"2 of 4 tracks of the template have no features in {tmp_path / 'c.zarr'}: {clips[0].id}, " in result.stderr
    assert not output.exists()
    result = call(*command, "--fill-missing")
    assert result.exit_code == 0, result.output
    assert "2 tracks without features got" in result.stderr
    assert call("validate-submission", output, "--task", "expr", "--template", wanted).exit_code == 0


def test_bad_usage_is_said_in_words(runs, cache, clips, tmp_path: Path) -> None:
    wanted = template(tmp_path / "t.txt", "expr", clips[:1])
    base = ["submit", cache.url, "--run", runs.va, "--output", tmp_path / "s.txt"]
    for more, told in (
        ([], "row by row as the organisers' example file"),
        (["--template", wanted], "the template of task 'expr'"),
        (["--template", tmp_path / "none.txt"], "none.txt"),
    ):
        result = call(*base, *more)
        assert result.exit_code == 2
        assert told in result.stderr
    check = ["validate-submission", tmp_path / "s.txt", "--task"]
    assert "--template FILE" in call(*check, "va").stderr
    assert "no submission file" in call(*check, "va", "--template", wanted).stderr
    assert "did you mean 'expr'" in call(*check, "exp").stderr
    assert call("validate-submission", tmp_path / "nowhere", "--task", "violence").exit_code == 1


@pytest.mark.parametrize("task", TASKS)
def test_evaluate_shows_both(runs, manifest, cache, task: str) -> None:
    result = call("evaluate", manifest, "--cache", cache.url, "--run", getattr(runs, task))
    assert result.exit_code == 0, result.output
    assert "post-processing, tuned on the run's training folds" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("score "))
    assert "raw" in row
    assert "post-processed" in row


def test_runs_that_stored_no_post_processing_are_still_of_use(runs, manifest, cache, clips, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(runs.va, run)
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["postprocessed"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert call("evaluate", manifest, "--cache", cache.url, "--run", run).exit_code == 0
    wanted = template(tmp_path / "t.txt", "va", clips[:1])
    command = ["submit", cache.url, "--run", run, "--template", wanted, "--output", tmp_path / "s.txt"]
    assert "give --raw" in call(*command).stderr
    assert call(*command, "--raw").exit_code == 0
    assert "stored no post-processed scores" in call("report", "--run", run).stderr


@pytest.mark.parametrize("task", ["expr", "au"])
def test_predictions_of_expressions_and_units_in_words(runs, cache, clips, tmp_path: Path, task: str) -> None:
    output = tmp_path / "p.csv"
    result = call("predict", cache.url, "--run", getattr(runs, task), "--output", output)
    assert result.exit_code == 0, result.output
    names = [f"score_{n}" for n in TASKS[task].score_names]
    assert list(pd.read_csv(output)) == ["track", "video", "frame", "time_s", *names]
    line = next(x for x in result.stdout.splitlines() if x.startswith(f"{clips[0].id}: "))
    assert any(name.removeprefix("score_") in line for name in names)


@pytest.mark.parametrize("task", TASKS)
def test_the_oracle_needs_labels_only(manifest, cache, task: str) -> None:
    result = call("oracle", manifest, "--task", task, "--size", 8)
    assert result.exit_code == 0, result.output
    assert "label rows are taken for frames" in result.stderr
    assert "windows of 8 frames every 8" in result.stdout
    with_cache = call("oracle", manifest, "--task", task, "--cache", cache.url, "--size", 8, "--split", "val")
    assert with_cache.stdout == result.stdout  # the made-up labels are as long as their videos
    every = call("oracle", manifest, "--task", task, "--cache", cache.url, "--size", 1, "--split", "all")
    first = next(line for line in every.stdout.splitlines() if line.startswith(("macro F1", "mean ")))
    assert first.split()[-1] == "1.0000"
    assert "no track of the split 'test'" in call("oracle", manifest, "--task", task, "--split", "test").stderr


def test_the_oracle_refuses_twins_in_two_splits(made, clips, tmp_path: Path) -> None:
    manifest = made.write_labels(tmp_path, clips)
    train, val = tmp_path / "va/train", tmp_path / "va/val"
    learned = next(train.iterdir())
    shutil.copy(learned, val / f"{learned.stem}_left.txt")
    result = call("oracle", manifest, "--task", "va")
    assert result.exit_code == 2
    assert "lies in two parts (train and val): its tracks must stay together" in result.stderr


def test_a_run_is_read_with_its_own_settings(runs) -> None:
    from train.commands.parts import run_settings

    for task in TASKS:
        settings = run_settings(open_run(getattr(runs, task)))
        assert settings is not None
        assert len(settings.half_widths) == len(TASKS[task].score_names)
        assert len(settings.thresholds) == (len(TASKS[task].score_names) if task in ("violence", "au") else 0)


@pytest.mark.parametrize("task", ["expr", "au"])
def test_the_audit_knows_every_task(manifest, cache, task: str) -> None:
    result = call("audit", manifest, "--task", task, "--cache", cache.url, "--folds", "random-windows")
    assert result.exit_code == 0, result.output
