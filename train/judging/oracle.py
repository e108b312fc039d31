"""What one label per window can reach at best: the mean of a window's true labels, used as its prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.windows import WindowSpec
from train.data.labels import Track
from train.judging.evaluate import TrackScores, frame_scores
from train.tasks import Task


def oracle_frames(task: Task, tracks: Sequence[Track], size: int, stride: int) -> list[TrackScores]:
    """Window means of the true labels, laid onto frames as a head's outputs are.

    A window's prediction is the mean over its valid frames (of a task of classes: the share of each class), whatever
    their number; overlapping windows are averaged. Windows without a valid frame predict nothing.

    Args:
        task: which labels.
        tracks: with labels (F, K), NaN = masked.
        size, stride: of the windows, in frames.
    """
    spec = WindowSpec(size, stride, {"label": 1})
    return [TrackScores(track, _oracle(task, track.labels, spec), -1) for track in tracks]


def _oracle(task: Task, labels: np.ndarray, spec: WindowSpec) -> np.ndarray:
    """(F, K) labels -> (F, K') scores."""
    if not len(labels):
        return np.full((0, len(task.score_names)), np.nan)
    valid = np.isfinite(labels).all(axis=1)  # (F,)
    if task.kind == "classes":
        values = (labels[:, :1] == np.arange(task.outputs)).astype(np.float64)  # (F, C)
    else:
        values = labels.astype(np.float64)
    values = np.where(valid[:, None], values, 0.0)  # masked before any sum
    starts = spec.starts(len(labels))
    stops = np.minimum(starts + spec.size, len(labels))
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    count = np.concatenate([[0], np.cumsum(valid)])
    known = count[stops] > count[starts]  # (N,)
    starts, stops = starts[known], stops[known]
    means = (total[stops] - total[starts]) / (count[stops] - count[starts])[:, None]  # (N, K')
    return frame_scores(means, starts, stops, len(labels))
