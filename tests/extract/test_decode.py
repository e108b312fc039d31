"""Decode workers: order, the bound on waiting bytes, and a quick end whatever happens to the reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.decode.ahead import ByteQueue, DecodeAhead, Failed, Finished, Opened, Stopped
from extract.decode.sampling import Item, Window
from extract.video import DecodedFrame
from tests.extract.support import SPEC, FakeTimeline, FakeVideo, fake_encoders, fake_jobs, install_fake_videos

PATIENCE_S = 30  # how long a test waits for a thread before it calls it stuck


def item(nbytes: int) -> Item:
    return Item("image", 0, np.zeros(nbytes, np.uint8))


class WatchedDeque(deque[Item]):
    """Notes the most bytes that ever waited in company."""

    held = most = 0

    def append(self, event: Item) -> None:
        super().append(event)
        self.held += event.nbytes
        self.most = max(self.most, self.held if len(self) > 1 else 0)

    def popleft(self) -> Item:
        event = super().popleft()
        self.held -= event.nbytes
        return event


def test_queue_never_holds_more_than_its_bound() -> None:
    queue, watched = ByteQueue(100), WatchedDeque()
    queue._events = watched
    sizes = [60, 30, 50, 250, 1, 99, 2, 100, 40, 40] * 20  # 250 passes, but only alone
    writer = threading.Thread(target=lambda: [queue.put(item(n)) for n in sizes])
    writer.start()
    assert [queue.get().nbytes for _ in sizes] == sizes
    writer.join(PATIENCE_S)
    assert 0 < watched.most <= 100


@pytest.mark.parametrize("act", ["put", "get"])
def test_closing_a_queue_frees_whoever_waits(act: str) -> None:
    queue, outcome = ByteQueue(10), []
    if act == "put":
        queue.put(item(10))

    def wait() -> None:
        with pytest.raises(Stopped):
            queue.put(item(1)) if act == "put" else queue.get()
        outcome.append("stopped")

    waiter = threading.Thread(target=wait)
    waiter.start()
    queue.close()
    waiter.join(PATIENCE_S)
    assert outcome == ["stopped"]


def test_what_is_no_videos_fault_is_raised_after_the_last_event() -> None:
    queue = ByteQueue(100)
    queue.put(item(10))
    queue.fail(OSError("no process"))
    events = queue.until_end()
    assert next(events).nbytes == 10
    with pytest.raises(OSError, match="no process"):
        next(events)


def test_a_video_of_more_frames_than_bytes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would never end, or is a list of other files."""
    monkeypatch.setattr("extract.decode.one_video.MIN_ENDLESS_FRAMES", -270)
    videos = [FakeVideo(1, 40), FakeVideo(2, 60)]  # six bytes a frame
    install_fake_videos(monkeypatch, videos)
    ends = [list(events)[-1] for _, events in DecodeAhead(SPEC, fake_encoders(), 1, 1 << 20).run(fake_jobs(videos))]
    assert [type(end) for end in ends] == [Failed, Finished]
    assert ends[0].message.startswith("1 frames out of 240 bytes")


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("max_bytes", [1, 200, 1 << 20])
def test_jobs_come_in_order_with_all_their_events(
    workers: int, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [FakeVideo(n, 1 + 13 * n % 50, broken_at=3 if n % 4 == 2 else None) for n in range(12)]
    install_fake_videos(monkeypatch, videos)
    decode = DecodeAhead(SPEC, fake_encoders(), workers, max_bytes)
    for (job, events), video in zip(decode.run(fake_jobs(videos)), videos, strict=True):
        assert job.video == video.name
        found = list(events)
        assert isinstance(found[0], Opened)
        if video.broken_at is not None and video.broken_at < video.num_frames:
            assert found[-1] == Failed("decode", "VideoError", "broken after 3 frames")
            continue
        assert isinstance(found[-1], Finished)
        assert found[-1].info.num_frames == video.num_frames
        windows = [e for e in found if isinstance(e, Window)]
        assert len(windows) == len(SPEC.starts(video.num_frames))
    assert no_decode_threads()


def test_jobs_want_only_their_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(1, 40)]
    install_fake_videos(monkeypatch, videos)
    for _, events in DecodeAhead(SPEC, fake_encoders(), 1, 1 << 20).run(fake_jobs(videos, ["text"])):
        assert {e.stream for e in events if isinstance(e, Item | Window)} == {"text"}


def test_an_encoder_that_cannot_prepare_a_frame_fails_that_video_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(FakeTimeline):
        def prepare(self, frame: np.ndarray) -> np.ndarray:
            if frame[0, 0, 0] == 1:
                raise MemoryError
            return frame

    videos = [FakeVideo(n, 20) for n in range(3)]
    install_fake_videos(monkeypatch, videos)
    decode = DecodeAhead(SPEC, {"image": Picky()}, 2, 1 << 20)
    ends = [list(events)[-1] for _, events in decode.run(fake_jobs(videos, ["image"]))]
    assert [type(end) for end in ends] == [Finished, Failed, Finished]
    assert ends[1] == Failed("decode", "MemoryError", "MemoryError()")


@pytest.mark.parametrize("read", [None, 0, 5])
def test_leaving_early_stops_the_workers(read: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the events of the job at hand were never looked at (None), or its queue is full."""
    videos = [FakeVideo(n, 2000) for n in range(6)]
    install_fake_videos(monkeypatch, videos)
    kept = []  # an exception's traceback keeps such references alive; nothing may depend on their end

    def leave() -> None:
        with closing(DecodeAhead(SPEC, fake_encoders(), 2, 50).run(fake_jobs(videos))) as jobs:
            for _, events in jobs:
                kept.append(events)
                if read is not None:
                    for _, _ in zip(range(read), events, strict=False):
                        pass
                raise KeyboardInterrupt

    def left() -> None:
        with pytest.raises(KeyboardInterrupt):
            leave()

    thread = threading.Thread(target=left)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert no_decode_threads()
    with pytest.raises(Stopped):
        next(kept[0])


def test_asking_for_the_next_job_gives_up_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(n, 500) for n in range(4)]
    install_fake_videos(monkeypatch, videos)
    names = [job.video for job, _ in DecodeAhead(SPEC, fake_encoders(), 1, 50).run(fake_jobs(videos))]
    assert names == [v.name for v in videos]


def test_a_worker_stops_between_frames_and_while_it_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stride larger than the video means that nothing is put for long; the end must not wait for that."""
    reading, go_on = threading.Event(), threading.Event()

    def endless(video: FakeVideo) -> Iterator[DecodedFrame]:
        index = 0
        while True:
            reading.set()
            go_on.wait(PATIENCE_S)
            yield DecodedFrame(index, 0.0, lambda: np.zeros((1, 2, 3), np.uint8))
            index += 1

    videos = [FakeVideo(1, 10)]
    install_fake_videos(monkeypatch, videos)
    monkeypatch.setattr("tests.extract.support.fake_frames", endless)
    decode = DecodeAhead(SPEC, fake_encoders(), 1, 50)
    jobs = decode.run(fake_jobs(videos))
    next(jobs)
    reading.wait(PATIENCE_S)
    threading.Timer(0.05, go_on.set).start()
    jobs.close()
    assert no_decode_threads()

    def digest(path: Path, on_block: Any) -> dict[str, Any]:
        reading.set()
        while True:
            on_block()

    reading.clear()
    monkeypatch.setattr("extract.decode.one_video.read_source", digest)
    jobs = decode.run(fake_jobs(videos))
    next(jobs)
    reading.wait(PATIENCE_S)
    jobs.close()
    assert no_decode_threads()


def no_decode_threads() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("decode")]
