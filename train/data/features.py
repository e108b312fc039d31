"""Cache + labels -> resident tensors and index tables. Nothing is read again after this.

A stream's features of all videos lie in one bank (rows, D). A window is T row numbers per stream, so overlapping
windows share their rows and a batch is one gather.

Axes: W windows of the task, T samples in a window, F frames of a track, K outputs, D feature size.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.cache import CacheError, FeatureCache
from shared.cache.bulk import StoredStream
from shared.recipe import diff_recipes, fingerprint
from shared.windows import WindowPlan
from train.data.labels import Track
from train.data.memory import MEASURED, Limits, allocate
from train.tasks import Task

READ_THREADS = min(16, max(2, os.cpu_count() or 2))


@dataclass(frozen=True)
class Features:
    """Cached features of some videos, resident.

    Attributes:
        banks: stream -> float16 (rows, D).
        rows: stream -> video id -> int64 (N, T), rows of the bank for every window.
        plans: video id -> its windows.
        recipes: stream -> recipe, the same for every video.
        stored: stream -> sha256 over the videos' ids and the checksums that the cache notes of their features.
        in_file: whether the banks are memory-mapped files.
        placements, on_devices: what train/data/resident.py decided for a device, and put on it.
    """

    banks: dict[str, Tensor]
    rows: dict[str, dict[str, np.ndarray]]
    plans: dict[str, WindowPlan]
    recipes: dict[str, dict[str, Any]]
    in_file: bool = False
    stored: dict[str, str] = field(default_factory=dict)
    placements: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    on_devices: dict[tuple[str, str], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

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
    found = {v: one for v, one in cache.facts().check().videos.items() if one.streams}
    lacking = sorted(v for v, one in found.items() if not one.streams.keys() >= set(streams))
    if len(lacking) == len(found):
        seen = ", ".join(sorted(set().union(*(one.streams for one in found.values())))) or "nothing"
        raise CacheError(
            f"{cache.url} has no video with all of the streams {', '.join(sorted(streams))} (it has {seen}); "
            "extract them first"
        )
    return {v: found[v].num_frames for v in sorted(found.keys() - set(lacking))}, lacking


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


def load_features(
    cache: FeatureCache, video_ids: Sequence[str], streams: Iterable[str], limits: Limits = MEASURED
) -> Features:
    """Read whole streams of many videos, several videos at once, each straight into its place in the bank.

    Args:
        limits: how much memory the banks may take before they go to a file.

    Raises:
        CacheError: a video or stream is missing or damaged, or videos were made by different recipes.
        MemoryShortage: the banks fit neither in memory nor on a disk.
    """
    streams, window = list(streams), cache.window
    stored: dict[str, dict[str, StoredStream]] = {}
    plans: dict[str, WindowPlan] = {}
    rows: dict[str, dict[str, np.ndarray]] = {s: dict.fromkeys(video_ids) for s in streams}  # type: ignore[misc]
    for video_id in video_ids:  # metadata; threads would only hand Python's lock around
        num_frames, stored[video_id] = cache.find(video_id, streams)
        plans[video_id] = window.plan(num_frames)
    recipes = {s: _common_recipe(s, {v: found[s] for v, found in stored.items()}) for s in streams}
    firsts: dict[str, dict[str, int]] = {s: {} for s in streams}
    shapes = {}
    for stream in streams:
        offset = 0
        for video_id, found in stored.items():
            rows[stream][video_id] = found[stream].rows(plans[video_id], stream) + offset  # (N, T)
            firsts[stream][video_id] = offset
            offset += found[stream].num_rows
        shapes[stream] = offset, next(iter(stored.values()))[stream].shape[-1]
    banks = allocate(shapes, limits)

    def read(job: tuple[str, str]) -> None:
        video_id, stream = job
        one, first = stored[video_id][stream], firsts[stream][video_id]
        one.read_into(banks[stream][first : first + one.num_rows])

    _share_out(read, [(v, s) for v in stored for s in streams])
    in_file = any(isinstance(bank, np.memmap) for bank in banks.values())
    noted = {s: stored_digest({v: found[s] for v, found in stored.items()}) for s in streams}
    return Features({s: torch.from_numpy(bank) for s, bank in banks.items()}, rows, plans, recipes, in_file, noted)


def stored_digest(stored: Mapping[str, StoredStream]) -> str:
    """sha256 over video ids and noted checksums of one stream: changes with the features, and needs none of them."""
    digest = hashlib.sha256()
    for video_id, one in sorted(stored.items()):
        digest.update(f"{video_id}\0{one.features_checksum}\0".encode())
    return digest.hexdigest()


def _common_recipe(stream: str, stored: Mapping[str, StoredStream]) -> dict[str, Any]:
    """The recipe and feature size that a stream has in all videos, or CacheError."""
    first = next(iter(stored.values()))
    for video_id, one in stored.items():
        if one.recipe != first.recipe and fingerprint(one.recipe) != fingerprint(first.recipe):
            lines = "\n  ".join(diff_recipes(first.recipe, one.recipe))
            raise CacheError(f"stream {stream!r} of {video_id!r} was made by another recipe than the rest:\n  {lines}")
        if one.shape[-1] != first.shape[-1]:
            raise CacheError(
                f"stream {stream!r} of {video_id!r} has features of size {one.shape[-1]}, the rest of size "
                f"{first.shape[-1]}; find damaged videos with: python -m extract verify"
            )
    return first.recipe


def _share_out(work: Callable[[Any], None], jobs: Iterable[Any]) -> None:
    """Do all jobs, each by the thread that is free first; the first error ends it."""
    left = deque(jobs)

    def take() -> None:
        while True:
            try:
                job = left.popleft()
            except IndexError:
                return
            try:
                work(job)
            except BaseException:
                left.clear()
                raise

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for done in [pool.submit(take) for _ in range(READ_THREADS)]:
            done.result()


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
    if rule not in ("mean", "majority", "center", "any"):
        raise ValueError(f"unknown window label {rule!r}")
    known = np.isfinite(labels).all(axis=1)  # (F,)
    upto = np.concatenate([[0], np.cumsum(known)])  # (F + 1,), valid frames before each
    num_valid = upto[stops] - upto[starts]  # (N,)
    enough = num_valid >= np.maximum(1, min_valid * (stops - starts))
    out = np.full((len(starts), labels.shape[1]), np.nan, np.float32)  # (N, K)
    first, last = starts[enough], stops[enough]
    if not len(first):
        return out
    if rule == "center":
        out[enough] = labels[first + (last - first) // 2]
    elif rule == "majority":
        out[enough] = _commonest(labels, known, first, last)
    else:
        index = first[:, None] + np.arange((last - first).max())  # (n, L)
        inside = (index < last[:, None]) & known[np.minimum(index, len(labels) - 1)]
        parts = labels[np.minimum(index, len(labels) - 1)]  # (n, L, K)
        if rule == "any":
            out[enough] = parts.max(axis=1, where=inside[..., None], initial=-np.inf)
        else:
            total = parts.sum(axis=1, dtype=np.float64, where=inside[..., None])  # (n, K)
            out[enough] = total / num_valid[enough, None]
    return out


def _commonest(labels: np.ndarray, known: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The class that most of the known frames of a window have, of equally many the smaller one: int64 (N, K)."""
    values = np.arange(np.nanmax(labels, initial=0) + 1)  # (classes,)
    hits = (labels[:, :, None] == values) & known[:, None, None]  # (F, K, classes)
    upto = np.zeros((len(labels) + 1, *hits.shape[1:]), np.int32)  # (F + 1, K, classes), hits before each frame
    np.cumsum(hits, axis=0, out=upto[1:])
    return (upto[stops] - upto[starts]).argmax(axis=2)


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
