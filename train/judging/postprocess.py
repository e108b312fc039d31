"""After the head: smoothing, class-prior adjustment and thresholds of per-frame scores, and how they are chosen.

Whatever is chosen here is chosen on frames of training groups that the fold's head did not learn from (the part that
also chose its epoch), never on a tested frame. Every setting must beat "leave it alone" to be taken.

Axes: F frames of a track, K' score columns, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, median_low
from typing import Any

import numpy as np

from train.judging.evaluate import TrackScores, metric_input
from train.judging.kinds import metric_for
from train.tasks import Task

# The mildest setting first, so that a tie leaves scores alone. HSEmotion's sweeps peak at 50 frames for VA and EXPR.
HALF_WIDTHS = (0, 2, 5, 10, 15, 25, 50, 100)
THRESHOLDS = tuple(sorted((round(0.05 * k, 2) for k in range(1, 20)), key=lambda t: abs(t - 0.5)))
PRIOR_STRENGTHS = (0.0, 0.25, -0.25, 0.5, -0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class PostProcess:
    """Settings of one fold.

    Attributes:
        half_widths: frames on each side that are averaged, one per score column; all equal but for a regression.
        thresholds: one per score column of a yes/no task; empty for the others.
        prior: share of each class among the labels that the head learned from; empty but for a task of classes.
        prior_strength: tau of score - tau * log(prior); 0 leaves the scores alone.
    """

    half_widths: tuple[int, ...]
    thresholds: tuple[float, ...] = ()
    prior: tuple[float, ...] = ()
    prior_strength: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PostProcess:
        """Inverse of ``to_dict``."""
        lists = {key: tuple(values[key]) for key in ("half_widths", "thresholds", "prior")}
        return cls(**lists, prior_strength=values["prior_strength"])


def smooth(scores: np.ndarray, half_width: int) -> np.ndarray:
    """Box mean over frames [t - d, t + d] of one track, over those that exist and have a score.

    Args:
        scores: float (F, K'); NaN: no window covers the frame. Such frames stay NaN and enter no mean.
        half_width: d, 0 or more.

    Returns:
        float64 (F, K').
    """
    scores = np.asarray(scores, np.float64)
    if half_width <= 0:
        return scores
    known = np.isfinite(scores)
    num_frames = len(scores)
    first = np.maximum(np.arange(num_frames) - half_width, 0)
    stop = np.minimum(np.arange(num_frames) + half_width + 1, num_frames)
    total, count = (
        np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(part, axis=0)])  # (F + 1, K')
        for part in (np.where(known, scores, 0.0), known.astype(np.float64))
    )
    means = (total[stop] - total[first]) / np.maximum(count[stop] - count[first], 1)
    # A difference of running sums may leave the range of what it averages by a rounding error.
    low, high = np.where(known, scores, np.inf).min(axis=0), np.where(known, scores, -np.inf).max(axis=0)
    return np.where(known, np.clip(means, low, high), np.nan)


def adjust_prior(scores: np.ndarray, prior: Sequence[float], strength: float) -> np.ndarray:
    """Class-prior logit adjustment: softmax(log p - tau log prior), Menon et al. 2021 (arXiv:2007.07314), eq. 9.

    Args:
        scores: float64 (F, C) probabilities.
        prior: (C,) shares above 0.
        strength: tau; positive values favour rare classes.
    """
    if not strength:
        return scores
    logits = np.log(np.maximum(scores, 1e-12)) - strength * np.log(np.asarray(prior))  # (F, C)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def apply(task: Task, settings: PostProcess, scores: np.ndarray) -> np.ndarray:
    """Post-processed scores of one track: (F, K') float64, NaN where there was no score.

    Probabilities stay probabilities for a task of classes; yes/no tasks become decisions 0 and 1; a regression stays
    in its range.
    """
    widths = settings.half_widths
    if len(set(widths)) == 1:
        smoothed = smooth(scores, widths[0])
    else:
        smoothed = np.hstack([smooth(scores[:, k : k + 1], width) for k, width in enumerate(widths)])
    if task.kind == "classes":
        return adjust_prior(smoothed, settings.prior, settings.prior_strength)
    if task.kind == "regression":
        return np.clip(smoothed, *task.limits)
    return np.where(np.isfinite(smoothed), (smoothed > np.asarray(settings.thresholds)).astype(np.float64), np.nan)


def apply_all(task: Task, settings: PostProcess, results: Sequence[TrackScores]) -> list[TrackScores]:
    """``apply`` on every track."""
    return [TrackScores(r.track, apply(task, settings, r.scores), r.fold) for r in results]


def identity(task: Task) -> PostProcess:
    """Settings that leave scores alone; yes/no tasks are decided at 0.5."""
    num = len(task.score_names)
    thresholds = (0.5,) * num if task.kind in ("binary", "multilabel") else ()
    prior = (1 / num,) * num if task.kind == "classes" else ()
    return PostProcess((0,) * num, thresholds, prior)


def tune(task: Task, results: Sequence[TrackScores], prior: Sequence[float] = ()) -> PostProcess:
    """The settings with the best official score on some tracks; of equally good ones the mildest.

    A regression takes the best width for each value, a yes/no task one width and the best threshold for each unit, a
    task of classes one width and one prior strength.

    Args:
        task: what was predicted.
        results: raw scores of tracks that no fold's test part holds.
        prior: from train/fit/priors.py, for a task of classes.

    Returns:
        ``identity(task)`` where nothing can be measured (no labelled frame has a score).
    """
    usable = [np.isfinite(r.labels).all(axis=1) & np.isfinite(r.scores).all(axis=1) for r in results]  # (F,) each
    if not any(mask.any() for mask in usable):
        return identity(task)
    labels = np.concatenate([r.labels[m] for r, m in zip(results, usable, strict=True)])  # (n, K)

    def smoothed(half_width: int) -> np.ndarray:
        return np.concatenate([smooth(r.scores, half_width)[m] for r, m in zip(results, usable, strict=True)])

    tuners: Mapping[str, Callable[..., PostProcess]] = {"regression": _tune_widths, "classes": _tune_prior}
    return tuners.get(task.kind, _tune_thresholds)(task, smoothed, labels, tuple(prior))


def combine(task: Task, settings: Sequence[PostProcess]) -> PostProcess:
    """One setting for the mean over the heads of several folds: medians, and the mean of the priors.

    The median keeps a width and a threshold of the grid; a fold that went astray does not move it.
    """
    if not settings:
        return identity(task)
    columns = range(len(settings[0].half_widths))
    prior = np.mean([s.prior for s in settings], axis=0).tolist() if settings[0].prior else []
    return PostProcess(
        tuple(median_low([s.half_widths[k] for s in settings]) for k in columns),
        tuple(median_low([s.thresholds[k] for s in settings]) for k in columns) if settings[0].thresholds else (),
        tuple(prior),
        float(median(s.prior_strength for s in settings)),
    )


# ------------------------------------------------------------------ the searches


def _score(task: Task, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return metric_for(task).scores(metric_input(task, scores), metric_input(task, labels))


def _tune_widths(
    task: Task, smoothed: Callable[[int], np.ndarray], labels: np.ndarray, prior: tuple[float, ...]
) -> PostProcess:
    best, widths = np.full(len(task.label_names), -np.inf), [0] * len(task.label_names)
    for half_width in HALF_WIDTHS:
        scores = _score(task, smoothed(half_width), labels)
        for k, name in enumerate(task.label_names):
            if scores[f"ccc_{name}"] > best[k]:
                best[k], widths[k] = scores[f"ccc_{name}"], half_width
    return PostProcess(tuple(widths))


def _tune_prior(
    task: Task, smoothed: Callable[[int], np.ndarray], labels: np.ndarray, prior: tuple[float, ...]
) -> PostProcess:
    num = len(task.score_names)
    best, chosen = -np.inf, identity(task)
    for half_width in HALF_WIDTHS:
        scores = smoothed(half_width)
        for strength in PRIOR_STRENGTHS if prior else (0.0,):
            value = _score(task, adjust_prior(scores, prior, strength), labels)[task.metric]
            if value > best:
                best, chosen = value, PostProcess((half_width,) * num, (), prior or chosen.prior, strength)
    return chosen


def _tune_thresholds(
    task: Task, smoothed: Callable[[int], np.ndarray], labels: np.ndarray, prior: tuple[float, ...]
) -> PostProcess:
    best, chosen = -np.inf, identity(task)
    for half_width in HALF_WIDTHS:
        scores = smoothed(half_width)  # (n, K')
        columns = [_threshold_scores(task, scores[:, k], labels[:, k]) for k in range(scores.shape[1])]
        at = [int(np.argmax(values)) for values in columns]  # of equally good ones the first, 0.5 before all
        value = float(np.mean([values[i] for values, i in zip(columns, at, strict=True)]))
        if value > best:
            best = value
            chosen = PostProcess((half_width,) * len(columns), tuple(THRESHOLDS[i] for i in at))
    return chosen


def _threshold_scores(task: Task, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Score of one column (n,) at every threshold: F1 of "present", for a binary task the mean F1 of both classes."""
    found = np.zeros(len(THRESHOLDS))
    positives = labels.sum()
    for i, threshold in enumerate(THRESHOLDS):
        decided = scores > threshold
        hits, marked = float(labels[decided].sum()), float(decided.sum())
        sides = [(hits, marked + positives)]
        if task.kind == "binary":
            negatives = len(labels) - positives
            sides.append((negatives - (marked - hits), len(labels) - marked + negatives))
        found[i] = np.mean([2 * tp / total if total else 0.0 for tp, total in sides])
    return found
