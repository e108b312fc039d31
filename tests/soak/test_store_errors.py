"""What an S3-compatible server refuses is one line with its place, and a cache costs the requests that it should.

Needs what tests/soak/test_object_store.py needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.cache import FeatureCache

pytest.importorskip("s3fs")
pytest.importorskip("moto.moto_server.werkzeug_app")  # before the other file, which would be left half imported
from tests.soak.test_object_store import URL, Server, finish, forget_connections, path_now
from tests.soak.test_object_store import one_server as one_server
from tests.soak.test_object_store import pytestmark as pytestmark
from tests.soak.test_object_store import server as server

VIDEOS = ("a.mp4", "bb.mp4", "ccc.mp4")


def run(*words: str, module: str = "extract", **environment: str) -> tuple[int, list[str]]:
    """A process's status and what it printed. Tracebacks may come at its very end, after the command."""
    environ = {**os.environ, "PYTHONPATH": path_now(), "AWS_MAX_ATTEMPTS": "1", **environment}
    environ = {name: value for name, value in environ.items() if value}
    done = subprocess.run(
        [sys.executable, "-m", module, *words], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    print(done.stdout, done.stderr)
    return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]


@pytest.fixture
def clips(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(VIDEOS)
    forget_connections()
    monkeypatch.chdir(tmp_path)
    Path("clips.csv").write_text("path,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(VIDEOS)))


@pytest.mark.parametrize(
    "words", [("verify", "clips.csv"), ("status", URL), ("export", URL, "--output", "x.h5")], ids=lambda words: words[0]
)
@pytest.mark.parametrize("refused", ["/bb.mp4/", ""])
def test_what_is_forbidden(server: Server, clips: None, words: tuple[str, ...], refused: str) -> None:
    server.respond = lambda method, path: "403 Forbidden" if refused in path else None
    status, lines = run(*words, *(() if URL in words else ("--cache", URL)))
    assert status == 2
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert line.startswith(f"error: {URL}")
    assert line.endswith("Forbidden (PermissionError)")
    assert len(lines) < 5


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "(EndpointConnectionError of botocore)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "(NoCredentialsError of botocore)"),
    ],
    ids=["unreachable", "no credentials"],
)
def test_what_cannot_be_reached(server: Server, clips: None, environment: dict[str, str], told: str) -> None:
    for module, words in (("extract", ("status", "clips.csv")), ("train", ("cv", "clips.csv", "--task", "violence"))):
        status, lines = run(*words, "--cache", URL, module=module, **environment)
        assert status == 2
        assert [line for line in lines if line.startswith(f"error: {URL}") and line.endswith(told)]
        assert len(lines) < 5


def test_a_bucket_that_is_not_there(server: Server, clips: None) -> None:
    url = "s3://nobucket/c.zarr"
    Path("a.mp4").write_bytes(b"")
    status, lines = run("run", "a.mp4", "--preset", "tiny", "--streams", "image", "--cache", url)
    assert status == 2
    assert [line for line in lines if line.startswith("error: ") and "nobucket" in line and "not exist" in line]


def test_few_requests_for_a_look_at_a_video(server: Server) -> None:

    counts = []
    for number in (3, 9):
        finish(tuple(f"v{n}.mp4" for n in range(number)))
        forget_connections()
        server.seen.clear()
        assert len(FeatureCache.open(URL).facts().videos) == number
        counts.append(len(server.seen))
    # Two streams: one listing and three groups.
    assert counts[1] - counts[0] == pytest.approx(4 * 6, abs=2)
