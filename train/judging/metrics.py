"""The official scores, per frame and pooled over videos.

Every score here is a function of sums over frames (a confusion matrix, or moments), counted once per video, so that the
bootstrap (train/judging/bootstrap.py) adds up small tables instead of pooling all frames each time. The tests hold
them against scikit-learn and torchmetrics; importing the latter here would cost seconds and pull in torchvision and
transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.labels.annotations import AU_NAMES, EXPR_NAMES

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


def labelled_pairs(videos: Sequence[Pair]) -> list[Pair]:
    """The labelled frames of each video as float64: predictions (n, ...), labels (n,) or (n, K).

    Raises:
        ValueError: A labelled frame has no finite prediction.
    """
    found = []
    for pred, label in videos:
        pred, label = np.asarray(pred, np.float64), np.asarray(label, np.float64)
        keep = np.isfinite(label.reshape(len(label), -1)).all(axis=1)  # (n,)
        if len(pred) != len(label):
            raise ValueError(f"predictions {pred.shape} and labels {label.shape} differ in shape")
        if not np.isfinite(pred[keep]).all():
            raise ValueError(f"{int((~np.isfinite(pred[keep])).sum())} predictions on labelled frames are not finite")
        found.append((pred[keep], label[keep]))
    return found


def _decisions(decided: np.ndarray, label: np.ndarray, num_classes: int) -> Pair:
    """Class numbers decided and true of the labelled frames, each (n,) int64."""
    decided, label = _labelled(decided, label)
    for what, values in (("decisions", decided), ("labels", label)):
        if not np.isin(values, np.arange(num_classes)).all():
            raise ValueError(f"{what} must be class numbers from 0 to {num_classes - 1}; only labels may be NaN")
    return decided.astype(np.int64), label.astype(np.int64)


def _classes(prob: np.ndarray, label: np.ndarray, threshold: float) -> Pair:
    """Decisions and labels of the labelled frames, each (n,) int64 of 0 and 1."""
    prob, label = _labelled(np.ravel(prob), np.ravel(label))
    if not np.isin(label, (0.0, 1.0)).all():
        raise ValueError("violence labels must be 0, 1 or NaN")
    return (prob > threshold).astype(np.int64), label.astype(np.int64)


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
    require_frames(int(confusion.sum()))
    return {name: float(value) for name, value in _violence_from(confusion).items()}


def _confusions(videos: Sequence[Pair], threshold: float = 0.5) -> np.ndarray:
    """(V, 2, 2) float64 confusion matrices, rows true, columns decided."""
    parts = [_classes(prob, label, threshold) for prob, label in videos]
    return np.stack([count_decisions(decided, true, 2) for decided, true in parts])


def count_decisions(decided: np.ndarray, true: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) float64 confusion matrix, rows true, columns decided.

    Not scikit-learn's: it refuses a video without labels and takes a millisecond for each video.
    """
    cells = np.bincount(num_classes * true + decided, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.float64)


def f1_of(hits: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """F1 = 2 TP / (2 TP + FP + FN), 0 where undefined; `marked` is the denominator."""
    return np.divide(2 * hits, marked, out=np.zeros_like(marked), where=marked > 0)


def from_confusion(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., C, C) confusion matrices -> F1 of each class (..., C) and accuracy (...)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., C)
    total = confusion.sum((-2, -1))
    accuracy = np.divide(hits.sum(-1), total, out=np.zeros_like(total), where=total > 0)
    return f1_of(hits, confusion.sum(-1) + confusion.sum(-2)), accuracy


def _violence_from(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 2, 2) confusion matrices -> scores of shape (...)."""
    f1, accuracy = from_confusion(confusion)
    return {"macro_f1": f1.mean(-1), "f1_violent": f1[..., 1], "f1_nonviolent": f1[..., 0], "accuracy": accuracy}


def expr_scores(decided: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Official Aff-Wild2 EXPR score: the mean F1 of the eight classes over all labelled frames, and what it is made of.

    A class that is neither decided nor present scores 0 and still counts, as in scikit-learn's
    `f1_score(average="macro", labels=range(8))`.

    Args:
        decided: (n,) class numbers 0..7.
        label: (n,) class numbers 0..7 or NaN; NaN rows are dropped.

    Returns:
        macro_f1, f1_<class> for each class, and accuracy, each in [0, 1].

    Raises:
        ValueError: No labelled frame, shapes that differ, or a number that is no class.
    """
    confusion = _expr_confusions([(decided, label)])[0]  # (8, 8)
    require_frames(int(confusion.sum()))
    return {name: float(value) for name, value in _expr_from(confusion).items()}


def _expr_confusions(videos: Sequence[Pair]) -> np.ndarray:
    """(V, 8, 8) float64 confusion matrices."""
    num = len(EXPR_NAMES)
    return np.stack([count_decisions(*_decisions(decided, label, num), num) for decided, label in videos])


def _expr_from(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 8, 8) confusion matrices -> scores of shape (...)."""
    f1, accuracy = from_confusion(confusion)
    own = {f"f1_{name.lower()}": f1[..., k] for k, name in enumerate(EXPR_NAMES)}
    return {"macro_f1": f1.mean(-1), **own, "accuracy": accuracy}


def au_scores(prob: np.ndarray, label: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Official Aff-Wild2 AU score: the mean over twelve units of the F1 of "present", over all labelled frames.

    A unit that is neither decided nor present scores 0 and still counts, as in scikit-learn.

    Args:
        prob: (n, 12) probabilities; hard decisions 0 and 1 are fine (thresholds per unit are applied before).
        label: (n, 12) of 0 and 1; a row with a NaN is dropped.
        threshold: Present means prob > threshold.

    Returns:
        f1_mean and f1_au<number> for each unit, each in [0, 1].

    Raises:
        ValueError: No labelled frame, shapes that differ, a label other than 0, 1 and NaN, a prediction not finite.
    """
    label = np.asarray(label, np.float64)
    require_frames(int(np.isfinite(label).all(axis=1).sum()))
    return {name: float(value) for name, value in _au_from(_unit_counts([(prob, label)], threshold)[0]).items()}


