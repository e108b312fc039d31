"""VideoPrism (arXiv:2402.13217) as pure JAX functions over the official checkpoint's own keys, in two stages.

The encoder is factorized (ViViT "model 2"): a spatial transformer sees the patches of one frame, a temporal transformer
sees one patch position through the frames of a window. ``forward`` is the monolithic call of the published package;
``spatial`` and ``temporal`` are its halves, cut where nothing depends on the window yet.

Axes: B clips, U unique frames, N windows, T frames of a window, S patch tokens of a frame, D width, h = w pixels,
n heads, k head size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from extract.encoders.videoprism_attention import attend
from extract.encoders.videoprism_checkpoint import LAYERS, Architecture

Params = Mapping[str, jax.Array]

_NORM_EPSILON = 1e-6


def cast_params(params: Mapping[str, np.ndarray], dtype: Any) -> dict[str, jax.Array]:
    """Weights on the device in ``dtype``, float32 or bfloat16, which is then the dtype of every activation."""
    return {key: jnp.asarray(value, dtype) for key, value in params.items()}


def spatial(params: Params, frames: jax.Array, arch: Architecture, attention: str = "xla") -> jax.Array:
    """Per-frame stage: patches, spatial transformer, ``spatial_ln``.

    Args:
        params: official flat keys -> arrays of one dtype.
        frames: float (U, h, w, 3) in [0, 1]; h == w, a multiple of the patch size.
        arch: sizes of the encoder.
        attention: "xla" or "pallas", see extract/encoders/videoprism_attention.py.

    Returns:
        (U, S, D) tokens in the dtype of ``params``; S runs over rows, then columns.

    Raises:
        ValueError: frames of another shape.
    """
    kernel = params["params/patch_projection/linear/kernel"]
    with exact_matmul(kernel.dtype):
        x = _patches(frames.astype(kernel.dtype), arch.patch) @ kernel  # (U, S, D)
        x = x + params["params/patch_projection/linear/bias"]
        x = x + _spatial_positions(params, frames.shape[1] // arch.patch, arch.grid)
        return _transformer(params, "spatial", x, attention)  # (U, S, D)


def temporal(params: Params, tokens: jax.Array, arch: Architecture, attention: str = "xla") -> jax.Array:
    """Per-window stage: temporal transformer over each patch position, ``temporal_ln``.

    Args:
        params: official flat keys -> arrays of one dtype.
        tokens: (N, T, S, D), outputs of ``spatial`` for the frames of each window, in time order.
        arch: sizes of the encoder.
        attention: as for ``spatial``.

    Returns:
        (N, T, S, D) in the dtype of ``params``.
    """
    table = params["params/temporal_pos_emb/emb_var"]  # (T0, D)
    num_windows, length, num_tokens, width = tokens.shape
    with exact_matmul(table.dtype):
        if length != arch.num_frames:
            table = jax.image.resize(table, (length, width), "bilinear")  # antialiased when it shrinks
        x = tokens.astype(table.dtype).transpose(0, 2, 1, 3)  # (N, S, T, D)
        x = x.reshape(num_windows * num_tokens, length, width) + table
        x = _transformer(params, "temporal", x, attention)  # (N*S, T, D)
    return x.reshape(num_windows, num_tokens, length, width).transpose(0, 2, 1, 3)


def forward(params: Params, clips: jax.Array, arch: Architecture, attention: str = "xla") -> jax.Array:
    """The published encoder call: whole clips, nothing shared between them.

    Args:
        params: official flat keys -> arrays of one dtype.
        clips: float (B, T, h, w, 3) in [0, 1].
        arch: sizes of the encoder.
        attention: as for ``spatial``.

    Returns:
        (B, T*S, D), tokens in time-major order (frame, row, column).
    """
    batch, length, *frame = clips.shape
    tokens = spatial(params, clips.reshape(batch * length, *frame), arch, attention)  # (B*T, S, D)
    tokens = temporal(params, tokens.reshape(batch, length, *tokens.shape[1:]), arch, attention)  # (B, T, S, D)
    return tokens.reshape(batch, -1, tokens.shape[-1])


def exact_matmul(dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """float32 has to mean float32: GPUs and TPUs otherwise multiply float32 matrices at reduced precision."""
    if dtype == jnp.float32:
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def _patches(frames: jax.Array, patch: int) -> jax.Array:
    """(U, h, w, 3) -> (U, S, patch*patch*3); a patch is flattened as (row, column, channel)."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] != frames.shape[2] or frames.shape[1] % patch:
        raise ValueError(f"frames should be (U, h, h, 3) with h a multiple of {patch}, found {frames.shape}")
    num_frames, side = frames.shape[0], frames.shape[1] // patch
    x = frames.reshape(num_frames, side, patch, side, patch, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # (U, side, side, patch, patch, 3)
    return x.reshape(num_frames, side * side, patch * patch * 3)


def _spatial_positions(params: Params, side: int, grid: int) -> jax.Array:
    """Spatial position table for ``side`` x ``side`` patches: (S, D)."""
    table = params["params/spatial_pos_emb/emb_var"]  # (grid*grid, D)
    if side == grid:
        return table
    width = table.shape[1]
    # jax.image.resize antialiases when it shrinks, as the published encoder does; a plain bilinear resize does not.
    resized = jax.image.resize(table.reshape(grid, grid, width), (side, side, width), "bilinear")
    return resized.reshape(side * side, width)


def _transformer(params: Params, stage: str, x: jax.Array, attention: str) -> jax.Array:
    """Pre-norm transformer stack and its closing layer norm, on (rows, tokens, D).

    The checkpoint stacks the layers on axis 0, so one scanned body serves all of them and compiles once.
    """
    prefix = LAYERS[stage]
    layers = {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}

    def block(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        x = x + _attention(layer, _layer_norm(x, layer["layer_norm/scale"], layer["layer_norm/bias"]), attention)
        return x + _feed_forward(layer, x), None

    x, _ = jax.lax.scan(block, x, layers)
    return _layer_norm(x, params[f"params/{stage}_ln/scale"], params[f"params/{stage}_ln/bias"])


def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Layer norm whose stored scale is the distance from 1, so that a fresh layer holds zeros."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + _NORM_EPSILON) * (1 + scale) + bias


def _attention(layer: Params, x: jax.Array, attention: str) -> jax.Array:
    """Multi-head self-attention with capped logits, 50 * tanh(q.k / (50 * sqrt(k))), on (rows, tokens, D)."""

    def project(name: str) -> jax.Array:
        weight, bias = layer[f"self_attention/{name}/w"], layer[f"self_attention/{name}/b"]
        return jnp.einsum("rtd,dnk->rtnk", x, weight) + bias

    query = project("query") * layer["self_attention/query/w"].shape[-1] ** -0.5  # before the cap
    mixed = attend(query, project("key"), project("value"), attention)
    # "post" is stored (D, n, k), not (n, k, D).
    return jnp.einsum("rtnk,dnk->rtd", mixed, layer["self_attention/post/w"]) + layer["self_attention/post/b"]


def _feed_forward(layer: Params, x: jax.Array) -> jax.Array:
    """Pre-norm MLP with the exact (erf) GELU, on (rows, tokens, D)."""
    x = _layer_norm(x, layer["ff_layer/layer_norm/scale"], layer["ff_layer/layer_norm/bias"])
    x = x @ layer["ff_layer/ffn_layer1/linear/kernel"] + layer["ff_layer/ffn_layer1/linear/bias"]
    x = jax.nn.gelu(x, approximate=False)
    return x @ layer["ff_layer/ffn_layer2/linear/kernel"] + layer["ff_layer/ffn_layer2/linear/bias"]
