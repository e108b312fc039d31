"""What an extraction will read, compute and store, counted before anything is decoded.

Frame counts come from the cache where a video is in it already, else from the container or the names of a frame folder,
else from duration times frame rate, which is an estimate. From them everything else is arithmetic: ``WindowSpec.plan``
gives windows and unique frames, the layout of the cache (shared/cache/__init__.py) its bytes.

Axes: F frames, N windows, T samples of a window, U unique frames, D feature size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from extract.video import VideoError, open_video, source_stamp
from shared.cache import CacheError, FeatureCache
from shared.manifest import Manifest, Video
from shared.windows import WindowSpec

THREADS = 8  # opening a container waits for the disk most of the time
# Bytes of one node's zarr.json in a cache, about; recipes differ by some hundred.
GROUP_BYTES, ARRAY_BYTES, RECIPE_BYTES = 600, 550, 1000
CAPTION_BYTES = 350  # a caption of some 60 words, where none could be written for the estimate
THUMBNAIL_BYTES = 4500  # base64 of a small JPEG, where none could be made


@dataclass(frozen=True)
class Length:
    """One video, as far as its container tells.

    Attributes:
        num_frames: F, 0 if it cannot be opened; ``estimated`` if it is duration times rate.
        num_bytes: of its file or files.
        complete: streams that are in the cache already, whatever they were made with.
        problem: why it cannot be opened, or that it states neither frames nor duration.
        failed: a run gave it up before, and does not try it again by itself.
    """

    video: Video
    file: Path
    num_frames: int = 0
    estimated: bool = False
    num_bytes: int = 0
    complete: frozenset[str] = frozenset()
    problem: str | None = None
    failed: bool = False


@dataclass
class Work:
    """What is left to do.

    Attributes:
        videos: ids with a stream to extract.
        failed_before: videos that only --retry-failed would try again; not counted anywhere else.
        frames, estimated_frames: to decode, and how many of them are an estimate.
        read_bytes: of the files of these videos.
        windows: N, of the window streams' videos.
        unique: stream -> U, frames that its encoder sees once.
        sampled: frames that any of the streams needs.
        rows: stream -> (rows of features, videos).
    """

    videos: list[str] = field(default_factory=list)
    failed_before: int = 0
    frames: int = 0
    estimated_frames: int = 0
    read_bytes: int = 0
    windows: int = 0
    sampled: int = 0
    unique: dict[str, int] = field(default_factory=dict)
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)


def measure_lengths(
    manifest: Manifest,
    cache: FeatureCache | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    failed: Collection[str] = (),
) -> list[Length]:
    """Look at every video of a data set without decoding.

    Args:
        progress: gets (done, total).
        failed: ids of videos in the ledger.
    """
    lengths = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="probe") as pool:
        total = len(manifest.videos)
        for length in pool.map(lambda video: _measure(manifest, cache, video), manifest.videos):
            lengths.append(replace(length, failed=length.video.id in failed))
            progress(len(lengths), total)
    return lengths


def _measure(manifest: Manifest, cache: FeatureCache | None, video: Video) -> Length:
    file = manifest.local_file(video)
    complete, known = _cached(cache, video.id)
    try:
        num_bytes = source_stamp(file)["bytes"]
        if known:
            return Length(video, file, known, False, num_bytes, complete)
        with open_video(file, video.fps) as opened:
            if opened.promised_frames:
                return Length(video, file, opened.promised_frames, False, num_bytes, complete)
            guess = round(opened.duration_s * opened.fps)
    except VideoError as error:
        return Length(video, file, known, complete=complete, problem=str(error))
    if not guess:
        return Length(video, file, 0, True, num_bytes, complete, "it states neither frames nor duration and rate")
    return Length(video, file, guess, True, num_bytes, complete)


def _cached(cache: FeatureCache | None, video: str) -> tuple[frozenset[str], int]:
    """Complete streams of a video and its frames as decoded; nothing if what is there is damaged."""
    if cache is None:
        return frozenset(), 0
    try:
        streams = frozenset(cache.streams(video))
        info = cache.info(video) if streams else None
    except CacheError:
        return frozenset(), 0
    return streams, info.num_frames if info is not None else 0


def count_work(lengths: Sequence[Length], spec: WindowSpec, kinds: Mapping[str, str]) -> Work:
    """What is left to do for some streams; ``kinds``: stream -> "window" or "timeline"."""
    work = Work(unique=dict.fromkeys(kinds, 0), rows=dict.fromkeys(kinds, (0, 0)))
    for length in lengths:
        missing = [stream for stream in kinds if stream not in length.complete]
        if not missing or not length.num_frames or length.problem:
            continue
        if length.failed:
            work.failed_before += 1
            continue
        work.videos.append(length.video.id)
        work.frames += length.num_frames
        work.estimated_frames += length.num_frames * length.estimated
        work.read_bytes += length.num_bytes
        windows, unique = _plan(spec, length.num_frames)
        work.windows += windows if any(kinds[s] == "window" for s in missing) else 0
        work.sampled += _sampled(spec, length.num_frames, tuple(missing))
        for stream in missing:
            work.unique[stream] += unique[stream]
            rows, videos = work.rows[stream]
            work.rows[stream] = (rows + (windows if kinds[stream] == "window" else unique[stream]), videos + 1)
    return work


@lru_cache(maxsize=1024)
def _plan(spec: WindowSpec, num_frames: int) -> tuple[int, dict[str, int]]:
    plan = spec.plan(num_frames)
    return len(plan), {stream: len(frames) for stream, frames in plan.unique.items()}


@lru_cache(maxsize=1024)
def _sampled(spec: WindowSpec, num_frames: int, streams: tuple[str, ...]) -> int:
    plan = spec.plan(num_frames)
    return len(np.unique(np.concatenate([plan.unique[stream] for stream in streams])))


def cache_bytes(
    work: Work,
    spec: WindowSpec,
    kinds: Mapping[str, str],
    dims: Mapping[str, int],
    *,
    caption_bytes: float | None,
    thumbnail_bytes: float | None,
) -> dict[str, float]:
    """Bytes that the cache will grow by, as the sum of its files, by part.

    "features", "frames" and "times" follow from the counts; "captions" and "thumbnails" from a mean per caption (None:
    the cache keeps none), "metadata" from the size that Zarr's own files usually have.

    Args:
        dims: stream -> D.
    """
    features = frames = captions = thumbnails = 0.0
    metadata = float(len(work.videos) * (GROUP_BYTES + ARRAY_BYTES))
    for stream, (rows, videos) in work.rows.items():
        timeline = kinds[stream] == "timeline"
        features += 2 * rows * dims[stream] * (1 if timeline else spec.samples[stream])
        frames += 4 * rows if timeline else 0
        arrays = 2 if timeline else 1
        if stream == "text":
            captions += rows * (caption_bytes or 0.0)
            thumbnails += rows * (thumbnail_bytes or 0.0)
            arrays += (caption_bytes is not None) + (thumbnail_bytes is not None)
        metadata += videos * (RECIPE_BYTES + arrays * ARRAY_BYTES)
    return {
        "features": features,
        "frames": frames,
        "times": 8.0 * work.frames,
        "captions": captions,
        "thumbnails": thumbnails,
        "metadata": metadata,
    }
