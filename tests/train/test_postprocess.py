"""Smoothing against a loop, searches against every setting tried, and: no tested label can change what was chosen."""

from dataclasses import replace

import numpy as np
import pytest

from train.config import TrainConfig
from train.data.labels import Track
from train.experiments.crossval import Split, cross_validate, split_windows
from train.fit.priors import class_prior, prior_line
from train.judging import postprocess
from train.judging.evaluate import TrackScores, evaluate_frames
from train.judging.postprocess import (
    HALF_WIDTHS,
    PRIOR_STRENGTHS,
    THRESHOLDS,
    PostProcess,
    adjust_prior,
    apply,
    apply_all,
    combine,
    identity,
    smooth,
    tune,
)
from train.tasks import TASKS

CONFIG = TrainConfig(head="text", head_options={"hidden": 8}, max_epochs=2, learning_rate=0.02, num_folds=3)


def noisy(task_name: str, num_tracks: int = 6, seed: int = 0) -> list[TrackScores]:
    """Slow labels under fast noise, so that smoothing helps; biased, so that 0.5 and the prior are not best."""
    task, rng, found = TASKS[task_name], np.random.default_rng(seed), []
    for i in range(num_tracks):
        num_frames = int(rng.integers(150, 300))
        wave = np.sin(np.arange(num_frames)[:, None] / rng.uniform(15, 40, 12) + rng.uniform(0, 6, 12))  # (F, 12)
        if task.kind == "regression":
            labels = 0.7 * wave[:, :2]
            scores = np.clip(labels + rng.normal(0, 0.5, labels.shape), -1, 1)
        elif task.kind == "classes":
            labels = np.where(wave[:, :1] > 0.8, 5, np.where(wave[:, :1] > 0, 3, 0))
            scores = np.abs(0.4 * (labels == np.arange(8)) + rng.normal(0.1, 0.15, (num_frames, 8)))
            scores[:, 0] += 0.3
            scores /= scores.sum(axis=1, keepdims=True)
        else:
            labels = (wave[:, : len(task.label_names)] > 0.6).astype(float)
            scores = np.clip(0.25 * labels + 0.1 + rng.normal(0, 0.1, labels.shape), 0, 1)
        labels = labels.astype(np.float32)
        labels[rng.random(num_frames) < 0.1] = np.nan
        scores[:4] = np.nan
        track = Track(f"t{i}", f"v{i}", f"v{i}", None, None, labels, "x")
        found.append(TrackScores(track, scores.astype(np.float64), 0))
    return found


# --- smoothing ---


@pytest.mark.parametrize("half_width", [0, 1, 3, 500])
@pytest.mark.parametrize("seed", range(3))
def test_smoothing_is_the_mean_over_the_frames_that_have_a_score(half_width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(int(rng.integers(1, 60)), 3))
    scores[rng.random(len(scores)) < 0.3] = np.nan
    found = smooth(scores, half_width)
    for frame in range(len(scores)):
        around = scores[max(frame - half_width, 0) : frame + half_width + 1]
        if np.isnan(scores[frame, 0]):
            assert np.isnan(found[frame]).all()  # no window covers it: smoothing invents nothing, coverage stays
        else:
            np.testing.assert_allclose(found[frame], around[np.isfinite(around[:, 0])].mean(axis=0), atol=1e-12)


def test_smoothing_stays_within_what_it_averages() -> None:
    scores = np.concatenate([np.full((50_000, 1), 1.0), np.full((50, 1), 1 - 1e-16)])
    assert smooth(scores, 25).max() <= 1.0
    assert smooth(np.full((1000, 1), 0.1), 7).min() >= 0.1


def test_prior_adjustment_is_the_formula_and_zero_changes_nothing() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(3), 10)
    prior = np.array([0.7, 0.2, 0.1])
    expected = scores / prior**0.75
    np.testing.assert_allclose(adjust_prior(scores, prior, 0.75), expected / expected.sum(1, keepdims=True))
    assert adjust_prior(scores, prior, 0.0) is scores
    assert np.isnan(adjust_prior(np.full((2, 3), np.nan), prior, 1.0)).all()


# --- settings ---


@pytest.mark.parametrize("name", TASKS)
def test_identity_changes_no_score(name: str) -> None:
    results, task = noisy(name), TASKS[name]
    same = apply_all(task, identity(task), results)
    raw, after = evaluate_frames(task, results), evaluate_frames(task, same)
    assert raw["scores"] == after["scores"]
    assert raw["coverage"] == after["coverage"]


@pytest.mark.parametrize("name", TASKS)
def test_tuned_settings_are_the_best_of_all_that_are_tried(name: str) -> None:
    results, task = noisy(name), TASKS[name]
    prior = (0.55, 0.01, 0.01, 0.3, 0.01, 0.1, 0.01, 0.01)
    settings = tune(task, results, prior if name == "expr" else ())
    value = evaluate_frames(task, apply_all(task, settings, results))["value"]
    assert value > evaluate_frames(task, results)["value"] + 0.02
    num = len(task.score_names)
    if task.kind == "classes":
        tried = [PostProcess((d,) * num, (), prior, tau) for d in HALF_WIDTHS for tau in PRIOR_STRENGTHS]
    elif task.kind == "regression":
        tried = [PostProcess((d, e)) for d in HALF_WIDTHS for e in HALF_WIDTHS]
    else:  # the same threshold for all units is among what could be chosen
        tried = [PostProcess((d,) * num, (t,) * num) for d in HALF_WIDTHS for t in THRESHOLDS]
    best = max(evaluate_frames(task, apply_all(task, s, results))["value"] for s in tried)
    assert value >= best - 1e-12
    assert name in ("au",) or value == pytest.approx(best, abs=1e-12)


