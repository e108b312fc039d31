"""What every captioner promises to the text stream, and how items are checked."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


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
        """uint8 RGB (H, W, 3) -> uint8 (h, w, 3), the same h and w for every frame. Runs in the decode workers; see
        ``preparation`` in extract/encoders/contract.py."""
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


def check_items(items: np.ndarray, context: int, height: int, width: int) -> None:
    """Refuse items that no captioner prepared.

    Raises:
        ValueError: not uint8 (B, context, height, width, 3).
    """
    if items.ndim != 5 or items.shape[1:] != (context, height, width, 3) or items.dtype != np.uint8:
        raise ValueError(f"expected uint8 (B, {context}, {height}, {width}, 3), found {items.dtype} {items.shape}")
