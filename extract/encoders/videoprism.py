"""VideoPrism (arXiv:2402.13217) inference in JAX: pure functions over the official checkpoint, in two stages.

The encoder is factorized (ViViT "model 2"): a spatial transformer sees the patches of one frame, a temporal transformer
sees one patch position through the frames of a window. The spatial tokens of a frame are therefore the same in every
window that holds it, and windows overlap: ``VideoPrismEncoder`` runs ``spatial`` once per frame into a token pool on
the device and ``temporal`` once per window over gathered tokens. This is the same arithmetic as the monolithic
``forward``, up to float reassociation between batch sizes.

Parameters are a flat dict with the checkpoint's own keys (extract/encoders/videoprism_checkpoint.py).

Axes: B clips, U unique frames, N windows, T frames of a window, S patch tokens of a frame, D width, h = w pixels,
n heads, k head size, P slots of the pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from extract.encoders.videoprism_checkpoint import (
    ARCHITECTURES,
    LAYERS,
    Architecture,
    CheckpointError,
    expected_shapes,
    file_sha256,
    init_params,
    load_checkpoint,
    params_sha256,
    resolve_checkpoint,
    save_checkpoint,
)

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CheckpointError",
    "VideoPrismEncoder",
    "cast_params",
    "expected_shapes",
    "forward",
    "init_params",
    "load_checkpoint",
    "resolve_checkpoint",
    "save_checkpoint",
    "spatial",
    "temporal",
]

Params = Mapping[str, jax.Array]

_LOGIT_CAP = 50.0  # attention logits, official configuration
_NORM_EPSILON = 1e-6
_MAX_CROP_RATIO = 32


# --- pure functions ---------------------------------------------------------------------------------------------------


def cast_params(params: Mapping[str, np.ndarray], dtype: Any) -> dict[str, jax.Array]:
    """Weights on the device in ``dtype``, float32 or bfloat16, which is then the dtype of every activation."""
    return {key: jnp.asarray(value, dtype) for key, value in params.items()}


def spatial(params: Params, frames: jax.Array, arch: Architecture) -> jax.Array:
    """Per-frame stage: patches, spatial transformer, ``spatial_ln``.

    Args:
        params: official flat keys -> arrays of one dtype.
        frames: float (U, h, w, 3) in [0, 1]; h == w, a multiple of the patch size.
        arch: sizes of the encoder.

    Returns:
        (U, S, D) tokens in the dtype of ``params``; S runs over rows, then columns.

    Raises:
        ValueError: frames of another shape.
    """
    kernel = params["params/patch_projection/linear/kernel"]
    with _exact_matmul(kernel.dtype):
        x = _patches(frames.astype(kernel.dtype), arch.patch) @ kernel  # (U, S, D)
        x = x + params["params/patch_projection/linear/bias"]
        x = x + _spatial_positions(params, frames.shape[1] // arch.patch, arch.grid)
        return _transformer(params, "spatial", x)  # (U, S, D)


def temporal(params: Params, tokens: jax.Array, arch: Architecture) -> jax.Array:
    """Per-window stage: temporal transformer over each patch position, ``temporal_ln``.

    Args:
        params: official flat keys -> arrays of one dtype.
        tokens: (N, T, S, D), outputs of ``spatial`` for the frames of each window, in time order.
        arch: sizes of the encoder.

    Returns:
        (N, T, S, D) in the dtype of ``params``.
    """
    table = params["params/temporal_pos_emb/emb_var"]  # (T0, D)
    num_windows, length, num_tokens, width = tokens.shape
    with _exact_matmul(table.dtype):
        if length != arch.num_frames:
            table = jax.image.resize(table, (length, width), "bilinear")  # antialiased when it shrinks
        x = tokens.astype(table.dtype).transpose(0, 2, 1, 3)  # (N, S, T, D)
        x = x.reshape(num_windows * num_tokens, length, width) + table
        x = _transformer(params, "temporal", x)  # (N*S, T, D)
    return x.reshape(num_windows, num_tokens, length, width).transpose(0, 2, 1, 3)


def forward(params: Params, clips: jax.Array, arch: Architecture) -> jax.Array:
    """The published encoder call: whole clips, nothing shared between them.

    Args:
        params: official flat keys -> arrays of one dtype.
        clips: float (B, T, h, w, 3) in [0, 1].
        arch: sizes of the encoder.

    Returns:
        (B, T*S, D), tokens in time-major order (frame, row, column).
    """
    batch, length, *frame = clips.shape
    tokens = spatial(params, clips.reshape(batch * length, *frame), arch)  # (B*T, S, D)
    tokens = temporal(params, tokens.reshape(batch, length, *tokens.shape[1:]), arch)  # (B, T, S, D)
    return tokens.reshape(batch, -1, tokens.shape[-1])


def _exact_matmul(dtype: Any) -> contextlib.AbstractContextManager[Any]:
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


def _transformer(params: Params, stage: str, x: jax.Array) -> jax.Array:
    """Pre-norm transformer stack and its closing layer norm, on (rows, tokens, D).

    The checkpoint stacks the layers on axis 0, so one scanned body serves all of them and compiles once.
    """
    prefix = LAYERS[stage]
    layers = {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}

    def block(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        x = x + _attention(layer, _layer_norm(x, layer["layer_norm/scale"], layer["layer_norm/bias"]))
        return x + _feed_forward(layer, x), None

    x, _ = jax.lax.scan(block, x, layers)
    return _layer_norm(x, params[f"params/{stage}_ln/scale"], params[f"params/{stage}_ln/bias"])


def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Layer norm whose stored scale is the distance from 1, so that a fresh layer holds zeros."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + _NORM_EPSILON) * (1 + scale) + bias


def _attention(layer: Params, x: jax.Array) -> jax.Array:
    """Multi-head self-attention with capped logits, 50 * tanh(q.k / (50 * sqrt(k))), on (rows, tokens, D)."""

    def project(name: str) -> jax.Array:
        weight, bias = layer[f"self_attention/{name}/w"], layer[f"self_attention/{name}/b"]
        return jnp.einsum("rtd,dnk->rtnk", x, weight) + bias

    query = project("query") * layer["self_attention/query/w"].shape[-1] ** -0.5  # before the cap
    logits = jnp.einsum("rtnk,rsnk->rnts", query, project("key"))
    logits = _LOGIT_CAP * jnp.tanh(logits / _LOGIT_CAP)
    # float32 whatever the dtype: bfloat16 cannot sum 256 probabilities.
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(x.dtype)
    mixed = jnp.einsum("rnts,rsnk->rtnk", weights, project("value"))
    # "post" is stored (D, n, k), not (n, k, D).
    return jnp.einsum("rtnk,dnk->rtd", mixed, layer["self_attention/post/w"]) + layer["self_attention/post/b"]


def _feed_forward(layer: Params, x: jax.Array) -> jax.Array:
    """Pre-norm MLP with the exact (erf) GELU, on (rows, tokens, D)."""
    x = _layer_norm(x, layer["ff_layer/layer_norm/scale"], layer["ff_layer/layer_norm/bias"])
    x = x @ layer["ff_layer/ffn_layer1/linear/kernel"] + layer["ff_layer/ffn_layer1/linear/bias"]
    x = jax.nn.gelu(x, approximate=False)
    return x @ layer["ff_layer/ffn_layer2/linear/kernel"] + layer["ff_layer/ffn_layer2/linear/bias"]


# --- jitted steps -----------------------------------------------------------------------------------------------------


def _as_unit_range(frames: jax.Array) -> jax.Array:
    return frames.astype(jnp.float32) / 255.0


@partial(jax.jit, static_argnames="arch", donate_argnames="pool")
def _store_frames(
    pool: jax.Array, params: Params, frames: jax.Array, slots: jax.Array, arch: Architecture
) -> jax.Array:
    """Tokens of uint8 frames (U, h, w, 3) into ``pool`` (P, S, D) at ``slots``; slot P is outside and dropped."""
    tokens = spatial(params, _as_unit_range(frames), arch)
    return pool.at[slots].set(tokens, mode="drop")


@partial(jax.jit, static_argnames="arch")
def _pool_windows(pool: jax.Array, params: Params, slots: jax.Array, arch: Architecture) -> jax.Array:
    """Windows of pool slots (N, T) -> float32 (N, T, D), mean over the patch tokens of a frame."""
    return jnp.mean(temporal(params, pool[slots], arch), axis=2, dtype=jnp.float32)


@partial(jax.jit, static_argnames="arch")
def _pool_clips(params: Params, clips: jax.Array, arch: Architecture) -> jax.Array:
    """uint8 clips (B, T, h, w, 3) -> float32 (B, T, D) by the monolithic forward."""
    tokens = forward(params, _as_unit_range(clips), arch)
    return jnp.mean(tokens.reshape(*clips.shape[:2], -1, tokens.shape[-1]), axis=2, dtype=jnp.float32)


# --- the encoder ------------------------------------------------------------------------------------------------------


class VideoPrismEncoder:
    """VideoPrism as a window encoder (see ``WindowEncoder`` in extract/encoders/contract.py)."""

    stream = "video"
    kind = "window"

    def __init__(
        self,
        architecture: str = "base",
        weights: str | None = None,
        seed: int | None = None,
        dtype: str = "auto",
        image_size: int | None = None,
        num_samples: int = 16,
        frame_batch: int = 16,
        window_batch: int = 4,
        num_slots: int | None = None,
        resize: str = "squash",
    ) -> None:
        """Load the weights and lay out the token pool.

        Args:
            architecture: key of ``ARCHITECTURES``.
            weights: local checkpoint; None downloads the published one.
            seed: random weights instead of a checkpoint, for tests and the demo; ``trained`` is then False.
            dtype: "float32", "bfloat16" or "auto" (bfloat16 on an accelerator, float32 on a CPU, which gains nothing).
            image_size: side of the input in pixels, a multiple of 18; None for the native one.
            num_samples: T, frames of a window.
            frame_batch: U, frames per ``encode_frames``; attention logits take U * heads * S * S * 4 bytes
                (50 MB for 16 frames at base size).
            window_batch: N, windows per ``encode_windows``.
            num_slots: P; None for the least the contract allows, ``frame_batch + window_batch * num_samples``.
            resize: "squash" (the whole frame becomes the square; the published encoder demo only takes square frames)
                or "crop" (short side to the square, then centre crop, as the published classification demo).

        Raises:
            CheckpointError: the weights cannot be had or do not fit.
            ValueError: any other argument out of range.
        """
        _check_choice("architecture", architecture, ARCHITECTURES)
        _check_choice("dtype", dtype, ("auto", "float32", "bfloat16"))
        _check_choice("resize", resize, ("squash", "crop"))
        self.architecture = architecture
        self.arch = ARCHITECTURES[architecture]
        self.image_size = self.arch.image_size if image_size is None else image_size
        if self.image_size <= 0 or self.image_size % self.arch.patch:
            raise ValueError(f"image_size should be a positive multiple of {self.arch.patch}, found {image_size}")
        if min(num_samples, frame_batch, window_batch) < 1:
            raise ValueError("num_samples, frame_batch and window_batch should be at least 1")
        least_slots = frame_batch + window_batch * num_samples
        if num_slots is not None and num_slots < least_slots:
            raise ValueError(f"num_slots should be at least {least_slots}, found {num_slots}")
        self.dim = self.arch.width
        self.num_samples = num_samples
        self.frame_batch = frame_batch
        self.window_batch = window_batch
        self.num_slots = least_slots if num_slots is None else num_slots
        self.resize = resize
        self.trained = seed is None
        if dtype == "auto":
            dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        self.dtype = dtype
        self._params = cast_params(self._read_weights(weights, seed), dtype)
        tokens = (self.image_size // self.arch.patch) ** 2
        self._pool = jnp.zeros((self.num_slots, tokens, self.dim), dtype)  # (P, S, D)
        self._written = np.zeros(self.num_slots, bool)

    def _read_weights(self, weights: str | None, seed: int | None) -> dict[str, np.ndarray]:
        """The parameters; notes their identity for the recipe."""
        if seed is not None:
            if weights is not None:
                raise ValueError("give weights or a seed, not both")
            params = init_params(self.arch, seed)
            self._weights_id, self._weights_sha256 = f"random, seed {seed}", params_sha256(params)
            return params
        path = resolve_checkpoint(weights, self.arch)
        # The file name, not its path: the recipe has to be the same on every machine.
        self._weights_id = Path(path).name if weights else f"{self.arch.repository}/{self.arch.filename}"
        self._weights_sha256 = file_sha256(path)
        return load_checkpoint(path, self.arch)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, h, 3), resized with PIL's Lanczos filter as in the published demos.

        Raises:
            ValueError: not a non-empty uint8 RGB frame, or beyond 32:1 with "crop".
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"frame should be uint8 (H, W, 3), found {frame.dtype} {frame.shape}")
        height, width = frame.shape[:2]
        side = self.image_size
        rows, columns = side, side
        if self.resize == "crop":
            scale = max(side / height, side / width)
            rows, columns = round(height * scale), round(width * scale)
            if max(rows, columns) > _MAX_CROP_RATIO * side:  # the resized frame would take gigabytes
                raise ValueError(f"a {width}x{height} frame is too narrow to crop a square from; use resize='squash'")
        # PIL's own box= would save the crop but differs by grey levels (its rounding, and the order of its two passes).
        image = Image.fromarray(np.ascontiguousarray(frame)).resize((columns, rows), Image.Resampling.LANCZOS)
        top, left = (rows - side) // 2, (columns - side) // 2
        return np.array(image)[top : top + side, left : left + side].copy()

    def encode_frames(self, frames: np.ndarray, slots: np.ndarray) -> None:
        """Spatial tokens of uint8 ``frames`` (U, h, h, 3) into the pool at int32 ``slots`` (U,); slot P drops a row.

        Returns while the device still works; ``frames`` may be reused at once.

        Raises:
            ValueError: wrong shape or dtype, a slot out of range or given twice.
        """
        side = self.image_size
        _check_array("frames", frames, np.uint8, (self.frame_batch, side, side, 3))
        _check_array("slots", slots, np.int32, (self.frame_batch,))
        _check_range("slots", slots, self.num_slots)
        used = slots[slots < self.num_slots]
        if len(np.unique(used)) != len(used):
            raise ValueError("slots holds a slot twice: which frame would win is undefined")
        # Our own copies, made now: JAX reads numpy arguments when the work runs, after the caller may have reused them
        # (jnp.array and device_put do not prevent that).
        self._pool = _store_frames(self._pool, self._params, frames.copy(), slots.copy(), arch=self.arch)
        self._written[used] = True

    def encode_windows(self, slots: np.ndarray) -> np.ndarray:
        """Features of the windows whose frames lie at int32 ``slots`` (N, T) -> float32 (N, T, D).

        Raises:
            ValueError: wrong shape or dtype, a slot out of range or never written.
        """
        _check_array("slots", slots, np.int32, (self.window_batch, self.num_samples))
        _check_range("slots", slots, self.num_slots - 1)
        if not self._written[slots].all():
            empty = int(slots[~self._written[slots]][0])
            raise ValueError(f"slot {empty} is read but no frame was ever stored there")
        return np.array(_pool_windows(self._pool, self._params, slots, arch=self.arch))

    def encode_clips(self, frames: np.ndarray) -> np.ndarray:
        """Window by window through the whole network: uint8 (B, T, h, h, 3) -> float32 (B, T, D).

        The reference for the two-stage path: the same features, but every shared frame is encoded again. Runs in
        groups of ``window_batch`` so that shapes and memory stay fixed; the last group is padded by repetition.

        Raises:
            ValueError: wrong shape or dtype.
        """
        side = self.image_size
        _check_array("frames", frames, np.uint8, (len(frames), self.num_samples, side, side, 3))
        features = np.empty((len(frames), self.num_samples, self.dim), np.float32)
        for start in range(0, len(frames), self.window_batch):
            index = np.minimum(np.arange(start, start + self.window_batch), len(frames) - 1)
            group = np.asarray(_pool_clips(self._params, frames[index], arch=self.arch))  # (N, T, D)
            features[start : start + self.window_batch] = group[: len(frames) - start]
        return features

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the numbers, as plain JSON values."""
        return {
            "encoder": "videoprism",
            "architecture": self.architecture,
            "weights": self._weights_id,
            "weights_sha256": self._weights_sha256,
            "image_size": self.image_size,
            "resize": f"{self.resize}, PIL Lanczos, /255",
            "num_samples": self.num_samples,
            "pooling": "mean over spatial tokens",
            "dtype": self.dtype,
            "versions": {"jax": version("jax"), "pillow": version("pillow")},
        }


# --- checks at the border ---------------------------------------------------------------------------------------------


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} should be one of {', '.join(choices)}, found {value!r}")


def _check_array(name: str, array: np.ndarray, dtype: Any, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} should be {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}")


def _check_range(name: str, slots: np.ndarray, last: int) -> None:
    if slots.min() < 0 or slots.max() > last:
        raise ValueError(f"{name} should lie in 0..{last}, found {slots.min()}..{slots.max()}")
