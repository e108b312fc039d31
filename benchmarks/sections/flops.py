"""Floating-point operations of the encoders, counted by XLA and by torch rather than by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch.utils.flop_counter import FlopCounterMode

from extract.encoders.videoprism import Architecture, expected_shapes, spatial, temporal


def stage_gigaflops(arch: Architecture, num_samples: int = 16) -> tuple[float, float]:
    """(spatial stage, one frame; temporal stage, one window) as XLA counts them before it optimises.

    The count enters the body of a loop once, whatever its length, and the layers are such a loop: hence the difference
    between one layer and none. VideoPrism-B at 288 px: 47.0 and 236.5.
    """
    side, tokens = arch.image_size, (num_samples, arch.grid**2, arch.width)
    frame, window = (1, side, side, 3), (1, *tokens)
    return (
        _stage(spatial, frame, arch, arch.spatial_layers),
        _stage(temporal, window, arch, arch.temporal_layers),
    )


def _stage(stage: Any, shape: tuple[int, ...], arch: Architecture, num_layers: int) -> float:
    bare, one = (_count(stage, shape, replace(arch, spatial_layers=n, temporal_layers=n)) for n in (0, 1))
    return bare + num_layers * (one - bare)


def _count(stage: Any, shape: tuple[int, ...], arch: Architecture) -> float:
    params = {key: jax.ShapeDtypeStruct(size, jnp.float32) for key, size in expected_shapes(arch).items()}
    call = jax.jit(lambda params, x: stage(params, x, arch))
    return call.lower(params, jax.ShapeDtypeStruct(shape, jnp.float32)).cost_analysis()["flops"] / 1e9


def image_tower_gigaflops(model: Any, side: int) -> float:
    """Matrix products of one picture in CLIP's image tower."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.encode_image(torch.zeros(1, 3, side, side, device=device))
    return counter.get_total_flops() / 1e9
