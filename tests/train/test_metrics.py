"""Scores against scikit-learn, torchmetrics and the float64 formula; the fast bootstrap against pooling frames."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torchmetrics.functional import concordance_corrcoef
from torchmetrics.functional.classification import multiclass_f1_score

from train.judging.bootstrap import bootstrap_interval, paired_bootstrap, resample_videos
from train.judging.kinds import metric_for
from train.judging.metrics import au_scores, expr_scores, va_scores, violence_scores
from train.tasks import TASKS

TASK_METRICS = {name: metric_for(task) for name, task in TASKS.items()}

torch.set_num_threads(1)
NAN = np.nan


def ccc(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return 2 * ((x - x.mean()) * (y - y.mean())).mean() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def violence_video(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    label = (rng.random(rng.integers(20, 300)) < rng.random()).astype(np.float32)
    prob = np.clip(0.5 + 0.3 * (label - 0.5) + rng.normal(0, 0.3, len(label)), 0, 1).astype(np.float32)
    label[rng.random(len(label)) < 0.1] = NAN
    return prob, label


def va_video(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    label = np.clip(rng.normal(rng.normal(0.1, 0.3, 2), 0.2, (rng.integers(20, 300), 2)), -1, 1).astype(np.float32)
    pred = (0.5 * label + rng.normal(0, 0.2, label.shape) + 0.1).astype(np.float32)
    label[rng.random(len(label)) < 0.1] = NAN
    return pred, label


def expr_video(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    label = rng.choice(8, rng.integers(20, 300), p=rng.dirichlet(np.ones(8))).astype(np.float32)
    decided = np.where(rng.random(len(label)) < 0.5, label, rng.integers(0, 8, len(label)))
    label[rng.random(len(label)) < 0.1] = NAN
    return decided, label


def au_video(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    label = (rng.random((rng.integers(20, 300), 12)) < rng.uniform(0.02, 0.7, 12)).astype(np.float32)
    prob = np.clip(0.5 * label + rng.normal(0.25, 0.2, label.shape), 0, 1)
    label[rng.random(len(label)) < 0.1] = NAN
    return prob, label


VIDEO = {"violence": violence_video, "va": va_video, "expr": expr_video, "au": au_video}


def videos_of(task: str, num: int = 12, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [VIDEO[task](rng) for _ in range(num)]


def pooled(videos: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([p for p, _ in videos]), np.concatenate([t for _, t in videos])


def test_every_task_has_a_metric_with_its_primary_score() -> None:
    assert set(TASK_METRICS) == set(TASKS)
    for name, metric in TASK_METRICS.items():
        assert metric.primary == TASKS[name].metric
        assert metric.primary in metric.scores(*pooled(videos_of(name, 2)))


# --- expressions and action units ---


@pytest.mark.parametrize("seed", range(5))
def test_expr_scores_are_those_of_scikit_learn(seed: int) -> None:
    decided, label = pooled(videos_of("expr", seed=seed))
    keep = np.isfinite(label)
    truth, found = label[keep].astype(int), decided[keep].astype(int)
    scores = expr_scores(decided, label)
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro", labels=range(8)), abs=1e-12)
    own = [value for name, value in scores.items() if name.startswith("f1_")]
    np.testing.assert_allclose(own, f1_score(truth, found, average=None, labels=range(8)), atol=1e-12)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, found), abs=1e-12)
    assert list(scores)[1:3] == ["f1_neutral", "f1_anger"]


def test_an_expression_that_never_occurs_counts_as_zero() -> None:
    label = np.r_[np.zeros(50), np.ones(50)]
    assert expr_scores(label, label)["macro_f1"] == pytest.approx(2 / 8)
    with pytest.raises(ValueError, match="class numbers from 0 to 7"):
        expr_scores(label + 7, label)
    with pytest.raises(ValueError, match="class numbers from 0 to 7"):
        expr_scores(label, label + 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_au_scores_are_those_of_scikit_learn(seed: int) -> None:
    prob, label = pooled(videos_of("au", seed=seed))
    keep = np.isfinite(label).all(1)
    truth, found = label[keep].astype(int), (prob[keep] > 0.5).astype(int)
    scores = au_scores(prob, label)
    own = [f1_score(truth[:, k], found[:, k]) for k in range(12)]
    np.testing.assert_allclose(list(scores.values())[1:], own, atol=1e-12)
    assert scores["f1_mean"] == pytest.approx(f1_score(truth, found, average="macro"), abs=1e-12)
    assert list(scores)[:2] == ["f1_mean", "f1_au1"]


def test_action_units_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(n, 12\)"):
        au_scores(np.zeros((5, 8)), np.zeros((5, 8)))
    with pytest.raises(ValueError, match="must be 0, 1 or NaN"):
        au_scores(np.zeros((5, 12)), np.full((5, 12), 2.0))
    with pytest.raises(ValueError, match="no labelled frame"):
        au_scores(np.zeros((5, 12)), np.full((5, 12), NAN))


# --- violence ---


@pytest.mark.parametrize("seed", range(5))
def test_violence_scores_are_those_of_scikit_learn_and_torchmetrics(seed: int) -> None:
    prob, label = pooled(videos_of("violence", seed=seed))
    keep = np.isfinite(label)
    truth, decided = label[keep].astype(int), (prob[keep] > 0.5).astype(int)
    scores = violence_scores(prob, label)
    calm, violent = f1_score(truth, decided, average=None, labels=[0, 1])
    assert scores["f1_violent"] == pytest.approx(violent, abs=1e-12)
    assert scores["f1_nonviolent"] == pytest.approx(calm, abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, decided, average="macro"), abs=1e-12)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, decided), abs=1e-12)
    by_torch = multiclass_f1_score(torch.tensor(decided), torch.tensor(truth), num_classes=2, average="macro")
    assert scores["macro_f1"] == pytest.approx(by_torch.item(), abs=1e-6)


def test_all_nonviolent_at_the_published_share_gives_the_published_floor() -> None:
    label = np.r_[np.ones(44), np.zeros(56)]
    assert violence_scores(np.zeros(100), label)["macro_f1"] == pytest.approx(0.359, abs=5e-4)
    assert violence_scores(np.ones(100), label)["macro_f1"] == pytest.approx(0.306, abs=5e-4)


def test_a_class_that_never_occurs_counts_as_zero() -> None:
    scores = violence_scores(np.zeros(5), np.zeros(5))
    assert (scores["macro_f1"], scores["f1_violent"], scores["f1_nonviolent"]) == (0.5, 0.0, 1.0)
    assert f1_score(np.zeros(5), np.zeros(5), average="macro", labels=[0, 1], zero_division=0) == 0.5


def test_a_tie_is_nonviolent_and_the_threshold_moves_it() -> None:
    prob, label = np.array([0.5, 0.4, 0.6]), np.array([1.0, 0.0, 1.0])
    assert violence_scores(prob, label)["f1_violent"] == pytest.approx(2 / 3)
    assert violence_scores(prob, label, threshold=0.45)["f1_violent"] == 1.0


# --- valence and arousal ---


@pytest.mark.parametrize(("n", "spread"), [(5, 0.3), (1000, 0.3), (400_000, 0.3), (400_000, 1e-3)])
def test_va_scores_are_the_float64_formula(n: int, spread: float) -> None:
    rng = np.random.default_rng(n)
    label = (0.7 + spread * rng.normal(size=(n, 2))).astype(np.float32)
    pred = (0.5 * label + 0.35 + spread * 0.3 * rng.normal(size=(n, 2))).astype(np.float32)
    scores = va_scores(pred, label)
    expected = [ccc(pred[:, k], label[:, k]) for k in range(2)]
    assert [scores["ccc_valence"], scores["ccc_arousal"]] == pytest.approx(expected, abs=1e-10)
    assert scores["ccc_mean"] == pytest.approx(np.mean(expected), abs=1e-10)
    # torchmetrics divides variances by n - 1 but not the squared gap of means: off by at most about 1/n.
    by_torch = concordance_corrcoef(torch.tensor(pred).double(), torch.tensor(label).double())
    assert by_torch.numpy() == pytest.approx(expected, abs=1 / n)


def test_masked_rows_are_dropped_whole() -> None:
    pred, label = va_video(np.random.default_rng(1))
    keep = np.isfinite(label).all(1)
    clean = va_scores(pred[keep], label[keep])
    pred[~keep] = NAN  # a prediction on an unlabelled frame does not matter
    assert va_scores(pred, label) == pytest.approx(clean, abs=1e-12)
    half = label.copy()
    half[0, 1] = NAN
    assert va_scores(pred, half) == pytest.approx(va_scores(pred[1:], label[1:]), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.3, 1 / 3])
@pytest.mark.parametrize("labels", ["constant", "varied"])
def test_constant_predictions_score_zero_and_not_nan(value: float, labels: str) -> None:
    label = np.full((1000, 2), value) if labels == "constant" else np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    assert set(va_scores(np.full((1000, 2), value), label).values()) == {0.0}


@pytest.mark.parametrize("name", sorted(TASK_METRICS))
def test_nothing_to_score_and_bad_predictions_are_errors(name: str) -> None:
    pred, label = videos_of(name, 1)[0]
    metric = TASK_METRICS[name]
    with pytest.raises(ValueError, match="no labelled frame"):
        metric.scores(pred, np.full_like(label, NAN))
    with pytest.raises(ValueError, match="not finite"):
        metric.scores(np.full_like(pred, NAN), label)
    with pytest.raises(ValueError, match="differ in shape"):
        metric.scores(pred[:-1], label)
    with pytest.raises(ValueError, match="no labelled frame"):
        bootstrap_interval(metric, [(pred, np.full_like(label, NAN))])


# --- bootstrap ---


@pytest.mark.parametrize("name", sorted(TASK_METRICS))
def test_sums_per_video_give_the_score_of_the_pooled_frames(name: str) -> None:
    metric, videos = TASK_METRICS[name], videos_of(name)
    counts = resample_videos(len(videos), 40, seed=5)
    assert (counts.sum(1) == len(videos)).all()
    sums = metric.statistics(videos)
    fast = metric.from_statistics([np.tensordot(counts.astype(float), part, axes=1) for part in sums])
    for r, count in enumerate(counts):
        direct = metric.scores(*pooled([videos[v] for v in np.repeat(np.arange(len(videos)), count)]))
        found = {key: v[r] for key, v in fast.items() if np.isfinite(v[r])}
        assert found == pytest.approx(direct, abs=1e-10)


@pytest.mark.parametrize("name", sorted(TASK_METRICS))
def test_interval_is_the_percentiles_around_the_score(name: str) -> None:
    metric, videos = TASK_METRICS[name], videos_of(name)
    unlabelled = [(pred, np.full_like(label, NAN)) for pred, label in videos_of(name, 1, seed=9)]
    result = bootstrap_interval(metric, videos + unlabelled, num_resamples=300, seed=1)
    counts = resample_videos(len(videos), 300, seed=1)
    direct = [
        metric.scores(*pooled([videos[v] for v in np.repeat(np.arange(len(videos)), count)]))[metric.primary]
        for count in counts
    ]
    interval = result[metric.primary]
    assert interval.value == pytest.approx(metric.scores(*pooled(videos))[metric.primary], abs=1e-10)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(direct, [0.025, 0.975]).tolist(), abs=1e-10)
    assert interval.low < interval.value < interval.high
    assert result == bootstrap_interval(metric, videos + unlabelled, num_resamples=300, seed=1)
    narrow = bootstrap_interval(metric, videos, num_resamples=300, seed=1, level=0.5)[metric.primary]
    assert interval.low < narrow.low < narrow.high < interval.high


@pytest.mark.parametrize("name", sorted(TASK_METRICS))
def test_paired_difference(name: str) -> None:
    metric, videos = TASK_METRICS[name], videos_of(name)
    perfect = [(np.nan_to_num(label), label) for _, label in videos]
    gap = paired_bootstrap(metric, perfect, videos, num_resamples=200)[metric.primary]
    score = metric.scores(*pooled(videos))[metric.primary]
    assert gap.value == pytest.approx(1 - score, abs=1e-10)
    assert 0 < gap.low < gap.high
    assert gap.share_above_zero == 1.0
    same = paired_bootstrap(metric, videos, videos, num_resamples=50)[metric.primary]
    assert (same.value, same.low, same.high, same.share_above_zero) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="same videos"):
        paired_bootstrap(metric, videos, videos[::-1])
    with pytest.raises(ValueError, match="same videos"):
        paired_bootstrap(metric, videos, videos[1:])
