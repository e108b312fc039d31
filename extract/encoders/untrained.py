"""Encoders to time: random weights, no download, and on a CPU batches that it manages in a second."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
import torch

from extract.config import CaptionerConfig, ExtractConfig
from extract.encoders.captioners import HUB_PREFIX, build_captioner
from extract.encoders.clip import ClipImageEncoder, ClipModel
from extract.encoders.clip_sizes import clip_config
from extract.encoders.devices import share_gpu
from extract.encoders.videoprism import ARCHITECTURES, Architecture, VideoPrismEncoder

MAX_CPU_FLOPS = 1.2e11  # of one call on a CPU: more would take longer than there is time


@dataclass
class Parts:
    """The models that were built, None for others; ``reasons`` says why not, for "clip" and "captioner"."""

    video: Any = None  # VideoPrismEncoder
    clip: Any = None  # ClipModel
    captioner: Any = None
    reasons: dict[str, str] = field(default_factory=dict)


class TextFrames:
    """The ``prepare`` half of the text stream."""

    kind = "timeline"

    def __init__(self, captioner: Any) -> None:
        self.context, self.prepare = captioner.context, captioner.prepare


def build_parts(config: ExtractConfig, streams: Sequence[str]) -> Parts:
    """All models of some streams, side by side, because drawing random weights keeps only one core busy."""
    share_gpu()
    parts, builders = Parts(), []
    if "video" in streams:
        builders.append(_build_video)
    if {"image", "text"} & set(streams):
        builders.append(_build_clip)
    if "text" in streams:
        builders.append(_build_captioner)
    with _without_warnings(), ThreadPoolExecutor(max(1, len(builders))) as pool:
        for done in [pool.submit(build, config, parts) for build in builders]:
            done.result()
    return parts


def preparers(parts: Parts, streams: Sequence[str]) -> dict[str, Any]:
    """Stream -> something with the ``prepare`` half of its encoder; streams without one are left out."""
    encoders: dict[str, Any] = {}
    if "video" in streams:
        encoders["video"] = parts.video
    if "image" in streams and parts.clip is not None:
        encoders["image"] = ClipImageEncoder(parts.clip)
    if "text" in streams and parts.captioner is not None:
        encoders["text"] = TextFrames(parts.captioner)
    return encoders


def _build_video(config: ExtractConfig, parts: Parts) -> None:
    """VideoPrism, compiled and run once."""
    video, samples = config.video, config.window.samples["video"]
    frame_batch, window_batch = video.frame_batch, video.window_batch
    if jax.default_backend() == "cpu":
        frame, window = stage_flops(ARCHITECTURES[video.architecture], samples)
        frame_batch = max(1, min(frame_batch, int(MAX_CPU_FLOPS // frame)))
        window_batch = max(1, min(window_batch, int(MAX_CPU_FLOPS // window)))
    encoder = VideoPrismEncoder(
        video.architecture,
        seed=0,
        dtype=video.dtype,
        num_samples=samples,
        frame_batch=frame_batch,
        window_batch=window_batch,
        resize=video.resize,
    )
    side = encoder.image_size
    encoder.encode_frames(np.zeros((frame_batch, side, side, 3), np.uint8), np.arange(frame_batch, dtype=np.int32))
    encoder.encode_windows(np.zeros((window_batch, samples), np.int32))
    parts.video = encoder


def _build_clip(config: ExtractConfig, parts: Parts) -> None:
    known = clip_config(config.clip.model)
    if known is None or "hf_model_name" in known["text_cfg"]:
        parts.reasons["clip"] = f"parts of CLIP model {config.clip.model} are on the hub only; nothing is downloaded"
        return
    parts.clip = ClipModel(replace(config.clip, weights=None, seed=0))


def _build_captioner(config: ExtractConfig, parts: Parts) -> None:
    captioner, reason = here_and_now(config.captioner)
    try:
        parts.captioner = build_captioner(captioner) if captioner is not None else None
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
    if reason:
        parts.reasons["captioner"] = reason


def here_and_now(config: CaptionerConfig) -> tuple[CaptionerConfig | None, str]:
    """A captioner that can be built without a download or a server, or None and why not."""
    from extract.encoders.captioners.hub_files import find_cached
    from extract.encoders.minigpt.doctor import inspect
    from extract.encoders.minigpt.variants import VARIANTS

    if config.name == "server" or config.server is not None:
        return None, "a server writes them, which is not asked"
    if config.name.startswith(HUB_PREFIX):
        folder = find_cached(config)
        missing = "the files of this captioner are not here, and nothing is downloaded"
        return (replace(config, weights=str(folder)), "") if folder is not None else (None, missing)
    if config.name in VARIANTS and VARIANTS[config.name].trained and not VARIANTS[config.name].packaged:
        variant = VARIANTS[config.name]
        if not torch.cuda.is_available():
            return None, "it is made for a GPU, and there is none"
        if not all(found.ready for found in inspect(variant, config.weights)):
            return None, "its files are not all here, and how long its captions get depends on the weights"
    return config, ""


def stage_flops(arch: Architecture, num_samples: int) -> tuple[float, float]:
    """Floating-point operations of the spatial stage for one frame and of the temporal stage for one window.

    Two for every weight and token, and four for every pair of tokens and number of the width (logits and mixing).
    """
    tokens = arch.grid**2
    layer = 2 * (4 * arch.width**2 + 2 * arch.width * arch.mlp)
    frame = (
        arch.spatial_layers * tokens * (layer + 4 * tokens * arch.width) + 2 * tokens * arch.patch_values * arch.width
    )
    window = arch.temporal_layers * tokens * num_samples * (layer + 4 * num_samples * arch.width)
    return float(frame), float(window)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """open_clip warns of the random weights that are wanted here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
