"""What folds give away: copies against a brute-force oracle; random windows leak where labels are autocorrelated."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.windows import WindowSpec
from train.config import RANDOM_WINDOWS, TrainConfig
from train.data.features import Features, Windows, build_windows
from train.data.labels import Track
from train.experiments.audit import audit_folds, label_scores, nearest_window, video_mean
from train.experiments.crossval import Split, assign_folds, cross_validate, is_scattered, out_of_fold, split_windows
from train.judging.evaluate import evaluate_frames, tracks_to_frames
from train.judging.folds import SCATTERED, random_folds
from train.tasks import TASKS

SPEC = WindowSpec(size=64, stride=16, samples={"video": 16, "image": 16, "text": 4})
FPS = 30


def moods(num_frames: int, rng: np.random.Generator, memory_s: float) -> np.ndarray:
    """(F, 2) float32 valence and arousal as AR(1) per frame, correlation 1/e after ``memory_s``, deviation .35."""
    keep = np.exp(-1 / (memory_s * FPS))
    steps = rng.normal(0, np.sqrt(1 - keep**2), (num_frames, 2))
    values = np.empty((num_frames, 2))
    values[0] = rng.normal(size=2)
    for t in range(1, num_frames):
        values[t] = keep * values[t - 1] + steps[t]
    return np.clip(0.35 * values, -1, 1).astype(np.float32)


def make_tracks(num: int = 60, memory_s: float = 8.0, seed: int = 0) -> list[Track]:
    rng = np.random.default_rng(seed)
    return [
        Track(f"v{i}", f"v{i}", f"g{i}", None, None, moods(int(rng.integers(600, 2400)), rng, memory_s), "x")
        for i in range(num)
    ]


def windows_of(tracks: list[Track], rule: str = "mean") -> Windows:
    plans = {t.video_id: SPEC.plan(len(t.labels)) for t in tracks}
    return build_windows(tracks, Features({}, {}, plans, {}), rule, 0.5)


def violent(tracks: list[Track]) -> list[Track]:
    return [replace(t, labels=(t.labels[:, :1] > 0).astype(np.float32)) for t in tracks]


def audit(task: str, tracks: list[Track], kind: str, rule: str = "mean", seed: int = 0) -> dict:
    windows, config = windows_of(tracks, rule), TrainConfig(folds=kind, seed=seed)
    return audit_folds(
        TASKS[task], tracks, windows, split_windows(config, tracks, windows, assign_folds(config, tracks))
    )


# --- the claim ---


@pytest.mark.parametrize("seed", range(3))
def test_random_windows_leak_and_group_folds_do_not(seed: int) -> None:
    """60 videos at 30 fps, windows of 64 frames, stride 16; no model, no feature, nothing but copied labels."""
    tracks = make_tracks(seed=seed)
    leaky, honest = audit("va", tracks, RANDOM_WINDOWS), audit("va", tracks, "group")
    assert leaky["predictors"]["nearest_window"]["value"] > 0.8
    assert leaky["predictors"]["video_mean"]["value"] > 0.2
    assert (leaky["same_video"], honest["same_video"], honest["overlapping"]) == (1.0, 0.0, 0.0)
    assert leaky["overlapping"] > 0.99
    for found in honest["predictors"].values():
        assert abs(found["value"]) < 0.1
        assert found["interval"][0] < 0.1
    assert abs(leaky["predictors"]["constant"]["value"]) < 0.1
    assert leaky["windows"] == honest["windows"] == len(windows_of(tracks))


def test_the_leak_is_autocorrelation() -> None:
    """The same windows of labels that forget within a frame leak only what windows share frames."""
    values = {
        m: audit("va", make_tracks(20, m), RANDOM_WINDOWS)["predictors"]["nearest_window"]["value"] for m in (0.01, 8)
    }
    assert values[0.01] < 0.5 < 0.8 < values[8]


def test_violence_leaks_alike() -> None:
    tracks = violent(make_tracks())
    leaky, honest = (
        audit("violence", tracks, RANDOM_WINDOWS, "majority"),
        audit("violence", tracks, "group", "majority"),
    )
    assert leaky["metric"] == "macro_f1"
    assert leaky["predictors"]["nearest_window"]["value"] > 0.85
    assert 0.4 < honest["predictors"]["nearest_window"]["value"] < 0.6  # a coin
    assert 0.3 < honest["predictors"]["constant"]["value"] < 0.4  # the majority
    assert honest["predictors"]["video_mean"]["value"] == honest["predictors"]["constant"]["value"]


@pytest.mark.parametrize("task", ["expr", "au"])
def test_expressions_and_action_units_leak_alike(task: str) -> None:
    tracks = make_tracks(40)
    if task == "expr":  # eight classes by the angle of the mood
        named = [np.floor(np.arctan2(t.labels[:, :1], t.labels[:, 1:]) / np.pi * 4 + 4) % 8 for t in tracks]
    else:
        named = [t.labels[:, :1] > np.linspace(-0.3, 0.3, 12) for t in tracks]
    tracks = [replace(t, labels=labels.astype(np.float32)) for t, labels in zip(tracks, named, strict=True)]
    leaky, honest = (audit(task, tracks, kind, "majority") for kind in (RANDOM_WINDOWS, "group"))
    copied = leaky["predictors"]["nearest_window"]["value"]
    assert copied > 0.6
    assert honest["predictors"]["nearest_window"]["value"] < copied - 0.25
    assert honest["predictors"]["constant"]["value"] < copied - 0.1


# --- the copies ---


def oracle(tracks: list[Track], windows: Windows, split: Split, row: int) -> list[int]:
    """Rows that may be copied: nearest in time in the track, else in the video, else nearest in place."""
    teachers = [r for r in range(len(windows)) if (split.train | split.val)[r] and windows.labelled[r]]
    own = tracks[windows.track[row]]
    same = [r for r in teachers if windows.track[r] == windows.track[row]]
    same = same or [r for r in teachers if tracks[windows.track[r]].video_id == own.video_id]
    if same:
        gap = {r: abs(int(windows.start[r]) - int(windows.start[row])) for r in same}
        return [r for r in same if gap[r] == min(gap.values())]

    def place(r: int) -> float:
        return (windows.start[r] + windows.stop[r]) / 2 / len(tracks[windows.track[r]].labels)

    return [
        r for r in teachers if abs(place(r) - place(row)) <= min(abs(place(q) - place(row)) for q in teachers) + 1e-12
    ]


@pytest.mark.parametrize("seed", range(8))
def test_the_copied_window_is_that_of_the_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracks = []
    for i in range(6):
        num_frames = int(rng.integers(40, 300))
        for side in ("_left", "_right")[: int(rng.integers(1, 3))]:
            labels = moods(num_frames, rng, 1.0)
            labels[rng.random(num_frames) < rng.choice([0.0, 0.7])] = np.nan
            tracks.append(Track(f"v{i}{side}", f"v{i}", f"g{i}", None, None, labels, "x"))
    windows = windows_of(tracks)
    part = rng.integers(0, 4, len(windows))
    part[np.isin(windows.track, [0, 2])] = 0  # a track whose windows are all tested
    split = Split(0, part == 0, part == 1, part == 2)
    found = nearest_window(TASKS["va"], tracks, windows, split)
    assert np.isnan(found[~split.test]).all()
    for row in np.flatnonzero(split.test):
        candidates = oracle(tracks, windows, split, row)
        assert any(np.array_equal(found[row], windows.labels[r].astype(np.float64)) for r in candidates), row
    means = video_mean(TASKS["va"], tracks, windows, split)
    for row in np.flatnonzero(split.test):
        teach = (split.train | split.val) & windows.labelled
        own = teach & (windows.track == windows.track[row])
        video = teach & np.array([tracks[t].video_id == tracks[windows.track[row]].video_id for t in windows.track])
        used = next(mask for mask in (own, video, teach) if mask.any())
        np.testing.assert_allclose(means[row], windows.labels[used].mean(0), rtol=1e-5)


def test_untested_labels_alone_are_copied() -> None:
    """Changing the labels of tested windows changes no copy."""
    tracks = make_tracks(6)
    windows, config = windows_of(tracks), TrainConfig(folds=RANDOM_WINDOWS)
    split = split_windows(config, tracks, windows, assign_folds(config, tracks))[1]
    other = windows.labels.copy()
    other[split.test] = 0.77
    for copy in (nearest_window, video_mean):
        np.testing.assert_array_equal(
            copy(TASKS["va"], tracks, windows, split), copy(TASKS["va"], tracks, replace(windows, labels=other), split)
        )


def test_labels_as_scores() -> None:
    va = np.array([[0.5, -0.25]], np.float32)
    np.testing.assert_array_equal(label_scores(TASKS["va"], va), va)
    np.testing.assert_array_equal(label_scores(TASKS["violence"], np.float32([[1], [0]])), [[1], [0]])
    classes = label_scores(TASKS["expr"], np.float32([[3], [0]]))
    assert classes.shape == (2, 8)
    assert classes.argmax(1).tolist() == [3, 0]


# --- random-window folds ---


def test_random_windows_are_split_by_window() -> None:
    tracks = make_tracks(8)
    windows, config = windows_of(tracks), TrainConfig(folds=RANDOM_WINDOWS, num_folds=4)
    folds = assign_folds(config, tracks)
    assert set(folds.tolist()) == {SCATTERED}
    splits = split_windows(config, tracks, windows, folds)
    assert np.array_equal(np.sum([s.test for s in splits], axis=0), np.ones(len(windows)))
    for split in splits:
        assert (split.test.astype(int) + split.train + split.val == 1).all()
        assert split.val.sum() / (~split.test).sum() == pytest.approx(config.val_fraction, abs=0.01)
        assert len(np.unique(windows.track[split.test])) == len(tracks)
    assert is_scattered(windows, splits)
    assert max(np.bincount(random_folds(103, 4, 0))) - min(np.bincount(random_folds(103, 4, 0))) <= 1
    assert not np.array_equal(random_folds(103, 4, 0), random_folds(103, 4, 1))


def test_a_frame_gets_the_mean_over_the_windows_of_all_folds() -> None:
    tracks = make_tracks(4)
    windows, config = windows_of(tracks), TrainConfig(folds=RANDOM_WINDOWS, num_folds=3)
    splits = split_windows(config, tracks, windows, assign_folds(config, tracks))
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(len(windows), 2)) for _ in splits]
    merged = np.select([s.test[:, None] for s in splits], scores)  # (W, 2) each window by the fold that tests it
    expected = tracks_to_frames(tracks, windows, merged, np.ones(len(windows), bool), SCATTERED)
    found = out_of_fold(tracks, windows, splits, scores)
    assert [r.track.name for r in found] == [t.name for t in tracks]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.scores, b.scores)
        assert a.fold == SCATTERED


def test_group_folds_are_pooled_fold_by_fold_as_before(problem) -> None:
    p, config = problem("va"), TrainConfig(head="text", head_options={"hidden": 4, "mlp": 4}, max_epochs=1)
    splits = split_windows(config, p.tracks, p.windows, assign_folds(config, p.tracks))
    assert not is_scattered(p.windows, splits)
    scores = [np.full((len(p.windows), 2), float(s.fold)) for s in splits]
    found = out_of_fold(p.tracks, p.windows, splits, scores)
    assert [r.fold for r in found] == sorted(r.fold for r in found)
    assert all((r.scores == r.fold).all() for r in found)
    assert sorted(r.track.name for r in found) == sorted(t.name for t in p.tracks)


def test_a_head_on_random_windows_has_every_frame_once(problem) -> None:
    p = problem("va")
    config = TrainConfig(
        head="text", head_options={"hidden": 4, "mlp": 4}, max_epochs=2, folds=RANDOM_WINDOWS, num_folds=3
    )
    splits = split_windows(config, p.tracks, p.windows, assign_folds(config, p.tracks))
    result = cross_validate(p.task, config, p.features, p.tracks, p.windows, splits)
    assert [r.track.name for r in result.frames] == [t.name for t in p.tracks]
    assert [r.track.name for r in result.processed] == [t.name for t in p.tracks]
    labelled = sum(int(np.isfinite(t.labels).all(1).sum()) for t in p.tracks)
    assert evaluate_frames(p.task, result.frames)["frames"] == labelled


# --- the commands ---


def call(*arguments: object):
    from typer.testing import CliRunner

    from train.__main__ import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("kind", ["group", "official", "random-windows"])
def test_the_audit_command(manifest, cache, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "deep" / "audit.json"
    result = call("audit", manifest, "--cache", cache.url, "--task", "va", "--folds", kind, "--output", file)
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    value = found["predictors"]["nearest_window"]["value"]
    assert f"{value:.4f}" in result.stdout
    assert ("WARNING: these folds leak: 100.0 %" in result.stdout) == (kind == "random-windows")
    assert ("no tested window shares its video" in result.stdout) == (kind != "random-windows")
    assert (found["folds"], found["task"]) == (kind, "va")
    assert not list(tmp_path.glob("**/*.part"))


def test_the_audit_refuses_in_words(manifest, cache, tmp_path: Path) -> None:
    for arguments, expected in (
        (["--task", "va"], "say what to audit"),
        ([manifest, "--cache", cache.url, "--task", "vaa"], "did you mean 'va'"),
        (
            [manifest, "--cache", cache.url, "--task", "va", "--folds", "radnom-windows"],
            "did you mean 'random-windows'",
        ),
        ([manifest, "--cache", tmp_path / "no.zarr", "--task", "va"], "no feature cache"),
    ):
        result = call("audit", *arguments)
        assert (result.exit_code, expected in result.stderr) == (2, True), result.output


def test_a_run_on_random_windows_opens_with_the_audit(manifest, cache, tmp_path: Path) -> None:
    command = ["cv", manifest, "--cache", cache.url, "--task", "va", "--runs", tmp_path, "--no-baselines"]
    quick = ["--head", "text", "--hidden", 4, "--epochs", 2]
    result = call(*command, *quick, "--folds", "random-windows")
    assert result.exit_code == 0, result.output
    (run,) = tmp_path.iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    value = metrics["audit"]["predictors"]["nearest_window"]["value"]
    assert f"without any model, scores mean CCC {value:.3f}" in metrics["notes"][0]
    assert result.stdout.lstrip().startswith("audit of random-windows folds")
    assert result.stdout.index("WARNING: these folds leak") < result.stdout.index("all folds pooled")
    assert "unseen groups" not in result.stdout
    page = (run / "report.html").read_text()
    assert page.index("these folds leak") < page.index("Audit: what these folds give away") < page.index("<h2>Score")
    assert "tested by all folds, window by window" in page
    assert sorted(json.loads((run / "config.json").read_text())["sources"]) == sorted(t for t in cache.video_ids())
    told = call("predict", "--cache", cache.url, "--runs", tmp_path)
    assert (told.exit_code, "no finished run" in told.stderr) == (2, True)
    honest = call(*command, *quick)
    assert "audit" not in honest.stdout + honest.stderr
    assert call("predict", "--cache", cache.url, "--runs", tmp_path).exit_code == 0
