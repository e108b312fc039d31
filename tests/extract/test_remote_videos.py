"""Videos of an object store: the cache is that of the local files, one copy at a time lies on the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from filelock import FileLock
from typer.testing import Result

from extract.decode import fetching
from extract.decode.ahead import DecodeAhead
from extract.decode.events import Job
from extract.decode.fetching import LOCK, PREFIX, Copies, sweep
from extract.encoders.contract import Rows
from extract.faults.ledger import FailureLedger
from extract.flow.pipeline import run
from extract.jobs.planning import plan_jobs
from extract.jobs.shards import split
from extract.jobs.summary import Summary
from extract.video import VideoError, sources
from shared.cache import CacheError, FeatureCache
from shared.manifest import Manifest, load_manifest
from shared.videos.remote import RemoteFile, RemoteRoot
from tests.extract.support import SPEC, cache_contents, write_video

Cli = Callable[..., Result]
FRAMES = (20, 33, 5)
MARKS = {"mtime_ns", "etag"}
ROOT = "memory://store/videos"


def shrink(frame: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> (4, 4, 3); can be sent to a decoder process."""
    return np.ascontiguousarray(frame[::12, ::16][:4, :4])


@dataclass
class Means:
    """Row of a frame: its mean colour."""

    stream: str = "image"
    context: tuple[int, ...] = (0,)
    batch_size: int = 4
    kind: str = "timeline"
    trained: bool = False
    dim: int = 3

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        return shrink(frame)

    def encode(self, items: np.ndarray) -> Rows:
        return Rows(items.reshape(len(items), -1, 3).mean(axis=1).astype(np.float32))

    def recipe(self) -> dict[str, Any]:
        return {"encoder": "means"}


@dataclass
class MeansInProcesses(Means):
    """The same, decoded by other processes."""

    @property
    def preparation(self) -> Callable[[np.ndarray], np.ndarray]:
        return shrink


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> Iterator[Path]:
    """Videos on a disk, and the same in the store."""
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    files = fsspec.filesystem("memory")
    for number, frames in enumerate(FRAMES):
        name = f"deep/{number}.mp4" if number else "0.mp4"
        write_video(folder / name, frames, seed=number)
        files.pipe_file(f"/store/videos/{name}", (folder / name).read_bytes())
    yield folder
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def extract(manifest: Manifest, url: Path, encoder: Any = None, **options: Any) -> Summary:
    """One ``extract run``."""
    encoders = {"image": encoder or Means()}
    cache, ledger = FeatureCache.create(url, dataset="videos", window=SPEC), FailureLedger(str(url))
    recipes = {stream: e.recipe() for stream, e in encoders.items()}
    jobs, summary = plan_jobs(manifest, cache, recipes, ledger, **options)
    return run(jobs, cache, encoders, ledger, summary)


