"""CLIP image and text towers through open_clip.

The preprocessing is open_clip's own transform, cut in two at ``ToTensor``: what works on pictures (resize, crop) is
``prepare`` and runs in the decode workers on uint8; what works on tensors (scale to [0, 1], normalise) runs on the
device. Features are the towers' projected outputs, not L2-normalised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import transform as oc
from open_clip.pretrained import download_pretrained_from_hf
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from torchvision.transforms.functional import pil_modes_mapping

from extract.config import PACKAGED, ClipConfig
from extract.encoders.contract import Rows
from extract.encoders.digests import state_digest
from extract.encoders.packaged import packaged_folder
from extract.encoders.parts import InParts
from extract.encoders.revisions import revision_of, split_revision
from extract.preparation import ClipFrames, CropCentre, ResizeKeepRatio, ResizeShorter, ResizeTo, ToRgb
from shared.names import unknown_name

# A toy with every part of the real thing; 64 px, 4 x 4 patches, the real tokenizer and context length.
TINY: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
# Trained here on rendered scenes (extract/miniature).
MINI: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 72, "layers": 4, "width": 128, "head_width": 32, "patch_size": 12},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}


class ClipModel:
    """One open_clip model, its tokenizer and its transform, shared by the image and the text stream."""

    def __init__(self, config: ClipConfig) -> None:
        self.config = config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.trained = config.seed is None
        self.dtype = _dtype(config.dtype, self.device)
        if self.trained and config.weights is None:
            raise ValueError(f"CLIP model {config.model!r}: give pretrained weights (--clip-weights) or a seed")
        self.model = _create(config).eval().to(self.device)
        self.weights_sha256 = state_digest(self.model)
        self.picture_steps, self.normalize = split_transform(self.model)
        towers = {"encode_image": "stream image, pictures", "encode_text": "stream text, captions in CLIP"}
        self._parts = {method: InParts(what) for method, what in towers.items()}

    @cached_property
    def tokenizer(self) -> Any:
        """Text -> token ids; made on use, because some models' tokenizers are a download of their own."""
        name = self.config.model
        return open_clip.SimpleTokenizer() if name in TOYS else open_clip.get_tokenizer(name)

    @cached_property
    def dim(self) -> int:
        """D. Measured, because open_clip's models do not all state it."""
        size: Any = self.model.visual.image_size  # type: ignore[union-attr]
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.run("encode_image", torch.zeros(1, 3, height, width)).shape[1])

    def recipe(self) -> dict[str, Any]:
        """What determines both towers' numbers."""
        weights = self.config.weights if self.trained else f"random, seed {self.config.seed}"
        if self.trained and Path(str(weights)).exists():
            weights = Path(str(weights)).name
        return {
            "model": self.config.model,
            "weights": weights,
            "weights_sha256": self.weights_sha256,
            "activation": _activation(self.model),
            "context_length": int(getattr(self.model, "context_length", 77)),
            "dtype": str(self.dtype).removeprefix("torch."),
            "normalized": False,
            "versions": {name: version(name) for name in ("open_clip_torch", "torch")},
        }

    def run(
        self, method: str, batch: torch.Tensor, ready: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> np.ndarray:
        """``encode_image`` or ``encode_text`` on one batch -> float32 (B, D); ``ready`` prepares it on the device."""

        def compute(rows: np.ndarray, count: int) -> np.ndarray:
            part = (batch if len(rows) == len(batch) else batch[torch.from_numpy(rows)]).to(self.device)
            part = ready(part) if ready else part
            with torch.inference_mode(), torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
                features = getattr(self.model, method)(part)  # (p, D)
            return features[:count].float().cpu().numpy()

        parts = self._parts[method].run(len(batch), compute)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class ClipImageEncoder:
    """Stream "image": CLIP's image tower on single frames."""

    stream, kind = "image", "timeline"
    context: tuple[int, ...] = (0,)

    def __init__(self, clip: ClipModel) -> None:
        self._clip = clip
        self.dim, self.batch_size, self.trained = clip.dim, clip.config.batch_size, clip.trained
        self.device = clip.device

    @cached_property
    def preparation(self) -> ClipFrames:
        """What ``prepare`` does, as an object that can be sent to another process."""
        return ClipFrames(tuple(light_step(step) for step in self._clip.picture_steps))

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, w, 3): the picture half of open_clip's transform."""
        return self.preparation(frame)

    def encode(self, items: np.ndarray) -> Rows:
        """uint8 (B, 1, h, w, 3) -> features float32 (B, D)."""
        pixels = torch.from_numpy(np.ascontiguousarray(items[:, -1]))  # (B, h, w, 3)
        return Rows(self._clip.run("encode_image", pixels, self._to_images))

    def _to_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (p, h, w, 3) -> what the model takes, float32 (p, 3, h, w)."""
        return self._clip.normalize(pixels.permute(0, 3, 1, 2).float().div(255))

    def recipe(self) -> dict[str, Any]:
        """Model, weights and preprocessing."""
        steps = [str(step) for step in self._clip.picture_steps] + [str(self._clip.normalize)]
        versions = {name: version(name) for name in ("pillow", "torchvision")}
        recipe = self._clip.recipe()
        return {
            "encoder": "open_clip image",
            **recipe,
            "preprocess": [" ".join(s.split()) for s in steps],
            "versions": recipe["versions"] | versions,
        }


TOYS = {"tiny": TINY, "mini": MINI}
MINI_FILE = "clip_mini.pt"


def split_transform(model: torch.nn.Module) -> tuple[list[Any], Normalize]:
    """open_clip's evaluation transform as (steps on pictures, normalisation of tensors in [0, 1])."""
    transform = model_transform(model)
    index = next(i for i, step in enumerate(transform.transforms) if isinstance(step, ToTensor))
    normalize = transform.transforms[-1]
    if not isinstance(normalize, Normalize) or index != len(transform.transforms) - 2:
        raise RuntimeError(f"open_clip's transform has an unknown form: {transform}")
    return list(transform.transforms[:index]), normalize


