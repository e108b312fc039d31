"""The CPU half of every encoder as a small object: frames to the size that an encoder takes, with PIL and numpy alone.

These objects are sent to the decoder processes (extract/decode/child.py), which import no torch and no jax. An encoder
names its own as ``preparation`` and calls it in ``prepare``, so that the numbers are made in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

MAX_CROP_RATIO = 32  # of VideoPrism's resized frame over its side
MAX_ASPECT = 64  # of a frame, before CLIP's resize to the shorter side

Preparation = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Squash:
    """The whole picture at another size, aspect ratio not kept: uint8 RGB (H, W, 3) -> uint8 (height, width, 3)."""

    height: int
    width: int
    resample: Image.Resampling

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize((self.width, self.height), self.resample))


@dataclass(frozen=True)
class Letterbox:
    """The whole picture in its proportions, centred on black: uint8 RGB (H, W, 3) -> uint8 (height, width, 3)."""

    height: int
    width: int
    resample: Image.Resampling

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(frame)
        scale = min(self.height / picture.height, self.width / picture.width)
        width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        framed = Image.new("RGB", (self.width, self.height))
        inner = picture.resize((width, height), self.resample)
        framed.paste(inner, ((self.width - width) // 2, (self.height - height) // 2))
        return np.asarray(framed)


@dataclass(frozen=True)
class VideoPrismFrames:
    """VideoPrism's: uint8 RGB (H, W, 3) -> uint8 (side, side, 3), with PIL's Lanczos filter as in the published demos.

    Attributes:
        side: pixels.
        resize: "squash" (whole picture) or "crop" (centre square).
    """

    side: int
    resize: str = "squash"

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Raises ValueError: not a non-empty uint8 RGB frame, or beyond 32:1 with "crop"."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"frame should be uint8 (H, W, 3), found {frame.dtype} {frame.shape}")
        height, width = frame.shape[:2]
        rows, columns = self.side, self.side
        if self.resize == "crop":
            scale = max(self.side / height, self.side / width)
            rows, columns = round(height * scale), round(width * scale)
            if max(rows, columns) > MAX_CROP_RATIO * self.side:  # the resized frame would take gigabytes
                raise ValueError(f"a {width}x{height} frame is too narrow to crop a square from; use resize='squash'")
        # PIL's own box= would save the crop but differs by grey levels (its rounding, and the order of its two passes).
        image = Image.fromarray(np.ascontiguousarray(frame)).resize((columns, rows), Image.Resampling.LANCZOS)
        top, left = (rows - self.side) // 2, (columns - self.side) // 2
        return np.array(image)[top : top + self.side, left : left + self.side].copy()


# ------------------------------------------------------------------ CLIP: steps on PIL pictures


@dataclass(frozen=True)
class ResizeShorter:
    """torchvision's ``Resize(int)`` of a picture: the shorter side gets ``side`` pixels, the longer one is cut down."""

    side: int
    resample: Image.Resampling

    def __call__(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        longer = int(self.side * max(width, height) / min(width, height))
        size = (self.side, longer) if width <= height else (longer, self.side)
        return picture if size == picture.size else picture.resize(size, self.resample)


@dataclass(frozen=True)
class ResizeTo:
    """torchvision's ``Resize((height, width))`` of a picture."""

    height: int
    width: int
    resample: Image.Resampling

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.resize((self.width, self.height), self.resample)


@dataclass(frozen=True)
class ResizeKeepRatio:
    """open_clip's step of that name: the longer (``longest`` 1) or shorter side (0) is fitted to (height, width)."""

    height: int
    width: int
    resample: Image.Resampling
    longest: float = 0.0

    def __call__(self, picture: Image.Image) -> Image.Image:
        ratios = picture.height / self.height, picture.width / self.width
        ratio = max(ratios) * self.longest + min(ratios) * (1.0 - self.longest)
        return picture.resize((round(picture.width / ratio), round(picture.height / ratio)), self.resample)


@dataclass(frozen=True)
class CropCentre:
    """torchvision's ``CenterCrop`` of an RGB picture; a picture that is too small is padded first, with ``fill``."""

    height: int
    width: int
    fill: int = 0

    def __call__(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        if self.width > width or self.height > height:
            whole = Image.new("RGB", (max(width, self.width), max(height, self.height)), (self.fill,) * 3)
            whole.paste(picture, (max(0, self.width - width) // 2, max(0, self.height - height) // 2))
            picture, (width, height) = whole, whole.size
        top, left = round((height - self.height) / 2), round((width - self.width) / 2)
        return picture.crop((left, top, left + self.width, top + self.height))


@dataclass(frozen=True)
class ToRgb:
    """A picture of any mode in RGB."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.convert("RGB")


@dataclass(frozen=True)
class ClipFrames:
    """The picture half of a CLIP transform: uint8 RGB (H, W, 3) -> uint8 (h, w, 3).

    Attributes:
        steps: callables on PIL pictures, one after another.
    """

    steps: tuple[Any, ...]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Raises ValueError: beyond 64:1; resized to the model's height before the crop, it would take gigabytes."""
        height, width = frame.shape[:2]
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise ValueError(f"a {width}x{height} frame is too narrow for CLIP's centre crop")
        picture: Any = Image.fromarray(frame)
        for step in self.steps:
            picture = step(picture)
        return np.asarray(picture)
