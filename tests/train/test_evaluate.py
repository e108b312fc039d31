"""Windows onto frames against a loop over frames; pooled scores against scikit-learn and the float64 formula."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from train.data.labels import Track
from train.judging.evaluate import (
    TrackScores,
    compare_frames,
    constant_scores,
    evaluate_frames,
    evaluate_windows,
    frame_scores,
    label_columns,
    predictions_table,
    score_columns,
    tracks_to_frames,
)
from train.show.training import percent
from train.tasks import TASKS


@pytest.mark.parametrize("seed", range(12))
def test_frame_scores_are_means_over_covering_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames, num_windows, width = int(rng.integers(1, 80)), int(rng.integers(1, 20)), int(rng.integers(1, 3))
    starts = rng.integers(0, num_frames, num_windows)
    stops = np.minimum(starts + rng.integers(1, 30, num_windows), num_frames)
    outputs = rng.normal(size=(num_windows, width))
    found = frame_scores(outputs, starts, stops, num_frames)
    assert found.shape == (num_frames, width)
    for frame in range(num_frames):
        over = [outputs[n] for n in range(num_windows) if starts[n] <= frame < stops[n]]
        expected = np.mean(over, axis=0) if over else np.full(width, np.nan)
        np.testing.assert_allclose(found[frame], expected, atol=1e-12)


def made_results(task_name: str, seed: int = 0) -> list[TrackScores]:
    """Eight tracks over seven videos, some frames masked, some without a prediction."""
    rng = np.random.default_rng(seed)
    results = []
    for i in range(8):
        num_frames = int(rng.integers(30, 90))
        if task_name == "violence":
            labels = (rng.random((num_frames, 1)) < rng.random()).astype(np.float32)
            scores = np.clip(0.5 * labels + rng.normal(0.25, 0.3, labels.shape), 0, 1).astype(np.float64)
        elif task_name == "expr":
            labels = rng.integers(0, 8, (num_frames, 1)).astype(np.float32)
            scores = rng.dirichlet(np.ones(8), num_frames) + 0.3 * (labels == np.arange(8))
        elif task_name == "au":
            labels = (rng.random((num_frames, 12)) < 0.3).astype(np.float32)
            scores = np.clip(0.5 * labels + rng.normal(0.25, 0.3, labels.shape), 0, 1).astype(np.float64)
        else:
            labels = np.clip(rng.normal(0, 0.4, (num_frames, 2)), -1, 1).astype(np.float32)
            scores = 0.6 * labels.astype(np.float64) + rng.normal(0, 0.2, labels.shape)
        labels[rng.random(num_frames) < 0.2, 0] = np.nan
        scores[rng.random(num_frames) < 0.1] = np.nan
        track = Track(f"t{i}", f"v{min(i, 6)}", f"v{min(i, 6)}", None, None, labels, "x")
        results.append(TrackScores(track, scores, i % 3))
    return results


def pooled(results: list[TrackScores]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = (np.concatenate([getattr(r, a) for r in results]) for a in ("labels", "scores"))
    usable = np.isfinite(labels).all(1) & np.isfinite(scores).all(1)
    return labels[usable].astype(np.float64), scores[usable]


def ccc(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * ((x - x.mean()) * (y - y.mean())).mean() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


@pytest.mark.parametrize("seed", range(3))
def test_official_scores_of_all_frames_together(seed: int) -> None:
    results = made_results("violence", seed)
    labels, scores = pooled(results)
    expected = f1_score(labels[:, 0] > 0.5, scores[:, 0] > 0.5, average="macro")
    assert evaluate_frames(TASKS["violence"], results)["value"] == pytest.approx(expected, abs=1e-12)
    results = made_results("va", seed)
    labels, scores = pooled(results)
    both = [ccc(scores[:, k], labels[:, k]) for k in range(2)]
    found = evaluate_frames(TASKS["va"], results)
    assert found["value"] == pytest.approx(np.mean(both), abs=1e-10)
    assert [found["scores"]["ccc_valence"], found["scores"]["ccc_arousal"]] == pytest.approx(both, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_official_scores_of_expressions_and_units(seed: int) -> None:
    results = made_results("expr", seed)
    labels, scores = pooled(results)
    expected = f1_score(labels[:, 0], scores.argmax(1), average="macro", labels=range(8))
    assert evaluate_frames(TASKS["expr"], results)["value"] == pytest.approx(expected, abs=1e-12)
    results = made_results("au", seed)
    labels, scores = pooled(results)
    expected = f1_score(labels > 0.5, scores > 0.5, average="macro")
    assert evaluate_frames(TASKS["au"], results)["value"] == pytest.approx(expected, abs=1e-12)


def test_constants_say_the_mean_the_majority_or_the_shares() -> None:
    assert constant_scores(TASKS["va"], np.float32([[0, 1], [0.5, 0]])).tolist() == [0.25, 0.5]
    assert constant_scores(TASKS["violence"], np.float32([[1], [1], [0]])).tolist() == [1.0]
    assert constant_scores(TASKS["expr"], np.float32([[3], [3], [0], [7]])).tolist() == [0.25, 0, 0, 0.5, 0, 0, 0, 0.25]
    units = np.zeros((4, 12), np.float32)
    units[:3, 2] = 1
    assert constant_scores(TASKS["au"], units).tolist() == [0, 0, 1, *[0] * 9]


@pytest.mark.parametrize("name", TASKS)
def test_coverage_counts_and_interval(name: str) -> None:
    results = made_results(name)
    found = evaluate_frames(TASKS[name], results)
    labelled = sum(int(np.isfinite(r.labels).all(1).sum()) for r in results)
    assert found["frames"] == len(pooled(results)[0]) < labelled
    assert found["coverage"] == pytest.approx(found["frames"] / labelled)
    assert found["videos"] == 7  # two tracks share the last
    assert found["interval"] == found["intervals"][found["metric"]]
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert found == evaluate_frames(TASKS[name], results)
    assert evaluate_frames(TASKS[name], results, left_out=labelled)["coverage"] == found["frames"] / (2 * labelled)
    unlabelled = [
        TrackScores(Track("t", "v", "v", None, None, np.full_like(r.labels, np.nan), "x"), r.scores, 0) for r in results
    ]
    with pytest.raises(ValueError, match="no labelled frame has a prediction"):
        evaluate_frames(TASKS[name], unlabelled)


@pytest.mark.parametrize("name", TASKS)
def test_two_predictors_are_compared_on_the_same_videos(name: str) -> None:
    results = made_results(name)
    rng = np.random.default_rng(1)
    worse = [TrackScores(r.track, r.scores * 0.4, r.fold) for r in results]
    if name in ("expr", "au"):  # argmax does not care for a factor
        worse = [TrackScores(r.track, r.scores + rng.random(r.scores.shape), r.fold) for r in results]
    gap = compare_frames(TASKS[name], results, worse)
    ours, other = (evaluate_frames(TASKS[name], r) for r in (results, worse))
    assert gap.value == pytest.approx(ours["value"] - other["value"])
    assert 0 < gap.low < gap.value < gap.high
    assert gap.high - gap.low < sum(e["interval"][1] - e["interval"][0] for e in (ours, other))
    with pytest.raises(ValueError, match="the same videos"):
        compare_frames(TASKS[name], results, worse[1:])


def test_a_share_is_rounded_down() -> None:
    assert [percent(s) for s in (1.0, 0.99999, 0.5, 0.0)] == ["100.0 %", "99.9 %", "50.0 %", "0.0 %"]


def test_window_scores() -> None:
    prob, label = np.array([[0.9], [0.2], [0.6]]), np.array([[1.0], [0.0], [0.0]])
    assert evaluate_windows(TASKS["violence"], prob, label)["macro_f1"] == pytest.approx(
        f1_score([1, 0, 0], [1, 0, 1], average="macro")
    )


@pytest.mark.parametrize("name", TASKS)
def test_predictions_table_holds_every_frame(name: str) -> None:
    results = made_results(name)
    table = predictions_table(TASKS[name], results)
    assert len(table) == sum(len(r.labels) for r in results)
    task = TASKS[name]
    labels, scores = ([f"label{c}" for c in label_columns(task)], [f"score{c}" for c in score_columns(task)])
    columns = {"violence": ["label", "score"], "expr": ["label", *scores]}
    between = columns.get(name) or [c for pair in zip(labels, scores, strict=True) for c in pair]
    assert sorted(between) == sorted(list(table)[3:-1])
    assert list(table)[:3] == ["track", "video", "frame"]
    assert {"violence": "score", "va": "score_arousal", "expr": "score_surprise", "au": "score_AU26"}[name] in table
    for r in results:
        part = table[table["track"] == r.track.name]
        assert set(part["video"]) == {r.track.video_id}
        assert set(part["fold"]) == {r.fold}
        assert part["frame"].tolist() == list(range(len(r.labels)))
        np.testing.assert_array_equal(part[labels], r.labels)
        np.testing.assert_allclose(part[scores], r.scores, rtol=1e-6)


def test_tracks_to_frames_takes_only_the_windows_asked_for(problem) -> None:
    p = problem("va")
    which = np.isin(p.windows.track, [2, 5])
    which[np.flatnonzero(which)[0]] = False
    scores = np.random.default_rng(0).uniform(-1, 1, (len(p.windows), 2))
    found = tracks_to_frames(p.tracks, p.windows, scores, which, 3)
    assert [(r.track.name, r.fold) for r in found] == [(p.tracks[2].name, 3), (p.tracks[5].name, 3)]
    assert np.isnan(found[0].scores[:8]).all()  # only the window that was left out covers them
    own = p.windows.track == 5
    expected = frame_scores(scores[own], p.windows.start[own], p.windows.stop[own], len(p.tracks[5].labels))
    np.testing.assert_array_equal(found[1].scores, expected)
    assert np.isfinite(found[1].scores).all()  # windows cover every frame of a video
