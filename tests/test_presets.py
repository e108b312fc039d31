"""From the miniature to published weights: another preset, and nothing else changes.

The published weights are no part of the tests; a stand-in of other sizes and other weights takes their place under the
name "base".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import extract.config
from extract.__main__ import app as extract_app
from extract.config import ClipConfig, VideoPrismConfig, find_preset
from shared.cache import FeatureCache
from tests.extract.support import write_video
from train.__main__ import app as train_app

STREAMS = ("video", "image", "text")
Command = Callable[..., Result]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of six labelled clips, each a group of its own."""
    monkeypatch.chdir(tmp_path)
    rows = ["path,label,group"]
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", 64, seed=number)
        rows.append(f"{number}.mp4,{number % 2},group{number}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "clips.csv"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preset "base" with toy encoders of other weights than any preset has."""
    stand_in = replace(
        find_preset("tiny"),
        name="base",
        video=VideoPrismConfig("tiny", seed=7, frame_batch=32, window_batch=8),
        clip=ClipConfig("tiny", weights=None, seed=7),
        thumbnails=False,
    )
    monkeypatch.setattr(extract.config, "PRESETS", MappingProxyType({**extract.config.PRESETS, "base": stand_in}))


def of(app: Any) -> Command:
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def recipes(cache: str) -> dict[str, dict[str, Any]]:
    store = FeatureCache.open(cache)
    return {stream: dict(recipe) for stream, recipe in store.streams(store.video_ids()[0]).items()}


def test_published_weights_are_one_option_away(clips: Path, base: None) -> None:
    extract, train = of(extract_app), of(train_app)
    run = ("run", clips, "--cache", "clips.zarr")
    cv = ("cv", clips, "--cache", "clips.zarr", "--task", "violence", "--num-folds", 2, "--epochs", 1, "--no-baselines")
    before = clips.read_bytes()

    first = extract(*run, "--preset", "mini")
    assert first.exit_code == 0, first.output
    assert "miniature encoders, trained on rendered data only: these videos are out of its world" in words(first)
    assert "seconds per window" not in words(first)
    miniature = recipes("clips.zarr")
    assert all(recipe["weights"].startswith("crossgru miniature") for recipe in miniature.values())
    trained = train(*cv)
    assert trained.exit_code == 0, trained.output
    assert "miniature encoders, rendered data" in words(trained)

    refused = extract(*run, "--preset", "base")
    assert refused.exit_code == 2
    assert "was made with preset mini, asked for base" in words(refused)
    assert recipes("clips.zarr") == miniature

    again = extract(*run, "--preset", "base", "--overwrite", "all")
    assert again.exit_code == 0, again.output
    assert "0 already complete, 6 to do; preset base" in words(again)
    assert "miniature" not in words(again)
    other = recipes("clips.zarr")
    assert all(other[stream] != miniature[stream] for stream in STREAMS)
    assert clips.read_bytes() == before
    trained = train(*cv)
    assert trained.exit_code == 0, trained.output
    assert "miniature" not in words(trained)
    assert extract(*run, "--preset", "base").exit_code == 0  # nothing left to do


def words(result: Result) -> str:
    """Output and messages, however they were wrapped."""
    return " ".join((result.output + result.stderr).split())
