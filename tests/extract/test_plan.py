"""Sampling and packing against WindowSpec.plan: every row once, in order, with the right values, from full batches."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from extract.decode.sampling import Item, Window, sample_video
from extract.encoders.contract import Rows
from extract.flow.packing import TimelinePacker, WindowPacker
from extract.video import DecodedFrame
from shared.windows import WindowSpec
from tests.extract.support import SPEC, FakeTimeline, FakeVideo, FakeWindows, expected_rows, fake_frames, identity

LENGTHS = (1, 2, 3, 7, 15, 16, 17, 19, 20, 21, 31, 32, 33, 63, 64, 65, 100)


def specs() -> list[WindowSpec]:
    samples = ({"video": 4, "image": 4, "text": 2}, {"video": 1, "image": 3, "text": 1})
    return [
        WindowSpec(size=size, stride=stride, samples=counts, sampling=sampling)
        for size in (3, 16, 64)
        for stride in (1, 4, 7, 16, 64, 90)
        for sampling in ("centers", "endpoints")
        for counts in samples
        if max(counts.values()) <= size
    ]


def encoders_for(spec: WindowSpec) -> dict[str, Any]:
    return {
        "video": FakeWindows(num_samples=spec.samples["video"]),
        "image": FakeTimeline("image"),
        "text": FakeTimeline("text", context=(-5, -1, 0)),
    }


# ------------------------------------------------------------------------------------------------ sample_video


@pytest.mark.parametrize("spec", specs(), ids=lambda s: f"{s.size}-{s.stride}-{s.sampling}-{s.samples['video']}")
def test_items_and_windows_are_those_of_the_plan(spec: WindowSpec) -> None:
    encoders = encoders_for(spec)
    for num_frames in LENGTHS:
        events = list(sample_video(fake_frames(FakeVideo(5, num_frames)), spec, encoders))
        plan = spec.plan(num_frames)
        for stream in encoders:
            items = [e for e in events if isinstance(e, Item) and e.stream == stream]
            assert sorted(i.frame for i in items) == plan.unique[stream].tolist()  # each once
            for item in items:
                own = item.pixels if stream == "video" else item.pixels[-1]
                assert identity(own).tolist() == [5, item.frame]
        windows = [e for e in events if isinstance(e, Window)]
        assert [w.start for w in windows] == plan.starts.tolist()
        np.testing.assert_array_equal([w.frames for w in windows], plan.frames["video"])


def test_frames_of_a_window_come_before_it() -> None:
    spec = replace(SPEC, stride=7)
    seen: set[int] = set()
    for event in sample_video(fake_frames(FakeVideo(1, 100)), spec, encoders_for(spec)):
        if isinstance(event, Window):
            assert seen.issuperset(event.frames.tolist())
        elif event.stream == "video":
            seen.add(event.frame)


def test_context_frames_look_back_and_stop_at_frame_zero() -> None:
    encoder = FakeTimeline("text", context=(-5, -1, 0))
    spec = WindowSpec(size=8, stride=3, samples={"text": 8})
    for item in sample_video(fake_frames(FakeVideo(1, 30)), spec, {"text": encoder}):
        assert isinstance(item, Item)
        expected = [max(0, item.frame - 5), max(0, item.frame - 1), item.frame]
        assert identity(item.pixels)[:, 1].tolist() == expected


def test_only_a_window_of_frames_is_held_and_each_is_converted_once_per_window() -> None:
    alive, most, converted = set(), 0, defaultdict(int)

    class Tracked(DecodedFrame):
        def __del__(self) -> None:
            alive.discard(self.index)

    def frames() -> Any:
        for frame in fake_frames(FakeVideo(1, 400)):
            alive.add(frame.index)

            def convert(frame: DecodedFrame = frame) -> np.ndarray:
                converted[frame.index] += 1
                return frame.rgb()

            yield Tracked(frame.index, 0.0, convert)

    spec = WindowSpec(size=16, stride=16, samples={"video": 4, "image": 4, "text": 4})
    encoders = {"video": FakeWindows(), "image": FakeTimeline(), "text": FakeTimeline("text", context=(0,))}
    for _ in sample_video(frames(), spec, encoders):
        most = max(most, len(alive))
    assert most <= spec.size + 1
    assert set(converted.values()) == {1}  # three streams share it


def test_a_video_without_frames_has_no_events() -> None:
    assert list(sample_video(iter(()), SPEC, encoders_for(SPEC))) == []


# ------------------------------------------------------------------------------------------------ packers


class Sink:
    """Rows by video, in the order of their arrival."""

    def __init__(self) -> None:
        self.features: dict[str, list[np.ndarray]] = defaultdict(list)
        self.frames: dict[str, list[int]] = defaultdict(list)
        self.captions: dict[str, list[str]] = defaultdict(list)

    def timeline(self, video: str, frames: np.ndarray, rows: Rows) -> None:
        assert len(frames) == len(rows.features)
        assert frames.dtype == np.int32
        self.features[video] += list(rows.features)
        self.frames[video] += frames.tolist()
        if rows.captions is not None:
            assert len(rows.captions) == len(frames)
            self.captions[video] += rows.captions

    def windows(self, video: str, features: np.ndarray) -> None:
        self.features[video] += list(features)


def random_videos(rng: np.random.Generator, count: int) -> list[FakeVideo]:
    return [FakeVideo(number, int(rng.integers(1, 90))) for number in range(count)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stream", ["image", "text"])
def test_timeline_batches_over_many_videos(stream: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoder = FakeTimeline(stream, context=(-2, 0) if stream == "text" else (0,), batch_size=int(rng.integers(1, 9)))
    sink, videos = Sink(), random_videos(rng, 40)
    packer, lost = TimelinePacker(encoder, sink.timeline), set()
    total = 0
    for video in videos:
        stop = int(rng.integers(0, 20)) if rng.random() < 0.2 else None
        for count, event in enumerate(sample_video(fake_frames(video), SPEC, {stream: encoder})):
            if count == stop:
                packer.forget(video.name)
                lost.add(video.name)
                break
            assert isinstance(event, Item)
            assert packer.yields_row(event)
            packer.add(video.name, event)
        else:
            packer.close(video.name)
            total += len(SPEC.plan(video.num_frames).unique[stream])
    packer.flush()
    for video in videos:
        if video.name in lost:
            assert len(sink.features[video.name]) <= 20
            continue
        order = np.argsort(sink.frames[video.name])
        np.testing.assert_array_equal(np.array(sink.features[video.name])[order], expected_rows(video, stream))
        if stream == "text":
            assert sink.captions[video.name][0] == f"video {video.number} frame {sink.frames[video.name][0]}"
    assert set(encoder.batches[:-1]) <= {encoder.batch_size}  # only the last batch is padded
    assert lost
    count = len(encoder.batches)
    packer.flush()
    assert len(encoder.batches) == count  # nothing pending, nothing encoded


@pytest.mark.parametrize("extra_slots", [0, 1, 7, 200])
@pytest.mark.parametrize("seed", range(4))
def test_window_batches_over_many_videos(seed: int, extra_slots: int) -> None:
    rng = np.random.default_rng([seed, extra_slots])
    frame_batch, window_batch = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    encoder = FakeWindows(4, frame_batch, window_batch, max(frame_batch + window_batch * 4, 20) + extra_slots)
    spec = replace(SPEC, stride=int(rng.integers(1, 25)))
    sink, videos, lost = Sink(), random_videos(rng, 40), set()
    packer = WindowPacker(encoder, sink.windows, SPEC.size)
    for video in videos:
        stop = int(rng.integers(0, 30)) if rng.random() < 0.2 else None
        for count, event in enumerate(sample_video(fake_frames(video), spec, {"video": encoder})):
            if count == stop:
                packer.forget(video.name)
                lost.add(video.name)
                break
            assert packer.yields_row(event) == isinstance(event, Window)
            packer.add(video.name, event)
        else:
            packer.close(video.name)
    packer.flush()
    for video in videos:
        if video.name not in lost:
            found = np.array(sink.features[video.name])
            np.testing.assert_array_equal(found, expected_rows(video, "video", spec))
    assert lost
    assert packer.num_free == encoder.num_slots
    if extra_slots == 200:  # with room enough, only the last batch of each stage is padded
        assert set(encoder.frame_batches[:-1]) <= {frame_batch}
        assert set(encoder.window_batches[:-1]) <= {window_batch}


def test_forgetting_a_video_leaves_its_neighbours_in_the_same_batch() -> None:
    encoder = FakeWindows(4, frame_batch=8, window_batch=3, num_slots=20)
    sink = Sink()
    packer = WindowPacker(encoder, sink.windows, SPEC.size)
    videos = [FakeVideo(n, 5) for n in range(3)]
    for video in videos:
        for event in sample_video(fake_frames(video), SPEC, {"video": encoder}):
            packer.add(video.name, event)
        packer.close(video.name)
        if video.number == 1:
            packer.forget(video.name)
    packer.flush()
    assert set(sink.features) == {"v000", "v002"}
    for video in (videos[0], videos[2]):
        np.testing.assert_array_equal(np.array(sink.features[video.name]), expected_rows(video, "video"))
    assert packer.num_free == encoder.num_slots


def test_a_pool_too_small_for_the_windows_says_so() -> None:
    """Only the tail window needs the odd frames that are kept, so a small pool would break late in some video."""
    with pytest.raises(ValueError, match=r"19 frame slots.*need 20"):
        WindowPacker(FakeWindows(4, frame_batch=1, window_batch=1, num_slots=19), Sink().windows, SPEC.size)
