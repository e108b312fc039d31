"""Rates and model-FLOPs utilisation on a GPU; a section of extract_reuse.py.

Utilisation is the encoders' own floating-point operations per second over what the device reaches in a plain bfloat16
matrix product, measured here, not over the figure on its data sheet. Recomputation and padding do not count as work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from sections.flops import image_tower_gigaflops, stage_gigaflops

from extract.config import ClipConfig
from extract.decode.sampling import Item, Window
from extract.encoders.clip import ClipImageEncoder, load_clip
from extract.encoders.videoprism import (
    ARCHITECTURES,
    Architecture,
    VideoPrismEncoder,
    cast_params,
    init_params,
    spatial,
)
from extract.encoders.videoprism_attention import ATTENTIONS
from extract.flow.packing import WindowPacker
from shared.windows import WindowSpec


@dataclass(frozen=True)
class Sizes:
    """What is measured; TOY runs the same code anywhere."""

    architecture: str = "base"
    frame_batches: tuple[int, ...] = (16, 32, 64, 128)
    clip_model: str = "ViT-L-14"
    clip_batches: tuple[int, ...] = (32, 64, 128, 256)
    matmul_side: int = 8192
    num_windows: int = 120
    repeats: int = 10


TOY = Sizes("tiny", (4, 8), "tiny", (2, 4), 128, 5, 2)


def measure(*, quick: bool = False) -> dict[str, float]:
    """Print and return the figures; without a GPU only say so, unless ``quick`` asks for toy sizes."""
    on_jax, on_torch = jax.default_backend() == "gpu", torch.cuda.is_available()
    if not quick and not (on_jax or on_torch):
        print("GPU section: not run, neither JAX nor torch sees a GPU")
        return {}
    sizes = TOY if quick else Sizes()
    if quick and not (on_jax and on_torch):
        print("GPU section at toy sizes on a CPU: the figures mean nothing")
    elif not quick and on_jax != on_torch:
        print(f"GPU section: only {'JAX' if on_jax else 'torch'} sees the GPU, the other encoder is left out")
    figures: dict[str, float] = {}
    if on_jax or quick:
        peak = jax_matmul_tflops(sizes)
        print(f"{jax.devices()[0].device_kind}: {peak:.1f} TFLOP/s in a bfloat16 matrix product (JAX)")
        figures |= {"gpu_bf16_matmul_tflops": peak}
        figures |= dict(spatial_stage(sizes, peak))
        figures |= dict(whole_path(sizes, peak))
    if on_torch or quick:
        peak = torch_matmul_tflops(sizes)
        figures |= {"gpu_fp16_matmul_tflops_torch": peak}
        print(f"{peak:.1f} TFLOP/s in a float16 matrix product (torch)")
        figures |= dict(clip_image(sizes, peak))
    return figures


# --- what the device can do -------------------------------------------------------------------------------------------


def jax_matmul_tflops(sizes: Sizes) -> float:
    """Rate of a square bfloat16 product."""
    side = sizes.matmul_side
    a = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    return 2e-12 * side**3 / seconds_per_call(lambda: product(a, a), jax.block_until_ready, sizes.repeats)


def torch_matmul_tflops(sizes: Sizes) -> float:
    """Rate of a square product in the dtype that CLIP runs in on a GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones((sizes.matmul_side, sizes.matmul_side), dtype=torch.float16, device=device)
    return 2e-12 * sizes.matmul_side**3 / seconds_per_call(lambda: a @ a, _wait_for_torch, sizes.repeats)


def seconds_per_call(call: Callable[[], Any], wait: Callable[[Any], Any], repeats: int) -> float:
    """Least mean of three rounds of ``repeats`` calls in flight at once, after a warm-up that compiles."""
    wait(call())
    rounds = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(repeats):
            result = call()
        wait(result)
        rounds.append((time.perf_counter() - started) / repeats)
    return min(rounds)


def _wait_for_torch(_: Any) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- VideoPrism -------------------------------------------------------------------------------------------------------


