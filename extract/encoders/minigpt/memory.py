"""How much memory a variant takes, by arithmetic over its sizes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from extract.encoders.minigpt.variants import QFormerSize, Variant, VisionSize

TEXT_TOKENS = 90  # of the conversation around an image, about
WORKSPACE = 1.0e9  # bytes for activations, about


@dataclass(frozen=True)
class Memory:
    """Bytes: weights of both halves, key-value cache, workspace."""

    vision: float
    llm: float
    cache: float
    workspace: float = WORKSPACE

    @property
    def total(self) -> float:
        """All of it."""
        return self.vision + self.llm + self.cache + self.workspace


def memory(
    variant: Variant, *, num_slots: int, max_new_tokens: int, quantize: str | None, width: float = 2.0
) -> Memory:
    """Estimate; ``width``: bytes of a number, 2 on a GPU, 4 on a CPU."""
    llm = variant.llm_size
    outside = 2 * llm.vocabulary * llm.width  # embeddings and output, never quantised
    per_weight = {None: width, "int8": 1.0, "int4": 0.55}[quantize]  # int4: half a byte and the scales
    positions = TEXT_TOKENS + variant.num_image_tokens + max_new_tokens
    bridge = variant.bridge_width * llm.width
    return Memory(
        vision=width * (num_vision_parameters(variant.vision) + _num_qformer_parameters(variant) + bridge),
        llm=width * outside + per_weight * (llm.num_parameters - outside),
        cache=width * 2 * llm.num_layers * llm.width * positions * (num_slots + 1),
    )


def num_vision_parameters(size: VisionSize) -> int:
    """Of the ViT with the norm behind it and the position table of the file."""
    width = size.width
    block = 4 * width**2 + 2 * width * size.mlp + 4 * width + 4 * width + size.mlp + width
    embeddings = 3 * size.patch**2 * width + width + (2 + size.table**2) * width
    return size.num_blocks * block + embeddings + 2 * width


def _num_qformer_parameters(variant: Variant) -> int:
    size: QFormerSize | None = variant.qformer
    if size is None:
        return 0
    width, source = size.width, variant.vision.width
    own = 4 * (width**2 + width) + 2 * width  # self-attention and its norm
    cross = 2 * (width**2 + width) + 2 * (source * width + width) + 2 * width
    mlp = 2 * width * size.mlp + size.mlp + width + 2 * width
    layers = size.num_layers * (own + mlp) + -(-size.num_layers // 2) * cross
    return layers + 2 * width + size.num_queries * width


def check_cpu(variant: Variant, *, num_slots: int, max_new_tokens: int, quantize: str | None, width: float) -> None:
    """Refuse a variant that this machine's main memory cannot hold, before anything is downloaded.

    Raises:
        ValueError: with the ways out.
    """
    need = memory(variant, num_slots=num_slots, max_new_tokens=max_new_tokens, quantize=quantize, width=width).total
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise ValueError(
            f"captioner {variant.name} is made for a GPU, and none was found. On this CPU it would take about "
            f"{need / 1e9:.0f} GB of memory ({have / 1e9:.0f} GB are there) and minutes per frame. Use --captioner "
            "offline, a smaller model (--captioner hf-hub:OWNER/NAME), or a server (--caption-server URL)."
        )