def test_each_unit_gets_its_own_threshold() -> None:
    results = noisy("au")
    for r in results:
        r.scores[:, 3] = np.clip(r.scores[:, 3] + 0.4, 0, 1)
    thresholds = tune(TASKS["au"], results).thresholds
    assert thresholds[3] > 0.5 > thresholds[2]


def test_nothing_to_gain_leaves_scores_alone() -> None:
    results = noisy("va")
    perfect = [TrackScores(r.track, r.labels.astype(np.float64), 0) for r in results]
    assert tune(TASKS["va"], perfect) == identity(TASKS["va"])
    calm = noisy("violence")
    low = [TrackScores(r.track, 0.1 + 0.32 * np.nan_to_num(r.labels).astype(np.float64), 0) for r in calm]
    assert tune(TASKS["violence"], low) == PostProcess((0,), (0.4,))  # of all that part 0.1 from 0.42, next to 0.5
    silent = [replace(r, track=replace(r.track, labels=np.full_like(r.labels, np.nan))) for r in results]
    assert tune(TASKS["va"], silent) == identity(TASKS["va"])


def test_settings_survive_json_and_folds_are_combined_by_median() -> None:
    settings = [PostProcess((d,), (t,)) for d, t in ((0, 0.3), (50, 0.4), (100, 0.9))]
    assert combine(TASKS["violence"], settings) == PostProcess((50,), (0.4,))
    assert PostProcess.from_dict(settings[0].to_dict()) == settings[0]
    two = [PostProcess((0,) * 8, (), (0.125,) * 8, tau) for tau in (0.5, 1.0)]
    assert combine(TASKS["expr"], two).prior_strength == 0.75
    assert combine(TASKS["va"], []) == identity(TASKS["va"])


def test_decisions_are_hard_and_uncovered_frames_stay_so() -> None:
    scores = np.array([[0.2], [0.8], [np.nan]])
    np.testing.assert_array_equal(apply(TASKS["violence"], PostProcess((0,), (0.5,)), scores), [[0], [1], [np.nan]])
    values = apply(TASKS["va"], PostProcess((0, 1)), np.array([[2.0, 0.0], [0.5, 1.0]]))
    np.testing.assert_array_equal(values, [[1.0, 0.5], [0.5, 0.5]])


# --- what may choose ---


@pytest.mark.parametrize("name", TASKS)
def test_labels_of_the_test_fold_cannot_change_the_tuned_values(problem, name: str, monkeypatch) -> None:
    """Everything from folds on is done again with other labels on the tested tracks: splits, heads, settings."""
    p = problem(name)
    folds = np.arange(len(p.tracks)) // 2 % 3
    monkeypatch.setattr(postprocess, "HALF_WIDTHS", (0, 1, 2, 4))  # the made-up videos are short

    def settings_of_fold_0(tracks, windows) -> tuple[PostProcess, Split]:
        split = split_windows(CONFIG, tracks, windows, folds)[0]
        return cross_validate(p.task, CONFIG, p.features, tracks, windows, [split]).settings[0], split

    rng = np.random.default_rng(0)
    before, split = settings_of_fold_0(p.tracks, p.windows)
    tracks = [
        replace(t, labels=rng.permutation(t.labels[rng.integers(0, len(t.labels), len(t.labels))])) if f == 0 else t
        for t, f in zip(p.tracks, folds, strict=True)
    ]
    labels = p.windows.labels.copy()
    labels[split.test] = rng.permutation(labels[split.test])[:, ::-1]
    after, split_again = settings_of_fold_0(tracks, replace(p.windows, labels=labels))
    assert before == after
    np.testing.assert_array_equal(split.val, split_again.val)
    # The other way round it must show: labels of the validation part do choose.
    changed = [
        replace(t, labels=t.labels[::-1].copy()) if split.val[p.windows.track == i].any() else t
        for i, t in enumerate(p.tracks)
    ]
    frames = cross_validate(p.task, CONFIG, p.features, changed, p.windows, [split]).settings[0]
    assert name == "expr" or frames != before


def test_prior_is_that_of_the_training_part(problem) -> None:
    p = problem("expr")
    split = split_windows(CONFIG, p.tracks, p.windows, np.arange(len(p.tracks)) // 2 % 3)[0]
    result = cross_validate(p.task, CONFIG, p.features, p.tracks, p.windows, [split])
    known = p.windows.labels[split.train & p.windows.labelled][:, 0].astype(int)
    expected = np.bincount(known, minlength=8) + 1
    np.testing.assert_allclose(result.settings[0].prior, expected / expected.sum())
    assert class_prior(TASKS["va"], p.windows.labels) == ()


def test_the_effective_prior_is_told() -> None:
    labels = np.float32([[1]] * 9 + [[0]] * 31)
    line = prior_line(TASKS["violence"], labels, weighted=True)
    assert line.endswith("nonviolent 77.5% (as 50.0%), violent 22.5% (as 50.0%)")
    assert prior_line(TASKS["violence"], labels, weighted=False).endswith("violent 22.5% (as 22.5%)")
    units = np.zeros((10, 12), np.float32)
    units[:1, 0] = 1
    assert "AU1 10.0% (as 50.0%)" in prior_line(TASKS["au"], units, weighted=True)
    assert prior_line(TASKS["va"], units[:, :2], weighted=True) == ""
