"""AdamW for several members at once: one row of weights each, with its own step count, learning rate and decay.

On a CPU each row goes through torch's fused AdamW. On a GPU that would be a launch per row, and which rows stay as they
are could not be told to a captured graph; there the formula of `torch.optim.AdamW` (Loshchilov & Hutter,
arXiv:1711.05101, algorithm 2) is written out for all rows at once, and the tests hold one against the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass
class StackedAdamW:
    """Weights and what the optimiser keeps of them; everything is updated in place, nothing is read by the host.

    Attributes:
        weights, mean, square: (M, P) weights and running means of gradient and squared gradient.
        steps: float32 (M,), updates so far.
        learning_rate, decay: float64 (M,).
    """

    weights: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor
    learning_rate: Tensor
    decay: Tensor

    @classmethod
    def start(cls, weights: Tensor, learning_rate: Sequence[float], decay: Sequence[float]) -> StackedAdamW:
        """Before the first step."""
        rates, decays = (torch.tensor(v, dtype=torch.float64, device=weights.device) for v in (learning_rate, decay))
        steps, zeros = torch.zeros(len(weights), device=weights.device), torch.zeros_like(weights)
        return cls(weights, zeros, zeros.clone(), steps, rates, decays)

    def rows(self, which: slice) -> StackedAdamW:
        """Some members; the memory is shared."""
        return StackedAdamW(*(getattr(self, f.name)[which] for f in fields(self)))

    def kept(self, which: Sequence[int]) -> StackedAdamW:
        """Some members, in memory of their own."""
        return StackedAdamW(*(getattr(self, f.name)[list(which)] for f in fields(self)))

    @torch.no_grad()
    def step(self, gradient: Tensor, active: Tensor) -> None:
        """One update from gradients (M, P); where ``active``, bool (M,), is False a row stays as it is to the bit."""
        if gradient.is_cpu:
            self._step_by_rows(gradient, active)
        else:
            self.step_written_out(gradient, active)

    def _step_by_rows(self, gradient: Tensor, active: Tensor) -> None:
        for k in active.nonzero()[:, 0].tolist():
            adamw(
                [self.weights[k]],
                [gradient[k]],
                [self.mean[k]],
                [self.square[k]],
                [],
                [self.steps[k]],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=float(self.learning_rate[k]),
                weight_decay=float(self.decay[k]),
                eps=EPS,
                maximize=False,
            )

    @torch.no_grad()
    def step_written_out(self, gradient: Tensor, active: Tensor) -> None:
        """The same, and the host need not know who is active."""
        gradient = gradient.masked_fill(~active[:, None], 0.0)  # one that does not count may be infinite
        self.steps.add_(active)
        done, on, dtype = self.steps.double().clamp_min(1), active.double(), self.weights.dtype
        first, second = (1 - beta**done for beta in BETAS)  # (M,) bias corrections; float32 would keep four digits
        size = (on * self.learning_rate / first).to(dtype)[:, None]  # (M, 1)
        shrink = (on * self.learning_rate * self.decay).to(dtype)[:, None]
        scale = second.sqrt().to(dtype)[:, None]
        toward = [((1 - beta) * on).to(dtype)[:, None].expand_as(gradient) for beta in BETAS]
        self.mean.lerp_(gradient, toward[0])
        self.square.lerp_(gradient * gradient, toward[1])
        change = self.mean / (self.square.sqrt() / scale + EPS)
        self.weights.sub_(self.weights * shrink).sub_(change * size)
