"""Cross-validation: which tracks teach, choose and test in every fold, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from train.config import TrainConfig
from train.data import Features, Windows
from train.evaluate import TrackScores, evaluate_frames, evaluate_windows, tracks_to_frames
from train.folds import UNUSED, fold_column, group_folds, inner_validation, official_split, quantile_strata
from train.labels import Track
from train.loop import fit, predict, save_model
from train.runs import Run, load_model, read_json, write_json
from train.tasks import Task


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
    histories: list[list[dict[str, float]]] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)


def assign_folds(config: TrainConfig, tracks: Sequence[Track]) -> np.ndarray:
    """int64 (tracks,): the fold that tests a track; ALWAYS_TRAIN and UNUSED as in train/folds.py."""
    groups = [t.group for t in tracks]
    if config.folds == "official":
        return official_split([t.split for t in tracks], groups)
    if config.folds == "column":
        return fold_column([t.fold for t in tracks], groups)
    return group_folds(groups, _strata(tracks), config.num_folds, config.seed)


def _strata(tracks: Sequence[Track]) -> np.ndarray:
    """Strata by the mean label of each track, so that folds are alike."""
    means = np.full((len(tracks), tracks[0].labels.shape[1]), np.nan)
    for i, track in enumerate(tracks):
        valid = track.labels[np.isfinite(track.labels).all(axis=1)]
        if len(valid):
            means[i] = valid.mean(axis=0)
    return quantile_strata(means)


def cross_validate(
    task: Task,
    config: TrainConfig,
    features: Features,
    tracks: Sequence[Track],
    windows: Windows,
    folds: np.ndarray,
    *,
    run: Run | None = None,
    device: str = "cpu",
    on_epoch: Callable[[int, dict[str, float]], None] = lambda fold, row: None,
) -> CrossValidation:
    """Train and test every fold. With ``run``, folds already in its folder are not trained again."""
    result = CrossValidation()
    for fold in sorted({int(f) for f in folds if f >= 0}):
        test, train, val = split_windows(config, tracks, windows, folds, fold)
        model, best_epoch, history = _train_fold(
            task, config, features, windows, train, val, fold, run, device, on_epoch
        )
        scores = predict(task, model, features, windows, device)  # (W, K')
        frames = tracks_to_frames(tracks, windows, scores, test, fold)
        usable = test & windows.labelled
        result.frames += frames
        result.fold_frames.append(evaluate_frames(task, frames)["value"])
        result.fold_windows.append(evaluate_windows(task, scores[usable], windows.labels[usable])[task.metric])
        result.histories.append(history)
        result.best_epochs.append(best_epoch)
    return result


def split_windows(
    config: TrainConfig, tracks: Sequence[Track], windows: Windows, folds: np.ndarray, fold: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows that test, teach and choose the epoch in one fold: bool (W,) each, disjoint in groups."""
    groups = [t.group for t in tracks]
    train = (folds != fold) & (folds != UNUSED)  # (tracks,)
    val = inner_validation(groups, train, _strata(tracks), config.val_fraction, config.seed + fold)
    return (folds == fold)[windows.track], (train & ~val)[windows.track], val[windows.track]


def constant_baseline(
    task: Task, config: TrainConfig, tracks: Sequence[Track], windows: Windows, folds: np.ndarray
) -> list[TrackScores]:
    """The floor: always the majority class, or the mean label, of the training windows."""
    frames = []
    for fold in sorted({int(f) for f in folds if f >= 0}):
        test, train, val = split_windows(config, tracks, windows, folds, fold)
        known = windows.labels[(train | val) & windows.labelled]  # (n, K)
        value = (known.mean(axis=0) > 0.5).astype(float) if task.kind == "binary" else known.mean(axis=0)
        scores = np.repeat(value[None], len(windows), axis=0).astype(np.float64)
        frames += tracks_to_frames(tracks, windows, scores, test, fold)
    return frames


def summarise(task: Task, result: CrossValidation, baselines: dict[str, float]) -> dict[str, Any]:
    """Contents of metrics.json."""
    pooled = evaluate_frames(task, result.frames)
    return {
        "task": task.name,
        "metric": pooled["metric"],
        "value": pooled["value"],
        "folds": result.fold_frames,
        "interval": pooled["interval"],
        "baselines": baselines,
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
    train: np.ndarray,
    val: np.ndarray,
    fold: int,
    run: Run | None,
    device: str,
    on_epoch: Callable[[int, dict[str, float]], None],
) -> tuple[Any, int, list[dict[str, float]]]:
    if run is not None and run.history(fold).exists():
        kept = read_json(run.history(fold))
        return load_model(task, config, features.dims, run.checkpoint(fold)), kept["best_epoch"], kept["history"]
    state_file = run.path / "checkpoints" / f"fold{fold + 1}.state.pt" if run else None
    done = fit(
        task,
        config,
        features,
        windows,
        train,
        val,
        fold=fold,
        device=device,
        state_file=state_file,
        on_epoch=lambda row: on_epoch(fold, row),
    )
    if run is not None and state_file is not None:
        save_model(done.model, run.checkpoint(fold))
        write_json(run.history(fold), {"best_epoch": done.best_epoch, "history": done.history})
        _write_curves(run, fold, done.history)
        state_file.unlink(missing_ok=True)
    return done.model, done.best_epoch, done.history


def _write_curves(run: Run, fold: int, history: list[dict[str, float]]) -> None:
    with SummaryWriter(str(run.path / "tensorboard" / f"fold{fold + 1}")) as writer:
        for row in history:
            for name in ("train_loss", "val_loss", "val_score"):
                writer.add_scalar(name, row[name], int(row["epoch"]))
