"""Stream "video": VideoPrism, every frame encoded once.

The spatial tokens of a frame are the same in every window that holds it, and windows overlap: ``VideoPrismEncoder``
runs ``spatial`` once per frame into a token pool on the device and ``temporal`` once per window over gathered tokens.
This is the same arithmetic as the monolithic ``forward`` (extract/encoders/videoprism_model.py), up to float
reassociation between batch sizes.

Axes: B clips, U unique frames, N windows, T frames of a window, S patch tokens of a frame, D width, h = w pixels,
P slots of the pool.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from extract.encoders.digests import file_sha256, params_sha256
from extract.encoders.parts import InParts
from extract.encoders.videoprism_attention import ATTENTIONS
from extract.encoders.videoprism_checkpoint import (
    ARCHITECTURES,
    Architecture,
    CheckpointError,
    expected_shapes,
    init_params,
    load_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
)
from extract.encoders.videoprism_model import Params, cast_params, forward, spatial, temporal
from extract.preparation import VideoPrismFrames

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


# --- jitted steps -----------------------------------------------------------------------------------------------------


def _as_unit_range(frames: jax.Array) -> jax.Array:
    return frames.astype(jnp.float32) / 255.0


@partial(jax.jit, static_argnames=("arch", "attention"))
def _encode_frames(params: Params, frames: jax.Array, arch: Architecture, attention: str) -> jax.Array:
    """Tokens (U, S, D) of uint8 frames (U, h, w, 3)."""
    return spatial(params, _as_unit_range(frames), arch, attention)


# A step of its own: the pool is donated, so that it is written in place, and what is donated is lost if the step runs
# out of memory. This one needs none.
@partial(jax.jit, donate_argnames="pool")
def _store_tokens(pool: jax.Array, tokens: jax.Array, slots: jax.Array) -> jax.Array:
    """``tokens`` (U, S, D) into ``pool`` (P, S, D) at ``slots`` (U,); slot P is outside and dropped."""
    return pool.at[slots].set(tokens, mode="drop")


@partial(jax.jit, static_argnames=("arch", "attention"))
def _pool_windows(pool: jax.Array, params: Params, slots: jax.Array, arch: Architecture, attention: str) -> jax.Array:
    """Windows of pool slots (N, T) -> float32 (N, T, D), mean over the patch tokens of a frame."""
    return jnp.mean(temporal(params, pool[slots], arch, attention), axis=2, dtype=jnp.float32)


@partial(jax.jit, static_argnames=("arch", "attention"))
def _pool_clips(params: Params, clips: jax.Array, arch: Architecture, attention: str) -> jax.Array:
    """uint8 clips (B, T, h, w, 3) -> float32 (B, T, D) by the monolithic forward."""
    tokens = forward(params, _as_unit_range(clips), arch, attention)
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
        attention: str = "xla",
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
            attention: "xla", or "pallas" for the kernel of extract/encoders/videoprism_attention.py.

        Raises:
            CheckpointError: the weights cannot be had or do not fit.
            ValueError: any other argument out of range.
        """
        _check_choice("architecture", architecture, ARCHITECTURES)
        _check_choice("dtype", dtype, ("auto", "float32", "bfloat16"))
        _check_choice("resize", resize, ("squash", "crop"))
        _check_choice("attention", attention, ATTENTIONS)
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
        self.attention = attention
        self.trained = seed is None
        self.device = jax.default_backend()
        if dtype == "auto":
            dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        self.dtype = dtype
        self._params = cast_params(self._read_weights(weights, seed), dtype)
        tokens = (self.image_size // self.arch.patch) ** 2
        self._pool = jnp.zeros((self.num_slots, tokens, self.dim), dtype)  # (P, S, D)
        self._written = np.zeros(self.num_slots, bool)
        self._frame_parts, self._window_parts = InParts("stream video, frames"), InParts("stream video, windows")
        self._fits: set[int] = set()  # rows of spatial calls that the device has had room for

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

    @property
    def preparation(self) -> VideoPrismFrames:
        """What ``prepare`` does, as an object that can be sent to another process."""
        return VideoPrismFrames(self.image_size, self.resize)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, h, 3)."""
        return self.preparation(frame)

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
        frames, slots = frames.copy(), slots.copy()
        self._frame_parts.run(len(frames), lambda rows, count: self._store_part(frames, slots, rows, count))
        self._written[used] = True

    def wait(self) -> None:
        """Until the device has done what ``encode_frames`` asked for."""
        self._pool.block_until_ready()

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
        parts = self._window_parts.run(
            len(slots),
            lambda rows, count: np.array(  # which waits for the device
                _pool_windows(self._pool, self._params, slots[rows], arch=self.arch, attention=self.attention)
            )[:count],
        )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _store_part(self, frames: np.ndarray, slots: np.ndarray, rows: np.ndarray, count: int) -> None:
        """Some rows of a batch of ``encode_frames``; rows from ``count`` on only fill the shape."""
        if len(rows) < len(frames):
            frames, slots = frames[rows], np.where(np.arange(len(rows)) < count, slots[rows], self.num_slots)
        tokens = _encode_frames(self._params, frames, arch=self.arch, attention=self.attention)  # (p, S, D)
        if len(rows) not in self._fits:
            tokens.block_until_ready()  # JAX tells of a failure only when somebody waits; later ones need as much
            self._fits.add(len(rows))
        self._pool = _store_tokens(self._pool, tokens, slots.astype(np.int32))

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
            group = _pool_clips(self._params, frames[index], arch=self.arch, attention=self.attention)  # (N, T, D)
            features[start : start + self.window_batch] = np.asarray(group)[: len(frames) - start]
        return features

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the numbers, as plain JSON values."""
        # Only where it is not the usual one, so that caches made before there was a choice stay valid.
        kernel = {} if self.attention == "xla" else {"attention": self.attention}
        return {
            "encoder": "videoprism",
            **kernel,
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
