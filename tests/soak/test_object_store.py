"""The cache on a real S3-compatible server, which the tests start on loopback.

Needs more than the other tests do: pip install "crossgru[s3]" "moto[s3]" flask flask-cors.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from extract.faults.ledger import Failure, FailureLedger
from extract.sharing.leases import LeaseClaims
from shared.cache import CacheError, FeatureCache, VideoInfo
from shared.cache import survey as cache_survey
from shared.windows import WindowSpec

s3fs = pytest.importorskip("s3fs")
moto_app = pytest.importorskip("moto.moto_server.werkzeug_app")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # aiohttp's sessions end with the process
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SPEC = WindowSpec(8, 4, {"image": 2, "text": 2})
RECIPES = {s: {"encoder": s, "seed": 0} for s in ("image", "text")}
KEY, SECRET = "AKIATESTTESTTESTTEST", "s3cr3tNeverToBeSeenAnywhere/0123456789"
URL = "s3://bucket/folder/c.zarr"
REPO = Path(__file__).resolve().parents[2]
Respond = Callable[[str, str], str | None]  # method and path -> status line instead of an answer, or None


class Server:
    """An S3 server whose answers a test can replace.

    Attributes:
        seen: (method, path) of every request.
        respond: decides about each.
    """

    def __init__(self) -> None:
        from werkzeug.serving import make_server

        self.seen: list[tuple[str, str]] = []
        self.respond: Respond = lambda method, path: None
        self._app = moto_app.DomainDispatcherApplication(moto_app.create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.seen.append((method, path))
        if status := self.respond(method, path):
            start_response(status, [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start_response)

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture(scope="module")
def one_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
    forget_connections()


@pytest.fixture
def server(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with an empty bucket; it is found, and credentials are, as everywhere: by the standard variables."""
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": one_server.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    one_server.respond = lambda method, path: None
    forget_connections()
    files = s3fs.S3FileSystem()
    if files.exists("bucket"):
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    one_server.seen.clear()
    yield one_server
    one_server.respond = lambda method, path: None
    forget_connections()


def forget_connections() -> None:
    """As a new process: none is open, no listing is remembered."""
    s3fs.S3FileSystem.clear_instance_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aiohttp says that its sessions were not closed; nobody can
        gc.collect()


def make() -> FeatureCache:
    return FeatureCache.create(URL, dataset="data", window=SPEC)


def write(cache: FeatureCache, video: str) -> None:
    recipes = {s: r for s, r in RECIPES.items() if not cache.has(video, s, r)}
    writers = [cache.writer(video, s, kind="timeline", recipe=r) for s, r in recipes.items()]
    for writer, stream in zip(writers, recipes, strict=True):
        rng = np.random.default_rng([len(video), len(stream)])
        writer.append(rng.standard_normal((2, 3)), np.array([1, 2]))
    source = {"path": f"{video}.mp4", "bytes": 5, "mtime_ns": 7, "sha256": "ab" * 32}
    cache.write_info(video, VideoInfo(source, 25.0, 8, 4, 4, 0, "none", np.arange(8.0)))
    for writer in writers:
        writer.finish()


def stored(prefix: str = "bucket/folder/c.zarr/") -> dict[str, bytes]:
    forget_connections()  # and with them listings
    files = s3fs.S3FileSystem()
    return {name: files.cat_file(name) for name in files.find(prefix)}


def finish(videos: tuple[str, ...] = ("a", "bb", "ccc")) -> FeatureCache:
    """A new process's way to a complete cache."""
    forget_connections()
    cache = make()
    for video in videos:
        if not all(cache.has(video, s, r) for s, r in RECIPES.items()):
            cache.abandon(video)
            write(cache, video)
    return cache


