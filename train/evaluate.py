"""Windows -> frames -> official metrics.

Every frame gets the mean of the outputs of all windows that cover it. Scores are pooled over all labelled frames of
all tested videos; the interval comes from resampling videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from train.bootstrap import bootstrap_interval
from train.data import Windows
from train.labels import Track
from train.metrics import TASK_METRICS
from train.tasks import Task

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class TrackScores:
    """Per-frame result of one track.

    Attributes:
        scores: float64 (F, K'), K' = 1 (P(violent)) for a binary task, K for a regression; NaN: no window covers it.
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
    found = []
    for i in np.unique(windows.track[which]):
        own = which & (windows.track == i)
        frames = frame_scores(scores[own], windows.start[own], windows.stop[own], len(tracks[i].labels))
        found.append(TrackScores(tracks[i], frames, fold))
    return found


def evaluate_frames(task: Task, results: Sequence[TrackScores], seed: int = 0) -> dict[str, Any]:
    """Official scores pooled over all labelled frames, with bootstrap intervals over videos and frame coverage.

    Returns:
        ``value``: official score; ``interval``: its 95 % limits; ``scores``: all scores; ``intervals``; ``coverage``:
        share of labelled frames with a prediction; ``frames``, ``videos``: how many were scored.
    """
    metric = TASK_METRICS[task.name]
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    labelled = covered = 0
    for result in results:
        valid = np.isfinite(result.labels).all(axis=1)  # (F,)
        usable = valid & np.isfinite(result.scores).all(axis=1)
        labelled, covered = labelled + int(valid.sum()), covered + int(usable.sum())
        pair = (metric_input(task, result.scores[usable]), metric_input(task, result.labels[usable]))
        pairs.setdefault(result.track.video_id, []).append(pair)
    if not covered:
        raise ValueError("no labelled frame has a prediction")
    videos = [(np.concatenate([p for p, _ in own]), np.concatenate([y for _, y in own])) for own in pairs.values()]
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


def evaluate_windows(task: Task, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The same scores over windows (as the paper reports them): scores (W, K'), labels (W, K)."""
    return TASK_METRICS[task.name].scores(metric_input(task, scores), metric_input(task, labels))


def metric_input(task: Task, values: np.ndarray) -> np.ndarray:
    """(n, 1) -> (n,) for a binary task; (n, K) stays."""
    return values[:, 0] if task.kind == "binary" else values


def predictions_table(task: Task, results: Sequence[TrackScores]) -> pd.DataFrame:
    """One row per frame: track, video, frame (0-based), fold, and label and score (per output for a regression)."""
    parts = []
    for result in results:
        num_frames = len(result.labels)
        part = pd.DataFrame(
            {"track": result.track.name, "video": result.track.video_id, "frame": np.arange(num_frames, dtype=np.int32)}
        )
        if task.kind == "binary":
            part["label"] = result.labels[:, 0]
            part["score"] = result.scores[:, 0].astype(np.float32)
        else:
            for k, name in enumerate(task.label_names):
                part[f"label_{name}"] = result.labels[:, k]
                part[f"score_{name}"] = result.scores[:, k].astype(np.float32)
        part["fold"] = np.int32(result.fold)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
