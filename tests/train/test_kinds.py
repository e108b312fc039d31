"""Scores by kind of task, against scikit-learn and scipy, and what they do where they are not defined."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from train.judging.bootstrap import bootstrap_interval, paired_bootstrap, resample_videos
from train.judging.kinds import is_error, metric_for
from train.judging.ranks import rank_counts
from train.tasks import TASKS, Task

OWN = replace(TASKS["expr"], name="action", outputs=3, label_range=(0, 2), class_names=("walk", "run", "fall"))
PAIN = replace(TASKS["va"], name="pain", outputs=1, label_names=("pain",), label_range=(0, 10))
SMILE = replace(TASKS["au"], name="smile", outputs=2, label_names=("smile", "talk"))
Videos = list[tuple[np.ndarray, np.ndarray]]


def videos_of(task: Task, num: int = 8, frames: int = 60, seed: int = 0) -> Videos:
    """Scores with ties, and labels that they only partly tell; some frames are masked."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(num):
        if task.kind == "binary":
            label = rng.integers(0, 2, frames).astype(float)
            score = np.round(np.clip(0.3 * label + rng.random(frames) * 0.7, 0, 1), 2)
        elif task.kind == "classes":
            label = rng.integers(0, task.outputs, frames).astype(float)
            score = np.round(rng.random((frames, task.outputs)), 1) + 0.4 * (label[:, None] == np.arange(task.outputs))
        elif task.kind == "multilabel":
            label = rng.integers(0, 2, (frames, task.outputs)).astype(float)
            score = np.round(0.3 * label + 0.7 * rng.random(label.shape), 2)
        else:
            label = rng.uniform(*task.label_range, (frames, task.outputs))
            score = label + rng.normal(0, 2, label.shape)
        label[: frames // 10] = np.nan
        found.append((score, label))
    return found


def pooled(videos: Videos) -> tuple[np.ndarray, np.ndarray]:
    score, label = (np.concatenate(part) for part in zip(*videos, strict=True))
    keep = np.isfinite(label.reshape(len(label), -1)).all(axis=1)
    return score[keep], label[keep]


@pytest.mark.parametrize("seed", range(3))
def test_two_classes(seed: int) -> None:
    videos = videos_of(TASKS["violence"], seed=seed)
    found, (score, label) = metric_for(TASKS["violence"], ranks=True).scores(*pooled(videos)), pooled(videos)
    assert found["ap"] == pytest.approx(average_precision_score(label, score))
    assert found["auc"] == pytest.approx(roc_auc_score(label, score))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, score > 0.5))
    assert found["f1_violent"] == pytest.approx(f1_score(label, score > 0.5))


@pytest.mark.parametrize("seed", range(3))
def test_classes(seed: int) -> None:
    score, label = pooled(videos_of(OWN, seed=seed))
    found = metric_for(OWN, ranks=True).scores(score, label)
    decided = score.argmax(axis=1)
    assert found["macro_f1"] == pytest.approx(f1_score(label, decided, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, decided))
    for k, name in enumerate(OWN.class_names):
        assert found[f"f1_{name}"] == pytest.approx(f1_score(label == k, decided == k))
        assert found[f"ap_{name}"] == pytest.approx(average_precision_score(label == k, score[:, k]))
        assert found[f"auc_{name}"] == pytest.approx(roc_auc_score(label == k, score[:, k]))
    assert found["auc"] == pytest.approx(np.mean([found[f"auc_{name}"] for name in OWN.class_names]))


def test_several_labels() -> None:
    score, label = pooled(videos_of(SMILE))
    found = metric_for(SMILE, ranks=True).scores(score, label)
    assert found["f1_mean"] == pytest.approx(f1_score(label, score > 0.5, average="macro"))
    assert found["map"] == pytest.approx(average_precision_score(label, score, average="macro"))
    assert found["auc_talk"] == pytest.approx(roc_auc_score(label[:, 1], score[:, 1]))


def test_numbers() -> None:
    score, label = pooled(videos_of(PAIN))
    found = metric_for(PAIN).scores(score, label)
    off = score - label
    assert found["mae_mean"] == pytest.approx(np.abs(off).mean())
    assert found["rmse_mean"] == pytest.approx(np.sqrt((off**2).mean()))
    assert found["pearson_mean"] == pytest.approx(pearsonr(score[:, 0], label[:, 0])[0])
    assert is_error("rmse_mean")
    assert not is_error("ccc_mean")


@pytest.mark.parametrize("task", [TASKS["violence"], OWN, SMILE, PAIN], ids=lambda t: t.name)
def test_intervals_are_those_of_repeated_frames(task: Task) -> None:
    metric, videos = metric_for(task, ranks=True), videos_of(task, num=5)
    found = bootstrap_interval(metric, videos, num_resamples=100, seed=3)
    counts = resample_videos(len(videos), 100, seed=3)
    drawn = [metric.scores(*pooled([videos[v] for v in np.repeat(np.arange(5), own)])) for own in counts]
    assert found.keys() == drawn[0].keys()
    for name, interval in found.items():
        wanted = np.quantile([one[name] for one in drawn], [0.025, 0.975])
        assert [interval.low, interval.high] == pytest.approx(wanted.tolist(), abs=1e-9), name
    same = paired_bootstrap(metric, videos, videos, num_resamples=20)
    assert {gap.value for gap in same.values()} == {0.0}


@pytest.mark.parametrize("task", [TASKS["violence"], OWN, SMILE], ids=lambda t: t.name)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_one_class_is_all_there_is_no_score_is_made_up(task: Task, value: float) -> None:
    videos = [(score, np.where(np.isfinite(label), value, np.nan)) for score, label in videos_of(task)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_interval(metric_for(task, ranks=True), videos, num_resamples=50)
    assert all(np.isfinite([one.value, one.low, one.high]).all() for one in found.values())
    assert not [name for name in found if name.startswith("auc")]
    if value == 0.0 and task.kind != "classes":
        assert not [name for name in found if name.partition("_")[0] in ("ap", "map")]


def test_a_headline_that_is_not_defined_says_so() -> None:
    task = replace(TASKS["violence"], metric="auc")
    videos = [(score, np.where(np.isfinite(label), 1.0, np.nan)) for score, label in videos_of(task)]
    with pytest.raises(ValueError, match="the score auc is not defined on these labels"):
        bootstrap_interval(metric_for(task), videos, num_resamples=10)


def test_many_scores_share_bins_only_where_a_table_per_video_is_needed() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 20_000)
    score = 0.2 * label + rng.random(20_000)
    assert rank_counts([(score, label)]).shape[1] < 520
    assert rank_counts([(score, label)], None).shape[1] == len(np.unique(score))
    found = bootstrap_interval(metric_for(TASKS["violence"], ranks=True), [(score, label)] * 3, num_resamples=20)
    assert found["auc"].value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert found["auc"].low == pytest.approx(found["auc"].value, abs=2e-3)
