"""Out of memory: half batches, once, said once; the same numbers; a second time is an error that helps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from typer.testing import Result

from extract.config import CaptionerConfig, ClipConfig
from extract.encoders import videoprism
from extract.encoders.clip import ClipImageEncoder, ClipModel
from extract.encoders.minigpt.captioner import MiniGptCaptioner
from extract.encoders.parts import DeviceFull, InParts
from extract.encoders.text import CaptionTower
from extract.encoders.videoprism import VideoPrismEncoder
from shared.cache import FeatureCache
from tests.extract.support import write_video

TOLERANCE = 1e-5
TORCH_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
JAX_FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2147483648 bytes.")


def full_above(work: Callable[..., Any], most: int, error: Exception, rows: Callable[..., int]) -> Callable[..., Any]:
    """``work`` on a device that has room for ``most`` rows."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        if rows(*args, **kwargs) > most:
            raise error
        return work(*args, **kwargs)

    return limited


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "extract.encoders.parts")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "extract.encoders.parts"]


# ------------------------------------------------------------------ the rule


@pytest.mark.parametrize("error", [TORCH_FULL, JAX_FULL])
@pytest.mark.parametrize("num_rows", [8, 7, 2])
def test_halves_once_and_stays_with_it(error: Exception, num_rows: int, said: Callable[[], list[str]]) -> None:
    parts, sizes = InParts("stream x, rows"), []  # type: InParts, list[int]

    def compute(rows: np.ndarray, count: int) -> np.ndarray:
        sizes.append(len(rows))
        if len(rows) > (num_rows + 1) // 2:
            raise error
        return rows[:count]

    half = (num_rows + 1) // 2
    for _ in range(2):
        assert np.concatenate(parts.run(num_rows, compute)).tolist() == list(range(num_rows))
    assert sizes == [num_rows, half, half, half, half]
    assert len(said()) == 1
    assert f"stream x, rows: the device is out of memory with {num_rows} at once; going on with {half}" in said()[0]


def test_a_second_time_is_an_error_that_says_what_to_do() -> None:
    parts = InParts("stream x, rows")

    def never(rows: np.ndarray, count: int) -> None:
        raise TORCH_FULL

    with pytest.raises(DeviceFull, match=r"with 4 at once after halving.*--streams.*--gpu-memory.*Tried to allocate 2"):
        parts.run(8, never)
    with pytest.raises(DeviceFull, match="with 1 at once"):
        InParts("stream x, rows").run(1, never)


def test_other_errors_pass() -> None:
    parts = InParts("stream x, rows")

    def broken(rows: np.ndarray, count: int) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        parts.run(8, broken)
    assert not parts.halved


def test_nothing_of_the_failed_call_is_held_when_the_next_one_runs() -> None:
    """The error's traceback holds the frames of the failed call, and they hold its tensors."""
    import weakref

    held: list[Any] = []

    def compute(rows: np.ndarray, count: int) -> int:
        if len(rows) == 4:
            activation = np.zeros(10)
            held.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return int(held[0]() is None)

    assert InParts("stream x, rows").run(4, compute) == [1, 1]


# ------------------------------------------------------------------ the encoders


def windows_of(encoder: VideoPrismEncoder) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (21, 72, 72, 3), dtype=np.uint8)
    for start in range(0, 21, 7):
        encoder.encode_frames(frames[start : start + 7], np.arange(start, start + 7, dtype=np.int32))
    slots = (np.arange(16) + np.arange(5)[:, None]).astype(np.int32)
    return encoder.encode_windows(slots)


