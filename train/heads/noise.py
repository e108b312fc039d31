"""Random numbers of a training step, drawn before the step: dropout and augmentation take them from a tape.

Each fold has generators of its own that depend on (seed, fold, epoch) alone, and fill one row of the tape per step. So
a fold draws the same whether it trains alone or in one program with others, which torch's own dropout does not do under
`torch.func.vmap`. Where there is no tape (a head used by itself), torch's global generator draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

# Steps whose numbers are drawn at once, at most: on a GPU a launch costs more than the numbers, on a CPU memory does.
STEPS_AT_ONCE = {"cpu": 1, "cuda": 64}
NUMBERS_AT_ONCE = 2**22  # 16 MB of float32 per fold


@dataclass(frozen=True)
class Draws:
    """How many numbers one step takes: uniform in [0, 1), and standard normal."""

    uniform: int = 0
    normal: int = 0


class Tape:
    """One row: what one fold takes in one step, from its start to its end."""

    def __init__(self, uniforms: Tensor, normals: Tensor, share: Tensor) -> None:
        """uniforms (n,), normals (m,), share (): the w of mixup."""
        self.uniforms, self.normals, self.share = uniforms, normals, share
        self.used = Draws()

    def uniform(self, shape: Sequence[int]) -> Tensor:
        first = self.used.uniform
        self.used = Draws(first + prod(shape), self.used.normal)
        return self.uniforms[first : self.used.uniform].view(*shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        first = self.used.normal
        self.used = Draws(self.used.uniform, first + prod(shape))
        return self.normals[first : self.used.normal].view(*shape)


class _Count(Tape):
    """Counts what is taken from it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(torch.empty(0), torch.empty(0), torch.tensor(0.5, device=device))
        self.device = device

    def uniform(self, shape: Sequence[int]) -> Tensor:
        self.used = Draws(self.used.uniform + prod(shape), self.used.normal)
        return torch.full(tuple(shape), 0.5, device=self.device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        self.used = Draws(self.used.uniform, self.used.normal + prod(shape))
        return torch.zeros(tuple(shape), device=self.device)


_tape: Tape | None = None


@contextmanager
def drawing_from(tape: Tape) -> Iterator[Tape]:
    """Inside, `uniform`, `normal` and `beta_share` take from the tape."""
    global _tape
    before, _tape = _tape, tape
    try:
        yield tape
    finally:
        _tape = before


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """float32 of a shape, uniform in [0, 1), on the device of a tensor."""
    return torch.rand(tuple(shape), device=like.device) if _tape is None else _tape.uniform(shape)


def normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """float32 of a shape, standard normal, on the device of a tensor."""
    return torch.randn(tuple(shape), device=like.device) if _tape is None else _tape.normal(shape)


def beta_share(a: float, like: Tensor) -> Tensor:
    """() float32, drawn from Beta(a, a)."""
    if _tape is None:
        return torch.distributions.Beta(a, a).sample().to(like.device)
    return _tape.share


def count_draws(step: Callable[[], object], device: torch.device) -> Draws:
    """What a step would take, found by doing it once; no random number is used up."""
    with torch.no_grad(), drawing_from(_Count(device)) as tape:
        step()
    return tape.used


class Noise:
    """The numbers of some folds for the steps of an epoch.

    Attributes:
        uniforms: float32 (M, S, n), normals: float32 (M, S, m): of S steps; step i is in row i % S.
    """

    def __init__(self, draws: Draws, members: int, device: str) -> None:
        kind = torch.device(device).type
        rows = max(1, min(STEPS_AT_ONCE[kind], NUMBERS_AT_ONCE // max(1, draws.uniform + draws.normal)))
        self.uniforms = torch.zeros(members, rows, draws.uniform, device=device)
        self.normals = torch.zeros(members, rows, draws.normal, device=device)
        self._generators = [(torch.Generator(device), torch.Generator(device)) for _ in range(members)]

    def __len__(self) -> int:
        return self.uniforms.shape[1]

    def seed(self, seeds: Sequence[Sequence[int]]) -> None:
        """Begin an epoch: one row of whole numbers per fold, such as (seed, fold, epoch)."""
        for words, pair in zip(seeds, self._generators, strict=True):
            for word, generator in zip(seed_words(*words), pair, strict=True):
                generator.manual_seed(word)

    def fill(self) -> None:
        """Draw the numbers of the next S steps; a fold fills its own part at one stroke, whoever else there is."""
        for k, (first, second) in enumerate(self._generators):
            if self.uniforms.numel():
                self.uniforms[k].uniform_(generator=first)
            if self.normals.numel():
                self.normals[k].normal_(generator=second)

    def rows(self, step: int) -> tuple[Tensor, Tensor]:
        """Uniforms (M, n) and normals (M, m) of a step; steps are asked for one after another, from 0."""
        if step % len(self) == 0:
            self.fill()
        return self.uniforms[:, step % len(self)], self.normals[:, step % len(self)]


def seed_words(*numbers: int) -> tuple[int, int]:
    """Two unrelated seeds from some whole numbers, each below 2^63."""
    words = np.random.SeedSequence(numbers).generate_state(2, np.uint64)
    return int(words[0] >> 1), int(words[1] >> 1)
