"""A trained run on a cache: check that the features are the ones it knows, score, average its folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared.cache import CacheError, FeatureCache
from shared.recipe import diff_recipes
from shared.windows import WindowSpec
from train.data.features import build_windows, load_features
from train.data.labels import Track
from train.fit.loop import predict
from train.heads import head_class
from train.judging.evaluate import TrackScores, tracks_to_frames
from train.runs.checkpoints import RunError
from train.runs.folder import Run
from train.tasks import Task


def streams_of(run: Run) -> list[str]:
    """What the run's head reads."""
    return list(head_class(run.train_config.head).streams)


def unlabelled_tracks(task: Task, num_frames: Mapping[str, int], source: str) -> list[Track]:
    """One track per video (id -> F), all labels masked."""
    width = len(task.label_names)
    return [Track(v, v, v, None, None, np.full((n, width), np.nan, np.float32), source) for v, n in num_frames.items()]


def score_tracks(
    run: Run, cache: FeatureCache, tracks: Sequence[Track], device: str
) -> tuple[list[TrackScores], list[str]]:
    """Mean over the heads of the run's folds, per frame.

    Returns:
        Scores of every track, and what the user should know of the features.

    Raises:
        RunError: the cache holds other features than the run was trained on, or a checkpoint is damaged.
        CacheError: a stream is missing or damaged.
    """
    models, streams = run.load_models(), streams_of(run)
    _check_windows(run, cache.window, streams)
    features = load_features(cache, sorted({t.video_id for t in tracks}), streams)
    notes = _check_recipes(run, features.recipes) + _in_sample(run, cache, [*features.plans])
    windows = build_windows(tracks, features, "center", 0.0)
    scores = np.mean([predict(run.task, m, features, windows, device) for m in models], axis=0)  # (W, K')
    return tracks_to_frames(tracks, windows, scores, np.ones(len(windows), bool), -1), notes


def choose_videos(num_frames: Mapping[str, int], video: str | None, url: str) -> dict[str, int]:
    """All videos, or the one that was asked for.

    Raises:
        CacheError: it is not there.
    """
    if video is None:
        return dict(num_frames)
    if video not in num_frames:
        raise CacheError(f"no complete video {video!r} in {url}; there are: {', '.join([*num_frames][:10])}")
    return {video: num_frames[video]}


def _check_windows(run: Run, window: WindowSpec, streams: Sequence[str]) -> None:
    """Refuse windows that show a head something else. Another stride is fine: a head sees one window at a time."""

    def seen(spec: WindowSpec) -> dict[str, Any]:
        samples = {s: spec.samples[s] for s in streams if s in spec.samples}
        return {"size": spec.size, "sampling": spec.sampling, "samples": samples}

    try:
        own = WindowSpec.from_dict(run.config["window"])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunError(f"{run.path / 'config.json'} holds no windows of this version: {error!r}") from None
    if lines := diff_recipes(seen(own), seen(window)):
        raise _mismatch("windows", lines)


def _check_recipes(run: Run, recipes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Refuse features of another recipe; other library versions alone are worth a note."""
    notes = []
    for stream, recipe in recipes.items():
        lines = diff_recipes(run.config["recipes"][stream], recipe)
        if lines and all("versions" in line.partition(":")[0].split(".") for line in lines):
            notes.append(f"stream {stream!r} was extracted with other library versions than the run was trained on")
        elif lines:
            raise _mismatch(f"features of stream {stream!r}", lines)
    return notes


def _in_sample(run: Run, cache: FeatureCache, video_ids: Sequence[str]) -> list[str]:
    """Say how many videos the run has learned from. Files are compared, not names, which two data sets may share."""
    known = set(run.config["sources"].values())
    facts = cache.facts().videos
    seen = sum(facts[video_id].sha256 in known for video_id in video_ids if video_id in facts)
    if not seen:
        return []
    return [
        f"{seen} of {len(video_ids)} videos were in this run's training data: their scores are in-sample (honest ones "
        "are in its predictions.parquet)"
    ]


def _mismatch(what: str, lines: Sequence[str]) -> RunError:
    shown = [line.replace("cache has", "the run has").replace("asked for", "this cache") for line in lines]
    return RunError(
        f"the run was trained on other {what} than this cache has:\n  "
        + "\n  ".join(shown)
        + "\nExtract these videos with the preset and options of the run's cache."
    )
