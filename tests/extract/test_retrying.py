"""What a run does again: videos that failed, as often as it makes sense; videos of another decoder, when asked to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from extract.faults import retrying
from extract.faults.ledger import FailureLedger
from shared.cache import FeatureCache, RecipeMismatch
from tests.extract.support import (
    FakeVideo,
    assert_cached,
    fake_encoders,
    install_fake_videos,
    run_fake,
    write_video,
)

VIDEOS = [FakeVideo(number, 20) for number in range(3)]
NAN = {"image": {"spoil": {(1, frame): float("nan") for frame in range(20)}}}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_fake_videos(monkeypatch, VIDEOS)
    return tmp_path / "fake.zarr"


def attempts(url: Path) -> dict[str, int]:
    return {name: failure.attempts for name, failure in FailureLedger(str(url)).failures().items()}


def test_a_failure_that_may_be_the_machines_is_tried_twice_and_then_only_when_asked(url: Path) -> None:
    for run, expected in enumerate((1, 2, 2, 2), start=1):
        encoders = fake_encoders(**NAN)
        summary = run_fake(VIDEOS, url, encoders)
        assert (list(summary.failed), attempts(url)) == (["v001"], {"v001": expected}), run
        assert bool(encoders["image"].batches) == (run <= 2)
        assert summary.failed["v001"].quarantined == (run > 1)
    run_fake(VIDEOS, url, fake_encoders(**NAN), retry_failed=True)
    assert attempts(url) == {"v001": 3}
    assert run_fake(VIDEOS, url, fake_encoders()).done == []  # nobody asked
    assert run_fake(VIDEOS, url, fake_encoders(), retry_failed=True).done == ["v001"]
    assert attempts(url) == {}
    assert_cached(url, VIDEOS[1])


def test_a_second_try_that_works(url: Path) -> None:
    run_fake(VIDEOS, url, fake_encoders(**NAN))
    summary = run_fake(VIDEOS, url, fake_encoders())
    assert (summary.done, summary.failed, attempts(url)) == (["v001"], {}, {})


def test_the_count_begins_anew_with_another_file(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = {"bytes": 1, "mtime_ns": 1}
    monkeypatch.setattr(retrying, "source_stamp", lambda file: dict(stamp))
    for _ in range(2):
        run_fake(VIDEOS, url, fake_encoders(**NAN))
    assert attempts(url) == {"v001": 2}
    stamp["mtime_ns"] = 2
    run_fake(VIDEOS, url, fake_encoders(**NAN))
    assert attempts(url) == {"v001": 1}


def test_a_file_that_is_no_video_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, url = [FakeVideo(0, 20), FakeVideo(1, 20, broken_at=3)], tmp_path / "fake.zarr"
    install_fake_videos(monkeypatch, videos)
    run_fake(videos, url, fake_encoders())
    encoders = fake_encoders()
    run_fake(videos, url, encoders)
    assert (encoders["image"].batches, attempts(url)) == ([], {"v001": 1})


# ------------------------------------------------------------------------------------------------ another decoder


@pytest.fixture
def clips(cli: Callable[..., Result]) -> Path:
    folder = Path("clips")
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", 20, seed=number)
    return folder


def other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the decoder is installed from now on."""
    monkeypatch.setattr(retrying, "version", lambda package: "99.0.0")


def test_another_decoder_is_refused_with_the_difference(
    cli: Callable[..., Result], clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", "clips", "--preset", "tiny", "--streams")
    assert cli(*words, "image").exit_code == 0
    was = FeatureCache.open("caches/clips.zarr").decoder("0.mp4").split(" ")[1]
    other_version(monkeypatch)
    for streams in ("image", "text", "image,text"):  # nothing to do, and a stream to add
        result = cli(*words, streams)
        assert result.exit_code == 2, result.output
        assert f'decoder: cache has "pyav {was}", asked for "pyav 99.0.0"' in result.output
        assert "--cache NEW.zarr" in result.output
        assert "--overwrite all" in result.output
        assert f"pip install av=={was}" in result.output
    assert cli(*words, "image", "--cache", "new.zarr").exit_code == 0
    again = cli(*words, "image", "--overwrite", "all")
    assert (again.exit_code, "3 to do" in again.output) == (0, True), again.output


def test_a_stream_is_not_added_to_one_video_of_another_decoder(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = {video.name: "pyav 1.0 h264" for video in VIDEOS}
    monkeypatch.setattr(FeatureCache, "decoder", lambda self, video: decoders[video])
    monkeypatch.setattr(retrying, "version", lambda package: "1.0")
    monkeypatch.setattr(retrying, "LOOKED_AT", 1)  # the first of them only
    run_fake(VIDEOS, url, {"image": fake_encoders()["image"]})
    decoders["v002"] = "pyav 0.9 h264"
    assert len(run_fake(VIDEOS, url, {"image": fake_encoders()["image"]}).skipped) == 3
    with pytest.raises(RecipeMismatch, match=r'pyav 0\.9", asked for "pyav 1\.0"'):
        run_fake(VIDEOS, url, fake_encoders())


def test_few_complete_videos_of_another_decoder_are_found(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in the manifest they are: a run that was cut short has not filled it evenly."""
    run_fake(VIDEOS[2:], url, fake_encoders())
    monkeypatch.setattr(FeatureCache, "decoder", lambda self, video: "pyav 0.9 h264" if video == "v002" else "")
    monkeypatch.setattr(retrying, "version", lambda package: "1.0")
    monkeypatch.setattr(retrying, "LOOKED_AT", 1)
    with pytest.raises(RecipeMismatch, match=r'pyav 0\.9", asked for "pyav 1\.0"'):
        run_fake(VIDEOS, url, fake_encoders())


def test_decoders_that_this_project_does_not_know_are_not_compared(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_fake(VIDEOS, url, fake_encoders())
    other_version(monkeypatch)
    seen: Any = FeatureCache.open(url).decoder("v000")
    assert seen == "fake"
    assert len(run_fake(VIDEOS, url, fake_encoders()).skipped) == 3


# ------------------------------------------------------------------------------------------------ other settings


def test_other_weights_and_another_preprocessing_are_refused_with_the_difference(
    cli: Callable[..., Result], clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preset, the window and the model are in test_commands.py, the decoder is above."""
    from extract import config
    from extract.encoders.clip import ClipImageEncoder

    words = ("run", "clips", "--preset", "tiny", "--streams", "image")
    assert cli(*words).exit_code == 0

    def refused(difference: str) -> None:
        result = cli(*words)
        assert result.exit_code == 2, result.output
        assert difference in result.output
        assert "--cache NEW.zarr" in result.output
        assert "--overwrite image" in result.output

    tiny = config.PRESETS["tiny"]
    with monkeypatch.context() as patch:
        patch.setattr(config, "PRESETS", {"tiny": replace(tiny, clip=replace(tiny.clip, seed=1))})
        refused('weights: cache has "random, seed 0", asked for "random, seed 1"')
    recipe = ClipImageEncoder.recipe
    with monkeypatch.context() as patch:
        patch.setattr(ClipImageEncoder, "recipe", lambda self: {**recipe(self), "preprocess": ["Resize(300)"]})
        refused('asked for ["Resize(300)"]')
    assert "0 to do" in cli(*words).output