def without_marks(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of a cache but for what tells a changed source, which depends on where it is."""
    found: dict[str, Any] = {}
    for path, what in contents.items():
        if isinstance(what, dict) and "source" in what:
            assert len(MARKS & set(what["source"])) == 1
            sums = {k: v for k, v in what["checksums"].items() if k != "attributes"}  # that of this very dict
            source = {k: v for k, v in what["source"].items() if k not in MARKS}
            what = {**what, "source": source, "checksums": sums}
        found[path] = what
    return found


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of objects that were copied or read."""
    seen: list[str] = []
    for module, name in ((fetching, "fetch"), (sources, "sha256_of")):
        real = getattr(module, name)

        def noting(file: RemoteFile, *args: Any, real: Any = real) -> Any:
            seen.append(file.path)
            return real(file, *args)

        monkeypatch.setattr(module, name, noting)
    return seen


# ------------------------------------------------------------------ the cache


@pytest.mark.parametrize("encoder", [Means, MeansInProcesses])
def test_the_cache_is_that_of_the_local_files(
    encoder: Any, clips: Path, tmp_path: Path, temporary: Path, fetched: list[str]
) -> None:
    local, remote = tmp_path / "local.zarr", tmp_path / "remote.zarr"
    assert extract(load_manifest(clips), local, encoder()).exit_status == 0
    assert fetched == []
    assert sorted(extract(load_manifest(ROOT), remote, encoder()).done) == ["0.mp4", "deep__1.mp4", "deep__2.mp4"]
    assert without_marks(cache_contents(remote)) == without_marks(cache_contents(local))
    assert list(temporary.iterdir()) == []
    assert sorted(fetched) == ["0.mp4", "deep/1.mp4", "deep/2.mp4"]


def test_what_is_complete_is_not_copied_again_and_what_changed_is_told(
    clips: Path, tmp_path: Path, fetched: list[str]
) -> None:
    url = tmp_path / "c.zarr"
    extract(load_manifest(ROOT), url)
    fetched.clear()
    assert len(extract(load_manifest(ROOT), url).skipped) == 3
    assert fetched == []
    files = fsspec.filesystem("memory")
    files.pipe_file("/store/videos/0.mp4", (clips / "0.mp4").read_bytes())  # the same again: only its time differs
    assert len(extract(load_manifest(ROOT), url).skipped) == 3
    assert fetched == ["0.mp4"]
    write_video(clips / "0.mp4", 21, seed=9)
    files.pipe_file("/store/videos/0.mp4", (clips / "0.mp4").read_bytes())
    with pytest.raises(CacheError, match=r"1 of 3 videos are not the files .*: 0.mp4"):
        extract(load_manifest(ROOT), url)
    assert extract(load_manifest(ROOT), url, overwrite=("image",)).done == ["0.mp4"]
    assert FeatureCache.open(url).info("0.mp4").num_frames == 21


def test_one_cache_goes_on_with_copies_on_a_disk(clips: Path, tmp_path: Path) -> None:
    url = tmp_path / "c.zarr"
    extract(load_manifest(ROOT), url)
    assert len(extract(load_manifest(clips), url).skipped) == 3


# ------------------------------------------------------------------ what goes wrong


def test_what_is_not_there_is_a_row_in_the_ledger(clips: Path, tmp_path: Path, temporary: Path) -> None:
    table, url = tmp_path / "t.csv", tmp_path / "c.zarr"
    table.write_text("path\n0.mp4\nlost.mp4\n")
    for attempts in (1, 2):
        summary = extract(load_manifest(table, ROOT), url)
        failure = summary.failed["lost.mp4"]
        assert (failure.stage, failure.message) == ("open", f"there is no object {ROOT}/lost.mp4")
        assert (failure.attempts, summary.exit_status) == (attempts, 1)
    assert list(temporary.iterdir()) == []
    fsspec.filesystem("memory").pipe_file("/store/videos/lost.mp4", (clips / "0.mp4").read_bytes())
    assert extract(load_manifest(table, ROOT), url).done == ["lost.mp4"]


def test_a_broken_object_fails_as_a_broken_file(clips: Path, tmp_path: Path) -> None:
    content = (clips / "deep/1.mp4").read_bytes()[:-2000]
    (clips / "cut.mp4").write_bytes(content)
    fsspec.filesystem("memory").pipe_file("/store/videos/cut.mp4", content)
    found = []
    for number, source in enumerate((clips, ROOT)):
        failure = extract(load_manifest(source), tmp_path / f"{number}.zarr").failed["cut.mp4"]
        found.append((failure.stage, failure.error, failure.message, failure.path, failure.quarantined))
    assert found[0] == found[1]


def of(path: str) -> Job:
    return Job("v", path, RemoteFile(RemoteRoot(ROOT), path), None, ("image",))


def test_an_object_that_is_replaced_while_it_is_copied_is_copied_again(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, real, times = fsspec.filesystem("memory"), fetching.fetch, [1]

    def replacing(file: RemoteFile, *args: Any) -> None:
        real(file, *args)
        if times:
            times.pop()
            files.pipe_file(f"/store/videos/{file.path}", b"new")

    monkeypatch.setattr(fetching, "fetch", replacing)
    copies = Copies()
    with copies.of(of("0.mp4")) as job:
        assert isinstance(job.file, Path)
        assert job.file.read_bytes() == b"new"
        assert job.origin == RemoteRoot(ROOT).stamp_now("0.mp4")
    times += [1, 1]
    with pytest.raises(VideoError, match="changed while it was copied"), copies.of(of("0.mp4")):
        pass
    copies.close()


def test_no_room_is_told_with_the_way_out(clips: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]) -> None:
    usage = shutil.disk_usage(clips)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    copies = Copies()
    with pytest.raises(VideoError, match=r"no room in .*, 100 are free. TMPDIR says"), copies.of(of("0.mp4")):
        pass
    copies.close()
    assert fetched == []


def test_a_run_that_is_given_up_stops_copying(clips: Path, temporary: Path) -> None:
    class Enough(Exception):
        pass

    def check() -> None:
        raise Enough

    copies = Copies()
    with pytest.raises(Enough), copies.of(of("0.mp4"), check):
        pass
    assert [p.name for p in temporary.rglob("*") if p.is_file()] == [LOCK]
    copies.close()
    assert list(temporary.iterdir()) == []


def test_no_more_copies_than_workers(clips: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []  # copies that lay there whenever one was made or about to go
    original = Copies.of

    @contextmanager
    def watched(self: Copies, *args: Any, **kwargs: Any) -> Iterator[Job]:
        with original(self, *args, **kwargs) as job:
            found.append(len(list(temporary.rglob("*.mp4"))))
            yield job
            found.append(len(list(temporary.rglob("*.mp4"))))

    monkeypatch.setattr(Copies, "of", watched)
    jobs = [of("0.mp4"), of("deep/1.mp4"), of("deep/2.mp4")] * 2
    for _, events in DecodeAhead(SPEC, {"image": Means()}, 2, 10_000).run(jobs):
        for _ in events:
            pass
    assert len(found) == 12
    assert set(found) <= {1, 2}
    assert list(temporary.iterdir()) == []


def test_what_a_killed_run_left_is_swept_and_nothing_else(temporary: Path, tmp_path: Path) -> None:
    dead, alive, other, early = (temporary / name for name in (f"{PREFIX}1", f"{PREFIX}2", "other", f"new-{PREFIX}3"))
    for folder in (dead, alive, other, early):
        folder.mkdir()
        (folder / LOCK).touch()
        (folder / "1.mp4").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / LOCK).touch()
    (temporary / f"{PREFIX}4").symlink_to(tmp_path / "elsewhere")
    with FileLock(alive / LOCK):
        sweep()
    assert sorted(p.name for p in temporary.iterdir()) == sorted([alive.name, other.name, early.name, f"{PREFIX}4"])
    assert (tmp_path / "elsewhere" / LOCK).exists()


# ------------------------------------------------------------------ commands


def test_shards_of_a_store_are_balanced_by_bytes(clips: Path, fetched: list[str]) -> None:
    found = split(load_manifest(ROOT), 2, "c.zarr")
    sizes = {v.id: os.path.getsize(clips / v.path) for v in load_manifest(clips).videos}
    assert sorted(found.weights, key=found.weights.__getitem__) == sorted(sizes, key=sizes.__getitem__)
    assert sorted(v for part in found.parts for v in part) == sorted(sizes)
    assert fetched == []


def test_the_command_reads_a_url(cli: Cli, clips: Path, temporary: Path) -> None:
    words = ("--preset", "tiny", "--streams", "image")
    remote = cli("run", ROOT, *words)
    assert remote.exit_code == 0, remote.output
    assert cli("run", clips, *words, "--cache", "local.zarr").exit_code == 0
    found = [without_marks(cache_contents(Path(url))) for url in ("caches/videos.zarr", "local.zarr")]
    assert found[0] == found[1]
    assert cli("run", clips / "0.mp4", *words, "--root", ROOT, "--cache", "one.zarr").exit_code == 0
    status = cli("status", ROOT)
    assert "caches/videos.zarr: 0/3 videos complete, 58 frames" in status.output  # of three streams, one is there
    plan = cli("plan", ROOT)
    assert plan.exit_code == 2
    assert "only 'run' reads them there" in plan.output
    assert list(temporary.glob(f"*{PREFIX}*")) == []
