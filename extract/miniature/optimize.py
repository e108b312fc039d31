"""Training in two precisions: the model computes in bfloat16, what it learns is kept in float32.

Matrices inside the network are moved by Muon (orthogonalised momentum; Jordan 2024, here torch's), everything else by
AdamW. For a network that is trained from nothing in minutes, that is worth about half of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

WEIGHT_DECAY, WARM_UP = 0.05, 100
OUTSIDE = ("embed", "lm_head", "readouts", "visual.proj", "text_projection")  # tables, first and last layers


class Learner:
    """A model in training.

    Attributes:
        model: computes in bfloat16, which a current CPU multiplies several times as fast as float32.
        masters: name -> float32 parameter, the one that learns.
    """

    def __init__(self, model: nn.Module, steps: int, peak_rate: float) -> None:
        self.model, self._steps = model, steps
        self.masters = {n: p.detach().float().clone() for n, p in model.named_parameters() if p.requires_grad}
        model.bfloat16()
        inside = [p for n, p in self.masters.items() if p.ndim == 2 and not any(word in n for word in OUTSIDE)]
        others = [p for n, p in self.masters.items() if p.ndim != 2 or any(word in n for word in OUTSIDE)]
        self._optimizers = (
            torch.optim.Muon(inside, lr=peak_rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.0, foreach=True),
        )
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(o, self._rate) for o in self._optimizers]

    def _rate(self, step: int) -> float:
        """Share of the peak learning rate: linear up, cosine down."""
        return min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * float(np.cos(np.pi * step / self._steps)))

    def learn(self, loss: torch.Tensor) -> float:
        """One step down the gradient, cut to norm 1; returns the loss."""
        loss.backward()
        parameters = dict(self.model.named_parameters())
        for name, master in self.masters.items():
            gradient = parameters[name].grad
            master.grad = None if gradient is None else gradient.float()
            parameters[name].grad = None
        nn.utils.clip_grad_norm_(self.masters.values(), 1.0)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            for name, master in self.masters.items():
                parameters[name].copy_(master)
        return float(loss.detach())

    def _parts(self) -> list[Any]:
        return [*self._optimizers, *self._schedules]

    def state(self) -> dict[str, Any]:
        """What ``load`` needs to go on."""
        moved = [part.state_dict() for part in self._parts()]
        return {"masters": {n: p.detach() for n, p in self.masters.items()}, "moved": moved}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in state["masters"].items():
                self.masters[name].copy_(value)
                parameters[name].copy_(value)
        for part, moved in zip(self._parts(), state["moved"], strict=True):
            part.load_state_dict(moved)

    def finish(self) -> nn.Module:
        """The model in float32 with what was learned."""
        self.model.float().eval()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in self.masters:
                    parameter.copy_(self.masters[name])
        return self.model


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by two matrix products: on a CPU the backward pass of torch's fused one takes six times as long."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
