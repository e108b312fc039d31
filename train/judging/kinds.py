"""The scores of a task by its kind, whatever its classes and outputs are called.

Every score is a function of sums over frames that are counted once per video (confusion matrices, moments, counts at
every rank), so that the bootstrap adds up small tables. Official challenge scores are among them with their own names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.judging.metrics import (
    CONSTANT,
    Metric,
    Pair,
    count_decisions,
    f1_of,
    from_confusion,
    labelled_pairs,
    moments,
    require_frames,
)
from train.judging.ranks import MAX_BINS, average_precision, mean_defined, rank_counts, roc_auc
from train.tasks import Task

Count = Callable[[Sequence[Pair]], np.ndarray]
Score = Callable[[np.ndarray], dict[str, np.ndarray]]
Ranks = Callable[[Sequence[Pair], int | None], np.ndarray]


@dataclass(frozen=True)
class Part:
    """Tables of one sort and the scores that come from them; of ranks, ``exact`` gives a bin to every score."""

    count: Count
    score: Score
    exact: Count | None = None

    @classmethod
    def of_ranks(cls, ranks: Ranks, score: Score) -> Part:
        return cls(lambda videos: ranks(videos, MAX_BINS), score, lambda videos: ranks(videos, None))


SMALLER_IS_BETTER = ("mae", "rmse")


def is_error(name: str) -> bool:
    """Whether less of a score is better."""
    return name.partition("_")[0] in SMALLER_IS_BETTER


def metric_for(task: Task, *, ranks: bool = False) -> Metric:
    """The scores of a task; the headline is ``task.metric``.

    Args:
        task: its kind, and the names of its classes or outputs.
        ranks: with average precision and ROC AUC, which take a sort of all frames; without, unless one is the headline.
    """
    parts = PARTS[task.kind](task)
    if not ranks and task.metric.partition("_")[0] not in ("ap", "auc", "map"):
        parts = [part for part in parts if part.exact is None]

    def statistics(videos: Sequence[Pair]) -> list[np.ndarray]:
        return [part.count(videos) for part in parts]

    def from_statistics(sums: list[np.ndarray]) -> dict[str, np.ndarray]:
        found = [part.score(own) for part, own in zip(parts, sums, strict=True)]
        return {name: value for own in found for name, value in own.items()}

    def exact(videos: Sequence[Pair]) -> dict[str, float]:
        own = [part.score(part.exact(_pooled(videos))[0]) for part in parts if part.exact is not None]
        return {name: float(value) for found in own for name, value in found.items()}

    def scores(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        videos = labelled_pairs([(predicted, labels)])
        require_frames(len(videos[0][1]))
        sums = from_statistics([part.sum(0) for part in statistics(videos)])
        found = {name: float(value) for name, value in sums.items()} | exact(videos)
        return {name: value for name, value in found.items() if np.isfinite(value)}

    return Metric(task.metric, scores, statistics, from_statistics, exact)


def _pooled(videos: Sequence[Pair]) -> list[Pair]:
    """All frames as those of one video."""
    predicted, labels = zip(*videos, strict=True)
    return [(np.concatenate(predicted), np.concatenate(labels))]


# ------------------------------------------------------------------ classes


def _binary(task: Task) -> list[Part]:
    names = [name.lower() for name in task.class_names]

    def confusions(videos: Sequence[Pair]) -> np.ndarray:
        parts = [(_yes_no(score, label)) for score, label in labelled_pairs(videos)]
        return np.stack([count_decisions((score > 0.5).astype(np.int64), true, 2) for score, true in parts])

    def ranks(videos: Sequence[Pair], most: int | None) -> np.ndarray:
        return rank_counts([_yes_no(score, label) for score, label in labelled_pairs(videos)], most)

    return [
        Part(confusions, lambda sums: _class_scores(sums, names, reverse=True)),
        Part.of_ranks(ranks, lambda sums: {"ap": average_precision(sums), "auc": roc_auc(sums)}),
    ]


def _yes_no(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label = np.ravel(label)
    if not np.isin(label, (0.0, 1.0)).all():
        raise ValueError("labels must be 0, 1 or NaN")
    return np.ravel(score), label.astype(np.int64)


def _classes(task: Task) -> list[Part]:
    names = [name.lower() for name in task.class_names]
    num = len(names)

    def split(videos: Sequence[Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for score, label in labelled_pairs(videos):
            if not np.isin(label, np.arange(num)).all():
                raise ValueError(f"labels must be class numbers from 0 to {num - 1} or NaN")
            if score.ndim == 1:  # decisions, as certain as can be
                score = (score[:, None] == np.arange(num)).astype(np.float64)
            found.append((score, np.ravel(label).astype(np.int64)))  # (n, C), (n,)
        return found

    def confusions(videos: Sequence[Pair]) -> np.ndarray:
        return np.stack([count_decisions(score.argmax(axis=1), true, num) for score, true in split(videos)])

    def ranks(videos: Sequence[Pair], most: int | None) -> np.ndarray:
        parts = split(videos)
        asked = [[(score[:, k], (true == k).astype(np.int64)) for score, true in parts] for k in range(num)]
        return _side_by_side(asked, most)

    return [
        Part(confusions, lambda sums: _class_scores(sums, names)),
        Part.of_ranks(ranks, lambda sums: _rank_scores(sums, names)),
    ]


def _class_scores(confusion: np.ndarray, names: Sequence[str], *, reverse: bool = False) -> dict[str, np.ndarray]:
    """(..., C, C) confusion matrices -> macro F1, F1 of each class, accuracy, mean recall of classes that occur."""
    f1, accuracy = from_confusion(confusion)
    own = {f"f1_{name}": f1[..., k] for k, name in enumerate(names)}
    if reverse:  # of two classes the second one, which is meant, goes first
        own = dict(reversed(own.items()))
    true = confusion.sum(-1)  # (..., C)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    recall = np.divide(hits, true, out=np.zeros_like(true), where=true > 0)
    balanced = recall.sum(-1) / np.maximum((true > 0).sum(-1), 1)
    return {"macro_f1": f1.mean(-1), **own, "accuracy": accuracy, "balanced_accuracy": balanced}


def _rank_scores(counts: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """(..., K, B, 2) counts -> AP and AUC of each output, and their means over those where they are defined."""
    ap, auc = average_precision(counts), roc_auc(counts)  # (..., K)
    own = {f"{what}_{name}": part[..., k] for what, part in (("ap", ap), ("auc", auc)) for k, name in enumerate(names)}
    return {"map": mean_defined(ap), "auc": mean_defined(auc), **own}


def _side_by_side(questions: Sequence[Sequence[Pair]], most: int | None) -> np.ndarray:
    """Counts of several questions: (V, K, B, 2), filled up to the widest."""
    parts = [rank_counts(videos, most) for videos in questions]
    width = max(part.shape[1] for part in parts)
    return np.stack([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in parts], axis=1)


# ------------------------------------------------------------------ several labels at once


def _multilabel(task: Task) -> list[Part]:
    names = [name.lower() for name in task.label_names]

    def split(videos: Sequence[Pair]) -> list[Pair]:
        found = labelled_pairs(videos)
        if any(label.ndim != 2 or label.shape[1] != len(names) for _, label in found):
            raise ValueError(f"labels must be (n, {len(names)})")
        if not all(np.isin(label, (0.0, 1.0)).all() for _, label in found):
            raise ValueError("labels must be 0, 1 or NaN")
        return found

    def counts(videos: Sequence[Pair]) -> np.ndarray:
        parts = [(score > 0.5, label) for score, label in split(videos)]
        found = [np.stack([(yes * t).sum(axis=0), yes.sum(axis=0) + t.sum(axis=0)], axis=-1) for yes, t in parts]
        return np.stack(found).astype(np.float64)  # (V, K, 2)

    def ranks(videos: Sequence[Pair], most: int | None) -> np.ndarray:
        parts = split(videos)
        asked = [[(s[:, k], t[:, k].astype(np.int64)) for s, t in parts] for k in range(len(names))]
        return _side_by_side(asked, most)

    def f1_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
        f1 = f1_of(sums[..., 0], sums[..., 1])  # (..., K)
        return {"f1_mean": f1.mean(-1), **{f"f1_{name}": f1[..., k] for k, name in enumerate(names)}}

    return [Part(counts, f1_scores), Part.of_ranks(ranks, lambda sums: _rank_scores(sums, names))]


# ------------------------------------------------------------------ numbers


def _regression(task: Task) -> list[Part]:
    names = list(task.label_names)

    def errors(videos: Sequence[Pair]) -> np.ndarray:
        found = [(score - label, len(label)) for score, label in labelled_pairs(videos)]
        return np.stack(
            [np.stack([abs(e).sum(0), (e * e).sum(0), np.full(len(names), float(n))], -1) for e, n in found]
        )

    def from_errors(sums: np.ndarray) -> dict[str, np.ndarray]:
        off, squared, n = np.moveaxis(sums, -1, 0)  # (..., K) each
        return _each({"mae": off / n, "rmse": np.sqrt(squared / n)}, names)

    return [
        Part(lambda videos: moments(videos, len(names)), lambda sums: _agreement(sums, names)),
        Part(errors, from_errors),
    ]


def _agreement(sums: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """(..., K, 6) sums as from `moments` -> CCC and Pearson's r of each output and their means; 0 for a constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)  # (..., K) each
    mean_x, mean_y = x / n, y / n
    var_x, var_y, cov = xx / n - mean_x**2, yy / n - mean_y**2, xy / n - mean_x * mean_y
    varied = (var_x > CONSTANT * xx / n) & (var_y > CONSTANT * yy / n)
    total = var_x + var_y + (mean_x - mean_y) ** 2
    spread = np.sqrt(np.where(varied, var_x * var_y, 1.0))
    found = {"ccc": np.divide(2 * cov, total, out=np.zeros_like(total), where=varied)}
    return _each({**found, "pearson": np.where(varied, cov / spread, 0.0)}, names)


def _each(found: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Measure -> (..., K) as the mean and each output's own."""
    scores = {}
    for measure, values in found.items():
        scores[f"{measure}_mean"] = values.mean(-1)
        scores |= {f"{measure}_{name}": values[..., k] for k, name in enumerate(names)}
    return scores


PARTS: Mapping[str, Callable[[Task], list[Part]]] = {
    "binary": _binary,
    "classes": _classes,
    "multilabel": _multilabel,
    "regression": _regression,
}
