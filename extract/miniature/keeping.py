"""A training that can be interrupted: its state in a file, from which it goes on as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.process.whole_file import whole_file


class Paused(Exception):
    """The time is up; the state is kept, and the same call goes on from there."""


class Keeper:
    """Steps of one training, counted, timed and logged.

    Attributes:
        seconds: of training so far, over all parts.
    """

    def __init__(self, name: str, file: Path, log: Callable[[str], None], limit_s: float | None = None) -> None:
        """``limit_s``: pause after so many seconds of this process."""
        self._name, self._file, self._log, self._limit = name, file, log, limit_s
        self.seconds = 0.0

    def steps(
        self,
        steps: int,
        rng: np.random.Generator,
        save: Callable[[], Any],
        load: Callable[[Any], None],
        step: Callable[[int], float],
        every: int = 200,
    ) -> None:
        """Run ``step(0)`` to ``step(steps - 1)``, or those that an earlier call did not get to.

        Args:
            rng: of the training; its state is kept.
            save, load: the rest of the state.
            step: one step; returns its loss.
            every: steps between lines of the log, and between savings.

        Raises:
            Paused: see ``limit_s``.
        """
        first, losses, began = 0, [], time.monotonic()
        if self._file.is_file():
            kept = torch.load(self._file, weights_only=True)
            first, self.seconds, rng.bit_generator.state = kept["step"], kept["seconds"], kept["rng"]
            load(kept["state"])
        before = self.seconds
        for number in range(first, steps):
            losses.append(step(number))
            self.seconds = before + time.monotonic() - began
            late = self._limit is not None and time.monotonic() - began > self._limit
            if (number + 1) % every == 0 or late:
                mean = float(np.mean([float(loss) for loss in losses]))
                self._log(f"{self._name}: step {number + 1} of {steps}, loss {mean:.3f}, {self.seconds:.0f} s")
                losses = []
                self._keep(
                    {"step": number + 1, "seconds": self.seconds, "rng": rng.bit_generator.state, "state": save()}
                )
            if late and number + 1 < steps:
                raise Paused

    def _keep(self, state: dict[str, Any]) -> None:
        with whole_file(self._file) as file:
            torch.save(state, file)
