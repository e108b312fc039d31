"""The ceiling of one label per window against the slow way, and what makes it fall."""

import numpy as np
import pytest

from train.data.labels import Track
from train.judging.evaluate import evaluate_frames
from train.judging.oracle import oracle_frames
from train.tasks import TASKS


def track(labels: np.ndarray) -> Track:
    return Track("t", "v", "v", "val", None, labels.astype(np.float32), "x")


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("size", "stride"), [(4, 4), (8, 3), (100, 100)])
def test_window_means_are_laid_onto_frames(name: str, size: int, stride: int) -> None:
    task, rng = TASKS[name], np.random.default_rng(0)
    high = {"expr": 8, "va": 0}.get(name, 2)
    shape = (37, len(task.label_names))
    labels = (rng.integers(0, high, shape) if high else rng.uniform(-1, 1, shape)).astype(np.float32)
    labels[rng.random(37) < 0.4] = np.nan
    labels[:9] = np.nan  # windows in which nothing is annotated
    (found,) = oracle_frames(task, [track(labels)], size, stride)
    own = labels if name != "expr" else np.where(np.isnan(labels), np.nan, labels == np.arange(8))
    values = own.astype(np.float64)
    starts = sorted({*range(0, max(37 - size, 0) + 1, stride), max(37 - size, 0)})
    for frame in range(37):
        over = [values[s : s + size] for s in starts if s <= frame < s + size]
        means = [np.nanmean(part, axis=0) for part in over if np.isfinite(part).any()]
        expected = np.mean(means, axis=0) if means else np.full(len(task.score_names), np.nan)
        np.testing.assert_allclose(found.scores[frame], expected, atol=1e-12)


def test_longer_windows_cost_more_and_single_frames_nothing() -> None:
    time = np.arange(2000)[:, None]
    labels = 0.8 * np.sin(time / np.array([[30.0, 18.0]]))
    tracks = [track(labels)]
    values = [
        evaluate_frames(TASKS["va"], oracle_frames(TASKS["va"], tracks, w, w))["scores"] for w in (1, 16, 64, 128)
    ]
    for name in ("ccc_valence", "ccc_arousal"):
        own = [v[name] for v in values]
        assert own[0] == pytest.approx(1.0)
        assert own == sorted(own, reverse=True)
    assert values[2]["ccc_valence"] > values[2]["ccc_arousal"]  # the faster signal loses more