def spatial_stage(sizes: Sizes, peak: float) -> Iterator[tuple[str, float]]:
    """Frames/s with the frames already on the device, for every attention and batch."""
    arch = ARCHITECTURES[sizes.architecture]
    params = cast_params(init_params(arch, 0), "bfloat16")
    work = stage_gigaflops(arch)[0] / 1e3  # TFLOP per frame
    stage = jax.jit(spatial, static_argnames=("arch", "attention"))
    print("VideoPrism spatial stage, bfloat16")
    for attention in ATTENTIONS:
        for batch in sizes.frame_batches:
            frames = jnp.ones((batch, arch.image_size, arch.image_size, 3), jnp.float32)

            def call(frames: jax.Array = frames, attention: str = attention) -> jax.Array:
                return stage(params, frames, arch=arch, attention=attention)

            rate = batch / seconds_per_call(call, jax.block_until_ready, sizes.repeats)
            print(f"  {attention:<8}{batch:>5} frames{rate:>10.0f} frames/s{rate * work / peak:>7.1%} of the product")
            yield f"gpu_spatial_{attention}_batch{batch}_frames_per_s", rate
            yield f"gpu_spatial_{attention}_batch{batch}_utilisation", rate * work / peak


def whole_path(sizes: Sizes, peak: float) -> Iterator[tuple[str, float]]:
    """Windows/s at stride 16 from frames in the host's memory to features there, through the packer."""
    print("VideoPrism whole path, stride 16, bfloat16")
    plan = WindowSpec().plan(64 + 16 * (sizes.num_windows - 1))
    for attention in ATTENTIONS:
        for batch in sizes.frame_batches:
            num_slots = batch + max(1, batch // 4) * 16 + 64
            encoder = VideoPrismEncoder(
                sizes.architecture,
                seed=0,
                dtype="bfloat16",
                frame_batch=batch,
                window_batch=max(1, batch // 4),  # at stride 16 a window brings 4 new frames
                num_slots=num_slots,
                attention=attention,
            )
            send_windows(encoder, WindowSpec().plan(64))  # compiles both stages
            seconds = min(send_windows(encoder, plan) for _ in range(2))
            rate, work = len(plan) / seconds, path_teraflops(encoder.arch, plan)
            print(
                f"  {attention:<8}{batch:>5} frames a call{rate:>9.1f} windows/s"
                f"{work / seconds / peak:>7.1%} of the product"
            )
            yield f"gpu_path_{attention}_batch{batch}_windows_per_s", rate
            yield f"gpu_path_{attention}_batch{batch}_utilisation", work / seconds / peak


def path_teraflops(arch: Architecture, plan: Any) -> float:
    """Operations that the plan needs: every distinct frame and every window once."""
    spatial_gf, temporal_gf = stage_gigaflops(arch)
    return (len(plan.unique["video"]) * spatial_gf + len(plan) * temporal_gf) / 1e3


def send_windows(encoder: VideoPrismEncoder, plan: Any) -> float:
    """Seconds for all windows of a plan, the same picture in each."""
    side, sent = encoder.image_size, -1
    picture = np.zeros((side, side, 3), np.uint8)
    packer = WindowPacker(encoder, lambda video, features: None, plan.spec.size)
    started = time.perf_counter()
    for start, row in zip(plan.starts, plan.frames["video"], strict=True):
        for frame in row[row > sent]:
            packer.add("v", Item("video", int(frame), picture))
        sent = int(row[-1])
        packer.add("v", Window("video", int(start), row))
    packer.close("v")
    packer.flush()
    return time.perf_counter() - started


# --- CLIP -------------------------------------------------------------------------------------------------------------


def clip_image(sizes: Sizes, peak: float) -> Iterator[tuple[str, float]]:
    """Frames/s of the image tower from the host's memory and back."""
    config = ClipConfig(sizes.clip_model, weights=None, seed=0)
    clip = load_clip(config)
    print(f"CLIP {sizes.clip_model}, {clip.dtype}")
    for batch in sizes.clip_batches:
        clip.config = replace(config, batch_size=batch)  # the same weights, other calls
        encoder = ClipImageEncoder(clip)
        shape = encoder.prepare(np.zeros((90, 160, 3), np.uint8)).shape
        work = image_tower_gigaflops(clip.model, shape[0]) / 1e3
        items = np.zeros((batch, 1, *shape), np.uint8)
        seconds = seconds_per_call(lambda e=encoder, i=items: e.encode(i), lambda rows: None, sizes.repeats)  # type: ignore[misc]
        rate = batch / seconds
        print(f"  {batch:>5} frames{rate:>10.0f} frames/s{rate * work / peak:>7.1%} of the product")
        yield f"gpu_clip_batch{batch}_frames_per_s", rate
        yield f"gpu_clip_batch{batch}_utilisation", rate * work / peak
