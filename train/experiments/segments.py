"""Predictions per frame as segments, in frames and in seconds of the video's own clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from shared.labels.tools.types import Segment, VideoSegments
from shared.labels.tools.writing import WRITERS, holds_many, write_segments, write_videos
from train.judging.evaluate import score_columns
from train.tasks import Task

FRAMES = (".csv", ".parquet", ".jsonl")  # a row per frame, unless segments are asked for


def check_output(output: Path, task_kind: str | None, as_segments: bool) -> None:
    """Refuse an output before anything is scored.

    Raises:
        ValueError: says which endings there are.
    """
    suffix = output.suffix.lower()
    if suffix not in {*FRAMES, *WRITERS}:
        raise ValueError(
            f"--output must end in {', '.join(FRAMES)} (a row per frame) or .eaf, .vtt, .json (segments; .json is "
            f"Label Studio's), found {str(output)!r}"
        )
    if task_kind == "regression" and (as_segments or suffix not in FRAMES):
        raise ValueError(f"numbers have no segments: --output must end in {', '.join(FRAMES)}, without --segments")


def write_output(
    output: Path,
    task: Task,
    table: pd.DataFrame,
    media: Mapping[str, str],
    times: Mapping[str, np.ndarray],
    *,
    as_segments: bool,
    min_s: float,
    gap_s: float,
) -> list[str]:
    """Write predictions in the format of the ending; lines to tell.

    Args:
        output: one file, or the pattern of one per video where a format holds only one.
        task: what was predicted.
        table: of ``predict``: video, frame, time_s, scores.
        media: video id -> path, as tools should find it.
        times: video id -> seconds (F,) at which its frames are shown.
        as_segments: segments also in .csv, .parquet and .jsonl.
        min_s, gap_s: shortest segment that is kept, longest gap between two of one class that is closed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    suffix = output.suffix.lower()
    if suffix in FRAMES and not as_segments:
        if suffix == ".parquet":
            table.to_parquet(output, index=False)
        elif suffix == ".jsonl":
            table.to_json(output, orient="records", lines=True, double_precision=6)
        else:
            table.to_csv(output, index=False, float_format="%.5f")
        return [f"{len(table)} frames -> {output}"]
    videos = [
        _video(task, part, media[str(video)], times[str(video)], min_s, gap_s) for video, part in table.groupby("video")
    ]
    count = sum(len(video.segments) for video in videos)
    if holds_many(output) or len(videos) == 1:
        write_videos(output, videos)
        return [f"{count} segments of {len(videos)} videos -> {output}"]
    for video, ident in zip(videos, sorted(set(table["video"])), strict=True):
        own = output.with_name(f"{output.stem}.{ident}{output.suffix}")
        write_segments(own, video.media, video.duration_s, video.num_frames, video.fps, video.segments)
    return [f"{count} segments of {len(videos)} videos -> {output.with_name(f'{output.stem}.VIDEO{output.suffix}')}"]


def _video(task: Task, part: pd.DataFrame, media: str, times: np.ndarray, min_s: float, gap_s: float) -> VideoSegments:
    step = float(times[-1] - times[0]) / max(len(times) - 1, 1) or 1.0
    ends = np.append(times[1:], times[-1] + step)  # when the next frame is shown
    found = []
    for value, where, scores in _answers(task, part):
        for start, stop in joined(where, times.tolist(), ends.tolist(), min_s, gap_s):
            score = float(np.nanmean(scores[start:stop]))
            found.append(Segment(float(times[start]), float(ends[stop - 1]), start, stop, task.name, value, score))
    found.sort(key=lambda one: (one.start_s, one.value))
    return VideoSegments(media, float(ends[-1]), len(times), 1 / step, found)


def _answers(task: Task, part: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each class that a frame can be: its name, where frames are decided to be it (F,), and its scores (F,)."""
    scores = part[[f"score{c}" for c in score_columns(task)]].to_numpy(np.float64)  # (F, K')
    known = np.isfinite(scores).all(axis=1)
    if task.kind == "binary":
        return [(task.class_names[1], known & (scores[:, 0] > 0.5), scores[:, 0])]
    if task.kind == "multilabel":
        return [(name, known & (scores[:, k] > 0.5), scores[:, k]) for k, name in enumerate(task.label_names)]
    decided = np.where(known, np.nan_to_num(scores).argmax(axis=1), -1)
    return [(name, decided == k, scores[:, k]) for k, name in enumerate(task.class_names)]


def joined(
    where: np.ndarray,
    starts: Sequence[float] | np.ndarray,
    ends: Sequence[float] | np.ndarray,
    min_s: float,
    gap_s: float,
) -> list[tuple[int, int]]:
    """Runs of True (F,) as [first, after the last) frames: gaps of up to ``gap_s`` closed, then short ones dropped."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]]))).reshape(-1, 2)
    runs: list[tuple[int, int]] = []
    for start, stop in edges.tolist():
        if runs and starts[start] - ends[runs[-1][1] - 1] <= gap_s:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    return [(a, b) for a, b in runs if ends[b - 1] - starts[a] >= min_s]
