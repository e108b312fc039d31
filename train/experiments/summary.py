"""What comes out of a cross-validation, as it is stored: scores raw and post-processed, intervals, baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.experiments.crossval import CrossValidation
from train.judging.evaluate import TrackScores, compare_frames, evaluate_frames, per_video
from train.judging.postprocess import combine
from train.tasks import Task


def summarise(
    task: Task,
    result: CrossValidation,
    baselines: Mapping[str, Sequence[TrackScores]],
    left_out: int = 0,
    processed: Mapping[str, Sequence[TrackScores]] | None = None,
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Contents of metrics.json.

    Args:
        task: what was predicted.
        result: of the main head.
        baselines: name -> scores of the same tracks.
        left_out: labelled frames that should have been tested, see ``untested_frames``.
        processed: the baselines after post-processing; as they are where absent.
        whole: labels are of whole videos, so that the headline is the score per video.
    """
    processed = {**baselines, **(processed or {})}
    pooled = evaluate_frames(task, result.frames, left_out=left_out, ranks=True)
    gaps = {name: compare_frames(task, result.frames, frames) for name, frames in baselines.items()}
    return {
        "task": task.name,
        "metric": pooled["metric"],
        "value": pooled["value"],
        "folds": result.fold_frames,
        "interval": pooled["interval"],
        "baselines": {name: evaluate_frames(task, frames)["value"] for name, frames in baselines.items()},
        "differences": {name: {"value": gap.value, "interval": [gap.low, gap.high]} for name, gap in gaps.items()},
        "mean": float(np.mean(result.fold_frames)),
        "std": float(np.std(result.fold_frames)),
        "windows": {
            "folds": result.fold_windows,
            "mean": float(np.mean(result.fold_windows)),
            "std": float(np.std(result.fold_windows)),
        },
        "scores": pooled["scores"],
        "intervals": pooled["intervals"],
        "coverage": pooled["coverage"],
        "num_frames": pooled["frames"],
        "num_videos": pooled["videos"],
        "best_epochs": [e + 1 for e in result.best_epochs],
        "postprocessed": _summarise_processed(task, result, processed, left_out),
        **_summarise_videos(task, result, baselines, whole),
    }


def _summarise_videos(
    task: Task, result: CrossValidation, baselines: Mapping[str, Sequence[TrackScores]], whole: bool
) -> dict[str, Any]:
    """Scores per video: the mean over its frames against its one label."""
    if not whole:
        return {"level": "frame"}
    found = evaluate_frames(task, per_video(result.frames), ranks=True)
    floors = {name: evaluate_frames(task, per_video(frames))["value"] for name, frames in baselines.items()}
    kept = ("metric", "value", "interval", "scores", "intervals", "videos")
    return {"level": "video", "video": {**{key: found[key] for key in kept}, "baselines": floors}}


def _summarise_processed(
    task: Task, result: CrossValidation, baselines: Mapping[str, Sequence[TrackScores]], left_out: int
) -> dict[str, Any]:
    """The scores again, after post-processing on both sides: systems are compared at equal smoothing."""
    pooled = evaluate_frames(task, result.processed, left_out=left_out, ranks=True)
    gaps = {name: compare_frames(task, result.processed, frames) for name, frames in baselines.items()}
    gain = compare_frames(task, result.processed, result.frames)
    return {
        "value": pooled["value"],
        "folds": result.fold_processed,
        "mean": float(np.mean(result.fold_processed)),
        "std": float(np.std(result.fold_processed)),
        "interval": pooled["interval"],
        "gain": {"value": gain.value, "interval": [gain.low, gain.high]},
        "scores": pooled["scores"],
        "intervals": pooled["intervals"],
        "baselines": {name: evaluate_frames(task, frames)["value"] for name, frames in baselines.items()},
        "differences": {name: {"value": gap.value, "interval": [gap.low, gap.high]} for name, gap in gaps.items()},
        "settings": [s.to_dict() for s in result.settings],
        "combined": combine(task, result.settings).to_dict(),
    }
