"""What every encoder promises to the pipeline.

An encoder has two halves. ``prepare`` runs on the CPU in the decode workers and shrinks one decoded frame to the
encoder's input size, so that queues hold small frames. The device half takes batches of prepared frames. Numpy goes in
and numpy comes out; no torch or jax type leaves an encoder's file.

An encoder that also names its ``prepare`` as a small object that can be pickled, in an attribute ``preparation``
(extract/preparation.py), has its videos decoded in processes of their own, where a decoder that crashes or hangs takes
down one video. If an encoder of a run has none, all videos are decoded in threads of this process.

Axes: B batch, C context frames, U unique frames, N windows, T samples of a window, D feature size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Output of a timeline encoder for one batch.

    Attributes:
        features: float32 (B, D).
        captions: B strings for a text stream, else None.
        thumbnails: B base64 JPEGs for a text stream that keeps pictures, else None.
    """

    features: np.ndarray
    captions: list[str] | None = None
    thumbnails: list[str] | None = None

    def part(self, first: int, stop: int) -> Rows:
        """Rows [first, stop)."""
        return Rows(
            self.features[first:stop],
            None if self.captions is None else self.captions[first:stop],
            None if self.thumbnails is None else self.thumbnails[first:stop],
        )


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of several batches, one after another; they agree in what they carry."""
    return Rows(
        np.concatenate([p.features for p in parts]),
        None if parts[0].captions is None else [c for p in parts for c in p.captions or ()],
        None if parts[0].thumbnails is None else [t for p in parts for t in p.thumbnails or ()],
    )


@runtime_checkable
class TimelineEncoder(Protocol):
    """Encodes single frames: one cached row per unique frame; overlapping windows cost nothing.

    Attributes:
        stream: name of the cached stream ("image", "text", ...).
        kind: "timeline".
        dim: D.
        context: frame offsets that make one item, the frame itself last: (0,) or e.g. (-2, 0). An offset that falls
            before the first frame of the video is clamped to frame 0.
        batch_size: B; the pipeline always passes exactly B items (the last batch is padded by repetition).
        device: "cpu", "gpu" or "cuda".
        trained: False when the weights are random; every number made from them is labelled "untrained encoders".
    """

    stream: str
    kind: str
    dim: int
    context: tuple[int, ...]
    batch_size: int
    trained: bool

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, w, 3) at the encoder's input size."""
        ...

    def encode(self, items: np.ndarray) -> Rows:
        """uint8 (B, C, h, w, 3), C = len(context) -> features float32 (B, D) and, for text, captions."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the numbers, as plain JSON values."""
        ...


@runtime_checkable
class WindowEncoder(Protocol):
    """Encodes whole windows in two stages: per unique frame, then per window over gathered frames.

    The encoder owns a pool of ``num_slots`` frame slots on the device. The pipeline decides which frame lives in which
    slot (extract/flow/packing.py) and guarantees that a slot is not overwritten while a pending window needs it.

    Attributes:
        stream: name of the cached stream ("video").
        kind: "window".
        dim: D.
        num_samples: T, samples per window.
        frame_batch: U, frames per call of ``encode_frames``.
        window_batch: N, windows per call of ``encode_windows``.
        num_slots: P, size of the pool; at least frame_batch + window_batch * num_samples, and at least the window's
            size + num_samples, since any of a window's frames may be needed again by the tail window.
        trained: see TimelineEncoder.
    """

    stream: str
    kind: str
    dim: int
    num_samples: int
    frame_batch: int
    window_batch: int
    num_slots: int
    trained: bool

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, w, 3) at the encoder's input size."""
        ...

    def encode_frames(self, frames: np.ndarray, slots: np.ndarray) -> None:
        """Per-frame stage: uint8 (U, h, w, 3) -> tokens, stored in the pool at ``slots`` int32 (U,).

        A slot index equal to ``num_slots`` marks a padding row, whose tokens are dropped.
        """
        ...

    def encode_windows(self, slots: np.ndarray) -> np.ndarray:
        """Per-window stage: ``slots`` int32 (N, T) into the pool -> features float32 (N, T, D).

        May return before the device has finished only if the returned array is a real numpy array.
        """
        ...

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the numbers, as plain JSON values."""
        ...
