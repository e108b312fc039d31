"""Windows -> frames -> official metrics.

Every frame gets the mean of the outputs of all windows that cover it. Scores are pooled over all labelled frames of
all tested videos; the interval comes from resampling videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from train.data.features import Windows
from train.data.labels import Track, count_valid
from train.judging.bootstrap import Difference, bootstrap_interval, paired_bootstrap
from train.judging.kinds import metric_for
from train.judging.metrics import Pair
from train.tasks import Task

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class TrackScores:
    """Per-frame result of one track.

    Attributes:
        scores: float64 (F, K'), as ``task.score_names``: P(violent) for a binary task; NaN: no window covers it.
        labels: float32 (F, K), NaN = masked.
        fold: the fold that tested the track.
    """

    track: Track
    scores: np.ndarray
    fold: int

    @property
    def labels(self) -> np.ndarray:
        return self.track.labels


def frame_scores(outputs: np.ndarray, starts: np.ndarray, stops: np.ndarray, num_frames: int) -> np.ndarray:
    """Mean over the windows that cover a frame.

    Args:
        outputs: float (N, K'), one row per window.
        starts, stops: int64 (N,), windows cover frames [start, stop).

    Returns:
        float64 (F, K'), NaN for frames that no window covers.
    """
    total = np.zeros((num_frames + 1, outputs.shape[1]))
    cover = np.zeros(num_frames + 1)
    np.add.at(total, starts, outputs)
    np.subtract.at(total, stops, outputs)
    np.add.at(cover, starts, 1)
    np.subtract.at(cover, stops, 1)
    cover = np.cumsum(cover)[:-1, None]  # (F, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.cumsum(total, axis=0)[:-1] / cover  # (F, K')
    return np.where(cover > 0, mean, np.nan)


def tracks_to_frames(
    tracks: Sequence[Track], windows: Windows, scores: np.ndarray, which: np.ndarray, fold: int
) -> list[TrackScores]:
    """Per-frame scores of every track that has a window in ``which`` (bool (W,)); ``scores`` is (W, K')."""
    wanted = np.unique(windows.track[which])
    # Windows lie in order of their tracks, so a track's are one stretch; a mask per track would be quadratic.
    firsts = np.searchsorted(windows.track, wanted, side="left")
    lasts = np.searchsorted(windows.track, wanted, side="right")
    found = []
    for i, first, last in zip(wanted, firsts, lasts, strict=True):
        own = first + np.flatnonzero(which[first:last])
        frames = frame_scores(scores[own], windows.start[own], windows.stop[own], len(tracks[i].labels))
        found.append(TrackScores(tracks[i], frames, fold))
    return found


def evaluate_frames(
    task: Task, results: Sequence[TrackScores], seed: int = 0, *, left_out: int = 0, ranks: bool = False
) -> dict[str, Any]:
    """Official scores pooled over all labelled frames, with bootstrap intervals over videos and frame coverage.

    Args:
        task: what was predicted.
        results: every scored track.
        seed: of the bootstrap.
        left_out: labelled frames that should have been scored and are not in ``results``.
        ranks: with average precision and ROC AUC.

    Returns:
        ``value``: official score; ``interval``: its 95 % limits; ``scores``: all scores; ``intervals``; ``coverage``:
        share of labelled frames with a prediction; ``frames``, ``videos``: how many were scored.
    """
    metric = metric_for(task, ranks=ranks)
    videos = _videos(task, results)
    labelled = left_out + sum(count_valid(result.labels) for result in results)
    covered = sum(len(label) for _, label in videos)
    if not covered:
        raise ValueError("no labelled frame has a prediction")
    intervals = bootstrap_interval(metric, videos, NUM_RESAMPLES, seed)
    best = intervals[metric.primary]
    return {
        "metric": metric.primary,
        "value": best.value,
        "interval": [best.low, best.high],
        "scores": {name: i.value for name, i in intervals.items()},
        "intervals": {name: [i.low, i.high] for name, i in intervals.items()},
        "coverage": covered / labelled,
        "frames": covered,
        "videos": len(videos),
    }


def per_video(results: Sequence[TrackScores]) -> list[TrackScores]:
    """Labels of whole videos and the mean score of their frames, as tracks of one frame; of those that have both."""
    found = []
    for result in results:
        scored = np.isfinite(result.scores).all(axis=1)  # (F,)
        known = np.isfinite(result.labels).all(axis=1)
        if scored.any() and known.any():
            track = replace(result.track, labels=result.labels[known][:1])
            found.append(TrackScores(track, result.scores[scored].mean(axis=0, keepdims=True), result.fold))
    return found


def compare_frames(task: Task, ours: Sequence[TrackScores], other: Sequence[TrackScores], seed: int = 0) -> Difference:
    """Official score of ``ours`` minus that of ``other``, on the same drawn videos, so that hard videos cancel.

    Args:
        task: what was predicted.
        ours, other: the same tracks in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: the two hold different videos or labels.
    """
    metric = metric_for(task)
    return paired_bootstrap(metric, _videos(task, ours), _videos(task, other), NUM_RESAMPLES, seed)[metric.primary]


def _videos(task: Task, results: Sequence[TrackScores]) -> list[Pair]:
    """Predictions and labels of each video's usable frames: labelled, and covered by a window."""
    pairs: dict[str, list[Pair]] = {}
    for result in results:
        usable = np.isfinite(result.labels).all(axis=1) & np.isfinite(result.scores).all(axis=1)  # (F,)
        pair = (metric_input(task, result.scores[usable]), metric_input(task, result.labels[usable]))
        pairs.setdefault(result.track.video_id, []).append(pair)
    return [(np.concatenate([p for p, _ in own]), np.concatenate([y for _, y in own])) for own in pairs.values()]


def evaluate_windows(task: Task, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scores over windows (as the paper reports them), without ranks: scores (W, K'), labels (W, K)."""
    return metric_for(task).scores(metric_input(task, scores), metric_input(task, labels))


def metric_input(task: Task, values: np.ndarray) -> np.ndarray:
    """Scores (n, K') or labels (n, K) as the task's metric takes them.

    (n,) for a binary task, and for labels of a task of classes; (n, K) stays for the others.
    """
    return values[:, 0] if task.kind in ("binary", "classes") and values.shape[1] == 1 else values


def constant_scores(task: Task, known: np.ndarray) -> np.ndarray:
    """The floor: what always says the same after seeing labels (n, K) -> scores (K',).

    The mean of a regression; the majority of a yes/no label; the shares of classes, whose argmax is the majority.
    """
    if task.kind == "classes":
        return (known[:, :1] == np.arange(task.outputs)).mean(axis=0)
    mean = known.mean(axis=0, dtype=np.float64)
    return mean if task.kind == "regression" else (mean > 0.5).astype(np.float64)


def label_columns(task: Task) -> list[str]:
    """What follows "label" in the names of a table's columns: nothing for one label, else "_" and the label's name."""
    return [f"_{name}" for name in task.label_names] if len(task.label_names) > 1 else [""]


def score_columns(task: Task) -> list[str]:
    """What follows "score" in the names of a table's columns."""
    return [f"_{name}" for name in task.score_names] if len(task.score_names) > 1 else [""]


def predictions_table(task: Task, results: Sequence[TrackScores]) -> pd.DataFrame:
    """One row per frame: track, video, frame (0-based), fold, labels and scores (columns by ``label_columns``)."""
    parts, labels, scores = [], label_columns(task), score_columns(task)
    for result in results:
        num_frames = len(result.labels)
        part = pd.DataFrame(
            {"track": result.track.name, "video": result.track.video_id, "frame": np.arange(num_frames, dtype=np.int32)}
        )
        for k in range(max(len(labels), len(scores))):
            if k < len(labels):
                part[f"label{labels[k]}"] = result.labels[:, k]
            if k < len(scores):
                part[f"score{scores[k]}"] = result.scores[:, k].astype(np.float32)
        part["fold"] = np.int32(result.fold)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
