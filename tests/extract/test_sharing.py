"""Several runs on one cache: they share its videos, and make the cache of one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import Result

from extract.decode.events import Job
from extract.faults.ledger import Failure, FailureLedger
from extract.faults.systemic import CacheWriteError
from extract.jobs.summary import Summary
from extract.sharing.claims import Claims
from extract.sharing.locks import LocalClaims, open_claims
from extract.watcher import Watcher
from shared.cache import FeatureCache, RecipeMismatch
from tests.extract.support import (
    SPEC,
    FakeVideo,
    assert_cached,
    cache_contents,
    fake_encoders,
    install_fake_videos,
    run_fake,
)

STREAMS = ("video", "image", "text")


class Other(Watcher):
    """Plays another run: does something when this one waits for it."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self.waited: list[tuple[list[str], str]] = []

    def waits(self, jobs: Sequence[Job], holder: str) -> None:
        self.waited.append(([job.video for job in jobs], holder))
        if len(self.waited) == 2:
            self._then()


@pytest.fixture
def videos(monkeypatch: pytest.MonkeyPatch) -> list[FakeVideo]:
    """Three videos; a run looks again at once for what others hold."""
    monkeypatch.setattr("extract.sharing.claims.Claims.poll_s", 0.001)
    videos = [FakeVideo(0, 20), FakeVideo(1, 33), FakeVideo(2, 40)]
    install_fake_videos(monkeypatch, videos)
    return videos


@pytest.fixture
def url(tmp_path: Path) -> Path:
    return tmp_path / "c.zarr"


@pytest.fixture
def other(url: Path) -> Iterator[Claims]:
    """The claims of another run, which is at work on the second video."""
    claims = open_claims(str(url))
    assert claims.take("v001", STREAMS)
    yield claims
    claims.close()


def litter(url: Path) -> list[str]:
    """What a run that has ended should not leave beside its cache or in it."""
    beside = [p.name for p in url.parent.iterdir() if p.suffix in (".claims", ".inflight")]
    return beside + [str(p.relative_to(url)) for p in url.rglob("*.partial")]


# ------------------------------------------------------------------ what another run holds


def test_what_another_run_gives_back_unfinished_is_done_at_the_end(
    videos: list[FakeVideo], url: Path, other: Claims
) -> None:
    watcher = Other(lambda: other.give("v001"))
    summary = run_fake(videos, url, fake_encoders(), watcher=watcher)
    assert summary.done == ["v000", "v002", "v001"]
    assert watcher.waited[0][0] == ["v001"]
    assert "process" in watcher.waited[0][1]
    for video in videos:
        assert_cached(url, video)
    assert litter(url) == []


def test_what_another_run_completes_is_not_done_again(videos: list[FakeVideo], url: Path, other: Claims) -> None:
    def complete() -> None:
        other.give("v001")
        assert run_fake(videos[1:2], url, fake_encoders()).done == ["v001"]

    encoders = fake_encoders()
    summary = run_fake(videos, url, encoders, watcher=Other(complete))
    assert (summary.done, summary.others, summary.exit_status) == (["v000", "v002"], ["v001"], 0)
    frames = sum(len(SPEC.plan(v.num_frames).unique["image"]) for v in (videos[0], videos[2]))
    assert sum(encoders["image"].batches) == frames
    for video in videos:
        assert_cached(url, video)


def test_a_part_that_another_run_completes_is_not_done_again(videos: list[FakeVideo], url: Path, other: Claims) -> None:
    def complete() -> None:
        other.give("v001")
        run_fake(videos[1:2], url, {"image": fake_encoders()["image"]})

    encoders = fake_encoders()
    assert run_fake(videos[1:2], url, encoders, watcher=Other(complete)).done == ["v001"]
    assert encoders["image"].batches == []
    assert_cached(url, videos[1])


def test_what_another_run_fails_at_is_not_tried_again(videos: list[FakeVideo], url: Path, other: Claims) -> None:
    failure = Failure("v001", "v001", "decode", "VideoError", "broken")

    def fail() -> None:
        FailureLedger(str(url)).record(failure)
        other.give("v001")

    summary = run_fake(videos, url, fake_encoders(), watcher=Other(fail))
    assert (summary.done, summary.failed, summary.exit_status) == (["v000", "v002"], {"v001": failure}, 1)


def test_a_failure_from_before_is_no_reason_not_to_try_again(videos: list[FakeVideo], url: Path) -> None:
    FailureLedger(str(url)).record(Failure("v001", "v001", "decode", "VideoError", "broken"))
    assert run_fake(videos, url, fake_encoders(), retry_failed=True).exit_status == 0
    assert FailureLedger(str(url)).failures() == {}


def test_another_recipe_at_the_same_time_is_told(videos: list[FakeVideo], url: Path, other: Claims) -> None:
    def complete() -> None:
        other.give("v001")
        run_fake(videos[1:2], url, fake_encoders(image={"version": 2}))

    with pytest.raises(RecipeMismatch, match="version: cache has 2, asked for 1"):
        run_fake(videos, url, fake_encoders(), watcher=Other(complete))
    assert litter(url) == []
    assert_cached(url, videos[0])


def test_streams_that_nobody_holds_go_on(videos: list[FakeVideo], url: Path, other: Claims) -> None:
    other.give("v001")
    assert other.take("v001", ["image"])
    assert run_fake(videos, url, {"text": fake_encoders()["text"]}).done == ["v000", "v001", "v002"]


def test_a_place_for_claims_that_cannot_be_written_ends_the_run(videos: list[FakeVideo], url: Path) -> None:
    Path(f"{url}.claims").write_text("a file")
    with pytest.raises(CacheWriteError, match=r"cannot be claimed beside the cache: .*c\.zarr\.claims"):
        run_fake(videos, url, fake_encoders())


