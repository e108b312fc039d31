"""Stream "text": a frozen captioner writes a sentence per frame, CLIP's text tower encodes it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from extract.encoders.clip import ClipModel
from extract.encoders.contract import Rows


class Captioner(Protocol):
    """Frames -> sentences. A caption depends on its own item alone, never on its batch neighbours.

    Attributes:
        context: frame offsets that make one item, see ``TimelineEncoder``.
        trained: False if its words come from random weights.
    """

    context: tuple[int, ...]
    trained: bool

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, w, 3)."""
        ...

    def caption(self, items: np.ndarray) -> list[str]:
        """uint8 (B, C, h, w, 3) -> B sentences."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the words."""
        ...


class TextEncoder:
    """Captions and their CLIP text features; the captions are cached beside the features."""

    stream, kind = "text", "timeline"

    def __init__(self, captioner: Captioner, clip: ClipModel) -> None:
        self._captioner, self._clip = captioner, clip
        self.context = captioner.context
        self.dim, self.batch_size = clip.dim, clip.config.batch_size
        self.trained = clip.trained and captioner.trained

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """The captioner's half."""
        return self._captioner.prepare(frame)

    def encode(self, items: np.ndarray) -> Rows:
        """uint8 (B, C, h, w, 3) -> captions and features float32 (B, D)."""
        captions = self._captioner.caption(items)
        return Rows(self.encode_captions(captions), captions)

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
