"""What every captioner promises to the text stream, and what several of them do with frames."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image


class Captioner(Protocol):
    """Frames -> sentences.

    A caption is a function of its own item and of the recipe: never of its batch neighbours, of the order of calls or
    of an interruption. Equal items get equal captions, so a captioner may write a repeated item once.

    Attributes:
        context: frame offsets that make one item, see ``TimelineEncoder``.
        batch_size: items per call that suit it.
        trained: False if its words come from random weights.
    """

    context: tuple[int, ...]
    batch_size: int
    trained: bool

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, w, 3), the same h and w for every frame. Runs in the decode workers."""
        ...

    def caption(self, items: np.ndarray) -> list[str]:
        """uint8 (B, C, h, w, 3), C = len(context) -> B sentences; any B from 1 up.

        Raises:
            ValueError: items of another dtype or shape.
        """
        ...

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the words, as plain JSON values; key "captioner" names it."""
        ...


def letterbox(frame: np.ndarray, height: int, width: int, resample: Image.Resampling) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 (height, width, 3): the whole picture in its proportions, centred on black."""
    picture = Image.fromarray(frame)
    scale = min(height / picture.height, width / picture.width)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    framed = Image.new("RGB", (width, height))
    framed.paste(picture.resize(inner, resample), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return np.asarray(framed)


def check_items(items: np.ndarray, context: int, height: int, width: int) -> None:
    """Refuse items that no captioner prepared.

    Raises:
        ValueError: not uint8 (B, context, height, width, 3).
    """
    if items.ndim != 5 or items.shape[1:] != (context, height, width, 3) or items.dtype != np.uint8:
        raise ValueError(f"expected uint8 (B, {context}, {height}, {width}, 3), found {items.dtype} {items.shape}")
