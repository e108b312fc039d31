"""``extract run --engine ray`` on a cluster that it starts for itself, and what fails on any cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.config import ExtractConfig
from extract.decode.events import Failed, Finished, Job, Opened
from extract.decode.process import DecoderStartError
from extract.decode.sampling import Item
from extract.encoders.contract import Rows
from extract.faults.systemic import SystemicFailure
from extract.flow.loading import Choice
from shared.cache import FeatureCache, VideoInfo
from shared.windows import WindowSpec
from tests.extract.kills import GO_ON, Killing, alive, children, count_files, litter, wait, write_clips
from tests.extract.support import (
    REPO,
    SPEC,
    FakeTimeline,
    FakeVideo,
    cache_contents,
    fake_encoders,
    fake_jobs,
    identity,
    install_fake_videos,
    write_video,
)

pytest.importorskip("ray")

from ray.exceptions import RayError

from extract.cluster import decode
from extract.cluster.actor import EncoderProcess, Post, plain, root_stamp
from extract.cluster.connection import LOCK, PREFIX, sweep
from extract.cluster.decode import TaskDecoders

PATIENCE_S = 90.0  # two processes of Ray's own outlive a killed driver by a minute
ALONE = ("--engine", "ray")
# What Python runs first in every process of a run; see ``sabotaged``.
DECODERS_END = """
import os, sys
if any("extract.decode.child" in word for word in sys.orig_argv):
    os.write(2, b"OSError: no such library\\n")
    os._exit(78)
"""
ENCODER_RAISES = """
import sys
if any("default_worker" in word for word in sys.orig_argv):
    from extract.flow.packing import TimelinePacker
    def flush(self): raise RuntimeError("the device gave up")
    TimelinePacker.flush = flush
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Killing:
    """Clips, and the cache that a local run makes of them."""
    folder = tmp_path_factory.mktemp("alone")
    killing = Killing(write_clips(folder / "clips"), folder / "caches")
    killing.run_undisturbed()
    return killing