def digest() -> str:
    parts = [name.encode() + b"\0" + value for name, value in sorted(stored().items())]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def test_a_cache_on_s3_is_whole(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")  # every listing comes in pages
    finish()
    forget_connections()
    reader = FeatureCache.open(URL)
    assert reader.video_ids() == reader.group_ids() == ["a", "bb", "ccc"]
    assert all(reader.verify(v) == [] for v in reader.video_ids())
    assert reader.read("a", "text").features.shape == (2, 3)
    plain = zarr.open_group(URL, mode="r")
    assert plain["videos/bb/image/frames"][:].tolist() == [1, 2]  # type: ignore[index]
    for small in (100, 0):  # by looking, and by the index
        monkeypatch.setattr(cache_survey, "READ_ALL_REMOTE", small)
        assert {v: set(f.streams) for v, f in FeatureCache.open(URL).facts().videos.items()} == {
            v: {"image", "text"} for v in ("a", "bb", "ccc")
        }
    reader.find("ccc", ["text"])[1]["text"].read_into(np.empty((2, 3), np.float16))


def test_the_index_spares_the_requests(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_survey, "READ_ALL_REMOTE", 0)
    finish()
    counts = []
    for videos in ((), ("dddd", "eeeee", "ffffff")):
        cache = finish(videos)
        cache.write_index()
        forget_connections()
        reader = FeatureCache.open(URL)
        server.seen.clear()
        assert len(reader.facts().videos) == 3 + len(videos)
        counts.append(len(server.seen))
        assert not [path for _, path in server.seen if "/videos/" in path]
    assert counts[0] == counts[1], "however many videos there are"


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Slow Down"])
def test_a_server_that_fails_now_and_then(server: Server, status: str) -> None:
    finish()
    expected = digest()
    s3fs.S3FileSystem().rm("bucket/folder", recursive=True)
    count = 0

    def every_seventh(method: str, path: str) -> str | None:
        nonlocal count
        count += 1
        return status if count % 7 == 0 else None

    server.respond = every_seventh
    finish()
    server.respond = lambda method, path: None
    assert count > 50
    assert digest() == expected


def test_a_server_that_is_gone_in_the_middle_of_a_write(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the last write was: what is complete is whole, and the rest is done again."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    finish()
    expected = digest()
    for writes in range(1, 200, 13):
        s3fs.S3FileSystem().rm("bucket/folder", recursive=True)
        left = iter(range(writes))
        server.respond = lambda method, path, left=left: (  # type: ignore[misc]
            "500 Internal Server Error" if method in ("PUT", "DELETE") and next(left, None) is None else None
        )
        forget_connections()
        if outcome(finish) is None:
            break
        server.respond = lambda method, path: None
        assert_whole()
        finish()
        assert digest() == expected
    else:
        raise AssertionError("never came to the end")
    assert writes > 10


def outcome(act: Callable[[], Any]) -> Exception | None:
    try:
        act()
    except Exception as error:  # of whatever library
        return error
    return None


def assert_whole() -> None:
    """What says that it is complete is so, and the index agrees."""
    forget_connections()
    try:
        reader = FeatureCache.open(URL)
    except CacheError:
        return  # it was not even made
    exact = {v: set(reader.streams(v)) for v in reader.group_ids()}
    for video, streams in exact.items():
        for stream in streams:
            assert reader.is_whole(video, stream)
    for small in (100, 0):
        cache_survey.READ_ALL_REMOTE, usual = small, cache_survey.READ_ALL_REMOTE
        try:
            found = FeatureCache.open(URL).facts().check().videos
        finally:
            cache_survey.READ_ALL_REMOTE = usual
        assert {v: set(one.streams) for v, one in found.items() if one.streams} == {v: s for v, s in exact.items() if s}


def test_killed_while_it_writes(server: Server) -> None:
    finish()
    expected = digest()
    script = "from tests.soak.test_object_store import finish; finish()"
    for writes in (5, 23, 41):
        s3fs.S3FileSystem().rm("bucket/folder", recursive=True)
        child = subprocess.Popen([sys.executable, "-c", script], cwd=REPO, env={**os.environ, "PYTHONPATH": path_now()})
        count = 0

        def kill(method: str, path: str, child: Any = child, writes: int = writes) -> None:
            nonlocal count
            count += method == "PUT"
            if count == writes:
                child.send_signal(signal.SIGKILL)

        server.respond = kill  # type: ignore[assignment]
        assert child.wait(timeout=60) == -signal.SIGKILL
        server.respond = lambda method, path: None
        assert_whole()
        finish()
        assert digest() == expected


def path_now() -> str:
    return os.pathsep.join([str(REPO), *(p for p in sys.path if p)])


def test_the_ledger_beside_it(server: Server) -> None:
    ledger = FailureLedger(URL)
    ledger.record(Failure("a", "a.mp4", "decode", "VideoError", "broken"))
    ledger.record(Failure("b", "b.mp4", "open", "VideoError", "broken, too"))
    forget_connections()
    FailureLedger(URL).resolve("a")
    assert set(FailureLedger(URL).failures()) == {"b"}


def test_credentials_are_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in anything stored, nor in what is printed, nor in messages of errors."""
    from extract.commands.status import status
    from extract.commands.verify import verify

    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips.csv").write_text("path\na.mp4\nbb.mp4\n")
    cache = finish(("a.mp4", "bb.mp4"))
    cache.write_index()
    FailureLedger(URL).record(Failure("bb", "bb.mp4", "write", "OSError", "no luck"))
    status("clips.csv", cache=URL, root=tmp_path)
    verify("clips.csv", cache=URL)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    server.respond = lambda method, path: "403 Forbidden"
    forget_connections()
    assert status("clips.csv", cache=URL, root=tmp_path) == 2
    server.respond = lambda method, path: None
    said = capfd.readouterr()
    everything = {**stored("bucket/"), **{str(f): f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}}
    assert {name.rpartition("/")[2] for name in everything} >= {"zarr.json", "failures.jsonl", "clips.csv"}
    assert any("index/base-" in name for name in everything)
    for name, content in {**everything, "out": said.out.encode(), "err": said.err.encode()}.items():
        assert SECRET.encode() not in content, name
        assert KEY.encode() not in content, name
    assert SECRET not in json.dumps(dict(cache._root.attrs))


def test_claims_on_s3(server: Server) -> None:
    """One of many that ask for a claim in the same moment gets it, since the server refuses to write it twice."""
    runs = [LeaseClaims(URL, beat_s=0.05) for _ in range(8)]
    start, won = threading.Barrier(len(runs)), []

    def ask(number: int) -> None:
        for video in "abcd":
            start.wait()
            if runs[number].take(video, ["image"]):
                won.append(video)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list("abcd")
    for run in runs:
        run.close()
    assert list(stored("bucket/folder/")) == []
