"""How the next token is chosen: greedy, or the reference's sampling with one random stream per frame.

Everything here works row by row. The choice in a row depends on that row's logits, on what that row has generated and
on its own random numbers, so a caption does not depend on its batch neighbours or on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

MODES = ("greedy", "sample")


@dataclass(frozen=True)
class Decoding:
    """Decoding parameters; part of the recipe.

    The defaults of "sample" are those of the reference's ``Chat.answer``, with the top_k of 50 that transformers adds.

    Attributes:
        max_new_tokens: longest answer.
        min_new_tokens: the end-of-text token may not come before these.
        repetition_penalty: divides positive and multiplies negative logits of tokens generated before (Keskar et al.
            2019, eq. 3); the prompt does not count.
        seed: with the picture it gives the frame's random stream; unused when greedy.
    """

    mode: str = "greedy"
    max_new_tokens: int = 300
    min_new_tokens: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def recipe(self) -> dict[str, Any]:
        """The parameters that determine the words."""
        values = asdict(self)
        unused = () if self.mode == "sample" else ("temperature", "top_p", "top_k", "seed")
        return {k: v for k, v in values.items() if k not in unused}


def decoding_of(mode: str, *, max_new_tokens: int | None, seed: int) -> Decoding:
    """Decoding by name.

    Raises:
        ValueError: unknown name.
    """
    limit = 300 if max_new_tokens is None else max_new_tokens
    if mode == "greedy":
        return Decoding(max_new_tokens=limit)
    if mode == "sample":
        return Decoding("sample", limit, repetition_penalty=1.05, top_p=0.9, top_k=50, seed=seed)
    raise ValueError(f"--caption-decoding takes {' or '.join(MODES)}, found {mode!r}")


def frame_digest(picture: np.ndarray) -> bytes:
    """Identity of a prepared frame: sha256 over its uint8 pixels."""
    return hashlib.sha256(np.ascontiguousarray(picture).data).digest()


class Chooser:
    """Chooses tokens for a fixed number of rows, some of which are taken over by the next frame.

    Attributes:
        seen: bool (S, V), tokens that a row has generated.
    """

    def __init__(self, decoding: Decoding, num_rows: int, vocabulary: int, end: int, device: str) -> None:
        """``end`` is the end-of-text token."""
        self._decoding, self._end = decoding, end
        self.seen = torch.zeros(num_rows, vocabulary, dtype=torch.bool, device=device)
        self._uniform = torch.zeros(num_rows, decoding.max_new_tokens, dtype=torch.float64, device=device)
        self._warpers: list[Any] = []
        if decoding.mode == "sample":
            self._warpers = [TemperatureLogitsWarper(decoding.temperature)] if decoding.temperature != 1.0 else []
            self._warpers += [TopKLogitsWarper(decoding.top_k)] if decoding.top_k else []
            self._warpers += [TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1.0 else []

    def reset(self, rows: torch.Tensor, digests: list[bytes]) -> None:
        """Give rows (R,) to new frames; their random numbers come from the seed and the picture alone."""
        self.seen[rows] = False
        if self._decoding.mode == "sample":
            self._uniform[rows] = torch.stack([self._numbers(d) for d in digests]).to(self._uniform.device)

    def choose(self, logits: torch.Tensor, rows: torch.Tensor, num_generated: torch.Tensor) -> torch.Tensor:
        """Next token of each row.

        Args:
            logits: float32 (R, V).
            rows: int64 (R,), which rows of this chooser they are.
            num_generated: int64 (R,), tokens generated so far.

        Returns:
            int64 (R,).
        """
        d = self._decoding
        if d.repetition_penalty != 1.0:
            penalised = torch.where(logits < 0, logits * d.repetition_penalty, logits / d.repetition_penalty)
            logits = torch.where(self.seen[rows], penalised, logits)
        too_early = (num_generated < d.min_new_tokens)[:, None] & (
            torch.arange(logits.shape[1], device=logits.device) == self._end
        )
        logits = logits.masked_fill(too_early, -torch.inf)
        if d.mode == "greedy":
            tokens = logits.argmax(dim=1)
        else:
            for warp in self._warpers:
                logits = warp(None, logits)
            cumulative = logits.double().softmax(dim=1).cumsum(dim=1)  # (R, V)
            at = num_generated.clamp(max=d.max_new_tokens - 1)
            drawn = self._uniform[rows, at] * cumulative[:, -1]  # (R,)
            # The first token whose cumulative probability exceeds the draw; one of probability 0 never does first.
            tokens = torch.searchsorted(cumulative, drawn[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1)
        self.seen[rows, tokens] = True
        return tokens

    def _numbers(self, digest: bytes) -> torch.Tensor:
        """The random numbers of one frame, float64 (max_new_tokens,) in [0, 1)."""
        key = hashlib.sha256(self._decoding.seed.to_bytes(16, "little", signed=True) + digest).digest()
        generator = np.random.default_rng(int.from_bytes(key, "little"))
        return torch.from_numpy(generator.random(self._decoding.max_new_tokens))
