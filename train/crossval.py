"""Cross-validation: which tracks teach, choose and test in every fold, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from train.checkpoints import load_model, save_model
from train.config import TrainConfig
from train.data import Features, Windows
from train.evaluate import TrackScores, compare_frames, evaluate_frames, evaluate_windows, tracks_to_frames
from train.folds import (
    TESTED_SPLITS,
    UNUSED,
    FoldError,
    fold_column,
    group_folds,
    inner_validation,
    official_split,
    quantile_strata,
)
from train.heads.standardize import HeadModel
from train.labels import Track
from train.loop import fit, predict
from train.runs import Run, read_json, write_json
from train.tasks import Task
from train.tracks import LeftOut

Epochs = list[dict[str, float]]


@dataclass(frozen=True, eq=False)
class Split:
    """The windows of one fold: bool (W,) each, disjoint in groups.

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


@dataclass
class CrossValidation:
    """Out-of-fold results of one head.

    Attributes:
        frames: per-frame scores of every tested track, by the fold that had not seen it.
        fold_frames, fold_windows: official score per fold, over frames and over windows.
        histories: epochs of each fold.
        best_epochs: 0-based epoch kept in each fold.
    """

    frames: list[TrackScores] = field(default_factory=list)
    fold_frames: list[float] = field(default_factory=list)
    fold_windows: list[float] = field(default_factory=list)
    histories: list[Epochs] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)


def assign_folds(config: TrainConfig, tracks: Sequence[Track]) -> np.ndarray:
    """int64 (tracks,): the fold that tests a track; ALWAYS_TRAIN and UNUSED as in train/folds.py."""
    groups = [t.group for t in tracks]
    if config.folds == "official":
        return official_split([t.split for t in tracks], groups)
    if config.folds == "column":
        return fold_column([t.fold for t in tracks], groups)
    return group_folds(groups, _strata(tracks), config.num_folds, config.seed)


def untested_frames(config: TrainConfig, left_out: Sequence[LeftOut]) -> int:
    """Labelled frames that the folds would have tested, had there been features."""
    if config.folds == "official":
        return sum(one.frames for one in left_out if one.split in TESTED_SPLITS)
    if config.folds == "column":
        return sum(one.frames for one in left_out if one.fold is not None)
    return sum(one.frames for one in left_out)


def _strata(tracks: Sequence[Track]) -> np.ndarray:
    """Strata by the mean label of each track, so that folds are alike."""
    means = np.full((len(tracks), tracks[0].labels.shape[1]), np.nan)
    for i, track in enumerate(tracks):
        valid = track.labels[np.isfinite(track.labels).all(axis=1)]
        if len(valid):
            means[i] = valid.mean(axis=0)
    return quantile_strata(means)


def split_windows(config: TrainConfig, tracks: Sequence[Track], windows: Windows, folds: np.ndarray) -> list[Split]:
    """The windows that test, teach and choose the epoch in every fold.

    Raises:
        FoldError: a part of a fold has no labelled window, or too few groups.
    """
    groups, strata = [t.group for t in tracks], _strata(tracks)
    splits = []
    for fold in sorted({int(f) for f in folds if f >= 0}):
        train = (folds != fold) & (folds != UNUSED)  # (tracks,)
        val = inner_validation(groups, train, strata, config.val_fraction, config.seed + fold)
        masks = {"test": folds == fold, "train": train & ~val, "val": val}
        split = Split(fold, **{name: mask[windows.track] for name, mask in masks.items()})
        for name in masks:
            if not (getattr(split, name) & windows.labelled).any():
                raise FoldError(f"fold {fold + 1} has no labelled window to {name} on; use fewer folds or more labels")
        splits.append(split)
    return splits


