"""The training loop, one plain function: windows in, the best head out.

One seed is one result: weights, order of windows and dropout of epoch e depend on (seed, fold, e) alone, so a run that
was interrupted and resumed ends with the numbers of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.names import unknown_name
from train.checkpoints import build_model, load_state, save_state
from train.config import TrainConfig
from train.data import Features, Windows
from train.evaluate import evaluate_windows
from train.heads.standardize import HeadModel
from train.losses import class_weights, loss_for
from train.objective import decoders_for, training_loss
from train.tasks import Task

EVAL_BATCH = 512


@dataclass
class Fit:
    """A trained head.

    Attributes:
        model: with the weights of the best epoch.
        best_epoch: 0-based.
        history: one dict per epoch: epoch, train_loss (of what is trained: augmented, with the autoencoding term),
            val_loss (of the task alone), val_score, seconds.
    """

    model: HeadModel
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    task: Task,
    config: TrainConfig,
    features: Features,
    windows: Windows,
    train: np.ndarray,
    val: np.ndarray,
    *,
    fold: int = 0,
    device: str = "cpu",
    state_file: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> Fit:
    """Train one head with AdamW; keep the epoch with the best validation score; stop when it no longer improves.

    Args:
        features, windows: from train/data.py.
        train, val: bool (W,), windows to learn from and to choose the epoch by; only labelled ones are used.
        fold: enters the seed.
        state_file: where to keep the state after each epoch, to resume from.
        on_epoch: called with each row of the history, first with those of the part that was resumed.

    Raises:
        ValueError: no labelled window to train on or to validate with, a loss for another task, or a loss that became
            infinite.
        RunError: ``state_file`` is not the state of this fold.
    """
    train_rows, val_rows = _labelled(windows, train, "train on"), _labelled(windows, val, "validate with")
    model = _new_model(task, config, features, windows, train_rows, fold).to(device)
    decoders = decoders_for(config, model, features.dims).to(device)
    trained = nn.ModuleDict({"model": model, "decoders": decoders})
    gather = _gather(model, features, windows, device)
    targets = _targets(task, windows.labels).to(device)
    loss_of = _loss(task, config, targets[train_rows])
    # fused: one kernel for all parameters; the loop over them was a seventh of a step on a CPU.
    optimizer = torch.optim.AdamW(
        trained.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )

    state: dict[str, Any] = {"epoch": 0, "best": None, "best_epoch": -1, "best_score": -np.inf, "history": []}
    if state_file is not None and state_file.exists():
        state = load_state(state_file, state, trained, optimizer, device)
        for row in state["history"]:
            on_epoch(row)

    for epoch in range(state["epoch"], config.max_epochs):
        if epoch - state["best_epoch"] > config.patience and state["best_epoch"] >= 0:
            break
        started = time.perf_counter()
        # ------------------------------------------------------------ learn
        _seed(config.seed, fold, epoch + 1)
        order = train_rows[torch.randperm(len(train_rows))].to(device)
        trained.train()
        total = torch.zeros((), device=device)
        for index in order.split(config.batch_size):
            loss = training_loss(config, model, decoders, loss_of, gather(index), targets[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        train_loss = float(total) / len(order)
        if not np.isfinite(train_loss):
            raise ValueError(
                f"fold {fold + 1}: the training loss became {train_loss} in epoch {epoch + 1}; lower the learning rate"
            )
        # ------------------------------------------------------------ choose
        outputs = _run(model, gather, val_rows.to(device))  # (n, K)
        scores = evaluate_windows(task, output_scores(task, outputs), windows.labels[val_rows.numpy()])
        val_loss = float(loss_of(outputs.to(device), targets[val_rows]))
        row = {
            "epoch": epoch + 1,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "val_score": scores[task.metric],
            "seconds": time.perf_counter() - started,
        }
        state["history"].append(row)
        if scores[task.metric] > state["best_score"]:
            best = {k: v.detach().clone() for k, v in model.state_dict().items()}
            state |= {"best": best, "best_epoch": epoch, "best_score": float(scores[task.metric])}
        state |= {"epoch": epoch + 1, "model": trained.state_dict(), "optimizer": optimizer.state_dict()}
        if state_file is not None:
            save_state(state, state_file)
        on_epoch(row)

    model.load_state_dict(state["best"])
    return Fit(model.eval(), state["best_epoch"], state["history"])


def predict(task: Task, model: HeadModel, features: Features, windows: Windows, device: str = "cpu") -> np.ndarray:
    """Scores of every window: float64 (W, K'), as ``task.score_names``."""
    model = model.to(device).eval()
    gather = _gather(model, features, windows, device)
    return output_scores(task, _run(model, gather, torch.arange(len(windows), device=device)))


def output_scores(task: Task, outputs: Tensor) -> np.ndarray:
    """Head outputs (n, K) -> scores: P(second class) (n, 1), probabilities (n, K), or values in range (n, K)."""
    values = outputs.double()
    if task.kind == "binary":
        return values.softmax(dim=1)[:, 1:].numpy()  # (n, 1)
    if task.kind == "classes":
        return values.softmax(dim=1).numpy()
    if task.kind == "multilabel":
        return values.sigmoid().numpy()
    return values.clamp(*task.label_range).numpy()


def pick_device(name: str) -> str:
    """ "auto" takes a GPU if there is one.

    Raises:
        ValueError: an unknown name, or a GPU that is not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(unknown_name("device", name, ("auto", "cpu", "cuda")))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is visible to torch; use --device cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


# ------------------------------------------------------------------ parts


def _gather(
    model: HeadModel, features: Features, windows: Windows, device: str
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Window indices (B,) -> stream -> (B, T_s, D_s); features stay on the device, a batch is one gather per stream."""
    banks = {s: features.banks[s].to(device) for s in model.streams}  # (rows, D_s)
    rows = {s: windows.rows[s].to(device) for s in model.streams}  # (W, T_s)
    return lambda index: {s: banks[s][rows[s][index]] for s in model.streams}


def _new_model(
    task: Task, config: TrainConfig, features: Features, windows: Windows, train_rows: Tensor, fold: int
) -> HeadModel:
    _seed(config.seed, fold, 0)
    model = build_model(task, config, features.dims)
    for stream in model.streams:  # statistics of the training windows' frames, each frame once
        own = torch.unique(windows.rows[stream][train_rows])
        model.standardizers[stream].fit(features.banks[stream], own)  # type: ignore[operator]
    return model


def _labelled(windows: Windows, which: np.ndarray, purpose: str) -> Tensor:
    found = np.flatnonzero(which & windows.labelled)
    if not len(found):
        raise ValueError(f"no labelled window to {purpose}")
    return torch.from_numpy(found)


def _targets(task: Task, labels: np.ndarray) -> Tensor:
    if task.kind in ("binary", "classes"):
        return torch.from_numpy(np.nan_to_num(labels[:, 0], nan=0.0).astype(np.int64))  # (W,), masked never used
    return torch.from_numpy(labels)  # (W, K)


def _loss(task: Task, config: TrainConfig, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    loss = loss_for(task, config.loss)
    if task.kind == "regression" or not config.class_weights:
        return loss
    weights = class_weights(task, targets)
    return lambda outputs, wanted: loss(outputs, wanted, class_weights=weights.to(outputs.device))


@torch.inference_mode()
def _run(model: HeadModel, gather: Callable[[Tensor], dict[str, Tensor]], index: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model(gather(part))["output"].float().cpu() for part in index.split(EVAL_BATCH)])  # (n, K)


def _seed(seed: int, fold: int, epoch: int) -> None:
    words = np.random.SeedSequence([seed, fold, epoch]).generate_state(2, np.uint64)
    torch.manual_seed(int(words[0] >> 1))
