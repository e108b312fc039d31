"""The official scores, per frame and pooled over videos, and how sure they are.

Every score here is a function of sums over frames (a confusion matrix, or moments), counted by torchmetrics once per
video. So the bootstrap over videos adds up small tables instead of pooling hundreds of thousands of frames each time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from types import MappingProxyType

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.regression import ConcordanceCorrCoef

Pair = tuple[np.ndarray, np.ndarray]  # predictions and labels of one video, frame by frame
CONSTANT = 1e-12  # a variance below this share of the second moment is rounding error of a constant


def _labelled(pred: np.ndarray, label: np.ndarray) -> Pair:
    """The frames with a valid label, as float64.

    Raises:
        ValueError: Shapes differ, or a labelled frame has no finite prediction.
    """
    pred, label = np.asarray(pred, np.float64), np.asarray(label, np.float64)
    if pred.shape != label.shape:
        raise ValueError(f"predictions {pred.shape} and labels {label.shape} differ in shape")
    keep = np.isfinite(label.reshape(len(label), -1)).all(axis=1)  # (n,)
    pred, label = pred[keep], label[keep]
    if not np.isfinite(pred).all():
        raise ValueError(f"{int((~np.isfinite(pred)).sum())} predictions on labelled frames are not finite")
    return pred, label


def _classes(prob: np.ndarray, label: np.ndarray, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Decisions and labels of the labelled frames, each (n,) int64 of 0 and 1."""
    prob, label = _labelled(np.ravel(prob), np.ravel(label))
    if not np.isin(label, (0.0, 1.0)).all():
        raise ValueError("violence labels must be 0, 1 or NaN")
    return torch.from_numpy((prob > threshold).astype(np.int64)), torch.from_numpy(label.astype(np.int64))


