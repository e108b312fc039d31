"""``extract run --engine ray`` on a cluster of several processes on this machine: a head, and two nodes of one CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from extract.decode.events import Job
from extract.faults.ledger import Failure, FailureLedger
from extract.jobs.summary import Summary
from extract.watcher import Watcher
from shared.cache import CacheError, FeatureCache
from shared.windows import WindowSpec
from tests.extract.kills import Killing, count_files, litter, wait, write_clips
from tests.extract.support import cache_contents, write_video

pytest.importorskip("ray")

from extract.cluster.actor import News, check_root, root_stamp
from extract.cluster.deal import Deal
from extract.cluster.members import Member, Shares
from tests.extract.ray_cluster import SmallCluster

# Ray forks its processes, and other tests have loaded JAX into this one by then, which warns of that.
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
PATIENCE_S = 90.0


# ------------------------------------------------------------------ a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[SmallCluster]:
    with SmallCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Killing:
    """Clips, one of them broken, and the cache that a local run makes of them."""
    folder = tmp_path_factory.mktemp("ray")
    killing = Killing(write_clips(folder / "clips"), folder / "caches")
    for number in range(10, 18):  # enough for several shares, long enough to be killed in the middle
        write_video(folder / "clips" / f"{number}.mp4", 120, seed=number)
    (folder / "clips" / "broken.mp4").write_bytes(b"no video" * 100)
    ended = wait(killing.start(killing.whole))
    assert ended.status == 1, ended.output
    return killing


def rows(url: Path) -> dict[str, dict[str, Any]]:
    """The last row of each video in the ledger of a cache, without times and the cache's name.

    Without attempts, too: the share of a process that is lost is dealt out again, with the videos that failed in it.
    """
    found = [json.loads(line) for line in (url.parent / "failures.jsonl").read_text().splitlines()]
    passing = ("time", "cache", "attempts")
    return {
        row["video"]: {k: v for k, v in row.items() if k not in passing} for row in found if row["cache"] == url.name
    }


def check(killing: Killing, url: Path) -> None:
    """What the local run made, in the cache and in the ledger, and nothing else."""
    assert cache_contents(url) == cache_contents(killing.whole)
    assert rows(url) == rows(killing.whole)
    assert litter(url) == []


def assert_plain(output: str) -> None:
    """What Ray has to say of itself is not on the terminal."""
    assert [word for word in ("raylet", "ray::", "GCS", "INFO", "WARN", "\x1b") if word in output] == [], output


def until(run: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    """Wait while a run goes on."""
    deadline = time.monotonic() + PATIENCE_S
    while not true() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.poll() is None, run.communicate()[0]


def test_a_run_on_a_cluster_makes_the_cache_of_a_local_run(cluster: SmallCluster, clips: Killing) -> None:
    url = clips.scratch / "cluster.zarr"
    ended = wait(clips.start(url, *cluster.options, "--actors", "2"))
    assert ended.status == 1, ended.output
    assert_plain(ended.output)
    check(clips, url)


def broken_first(folder: Path, broken: int, good: int) -> Killing:
    """A data set whose first videos are no videos, and as large as the others."""
    killing = Killing(folder / "clips", folder / "caches")
    killing.folder.mkdir()
    clip = write_video(folder / "clip.mp4", 3).read_bytes()
    for number in range(broken + good):
        (killing.folder / f"{number:02d}.mp4").write_bytes(clip if number >= broken else bytes(len(clip)))
    return killing


@pytest.mark.soak
def test_broken_files_that_come_first_are_no_fault_of_the_cluster(cluster: SmallCluster, tmp_path: Path) -> None:
    """All that one process is given may be broken; what all are given is not."""
    mixed = broken_first(tmp_path, 20, 18)
    ended = wait(mixed.start(mixed.whole, *cluster.options, "--actors", "2", "--streams", "image"))
    assert (ended.status, ended.output.count("one cause")) == (1, 0), ended.output
    assert len(FeatureCache.open(mixed.whole).video_ids()) == 18
    assert [f.attempts for f in FailureLedger(str(mixed.whole)).failures().values()] == [1] * 20


@pytest.mark.soak  # test_ray_doubts.py has the same in small
def test_files_that_are_all_broken_are_one_fault(cluster: SmallCluster, tmp_path: Path) -> None:
    """Also where no process is given as many as it takes."""
    broken = broken_first(tmp_path, 12, 0)
    ended = wait(broken.start(broken.whole, *cluster.options, "--actors", "2", "--streams", "image"))
    assert (ended.status, ended.output.count("the first 8 videos all failed for one cause")) == (2, 1), ended.output
    assert {f.attempts for f in FailureLedger(str(broken.whole)).failures().values()} == {0}


@pytest.mark.soak  # a minute on a busy machine, and it waits for moments
def test_an_encoder_process_and_a_node_are_killed(cluster: SmallCluster, clips: Killing) -> None:
    url = clips.scratch / "killed.zarr"
    run = clips.start(url, *cluster.options, "--actors", "2")
    until(run, lambda: count_files(url) > 30)
    victim = cluster.processes("EncoderProcess")[0]
    os.kill(victim, signal.SIGKILL)
    until(run, lambda: count_files(url) > 90)
    assert cluster.kill_a_node("EncoderProcess")
    ended = wait(run)
    assert ended.status == 1, ended.output
    assert_plain(ended.output)
    assert "an encoder process was lost" in ended.output  # the second one may have had nothing left to do
    check(clips, url)


# ------------------------------------------------------------------ the driver, without a cluster


class Seen(Watcher):
    """Notes what ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []

    def ended(self, job: Job, failure: Failure | None) -> None:
        self.ends.append((job.video, failure.error if failure else ""))


