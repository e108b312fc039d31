"""Frozen encoders. The only folder of the project that imports jax, open_clip or transformers.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from extract.config import ExtractConfig, pool_slots
from extract.encoders.captioners import build_captioner
from extract.encoders.devices import share_gpu

if TYPE_CHECKING:
    from extract.encoders.contract import TimelineEncoder, WindowEncoder

# transformers imports torchao where it is installed, and torch then logs two deprecations of its own.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def build_encoder(stream: str, config: ExtractConfig) -> TimelineEncoder | WindowEncoder:
    """The encoder of one stream, with its weights loaded."""
    share_gpu()
    if stream == "video":
        from extract.encoders.videoprism import VideoPrismEncoder

        v = config.video
        return VideoPrismEncoder(
            v.architecture,
            weights=v.weights,
            seed=v.seed,
            dtype=v.dtype,
            num_samples=config.window.samples["video"],
            frame_batch=v.frame_batch,
            window_batch=v.window_batch,
            num_slots=pool_slots(config),
            resize=v.resize,
        )
    from extract.encoders.clip import ClipImageEncoder, load_clip

    if stream == "image":
        return ClipImageEncoder(load_clip(config.clip))
    if stream == "text":
        from extract.encoders.text import TextEncoder

        return TextEncoder(
            build_captioner(config.captioner),
            load_clip(config.clip),
            thumbnails=config.thumbnails,
            long_captions=config.long_captions,
        )
    raise ValueError(f"unknown stream {stream!r} (streams: {', '.join(config.window.samples)})")


def build_encoders(config: ExtractConfig, streams: Iterable[str]) -> dict[str, TimelineEncoder | WindowEncoder]:
    """The encoders of several streams, in order."""
    return {stream: build_encoder(stream, config) for stream in streams}