def violence_scores(prob: np.ndarray, label: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Official DVD scores: F1 of each class, their mean, and accuracy, over all labelled frames.

    A class that is neither predicted nor present scores 0 and still counts, as in scikit-learn's
    `f1_score(average="macro", labels=[0, 1])`, which the challenge code calls.

    Args:
        prob: (n,) P(violent) in [0, 1]; hard decisions 0 and 1 are fine.
        label: (n,) 0, 1 or NaN; NaN rows are dropped.
        threshold: Violent means prob > threshold, so a tie is non-violent, as argmax has it.

    Returns:
        macro_f1, f1_violent, f1_nonviolent and accuracy, each in [0, 1].

    Raises:
        ValueError: No labelled frame, shapes that differ, a label other than 0, 1 and NaN, a prediction not finite.
    """
    confusion = _confusions([(prob, label)], threshold)[0]  # (2, 2)
    _require_frames(int(confusion.sum()))
    return {name: float(value) for name, value in _violence_from(confusion).items()}


def _confusions(videos: Sequence[Pair], threshold: float = 0.5) -> np.ndarray:
    """(V, 2, 2) float64 confusion matrices, rows true, columns decided."""
    parts = [_classes(prob, label, threshold) for prob, label in videos]
    return np.stack([multiclass_confusion_matrix(d, t, num_classes=2).double().numpy() for d, t in parts])


def _violence_from(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 2, 2) confusion matrices -> scores of shape (...): F1 = 2 TP / (2 TP + FP + FN), 0 where undefined."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., 2)
    marked = confusion.sum(-1) + confusion.sum(-2)  # (..., 2) = 2 TP + FP + FN
    f1 = np.divide(2 * hits, marked, out=np.zeros_like(marked), where=marked > 0)  # (..., 2)
    total = confusion.sum((-2, -1))
    accuracy = np.divide(hits.sum(-1), total, out=np.zeros_like(total), where=total > 0)
    return {"macro_f1": f1.mean(-1), "f1_violent": f1[..., 1], "f1_nonviolent": f1[..., 0], "accuracy": accuracy}


def va_scores(pred: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Official Aff-Wild2 VA score: the CCC of valence and of arousal over all labelled frames, and their mean.

    CCC = 2 s_xy / (s_x^2 + s_y^2 + (m_x - m_y)^2) in float64 with biased (1/n) moments. torchmetrics accumulates the
    moments; its own CCC divides variances by n - 1 and gives NaN with a warning for a constant, so the last line is
    ours: predictions that are all the same score 0.

    Args:
        pred: (n, 2) valence and arousal.
        label: (n, 2) in [-1, 1]; a row with a NaN is dropped.

    Returns:
        ccc_mean, ccc_valence and ccc_arousal, each in [-1, 1].

    Raises:
        ValueError: No labelled frame, shapes that differ, or a prediction on a labelled frame that is not finite.
    """
    sums = _moments([(pred, label)])[0]  # (2, 6)
    _require_frames(int(sums[0, 0]))
    return {name: float(value) for name, value in _va_from(sums).items()}


def _moments(videos: Sequence[Pair]) -> np.ndarray:
    """(V, 2, 6) float64 sums over each video's labelled frames, per output: n, x, y, x^2, y^2, xy.

    x are predictions and y labels, both less the mean label of all videos: CCC does not change, and sums of squares of
    centred values lose no digits.
    """
    pairs = [_labelled(pred, label) for pred, label in videos]
    if any(pred.ndim != 2 or pred.shape[1] != 2 for pred, _ in pairs):
        raise ValueError("valence and arousal must be (n, 2)")
    num_frames = sum(len(label) for _, label in pairs)
    centre = sum(label.sum(0) for _, label in pairs) / max(num_frames, 1)  # (2,)
    sums = np.zeros((len(pairs), 2, 6))
    for row, (pred, label) in zip(sums, pairs, strict=True):
        if not len(label):
            continue
        counter = ConcordanceCorrCoef(num_outputs=2).set_dtype(torch.float64)
        counter.update(torch.from_numpy(pred - centre), torch.from_numpy(label - centre))
        # torchmetrics keeps means and sums of centred products: var_x is sum (x - m_x)^2, and so on.
        x, y, xx, yy, xy = (getattr(counter, s).numpy() for s in ("mean_x", "mean_y", "var_x", "var_y", "corr_xy"))
        n = len(label)
        row[:] = np.stack([np.full(2, n), n * x, n * y, xx + n * x * x, yy + n * y * y, xy + n * x * y], axis=-1)
    return sums


def _va_from(sums: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 2, 6) sums as from `_moments` -> scores of shape (...)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)  # (..., 2) each
    mean_x, mean_y = x / n, y / n
    var_x, var_y, cov = xx / n - mean_x**2, yy / n - mean_y**2, xy / n - mean_x * mean_y
    varied = (var_x > CONSTANT * xx / n) & (var_y > CONSTANT * yy / n)
    total = var_x + var_y + (mean_x - mean_y) ** 2
    ccc = np.divide(2 * cov, total, out=np.zeros_like(total), where=varied)  # (..., 2)
    return {"ccc_mean": ccc.mean(-1), "ccc_valence": ccc[..., 0], "ccc_arousal": ccc[..., 1]}


def _require_frames(num_frames: int) -> None:
    if not num_frames:
        raise ValueError("no labelled frame to score")


@dataclass(frozen=True)
class Metric:
    """A task's scores in two forms that agree.

    Attributes:
        primary: The official score, a key of the dicts below.
        scores: (predictions, labels) of all frames -> {name: score}.
        statistics: Videos -> (V, ...) sums that add up over videos.
        from_statistics: (..., *sums) -> {name: scores of shape (...)}.
    """

    primary: str
    scores: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    statistics: Callable[[Sequence[Pair]], np.ndarray]
    from_statistics: Callable[[np.ndarray], dict[str, np.ndarray]]


TASK_METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "violence": Metric("macro_f1", violence_scores, _confusions, _violence_from),
        "va": Metric("ccc_mean", va_scores, _moments, _va_from),
    }
)


