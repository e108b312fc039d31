"""What training a head consists of, whether folds run one after another (loop.py) or at once (together.py).

One seed is one result: the weights of a fold, the order of its windows, its dropout and its augmentation in epoch e
depend on (seed, fold, e) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.config import TrainConfig
from train.data.features import Features, Windows
from train.data.resident import Gather
from train.fit.losses import class_weights
from train.fit.objective import Objective, decoders_for
from train.heads.noise import Draws, count_draws, seed_words
from train.heads.standardize import HeadModel
from train.judging.evaluate import evaluate_windows
from train.runs.checkpoints import build_model, save_state
from train.tasks import Task

EVAL_BATCH = {"cpu": 512, "cuda": 4096}  # windows


@dataclass
class Fit:
    """A trained head.

    Attributes:
        model: with the weights of the best epoch.
        best_epoch: 0-based.
        history: one dict per epoch: epoch, train_loss (of what is trained: augmented, with the autoencoding term),
            val_loss (of the task alone), val_score, seconds (of all folds that were trained at once).
    """

    model: HeadModel
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Progress:
    """Where the training of one fold stands: the epoch to do next, the best one so far with its weights, the rows."""

    epoch: int = 0
    best: dict[str, Tensor] | None = None
    best_epoch: int = -1
    best_score: float = -np.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def ended(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or patience is."""
        waited = self.best_epoch >= 0 and self.epoch - self.best_epoch > config.patience
        return waited or self.epoch >= config.max_epochs

    def add(self, row: dict[str, float], weights: Callable[[], dict[str, Tensor]]) -> None:
        """Book an epoch; its weights are asked for where it is better than all before it."""
        self.history.append(row)
        if row["val_score"] > self.best_score:
            self.best, self.best_epoch, self.best_score = weights(), self.epoch, float(row["val_score"])
        self.epoch += 1

    def save(self, file: Path | None, model: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Everything that the next epoch depends on; the same file however the fold is trained."""
        if file is not None:
            save_state({**vars(self), "model": model, "optimizer": optimizer}, file)


def labelled(windows: Windows, which: np.ndarray, purpose: str) -> Tensor:
    """Numbers of the labelled windows in a bool (W,): int64 (n,).

    Raises:
        ValueError: there is none.
    """
    found = np.flatnonzero(which & windows.labelled)
    if not len(found):
        raise ValueError(f"no labelled window to {purpose}")
    return torch.from_numpy(found)


def new_objective(
    task: Task, config: TrainConfig, features: Features, windows: Windows, train_rows: Tensor, fold: int
) -> Objective:
    """Fresh weights of a fold, with standardisers fitted to the frames of its training windows, each frame once."""
    torch.manual_seed(seed_words(config.seed, fold, 0)[0])
    model = build_model(task, config, features.dims)
    for stream in model.streams:
        own = torch.unique(windows.rows[stream][train_rows])
        model.standardizers[stream].fit(features.banks[stream], own)  # type: ignore[operator]
    return Objective(task, config, model, decoders_for(config, model, features.dims))


def epoch_order(config: TrainConfig, fold: int, epoch: int, train_rows: Tensor) -> Tensor:
    """The windows of an epoch in their order: int64 (n,)."""
    generator = torch.Generator().manual_seed(seed_words(config.seed, fold, epoch + 1)[0])
    return train_rows[torch.randperm(len(train_rows), generator=generator)]


def epoch_shares(config: TrainConfig, fold: int, epoch: int, num_steps: int) -> Tensor:
    """The w of mixup for every step of an epoch: float32 (steps,), drawn from Beta(a, a); ones without mixup."""
    if not config.augment.mixup:
        return torch.ones(num_steps)
    generator = np.random.default_rng([config.seed, fold, epoch + 1])
    return torch.from_numpy(generator.beta(config.augment.mixup, config.augment.mixup, num_steps)).float()


def noise_seed(config: TrainConfig, fold: int, epoch: int, *, last: bool) -> tuple[int, ...]:
    """Seed of the noise of an epoch's full batches, or of its last batch, which is smaller."""
    return (config.seed, fold, epoch + 1, 1 + last)


def draws_of(objective: Objective, gather: Gather, targets: Tensor) -> Draws:
    """What one step on a full batch takes from the tape."""
    index = torch.zeros(objective.config.batch_size, dtype=torch.long, device=targets.device)
    return count_draws(lambda: objective.train()(gather(index), targets[index], None), targets.device)


def targets_of(task: Task, labels: np.ndarray) -> Tensor:
    """Labels as losses take them: int64 (W,) of classes, masked ones never used, or float32 (W, K)."""
    if task.kind in ("binary", "classes"):
        return torch.from_numpy(np.nan_to_num(labels[:, 0], nan=0.0).astype(np.int64))  # (W,)
    if task.kind == "regression":
        middle, half = task.scale
        return (torch.from_numpy(labels) - torch.tensor(middle)) / torch.tensor(half)  # (W, K)
    return torch.from_numpy(labels)  # (W, K)


def weights_of(task: Task, config: TrainConfig, targets: Tensor) -> Tensor | None:
    """Class weights from the targets that are learned from, if the task has classes and the config wants them."""
    return None if task.kind == "regression" or not config.class_weights else class_weights(task, targets)


def epoch_row(
    task: Task,
    epoch: int,
    fold: int,
    train_loss: float,
    outputs: Tensor,
    labels: np.ndarray,
    val_loss: float,
    seconds: float,
) -> dict[str, float]:
    """The row of an epoch, 0-based.

    Args:
        outputs: (n, K) of the validation windows, on the host.
        labels: float32 (n, K) of the same.

    Raises:
        ValueError: the training loss is not finite.
    """
    if not np.isfinite(train_loss):
        raise ValueError(
            f"fold {fold + 1}: the training loss became {train_loss} in epoch {epoch + 1}; lower the learning rate"
        )
    score = evaluate_windows(task, output_scores(task, outputs), labels)[task.metric]
    return {
        "epoch": epoch + 1,
        "train_loss": train_loss,
        "val_loss": val_loss,
        "val_score": score,
        "seconds": seconds,
    }


def output_scores(task: Task, outputs: Tensor) -> np.ndarray:
    """Head outputs (n, K) -> scores: P(second class) (n, 1), probabilities (n, K), or values in range (n, K)."""
    values = outputs.double()
    if task.kind == "binary":
        return values.softmax(dim=1)[:, 1:].numpy()  # (n, 1)
    if task.kind == "classes":
        return values.softmax(dim=1).numpy()
    if task.kind == "multilabel":
        return values.sigmoid().numpy()
    middle, half = (torch.tensor(part, dtype=torch.float64) for part in task.scale)
    low, high = (torch.tensor(part, dtype=torch.float64) for part in task.limits)
    return (values * half + middle).clamp(low, high).numpy()


def reduced(config: TrainConfig, device: str) -> AbstractContextManager[object]:
    """bfloat16 products on float32 weights where the config asks for them. Nothing is cached: graphs are captured."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False)
