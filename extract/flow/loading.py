"""From the words of a command line to encoders with their weights loaded, in whichever process is to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extract.config import ExtractConfig, find_preset, with_options
from extract.encoders.captioners.quality import CaptionCounts

Encoders = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """Which encoders, as the user said it: plain values, which can be sent to another process.

    Attributes:
        device: as of ``choose_device``.
        gpu_memory: GiB that they may take, if that was said.
    """

    preset: str
    options: Mapping[str, Any]
    streams: tuple[str, ...]
    device: str = "auto"
    gpu_memory: float | None = None

    def config(self) -> ExtractConfig:
        """The configuration; raises ValueError for words that mean nothing."""
        return with_options(find_preset(self.preset), **self.options)


def load_encoders(choice: Choice, note: Callable[[str], None]) -> Encoders:
    """Stream -> encoder, with batch sizes that fit into memory.

    Raises:
        ValueError: too little memory, or weights that are not what they should be.
        OSError: files are missing.
    """
    from extract.encoders import build_encoders

    batch = choice.options.get("caption_batch_size")
    config = fit_memory(choice.config(), choice.streams, choice.gpu_memory, batch, note)
    return build_encoders(config, choice.streams)


def caption_counts(encoders: Mapping[str, Any]) -> CaptionCounts | None:
    """What counts the faults of captions, if these encoders write any."""
    if "text" not in encoders:
        return None
    tower = encoders["text"].tower
    return CaptionCounts(tower.num_tokens, tower.context_length, tower.long_captions)


def fit_memory(
    config: ExtractConfig,
    streams: Sequence[str],
    gpu_memory: float | None,
    caption_batch: int | None,
    note: Callable[[str], None],
) -> ExtractConfig:
    """The configuration with batch sizes for so many GiB; without a number, for most of what is free on the GPU.

    Where no encoder runs on a GPU the preset's sizes stay, and a number counts main memory.

    Raises:
        ValueError: too little for these streams.
    """
    from extract.costs.memory import GIB, SAFE_SHARE, fit, least_sizes, too_little
    from extract.encoders.devices import free_gpu_bytes, on_gpu

    there = [s for s in streams if on_gpu(s)]
    if gpu_memory is not None:
        gpu, shared, num_bytes = bool(there), there or list(streams), gpu_memory * GIB
        if fitted := fit(config, shared, num_bytes, gpu=gpu, caption_batch=caption_batch):
            return fitted
        why = too_little(config, shared, num_bytes, gpu=gpu, caption_batch=caption_batch)
        raise ValueError(f"--gpu-memory {gpu_memory:g}: {why}")
    if not there or not (num_bytes := SAFE_SHARE * free_gpu_bytes()):
        return config
    if fitted := fit(config, there, num_bytes, gpu=True, caption_batch=caption_batch):
        return fitted
    # By arithmetic alone nothing is refused that nobody asked to be bounded: the least sizes may just do.
    note(f"the GPU may be too full: {too_little(config, there, num_bytes, gpu=True, caption_batch=caption_batch)}")
    return least_sizes(config, there, caption_batch)
