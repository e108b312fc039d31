"""A run folder that somebody else made: whatever is in it, nothing is run and a command ends with one message."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from shared.cache import FeatureCache
from train.__main__ import app


class Evil:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def trained(manifest: Path, cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    runs = tmp_path_factory.mktemp("runs")
    words = ["cv", manifest, "--task", "va", "--cache", cache.url, "--folds", "official", "--epochs", 1, "--hidden", 8]
    result = CliRunner().invoke(app, [str(w) for w in (*words, "--no-baselines", "--runs", runs)])
    assert result.exit_code == 0, result.output
    (run,) = runs.iterdir()
    return SimpleNamespace(run=run, words=words)


def refusals(trained: SimpleNamespace, run: Path, cache: FeatureCache, manifest: Path) -> dict[str, str]:
    """What every command that reads a run says of it; none may end in a traceback."""
    commands = {
        "report": ["report", "--run", run],
        "predict": ["predict", "--cache", cache.url, "--run", run],
        "evaluate": ["evaluate", manifest, "--cache", cache.url, "--run", run],
        "resume": [*trained.words, "--no-baselines", "--resume", run],
    }
    said = {}
    for name, words in commands.items():
        result = CliRunner().invoke(app, [str(w) for w in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), (name, result.exception)
        assert result.exit_code in (0, 2), name
        said[name] = result.stderr if result.exit_code else ""
    return said


def changed(key: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda config: config | {key: value}


@pytest.mark.parametrize(
    "change",
    [
        changed("task", ["va"]),
        changed("task", "x"),
        changed("train", "x"),
        changed("train", {"max_epochs": "many"}),
        changed("train", {"head": {"a": 1}}),
        changed("train", {"head_options": {"hidden": 10**30}}),
        changed("train", {"head_options": "x"}),
        changed("dims", {"video": 10**12, "image": 8, "text": 8}),
        changed("dims", {"video": "8", "image": None, "text": -1}),
        changed("recipes", {}),
        changed("window", {"size": "x"}),
        changed("sources", {"a": ["b"]}),
        changed("videos", [{"a": 1}]),
        changed("folds", {"a": {"b": 1}}),
        changed("format_version", {"a": 1}),
    ],
)
def test_a_config_of_another_form(trained, cache, manifest, tmp_path: Path, change) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    config = change(json.loads((run / "config.json").read_text()))
    (run / "config.json").write_text(json.dumps(config))
    assert any(refusals(trained, run, cache, manifest).values())


@pytest.mark.parametrize(
    "metrics",
    ["{}", "[]", '{"value": NaN}', "[" * 50_000, '{"postprocessed": 3}', '{"postprocessed": {"combined": [1]}}'],
)
def test_metrics_of_another_form(trained, cache, manifest, tmp_path: Path, metrics: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    (run / "metrics.json").write_text(metrics)
    said = refusals(trained, run, cache, manifest)
    assert str(run) in said["report"]
    assert not said["resume"]  # the scores are computed again


@pytest.mark.parametrize("key", ["value", "differences", "notes"])
def test_scores_that_are_none(trained, tmp_path: Path, key: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    whole = json.loads((run / "metrics.json").read_text())
    for metrics in ({k: v for k, v in whole.items() if k != key}, whole | {key: {"a": [None]}}):
        (run / "metrics.json").write_text(json.dumps(metrics))
        result = CliRunner().invoke(app, ["report", "--run", str(run)])
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert result.exit_code == 2 or key == "notes"


def test_predictions_of_another_form(trained, cache, manifest, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    file = run / "predictions.parquet"
    for write in (
        lambda: file.write_bytes(b"PAR1" + bytes(100)),
        lambda: pd.DataFrame({"x": [1]}).to_parquet(file),
        lambda: pd.read_parquet(trained.run / file.name).astype(str).to_parquet(file),
    ):
        write()
        assert str(run) in refusals(trained, run, cache, manifest)["report"]
        shutil.copy(trained.run / "metrics.json", run)
        shutil.copy(trained.run / file.name, file)


@pytest.mark.parametrize("place", ["fold1.safetensors", "fold1.json", "fold1.state.pt"])
def test_pickles_anywhere_are_not_loaded(trained, cache, manifest, tmp_path: Path, place: str) -> None:
    run, mark = tmp_path / "run", tmp_path / "pwned"
    shutil.copytree(trained.run, run)
    file = run / "checkpoints" / place
    if place.endswith(".pt"):
        (run / "checkpoints" / "fold1.json").unlink()
        torch.save({"model": Evil(mark)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(mark)))
    said = refusals(trained, run, cache, manifest)
    assert not mark.exists()
    if place.endswith(".pt"):
        assert "fold1.state.pt is not the state of a fold of this run" in said["resume"]
    else:
        assert "damaged" in said["predict"]


def test_links_in_the_place_of_part_files_are_not_followed(trained, tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "bashrc"
    shutil.copytree(trained.run, run)
    precious.write_text("mine")
    for name in ("report.html.part", "report.html"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(precious)
    assert CliRunner().invoke(app, ["report", "--run", str(run)]).exit_code == 0
    assert precious.read_text() == "mine"
    assert not (run / "report.html").is_symlink()
    assert (run / "report.html").read_text().startswith("<!")


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "baselines"])
def test_a_folder_that_is_a_link_is_not_written_to(trained, tmp_path: Path, name: str) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(trained.run, run)
    (run / name).rename(other) if (run / name).exists() else other.mkdir()
    (run / name).symlink_to(other)
    (other / "mine.part").touch()
    before = sorted(p.relative_to(other) for p in other.rglob("*"))
    (run / "metrics.json").unlink()
    result = CliRunner().invoke(app, [str(w) for w in (*trained.words, "--no-baselines", "--resume", run)])
    assert result.exit_code == 2
    assert f"{run / name} is a link to another folder" in result.stderr
    assert sorted(p.relative_to(other) for p in other.rglob("*")) == before
