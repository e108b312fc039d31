"""Average precision and ROC AUC: scores of a ranking, from counts of positives and negatives at every rank.

Definitions as in scikit-learn (`average_precision_score`, `roc_auc_score`). Ranks are no sums over frames, but counts
in bins of equal score are. Values have a bin for every score and are exact. For intervals, which need a table for each
video, neighbours share one of `MAX_BINS` bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_BINS = 512


def rank_counts(videos: Sequence[tuple[np.ndarray, np.ndarray]], most: int | None = MAX_BINS) -> np.ndarray:
    """Counts of one yes/no question.

    Args:
        videos: scores (n,) and truth (n,) of 0 and 1 of each video.
        most: bins at most; None: one for every score.

    Returns:
        (V, B, 2) float64: negatives and positives in each bin, bins in order of falling score.
    """
    scores = np.concatenate([score for score, _ in videos])
    edges = np.unique(scores)
    if most is not None and len(edges) > most:
        edges = np.unique(np.quantile(scores, np.linspace(0, 1, most)))
    counts = np.zeros((len(videos), len(edges), 2))
    for row, (score, truth) in zip(counts, videos, strict=True):
        place = len(edges) - np.searchsorted(edges, score, side="right")
        for value in (0, 1):
            row[:, value] = np.bincount(place[truth == value], minlength=len(edges))[: len(edges)]
    return counts


def average_precision(counts: np.ndarray) -> np.ndarray:
    """(..., B, 2) counts -> AP = sum_b (R_b - R_{b-1}) P_b over falling thresholds; NaN without any positive."""
    negatives, positives = counts[..., 0], counts[..., 1]  # (..., B)
    hits, marked = positives.cumsum(-1), (positives + negatives).cumsum(-1)
    precision = np.divide(hits, marked, out=np.zeros_like(hits), where=marked > 0)
    total = hits[..., -1]
    summed = (precision * positives).sum(-1)
    return np.divide(summed, total, out=np.full_like(total, np.nan), where=total > 0)


def roc_auc(counts: np.ndarray) -> np.ndarray:
    """(..., B, 2) counts -> the share of pairs (positive, negative) in the right order; NaN without either."""
    negatives, positives = counts[..., 0], counts[..., 1]  # (..., B)
    below = negatives.sum(-1, keepdims=True) - negatives.cumsum(-1)  # negatives with a lower score
    pairs = positives.sum(-1) * negatives.sum(-1)
    right = (positives * (below + 0.5 * negatives)).sum(-1)
    return np.divide(right, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """(..., K) -> mean over those that are defined; NaN where none is."""
    known = np.isfinite(values)
    count = known.sum(-1)
    return np.divide(np.where(known, values, 0.0).sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)
