"""Cache + labels -> resident tensors and index tables. Nothing is read again after this.

A stream's features of all videos lie in one bank (rows, D). A window is T row numbers per stream, so overlapping
windows share their rows and a batch is one gather.

Axes: W windows of the task, T samples in a window, F frames of a track, K outputs, D feature size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.cache import CacheError, FeatureCache, StreamData
from shared.recipe import diff_recipes, fingerprint
from shared.windows import WindowPlan
from train.labels import Track
from train.tasks import Task

READ_THREADS = 4


@dataclass(frozen=True)
class Features:
    """Cached features of some videos, resident.

    Attributes:
        banks: stream -> float16 (rows, D).
        rows: stream -> video id -> int64 (N, T), rows of the bank for every window.
        plans: video id -> its windows.
        recipes: stream -> recipe, the same for every video.
    """

    banks: dict[str, Tensor]
    rows: dict[str, dict[str, np.ndarray]]
    plans: dict[str, WindowPlan]
    recipes: dict[str, dict[str, Any]]

    @property
    def dims(self) -> dict[str, int]:
        """stream -> D."""
        return {stream: int(bank.shape[1]) for stream, bank in self.banks.items()}

    def digests(self) -> dict[str, str]:
        """stream -> sha256 over its values and the rows of every video: the same recipe may have given others."""
        found = {}
        for stream, bank in self.banks.items():
            digest = hashlib.sha256(bank.numpy().data)
            for video_id, rows in self.rows[stream].items():
                digest.update(video_id.encode() + b"\x00")
                digest.update(np.ascontiguousarray(rows).data)
            found[stream] = digest.hexdigest()
        return found


@dataclass(frozen=True)
class Windows:
    """Every window of every track.

    Attributes:
        track: int64 (W,), index into the tracks.
        start, stop: int64 (W,), frames covered.
        labels: float32 (W, K), NaN where the window has too few labelled frames.
        rows: stream -> int64 (W, T), rows of the stream's bank.
    """

    track: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    labels: np.ndarray
    rows: dict[str, Tensor]

    @property
    def labelled(self) -> np.ndarray:
        """bool (W,): windows that can be trained on."""
        return np.isfinite(self.labels).all(axis=1)

    def __len__(self) -> int:
        return len(self.track)


def cached_videos(cache: FeatureCache, streams: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Videos with all of some streams: id -> number of frames F; and the ids of those that lack one.

    Raises:
        CacheError: no video has them all.
    """
    found = {v: set(cache.streams(v)) for v in cache.video_ids()}
    lacking = sorted(v for v, has in found.items() if not has.issuperset(streams))
    if len(lacking) == len(found):
        seen = ", ".join(sorted(set().union(*found.values()))) or "nothing"
        raise CacheError(
            f"{cache.url} has no video with all of the streams {', '.join(sorted(streams))} (it has {seen}); "
            "extract them first"
        )
    frames = {}
    for video_id in found.keys() - set(lacking):
        info = cache.info(video_id)
        assert info is not None  # a complete stream implies it
        frames[video_id] = info.num_frames
    return dict(sorted(frames.items())), lacking


@dataclass(frozen=True)
class Caption:
    """What the captioner wrote of one frame.

    Attributes:
        frame: 0-based.
        text: the sentence.
        thumbnail: base64 JPEG of what it saw, squared, or None.
        aspect: width / height of the video.
    """

    frame: int
    text: str
    thumbnail: str | None = None
    aspect: float = 1.0


def read_captions(cache: FeatureCache, video_id: str) -> list[Caption]:
    """The captions of a video in order of frames, empty for a video without text."""
    if "text" not in cache.streams(video_id):
        return []
    data = cache.read(video_id, "text")
    if data.frames is None or data.captions is None:
        return []
    info = cache.info(video_id)
    aspect = info.width / info.height if info is not None and info.width and info.height else 1.0
    pictures: Sequence[str | None] = data.thumbnails or [None] * len(data.captions)
    rows = zip(data.frames.tolist(), data.captions, pictures, strict=True)
    return [Caption(frame, text, picture, aspect) for frame, text, picture in rows]


