"""Videos that dead runs were at: noticed by the next runs, put last, and never given up for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from extract.decode.events import Job
from extract.faults.inflight import InFlight, forget, suspects
from extract.faults.systemic import CacheWriteError
from extract.watcher import Watcher
from shared.cache import CacheError
from tests.extract.support import REPO, FakeTimeline, FakeVideo, assert_cached, install_fake_videos, run_fake

KILLED = """
import os, signal, sys
from pathlib import Path
from extract.decode.events import Job
from extract.faults.inflight import InFlight
from extract.watcher import Watcher
run = InFlight(sys.argv[1], Watcher(), ())
run.__enter__()
for name in ("before", "a", "b"):
    run.opened(Job(name, name, Path(name), None, ()), 0)
run.ended(Job("before", "before", Path("before"), None, ()), None)
os.kill(os.getpid(), signal.SIGKILL)
"""


def job(name: str) -> Job:
    return Job(name, name, Path(name), None, ())


def died(url: str, *videos: str) -> None:
    """What a killed run leaves: its file, which nobody holds any more."""
    folder = Path(url + ".inflight")
    folder.mkdir(exist_ok=True)
    (folder / f"1-{len(list(folder.iterdir())):032x}.json").write_text(json.dumps(videos))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"{tmp_path}/fake.zarr"


def test_what_a_killed_process_was_at(url: str) -> None:
    for runs in (1, 2):
        done = subprocess.run([sys.executable, "-c", KILLED, url], cwd=REPO, check=False)
        assert done.returncode == -signal.SIGKILL
        assert suspects(url) == ({"a": 2, "b": 2} if runs == 2 else {})


def test_only_what_several_dead_runs_have_in_common_is_suspicious(url: str) -> None:
    assert suspects(url) == {}
    died(url, "a", "b")
    died(url, "b", "c")
    died(url)
    assert suspects(url) == {"b": 2}
    died(url, "b", "c")
    assert suspects(url) == {"b": 3, "c": 2}
    for torn in ("", '["b', "7", "{}", '[["b"], 3]', "\x00"):
        (Path(url + ".inflight") / f"1-{0:032x}.json").write_text(torn)
        assert suspects(url) == {"b": 2, "c": 2}
    forget(url, "abc")
    assert suspects(url) == {}
    assert not Path(url + ".inflight").exists()


def test_a_run_that_lives_is_not_counted_and_not_removed(url: str) -> None:
    with InFlight(url, Watcher(), "abc") as first:
        first.opened(job("a"), 0)
        second = InFlight(url, Watcher(), "abc").__enter__()
        second.opened(job("a"), 0)
        assert suspects(url) == {}
        second.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        forget(url, "abc")
        (file,) = Path(url + ".inflight").iterdir()
        assert json.loads(file.read_text()) == ["a"]
        first.ended(job("a"), None)
        assert json.loads(file.read_text()) == []
    assert not Path(url + ".inflight").exists()


def test_a_run_of_other_videos_leaves_what_is_noted(url: str) -> None:
    for _ in range(2):
        died(url, "v")
        died(url, "v", "a")
        died(url, "a")
        died(url)
    with InFlight(url, Watcher(), ["a", "b"]) as run:
        run.opened(job("a"), 0)
        run.ended(job("a"), None)
    assert suspects(url) == {"v": 4}
    assert len(list(Path(url + ".inflight").iterdir())) == 4
    with InFlight(url, Watcher(), ["v"]):
        pass
    assert not Path(url + ".inflight").exists()


def test_files_of_others_are_left_alone(url: str) -> None:
    died(url, "a")
    theirs = Path(url + ".inflight") / "notes.json"
    theirs.write_text('["b"]')
    forget(url, "abc")
    with InFlight(url, Watcher(), "abc") as run:
        run.opened(job("a"), 0)
    assert list(theirs.parent.iterdir()) == [theirs]
    assert theirs.read_text() == '["b"]'


def test_a_folder_that_is_a_link_is_refused(url: str, tmp_path: Path) -> None:
    died(f"{tmp_path}/other", "a")
    Path(url + ".inflight").symlink_to("other.inflight")
    for act in (lambda url: forget(url, "a"), suspects, lambda url: InFlight(url, Watcher(), "a")):
        with pytest.raises(CacheError, match=r"fake\.zarr\.inflight is a link to another folder"):
            act(url)
    assert len(os.listdir(f"{tmp_path}/other.inflight")) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CacheWriteError("full"), RuntimeError("a bug")])
def test_what_ends_of_itself_leaves_nothing_unless_a_video_may_have_done_it(url: str, error: BaseException) -> None:
    for _ in range(2):
        run = InFlight(url, Watcher(), "abc").__enter__()
        run.opened(job("a"), 0)
        run.__exit__(type(error), error, None)
    assert suspects(url) == ({"a": 2} if isinstance(error, RuntimeError) else {})
    assert Path(url + ".inflight").exists() == isinstance(error, RuntimeError)


def test_stores_far_away_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with InFlight("memory://x/a.zarr", Watcher(), "abc") as run:
        run.opened(job("a"), 0)
        assert suspects("memory://x/a.zarr") == {}
    assert os.listdir() == []


def test_a_video_that_ends_every_run_keeps_no_other_from_being_done(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poisoned(FakeTimeline):
        def encode(self, items):  # type: ignore[no-untyped-def]
            if (items.reshape(-1, 6)[:, 0] == 1).any():  # the number of the video
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().encode(items)

    videos = [FakeVideo(number, 20) for number in range(6)]
    install_fake_videos(monkeypatch, videos)
    for attempt in range(3):
        with (
            pytest.raises(RuntimeError, match="illegal memory access"),
            InFlight(url, Watcher(), "abc") as watcher,
        ):
            run_fake(videos, Path(url), {"image": Poisoned()}, watcher=watcher, suspects=suspects(url))
        assert ("v001" in suspects(url)) == (attempt > 0)
    for video in videos:
        if video.number != 1:
            assert_cached(Path(url), video, ["image"])
    mended = run_fake(videos, Path(url), {"image": FakeTimeline()}, suspects=suspects(url))
    assert mended.done == ["v001"]
    assert mended.suspects == {"v001": 3}
