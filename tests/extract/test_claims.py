"""Claims of several runs on one cache: on a disk, on an object store, and between processes that are killed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from extract.sharing.claims import Claims, claim_name, claims_place, this_process
from extract.sharing.leases import LeaseClaims
from extract.sharing.locks import LocalClaims, open_claims
from shared.cache import CacheError

REPO = Path(__file__).resolve().parents[2]
STREAMS = ("video", "image")
DEAD = 2**22 + 1  # above the largest process number of Linux


class Clock:
    """Seconds as the test wants them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["disk", "memory", "disk without locks"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a cache."""
    if request.param == "memory":
        yield f"memory://{tmp_path.name}/c.zarr"
        return
    if request.param == "disk without locks":

        def no_locks(handle: int, *, blocking: bool) -> bool:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("extract.sharing.locks.lock_descriptor", no_locks)
    yield str(tmp_path / "c.zarr")


@pytest.fixture
def runs(place: str) -> Iterator[tuple[Claims, Claims]]:
    """The claims of two runs on one cache."""
    first, second = open_claims(place), open_claims(place)
    yield first, second
    first.close()
    second.close()


def left_behind(place: str) -> list[str]:
    """What is still in the folder of claims, or that folder itself."""
    fs, path = fsspec.url_to_fs(claims_place(place))
    if not fs.exists(path):
        return []
    return sorted(Path(p).name for p in fs.ls(path, detail=False)) or (["the folder"] if "file" in fs.protocol else [])


def test_one_run_at_a_time(runs: tuple[Claims, Claims], place: str) -> None:
    first, second = runs
    assert first.take("a", STREAMS)
    assert not second.take("a", STREAMS)
    assert second.take("b", STREAMS)
    assert first.holds("a")
    assert second.holder("a", STREAMS) is not None
    first.give("a")
    assert second.take("a", STREAMS)
    first.close()
    assert second.holds("a")
    second.close()
    assert left_behind(place) == []


def test_other_streams_of_a_video_are_another_claim_and_half_a_claim_is_none(runs: tuple[Claims, Claims]) -> None:
    first, second = runs
    assert first.take("a", ["image"])
    assert not second.take("a", ["image", "text", "video"])
    assert second.take("a", ["text"])
    second.give("a")
    first.give("a")
    assert second.take("a", ["image", "text", "video"])


def test_the_holder_is_told(runs: tuple[Claims, Claims]) -> None:
    first, second = runs
    first.take("a", STREAMS)
    holder = second.holder("a", ["image"])
    assert holder is not None
    assert holder.pid == os.getpid()
    assert str(os.getpid()) in str(holder)
    assert second.holder("b", STREAMS) is None


def test_claims_of_ids_that_differ_in_case_or_have_unusual_characters() -> None:
    names = [claim_name(v, s) for v, s in (("a", "b"), ("A", "b"), ("a", "B"), ("ab", ""), ("\udcff", "x"), ("é", "x"))]
    assert len(set(names)) == len(names)
    assert all(name.isalnum() and name == name.lower() for name in names)


def test_the_claims_of_a_bucket_do_not_lie_in_another_one() -> None:
    assert claims_place("s3://bucket") == "s3://bucket/.claims"
    assert claims_place("s3://bucket/c.zarr/") == "s3://bucket/c.zarr.claims"


# ------------------------------------------------------------------ processes that die

HOLD = """
import sys, time
from extract.sharing.locks import open_claims
claims = open_claims(sys.argv[1])
print(claims.take("a", ["x"]) and claims.take("b", ["x"]), flush=True)
time.sleep(60)
"""


def test_the_claim_of_a_killed_process_is_free_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "c.zarr")
    claims = open_claims(url)
    with subprocess.Popen([sys.executable, "-c", HOLD, url], cwd=REPO, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        assert not claims.take("a", ["x"])
        assert claims.holder("a", ["x"]) is not None
        process.kill()
    assert claims.holder("a", ["x"]) is None
    assert claims.take("a", ["x"])
    claims.close()
    assert left_behind(url) == []  # not that of "b" either, which nobody asked for


HAMMER = """
import os, random, sys
from extract.sharing.locks import open_claims
url, seed = sys.argv[1:]
claims, rng, held = open_claims(url), random.Random(int(seed)), 0
while held < 300:
    video = rng.choice("ab")
    if claims.take(video, ["x", "y"]):
        marker = os.open(url + video, os.O_CREAT | os.O_EXCL)  # fails if anybody else believes to hold it
        os.close(marker)
        os.unlink(url + video)
        claims.give(video)
        held += 1
claims.close()
"""


def test_many_processes_never_hold_one_claim_together(tmp_path: Path) -> None:
    """Files of claims come and go all the time, which is when locks on files are easily got wrong."""
    url = str(tmp_path / "c.zarr")
    words = [sys.executable, "-c", HAMMER, url]
    processes = [subprocess.Popen([*words, str(seed)], cwd=REPO, stderr=subprocess.PIPE) for seed in range(3)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert left_behind(url) == []


# ------------------------------------------------------------------ leases


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Callable[..., LeaseClaims]]:
    """Makes runs on one cache in an object store, whose hearts beat only when told to."""
    made: list[LeaseClaims] = []

    def make(**options: Any) -> LeaseClaims:
        made.append(LeaseClaims(f"memory://{tmp_path.name}/c.zarr", beat_s=1e6, stale_s=100, **options))
        return made[-1]

    yield make
    for claims in made:
        claims.close()


def test_a_silent_run_loses_its_claim_and_notices(lease: Callable[..., LeaseClaims]) -> None:
    clock = Clock()
    first, second = lease(), lease(clock=clock)
    assert first.take("a", STREAMS)
    assert not second.take("a", STREAMS)
    clock.now = 90
    first._beat()
    assert not second.take("a", STREAMS)
    clock.now = 180  # 90 seconds after the beat was seen
    assert not second.take("a", STREAMS)
    clock.now = 200
    assert second.take("a", STREAMS)
    assert not first.holds("a")
    first.give("a")  # does not take away what is no longer its own
    assert second.holds("a")


def test_the_lease_of_a_dead_process_of_this_machine_is_free_at_once(
    lease: Callable[..., LeaseClaims], tmp_path: Path
) -> None:
    first, second = lease(), lease()
    assert first.take("a", STREAMS)
    row = {"beats": 1, **this_process().__dict__, "pid": DEAD}
    first._write(f"run-{first._token}", json.dumps(row).encode())
    assert second.take("a", STREAMS)
    second.close()
    assert left_behind(f"memory://{tmp_path.name}/c.zarr") == []


def test_of_two_that_take_over_at_once_one_wins(
    lease: Callable[..., LeaseClaims], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    dead, first, second = lease(), lease(clock=clock), lease(clock=clock)
    assert dead.take("a", ["x"])
    assert not first.take("a", ["x"])
    assert not second.take("a", ["x"])
    clock.now = 200
    write = first._write

    def late(name: str, value: bytes) -> None:
        """Before the first one writes, the second has looked, too; it writes between that and the first's look."""
        write(name, value)
        if not name.startswith("run-"):
            assert second.take("a", ["x"]) or second._write(name, json.dumps({"run": second._token}).encode()) is None

    monkeypatch.setattr(first, "_write", late)
    assert not first.take("a", ["x"])


def test_an_object_that_says_nothing_is_a_claim_for_a_while(lease: Callable[..., LeaseClaims]) -> None:
    """It may be one that is being written; or a torn one, which nobody will ever give back."""
    clock = Clock()
    claims = lease(clock=clock)
    claims._write(claim_name("a", "x"), b"\x00 torn")
    assert claims.holder("a", ["x"]) is None
    assert not claims.take("a", ["x"])
    clock.now = 200
    assert claims.take("a", ["x"])


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.zarr.claims").write_text("a file")
    with pytest.raises(OSError, match=r"c\.zarr\.claims"):
        LocalClaims(str(tmp_path / "c.zarr")).take("a", ["x"])


# ------------------------------------------------------------------ files and objects that are none of ours


def test_files_of_others_in_the_folder_of_claims_are_left_alone(place: str) -> None:
    fs, path = fsspec.url_to_fs(claims_place(place))
    fs.makedirs(path, exist_ok=True)
    theirs = ("faiss.bin", "run-notes.txt", "a" * 31, "A" * 32, "run-" + "0" * 15)
    for name in theirs:
        fs.pipe_file(f"{path}/{name}", b"theirs")
    fs.pipe_file(f"{path}/{claim_name('a', 'x')}", json.dumps({"run": "0" * 16, "pid": DEAD}).encode())
    claims = open_claims(place)
    assert claims.take("b", ["x"])
    claims.close()
    assert left_behind(place) == sorted(theirs)
    assert all(fs.cat_file(f"{path}/{name}") == b"theirs" for name in theirs)
    fs.rm(path, recursive=True)


def test_objects_of_others_are_not_taken_for_old_claims(lease: Callable[..., LeaseClaims]) -> None:
    clock = Clock()
    claims = lease(clock=clock)
    theirs, torn = ["a" * 31, "faiss.bin", "run-notes"], claim_name("a", "x")
    for name in (*theirs, torn):
        claims._write(name, b"theirs")
    claims._sweep()
    clock.now = 200  # nobody has changed any for so long
    claims._sweep()
    assert sorted(claims._names()) == theirs


def test_a_folder_of_claims_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / claim_name("a", "x")).write_text("theirs")
    (tmp_path / "c.zarr.claims").symlink_to("docs")
    for url in (f"{tmp_path}/c.zarr", f"{tmp_path}/c.zarr/", f"file://{tmp_path}/c.zarr"):
        with pytest.raises(CacheError, match=r"c\.zarr\.claims is a link to another folder.*remove the link"):
            open_claims(url).close()
    assert (tmp_path / "docs" / claim_name("a", "x")).read_text() == "theirs"


def test_lists_in_lists_without_end_say_nothing(place: str) -> None:
    fs, path = fsspec.url_to_fs(claims_place(place))
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/{claim_name('a', 'x')}", b"[" * 100_000)
    claims = open_claims(place)
    assert claims.holder("a", ["x"]) is None
    claims.take("a", ["x"])
    claims.close()
    if fs.exists(path):  # a lease is free only after a while
        fs.rm(path, recursive=True)


def test_a_claim_that_fails_at_its_second_stream_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, other = (open_claims(str(tmp_path / "c.zarr")) for _ in range(2))
    real, names = LocalClaims._take, sorted(claim_name("a", s) for s in STREAMS)

    def failing(self: LocalClaims, name: str) -> int | None:
        if name == names[1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalClaims, "_take", failing)
        with pytest.raises(OSError, match="No space"):
            claims.take("a", STREAMS)
    assert other.take("a", STREAMS)
    other.give("a")
    assert claims.take("a", STREAMS)
    claims.close()
    other.close()
