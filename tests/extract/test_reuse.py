"""Reuse is exact: frames once through sampler and packers give what every window computed on its own gives.

Real networks at toy size, and VideoPrism-B and -L with one layer per stage at their true sizes; random weights.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from extract.config import CaptionerConfig, ClipConfig, ExtractConfig, VideoPrismConfig
from extract.decode.sampling import sample_video
from extract.encoders import build_encoder
from extract.encoders.contract import Rows
from extract.encoders.videoprism import ARCHITECTURES, VideoPrismEncoder
from extract.flow.packing import TimelinePacker, WindowPacker
from extract.video import DecodedFrame
from shared.windows import WindowSpec

TOLERANCE = 1e-4
STRIDES = (1, 4, 8, 16, 24, 64)


@dataclass(frozen=True)
class Clip:
    """Noise that drifts in brightness; every frame and every video differs.

    Attributes:
        size: width, height.
    """

    name: str
    num_frames: int
    size: tuple[int, int]

    def rgb(self, index: int) -> np.ndarray:
        rng = np.random.default_rng([index, *self.name.encode()])
        width, height = self.size
        level = 0.6 + 0.4 * np.sin(index / 5)
        return (rng.random((height, width, 3)) * 255 * level).astype(np.uint8)

    def frames(self) -> Iterator[DecodedFrame]:
        for index in range(self.num_frames):
            yield DecodedFrame(index, index / 30, lambda index=index: self.rgb(index))  # type: ignore[misc]


# Tails that no stride meets, exactly one window, a frame less and a frame more, and hardly any frame.
CLIPS = (
    Clip("wide", 131, (64, 36)),
    Clip("one frame", 1, (40, 40)),
    Clip("tall", 64, (27, 48)),
    Clip("short", 63, (64, 36)),
    Clip("shorter", 9, (50, 41)),
    Clip("one more", 65, (36, 64)),
)


def video_features(encoder: VideoPrismEncoder, clips: tuple[Clip, ...], spec: WindowSpec) -> dict[str, np.ndarray]:
    """By the packer, all videos in the same blocks: name -> (N, T, D)."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    packer = WindowPacker(encoder, lambda name, features: found[name].append(features.copy()), spec.size)
    for clip in clips:
        for event in sample_video(clip.frames(), spec, {"video": encoder}):
            packer.add(clip.name, event)
        packer.close(clip.name)
    packer.flush()
    return {name: np.concatenate(parts) for name, parts in found.items()}


def video_window_by_window(encoder: VideoPrismEncoder, clip: Clip, spec: WindowSpec) -> np.ndarray:
    """By the monolithic forward, every window on its own: (N, T, D)."""
    frames = spec.plan(clip.num_frames).frames["video"]
    prepared = {f: encoder.prepare(clip.rgb(f)) for f in np.unique(frames).tolist()}
    return encoder.encode_clips(np.stack([[prepared[f] for f in row] for row in frames.tolist()]))


def count_frames(encoder: VideoPrismEncoder) -> list[int]:
    """A list that grows by the real rows of every later call of ``encode_frames``."""
    counts: list[int] = []
    encode: Callable[..., None] = encoder.encode_frames

    def counted(frames: np.ndarray, slots: np.ndarray) -> None:
        counts.append(int((slots < encoder.num_slots).sum()))
        encode(frames, slots)

    encoder.encode_frames = counted  # type: ignore[method-assign]
    return counts


