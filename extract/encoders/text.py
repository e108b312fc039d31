"""Stream "text": a frozen captioner writes a sentence per frame, CLIP's text tower encodes it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from extract.config import check_long_captions
from extract.encoders.caption_tokens import check_chunks, chunk_captions, count_tokens
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


class CaptionTower:
    """CLIP's text tower on captions, wherever they come from.

    The tower always runs on ``batch_size`` rows, the last ones padded by repetition: kernels of another shape may
    round in another way, and a feature is not to depend on how many chunks the captions beside it have.

    Attributes:
        dim: D.
        batch_size: rows per call of the tower.
        context_length: tokens that the tower has room for.
        long_captions: "truncate" cuts captions at the context length. "chunk-mean" takes the plain mean of the chunks'
            features as they come out of the tower. Not of unit vectors: no other feature here is normalised, and a
            caption of one chunk is to be what truncation gives, to the bit.
        trained: False if the tower's weights are random.

    Raises:
        ValueError: another choice for long captions, or one that the model's tokenizer does not allow.
    """

    def __init__(self, clip: ClipModel, long_captions: str = "truncate") -> None:
        check_long_captions(long_captions)
        if long_captions == "chunk-mean":
            check_chunks(clip.tokenizer)
        self._clip = clip
        self.long_captions = long_captions
        self.dim, self.batch_size, self.trained = clip.dim, clip.config.batch_size, clip.trained

    @property
    def context_length(self) -> int:
        """Of the tokenizer, which is made to fit the tower."""
        return int(getattr(self._clip.tokenizer, "context_length", None) or 77)

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """B sentences -> float32 (B, D)."""
        if not captions:
            return np.zeros((0, self.dim), np.float32)
        if self.long_captions == "truncate":
            return self._encode_rows(self._clip.tokenizer(list(captions)))
        tokens, counts = chunk_captions(self._clip.tokenizer, captions)  # (R, context_length)
        features = self._encode_rows(tokens)  # (R, D)
        return np.stack([part.mean(axis=0) for part in np.split(features, np.cumsum(counts)[:-1])])  # (B, D)

    def num_tokens(self, captions: Sequence[str]) -> list[int] | None:
        """Tokens of every caption, uncut; None if the model's tokenizer does not tell."""
        return count_tokens(self._clip.tokenizer, captions)

    def recipe(self, captioner: Mapping[str, Any]) -> dict[str, Any]:
        """Recipe of a text stream whose captions came about as ``captioner`` says."""
        mean = self.long_captions == "chunk-mean"
        return {
            "encoder": "captions + open_clip text",
            "captioner": dict(captioner),
            **self._clip.recipe(),
            "long_captions": "chunk-mean of features that are not normalised" if mean else self.long_captions,
        }

    def _encode_rows(self, tokens: torch.Tensor) -> np.ndarray:
        """int64 (R, context_length) -> float32 (R, D)."""
        parts = []
        for batch in torch.split(tokens, self.batch_size):
            padding = batch[-1:].expand(self.batch_size - len(batch), -1)
            parts.append(self._clip.run("encode_text", torch.cat([batch, padding]))[: len(batch)])
        return np.concatenate(parts)


class TextEncoder:
    """Captions and their CLIP text features; the captions are cached beside the features."""

    stream, kind = "text", "timeline"

    def __init__(
        self, captioner: Captioner, clip: ClipModel, *, thumbnails: bool = False, long_captions: str = "truncate"
    ) -> None:
        self.tower = CaptionTower(clip, long_captions)
        self._captioner, self._thumbnails = captioner, thumbnails
        self.context = captioner.context
        self.dim, self.batch_size, self.device = clip.dim, captioner.batch_size, clip.device
        self.trained = clip.trained and captioner.trained

    @property
    def preparation(self) -> Any:
        """The captioner's, or None if it has none."""
        return getattr(self._captioner, "preparation", None)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """The captioner's half."""
        return self._captioner.prepare(frame)

    def encode(self, items: np.ndarray) -> Rows:
        """uint8 (B, C, h, w, 3) -> captions and features float32 (B, D)."""
        captions = self._captioner.caption(items)
        thumbnails = [thumbnail(item[-1]) for item in items] if self._thumbnails else None
        return Rows(self.encode_captions(captions), captions, thumbnails)

    def encode_captions(self, captions: list[str]) -> np.ndarray:
        """B sentences -> float32 (B, D)."""
        return self.tower.encode(captions)

    def recipe(self) -> dict[str, Any]:
        """Captioner and text tower."""
        return self.tower.recipe(self._captioner.recipe())