# ------------------------------------------------------------------ a claim that is lost


class Losing(LocalClaims):
    """Leases whose second video is taken over by another run, at the given look of this one."""

    def __init__(self, url: str, look: int, then: Callable[[], None]) -> None:
        super().__init__(url)
        self._look, self._then, self._looks = look, then, 0

    def holds(self, video: str) -> bool:
        self._looks += video == "v001"
        if video != "v001" or self._looks != self._look:
            return True
        self._then()
        return False


@pytest.mark.parametrize("look", [1, 2], ids=["before it is marked", "after it was marked"])
@pytest.mark.parametrize("finishes", [True, False], ids=["it finishes", "it dies halfway"])
def test_a_lost_claim_leaves_the_video_to_the_other_run(
    videos: list[FakeVideo], url: Path, look: int, finishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_over() -> None:
        cache = FeatureCache.create(url, dataset="fake", window=SPEC)
        cache.drop("v001", STREAMS)
        if finishes:
            with monkeypatch.context() as patch:
                patch.setattr("extract.flow.pipeline.open_claims", lambda place: Losing(place, 99, lambda: None))
                patch.setattr(Losing, "_take", lambda self, name: 0)
                patch.setattr(Losing, "_give", lambda self, name, lock: None)
                assert run_fake(videos[1:2], url, fake_encoders()).done == ["v001"]

    monkeypatch.setattr("extract.flow.pipeline.open_claims", lambda place: Losing(place, look, take_over))
    summary = run_fake(videos, url, fake_encoders())
    assert (summary.done, summary.others) == (
        (["v000", "v002"], ["v001"]) if finishes else (["v000", "v002", "v001"], [])
    )
    for video in videos:
        assert_cached(url, video)


# ------------------------------------------------------------------ all at once


def run_together(count: int, work: Callable[[int], Summary]) -> list[Summary]:
    """Several runs, each in a thread of its own."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> list[FakeVideo]:
    """Sixty videos, of which four break off."""
    monkeypatch.setattr("extract.sharing.claims.Claims.poll_s", 0.001)
    videos = [FakeVideo(n, 17 + 7 * n % 50, broken_at=12 if n % 15 == 7 else None) for n in range(60)]
    install_fake_videos(monkeypatch, videos)
    return videos


def test_runs_together_make_the_cache_of_one(many: list[FakeVideo], tmp_path: Path) -> None:
    single, shared = tmp_path / "single.zarr", tmp_path / "shared" / "shared.zarr"
    alone = run_fake(many, single, fake_encoders())
    runs = run_together(3, lambda number: run_fake(many, shared, fake_encoders()))
    assert cache_contents(shared) == cache_contents(single)
    done = [name for summary in runs for name in summary.done]
    assert sorted(done) == sorted(alone.done)  # each by one run
    for summary in runs:
        assert summary.failed.keys() == alone.failed.keys()
        assert summary.exit_status == 1
        assert len(summary.done) + len(summary.others) + len(summary.skipped) + len(summary.failed) == len(many)
    assert {f.attempts for f in FailureLedger(str(shared)).failures().values()} == {1}
    assert litter(shared) == []


def test_runs_together_on_a_disk_without_locks(
    many: list[FakeVideo], url: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.sharing.locks._has_locks", lambda path: False)
    runs = run_together(2, lambda number: run_fake(many[8:20], url, fake_encoders()))
    assert sorted(name for summary in runs for name in summary.done) == [video.name for video in many[8:20]]
    for video in many[8:20]:
        assert_cached(url, video)
    assert litter(url) == []


def test_runs_together_overwrite_each_video_once(many: list[FakeVideo], url: Path) -> None:
    many = [video for video in many if video.broken_at is None]
    run_fake(many, url, fake_encoders())
    again = {stream: {"version": 2} for stream in STREAMS}
    runs = run_together(2, lambda number: run_fake(many, url, fake_encoders(**again), overwrite=STREAMS))
    assert sorted(name for summary in runs for name in summary.done) == [video.name for video in many]
    for video in many:
        assert_cached(url, video)


def test_readers_see_complete_streams_only(many: list[FakeVideo], url: Path) -> None:
    FeatureCache.create(url, dataset="fake", window=SPEC)
    stop, seen = threading.Event(), []

    def read(number: int) -> None:
        while not stop.is_set():
            cache = FeatureCache.open(url)
            for name in cache.video_ids():
                for stream in cache.streams(name):
                    data = cache.read(name, stream)
                    assert len(data.features)
                    cache.find(name, [stream])
                wrong = [line for line in cache.verify(name) if "unfinished" not in line]
                assert wrong == []
            cache.facts()
            seen.append(len(cache.video_ids()))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read, number) for number in range(2)]
        try:
            run_together(2, lambda number: run_fake(many, url, fake_encoders()))
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    assert seen[0] < 56
    assert FeatureCache.open(url).verify("v000") == []


def test_verify_says_that_a_run_is_at_work(
    videos: list[FakeVideo], url: Path, other: Claims, cli: Callable[..., Result]
) -> None:
    run_fake(videos[:1], url, fake_encoders())
    writing = FeatureCache.create(url, dataset="fake", window=SPEC)
    writing.writer("v001", "image", kind="timeline", recipe={})
    told = cli("verify", url)
    assert told.exit_code == 1
    assert "v001: unfinished video group" in told.stdout
    assert f"A run is at work on 1 of the unfinished videos (process {os.getpid()} on " in told.stdout
    other.close()
    assert "at work" not in cli("verify", url).stdout
