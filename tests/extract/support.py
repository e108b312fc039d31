"""What several tests of the extract stage share: small real videos, videos and encoders of pure arithmetic.

A fake frame carries its identity in its pixels: pixel 0 holds the video's number, pixel 1 the frame's index. The fake
encoders read it back, so that every cached number says which video and frame it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import zarr

from extract.decode.ahead import Job
from extract.encoders.contract import Rows
from extract.faults.ledger import FailureLedger
from extract.flow.pipeline import run
from extract.jobs.planning import plan_jobs
from extract.jobs.summary import Summary
from extract.video import DecodedFrame, OpenVideo, VideoError
from shared.cache import FeatureCache
from shared.manifest import Manifest, Video
from shared.windows import WindowSpec

REPO = Path(__file__).resolve().parents[2]
SHARED_VIDEOS = REPO.parent / "shared" / "videos"
BROKEN = ("decord_corrupted.mp4", "derived/flower_truncated_700k.mp4")
LONG = ("media3_long_1080p_10883f.mp4", "mdn_tears_of_steel_battle.webm")  # most frames of the folder are theirs
needs_shared_videos = pytest.mark.skipif(not SHARED_VIDEOS.is_dir(), reason="no folder ../shared/videos")


# ------------------------------------------------------------------------------------------------ real videos


def write_video(path: Path, num_frames: int, *, size: tuple[int, int] = (64, 48), seed: int = 0, fps: int = 30) -> Path:
    """A video of a bright square that moves over a seeded background; ``size`` is (width, height)."""
    width, height = size
    background = np.random.default_rng(seed).integers(0, 160, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps, width=width, height=height, pix_fmt="yuv420p")
        for index in range(num_frames):
            picture = background.copy()
            left, top = (3 * index + seed) % (width - 8), (2 * index) % (height - 8)
            picture[top : top + 8, left : left + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """One second of sound, no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        for start in range(0, 8000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# ------------------------------------------------------------------------------------------------ fake videos


@dataclass(frozen=True)
class FakeVideo:
    """A video that needs no decoder; breaks before frame ``broken_at`` if that is given."""

    number: int
    num_frames: int
    broken_at: int | None = None

    @property
    def name(self) -> str:
        return f"v{self.number:03d}"


def fake_pixels(number: int, index: int) -> np.ndarray:
    """uint8 (1, 2, 3): video number and frame index, little-endian."""
    return np.frombuffer(number.to_bytes(3, "little") + index.to_bytes(3, "little"), np.uint8).reshape(1, 2, 3)


def identity(pixels: np.ndarray) -> np.ndarray:
    """Inverse of ``fake_pixels``: uint8 (..., 1, 2, 3) -> float32 (..., 2), [video, frame]."""
    digits = pixels.reshape(*pixels.shape[:-3], 2, 3).astype(np.int64)
    return (digits @ np.array([1, 256, 65536])).astype(np.float32)


def fake_frames(video: FakeVideo) -> Iterator[DecodedFrame]:
    """Its frames; raises VideoError where it is broken."""
    for index in range(video.num_frames):
        if index == video.broken_at:
            raise VideoError("decode", f"broken after {index} frames")
        yield DecodedFrame(index, index / 30, lambda index=index: fake_pixels(video.number, index))  # type: ignore[misc]


def install_fake_videos(monkeypatch: pytest.MonkeyPatch, videos: Sequence[FakeVideo]) -> None:
    """Let the decode workers find these videos instead of files."""
    by_name = {video.name: video for video in videos}

    @contextmanager
    def open_fake(path: Path, fps: float | None = None, **options: Any) -> Iterator[OpenVideo]:
        video = by_name[path.name]
        yield OpenVideo(30.0, video.num_frames, "fake", fake_frames(video), width=2, height=1)

    def source(path: Path, on_block: Any = None) -> dict[str, Any]:
        video = by_name[path.name]
        return {"bytes": 6 * video.num_frames, "sha256": f"{video.number:064x}", "mtime_ns": 1}

    monkeypatch.setattr("extract.decode.one_video.open_video", open_fake)
    monkeypatch.setattr("extract.decode.one_video.read_source", source)


# ------------------------------------------------------------------------------------------------ fake encoders


@dataclass
class FakeTimeline:
    """Row of a frame: [video, frame of each context offset ...]. Counts the real items of every batch.

    Attributes:
        spoil: (video number, frame) -> the value that its row gets instead.
    """

    stream: str = "image"
    context: tuple[int, ...] = (0,)
    batch_size: int = 4
    version: int = 1
    spoil: dict[tuple[int, int], float] = field(default_factory=dict)
    kind: str = "timeline"
    trained: bool = False
    batches: list[int] = field(default_factory=list)

    @property
    def dim(self) -> int:
        return 1 + len(self.context)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def encode(self, items: np.ndarray) -> Rows:
        assert items.shape == (self.batch_size, len(self.context), 1, 2, 3)
        who = identity(items)  # (B, C, 2)
        assert (who[:, :, 0] == who[:, :1, 0]).all(), "an item mixes videos"
        features = np.concatenate([who[:, :1, 0], who[:, :, 1]], axis=1)  # (B, 1 + C)
        self.batches.append(len(np.unique(who[:, -1], axis=0)))
        captions = [f"video {int(video)} frame {int(frame)}" for video, frame in who[:, -1]]
        for row in features:
            if (bad := self.spoil.get((int(row[0]), int(row[-1])))) is not None:
                row[:] = bad
        return Rows(features, captions if self.stream == "text" else None)

    def recipe(self) -> dict[str, Any]:
        return {"encoder": f"fake {self.stream}", "version": self.version}


@dataclass
class FakeWindows:
    """Features of a window: [video, frame] of each of its samples, read back from the pool."""

    num_samples: int = 4
    frame_batch: int = 4
    window_batch: int = 2
    num_slots: int = 0
    stream: str = "video"
    kind: str = "window"
    dim: int = 2
    version: int = 1
    trained: bool = False
    spoil: dict[tuple[int, int], float] = field(default_factory=dict)
    frame_batches: list[int] = field(default_factory=list)
    window_batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_slots = self.num_slots or self.frame_batch + self.window_batch * self.num_samples + 16
        self._pool = np.full((self.num_slots, 2), np.nan, np.float32)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def encode_frames(self, frames: np.ndarray, slots: np.ndarray) -> None:
        assert frames.shape == (self.frame_batch, 1, 2, 3)
        assert slots.shape == (self.frame_batch,)
        real = slots < self.num_slots
        assert len(np.unique(slots[real])) == real.sum()
        self._pool[slots[real]] = identity(frames)[real]
        self.frame_batches.append(int(real.sum()))

    def encode_windows(self, slots: np.ndarray) -> np.ndarray:
        assert slots.shape == (self.window_batch, self.num_samples)
        features = self._pool[slots].copy()  # (N, T, 2)
        assert np.isfinite(features).all(), "a slot is read that was never written"
        self.window_batches.append(len(np.unique(features.reshape(len(slots), -1), axis=0)))
        for sample in features.reshape(-1, 2):
            if (bad := self.spoil.get((int(sample[0]), int(sample[1])))) is not None:
                sample[:] = bad
        return features

    def recipe(self) -> dict[str, Any]:
        return {"encoder": "fake video", "version": self.version}


SPEC = WindowSpec(size=16, stride=4, samples={"video": 4, "image": 4, "text": 2})


def fake_encoders(**options: Any) -> dict[str, Any]:
    """One encoder per stream of ``SPEC``, with context frames for the text stream."""
    return {
        "video": FakeWindows(**options.get("video", {})),
        "image": FakeTimeline("image", **options.get("image", {})),
        "text": FakeTimeline("text", context=(-2, 0), batch_size=3, **options.get("text", {})),
    }


def expected_rows(video: FakeVideo, stream: str, spec: WindowSpec = SPEC) -> np.ndarray:
    """What the fake encoders make of a whole video, by ``WindowSpec.plan`` alone."""
    plan = spec.plan(video.num_frames)
    if stream == "video":
        frames = plan.frames["video"]  # (N, T)
        return np.stack([np.full_like(frames, video.number), frames], axis=-1).astype(np.float32)
    frames = plan.unique[stream]  # (U,)
    columns = [np.full_like(frames, video.number)]
    columns += [np.maximum(frames - 2, 0)] if stream == "text" else []
    return np.stack([*columns, frames], axis=-1).astype(np.float32)


# ------------------------------------------------------------------------------------------------ runs and caches


def fake_manifest(videos: Sequence[FakeVideo], root: Path) -> Manifest:
    """A data set of fake videos."""
    entries = tuple(Video(v.name, v.name, v.name) for v in videos)
    return Manifest("fake", root, entries, {}, root)


def run_fake(
    videos: Sequence[FakeVideo], url: Path, encoders: Mapping[str, Any], *, workers: int = 2, **options: Any
) -> Summary:
    """One ``extract run`` over fake videos."""
    run_options = {k: options.pop(k) for k in ("watcher", "max_queue_bytes") if k in options}
    cache, ledger = FeatureCache.create(url, dataset="fake", window=SPEC), FailureLedger(str(url))
    recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
    jobs, summary = plan_jobs(fake_manifest(videos, url.parent), cache, recipes, ledger, **options)
    return run(jobs, cache, encoders, ledger, summary, workers=workers, **run_options)


def fake_jobs(videos: Sequence[FakeVideo], streams: Sequence[str] = ("video", "image", "text")) -> list[Job]:
    """The jobs of fake videos, for tests below the pipeline."""
    return [Job(v.name, v.name, Path(v.name), None, tuple(streams)) for v in videos]


def assert_cached(url: Path, video: FakeVideo, streams: Sequence[str] = ("video", "image", "text")) -> None:
    """The cache holds exactly what the plan asks for."""
    cache = FeatureCache.open(url)
    assert set(cache.streams(video.name)) == set(streams)
    for stream in streams:
        data = cache.read(video.name, stream)
        np.testing.assert_array_equal(data.features, expected_rows(video, stream).astype(np.float16))
        if stream != "video":
            np.testing.assert_array_equal(data.frames, SPEC.plan(video.num_frames).unique[stream])
        if data.captions is not None:
            assert data.captions == [f"video {video.number} frame {f}" for f in data.frames]
    assert cache.verify(video.name) == []


def cache_contents(url: Path) -> dict[str, Any]:
    """Every group's attributes and every array's values, dtype and chunks, by path, read with plain zarr."""
    found: dict[str, Any] = {}

    def walk(group: zarr.Group, path: str) -> None:
        found[path] = dict(group.attrs)
        for name, array in group.arrays():
            values = np.asarray(array[...])
            found[f"{path}/{name}"] = (values.tolist(), str(values.dtype), array.chunks, dict(array.attrs))
        for name, child in group.groups():
            walk(child, f"{path}/{name}")

    walk(zarr.open_group(url, mode="r"), "")
    return found
