"""The pool that prepares drafts: order of events, order of ranks, failures in their place, no thread left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.decode.preparing import InOrder, PreparePool
from extract.decode.sampling import Draft, Item, draft_video, sample_video
from extract.decode.turns import Turns
from shared.windows import WindowSpec
from tests.extract.support import (
    SPEC,
    FakeTimeline,
    FakeVideo,
    assert_cached,
    cache_contents,
    fake_encoders,
    fake_frames,
    install_fake_videos,
    run_fake,
)

PATIENCE_S = 30


@pytest.fixture
def pool() -> Iterator[PreparePool]:
    pool = PreparePool(2)
    yield pool
    pool.close()
    assert not [t for t in threading.enumerate() if t.name == "decode-prepare"]


def draft(number: int, before: threading.Event | None = None) -> Draft:
    def pixels() -> np.ndarray:
        if before is not None:
            assert before.wait(PATIENCE_S)
        return np.full((1, 1, 3), number, np.uint8)

    return Draft(number, (("image", pixels),))


def test_items_take_the_place_of_their_drafts(pool: PreparePool) -> None:
    encoders = fake_encoders()
    for frames in (1, 5, 16, 40):
        drafts = draft_video(fake_frames(FakeVideo(3, frames)), SPEC, encoders)
        found = list(InOrder[Any](pool, 0)(drafts))
        expected = list(sample_video(fake_frames(FakeVideo(3, frames)), SPEC, encoders))
        assert [(type(e), e.stream) for e in found] == [(type(e), e.stream) for e in expected]
        for one, other in zip(found, expected, strict=True):
            if isinstance(one, Item):
                assert one.frame == other.frame
                np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_slow_draft_holds_back_what_follows_but_not_the_pool(pool: PreparePool) -> None:
    go_on, others = threading.Event(), threading.Event()

    def last() -> np.ndarray:
        others.set()
        return np.zeros((1, 1, 3), np.uint8)

    drafts = [draft(0, before=go_on), draft(1), Draft(2, (("image", last),)), "end"]
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(InOrder[Any](pool, 0)(drafts)))
    reader.start()
    assert others.wait(PATIENCE_S)
    assert found == []
    go_on.set()
    reader.join(PATIENCE_S)
    assert [getattr(e, "frame", e) for e in found] == [0, 1, 2, "end"]


def test_the_earliest_video_is_served_first() -> None:
    pool, go_on, order = PreparePool(1), threading.Event(), []

    def noted(number: int) -> Draft:
        return Draft(number, (("image", lambda: order.append(number) or np.zeros(1)),))  # type: ignore[func-returns-value]

    busy = pool.submit(9, draft(0, before=go_on))
    ends = time.monotonic() + PATIENCE_S
    while not busy.running() and time.monotonic() < ends:  # else the thread may take the first of the others
        time.sleep(0.001)
    futures = [pool.submit(rank, noted(10 * rank + n)) for n in range(3) for rank in (2, 0, 1)]
    go_on.set()
    for future in (busy, *futures):
        future.result(PATIENCE_S)
    pool.close()
    assert order == [0, 1, 2, 10, 11, 12, 20, 21, 22]


@pytest.mark.parametrize("place", [0, 3, 7])
def test_what_came_before_a_failure_is_handed_out(place: int, pool: PreparePool) -> None:
    """Whoever fails: a batch must not hold more or less of a broken video from one run to the next."""

    def bad() -> np.ndarray:
        raise MemoryError

    def broken() -> Iterator[Draft]:
        yield from (draft(n) for n in range(place))
        raise ValueError("broken")

    in_place = [*(draft(n) for n in range(place)), Draft(place, (("image", bad),)), draft(place + 1)]
    for drafts, error in ((broken(), ValueError), (in_place, MemoryError)):
        found: list[int] = []
        in_order = InOrder[Any](pool, 0)
        with pytest.raises(error):
            found.extend(item.frame for item in in_order(drafts))
        assert found == list(range(place))
        in_order.give_up()


def test_closing_gives_up_what_is_queued() -> None:
    pool, go_on, started = PreparePool(1), threading.Event(), threading.Event()

    def running() -> np.ndarray:
        started.set()
        assert go_on.wait(PATIENCE_S)
        return np.zeros(1)

    first = pool.submit(0, Draft(0, (("image", running),)))
    queued = pool.submit(0, draft(1))
    assert started.wait(PATIENCE_S)
    closer = threading.Thread(target=pool.close)
    closer.start()
    go_on.set()
    closer.join(PATIENCE_S)
    assert first.result(0)
    assert queued.cancelled()


def test_pooled_videos_are_cached_as_those_prepared_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a video that breaks, and one of which a frame cannot be prepared."""

    class Picky(FakeTimeline):
        def prepare(self, frame: np.ndarray) -> np.ndarray:
            if tuple(frame[0, 0]) == (4, 0, 0) and frame[0, 1, 0] > 10:
                raise MemoryError
            return frame

    videos = [FakeVideo(n, 1 + 29 * n % 90, broken_at=12 if n == 2 else None) for n in range(8)]
    install_fake_videos(monkeypatch, videos)
    batches = []
    for name, least in (("a", 1 << 30), ("b", 0)):
        monkeypatch.setattr("extract.decode.one_video.MIN_POOLED_PIXELS", least)
        encoders = fake_encoders() | {"image": Picky("image")}
        summary = run_fake(videos, tmp_path / name, encoders, workers=3)
        assert set(summary.failed) == {"v002", "v004"}
        batches.append((encoders["image"].batches, encoders["text"].batches, encoders["video"].frame_batches))
    assert batches[0] == batches[1]  # nothing of the two depends on timing
    assert cache_contents(tmp_path / "a") == cache_contents(tmp_path / "b")
    assert_cached(tmp_path / "b", videos[7])


def test_the_pool_of_a_later_video_waits_for_its_turn() -> None:
    """The table of two processes, of which the first has pictures waiting."""
    table = Turns(2)
    other = Turns(2, os.fdopen(os.dup(table.fileno()), "r+b"))
    waited, told = threading.Event(), []

    def wait_for_turn() -> None:
        while other.others_first(7):
            waited.set()
            time.sleep(0.001)

    table.note(0, 3, 5)
    assert not table.others_first(3)
    pool = PreparePool(2, wait_for_turn, told.append)
    futures = [pool.submit(0, draft(n)) for n in range(3)]
    assert waited.wait(PATIENCE_S)
    assert [future.done() for future in futures] == [False] * 3
    table.note(0, 3, 0)
    assert [future.result(PATIENCE_S)[0].frame for future in futures] == [0, 1, 2]
    pool.close()
    assert told[0] == 1
    assert told[-1] == 0
    other.close()
    table.close()


def test_the_first_window_is_not_waited_for() -> None:
    """Its frames are sampled whatever the length of the video turns out to be."""
    spec = WindowSpec(size=16, stride=4, samples={"image": 4})
    decoded: list[int] = []
    first = next(
        draft_video(fake_frames(FakeVideo(1, 100)), spec, {"image": FakeTimeline()}, lambda f: decoded.append(f.index))
    )
    assert isinstance(first, Draft)
    assert first.frame == decoded[-1] == 2
