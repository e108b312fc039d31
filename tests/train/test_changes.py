"""Labels or features that changed after the training are told, wherever a run is used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from shared.cache import FeatureCache
from train.__main__ import app
from train.runs.changes import changes_since
from train.runs.folder import open_run

QUICK = ("--hidden", "8", "--epochs", "1", "--no-baselines", "--folds", "official", "--head", "text")


def call(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def own(made: SimpleNamespace, clips: list, tmp_path: Path) -> SimpleNamespace:
    """A data set, a cache and a run that a test may change."""
    clips = clips[:8]
    manifest, url = made.write_labels(tmp_path / "data", clips), tmp_path / "c.zarr"
    made.write_cache(url, clips)
    command = ["cv", manifest, "--task", "va", "--cache", url, *QUICK]
    result = call(*command, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "runs").iterdir()
    return SimpleNamespace(manifest=manifest, url=url, run=run, command=command, clips=clips)


def test_nothing_has_changed(own: SimpleNamespace) -> None:
    assert changes_since(open_run(own.run), FeatureCache.open(str(own.url))) == []
    for words in (("report", "--run", own.run), ("evaluate", own.manifest, "--cache", own.url, "--run", own.run)):
        result = call(*words)
        assert result.exit_code == 0, result.output
        assert "train a new run" not in result.stderr


def test_a_label_file_that_changed(own: SimpleNamespace) -> None:
    file = own.manifest.parent / "va" / own.clips[0].split / f"{own.clips[0].id}.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:30], "0.1234,0.4321", *lines[31:]]) + "\n")
    told = "labels have changed since this run was trained on them; put the old files back, or train a new run"
    result = call("report", "--run", own.run)
    assert result.exit_code == 0
    assert f"note: {told}; the page shows what was trained" in result.stderr
    assert told in call("evaluate", own.manifest, "--cache", own.url, "--run", own.run).stderr
    result = call(*own.command, "--resume", own.run)
    assert result.exit_code == 2
    assert "labels_sha256: the run has" in result.stderr
    assert "Two ways out: put settings, labels and features back" in result.stderr
    file.unlink()
    assert "1 tracks that this run was trained on have no labels now" in call("report", "--run", own.run).stderr
    shutil.rmtree(own.manifest.parent / "va")
    assert "still those that this run was trained on cannot be told" in call("report", "--run", own.run).stderr


def test_a_cache_that_changed(made: SimpleNamespace, own: SimpleNamespace) -> None:
    shutil.rmtree(own.url)
    made.write_cache(own.url, [replace(c, va=-c.va) for c in own.clips])  # the same recipe, other numbers
    told = f"stream 'text' of {own.url} was extracted again since this run was trained"
    for words in (
        ("report", "--run", own.run),
        ("evaluate", own.manifest, "--cache", own.url, "--run", own.run),
        ("predict", "--cache", own.url, "--run", own.run),
    ):
        result = call(*words)
        assert result.exit_code == 0, result.output
        assert told in result.stderr
    shutil.rmtree(own.url)
    made.write_cache(own.url, own.clips[:3])
    assert f"features of this run are no longer in {own.url}" in call("report", "--run", own.run).stderr


def test_a_run_of_an_older_version_is_shown_as_it_is(own: SimpleNamespace) -> None:
    config = json.loads((own.run / "config.json").read_text())
    for key in ("stored_sha256", "root"):
        del config[key]
    (own.run / "config.json").write_text(json.dumps(config))
    result = call("report", "--run", own.run)
    assert result.exit_code == 0
    assert "note: made-up data" not in result.stderr
    assert "train a new run" not in result.stderr