def light_step(step: Any) -> Callable[[Image.Image], Image.Image]:
    """The same step on PIL pictures without torch, if it is one that open_clip's transforms consist of; else itself."""
    kind = type(step)
    resample = pil_modes_mapping.get(getattr(step, "interpolation", None))
    if resample is not None:
        resample = Image.Resampling(resample)
        if kind is Resize and step.max_size is None:
            sizes = (step.size,) if isinstance(step.size, int) else tuple(step.size)
            return ResizeShorter(sizes[0], resample) if len(sizes) == 1 else ResizeTo(sizes[0], sizes[1], resample)
        if kind is oc.ResizeKeepRatio and step.random_scale_prob == step.random_aspect_prob == 0:
            return ResizeKeepRatio(step.size[0], step.size[1], resample, step.longest)
    if kind is CenterCrop:
        return CropCentre(step.size[0], step.size[1])
    if kind is oc.CenterCropOrPad and isinstance(step.fill, int):
        return CropCentre(step.size[0], step.size[1], step.fill)
    if kind is oc.MaybeConvertMode and step.mode == "RGB":
        return ToRgb()
    return step


def model_transform(model: torch.nn.Module) -> Compose:
    """The evaluation transform that open_clip builds for a model."""
    config = getattr(model.visual, "preprocess_cfg", None)
    if config is None:
        config = {"size": model.visual.image_size}  # type: ignore[union-attr]
    return oc.image_transform_v2(oc.PreprocessCfg(**config), is_train=False)


@lru_cache(maxsize=2)
def load_clip(config: ClipConfig) -> ClipModel:
    """One model per configuration, however many streams use it."""
    return ClipModel(config)


