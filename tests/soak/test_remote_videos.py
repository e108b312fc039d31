"""Videos on a real S3-compatible server, which the tests start on loopback. Needs what test_object_store.py needs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from extract.decode.fetching import PREFIX
from extract.faults.ledger import FailureLedger
from shared.cache import FeatureCache
from shared.manifest import ManifestError, load_manifest
from shared.videos.remote import RemoteRoot
from tests.extract.support import cache_contents, write_video
from tests.extract.test_remote_videos import extract, without_marks

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.moto_server.werkzeug_app")  # before the other file, which would be left half imported
from tests.soak.test_object_store import KEY, REPO, SECRET, Server, forget_connections, one_server, server  # noqa: E402

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = "s3://bucket/videos"
__all__ = ["one_server", "server"]  # fixtures


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def clips(tmp_path: Path, server: Server) -> Path:
    """Videos on a disk, and the same in the bucket."""
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    files = s3fs.S3FileSystem()
    for number, frames in enumerate((20, 90, 33)):
        name = f"deep/{number}.mp4" if number else "0.mp4"
        write_video(folder / name, frames, seed=number)
        files.pipe_file(f"bucket/videos/{name}", (folder / name).read_bytes())
    server.seen.clear()
    return folder


def requests(server: Server, method: str) -> list[str]:
    return [path for how, path in server.seen if how == method and path.endswith(".mp4")]


def start(source: str, url: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "extract", "run", source, "--preset", "tiny", "--cache", str(url)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_command_makes_the_cache_of_the_local_files(clips: Path, tmp_path: Path, temporary: Path) -> None:
    urls = {"local": str(clips), "remote": ROOT}
    for name, source in urls.items():
        run = start(source, tmp_path / f"{name}.zarr")
        output, _ = run.communicate()
        assert run.returncode == 0, output
        assert KEY not in output
        assert SECRET not in output
    found = [cache_contents(tmp_path / f"{name}.zarr") for name in urls]
    assert without_marks(found[0]) == without_marks(found[1])
    assert SECRET not in str(found[1])
    assert "etag" in found[1]["/videos/0.mp4"]["source"]
    assert list(temporary.glob(f"*{PREFIX}*")) == []


def test_what_a_killed_run_was_copying_is_swept_by_the_next(
    clips: Path, server: Server, tmp_path: Path, temporary: Path
) -> None:
    killed = threading.Event()

    def respond(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith(".mp4"):
            killed.wait(60)
        return None

    server.respond = respond
    run = start(ROOT, tmp_path / "c.zarr")
    deadline = time.monotonic() + 120
    while not requests(server, "GET") and time.monotonic() < deadline:
        time.sleep(0.05)
    run.kill()
    run.communicate()
    killed.set()
    assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
    run = start(ROOT, tmp_path / "c.zarr")
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert list(temporary.glob(f"*{PREFIX}*")) == []


def test_what_is_complete_costs_a_listing_and_no_reading(
    clips: Path, server: Server, tmp_path: Path, temporary: Path
) -> None:
    url = tmp_path / "c.zarr"
    assert extract(load_manifest(ROOT), url).exit_status == 0
    assert len(requests(server, "GET")) == 3
    forget_connections()
    server.seen.clear()
    assert len(extract(load_manifest(ROOT), url).skipped) == 3
    assert (requests(server, "GET"), requests(server, "HEAD")) == ([], [])
    files = s3fs.S3FileSystem()
    files.pipe_file("bucket/videos/0.mp4", (clips / "0.mp4").read_bytes())  # the same content has the same ETag
    assert len(extract(load_manifest(ROOT), url).skipped) == 3
    assert requests(server, "GET") == []


def test_a_replaced_object_is_seen_without_reading_it_and_extracted_again(
    clips: Path, server: Server, tmp_path: Path, temporary: Path
) -> None:
    url = tmp_path / "c.zarr"
    extract(load_manifest(ROOT), url)
    write_video(clips / "0.mp4", 21, seed=9)
    s3fs.S3FileSystem().pipe_file("bucket/videos/0.mp4", (clips / "0.mp4").read_bytes())
    server.seen.clear()
    assert extract(load_manifest(ROOT), url, overwrite=("image",)).done == ["0.mp4"]
    assert requests(server, "GET") == ["/bucket/videos/0.mp4"]
    assert FeatureCache.open(url).info("0.mp4").num_frames == 21


def test_missing_and_forbidden_objects_and_broken_answers(
    clips: Path, server: Server, tmp_path: Path, temporary: Path
) -> None:
    (tmp_path / "t.csv").write_text("path\n0.mp4\nlost.mp4\ndeep/1.mp4\ndeep/2.mp4\n")
    times = {"left": 2}

    def respond(method: str, path: str) -> str | None:
        if path.endswith("deep/1.mp4"):
            return "403 Forbidden"
        if path.endswith("deep/2.mp4") and method == "GET" and times["left"]:
            times["left"] -= 1
            return "503 Slow Down"
        return None

    server.respond = respond
    url = tmp_path / "c.zarr"
    summary = extract(load_manifest(tmp_path / "t.csv", ROOT), url)
    assert sorted(summary.done) == ["0.mp4", "deep__2.mp4"]
    failures = FailureLedger(str(url)).failures()
    assert failures["lost.mp4"].message == f"there is no object {ROOT}/lost.mp4"
    assert "cannot be read" in failures["deep__1.mp4"].message
    server.respond = lambda method, path: None
    forget_connections()
    assert extract(load_manifest(tmp_path / "t.csv", ROOT), url).done == ["deep__1.mp4"]
    assert list(temporary.iterdir()) == []


def test_lacking_credentials_are_told(
    clips: Path, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget_connections()
    with pytest.raises(ManifestError, match=r"cannot list s3://bucket/videos: .*[Cc]redentials"):
        load_manifest(ROOT)


def test_listings_come_in_pages(server: Server) -> None:
    files = s3fs.S3FileSystem()
    for number in range(1050):
        files.pipe_file(f"bucket/many/{number // 100}/{number}.mp4", b"x")
    found = load_manifest("s3://bucket/many").videos
    assert len(found) == 1050
    assert RemoteRoot("s3://bucket/many").files()["10/1049.mp4"]["etag"]
