"""All folds in one program: train/fit/loop.py for several members at once, which know nothing of each other.

A member is a fold, or a fold with another seed, learning rate or decay; the shapes are the same. Every member has its
own windows, order, draws, early stopping and best epoch. The full batches of all run together; the last batch of a
member, which is smaller, runs by itself, so that no loss needs a mask. A member that has stopped changes no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.config import TrainConfig
from train.data.features import Features, Windows
from train.data.resident import gather_for
from train.fit.fitting import (
    Fit,
    Progress,
    draws_of,
    epoch_order,
    epoch_row,
    epoch_shares,
    labelled,
    new_objective,
    noise_seed,
    targets_of,
    weights_of,
)
from train.fit.fold_stack import FoldStack
from train.fit.objective import Objective
from train.heads.noise import Draws, Noise
from train.runs.checkpoints import load_state
from train.tasks import Task

# What makes a program of its own; members may differ in everything else.
SHARED_FIELDS = ("head", "head_options", "loss", "batch_size", "class_weights", "augment", "autoencode", "precision")


@dataclass(frozen=True, eq=False)
class Member:
    """One training among several; the arguments are those of ``train.fit.loop.fit``."""

    config: TrainConfig
    train: np.ndarray
    val: np.ndarray
    fold: int = 0
    state_file: Path | None = None
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None


@dataclass
class _Fold:
    """What a member knows of itself while it trains."""

    member: Member
    objective: Objective
    train_rows: Tensor
    val_rows: Tensor
    progress: Progress


def fit_together(
    task: Task,
    members: Sequence[Member],
    features: Features,
    windows: Windows,
    *,
    device: str = "cpu",
    capture: bool = True,
    compiled: bool = False,
) -> list[Fit]:
    """Train all members at once; each ends as `train.fit.loop.fit` alone would end it, up to rounding.

    Args:
        task: of all members.
        members: same head and sizes; rows of the history arrive at ``on_epoch`` epoch by epoch.
        features, windows: from train/data/features.py.
        device: where everything stays.
        capture: on a GPU, replay a step as a CUDA graph.
        compiled: put the step through ``torch.compile`` first (a minute or so for each number of members).

    Raises:
        ValueError: members that cannot share a program; otherwise as `train.fit.loop.fit`.
        RunError: as `train.fit.loop.fit`.
    """
    check_members(members)
    folds = [_new_fold(task, member, features, windows, device) for member in members]
    gather = gather_for(folds[0].objective.model.streams, features, windows, device)
    targets = targets_of(task, windows.labels).to(device)
    weights = [weights_of(task, f.member.config, targets[f.train_rows]) for f in folds]
    draws = draws_of(folds[0].objective, gather, targets)
    stack = FoldStack(
        [f.objective for f in folds],
        None if weights[0] is None else [w for w in weights if w is not None],
        gather,
        targets,
        draws,
        capture=capture and gather.tier == "device",  # else every batch passes through the host
        compiled=compiled,
    )
    for k, fold in enumerate(folds):
        _resume(stack, k, fold, device)

    running = list(folds)  # in the order of the stack's rows
    while any(not f.progress.ended(f.member.config) for f in running):
        running = _leave_out(stack, running, device)
        started = time.perf_counter()
        losses = _learn(stack, running, draws, device)
        rows = _choose(task, stack, running, windows.labels, losses, started)
        for k, (fold, row) in enumerate(zip(running, rows, strict=True)):
            if row is not None:
                _book(stack, k, fold, row)
    return [_finish(fold) for fold in folds]


def check_members(members: Sequence[Member]) -> None:
    """Refuse members of different shapes.

    Raises:
        ValueError: no member, or two that differ in a field that makes the program.
    """
    if not members:
        raise ValueError("nothing to train: no member was given")
    first = members[0].config
    for member in members:
        for name in SHARED_FIELDS:
            one, other = getattr(first, name), getattr(member.config, name)
            if one != other:
                raise ValueError(
                    f"what trains at once must have the same {name}; found {one!r} and {other!r}; train them apart"
                )


# ------------------------------------------------------------------ parts


def _new_fold(task: Task, member: Member, features: Features, windows: Windows, device: str) -> _Fold:
    train_rows = labelled(windows, member.train, "train on")
    val_rows = labelled(windows, member.val, "validate with")
    objective = new_objective(task, member.config, features, windows, train_rows, member.fold).to(device)
    return _Fold(member, objective, train_rows, val_rows, Progress())


def _resume(stack: FoldStack, k: int, fold: _Fold, device: str) -> None:
    """Put a member to where its state file left it, if there is one; members need not stand at the same epoch."""
    file = fold.member.state_file
    if file is None or not file.exists():
        return
    optimizer = torch.optim.AdamW(fold.objective.parameters())  # it knows how to read and check the file
    fold.progress = Progress(**load_state(file, vars(fold.progress), fold.objective, optimizer, device))
    state = optimizer.state_dict()["state"]
    stack.restore(k, dict(fold.objective.named_parameters()) | dict(fold.objective.named_buffers()), state)
    for row in fold.progress.history:
        fold.member.on_epoch(row)


def _leave_out(stack: FoldStack, running: list[_Fold], device: str) -> list[_Fold]:
    """Take members that have stopped off the stack.

    On a CPU at once. On a GPU a step should take as long for three as for five, and a smaller stack must be recorded
    again, so they stay, frozen, until half of the stack is idle.
    """
    left = [k for k, f in enumerate(running) if not f.progress.ended(f.member.config)]
    if len(left) == len(running) or (device != "cpu" and 2 * len(left) > len(running)):
        return running
    stack.keep(left)
    return [running[k] for k in left]


def _learn(stack: FoldStack, running: Sequence[_Fold], draws: Draws, device: str) -> list[float]:
    """One epoch of every member that has not stopped: mean training losses, NaN for the others."""
    size = running[0].member.config.batch_size
    orders = [_order(f) for f in running]  # (n,) each, empty where it has stopped
    full = [len(order) // size for order in orders]
    steps = max(full)
    plan = torch.zeros(steps, len(running), size, dtype=torch.long)  # (S, M, B)
    shares = torch.ones(steps + 1, len(running))
    for k, (fold, order) in enumerate(zip(running, orders, strict=True)):
        plan[:, k] = fold.train_rows[0]  # steps that do not count still run
        plan[: full[k], k] = order[: full[k] * size].view(-1, size)
        own = epoch_shares(fold.member.config, fold.member.fold, fold.progress.epoch, -(-len(order) // size))
        shares[: len(own), k] = own
    stack.begin(plan.to(device), shares[:steps].to(device), torch.tensor(full, device=device))
    seeds = [noise_seed(f.member.config, f.member.fold, f.progress.epoch, last=False) for f in running]
    stack.run(seeds, steps)
    # ------------------------------------------------------------ last batches, one by one
    noise = Noise(draws, len(running), device)
    noise.seed([noise_seed(f.member.config, f.member.fold, f.progress.epoch, last=True) for f in running])
    uniforms, normals = noise.rows(0)
    on = torch.ones(1, dtype=torch.bool, device=device)
    for k, order in enumerate(orders):
        if len(rest := order[full[k] * size :].to(device)):
            which = slice(k, k + 1)
            stack.learn(rest[None], uniforms[which], normals[which], shares[full[k], which].to(device), on, which)
    return [float(t) / max(1, len(order)) for t, order in zip(stack.total.cpu(), orders, strict=True)]


def _order(fold: _Fold) -> Tensor:
    if fold.progress.ended(fold.member.config):
        return fold.train_rows[:0]
    return epoch_order(fold.member.config, fold.member.fold, fold.progress.epoch, fold.train_rows)


def _choose(
    task: Task,
    stack: FoldStack,
    running: Sequence[_Fold],
    labels: np.ndarray,
    losses: Sequence[float],
    started: float,
) -> list[dict[str, float] | None]:
    """Rows of the epoch, None for members that had stopped; validation windows of all members run together."""
    longest = max(len(f.val_rows) for f in running)
    index = torch.stack(
        [torch.nn.functional.pad(f.val_rows, (0, longest - len(f.val_rows))) for f in running]
    )  # (M, n)
    outputs = stack.outputs(index.to(stack.device))  # (M, n, K)
    rows: list[dict[str, float] | None] = []
    val_losses = [
        stack.task_loss(k, outputs[k, : len(f.val_rows)], f.val_rows.to(stack.device)) for k, f in enumerate(running)
    ]
    host = outputs.cpu()
    for k, fold in enumerate(running):
        own, progress = host[k, : len(fold.val_rows)], fold.progress
        if progress.ended(fold.member.config):
            rows.append(None)
            continue
        wanted, val_loss = labels[fold.val_rows.numpy()], float(val_losses[k])
        row = epoch_row(task, progress.epoch, fold.member.fold, losses[k], own, wanted, val_loss, 0.0)
        rows.append(row)
    seconds = time.perf_counter() - started
    return [None if row is None else row | {"seconds": seconds} for row in rows]


def _book(stack: FoldStack, k: int, fold: _Fold, row: dict[str, float]) -> None:
    """Note an epoch of a member, and store it."""
    member, progress = fold.member, fold.progress
    state = stack.state_dict(k)
    progress.add(row, lambda: {n.removeprefix("model."): v for n, v in state.items() if n.startswith("model.")})
    if member.state_file is not None:
        progress.save(member.state_file, state, stack.optimizer_state(k))
    member.on_epoch(row)


def _finish(fold: _Fold) -> Fit:
    """The head with the weights of its best epoch."""
    model, progress = fold.objective.model, fold.progress
    assert progress.best is not None  # there is at least one epoch
    model.load_state_dict(progress.best)
    return Fit(model.eval(), progress.best_epoch, progress.history)
