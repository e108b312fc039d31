"""Who teaches, chooses and tests; what comes out; and what a run folder changes about it: nothing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from train.config import TrainConfig
from train.data.labels import Track
from train.data.tracks import LeftOut
from train.experiments.crossval import (
    assign_folds,
    constant_baseline,
    cross_validate,
    split_windows,
    untested_frames,
)
from train.experiments.summary import summarise
from train.judging.evaluate import evaluate_frames
from train.judging.folds import FoldError
from train.runs.folder import create_run

CONFIG = TrainConfig(head="video", head_options={"hidden": 4, "mlp": 4}, learning_rate=0.02, max_epochs=3, num_folds=4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["group", "official", "column"])
def test_no_group_is_in_two_parts_of_a_fold(problem, kind: str, seed: int) -> None:
    p, config = problem("va"), replace(CONFIG, folds=kind, seed=seed)
    tracks = [replace(t, fold=int(t.group[-1]) % 3) for t in p.tracks]
    splits = split_windows(config, tracks, p.windows, assign_folds(config, tracks))
    assert len(splits) == {"group": 4, "official": 1, "column": 3}[kind]
    for split in splits:
        masks = (split.test, split.train, split.val)
        assert (np.sum(masks, axis=0) == 1).all()
        parts = [{tracks[i].group for i in np.unique(p.windows.track[m])} for m in masks]
        assert all(parts)
        assert sum(map(len, parts)) == len(set().union(*parts))
        if kind == "official":
            assert {tracks[i].split for i in np.unique(p.windows.track[split.test])} == {"val"}
            assert {tracks[i].split for i in np.unique(p.windows.track[~split.test])} == {"train"}
        if kind == "column":
            assert {tracks[i].fold for i in np.unique(p.windows.track[split.test])} == {split.fold}


def test_unused_tracks_are_in_no_part(problem) -> None:
    p, config = problem("va"), replace(CONFIG, folds="official")
    tracks = [replace(t, split="test" if t.group == "scene1" else t.split) for t in p.tracks]
    (split,) = split_windows(config, tracks, p.windows, assign_folds(config, tracks))
    unused = ~(split.test | split.train | split.val)
    assert {tracks[i].group for i in np.unique(p.windows.track[unused])} == {"scene1"}


def test_a_fold_without_labels_is_refused_before_anything_is_trained(problem) -> None:
    p = problem("va")
    folds = assign_folds(CONFIG, p.tracks)
    labels = p.windows.labels.copy()
    labels[(folds == 2)[p.windows.track]] = np.nan
    with pytest.raises(FoldError, match="fold 3 has no labelled window to test on"):
        split_windows(CONFIG, p.tracks, replace(p.windows, labels=labels), folds)
    with pytest.raises(FoldError, match="30 folds need at least 30 groups, found 10"):
        assign_folds(replace(CONFIG, num_folds=30), p.tracks)


@pytest.mark.parametrize("name", ["violence", "va"])
def test_every_track_is_tested_once_by_its_own_fold(problem, name: str) -> None:
    p = problem(name)
    folds = assign_folds(CONFIG, p.tracks)
    splits = split_windows(CONFIG, p.tracks, p.windows, folds)
    result = cross_validate(p.task, CONFIG, p.features, p.tracks, p.windows, splits)
    assert Counter(r.track.name for r in result.frames) == Counter(t.name for t in p.tracks)
    fold_of = dict(zip([t.name for t in p.tracks], folds.tolist(), strict=True))
    assert all(r.fold == fold_of[r.track.name] for r in result.frames)
    for fold, value in enumerate(result.fold_frames):
        own = [r for r in result.frames if r.fold == fold]
        assert value == evaluate_frames(p.task, own)["value"]
    floor = constant_baseline(p.task, p.tracks, p.windows, splits)
    metrics = summarise(p.task, result, {"constant": floor})
    assert list(metrics)[:7] == ["task", "metric", "value", "folds", "interval", "baselines", "differences"]
    assert metrics["baselines"] == {"constant": evaluate_frames(p.task, floor)["value"]}
    gap = metrics["differences"]["constant"]
    assert gap["value"] == pytest.approx(metrics["value"] - metrics["baselines"]["constant"])
    assert gap["interval"][0] < gap["value"] < gap["interval"][1]
    assert metrics["value"] == evaluate_frames(p.task, result.frames)["value"] > 0.6
    assert metrics["mean"] == pytest.approx(np.mean(result.fold_frames))
    assert metrics["std"] == pytest.approx(np.std(result.fold_frames))
    assert metrics["best_epochs"] == [e + 1 for e in result.best_epochs]


def test_a_fold_does_not_depend_on_the_others(problem, tmp_path: Path) -> None:
    p = problem("violence")
    splits = split_windows(CONFIG, p.tracks, p.windows, assign_folds(CONFIG, p.tracks))
    every = cross_validate(p.task, CONFIG, p.features, p.tracks, p.windows, splits)
    alone = cross_validate(p.task, CONFIG, p.features, p.tracks, p.windows, splits[2:3])
    of_fold = [r for r in every.frames if r.fold == 2]
    for a, b in zip(of_fold, alone.frames, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
    assert every.fold_windows[2] == alone.fold_windows[0]


def test_labels_of_the_tested_fold_change_nothing_but_its_score(problem) -> None:
    """The test fold must not reach weights, standardisation or the choice of the epoch."""
    p = problem("violence")
    splits = split_windows(CONFIG, p.tracks, p.windows, assign_folds(CONFIG, p.tracks))[:1]
    labels = p.windows.labels.copy()
    labels[splits[0].test] = 1 - labels[splits[0].test]
    first = cross_validate(p.task, CONFIG, p.features, p.tracks, p.windows, splits)
    other = cross_validate(p.task, CONFIG, p.features, p.tracks, replace(p.windows, labels=labels), splits)
    for a, b in zip(first.frames, other.frames, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
    assert first.fold_windows != other.fold_windows


def test_the_constant_baseline_is_that_of_the_training_windows(problem) -> None:
    p = problem("va")
    splits = split_windows(CONFIG, p.tracks, p.windows, assign_folds(CONFIG, p.tracks))
    frames = constant_baseline(p.task, p.tracks, p.windows, splits)
    assert evaluate_frames(p.task, [r for r in frames if r.fold == 0])["value"] == pytest.approx(0, abs=1e-6)
    expected = p.windows.labels[~splits[0].test & p.windows.labelled].mean(axis=0)
    for r in frames:
        if r.fold == 0:
            np.testing.assert_allclose(r.scores, np.broadcast_to(expected, r.scores.shape), atol=1e-6)
    p = problem("violence")
    for violent, value in ((True, 1.0), (False, 0.0)):
        labels = np.full_like(p.windows.labels, float(violent))
        labels[::7] = 1 - labels[::7]
        floor = constant_baseline(p.task, p.tracks, replace(p.windows, labels=labels), splits)
        assert {float(v) for r in floor for v in np.unique(r.scores)} == {value}


def test_a_run_folder_resumes_fold_by_fold(problem, tmp_path: Path) -> None:
    p = problem("violence")
    splits = split_windows(CONFIG, p.tracks, p.windows, assign_folds(CONFIG, p.tracks))

    def train(run, on_epoch=lambda fold, row: None):
        return cross_validate(p.task, CONFIG, p.features, p.tracks, p.windows, splits, run=run, on_epoch=on_epoch)

    def cut(fold: int, row: dict[str, float]) -> None:
        if (fold, row["epoch"]) == (2, 2):
            raise KeyboardInterrupt

    whole, broken = create_run(tmp_path, "whole", {}), create_run(tmp_path, "broken", {})
    expected = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(broken, cut)
    assert [broken.history(f).exists() for f in range(4)] == [True, True, False, False]
    assert broken.state(2).exists()
    before = broken.checkpoint(0).stat().st_mtime_ns
    seen: Counter[int] = Counter()
    found = train(broken, lambda fold, row: seen.update([fold]))
    assert broken.checkpoint(0).stat().st_mtime_ns == before  # not trained again
    assert found.fold_frames == expected.fold_frames
    assert seen == {f: len(h) for f, h in enumerate(expected.histories)}  # the display saw every epoch
    for fold in range(4):
        assert broken.checkpoint(fold).read_bytes() == whole.checkpoint(fold).read_bytes()
        assert not broken.state(fold).exists()
        assert list((broken.path / "tensorboard" / f"fold{fold + 1}").iterdir())
    with torch.no_grad():
        for a, b in zip(expected.frames, found.frames, strict=True):
            np.testing.assert_array_equal(a.scores, b.scores)


def test_all_at_once_is_the_same_and_goes_on_where_it_was_cut(problem, tmp_path: Path) -> None:
    p = problem("va")
    splits = split_windows(CONFIG, p.tracks, p.windows, assign_folds(CONFIG, p.tracks))

    def train(run=None, together=True, on_epoch=lambda fold, row: None):
        return cross_validate(
            p.task, CONFIG, p.features, p.tracks, p.windows, splits, run=run, together=together, on_epoch=on_epoch
        )

    def cut(fold: int, row: dict[str, float]) -> None:
        if (fold, row["epoch"]) == (1, 2):
            raise KeyboardInterrupt

    run = create_run(tmp_path, "broken", {})
    with pytest.raises(KeyboardInterrupt):
        train(run, on_epoch=cut)
    assert [run.state(f).exists() for f in range(4)] == [True] * 4  # none is lost, wherever the others stand
    seen: Counter[int] = Counter()
    resumed, whole, apart = train(run, on_epoch=lambda fold, row: seen.update([fold])), train(), train(together=False)
    assert seen == {f: len(h) for f, h in enumerate(whole.histories)}
    for found in (resumed, whole):
        assert found.best_epochs == apart.best_epochs
        assert found.fold_frames == pytest.approx(apart.fold_frames, abs=1e-4)
        for a, b in zip(apart.frames, found.frames, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
    for fold in range(4):
        assert run.checkpoint(fold).exists()
        assert not run.state(fold).exists()
        assert list((run.path / "tensorboard" / f"fold{fold + 1}").iterdir())
    run.history(2).unlink()  # as after a cut between two folds: the others are read, one is trained
    again = train(run)
    assert again.best_epochs == apart.best_epochs
    assert again.fold_frames == pytest.approx(apart.fold_frames, abs=1e-4)


def test_only_what_the_folds_would_test_is_missed() -> None:
    left_out = [LeftOut("a", "train", None, 1), LeftOut("b", "val", 0, 10), LeftOut("c", None, 1, 100)]
    for kind, frames in (("group", 111), ("official", 10), ("column", 110)):
        assert untested_frames(replace(CONFIG, folds=kind), left_out) == frames


def test_twins_in_one_video_are_tested_together(problem, clips) -> None:
    p = problem("va")
    twins = [
        Track(f"{t.name}{s}", *(getattr(t, a) for a in ("video_id", "group", "split", "fold", "labels", "source")))
        for t in p.tracks
        for s in ("_left", "_right")
    ]
    folds = assign_folds(CONFIG, twins)
    assert (folds[::2] == folds[1::2]).all()
