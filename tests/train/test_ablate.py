"""The ablation table: one change at a time on the same folds; interrupted or not, the same numbers."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from train.__main__ import app
from train.config import PRESETS, Augmentation, TrainConfig
from train.experiments.ablate import FULL, ROWS, choose_rows, row_config
from train.experiments.crossval import assign_folds, cross_validate, split_windows
from train.heads import HEADS
from train.judging.evaluate import compare_frames, evaluate_frames

QUICK = ["--epochs", "2", "--learning-rate", "0.02", "--batch-size", "32", "--num-folds", "2"]
SOME = ["--row", "concat", "--row", "no_augment", "--row", "text"]


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.fixture(scope="module")
def ablated(manifest, cache, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The whole table, once."""
    runs = tmp_path_factory.mktemp("runs")
    result = call("ablate", manifest, "--task", "va", "--cache", cache.url, "--runs", runs, *QUICK)
    assert result.exit_code == 0, result.output
    (run,) = runs.iterdir()
    return SimpleNamespace(
        run=run,
        runs=runs,
        output=result.stdout,
        log=result.stderr,
        table=json.loads((run / "ablation.json").read_text()),
    )


def test_each_row_changes_one_thing() -> None:
    config = TrainConfig(augment=PRESETS["augmented"]["augment"], autoencode=0.1, seed=3)
    assert row_config(config, FULL) == config
    for name, row in ROWS.items():
        own = row_config(config, name)
        assert own.head in HEADS
        same = replace(own, head=config.head, head_options=config.head_options)
        if row.head is not None:
            assert same == config  # seed, folds, loss, augmentation and autoencoding stay
            assert own.head == row.head != config.head
    assert row_config(config, "no_augment") == replace(config, augment=Augmentation())
    assert row_config(config, "no_autoencode") == replace(config, autoencode=0.0)
    assert row_config(config, "plain") == replace(config, augment=Augmentation(), autoencode=0.0)


def test_the_table_has_every_ablation_of_the_paper() -> None:
    heads = {row.head for row in ROWS.values()}
    assert heads == {None, *HEADS} - {"cross_gru"}
    assert choose_rows([]) == [*ROWS]
    assert choose_rows(["plain", "video"]) == ["full", "video", "plain"]
    with pytest.raises(ValueError, match="did you mean 'mean_pool'"):
        choose_rows(["mean_pol"])


def test_all_rows_are_printed_and_stored(ablated: SimpleNamespace) -> None:
    rows = ablated.table["rows"]
    assert ablated.table["finished"]
    assert "features resident on cpu" in ablated.log
    assert [r["row"] for r in rows] == [*ROWS]
    csv = pd.read_csv(ablated.run / "ablation.csv")
    markdown = (ablated.run / "ablation.md").read_text()
    for row in rows:
        line = next(line for line in ablated.output.splitlines() if line.startswith(row["what"] + " "))
        mean, std = f"{row['mean']:.3f}", f"{row['std']:.3f}"
        assert line.removeprefix(row["what"]).split()[:2] == [mean, std]
        assert f"| {row['what']} | {mean} | {std} |" in markdown
        assert (row["mean"], row["std"]) == (pytest.approx(np.mean(row["folds"])), pytest.approx(np.std(row["folds"])))
        own = csv[csv["row"] == row["row"]].iloc[0]
        assert own["value"] == pytest.approx(row["value"])
        assert own["full_minus_it"] == pytest.approx(row["difference"]["value"])
        assert row["difference"]["value"] == pytest.approx(rows[0]["value"] - row["value"])
    assert rows[0]["difference"]["interval"] == [0, 0]
    assert all(r["difference"]["interval"][0] < r["difference"]["interval"][1] for r in rows[1:])
    assert "at most 2 epochs" in markdown  # a table must tell how it was made
    assert "Note: made-up data" in markdown
    assert not list(ablated.run.rglob("*.part"))


