"""Resident tensors against the cache they come from, window labels against a brute-force oracle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.cache import CacheError, FeatureCache
from train.data.features import build_windows, cached_videos, load_features, read_captions, window_labels, window_rule
from train.data.labels import Track
from train.tasks import TASKS

STREAMS = ["video", "image", "text"]


def oracle(frames: list[list[float]], size: int, rule: str, min_valid: float) -> list[float]:
    """The label of one window, in plain Python."""
    valid = [f for f in frames if not any(np.isnan(f))]
    if not valid or len(valid) < min_valid * size:
        return [np.nan] * len(frames[0])
    columns = [*zip(*valid, strict=True)]
    if rule == "mean":
        return [sum(c) / len(c) for c in columns]
    if rule == "majority":
        return [float(sum(c) > len(c) / 2) for c in columns]
    if rule == "any":
        return [float(max(c)) for c in columns]
    return frames[size // 2]


@pytest.mark.parametrize("rule", ["mean", "majority", "center", "any"])
@pytest.mark.parametrize("min_valid", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_window_labels_against_the_oracle(rule: str, min_valid: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames, width = int(rng.integers(1, 60)), int(rng.integers(1, 3))
    if rule in ("mean", "center"):
        labels = rng.uniform(-1, 1, (num_frames, width)).astype(np.float32)
    else:
        labels = rng.integers(0, 2, (num_frames, width)).astype(np.float32)
    labels[rng.random(num_frames) < rng.random(), 0] = np.nan
    starts = rng.integers(0, num_frames, 30)
    stops = np.minimum(starts + rng.integers(1, 20, 30), num_frames)
    found = window_labels(labels, starts, stops, rule, min_valid)
    assert found.dtype == np.float32
    assert found.shape == (30, width)
    for row, start, stop in zip(found, starts, stops, strict=True):
        expected = oracle(labels[start:stop].tolist(), stop - start, rule, min_valid)
        np.testing.assert_allclose(row, expected, rtol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "majority", "center", "any"])
@pytest.mark.parametrize("width", [1, 2, 12])
@pytest.mark.parametrize("seed", range(3))
def test_window_labels_equal_a_loop_over_windows(rule: str, width: int, seed: int) -> None:
    """Long videos, many windows, all widths that tasks have: bit for bit, but for the order of a mean's additions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8 if width == 1 else 2, (700, width)).astype(np.float32)
    if rule in ("mean", "center"):
        labels = rng.uniform(-1, 1, (700, width)).astype(np.float32)
    labels[rng.random(700) < 0.4] = np.nan
    starts = np.append(np.arange(0, 637, 16), 636)
    stops = np.minimum(starts + 64, 700)
    for min_valid in (0.0, 0.5, 0.6):
        expected = np.full((len(starts), width), np.nan, np.float32)
        values = np.arange(np.nanmax(labels) + 1)
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            part = labels[start:stop]
            valid = part[np.isfinite(part).all(axis=1)].astype(np.float64)  # (n, K)
            if len(valid) < max(1, min_valid * (stop - start)):
                continue
            expected[row] = {
                "mean": lambda valid=valid: valid.mean(axis=0),
                "majority": lambda valid=valid, values=values: (valid[:, :, None] == values).sum(axis=0).argmax(axis=1),
                "any": lambda valid=valid: valid.max(axis=0),
                "center": lambda part=part: part[len(part) // 2],
            }[rule]()
        found = window_labels(labels, starts, stops, rule, min_valid)
        if rule == "mean":
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(found, expected)


def test_a_tie_is_not_a_majority_and_exactly_half_valid_is_enough() -> None:
    labels = np.float32([[1], [0], [np.nan], [np.nan]])
    bounds = np.array([0]), np.array([4])
    assert window_labels(labels, *bounds, "majority", 0.5).tolist() == [[0.0]]
    assert np.isnan(window_labels(labels, *bounds, "majority", 0.51)).all()
    with pytest.raises(ValueError, match="unknown window label"):
        window_labels(labels, *bounds, "median", 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_the_majority_of_classes_is_the_commonest_and_of_equally_common_ones_the_smallest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8, (60, 1)).astype(np.float32)
    labels[rng.random(60) < 0.3] = np.nan
    starts = rng.integers(0, 60, 30)
    stops = np.minimum(starts + rng.integers(1, 20, 30), 60)
    for (found,), start, stop in zip(window_labels(labels, starts, stops, "majority", 0.0), starts, stops, strict=True):
        valid = [int(v) for (v,) in labels[start:stop].tolist() if not np.isnan(v)]
        if valid:
            assert found == min(range(8), key=lambda k: (-valid.count(k), k))
        else:
            assert np.isnan(found)


def test_rules_that_make_no_sense_for_a_task_are_refused() -> None:
    assert [window_rule(TASKS[t], None) for t in ("expr", "au")] == ["majority", "majority"]
    assert window_rule(TASKS["au"], "any") == "any"
    for rule in ("any", "mean"):
        with pytest.raises(ValueError, match="'expr' takes majority or center"):
            window_rule(TASKS["expr"], rule)
    assert window_rule(TASKS["va"], None) == "mean"
    assert window_rule(TASKS["violence"], "any") == "any"
    for task, rule in (("va", "majority"), ("va", "any"), ("violence", "mean")):
        with pytest.raises(ValueError, match=rule):
            window_rule(TASKS[task], rule)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_gather_gives_what_the_cache_holds(problem, clips, cache: FeatureCache, stream: str) -> None:
    """Kind "window" (video) and "timeline" (image, text) alike: (W, T, D) of the bank is that of the cache."""
    p = problem("violence")
    gathered = p.features.banks[stream][p.windows.rows[stream]].numpy()  # (W, T, D)
    assert gathered.dtype == np.float16
    row = 0
    for i, clip in enumerate(clips):
        data, plan = cache.read(clip.id, stream), cache.window.plan(clip.num_frames)
        for n in range(len(plan)):
            expected = (
                data.features[n]
                if data.kind == "window"
                else data.features[[data.frames.tolist().index(f) for f in plan.frames[stream][n]]]
            )
            np.testing.assert_array_equal(gathered[row], expected)
            assert p.windows.track[row] == i
            assert p.windows.start[row] == plan.starts[n]
            row += 1
    assert row == len(p.windows)


def test_overlapping_windows_share_rows_of_a_timeline_only(problem, cache: FeatureCache, clips) -> None:
    features = problem("va").features
    rows = features.rows["image"][clips[0].id]  # (N, T)
    assert len(np.unique(rows)) == len(cache.read(clips[0].id, "image").features) < rows.size
    assert set(rows[0]) & set(rows[1])
    assert len(np.unique(features.rows["video"][clips[0].id])) == features.rows["video"][clips[0].id].size
    everything = np.concatenate([features.rows["image"][c.id].ravel() for c in clips])
    assert sorted(set(everything.tolist())) == list(range(len(features.banks["image"])))
    assert features.dims == dict.fromkeys(STREAMS, 8)


def test_two_tracks_of_one_video_share_its_features(problem, clips) -> None:
    clip, features = clips[0], problem("va").features
    other = np.full_like(clip.va, 0.5)
    tracks = [
        Track(f"{clip.id}{side}", clip.id, clip.group, None, None, labels, "x.txt")
        for side, labels in (("_left", clip.va), ("_right", other))
    ]
    windows = build_windows(tracks, features, "mean", 0.5)
    half = len(windows) // 2
    assert windows.track.tolist() == [0] * half + [1] * half
    for stream in STREAMS:
        assert torch.equal(windows.rows[stream][:half], windows.rows[stream][half:])
    assert (windows.labels[half:] == 0.5).all()
    assert not np.array_equal(windows.labels[:half], windows.labels[half:])


def test_unlabelled_windows_are_known(problem, clips) -> None:
    features, clip = problem("va").features, clips[0]
    labels = clip.va.copy()
    labels[: clip.num_frames // 2, 1] = np.nan
    windows = build_windows([Track("t", clip.id, "g", None, None, labels, "x")], features, "mean", 0.5)
    assert 0 < windows.labelled.sum() < len(windows)
    np.testing.assert_array_equal(windows.labelled, np.isfinite(windows.labels).all(1))


def test_mixed_recipes_are_refused_with_the_difference(made, tmp_path: Path, clips) -> None:
    made.write_cache(tmp_path / "c.zarr", clips[:2])
    other = {"image": made.recipe_of("image") | {"model": "another"}}
    cache = made.write_cache(tmp_path / "c.zarr", clips[2:3], other)
    with pytest.raises(CacheError, match=r"(?s)'image' of 'scene1-0' was made by another recipe.*model.*another"):
        load_features(cache, [c.id for c in clips[:3]], STREAMS)
    assert load_features(cache, [c.id for c in clips[:3]], ["video"]).dims == {"video": 8}


def test_missing_streams_and_videos(made, tmp_path: Path, clips) -> None:
    made.write_cache(tmp_path / "c.zarr", clips[:2])
    cache = made.write_cache(tmp_path / "c.zarr", clips[2:3], streams=["video", "image"])
    assert cached_videos(cache, STREAMS) == ({c.id: c.num_frames for c in clips[:2]}, [clips[2].id])
    assert cached_videos(cache, ["video"]) == ({c.id: c.num_frames for c in clips[:3]}, [])
    with pytest.raises(CacheError, match=r"no video with all of the streams audio \(it has image, text, video\)"):
        cached_videos(cache, ["audio"])
    with pytest.raises(CacheError, match="no complete stream 'text' for video 'scene1-0'"):
        load_features(cache, [clips[2].id], STREAMS)
    with pytest.raises(CacheError, match="no video 'nobody'"):
        load_features(cache, ["nobody"], STREAMS)
    empty = made.write_cache(tmp_path / "e.zarr", [])
    with pytest.raises(CacheError, match="it has nothing"):
        cached_videos(empty, ["video"])


def test_captions(made, tmp_path: Path, cache: FeatureCache, clips) -> None:
    captions = read_captions(cache, clips[3].id)
    plan = cache.window.plan(clips[3].num_frames)
    assert [c.frame for c in captions] == plan.unique["text"].tolist()
    assert captions[0].text == f"frame {captions[0].frame} of {clips[3].id}"
    silent = made.write_cache(tmp_path / "c.zarr", clips[:1], streams=["video"])
    assert read_captions(silent, clips[0].id) == []
    assert read_captions(silent, "nobody") == []


def test_digests_know_every_value_and_row(made, clips, tmp_path: Path) -> None:
    made.write_cache(tmp_path / "a.zarr", clips[:2])
    made.write_cache(tmp_path / "b.zarr", [clips[0], replace(clips[1], va=-clips[1].va)])
    ids = [c.id for c in clips[:2]]
    first, other = (
        load_features(FeatureCache.open(tmp_path / f"{n}.zarr"), ids, ["video", "image"]) for n in ("a", "b")
    )
    digests = first.digests()
    assert list(digests) == ["video", "image"]
    assert digests == replace(first, banks={s: b.clone() for s, b in first.banks.items()}).digests()
    assert all(digests[s] != other.digests()[s] for s in digests)
    shifted = {**first.rows, "image": {v: rows[::-1] for v, rows in first.rows["image"].items()}}
    moved = replace(first, rows=shifted).digests()
    assert (moved["video"] == digests["video"], moved["image"] == digests["image"]) == (True, False)