@pytest.fixture(params=["tiny", "eight frames"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VideoPrismEncoder:
    """Toys with batches that divide nothing; "eight frames" has the temporal table of the large encoder."""
    monkeypatch.setitem(ARCHITECTURES, "eight frames", replace(ARCHITECTURES["tiny"], num_frames=8))
    return VideoPrismEncoder(
        request.param, seed=0, dtype="float32", frame_batch=7, window_batch=3, num_slots=64 + 7 + 3 * 16
    )


@pytest.mark.parametrize("stride", STRIDES)
def test_windows_of_many_videos(encoder: VideoPrismEncoder, stride: int) -> None:
    spec = WindowSpec(stride=stride, samples={"video": 16})
    counts = count_frames(encoder)
    found = video_features(encoder, CLIPS, spec)
    for clip in CLIPS:
        expected = video_window_by_window(encoder, clip, spec)
        assert found[clip.name].shape == expected.shape == (len(spec.plan(clip.num_frames)), 16, 64)
        np.testing.assert_allclose(found[clip.name], expected, atol=TOLERANCE)
    plans = [spec.plan(clip.num_frames) for clip in CLIPS]
    assert sum(counts) == sum(len(plan.unique["video"]) for plan in plans)  # each frame once
    assert set(counts[:-1]) == {7}  # blocks run across videos


def test_features_differ_by_more_than_the_tolerance() -> None:
    """Otherwise the tests above would pass with windows or frames mixed up."""
    spec = WindowSpec(stride=4, samples={"video": 16})
    encoder = VideoPrismEncoder("tiny", seed=0, dtype="float32", window_batch=3)
    features = video_window_by_window(encoder, CLIPS[0], spec)  # (N, T, D)
    samples = features.reshape(-1, features.shape[-1])
    distances = np.abs(samples[:, None] - samples[None]).max(axis=-1)
    assert distances[~np.eye(len(samples), dtype=bool)].min() > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["base", pytest.param("large", marks=pytest.mark.soak)])
def test_true_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """288 px, true widths and tables, one layer per stage: large stretches a table of 8 frames over 16."""
    arch = replace(ARCHITECTURES[name], spatial_layers=1, temporal_layers=1)
    assert arch.num_frames == {"base": 16, "large": 8}[name]
    monkeypatch.setitem(ARCHITECTURES, "shallow", arch)
    encoder = VideoPrismEncoder("shallow", seed=0, dtype="float32", frame_batch=5, window_batch=1, num_slots=90)
    clip, spec = Clip("clip", 80, (64, 36)), WindowSpec(stride=16, samples={"video": 16})
    found = video_features(encoder, (clip,), spec)["clip"]
    expected = video_window_by_window(encoder, clip, spec)
    assert found.shape == (2, 16, arch.width)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.abs(found[0, 4:] - found[1, :12]).max() > 10 * TOLERANCE  # the same frames, elsewhere in their window


# ------------------------------------------------------------------------------------------------ single frames


def timeline_encoder(stream: str, batch_size: int) -> Any:
    """The toy CLIP tower, behind the offline captioner for "text"."""
    clip = ClipConfig("tiny", weights=None, seed=0, batch_size=batch_size)
    captioner = CaptionerConfig("offline", batch_size=batch_size)
    return build_encoder(stream, ExtractConfig("test", VideoPrismConfig("tiny", seed=0), clip, captioner))


def rows_in_batches(encoder: Any, items: list[np.ndarray]) -> tuple[np.ndarray, list[str] | None]:
    """Features and captions of items, as they come."""
    features, captions = [], []
    for first in range(0, len(items), encoder.batch_size):
        part = items[first : first + encoder.batch_size]
        rows: Rows = encoder.encode(np.stack(part + part[-1:] * (encoder.batch_size - len(part))))
        features.append(rows.features[: len(part)])
        captions += (rows.captions or [])[: len(part)]
    return np.concatenate(features), captions or None


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("stream", ["image", "text"])
def test_single_frames_of_many_videos(stream: str, stride: int) -> None:
    """Against every sample of every window on its own, in batches of one window."""
    spec = WindowSpec(stride=stride)
    encoder, plain = timeline_encoder(stream, 7), timeline_encoder(stream, spec.samples[stream])
    found: dict[str, dict[int, tuple[np.ndarray, str]]] = defaultdict(dict)
    num_rows = 0

    def sink(name: str, frames: np.ndarray, rows: Rows) -> None:
        nonlocal num_rows
        num_rows += len(frames)
        captions = rows.captions or [""] * len(frames)
        found[name] |= {int(f): row for f, row in zip(frames, zip(rows.features, captions, strict=True), strict=True)}

    packer = TimelinePacker(encoder, sink)
    for clip in CLIPS:
        for event in sample_video(clip.frames(), spec, {stream: encoder}):
            packer.add(clip.name, event)
        packer.close(clip.name)
    packer.flush()
    for clip in CLIPS:
        samples = spec.plan(clip.num_frames).frames[stream].ravel().tolist()  # (N*T,)
        pictures = {f: plain.prepare(clip.rgb(f)) for f in {max(0, s + o) for s in samples for o in plain.context}}
        items = [np.stack([pictures[max(0, f + o)] for o in plain.context]) for f in samples]
        features, captions = rows_in_batches(plain, items)
        np.testing.assert_allclose([found[clip.name][f][0] for f in samples], features, atol=TOLERANCE)
        if captions:
            assert [found[clip.name][f][1] for f in samples] == captions
    assert num_rows == sum(len(spec.plan(clip.num_frames).unique[stream]) for clip in CLIPS)