def _create(config: ClipConfig) -> torch.nn.Module:
    known = open_clip.list_models()
    if config.model not in TOYS and ":" not in config.model and config.model.replace("/", "-") not in known:
        raise ValueError(unknown_name("CLIP model", config.model, known))
    if config.seed is None:
        tag, commit = split_revision(config.weights or "")
        published = {} if ":" in config.model else open_clip.get_pretrained_cfg(config.model.replace("/", "-"), tag)
        try:
            if config.model in TOYS:
                path = packaged_folder() / MINI_FILE if config.weights == PACKAGED else Path(str(config.weights))
                return load_toy(config.model, path)
            if published:
                return _create_published(config, published, commit)
            # weights_only: a pickle is read as plain tensors, nothing in it is run.
            return open_clip.create_model(config.model, pretrained=config.weights, weights_only=True)
        except ActivationMismatch:
            raise
        except Exception as error:
            raise ValueError(
                f"CLIP weights {config.weights!r} of model {config.model!r} could not be loaded: {error}\n"
                "Give a tag that open_clip knows (see open_clip.list_pretrained()), TAG@COMMIT or a local file; "
                "without a network use the preset mini."
            ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.model not in TOYS:
            return open_clip.create_model(config.model, pretrained=None)
        return _enliven(build_toy(config.model))


def build_toy(name: str) -> open_clip.CLIP:
    """A model of ``TOYS`` with open_clip's own start; the miniature sees the whole picture, as its captioner does."""
    model = open_clip.CLIP(**TOYS[name])
    if name == "mini":
        model.visual.preprocess_cfg = asdict(oc.PreprocessCfg(size=model.visual.image_size, resize_mode="squash"))
    return model


def load_toy(name: str, path: Path) -> open_clip.CLIP:
    """The same with weights: a state dict of open_clip."""
    model = build_toy(name)
    open_clip.load_checkpoint(model, str(path))
    return model


class ActivationMismatch(ValueError):
    """Weights were trained with another activation than the model has."""


def _create_published(config: ClipConfig, published: dict[str, Any], commit: str) -> torch.nn.Module:
    """A model with the weights of one of open_clip's tags, through the hub and of a known commit where there is one.

    open_clip's own download takes what is newest, and some plain URL where the hub has nothing.
    """
    quick = bool((open_clip.get_model_config(config.model.replace("/", "-")) or {}).get("quick_gelu", False))
    if quick != bool(published.get("quick_gelu", False)):
        raise ActivationMismatch(
            f"weights {config.weights!r} were trained with another activation than model {config.model!r} has: use "
            f"--clip-model {config.model}-quickgelu, or other weights (QuickGELU mismatch)"
        )
    repository, _, file = published.get("hf_hub", "").rpartition("/")
    if not repository:
        raise ValueError("this tag is not on the Hugging Face hub; fetch its file and give the path (--clip-weights)")
    path = download_pretrained_from_hf(repository, file or None, revision=revision_of(repository, commit))
    # The tag's mean, deviation and resizing come with the tag, not with the file.
    return open_clip.create_model(config.model, pretrained=path, weights_only=True, force_preprocess_cfg=published)


def _enliven(model: torch.nn.Module) -> torch.nn.Module:
    """Redraw the matrices of the untrained toy with unit gain.

    open_clip initialises for training (std 0.01-0.02): a random forward pass then hardly depends on its input. With
    variance 1 / fan-in and louder embeddings, untrained features differ between frames and between captions.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            if "embedding" in name:
                parameter.normal_(std=1.0 if name.startswith("token") else 0.1)
            else:
                fan_in = parameter.shape[0] if name.endswith("proj") else parameter[0].numel()
                parameter.normal_(std=fan_in**-0.5)
    return model


def _activation(model: torch.nn.Module) -> str:
    """Class of the image tower's activation; QuickGELU and GELU share their weights' names and shapes."""
    names = {type(m).__name__ for m in model.visual.modules() if "gelu" in type(m).__name__.lower()}  # type: ignore[union-attr]
    return " ".join(sorted(names)) or "other"


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device == "cuda" else torch.float32
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"CLIP dtype must be auto, {', '.join(known)}, found {name!r}")
    return known[name]
