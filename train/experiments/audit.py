"""How much of a score the folds give away: predictors without a model, that only copy training labels.

Neighbouring windows share frames and nearly share labels. Where both sides of a fold hold windows of one video, copying
the label of the nearest training window scores as high as any model. Here such copies are scored like a head: window by
window, then per frame, then pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.data.features import Windows
from train.data.labels import Track
from train.experiments.crossval import Split, constant_baseline, out_of_fold
from train.judging.evaluate import TrackScores, evaluate_frames
from train.tasks import Task

PREDICTORS: Mapping[str, str] = {
    "nearest_window": "label of the nearest training window",
    "video_mean": "mean label of the video's training windows",
    "constant": "constant (training mean or majority)",
}


def audit_folds(task: Task, tracks: Sequence[Track], windows: Windows, splits: Sequence[Split]) -> dict[str, Any]:
    """Score every predictor of `PREDICTORS` on the folds.

    Returns:
        ``metric``; ``predictors``: name -> value, interval and scores, as of ``evaluate_frames``; ``same_video``: share
        of tested windows whose video also has a training window; ``overlapping``: share of those that share frames
        with one; ``windows``: how many were tested.
    """
    frames = {
        "nearest_window": out_of_fold(
            tracks, windows, splits, [nearest_window(task, tracks, windows, s) for s in splits]
        ),
        "video_mean": out_of_fold(tracks, windows, splits, [video_mean(task, tracks, windows, s) for s in splits]),
        "constant": constant_baseline(task, tracks, windows, splits),
    }
    found = {name: _scored(task, own) for name, own in frames.items()}
    tested, same, overlapping = np.sum([_contact(tracks, windows, split) for split in splits], axis=0)
    return {
        "metric": task.metric,
        "predictors": found,
        "same_video": float(same / tested),
        "overlapping": float(overlapping / tested),
        "windows": int(tested),
    }


def nearest_window(task: Task, tracks: Sequence[Track], windows: Windows, split: Split) -> np.ndarray:
    """The label of the nearest labelled training window, as a score.

    Nearest is the one whose start is closest in time, in the same track; if that has none, in another track of the same
    video; if the video has none, the one whose centre lies at the closest share of its own video, of whichever video,
    ties drawn by lot. Of two equally close in time the earlier counts. Validation windows are training windows: a
    choice made on them has seen their labels.

    Returns:
        float64 (W, K'), NaN where the window is not tested.
    """
    teach, scores = _teachers(windows, split), label_scores(task, windows.labels)  # (n,), (W, K')
    out = np.full(scores.shape, np.nan)
    asked = np.flatnonzero(split.test)
    for keys in (windows.track, _videos(tracks, windows)):
        found = _nearest_in_time(asked, teach, keys, windows.start)
        out[asked[found >= 0]] = scores[found[found >= 0]]
        asked = asked[found < 0]
    out[asked] = scores[_nearest_in_place(asked, teach, _places(tracks, windows), split.fold)]
    return out


def video_mean(task: Task, tracks: Sequence[Track], windows: Windows, split: Split) -> np.ndarray:
    """The mean label of the track's training windows; else of the video's; else of all of them.

    Returns:
        float64 (W, K'), NaN where the window is not tested.
    """
    teach, scores = _teachers(windows, split), label_scores(task, windows.labels)
    out = np.full(scores.shape, np.nan)
    out[split.test] = scores[teach].mean(axis=0)
    for keys in (_videos(tracks, windows), windows.track):
        sums = np.zeros((int(keys.max()) + 1, scores.shape[1]))
        counts = np.bincount(keys[teach], minlength=len(sums))
        np.add.at(sums, keys[teach], scores[teach])
        known = split.test & (counts[keys] > 0)
        out[known] = (sums / np.maximum(counts, 1)[:, None])[keys[known]]
    return out


def label_scores(task: Task, labels: np.ndarray) -> np.ndarray:
    """Labels (n, K) as the scores (n, K') of one who knows them: one-hot for classes, themselves for the rest."""
    if task.kind == "classes":
        return (labels[:, :1] == np.arange(task.outputs)).astype(np.float64)
    return labels.astype(np.float64)


# ------------------------------------------------------------------ parts


def _scored(task: Task, frames: Sequence[TrackScores]) -> dict[str, Any]:
    scored = evaluate_frames(task, frames)
    return {key: scored[key] for key in ("value", "interval", "scores")}


def _teachers(windows: Windows, split: Split) -> np.ndarray:
    return np.flatnonzero((split.train | split.val) & windows.labelled)


def _videos(tracks: Sequence[Track], windows: Windows) -> np.ndarray:
    """int64 (W,): the number of each window's video."""
    _, codes = np.unique([t.video_id for t in tracks], return_inverse=True)
    return codes[windows.track]


def _places(tracks: Sequence[Track], windows: Windows) -> np.ndarray:
    """float64 (W,): centre of the window as a share of its video."""
    lengths = np.array([len(t.labels) for t in tracks], np.float64)
    return (windows.start + windows.stop) / 2 / lengths[windows.track]


def _nearest_in_time(asked: np.ndarray, teach: np.ndarray, keys: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Row of the teacher with the same key and the closest start, for each row asked; -1 where the key has none."""
    order = teach[np.lexsort((start[teach], keys[teach]))]  # by key, then by time
    line = keys.astype(np.int64) * (2 * int(start.max(initial=0)) + 1) + start  # keys lie too far apart to meet
    after = np.searchsorted(line[order], line[asked])  # (n,) first teacher at or after
    found = np.full(len(asked), -1)
    best = np.full(len(asked), np.inf)
    for place in (after - 1, after):  # a tie stays with the earlier
        there = np.clip(place, 0, len(order) - 1)
        usable = (place >= 0) & (place < len(order)) & (keys[order[there]] == keys[asked])
        gap = np.abs(line[order[there]] - line[asked])
        closer = usable & (gap < best)
        found[closer], best[closer] = order[there[closer]], gap[closer]
    return found


def _nearest_in_place(asked: np.ndarray, teach: np.ndarray, places: np.ndarray, seed: int) -> np.ndarray:
    """Row of a teacher at the closest place, for each row asked; where several lie there, one drawn by lot.

    By lot, because every video has a window at its very start: copying always the same one would say nothing.
    """
    order = teach[np.argsort(places[teach], kind="stable")]
    sites, first, count = np.unique(places[order], return_index=True, return_counts=True)
    right = np.clip(np.searchsorted(sites, places[asked]), 0, len(sites) - 1)
    left = np.maximum(right - 1, 0)
    site = np.where(np.abs(sites[left] - places[asked]) <= np.abs(sites[right] - places[asked]), left, right)
    lot = np.random.default_rng(seed).random(len(asked))
    return order[first[site] + (lot * count[site]).astype(np.int64)]


def _contact(tracks: Sequence[Track], windows: Windows, split: Split) -> tuple[int, int, int]:
    """Tested windows; those whose video is also trained on; those that share frames with a training window."""
    videos, asked = _videos(tracks, windows), np.flatnonzero(split.test & windows.labelled)
    found = _nearest_in_time(asked, np.flatnonzero(split.train | split.val), videos, windows.start)
    near = np.maximum(found, 0)
    shared = (windows.start[near] < windows.stop[asked]) & (windows.start[asked] < windows.stop[near])
    return len(asked), int((found >= 0).sum()), int(((found >= 0) & shared).sum())