def _unit_counts(videos: Sequence[Pair], threshold: float = 0.5) -> np.ndarray:
    """(V, 12, 2) float64: true positives, and 2 TP + FP + FN, of each unit."""
    counts = np.zeros((len(videos), len(AU_NAMES), 2))
    for row, (prob, label) in zip(counts, videos, strict=True):
        prob, label = _labelled(prob, label)  # (n, 12) each
        if label.ndim != 2 or label.shape[1] != len(AU_NAMES):
            raise ValueError(f"action units must be (n, {len(AU_NAMES)}), not {label.shape}")
        if not np.isin(label, (0.0, 1.0)).all():
            raise ValueError("action unit labels must be 0, 1 or NaN")
        decided = prob > threshold
        row[:, 0] = (decided * label).sum(axis=0)
        row[:, 1] = decided.sum(axis=0) + label.sum(axis=0)
    return counts


def _au_from(counts: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 12, 2) counts as from `_unit_counts` -> scores of shape (...)."""
    f1 = f1_of(counts[..., 0], counts[..., 1])  # (..., 12)
    return {"f1_mean": f1.mean(-1), **{f"f1_{name.lower()}": f1[..., k] for k, name in enumerate(AU_NAMES)}}


def va_scores(pred: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Official Aff-Wild2 VA score: the CCC of valence and of arousal over all labelled frames, and their mean.

    CCC = 2 s_xy / (s_x^2 + s_y^2 + (m_x - m_y)^2) in float64 with biased (1/n) moments; torchmetrics divides variances
    by n - 1 and gives NaN for a constant. Predictions that are all the same score 0.

    Args:
        pred: (n, 2) valence and arousal.
        label: (n, 2) in [-1, 1]; a row with a NaN is dropped.

    Returns:
        ccc_mean, ccc_valence and ccc_arousal, each in [-1, 1].

    Raises:
        ValueError: No labelled frame, shapes that differ, or a prediction on a labelled frame that is not finite.
    """
    sums = moments([(pred, label)])[0]  # (2, 6)
    require_frames(int(sums[0, 0]))
    return {name: float(value) for name, value in _va_from(sums).items()}


def moments(videos: Sequence[Pair], width: int = 2) -> np.ndarray:
    """(V, K, 6) float64 sums over each video's labelled frames, per output: n, x, y, x^2, y^2, xy.

    x are predictions and y labels, both less the mean label of all videos: CCC does not change, and sums of squares of
    centred values lose no digits.
    """
    pairs = [_labelled(pred, label) for pred, label in videos]
    if any(pred.ndim != 2 or pred.shape[1] != width for pred, _ in pairs):
        raise ValueError(f"predictions and labels must be (n, {width})")
    num_frames = sum(len(label) for _, label in pairs)
    centre = sum(label.sum(0) for _, label in pairs) / max(num_frames, 1)  # (K,)
    sums = np.zeros((len(pairs), width, 6))
    for row, (pred, label) in zip(sums, pairs, strict=True):
        x, y = pred - centre, label - centre  # (n, K) each
        parts = (np.ones_like(x), x, y, x * x, y * y, x * y)
        row[:] = np.stack([part.sum(axis=0) for part in parts], axis=-1)
    return sums


def _va_from(sums: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 2, 6) sums as from `moments` -> scores of shape (...)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)  # (..., 2) each
    mean_x, mean_y = x / n, y / n
    var_x, var_y, cov = xx / n - mean_x**2, yy / n - mean_y**2, xy / n - mean_x * mean_y
    varied = (var_x > CONSTANT * xx / n) & (var_y > CONSTANT * yy / n)
    total = var_x + var_y + (mean_x - mean_y) ** 2
    ccc = np.divide(2 * cov, total, out=np.zeros_like(total), where=varied)  # (..., 2)
    return {"ccc_mean": ccc.mean(-1), "ccc_valence": ccc[..., 0], "ccc_arousal": ccc[..., 1]}


def require_frames(num_frames: int) -> None:
    """Raise ValueError where nothing was labelled."""
    if not num_frames:
        raise ValueError("no labelled frame to score")


Sums = list[np.ndarray]  # tables that add up over videos, the first axis is the video


@dataclass(frozen=True)
class Metric:
    """A task's scores in two forms that agree.

    Attributes:
        primary: The headline score, a key of the dicts below.
        scores: (predictions, labels) of all frames -> {name: score}; scores that are not defined are left out.
        statistics: Videos -> tables (V, ...) that add up over videos.
        from_statistics: Tables (..., *sums) -> {name: scores of shape (...)}, NaN where not defined.
        exact: Videos -> {name: score} of those scores that the tables give only nearly.
    """

    primary: str
    scores: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    statistics: Callable[[Sequence[Pair]], Sums]
    from_statistics: Callable[[Sums], dict[str, np.ndarray]]
    exact: Callable[[Sequence[Pair]], dict[str, float]] = lambda videos: {}