@pytest.mark.parametrize(
    ("step", "rows", "most", "words"),
    [
        ("_encode_frames", lambda params, frames, **_: len(frames), 4, "stream video, frames"),
        ("_pool_windows", lambda pool, params, slots, **_: len(slots), 3, "stream video, windows"),
    ],
)
def test_videoprism(
    step: str, rows: Any, most: int, words: str, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    def encoder() -> VideoPrismEncoder:
        return VideoPrismEncoder("tiny", seed=0, dtype="float32", frame_batch=7, window_batch=5, num_slots=100)

    expected = windows_of(encoder())
    monkeypatch.setattr(videoprism, step, full_above(getattr(videoprism, step), most, JAX_FULL, rows))
    found = windows_of(encoder())
    assert np.abs(found - expected).max() < TOLERANCE
    assert len(said()) == 1
    assert words in said()[0]
    monkeypatch.setattr(videoprism, step, full_above(getattr(videoprism, step), 0, JAX_FULL, rows))
    with pytest.raises(DeviceFull, match="after halving"):
        windows_of(encoder())


def test_the_pool_survives_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is donated to the step that stores tokens, so that step must not begin before they are there."""
    encoder = VideoPrismEncoder("tiny", seed=0, dtype="float32", frame_batch=4, window_batch=1, num_slots=100)
    frames = np.random.default_rng(0).integers(0, 256, (4, 72, 72, 3), dtype=np.uint8)
    encoder.encode_frames(frames, np.arange(4, dtype=np.int32))
    slots = np.zeros((1, 16), np.int32)
    before = encoder.encode_windows(slots)
    monkeypatch.setattr(
        videoprism, "_encode_frames", full_above(videoprism._encode_frames, 0, JAX_FULL, lambda p, f, **_: len(f))
    )
    with pytest.raises(DeviceFull):
        encoder.encode_frames(frames, np.arange(4, 8, dtype=np.int32))
    np.testing.assert_array_equal(encoder.encode_windows(slots), before)


def test_clip(monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 1, 64, 64, 3), dtype=np.uint8)
    captions = [f"a picture of {n} things" for n in range(5)]

    def both() -> tuple[np.ndarray, np.ndarray]:
        clip = ClipModel(ClipConfig("tiny", weights=None, seed=0, dtype="float32", batch_size=5))
        for method in ("encode_image", "encode_text"):
            work = getattr(clip.model, method)
            if most:
                monkeypatch.setattr(clip.model, method, full_above(work, most, TORCH_FULL, len))
        return ClipImageEncoder(clip).encode(pictures).features, CaptionTower(clip).encode(captions)

    most = 0
    expected = both()
    most = 3
    for found, wanted in zip(both(), expected, strict=True):
        assert np.abs(found - wanted).max() < TOLERANCE
    assert [words.partition(":")[0] for words in said()] == ["stream image, pictures", "stream text, captions in CLIP"]


def test_minigpt_goes_on_with_half_the_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    captioner = MiniGptCaptioner(CaptionerConfig("minigpt4-tiny", max_new_tokens=12, batch_size=6))
    pictures = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)
    items = np.stack([captioner.prepare(p) for p in pictures])[:, None]
    expected = captioner.caption(items)
    generator: Any = captioner.generator
    rows = lambda *args: generator.num_slots  # noqa: E731
    monkeypatch.setattr(generator, "_step", full_above(generator._step, 3, TORCH_FULL, rows))
    assert captioner.caption(items) == expected
    assert generator.num_slots == 3
    assert captioner.caption(items[:4]) == expected[:4]
    assert len(said()) == 1
    assert "stream text, captions: the device is out of memory with 6 at once; going on with 3" in said()[0]


# ------------------------------------------------------------------ a whole run


def test_a_run_on_a_device_that_is_too_small(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, frames in enumerate((70, 130)):
        write_video(folder / f"{number}.mp4", frames, seed=number)
    assert cli("run", folder, "--preset", "tiny", "--cache", "whole.zarr").exit_code == 0
    small = full_above(videoprism._encode_frames, 16, JAX_FULL, lambda params, frames, **_: len(frames))
    monkeypatch.setattr(videoprism, "_encode_frames", small)
    result = cli("run", folder, "--preset", "tiny", "--cache", "halves.zarr")
    assert result.exit_code == 0, result.output
    assert len(said()) == 1
    whole, halves = FeatureCache.open("whole.zarr"), FeatureCache.open("halves.zarr")
    for video in whole.video_ids():
        assert halves.streams(video) == whole.streams(video)  # recipes
        for stream in ("video", "image", "text"):
            pair = [cache.read(video, stream).features.astype(np.float32) for cache in (halves, whole)]
            assert np.abs(pair[0] - pair[1]).max() < 4e-3  # float16

    monkeypatch.setattr(videoprism, "_encode_frames", full_above(small, 0, JAX_FULL, lambda p, f, **_: len(f)))
    result = cli("run", folder, "--preset", "tiny", "--cache", "none.zarr")
    assert result.exit_code == 2
    assert "stream video, frames: the device is out of memory with 16 at once after halving" in result.output
    assert "--gpu-memory" in result.output
    assert FeatureCache.open("none.zarr").group_ids() == []
