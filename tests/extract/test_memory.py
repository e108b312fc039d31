"""The memory model: VideoPrism's share against XLA's own plan, and the arithmetic from one number to batch sizes."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from typer.testing import Result

from extract.config import CaptionerConfig, ExtractConfig, find_preset, pool_slots
from extract.costs.memory import (
    GIB,
    LARGEST,
    batch_sizes,
    clip_need,
    fit,
    least_sizes,
    num_parameters,
    spatial_bytes,
    temporal_bytes,
    total_bytes,
    video_need,
)
from extract.encoders.clip import ClipModel
from extract.encoders.clip_sizes import clip_dim, clip_sizes
from extract.encoders.videoprism import Architecture, _encode_frames, _pool_windows, expected_shapes
from extract.encoders.videoprism_checkpoint import ARCHITECTURES
from shared.cache import FeatureCache
from tests.extract.support import cache_contents, write_video

STREAMS = ("video", "image", "text")
BASE = find_preset("base")
SMALL = Architecture(width=128, heads=4, mlp=256, spatial_layers=2, temporal_layers=2, num_frames=16, grid=8)
MOST = 1.5  # what the model may count too much, as a factor


# ------------------------------------------------------------------ against the compiler


def planned_bytes(arch: Architecture, stage: str, rows: int) -> int:
    """Temporary and output bytes of one call, as XLA plans them on a CPU in float32."""
    params = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in expected_shapes(arch).items()}
    if stage == "spatial":
        frames = jax.ShapeDtypeStruct((rows, arch.image_size, arch.image_size, 3), jnp.uint8)
        lowered = _encode_frames.lower(params, frames, arch=arch, attention="xla")
    else:
        pool = jax.ShapeDtypeStruct((100, arch.grid**2, arch.width), jnp.float32)
        slots = jax.ShapeDtypeStruct((rows, 16), jnp.int32)
        lowered = _pool_windows.lower(pool, params, slots, arch=arch, attention="xla")
    plan = lowered.compile().memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes


@pytest.mark.parametrize("arch", [ARCHITECTURES["tiny"], SMALL], ids=["tiny", "small"])
@pytest.mark.parametrize("rows", [1, 2, 4, 16])
def test_the_model_covers_what_the_compiler_plans(arch: Architecture, rows: int) -> None:
    spatial, temporal = planned_bytes(arch, "spatial", rows), planned_bytes(arch, "temporal", rows)
    assert spatial <= spatial_bytes(arch, rows, 4) <= MOST * spatial
    assert temporal <= temporal_bytes(arch, rows, 16, 4) <= MOST * temporal


@pytest.mark.skipif(not os.environ.get("CROSSGRU_FULL"), reason="compiles the base size; set CROSSGRU_FULL=1")
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_at_base_size(rows: int) -> None:
    arch = ARCHITECTURES["base"]
    for stage, model in (("spatial", spatial_bytes(arch, rows, 4)), ("temporal", temporal_bytes(arch, rows, 16, 4))):
        planned = planned_bytes(arch, stage, rows)
        print(f"{stage}, {rows} rows: XLA {planned / 1e6:.1f} MB, model {model / 1e6:.1f} MB, {model / planned:.2f}")
        assert planned <= model <= MOST * planned


@pytest.mark.parametrize("name", ["tiny", "base", "large"])
def test_parameters_are_counted(name: str) -> None:
    shapes = expected_shapes(ARCHITECTURES[name])
    total = sum(int(jnp.prod(jnp.array(shape))) for shape in shapes.values())
    assert num_parameters(ARCHITECTURES[name]) == total


def test_clip_is_counted() -> None:
    model = ClipModel(find_preset("tiny").clip)
    sizes = clip_sizes("tiny")
    assert sizes is not None
    counted = sum(p.numel() for p in model.model.parameters())
    assert abs(sizes.num_parameters - counted) < 0.01 * counted
    assert (sizes.image_tokens, clip_dim("tiny"), model.dim) == (17, 64, 64)
    large = clip_sizes("ViT-L-14-quickgelu")
    assert large is not None
    assert abs(large.num_parameters - 427.6e6) < 0.01 * 427.6e6  # as published
    assert clip_sizes("RN50") is None  # no transformer: an allowance stands in
    rn50 = replace(BASE, clip=replace(BASE.clip, model="RN50"))
    assert clip_need(rn50, ["image"], gpu=True).total > 0


# ------------------------------------------------------------------ from one number to sizes


def sizes(config: ExtractConfig) -> list[int]:
    video, clip = config.video, config.clip
    return [video.frame_batch, video.window_batch, clip.batch_size, config.captioner.batch_size]


def fitted(gib: float, config: ExtractConfig = BASE, streams: tuple[str, ...] = STREAMS) -> ExtractConfig | None:
    return fit(config, streams, gib * GIB, gpu=True)


def test_more_memory_never_gives_smaller_batches_and_is_never_exceeded() -> None:
    before = [0, 0, 0, 0]
    seen = set()
    for gib in (16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 80, 141):
        config = fitted(gib)
        if config is None:
            assert before == [0, 0, 0, 0]
            continue
        assert total_bytes(config, STREAMS, gpu=True) <= gib * GIB
        now = sizes(config)
        assert all(a <= b for a, b in zip(before, now, strict=True))
        assert all(n <= most for n, most in zip(now, LARGEST.values(), strict=True))
        before = now
        seen.add(tuple(now))
    assert len(seen) >= 4
    assert before == list(LARGEST.values())


def test_one_row_each_is_the_least() -> None:
    least = least_sizes(BASE, STREAMS)
    assert sizes(least) == [1, 1, 1, 1]
    need = total_bytes(least, STREAMS, gpu=True)
    found = fit(BASE, STREAMS, need, gpu=True)
    assert found is not None
    assert total_bytes(found, STREAMS, gpu=True) == need  # what is larger than one row takes nothing more
    assert fit(BASE, STREAMS, need - 1, gpu=True) is None


def test_streams_that_are_not_asked_for_cost_nothing() -> None:
    assert fitted(2, streams=("video",)) is not None
    assert fitted(2, streams=("image", "text")) is None
    only = fitted(4, streams=("video",))
    assert only is not None
    assert only.clip == BASE.clip
    assert only.captioner == BASE.captioner


def test_the_pool_is_counted() -> None:
    """Frames between two windows have to stay: slots x patch tokens x width, in the type of the activations."""
    wider = replace(BASE, window=replace(BASE.window, size=1064))
    slots = pool_slots(wider) - pool_slots(BASE)
    assert slots == 1000
    assert video_need(wider, gpu=True).kept - video_need(BASE, gpu=True).kept == slots * 256 * 768 * 2
    assert pool_slots(BASE) == 16 + 4 * 16 + 64


def test_what_the_user_gives_stays_and_what_has_no_model_is_left_alone() -> None:
    given = fit(BASE, STREAMS, 80 * GIB, gpu=True, caption_batch=5)
    assert given is not None
    assert given.captioner.batch_size == 5
    offline = fitted(80, replace(BASE, captioner=CaptionerConfig("offline")))
    assert offline is not None
    assert offline.captioner.batch_size == 32
    assert batch_sizes(0).caption_batch == 64


# ------------------------------------------------------------------ the command line


def test_batch_sizes_change_nothing_in_the_cache(cli: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "a.mp4", 100)
    assert cli("run", folder, "--preset", "tiny", "--cache", "a.zarr").exit_code == 0
    assert cli("run", folder, "--preset", "tiny", "--cache", "b.zarr", "--gpu-memory", "0.03").exit_code == 0
    made, small = FeatureCache.open("a.zarr"), FeatureCache.open("b.zarr")
    assert small.streams("a.mp4") == made.streams("a.mp4")
    assert cache_contents(Path("b.zarr")).keys() == cache_contents(Path("a.zarr")).keys()
    again = cli("run", folder, "--preset", "tiny", "--cache", "a.zarr", "--gpu-memory", "1")
    assert "1 already complete, 0 to do" in again.output


def test_too_small_a_number_says_what_the_least_is(cli: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "a.mp4", 20)
    result = cli("run", folder, "--preset", "tiny", "--gpu-memory", "0.001")
    assert result.exit_code == 2
    assert "--gpu-memory 0.001: 0.001 GiB are too little" in result.output
    assert "the least is, in GiB, video 0.00" in result.output
    assert "together 0.0" in result.output
    assert "--streams" in result.output