@dataclass(frozen=True)
class Interval:
    """A score on all videos, and the percentile interval of the bootstrap around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A score of A minus that of B; `share_above_zero` is the share of resamples in which A is better."""

    share_above_zero: float


def resample_videos(num_videos: int, num_resamples: int, seed: int) -> np.ndarray:
    """How often each video is drawn, with replacement: (num_resamples, num_videos) int64, rows sum to num_videos."""
    return np.random.default_rng(seed).multinomial(num_videos, np.full(num_videos, 1 / num_videos), num_resamples)


def _resampled(metric: Metric, sums: np.ndarray, counts: np.ndarray) -> tuple[dict, dict]:
    """Scores on all videos, and their values (R,) on the resamples."""
    drawn = np.tensordot(counts.astype(np.float64), sums, axes=1)  # (R, ...)
    return metric.from_statistics(sums.sum(0)), metric.from_statistics(drawn)


def _with_frames(videos: Sequence[Pair]) -> list[bool]:
    return [bool(np.isfinite(np.asarray(label).reshape(len(label), -1)).all(axis=1).any()) for _, label in videos]


def bootstrap_interval(
    metric: Metric, videos: Sequence[Pair], num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile bootstrap over videos: frames of one video depend on each other, so videos are what is resampled.

    Args:
        metric: One of `TASK_METRICS`.
        videos: Predictions and labels of each video, as `metric.scores` takes them. Videos without a labelled frame
            are left out. Put left and right tracks of one video together.
        num_resamples: Draws of as many videos, with replacement.
        seed: Seed of the draws.
        level: Coverage, between 0 and 1.

    Returns:
        {score name: Interval}; value is the score on all videos.

    Raises:
        ValueError: No labelled frame at all, or what `metric.scores` raises.
    """
    videos = [*compress(videos, _with_frames(videos))]
    _require_frames(len(videos))
    counts = resample_videos(len(videos), num_resamples, seed)
    values, draws = _resampled(metric, metric.statistics(videos), counts)
    tail = (1 - level) / 2
    return {
        name: Interval(float(values[name]), *np.quantile(draw, [tail, 1 - tail]).tolist())
        for name, draw in draws.items()
    }


def paired_bootstrap(
    metric: Metric,
    videos_a: Sequence[Pair],
    videos_b: Sequence[Pair],
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Bootstrap of the difference A - B, both scored on the same drawn videos, so that hard videos cancel.

    Args:
        metric: One of `TASK_METRICS`.
        videos_a: As for `bootstrap_interval`.
        videos_b: The same videos in the same order, with the same labels, other predictions.
        num_resamples: As for `bootstrap_interval`.
        seed: As for `bootstrap_interval`.
        level: As for `bootstrap_interval`.

    Returns:
        {score name: Difference}.

    Raises:
        ValueError: The labels of A and B differ, or what `bootstrap_interval` raises.
    """
    if len(videos_a) != len(videos_b) or not all(
        np.array_equal(a, b, equal_nan=True) for (_, a), (_, b) in zip(videos_a, videos_b, strict=True)
    ):
        raise ValueError("a paired bootstrap needs the same videos with the same labels on both sides")
    keep = _with_frames(videos_a)
    _require_frames(sum(keep))
    counts = resample_videos(sum(keep), num_resamples, seed)
    value_a, draw_a = _resampled(metric, metric.statistics([*compress(videos_a, keep)]), counts)
    value_b, draw_b = _resampled(metric, metric.statistics([*compress(videos_b, keep)]), counts)
    tail, result = (1 - level) / 2, {}
    for name in draw_a:
        gap = draw_a[name] - draw_b[name]  # (R,)
        low, high = np.quantile(gap, [tail, 1 - tail]).tolist()
        result[name] = Difference(float(value_a[name] - value_b[name]), low, high, float((gap > 0).mean()))
    return result
