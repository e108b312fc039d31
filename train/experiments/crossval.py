"""Cross-validation: which tracks teach, choose and test in every fold, and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from train.config import RANDOM_WINDOWS, TrainConfig
from train.data.features import Features, Windows
from train.data.labels import Track
from train.data.tracks import LeftOut
from train.fit.loop import predict
from train.fit.priors import class_prior
from train.fit.train_folds import Epochs, OnEpoch, Split, train_one_by_one, train_together
from train.judging.evaluate import (
    TrackScores,
    constant_scores,
    evaluate_frames,
    evaluate_windows,
    tracks_to_frames,
)
from train.judging.folds import (
    SCATTERED,
    TESTED_SPLITS,
    UNUSED,
    FoldError,
    fold_column,
    group_folds,
    inner_validation,
    official_split,
    quantile_strata,
    random_folds,
)
from train.judging.postprocess import PostProcess, apply_all, combine, tune
from train.runs.folder import Run
from train.tasks import Task


@dataclass
class CrossValidation:
    """Out-of-fold results of one head.

    Attributes:
        frames: per-frame scores of every tested track, by the fold that had not seen it.
        processed: the same after post-processing, with the settings of each track's fold.
        settings: post-processing of each fold, chosen on its validation part.
        fold_frames, fold_windows, fold_processed: official score per fold, over frames, over windows, and over frames
            after post-processing.
        histories: epochs of each fold.
        best_epochs: 0-based epoch kept in each fold.
    """

    frames: list[TrackScores] = field(default_factory=list)
    processed: list[TrackScores] = field(default_factory=list)
    settings: list[PostProcess] = field(default_factory=list)
    fold_frames: list[float] = field(default_factory=list)
    fold_windows: list[float] = field(default_factory=list)
    fold_processed: list[float] = field(default_factory=list)
    histories: list[Epochs] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)


def assign_folds(config: TrainConfig, tracks: Sequence[Track]) -> np.ndarray:
    """int64 (tracks,): the fold that tests a track; ALWAYS_TRAIN, UNUSED and SCATTERED as in train/judging/folds.py."""
    if config.folds == RANDOM_WINDOWS:
        return np.full(len(tracks), SCATTERED)
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


def _strata(tracks: Sequence[Track], which: np.ndarray | None = None) -> np.ndarray:
    """Strata by the mean label of each track, so that folds are alike; of the tracks in ``which`` alone, if given."""
    means = np.full((len(tracks), tracks[0].labels.shape[1]), np.nan)
    for i, track in enumerate(tracks):
        valid = track.labels[np.isfinite(track.labels).all(axis=1)]
        if len(valid) and (which is None or which[i]):
            means[i] = valid.mean(axis=0)
    if means.shape[1] > 2:  # 2 ** 12 strata of action units would each hold a track or none
        means = means.mean(axis=1, keepdims=True)
    return quantile_strata(means)


def split_windows(config: TrainConfig, tracks: Sequence[Track], windows: Windows, folds: np.ndarray) -> list[Split]:
    """The windows that test, teach and choose the epoch in every fold.

    Raises:
        FoldError: a part of a fold has no labelled window, or too few groups.
    """
    if config.folds == RANDOM_WINDOWS:
        return _check_labelled(_random_splits(config, len(windows)), windows)
    groups, splits = [t.group for t in tracks], []
    for fold in sorted({int(f) for f in folds if f >= 0}):
        train = (folds != fold) & (folds != UNUSED)  # (tracks,)
        # Strata from training labels alone: a tested label must not even say which groups choose epoch and thresholds.
        val = inner_validation(groups, train, _strata(tracks, train), config.val_fraction, config.seed + fold)
        masks = {"test": folds == fold, "train": train & ~val, "val": val}
        splits.append(Split(fold, **{name: mask[windows.track] for name, mask in masks.items()}))
    return _check_labelled(splits, windows)


def _random_splits(config: TrainConfig, num_windows: int) -> list[Split]:
    """Every window in a fold of its own choice, and validation windows at random among the others."""
    home, splits = random_folds(num_windows, config.num_folds, config.seed), []
    for fold in range(config.num_folds):
        test = home == fold  # (W,)
        val = np.zeros(num_windows, bool)
        val[~test] = random_folds(int((~test).sum()), max(2, round(1 / config.val_fraction)), config.seed + fold) == 0
        splits.append(Split(fold, test, ~test & ~val, val))
    return splits


def _check_labelled(splits: list[Split], windows: Windows) -> list[Split]:
    for split in splits:
        for name in ("test", "train", "val"):
            if not (getattr(split, name) & windows.labelled).any():
                raise FoldError(
                    f"fold {split.fold + 1} has no labelled window to {name} on; use fewer folds or more labels"
                )
    return splits


def out_of_fold(
    tracks: Sequence[Track], windows: Windows, splits: Sequence[Split], scores: Sequence[np.ndarray]
) -> list[TrackScores]:
    """Per-frame scores of every tested track, each window scored by the fold that tests it.

    Args:
        tracks: of the windows.
        windows: all of them.
        splits: where two of them test windows of one track, a frame gets the mean over the windows of all folds.
        scores: float (W, K') per split.
    """
    if not is_scattered(windows, splits):
        parts = [
            tracks_to_frames(tracks, windows, own, split.test, split.fold)
            for split, own in zip(splits, scores, strict=True)
        ]
        return [one for part in parts for one in part]
    pooled = np.full_like(np.asarray(scores[0], np.float64), np.nan)  # (W, K')
    for split, own in zip(splits, scores, strict=True):
        pooled[split.test] = own[split.test]
    tested = np.any([split.test for split in splits], axis=0)  # (W,)
    return tracks_to_frames(tracks, windows, pooled, tested, SCATTERED)


def is_scattered(windows: Windows, splits: Sequence[Split]) -> bool:
    """Whether two folds test windows of one track."""
    homes = [np.unique(windows.track[split.test]) for split in splits]
    return len(np.unique(np.concatenate(homes))) < sum(map(len, homes))


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
    together: bool = False,
    on_epoch: OnEpoch = lambda fold, row: None,
) -> CrossValidation:
    """Train and test every fold, one by one or all at once, with the same scores up to rounding.

    With ``run``, folds already in its folder are not trained again.
    """
    result, outputs = CrossValidation(), []
    train_folds = train_together if together else train_one_by_one
    fits = train_folds(task, config, features, windows, splits, run, device, on_epoch)
    for split, done in zip(splits, fits, strict=True):
        model = done.model
        scores = predict(task, model, features, windows, device)  # (W, K')
        frames = tracks_to_frames(tracks, windows, scores, split.test, split.fold)
        settings = tune_fold(task, tracks, windows, scores, split)
        processed = apply_all(task, settings, frames)
        usable = split.test & windows.labelled
        result.frames += frames
        result.processed += processed
        result.settings.append(settings)
        result.fold_processed.append(evaluate_frames(task, processed)["value"])
        result.fold_frames.append(evaluate_frames(task, frames)["value"])
        result.fold_windows.append(evaluate_windows(task, scores[usable], windows.labels[usable])[task.metric])
        result.histories.append(done.history)
        result.best_epochs.append(done.best_epoch)
        outputs.append(scores)
    if is_scattered(windows, splits):
        result.frames = out_of_fold(tracks, windows, splits, outputs)
        result.processed = apply_all(task, combine(task, result.settings), result.frames)
    return result


def tune_fold(task: Task, tracks: Sequence[Track], windows: Windows, scores: np.ndarray, split: Split) -> PostProcess:
    """Post-processing of one fold, from its validation part alone; the class prior from what the head learned from."""
    val_frames = tracks_to_frames(tracks, windows, scores, split.val, split.fold)
    return tune(task, val_frames, class_prior(task, windows.labels[split.train & windows.labelled]))


def constant_baseline(
    task: Task, tracks: Sequence[Track], windows: Windows, splits: Sequence[Split]
) -> list[TrackScores]:
    """The floor: always the majority class, or the mean label, of the training windows."""
    scores = []
    for split in splits:
        known = windows.labels[(split.train | split.val) & windows.labelled]  # (n, K)
        scores.append(np.repeat(constant_scores(task, known)[None], len(windows), axis=0))  # (W, K')
    return out_of_fold(tracks, windows, splits, scores)
