"""Stream "text": a frozen captioner writes a sentence per frame, CLIP's text tower encodes it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from extract.encoders.captioners.contract import Captioner
from extract.encoders.clip import ClipModel
from extract.encoders.contract import Rows

THUMBNAIL_SIZE = 112


def thumbnail(picture: np.ndarray) -> str:
    """uint8 RGB (h, w, 3), as the captioner sees it -> base64 JPEG of at most 112 x 112."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


class TextEncoder:
    """Captions and their CLIP text features; the captions are cached beside the features."""

    stream, kind = "text", "timeline"

    def __init__(self, captioner: Captioner, clip: ClipModel, *, thumbnails: bool = False) -> None:
        self._captioner, self._clip, self._thumbnails = captioner, clip, thumbnails
        self.context = captioner.context
        self.dim, self.batch_size, self.device = clip.dim, captioner.batch_size, clip.device
        self.trained = clip.trained and captioner.trained

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """The captioner's half."""
        return self._captioner.prepare(frame)

    def encode(self, items: np.ndarray) -> Rows:
        """uint8 (B, C, h, w, 3) -> captions and features float32 (B, D)."""
        captions = self._captioner.caption(items)
        thumbnails = [thumbnail(item[-1]) for item in items] if self._thumbnails else None
        return Rows(self.encode_captions(captions), captions, thumbnails)

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        """B sentences -> float32 (B, D). Longer ones are cut at the tower's context length (77 tokens)."""
        tokens = self._clip.tokenizer(captions)  # (B, 77)
        return self._clip.run("encode_text", tokens)

    def recipe(self) -> dict[str, Any]:
        """Captioner and text tower."""
        return {
            "encoder": "captions + open_clip text",
            "captioner": self._captioner.recipe(),
            **self._clip.recipe(),
            "long_captions": "truncate",
        }
