"""Training of the folds of a cross-validation, one by one or all at once; what is trained stays in the run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from train.config import TrainConfig
from train.data.features import Features, Windows
from train.fit.fitting import Fit
from train.fit.loop import fit
from train.fit.together import Member, fit_together
from train.runs.checkpoints import load_model, save_model
from train.runs.files import file_sha256, read_json, write_json
from train.runs.folder import Run
from train.tasks import Task

Epochs = list[dict[str, float]]
OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, eq=False)
class Split:
    """The windows of one fold: bool (W,) each, disjoint in groups (random windows: disjoint, no more).

    Attributes:
        fold: 0-based.
        test: scored, never seen in training.
        train: what the head learns from.
        val: what chooses the epoch.
    """

    fold: int
    test: np.ndarray
    train: np.ndarray
    val: np.ndarray


def train_one_by_one(
    task: Task,
    config: TrainConfig,
    features: Features,
    windows: Windows,
    splits: Sequence[Split],
    run: Run | None,
    device: str,
    on_epoch: OnEpoch,
) -> Iterator[Fit]:
    """Train the folds as they are asked for, or read them from the run's folder."""
    for split in splits:
        done = _kept_fold(task, config, features, split, run, on_epoch)
        if done is None:
            done = fit(
                task,
                config,
                features,
                windows,
                split.train,
                split.val,
                fold=split.fold,
                device=device,
                state_file=run.state(split.fold) if run else None,
                on_epoch=partial(on_epoch, split.fold),
            )
            _keep_fold(run, split.fold, done)
        yield done


def train_together(
    task: Task,
    config: TrainConfig,
    features: Features,
    windows: Windows,
    splits: Sequence[Split],
    run: Run | None,
    device: str,
    on_epoch: OnEpoch,
) -> Iterator[Fit]:
    """Train all folds that are not in the run's folder at once."""
    found = {split.fold: _kept_fold(task, config, features, split, run, on_epoch) for split in splits}
    members = [
        Member(
            config,
            split.train,
            split.val,
            split.fold,
            state_file=run.state(split.fold) if run else None,
            on_epoch=partial(on_epoch, split.fold),
        )
        for split in splits
        if found[split.fold] is None
    ]
    if members:
        fits = fit_together(task, members, features, windows, device=device)
        for member, done in zip(members, fits, strict=True):
            _keep_fold(run, member.fold, done)
            found[member.fold] = done
    yield from (done for done in found.values() if done is not None)


def _kept_fold(
    task: Task, config: TrainConfig, features: Features, split: Split, run: Run | None, on_epoch: OnEpoch
) -> Fit | None:
    """A fold from the run's folder, if it is trained. Its history is written last and says that it is."""
    if run is None or not run.history(split.fold).exists():
        return None
    kept = read_json(run.history(split.fold))
    for row in kept["history"]:
        on_epoch(split.fold, row)
    model = load_model(task, config, features.dims, run.checkpoint(split.fold))
    run.state(split.fold).unlink(missing_ok=True)
    return Fit(model, kept["best_epoch"], kept["history"])


def _keep_fold(run: Run | None, fold: int, done: Fit) -> None:
    """Write a trained fold into the run's folder."""
    if run is None:
        return
    save_model(done.model, run.checkpoint(fold))
    _write_curves(run, fold, done.history)
    weights = file_sha256(run.checkpoint(fold))
    write_json(run.history(fold), {"best_epoch": done.best_epoch, "history": done.history, "weights_sha256": weights})
    run.state(fold).unlink(missing_ok=True)


def _write_curves(run: Run, fold: int, history: Epochs) -> None:
    folder = run.path / "tensorboard" / f"fold{fold + 1}"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed before it could say that the fold is done
    with SummaryWriter(str(folder)) as writer:
        for row in history:
            for name in ("train_loss", "val_loss", "val_score"):
                writer.add_scalar(name, row[name], int(row["epoch"]))
