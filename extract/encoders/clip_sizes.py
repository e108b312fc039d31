"""Sizes of CLIP models by name, from open_clip's own configurations; nothing is loaded or downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip

from extract.encoders.clip import TOYS


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of one CLIP model.

    Attributes:
        num_parameters: of both towers, norms and biases left out.
        image_tokens, image_width, image_mlp: S, D and M of the image tower; text_*: of the text tower.
    """

    num_parameters: int
    image_tokens: int
    image_width: int
    image_mlp: int
    text_tokens: int
    text_width: int
    text_mlp: int


def clip_config(model: str) -> Mapping[str, Any] | None:
    """open_clip's configuration of a model, or None if it has none of that name (models of the hub)."""
    return TOYS[model] if model in TOYS else open_clip.get_model_config(model)


def clip_dim(model: str) -> int | None:
    """D of the features, or None if only loading the model would tell."""
    config = clip_config(model)
    return None if config is None else int(config["embed_dim"])


def clip_sizes(model: str) -> ClipSizes | None:
    """Sizes of a model whose towers are open_clip's own transformers; None for others (ResNet, timm, hub)."""
    config = clip_config(model)
    if config is None:
        return None
    vision, text, dim = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    if not isinstance(vision.get("layers"), int) or "timm_model_name" in vision or "hf_model_name" in text:
        return None
    width, patch, side = vision["width"], vision["patch_size"], vision["image_size"]
    tokens = (side // patch) ** 2 + 1
    image_mlp = round(width * vision.get("mlp_ratio", 4))
    text_width, context = text["width"], text.get("context_length", 77)
    text_mlp = round(text_width * text.get("mlp_ratio", 4))
    parameters = (
        vision["layers"] * (4 * width**2 + 2 * width * image_mlp)
        + (3 * patch**2 + tokens + dim) * width
        + text["layers"] * (4 * text_width**2 + 2 * text_width * text_mlp)
        + (text.get("vocab_size", 49408) + context + dim) * text_width
    )
    return ClipSizes(parameters, tokens, width, image_mlp, context, text_width, text_mlp)