@pytest.fixture
def sabotaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have Python run something first in every process that is started from now on."""

    def first(script: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(script)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPO)]))

    return first


def words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:  # it has just ended
        return []


def processes(run: subprocess.Popen[str], title: str) -> list[int]:
    """Processes of a run whose command line has this in it."""
    return [pid for pid in children(run.pid) if any(title in word for word in words_of(pid))]


def session_of(run: subprocess.Popen[str]) -> Path:
    """The folder of the cluster that a run has started; waits for it."""
    deadline = time.monotonic() + PATIENCE_S
    while run.poll() is None and time.monotonic() < deadline:
        for pid in children(run.pid):
            for word in words_of(pid):
                if word.startswith("--temp-dir="):
                    return Path(word.partition("=")[2])
        time.sleep(0.02)
    pytest.fail(f"no cluster: {run.communicate()[0]}")


def until(run: subprocess.Popen[str], true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.poll() is None, run.communicate()[0]


def assert_all_gone(family: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while alive(family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [words_of(pid) for pid in alive(family)] == []


# ------------------------------------------------------------------ a cluster of its own


def test_a_cluster_of_its_own_makes_the_cache_of_a_local_run_and_leaves_nothing(clips: Killing) -> None:
    """What is whole stays, what is damaged is made again: two videos and a stream of a third."""
    url = clips.scratch / "own" / "own.zarr"
    shutil.copytree(clips.whole, url)
    for place in ("1.mp4", "3.mp4", "5.mp4/image"):
        chunk = next(p for p in sorted((url / "videos" / place).rglob("c/**/*")) if p.is_file())
        chunk.write_bytes(b"damaged")
    assert cache_contents_fail(url)
    run = clips.start(url, *ALONE, "--actors", "2", "--overwrite", "damaged")
    session = session_of(run)
    until(run, lambda: processes(run, "extract.decode.child"))
    family = children(run.pid)
    ended = wait(run)
    assert ended.status == 0, ended.output
    assert "4 already complete, 3 to do" in ended.output
    assert [word for word in ("raylet", "ray::", "GCS", "INFO", "WARN", "\x1b") if word in ended.output] == []
    assert cache_contents(url) == cache_contents(clips.whole)
    assert litter(url) == []
    assert not session.exists()
    assert_all_gone(family)


def cache_contents_fail(url: Path) -> bool:
    return any(FeatureCache.open(url).verify(video) for video in FeatureCache.open(url).video_ids())


@pytest.mark.soak
def test_decoders_that_do_not_start_are_no_videos_fault(clips: Killing, sabotaged: Callable[[str], None]) -> None:
    url = clips.scratch / "nodecoders" / "c.zarr"
    local = wait_with(clips, sabotaged, DECODERS_END, url)
    ended = wait(clips.start(url, *ALONE))
    for one in (local, ended):
        assert one.status == 2, one.output
        assert "error: decoding does not start: OSError: no such library" in one.output
        assert "Traceback" not in one.output
    assert not (url.parent / "failures.jsonl").exists()


def wait_with(clips: Killing, sabotaged: Callable[[str], None], script: str, url: Path) -> Any:
    sabotaged(script)
    return wait(clips.start(url))


@pytest.mark.soak
def test_an_encoder_that_raises_ends_the_run_with_its_words(clips: Killing, sabotaged: Callable[[str], None]) -> None:
    sabotaged(ENCODER_RAISES)
    url = clips.scratch / "raises" / "c.zarr"
    ended = wait(clips.start(url, *ALONE, "--actors", "2"))
    assert ended.status == 2, ended.output
    assert "error: an encoder process failed" in ended.output
    assert "RuntimeError: the device gave up" in ended.output
    assert not (url.parent / "failures.jsonl").exists()


@pytest.mark.soak
@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_nothing_outlives_a_run_that_is_killed(clips: Killing, way: str) -> None:
    url = clips.scratch / way / "c.zarr"
    run = clips.start(url, *ALONE, "--actors", "2")
    session = session_of(run)
    until(run, lambda: count_files(url) > 20)
    family = children(run.pid)
    assert processes(run, "EncoderProcess")
    assert processes(run, "extract.decode.child")
    run.send_signal(getattr(signal, way))
    ended = wait(run)
    assert ended.status == (-9 if way == "SIGKILL" else 130), ended.output
    assert way == "SIGKILL" or GO_ON in ended.output
    assert_all_gone(family)
    if way == "SIGKILL":
        assert session.exists()
        sweep(session.parent)
    assert not session.exists()
    assert wait(clips.start(url, *ALONE)).status == 0
    clips.check(url)


@pytest.mark.soak
def test_a_decoder_and_the_encoder_process_are_killed(tmp_path: Path) -> None:
    killing = Killing(write_clips(tmp_path / "clips"), tmp_path / "caches")
    for number in range(10, 30):  # enough to be killed in the middle
        write_video(killing.folder / f"{number}.mp4", 150, seed=number)
    killing.run_undisturbed()
    url = killing.scratch / "kills.zarr"
    run = killing.start(url, *ALONE, "--actors", "1")  # of two, the one that is killed may have had nothing to do
    until(run, lambda: count_files(url) > killing.num_files // 10)
    os.kill(processes(run, "extract.decode.child")[0], signal.SIGKILL)
    until(run, lambda: count_files(url) > killing.num_files // 4)
    victim = processes(run, "EncoderProcess")[0]
    its_own = children(victim)
    assert its_own
    os.kill(victim, signal.SIGKILL)
    ended = wait(run)
    assert ended.status == 0, ended.output
    assert "an encoder process was lost" in ended.output
    assert_all_gone(its_own)
    killing.check(url)


def test_folders_of_dead_runs_are_swept_and_those_of_others_stay(tmp_path: Path) -> None:
    for name in ("dead", "foreign"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
    (tmp_path / f"{PREFIX}dead" / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / f"{PREFIX}dead")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{PREFIX}foreign", f"{PREFIX}link"]


# ------------------------------------------------------------------ what fails


def test_errors_can_be_sent_and_say_where_they_came_from() -> None:
    assert isinstance(plain(OSError("no disk")), OSError)
    try:
        raise RuntimeError("the device gave up")
    except RuntimeError as error:
        sent = plain(error)
    assert isinstance(sent, SystemicFailure)
    assert "no video is to blame" in str(sent)
    assert "test_errors_can_be_sent" in str(sent)
    assert str(sent).endswith("RuntimeError: the device gave up")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("the device gave up"), SystemicFailure, "no video is to blame"),
        (DecoderStartError("decoding does not start"), OSError, "decoding does not start (node "),
    ],
)
def test_an_encoder_process_tells_what_ended_it(
    error: Exception, kind: type, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray would call it; a video that had ended by then is told of, too."""
    encoders, videos = fake_encoders(), [FakeVideo(1, 40), FakeVideo(2, 40, broken_at=3), FakeVideo(3, 40)]

    def raises(items: np.ndarray) -> Rows:
        if (identity(items)[..., 0] == 3).any():
            raise error
        return FakeTimeline.encode(encoders["image"], items)

    encoders["image"].encode = raises
    install_fake_videos(monkeypatch, videos)
    monkeypatch.setattr("extract.cluster.actor.load_encoders", lambda *_: encoders)
    monkeypatch.setattr("extract.cluster.actor.caption_counts", lambda _: None)
    monkeypatch.setattr("extract.encoders.devices.choose_device", lambda *_: None)
    monkeypatch.setattr(Choice, "config", lambda _: ExtractConfig("fake", window=SPEC))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    FeatureCache.create(tmp_path / "c.zarr", dataset="fake", window=SPEC)
    url = str(tmp_path / "c.zarr")
    choice = Choice("tiny", {}, tuple(encoders), "cpu")
    process = EncoderProcess(Post(choice, "fake", url, root_stamp(url), os.getcwd(), 1, 60.0, 1, "1", 0))
    assert not isinstance(process.load(), Exception)
    report = process.extract(fake_jobs(videos), (), {})
    assert isinstance(report.error, kind)
    assert words in str(report.error)
    assert ("record", "v002") in [(news.what, news.video) for news in report.news]
    assert ("record", "v003") not in [(news.what, news.video) for news in report.news]


