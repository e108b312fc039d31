"""The pipeline over videos and encoders of pure arithmetic: what is cached, what fails, what resumes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.faults.ledger import FailureLedger
from extract.faults.systemic import SYSTEMIC_FAILURES, CacheWriteError, SystemicFailure
from extract.flow.assemble import WriteThread
from extract.watcher import Watcher
from shared.cache import FeatureCache, RecipeMismatch
from shared.cache.arrays import StreamWriter
from tests.extract.support import (
    SPEC,
    FakeTimeline,
    FakeVideo,
    assert_cached,
    cache_contents,
    fake_encoders,
    install_fake_videos,
    run_fake,
)

LENGTHS = (1, 40, 16, 5, 77, 17, 33, 64, 2, 100)
VIDEOS = [FakeVideo(number, frames) for number, frames in enumerate(LENGTHS)]


@pytest.fixture
def url(tmp_path: Path) -> Path:
    return tmp_path / "fake.zarr"


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_caches_what_the_plan_asks_for(workers: int, url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_videos(monkeypatch, VIDEOS)
    encoders = fake_encoders()
    summary = run_fake(VIDEOS, url, encoders, workers=workers)
    assert summary.done == [v.name for v in VIDEOS]
    assert summary.exit_status == 0
    assert summary.num_frames == sum(LENGTHS)
    assert summary.num_windows == sum(len(SPEC.starts(n)) for n in LENGTHS)
    assert set(summary.seconds) == {"decode", "waiting", "encode video", "encode image", "encode text", "write"}
    for video in VIDEOS:
        assert_cached(url, video)
        info = FeatureCache.open(url).info(video.name)
        assert info is not None
        np.testing.assert_allclose(info.pts, np.arange(video.num_frames) / 30)
    # Batches are packed across videos: only the last one of each stage is padded.
    for batches, size in (
        (encoders["image"].batches, 4),
        (encoders["text"].batches, 3),
        (encoders["video"].frame_batches, 4),
        (encoders["video"].window_batches, 2),
    ):
        assert set(batches[:-1]) <= {size}


def test_the_cache_does_not_depend_on_workers_batches_or_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_videos(monkeypatch, VIDEOS)
    monkeypatch.setattr("shared.cache.arrays.CHUNK_BYTES", 64)  # many chunks, as of long videos
    run_fake(VIDEOS, tmp_path / "a.zarr", fake_encoders(), workers=1)
    other = fake_encoders(image={"batch_size": 7}, video={"frame_batch": 3, "window_batch": 5})
    run_fake(VIDEOS[::-1], tmp_path / "b.zarr", other, workers=4, max_queue_bytes=1)
    assert cache_contents(tmp_path / "a.zarr") == cache_contents(tmp_path / "b.zarr")


def test_a_second_run_has_nothing_to_do(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_videos(monkeypatch, VIDEOS)
    run_fake(VIDEOS, url, fake_encoders())
    encoders = fake_encoders()
    summary = run_fake(VIDEOS, url, encoders)
    assert (summary.done, len(summary.skipped), summary.exit_status) == ([], len(VIDEOS), 0)
    assert encoders["image"].batches == []


def test_a_stream_is_added_later_without_touching_the_others(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_videos(monkeypatch, VIDEOS)
    encoders = fake_encoders()
    run_fake(VIDEOS, url, {"image": encoders["image"]})
    before = cache_contents(url)
    assert_cached(url, VIDEOS[4], ["image"])
    summary = run_fake(VIDEOS, url, fake_encoders())
    assert len(summary.done) == len(VIDEOS)
    after = cache_contents(url)
    assert {k: after[k] for k in before if "/v" in k} == {k: v for k, v in before.items() if "/v" in k}
    for video in VIDEOS:
        assert_cached(url, video)


def test_overwrite_replaces_only_the_streams_asked_for(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_videos(monkeypatch, VIDEOS)
    run_fake(VIDEOS, url, fake_encoders())
    newer = fake_encoders(image={"version": 2})
    with pytest.raises(RecipeMismatch, match="overwrite image"):
        run_fake(VIDEOS, url, newer)
    summary = run_fake(VIDEOS, url, newer, overwrite=["image"])
    assert len(summary.done) == len(VIDEOS)
    assert newer["image"].batches
    assert not newer["text"].batches
    cache = FeatureCache.open(url)
    assert cache.streams("v004")["image"]["version"] == 2
    for video in VIDEOS:
        assert_cached(url, video)


# ------------------------------------------------------------------------------------------------ failures


def test_a_video_that_breaks_leaves_nothing_of_it(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {1: 39, 4: 60, 5: 0, 9: 17}
    videos = [FakeVideo(v.number, v.num_frames, places.get(v.number)) for v in VIDEOS]
    install_fake_videos(monkeypatch, videos)
    summary = run_fake(videos, url, fake_encoders(image={"batch_size": 32}))
    assert set(summary.failed) == {"v001", "v004", "v005", "v009"}
    assert summary.exit_status == 1
    failures = FailureLedger(str(url)).failures()
    assert failures["v004"].message == "broken after 60 frames"
    assert (failures["v004"].stage, failures["v004"].attempts, failures["v004"].path) == ("decode", 1, "v004")
    names = {p.name for p in (url / "videos").iterdir()}
    assert not names & set(places)
    assert not names & {f"v{n:03d}" for n in places}
    for video in videos:
        if video.broken_at is None:
            assert_cached(url, video)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("stream", ["image", "video"])
def test_a_value_that_float16_cannot_hold_fails_its_video_only(
    stream: str, value: float, url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_videos(monkeypatch, VIDEOS)
    frame = int(SPEC.plan(77).unique[stream][9])
    summary = run_fake(VIDEOS, url, fake_encoders(**{stream: {"spoil": {(4, frame): value}}}))
    assert set(summary.failed) == {"v004"}
    failure = FailureLedger(str(url)).failures()["v004"]
    assert failure.stage == "write"
    place = f"row of frame {frame}" if stream == "image" else "window"
    assert f"v004/{stream}: {place}" in failure.message
    assert ("too large for float16" if value == 1e6 else "a NaN or infinity") in failure.message
    assert not (url / "videos" / "v004").exists()
    for video in VIDEOS:
        if video.number != 4:
            assert_cached(url, video)


def test_failed_videos_are_tried_again_only_when_asked(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_videos(monkeypatch, [FakeVideo(0, 40), FakeVideo(1, 40, broken_at=20)])
    videos = [FakeVideo(0, 40), FakeVideo(1, 40)]
    run_fake(videos, url, fake_encoders())
    again = run_fake(videos, url, fake_encoders())
    assert (again.done, list(again.failed), again.exit_status) == ([], ["v001"], 1)
    retried = run_fake(videos, url, fake_encoders(), retry_failed=True)
    assert retried.failed["v001"].attempts == 2
    install_fake_videos(monkeypatch, videos)  # the file was mended
    mended = run_fake(videos, url, fake_encoders(), retry_failed=True)
    assert (mended.done, mended.failed, mended.exit_status) == (["v001"], {}, 0)
    assert FailureLedger(str(url)).failures() == {}
    assert_cached(url, videos[1])


def test_a_file_that_changed_is_not_mixed_with_its_older_streams(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_videos(monkeypatch, [FakeVideo(0, 40), FakeVideo(1, 40)])
    videos = [FakeVideo(0, 40), FakeVideo(1, 40)]
    run_fake(videos, url, {"image": FakeTimeline("image")})
    install_fake_videos(monkeypatch, [FakeVideo(0, 40), FakeVideo(1, 50)])
    summary = run_fake(videos, url, fake_encoders())
    assert list(summary.failed) == ["v001"]
    assert "the file changed" in summary.failed["v001"].message
    assert_cached(url, videos[0])
    assert_cached(url, videos[1], ["image"])


def test_a_run_in_which_all_fail_for_one_cause_stops(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(n, 40, broken_at=n % 5) for n in range(20)]
    install_fake_videos(monkeypatch, videos)
    with pytest.raises(SystemicFailure, match=r"first 8 videos.*\n.*broken after \d frames"):
        run_fake(videos, url, fake_encoders())
    assert len(FailureLedger(str(url)).failures()) == SYSTEMIC_FAILURES


def test_an_encoder_that_only_makes_nan_stops_the_run(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(n, 30) for n in range(40)]
    install_fake_videos(monkeypatch, videos)
    spoil = {(v.number, f): float("nan") for v in videos for f in range(30)}
    with pytest.raises(SystemicFailure, match="a NaN or infinity"):
        run_fake(videos, url, fake_encoders(image={"spoil": spoil}))
    assert list((url / "videos").glob("v*")) == []


def test_a_good_video_that_waits_for_its_batch_to_fill_keeps_the_run_going(
    url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [FakeVideo(0, 2), *(FakeVideo(n, 40, broken_at=0) for n in range(1, 12))]
    install_fake_videos(monkeypatch, videos)
    summary = run_fake(videos, url, fake_encoders(image={"batch_size": 100}))
    assert (summary.done, len(summary.failed)) == (["v000"], 11)
    assert_cached(url, videos[0])


def test_nothing_could_work_is_status_two(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(n, 9, broken_at=2) for n in range(3)]
    install_fake_videos(monkeypatch, videos)
    assert run_fake(videos, url, fake_encoders()).exit_status == 2


# ------------------------------------------------------------------------------------------------ interruptions


class StopAfter(Watcher):
    """Ctrl-C after so many items."""

    def __init__(self, count: int) -> None:
        self.left = count

    def reached(self, job: Any, frame: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_run_resumes_to_the_same_cache(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_videos(monkeypatch, VIDEOS)
    monkeypatch.setattr("shared.cache.arrays.CHUNK_BYTES", 64)
    run_fake(VIDEOS, tmp_path / "whole.zarr", fake_encoders())
    rng, url = np.random.default_rng(seed), tmp_path / "stopped.zarr"
    for _ in range(4):
        watcher = StopAfter(int(rng.integers(1, 120)))
        with pytest.raises(KeyboardInterrupt):
            run_fake(VIDEOS, url, fake_encoders(), watcher=watcher, max_queue_bytes=60)
        assert threads() == []
        # What was under way is gone, what is there is whole.
        cache = FeatureCache.open(url)
        assert cache.group_ids() == cache.video_ids()
        assert [line for name in cache.video_ids() for line in cache.verify(name)] == []
    run_fake(VIDEOS, url, fake_encoders())
    assert cache_contents(url) == cache_contents(tmp_path / "whole.zarr")
    assert FailureLedger(str(url)).failures() == {}


def test_a_full_disk_ends_the_run_and_a_second_run_completes(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The queue is far too small for the long video, so its decode worker waits for room when the run ends.
    videos = [*VIDEOS[:5], FakeVideo(5, 3000), *VIDEOS[6:]]
    install_fake_videos(monkeypatch, videos)
    append, calls = StreamWriter.append, [0]

    def full(self: StreamWriter, *args: Any) -> None:
        calls[0] += 1
        if calls[0] > 60:
            raise OSError(28, "No space left on device")
        append(self, *args)

    monkeypatch.setattr(StreamWriter, "append", full)
    with pytest.raises(CacheWriteError, match=r"cannot be written: .*No space left on device"):
        run_fake(videos, url, fake_encoders(), max_queue_bytes=100)
    assert threads() == []
    cache = FeatureCache.open(url)
    assert cache.group_ids() == cache.video_ids()
    assert FailureLedger(str(url)).failures() == {}  # not the videos' fault
    monkeypatch.setattr(StreamWriter, "append", append)
    assert run_fake(videos[:5], url, fake_encoders()).exit_status == 0
    for video in videos[:5]:
        assert_cached(url, video)


def test_an_encoder_that_crashes_ends_the_run_cleanly(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemory(FakeTimeline):
        def encode(self, items: np.ndarray) -> Any:
            if len(self.batches) == 5:
                raise RuntimeError("CUDA out of memory")
            return super().encode(items)

    install_fake_videos(monkeypatch, VIDEOS)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_fake(VIDEOS, url, fake_encoders() | {"image": OutOfMemory("image")}, max_queue_bytes=60)
    assert threads() == []
    cache = FeatureCache.open(url)
    assert cache.group_ids() == cache.video_ids()


def test_a_store_that_is_gone_does_not_hide_the_first_error(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any) -> None:
        raise OSError(5, "Input/output error")

    install_fake_videos(monkeypatch, VIDEOS)
    monkeypatch.setattr(StreamWriter, "append", unreachable)
    monkeypatch.setattr(FeatureCache, "abandon", unreachable)
    with pytest.raises(CacheWriteError, match="Input/output error"):
        run_fake(VIDEOS, url, fake_encoders())


def test_a_bug_in_writing_is_not_blamed_on_the_disk() -> None:
    writes = WriteThread()
    assembly: Any = type("Assembly", (), {"error": None})()
    writes.submit(assembly, lambda: {}["missing"])
    with pytest.raises(KeyError):
        writes.drain()
    writes.close()


def test_writes_run_in_order_and_stop_at_the_first_fatal_one() -> None:
    writes, done = WriteThread(), []
    assembly: Any = type("Assembly", (), {"error": None})()
    for n in range(200):  # more than may wait
        writes.submit(assembly, lambda n=n: done.append(n))
    writes.drain()
    assert done == list(range(200))

    def fatal() -> None:
        raise OSError(28, "No space left on device")

    writes.submit(assembly, fatal)
    with pytest.raises(CacheWriteError):
        writes.drain()
    with pytest.raises(CacheWriteError):
        writes.submit(assembly, lambda: done.append(-1))
    writes.close()
    assert -1 not in done


def test_waiting_frames_never_exceed_the_bound(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all workers, and although decoding is far faster than the writing that the encoders wait for."""
    from extract.decode import ahead as decode

    held, most, lock = [0], [0], threading.Lock()
    put, get = decode.ByteQueue.put, decode.ByteQueue.get

    def counted_put(self: Any, event: Any) -> None:
        put(self, event)
        with lock:
            held[0] += event.nbytes
            most[0] = max(most[0], held[0])

    def counted_get(self: Any) -> Any:
        event = get(self)
        with lock:
            held[0] -= event.nbytes
        return event

    monkeypatch.setattr(decode.ByteQueue, "put", counted_put)
    monkeypatch.setattr(decode.ByteQueue, "get", counted_get)
    videos = [FakeVideo(n, 300) for n in range(6)]
    install_fake_videos(monkeypatch, videos)
    run_fake(videos, url, fake_encoders(), workers=3, max_queue_bytes=400)
    assert 0 < most[0] <= 400 + 12  # one item may be counted after it was taken


def test_the_ledger_is_one_json_object_per_line(url: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(0, 20), FakeVideo(1, 20, broken_at=3)]
    install_fake_videos(monkeypatch, videos)
    run_fake(videos, url, fake_encoders())
    rows = [json.loads(line) for line in (url.parent / "failures.jsonl").read_text().splitlines()]
    assert [(r["video"], r["stage"], r["error"], r["attempts"]) for r in rows] == [("v001", "decode", "VideoError", 1)]


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("decode", "write"))]