def test_a_row_is_what_cross_validation_of_its_config_gives(ablated: SimpleNamespace, problem) -> None:
    p, stored = problem("va"), json.loads((ablated.run / "config.json").read_text())
    results = {}
    for name in ("full", "no_augment", "image_text"):
        config = TrainConfig.from_dict(stored["rows"][name])
        splits = split_windows(config, p.tracks, p.windows, assign_folds(config, p.tracks))
        results[name] = cross_validate(p.task, config, p.features, p.tracks, p.windows, splits, together=True)
        row = next(r for r in ablated.table["rows"] if r["row"] == name)
        assert row["folds"] == pytest.approx(results[name].fold_frames)
        assert row["value"] == pytest.approx(evaluate_frames(p.task, results[name].frames)["value"])
        gap = compare_frames(p.task, results["full"].frames, results[name].frames)
        assert row["difference"]["interval"] == pytest.approx([gap.low, gap.high])


def test_a_killed_ablation_goes_on_to_the_same_numbers(ablated, manifest, cache, tmp_path: Path) -> None:
    command = ["ablate", manifest, "--task", "va", "--cache", cache.url, "--runs", tmp_path, *QUICK, *SOME]
    process = subprocess.Popen(
        [sys.executable, "-m", "train", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list(tmp_path.glob("*/rows/text/checkpoints/fold1.*")):  # the second row has begun
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    (run,) = tmp_path.iterdir()
    partial = json.loads((run / "ablation.json").read_text())
    assert (partial["finished"], [r["row"] for r in partial["rows"]]) == (False, ["full"])  # what was done is readable
    before = {f: f.stat().st_mtime_ns for f in run.glob("rows/full/checkpoints/*.safetensors")}
    assert len(before) == 2
    assert "rows.text: the run has" in refused(*command[:-2], "--resume", run)  # another table
    assert "train.seed: the run has 0, now 1" in refused(*command, "--seed", 1, "--resume", run)
    result = call(*command, "--resume", run)
    assert result.exit_code == 0, result.output
    assert {f: f.stat().st_mtime_ns for f in before} == before  # not trained again
    finished = json.loads((run / "ablation.json").read_text())
    assert [r["row"] for r in finished["rows"]] == ["full", "text", "concat", "no_augment"]
    whole = {r["row"]: r for r in ablated.table["rows"]}
    assert finished["rows"] == [whole[r["row"]] for r in finished["rows"]]
    assert finished["finished"]


def test_an_ablation_is_no_run_and_a_run_is_no_ablation(ablated, manifest, cache, tmp_path: Path) -> None:
    assert "no finished run" in refused("predict", "--cache", cache.url, "--runs", ablated.runs)
    assert "is an ablation, not one trained head" in refused("report", "--run", ablated.run)
    base = [manifest, "--task", "va", "--cache", cache.url, *QUICK]
    assert "rows" in refused("cv", *base, "--preset", "augmented", "--resume", ablated.run)
    made = ["--head", "cross_gru", "--preset", "augmented", "--no-baselines", "--runs", tmp_path]
    assert call("cv", *base, *made).exit_code == 0
    (run,) = tmp_path.iterdir()
    assert "rows" in refused("ablate", *base, "--resume", run)
    assert call("predict", "--cache", cache.url, "--run", run).exit_code == 0  # an augmented head scores as any other
    assert json.loads((run / "config.json").read_text())["train"]["augment"] == asdict(PRESETS["augmented"]["augment"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--row", "mean_pol"], "did you mean 'mean_pool'"),
        (["--preset", "augmentd"], "did you mean 'augmented'"),
        (["--folds", "grup"], "did you mean 'group'"),
        (["--folds", "random-windows"], "random windows leak too much to compare anything on"),
        (["--loss", "focal"], "takes the losses mse, ccc, mse_ccc, not 'focal'"),
        (["--augment", "noise=-1"], "augmentation noise must be 0 (off) or more"),
    ],
)
def test_it_refuses_before_it_makes_a_folder(
    manifest, cache, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    runs = tmp_path / "runs"
    command = ["ablate", manifest, "--task", "va", "--cache", cache.url, "--runs", runs]
    assert expected in refused(*command, *arguments)
    assert not runs.exists()