def item(frame: int) -> Item:
    return Item("image", frame, np.full((2, 2, 3), frame, np.uint8))


def events_of(sha256: str, frames: int) -> list[Any]:
    """Of a video that is read to its end."""
    source = {"path": "v", "sha256": sha256}
    info = VideoInfo(source, 1.0, frames, 2, 2, 0, "", np.arange(frames, dtype=np.float64))
    return [Opened(frames, source), *map(item, range(frames)), Finished(info)]


def decoded(monkeypatch: pytest.MonkeyPatch, *tries: tuple[list[Any], bool]) -> list[Any]:
    """What is handed out where each try of a task gives these events and (True) is lost afterwards."""
    left = iter(tries)

    def blocks(*_: Any) -> Iterator[tuple[list[Any], float]]:
        events, lost = next(left)
        for event in events:
            yield [event], 0.0
        if lost:
            raise RayError("a node went away")

    class Nothing:
        remote = staticmethod(lambda *_: None)

    monkeypatch.setattr(decode, "DecodeBlocks", Nothing)
    monkeypatch.setattr("ray.cancel", lambda _: None)
    monkeypatch.setattr(TaskDecoders, "_blocks", blocks)
    given: list[Any] = []
    job = Job("v", "v", Path("v"), None, ())
    TaskDecoders(1.0).decode(0, job, WindowSpec(), {}, given.append, lambda: None)
    return given


def frames_of(events: list[Any]) -> list[int]:
    return [event.frame for event in events if isinstance(event, Item)]


def test_a_video_that_is_begun_again_is_handed_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = events_of("a", 4)
    given = decoded(monkeypatch, (whole[:3], True), (whole[:2], True), (whole, False))
    assert frames_of(given) == [0, 1, 2, 3]
    assert [type(event) for event in given].count(Opened) == 1
    assert isinstance(given[-1], Finished)


@pytest.mark.parametrize(
    "second",
    [events_of("b", 4), events_of("b", 9), events_of("a", 1)],
    ids=["another file", "a longer one", "one that ends before it did"],
)
def test_a_video_that_is_replaced_between_two_tries_fails(second: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = decoded(monkeypatch, (events_of("a", 4)[:3], True), (second, False))
    assert frames_of(given) == [0, 1]
    assert given[-1] == Failed("decode", "UnreadableFile", "the file changed while it was read")


def test_another_file_is_as_good_as_long_as_nothing_was_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = decoded(monkeypatch, ([], True), (events_of("b", 3), False))
    assert frames_of(given) == [0, 1, 2]
    assert isinstance(given[-1], Finished)


def test_a_video_that_breaks_the_second_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Failed("open", "VideoError", "no longer a video")
    assert decoded(monkeypatch, (events_of("a", 4)[:3], True), ([failed], False))[-1] == failed


def test_a_task_that_is_lost_three_times_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    given = decoded(monkeypatch, *[(events_of("a", 4)[:2], True)] * 3)
    assert frames_of(given) == [0]
    assert (given[-1].error, "lost 3 times: a node went away" in given[-1].message) == ("DecoderDied", True)
