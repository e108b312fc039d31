"""How sure a score is: bootstrap over videos. Frames of one video depend on each other, so videos are resampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from train.judging.metrics import Metric, Pair, require_frames

BLOCK = 2**23  # numbers in memory at once
LEAST_DEFINED = 0.5  # share of the resamples on which a score must be defined to have an interval, and to be told


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


def _resampled(metric: Metric, videos: Sequence[Pair], counts: np.ndarray) -> tuple[dict, dict]:
    """Scores on all videos, and their values (R,) on the resamples, of scores that are defined on most of them."""
    sums = metric.statistics(videos)
    values = {name: float(v) for name, v in metric.from_statistics([s.sum(0) for s in sums]).items()}
    values |= metric.exact(videos)
    largest = max(s[0].size for s in sums)
    draws: list[dict[str, np.ndarray]] = []
    for part in np.array_split(counts.astype(np.float64), -(-len(counts) * largest // BLOCK)):
        if len(part):
            draws.append(metric.from_statistics([np.tensordot(part, s, axes=1) for s in sums]))  # (R, ...) each
    drawn = {name: np.concatenate([np.atleast_1d(d[name]) for d in draws]) for name in draws[0]}
    defined = {n for n, d in drawn.items() if np.isfinite(values[n]) and np.isfinite(d).mean() >= LEAST_DEFINED}
    if metric.primary not in defined:
        raise ValueError(
            f"the score {metric.primary} is not defined on these labels: a class never occurs, or is all there is"
        )
    return {n: v for n, v in values.items() if n in defined}, {n: d for n, d in drawn.items() if n in defined}


def _with_frames(videos: Sequence[Pair]) -> list[bool]:
    return [bool(np.isfinite(np.asarray(label).reshape(len(label), -1)).all(axis=1).any()) for _, label in videos]


def bootstrap_interval(
    metric: Metric, videos: Sequence[Pair], num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile bootstrap over videos.

    Args:
        metric: Of a task, see `train.judging.kinds.metric_for`.
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
    require_frames(len(videos))
    counts = resample_videos(len(videos), num_resamples, seed)
    values, draws = _resampled(metric, videos, counts)
    tail = (1 - level) / 2
    return {
        name: Interval(float(values[name]), *np.nanquantile(draw, [tail, 1 - tail]).tolist())
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
        metric: Of a task, see `train.judging.kinds.metric_for`.
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
    require_frames(sum(keep))
    counts = resample_videos(sum(keep), num_resamples, seed)
    value_a, draw_a = _resampled(metric, [*compress(videos_a, keep)], counts)
    value_b, draw_b = _resampled(metric, [*compress(videos_b, keep)], counts)
    tail, result = (1 - level) / 2, {}
    for name in (n for n in draw_a if n in draw_b):
        gap = draw_a[name] - draw_b[name]  # (R,)
        low, high = np.nanquantile(gap, [tail, 1 - tail]).tolist()
        result[name] = Difference(float(value_a[name] - value_b[name]), low, high, float((gap > 0).mean()))
    return result