def jobs_of(folder: Path, *sizes: int) -> list[Job]:
    """Jobs with files of these many bytes."""
    found = []
    for number, size in enumerate(sizes):
        (folder / f"{number}.mp4").write_bytes(bytes(size))
        found.append(Job(f"v{number}", f"{number}.mp4", folder / f"{number}.mp4", None, ("image",)))
    return found


def test_shares_shrink_and_hold_every_video_once(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, *[100] * 61)
    shares, dealt = Shares(jobs, {"v3": 2}, 3), []
    while share := shares.take(alone=False):
        dealt.append(share)
    assert [job for share in dealt for job in share] == [job for job in jobs if job.video != "v3"]  # in order
    assert len(dealt[0]) > len(dealt[5]) > 0
    assert len(dealt) >= 6
    assert len(shares) == 1
    assert [job.video for job in shares.take(alone=True)] == ["v3"]  # nothing else can be lost by it
    assert not shares


def test_one_process_gets_all(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 1, 2, 3)
    assert Shares(jobs, {}, 1).take(alone=True) == jobs


def ends(video: str, **part: Any) -> News:
    return News("ended", video, part=Summary(**part))


def test_a_video_that_processes_die_over_comes_last_and_then_fails(tmp_path: Path) -> None:
    jobs, watcher, summary = jobs_of(tmp_path, 10, 10), Seen(), Summary()
    ledger = FailureLedger(str(tmp_path / "c.zarr"))
    deal = Deal(jobs, ledger, summary, watcher, 1)
    for attempt in range(3):
        member = Member(None, hands={job.video: job for job in deal.shares.take(alone=True)})
        if attempt == 0:
            deal.take(member, [News("opened", "v0", 5), ends("v0", done=["v0"], num_frames=7)])
        deal.take(member, [News("opened", "v1", 5)])
        deal.lost(member, "killed")
    assert not deal.shares
    assert summary.done == ["v0"]
    assert summary.num_frames == 7
    assert watcher.ends == [("v0", ""), ("v1", "EncoderDied")]
    failure = ledger.failures()["v1"]
    assert "3 encoder processes died" in failure.message
    assert summary.failed == {"v1": failure}
    assert summary.exit_status == 1


def test_what_a_dead_process_had_completed_counts_as_done(tmp_path: Path) -> None:
    (job,), summary = jobs_of(tmp_path, 10), Summary()
    deal = Deal([job], FailureLedger(str(tmp_path / "c.zarr")), summary, Seen(), 2)
    deal.lost(Member(None, hands={"v0": deal.shares.take(alone=True)[0]}), "its node went away")
    member = Member(None, hands={"v0": deal.shares.take(alone=True)[0]})
    deal.take(member, [ends("v0", others=["v0"]), ends("v0", others=["v0"])])  # the second is of nothing in its hands
    assert (summary.done, summary.others) == (["v0"], [])


def test_a_node_that_sees_another_cache_is_refused(tmp_path: Path) -> None:
    spec = {"dataset": "d", "window": WindowSpec()}
    one, other = tmp_path / "one.zarr", tmp_path / "other.zarr"
    FeatureCache.create(one, **spec)
    FeatureCache.create(other, **spec | {"dataset": "e"})
    stamp = root_stamp(str(one))
    check_root(str(one), stamp)
    check_root("s3://bucket/c.zarr", root_stamp("s3://bucket/c.zarr"))  # means the same everywhere
    with pytest.raises(CacheError, match=r"another cache lies there.*folder that they share"):
        check_root(str(other), stamp)
    with pytest.raises(CacheError, match=r"does not see the cache at .*No such file"):
        check_root(str(tmp_path / "none.zarr"), stamp)


def test_options_are_checked(cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", 5)
    run = ("run", tmp_path / "a.mp4", "--preset", "tiny", "--cache", tmp_path / "c.zarr")
    wrong = cli(*run, "--engine", "rai")
    assert (wrong.exit_code, "did you mean 'ray'" in wrong.output) == (2, True), wrong.output
    alone = cli(*run, "--actors", "2")
    assert (alone.exit_code, "add --engine ray" in alone.output) == (2, True), alone.output
    nobody = cli(*run, "--engine", "ray", "--address", "127.0.0.1:1")
    assert (nobody.exit_code, "ray start --head" in nobody.output) == (2, True), nobody.output
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("extract.cluster", sys.modules["extract.cluster"])  # so that it is put back, too
    for name in [n for n in sys.modules if n.startswith("extract.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    missing = cli(*run, "--engine", "ray")
    assert (missing.exit_code, "pip install 'crossgru[ray]'" in missing.output) == (2, True), missing.output
