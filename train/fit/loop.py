"""The training loop, one plain function: windows in, the best head out.

train/fit/together.py does the same for all folds in one program; this is what it is held against.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.names import unknown_name
from shared.process.devices import DEVICES, why_unseen
from train.config import TrainConfig
from train.data.features import Features, Windows
from train.data.resident import gather_for
from train.fit.fitting import (
    EVAL_BATCH,
    Fit,
    Gather,
    Progress,
    draws_of,
    epoch_order,
    epoch_row,
    epoch_shares,
    labelled,
    new_objective,
    noise_seed,
    output_scores,
    reduced,
    targets_of,
    weights_of,
)
from train.heads.noise import Noise, Tape, drawing_from
from train.heads.standardize import HeadModel
from train.runs.checkpoints import load_state
from train.tasks import Task


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
        features, windows: from train/data/features.py.
        train, val: bool (W,), windows to learn from and to choose the epoch by; only labelled ones are used.
        fold: enters the seed.
        state_file: where to keep the state after each epoch, to resume from.
        on_epoch: called with each row of the history, first with those of the part that was resumed.

    Raises:
        ValueError: no labelled window to train on or to validate with, a loss for another task, or a loss that became
            infinite.
        RunError: ``state_file`` is not the state of this fold.
    """
    train_rows, val_rows = labelled(windows, train, "train on"), labelled(windows, val, "validate with")
    objective = new_objective(task, config, features, windows, train_rows, fold).to(device)
    model = objective.model
    gather = gather_for(model.streams, features, windows, device)
    targets = targets_of(task, windows.labels).to(device)
    class_weights = weights_of(task, config, targets[train_rows])
    noise = Noise(draws_of(objective, gather, targets), 1, device)
    # fused: one kernel for all parameters; the loop over them was a seventh of a step on a CPU.
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    progress = Progress()
    if state_file is not None and state_file.exists():
        progress = Progress(**load_state(state_file, vars(progress), objective, optimizer, device))
        for row in progress.history:
            on_epoch(row)

    while not progress.ended(config):
        started, epoch = time.perf_counter(), progress.epoch
        # ------------------------------------------------------------ learn
        order = epoch_order(config, fold, epoch, train_rows).to(device)
        batches = order.split(config.batch_size)
        shares = epoch_shares(config, fold, epoch, len(batches)).to(device)
        noise.seed([noise_seed(config, fold, epoch, last=False)])
        objective.train()
        total = torch.zeros((), device=device)
        for step, index in enumerate(batches):
            if last := len(index) < config.batch_size:
                noise.seed([noise_seed(config, fold, epoch, last=True)])
            uniforms, normals = noise.rows(0 if last else step)
            with drawing_from(Tape(uniforms[0], normals[0], shares[step])), reduced(config, device):
                loss = objective(gather(index), targets[index], class_weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        # ------------------------------------------------------------ choose
        outputs = run_model(model, gather, val_rows.to(device))  # (n, K)
        val_loss = objective.task_loss(outputs.to(device), targets[val_rows], class_weights)
        labels, seconds = windows.labels[val_rows.numpy()], time.perf_counter() - started
        row = epoch_row(task, epoch, fold, float(total) / len(order), outputs, labels, float(val_loss), seconds)
        progress.add(row, lambda: {k: v.detach().clone() for k, v in model.state_dict().items()})
        progress.save(state_file, objective.state_dict(), optimizer.state_dict())
        on_epoch(row)

    assert progress.best is not None  # there is at least one epoch
    model.load_state_dict(progress.best)
    return Fit(model.eval(), progress.best_epoch, progress.history)


def predict(task: Task, model: HeadModel, features: Features, windows: Windows, device: str = "cpu") -> np.ndarray:
    """Scores of every window: float64 (W, K'), as ``task.score_names``."""
    model = model.to(device).eval()
    gather = gather_for(model.streams, features, windows, device)
    return output_scores(task, run_model(model, gather, torch.arange(len(windows), device=device)))


@torch.inference_mode()
def run_model(model: HeadModel, gather: Gather, index: Tensor) -> Tensor:
    """Outputs of the windows ``index`` (n,): float32 (n, K) on the host."""
    model.eval()
    parts = index.split(EVAL_BATCH[index.device.type])
    return torch.cat([model(gather(part))["output"].float() for part in parts]).cpu()  # (n, K)


def pick_device(name: str) -> str:
    """ "auto" takes a GPU if torch sees one, "gpu" (or "cuda", as torch calls it) insists on it.

    Raises:
        ValueError: an unknown name, or a GPU that is not there; says why.
    """
    known = (*DEVICES, "cuda")
    if name not in known:
        raise ValueError(unknown_name("device", name, known))
    seen = torch.cuda.is_available()
    if name in ("gpu", "cuda") and not seen:
        built = None if torch.version.cuda else "it is a build without CUDA"
        why = built or why_unseen() or 'this says why: python -c "import torch; torch.cuda.init()"'
        raise ValueError(f"--device {name}, but torch sees no GPU: {why}. Or train on the CPU: --device cpu")
    return "cuda" if name != "cpu" and seen else "cpu"