def cross_validate(
    task: Task,
    config: TrainConfig,
    features: Features,
    tracks: Sequence[Track],
    windows: Windows,
    splits: Sequence[Split],
    *,
    run: Run | None = None,
    device: str = "cpu",
    on_epoch: Callable[[int, dict[str, float]], None] = lambda fold, row: None,
) -> CrossValidation:
    """Train and test every fold. With ``run``, folds already in its folder are not trained again."""
    result = CrossValidation()
    for split in splits:
        model, best_epoch, history = _train_fold(task, config, features, windows, split, run, device, on_epoch)
        scores = predict(task, model, features, windows, device)  # (W, K')
        frames = tracks_to_frames(tracks, windows, scores, split.test, split.fold)
        usable = split.test & windows.labelled
        result.frames += frames
        result.fold_frames.append(evaluate_frames(task, frames)["value"])
        result.fold_windows.append(evaluate_windows(task, scores[usable], windows.labels[usable])[task.metric])
        result.histories.append(history)
        result.best_epochs.append(best_epoch)
    return result


def constant_baseline(
    task: Task, tracks: Sequence[Track], windows: Windows, splits: Sequence[Split]
) -> list[TrackScores]:
    """The floor: always the majority class, or the mean label, of the training windows."""
    frames = []
    for split in splits:
        known = windows.labels[(split.train | split.val) & windows.labelled]  # (n, K)
        value = (known.mean(axis=0) > 0.5).astype(float) if task.kind == "binary" else known.mean(axis=0)
        scores = np.repeat(value[None], len(windows), axis=0).astype(np.float64)  # (W, K')
        frames += tracks_to_frames(tracks, windows, scores, split.test, split.fold)
    return frames


def summarise(
    task: Task, result: CrossValidation, baselines: Mapping[str, Sequence[TrackScores]], left_out: int = 0
) -> dict[str, Any]:
    """Contents of metrics.json.

    Args:
        task: what was predicted.
        result: of the main head.
        baselines: name -> scores of the same tracks.
        left_out: labelled frames that should have been tested, see ``untested_frames``.
    """
    pooled = evaluate_frames(task, result.frames, left_out=left_out)
    gaps = {name: compare_frames(task, result.frames, frames) for name, frames in baselines.items()}
    return {
        "task": task.name,
        "metric": pooled["metric"],
        "value": pooled["value"],
        "folds": result.fold_frames,
        "interval": pooled["interval"],
        "baselines": {name: evaluate_frames(task, frames)["value"] for name, frames in baselines.items()},
        "differences": {name: {"value": gap.value, "interval": [gap.low, gap.high]} for name, gap in gaps.items()},
        "mean": float(np.mean(result.fold_frames)),
        "std": float(np.std(result.fold_frames)),
        "windows": {
            "folds": result.fold_windows,
            "mean": float(np.mean(result.fold_windows)),
            "std": float(np.std(result.fold_windows)),
        },
        "scores": pooled["scores"],
        "intervals": pooled["intervals"],
        "coverage": pooled["coverage"],
        "num_frames": pooled["frames"],
        "num_videos": pooled["videos"],
        "best_epochs": [e + 1 for e in result.best_epochs],
    }


def _train_fold(
    task: Task,
    config: TrainConfig,
    features: Features,
    windows: Windows,
    split: Split,
    run: Run | None,
    device: str,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> tuple[HeadModel, int, Epochs]:
    """Train one fold, or read it from the run's folder. Its history is written last and says that it is trained."""
    fold = split.fold
    if run is not None and run.history(fold).exists():
        kept = read_json(run.history(fold))
        for row in kept["history"]:
            on_epoch(fold, row)
        model = load_model(task, config, features.dims, run.checkpoint(fold))
        run.state(fold).unlink(missing_ok=True)
        return model, kept["best_epoch"], kept["history"]
    done = fit(
        task,
        config,
        features,
        windows,
        split.train,
        split.val,
        fold=fold,
        device=device,
        state_file=run.state(fold) if run else None,
        on_epoch=lambda row: on_epoch(fold, row),
    )
    if run is not None:
        save_model(done.model, run.checkpoint(fold))
        _write_curves(run, fold, done.history)
        write_json(run.history(fold), {"best_epoch": done.best_epoch, "history": done.history})
        run.state(fold).unlink(missing_ok=True)
    return done.model, done.best_epoch, done.history


def _write_curves(run: Run, fold: int, history: Epochs) -> None:
    with SummaryWriter(str(run.path / "tensorboard" / f"fold{fold + 1}")) as writer:
        for row in history:
            for name in ("train_loss", "val_loss", "val_score"):
                writer.add_scalar(name, row[name], int(row["epoch"]))