def load_features(cache: FeatureCache, video_ids: Sequence[str], streams: Iterable[str]) -> Features:
    """Read whole streams of many videos, several videos at once.

    Raises:
        CacheError: a video or stream is missing or damaged, or videos were made by different recipes.
    """
    streams, window = list(streams), cache.window

    def read(video_id: str) -> tuple[int, dict[str, StreamData]]:
        info = cache.info(video_id)
        if info is None:
            raise CacheError(f"{cache.url} has no video {video_id!r}")
        return info.num_frames, {s: cache.read(video_id, s) for s in streams}

    with ThreadPoolExecutor(READ_THREADS) as pool:
        data = dict(zip(video_ids, pool.map(read, video_ids), strict=True))
    plans = {v: window.plan(num_frames) for v, (num_frames, _) in data.items()}
    banks: dict[str, Tensor] = {}
    rows: dict[str, dict[str, np.ndarray]] = {}
    recipes: dict[str, dict[str, Any]] = {}
    for stream in streams:
        parts, rows[stream], offset = [], {}, 0
        for video_id, (_, found) in data.items():
            one = found[stream]
            recipes.setdefault(stream, one.recipe)
            if fingerprint(one.recipe) != fingerprint(recipes[stream]):
                lines = "\n  ".join(diff_recipes(recipes[stream], one.recipe))
                raise CacheError(
                    f"stream {stream!r} of {video_id!r} was made by another recipe than the rest:\n  {lines}"
                )
            part = one.features.reshape(-1, one.features.shape[-1])  # (rows, D)
            rows[stream][video_id] = one.window_rows(plans[video_id], stream) + offset  # (N, T)
            parts.append(part)
            offset += len(part)
        banks[stream] = torch.from_numpy(np.concatenate(parts))  # (rows, D)
    return Features(banks, rows, plans, recipes)


def build_windows(tracks: Sequence[Track], features: Features, rule: str, min_valid: float) -> Windows:
    """Cut every track into the windows of its video and label them.

    Args:
        tracks: with labels (F, K) aligned to the video.
        rule: "mean", "majority", "center" or "any", see ``window_labels``.
        min_valid: smallest share of labelled frames.
    """
    track, start, stop, labels = [], [], [], []
    rows: dict[str, list[np.ndarray]] = {s: [] for s in features.banks}
    for i, one in enumerate(tracks):
        plan = features.plans[one.video_id]
        track.append(np.full(len(plan), i))
        start.append(plan.starts)
        stop.append(plan.stops)
        labels.append(window_labels(one.labels, plan.starts, plan.stops, rule, min_valid))
        for stream, per_video in features.rows.items():
            rows[stream].append(per_video[one.video_id])
    return Windows(
        np.concatenate(track),
        np.concatenate(start),
        np.concatenate(stop),
        np.concatenate(labels),
        {s: torch.from_numpy(np.concatenate(parts)) for s, parts in rows.items()},
    )


def window_labels(labels: np.ndarray, starts: np.ndarray, stops: np.ndarray, rule: str, min_valid: float) -> np.ndarray:
    """One label per window, from the valid frames in it only.

    mean      average of the valid frames;
    majority  the value that most of the valid frames have; of equally many the smaller one;
    center    the label of the middle frame;
    any       1 if any valid frame is 1 (the maximum).

    Args:
        labels: float32 (F, K), NaN = masked.
        starts, stops: int64 (N,), windows cover frames [start, stop).
        min_valid: a window with a smaller share of valid frames gets NaN.

    Returns:
        float32 (N, K).
    """
    out = np.full((len(starts), labels.shape[1]), np.nan, np.float32)  # (N, K)
    values = np.arange(np.nanmax(labels, initial=0) + 1)  # (classes,) of a label that is a class
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part = labels[start:stop]
        valid = part[np.isfinite(part).all(axis=1)].astype(np.float64)  # (n, K)
        if len(valid) < max(1, min_valid * (stop - start)):
            continue
        if rule == "mean":
            out[row] = valid.mean(axis=0)
        elif rule == "majority":
            counts = (valid[:, :, None] == values).sum(axis=0)  # (K, classes)
            out[row] = counts.argmax(axis=1)
        elif rule == "any":
            out[row] = valid.max(axis=0)
        elif rule == "center":
            out[row] = part[(stop - start) // 2]
        else:
            raise ValueError(f"unknown window label {rule!r}")
    return out


def window_rule(task: Task, asked: str | None) -> str:
    """The window label of a task, refusing combinations that make no sense."""
    rule = asked or task.window_label
    if task.kind == "regression" and rule in ("majority", "any"):
        raise ValueError(f"window label {rule!r} is for yes/no labels; task {task.name!r} takes mean or center")
    if task.kind == "classes" and rule == "any":
        raise ValueError(f"window label 'any' is for yes/no labels; task {task.name!r} takes majority or center")
    if task.kind != "regression" and rule == "mean":
        more = "majority or center" if task.kind == "classes" else "majority, center or any"
        raise ValueError(f"window label 'mean' is for continuous labels; task {task.name!r} takes {more}")
    return rule
