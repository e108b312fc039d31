"""The server captioner against a real HTTP server, which reads its captions off the pictures that arrive."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from extract.config import CaptionerConfig
from extract.encoders.captioners import endpoint as module
from extract.encoders.captioners.endpoint import ServerError, frame_seed
from extract.encoders.captioners.server import SIZE, ServerCaptioner
from extract.faults.ledger import FailureLedger
from extract.video import open_video
from shared.cache import FeatureCache
from tests.extract.support import cache_contents, write_video

Cli = Callable[..., Result]
Reply = tuple[int, dict[str, str], bytes]


def words_of(picture: np.ndarray) -> str:
    """What the server says of a picture: any wrong pixel, or another frame's caption, shows."""
    red, green, blue = picture.reshape(-1, 3).mean(axis=0)
    return f"mean {red:.1f} {green:.1f} {blue:.1f}, sha {sha256(picture.tobytes()).hexdigest()[:12]}"


def completion(content: Any, finish_reason: str = "stop") -> bytes:
    message = {"role": "assistant", "content": content}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}).encode()


class VisionServer(ThreadingHTTPServer):
    """``/v1/models`` and ``/v1/chat/completions``.

    Attributes:
        answer: (number of the request, from 0; its body) -> status, headers and body instead of a caption, or None.
        bodies, keys: of the completion requests, in order of arrival.
        most_in_flight: completion requests that were being worked on at one time.
        let_go: what a handler may wait for; set at the end of the test.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: Any = {"object": "list", "data": [{"id": "vlm", "object": "model", "root": "org/vlm"}]}
        self.answer: Callable[[int, dict[str, Any]], Reply | None] = lambda number, body: None
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.pictures: list[np.ndarray] = []
        self.in_flight = self.most_in_flight = 0
        self.lock, self.let_go, self.dead = threading.Lock(), threading.Event(), False
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def die(self) -> None:
        """No new connections, and no answer on those that are open."""
        self.dead = True
        self.let_go.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the test."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VisionServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self.reply(404, {}, b'{"detail":"Not Found"}')
        models = self.server.models
        return self.reply(200, {}, models if isinstance(models, bytes) else json.dumps(models).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.reply(404, {}, b'{"detail":"Not Found"}')
        server = self.server
        picture = received(body)
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            server.pictures.append(picture)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            status, headers, answer = server.answer(number, body) or (200, {}, completion(words_of(picture)))
        finally:
            with server.lock:
                server.in_flight -= 1
        return self.reply(status, headers, answer)

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if self.server.dead:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def received(body: dict[str, Any]) -> np.ndarray:
    """The picture of a request, uint8 RGB (h, w, 3)."""
    (part,) = [p for p in body["messages"][0]["content"] if p["type"] == "image_url"]
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], VisionServer]]:
    """Starts servers, and ends them after the test."""
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    servers: list[VisionServer] = []

    def start() -> VisionServer:
        servers.append(VisionServer())
        return servers[-1]

    yield start
    for server in servers:
        if not server.dead:
            server.die()


@pytest.fixture
def server(start: Callable[[], VisionServer]) -> VisionServer:
    return start()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's waits before its retries, in seconds; noted instead of waited for."""
    noted: list[float] = []

    async def sleep(seconds: float) -> None:
        noted.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(anyio, "sleep", sleep)
    return noted


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Distinct items, uint8 (12, 1, 448, 448, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 1, 14, 14, 3), np.uint8)
    return coarse.repeat(SIZE // 14, 2).repeat(SIZE // 14, 3)


def build(server: VisionServer, *, timeout_s: float = 60.0, max_retries: int = 5, **options: Any) -> ServerCaptioner:
    config = CaptionerConfig("server", server=server.url, **options)
    return ServerCaptioner(config, timeout_s=timeout_s, max_retries=max_retries)


def expected(items: np.ndarray) -> list[str]:
    return [words_of(item[-1]) for item in items]


# ------------------------------------------------------------------------------------------------ what is asked


def test_every_frame_gets_its_own_caption_whatever_order_they_come_back_in(
    server: VisionServer, frames: np.ndarray
) -> None:
    rng = np.random.default_rng(1)
    delays = rng.permutation(len(frames)) * 0.01
    server.answer = lambda number, body: time.sleep(delays[number])
    captioner = build(server)
    assert captioner.caption(frames) == expected(frames)
    server.answer = lambda number, body: None
    assert captioner.caption(frames[::-1]) == expected(frames)[::-1]
    assert captioner.caption(frames[3:4]) == expected(frames[3:4])
    assert captioner.caption(frames[:0]) == []


def test_no_more_requests_at_once_than_allowed(
    server: VisionServer, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 3)
    barrier = threading.Barrier(3, timeout=60)  # nothing is answered until three have come
    server.answer = lambda number, body: (barrier.wait(), None)[1]  # type: ignore[func-returns-value]
    assert build(server).caption(frames) == expected(frames)
    assert server.most_in_flight == 3


def test_each_distinct_frame_is_sent_once(server: VisionServer, frames: np.ndarray) -> None:
    items = frames[[4, 4, 0, 4, 7, 0, 7, 7]]
    assert build(server).caption(items) == expected(items)
    assert sorted(map(words_of, server.pictures)) == sorted(expected(frames[[0, 4, 7]]))


def test_the_request(server: VisionServer, frames: np.ndarray) -> None:
    build(server).caption(frames[:1])
    build(server, prompt="What happens?", max_new_tokens=17, server_model="vlm").caption(frames[:1])
    plain, own = server.bodies
    for body, prompt, tokens in ((plain, "Describe this image in detail.", 300), (own, "What happens?", 17)):
        (message,) = body.pop("messages")
        assert message["role"] == "user"
        assert [part["type"] for part in message["content"]] == ["image_url", "text"]
        assert message["content"][1]["text"] == prompt
        assert body == {"model": "vlm", "temperature": 0, "max_tokens": tokens}
    assert server.keys == ["Bearer EMPTY"] * 2
    np.testing.assert_array_equal(server.pictures[0], frames[0, 0])


def test_the_seed_of_a_sample_depends_on_its_frame_alone(server: VisionServer, frames: np.ndarray) -> None:
    captioner = build(server, decoding="sample", seed=5)
    captioner.caption(frames)
    captioner.caption(frames[[9, 2]])
    build(server, decoding="sample", seed=5).caption(frames[2:3])
    assert {body["temperature"] for body in server.bodies} == {1}
    assert {body["top_p"] for body in server.bodies} == {0.9}
    seeds: dict[str, set[int]] = {}
    for body, picture in zip(server.bodies, server.pictures, strict=True):
        seeds.setdefault(words_of(picture), set()).add(body["seed"])
    assert len(server.bodies) == len(frames) + 3
    assert all(len(s) == 1 for s in seeds.values())
    assert len(set.union(*seeds.values())) == len(frames)
    assert all(0 <= s < 2**31 for s in set.union(*seeds.values()))
    assert seeds[words_of(frames[2, 0])] == {frame_seed(5, sha256(frames[2].tobytes()).digest())}
    build(server, decoding="sample", seed=6).caption(frames[2:3])
    assert server.bodies[-1]["seed"] not in seeds[words_of(frames[2, 0])]


# ------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    ("width", "height", "inner"),
    [(640, 360, (448, 252)), (90, 160, (252, 448)), (300, 300, (448, 448)), (2000, 2, (448, 1)), (1, 1, (448, 448))],
)
def test_prepare_keeps_the_whole_picture_and_its_proportions(width: int, height: int, inner: tuple[int, int]) -> None:
    prepared = ServerCaptioner.prepare(None, np.full((height, width, 3), (200, 100, 50), np.uint8))  # type: ignore[arg-type]
    assert (prepared.shape, prepared.dtype) == ((SIZE, SIZE, 3), np.uint8)
    left, top = (SIZE - inner[0]) // 2, (SIZE - inner[1]) // 2
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[top : top + inner[1], left : left + inner[0]] = (200, 100, 50)
    np.testing.assert_array_equal(prepared, picture)


def test_prepare_does_not_alias() -> None:
    fine = np.indices((1792, 1792)).sum(axis=0) % 2 * 255  # a chess board of single pixels is grey from afar
    prepared = ServerCaptioner.prepare(None, np.repeat(fine[..., None], 3, 2).astype(np.uint8))  # type: ignore[arg-type]
    assert np.abs(prepared.astype(int) - 127).max() <= 2


def test_items_that_were_not_prepared_are_refused(server: VisionServer) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 1, 448, 448, 3\)"):
        build(server).caption(np.zeros((1, 1, 64, 64, 3), np.uint8))


# ------------------------------------------------------------------------------------------------ what is answered


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (None, ""),
        ("", ""),
        ("  A dog.\n", "A dog."),
        ("Ein Hund läuft – «schnell» 犬 🐕\nzweite Zeile", "Ein Hund läuft – «schnell» 犬 🐕\nzweite Zeile"),
        ("half a \ud83d", "half a ?"),
    ],
)
def test_words_as_the_server_wrote_them(server: VisionServer, frames: np.ndarray, content: Any, caption: str) -> None:
    server.answer = lambda number, body: (200, {}, completion(content, "length"))
    assert build(server).caption(frames[:2]) == [caption] * 2


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_by_itself_is_tried_again(
    server: VisionServer, frames: np.ndarray, waits: list[float], status: int
) -> None:
    server.answer = lambda number, body: (status, {}, b"busy") if number < 3 else None
    assert build(server).caption(frames[:1]) == expected(frames[:1])
    assert len(server.bodies) == 4
    assert len(waits) == 3
    assert 0 < waits[0] < waits[1] < waits[2]
    assert len({words_of(picture) for picture in server.pictures}) == 1


def test_retry_after_is_honoured(server: VisionServer, frames: np.ndarray, waits: list[float]) -> None:
    server.answer = lambda number, body: (429, {"Retry-After": "17"}, b"{}") if number == 0 else None
    assert build(server).caption(frames[:1]) == expected(frames[:1])
    assert waits == [17]


def test_a_server_that_keeps_failing_ends_it(server: VisionServer, frames: np.ndarray, waits: list[float]) -> None:
    server.answer = lambda number, body: (500, {}, b'{"error": {"message": "CUDA error"}}')
    with pytest.raises(ServerError) as failed:
        build(server).caption(frames[:1])
    assert len(server.bodies) == 6
    message = str(failed.value)
    assert f"caption server {server.url} (model vlm): answered 500" in message
    assert "CUDA error" in message
    assert "run the same command again to go on" in message


def test_one_failure_drops_the_other_requests(server: VisionServer, frames: np.ndarray) -> None:
    bad = words_of(frames[1, 0])

    def answer(number: int, body: dict[str, Any]) -> Reply | None:
        if words_of(received(body)) == bad:
            return 400, {}, b"bad"
        server.let_go.wait(60)  # longer than the test
        return None

    server.answer = answer
    with pytest.raises(ServerError, match="answered 400"):
        build(server).caption(frames[:4])
    assert not server.let_go.is_set()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"object":"error","message":"vlm is not a multimodal model"}', "vlm is not a multimodal model"),
        (401, b'{"error":"no"}', "environment variable OPENAI_API_KEY"),
        (404, b'{"error":"no such model"}', "is the model still served"),
        (422, b'{"detail":"' + b"x" * 100_000 + b'"}', "Does this model take pictures"),
    ],
)
def test_a_refusal_is_told_and_not_repeated(
    server: VisionServer, frames: np.ndarray, status: int, body: bytes, words: str
) -> None:
    server.answer = lambda number, request: (status, {}, body)
    with pytest.raises(ServerError) as failed:
        build(server).caption(frames[:1])
    assert len(server.bodies) == 1
    assert f"answered {status}" in str(failed.value)
    assert words in str(failed.value)
    assert len(str(failed.value)) < 700


def test_the_key_is_sent_and_never_told(
    server: VisionServer, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-very-secret-1234"
    monkeypatch.setenv("OPENAI_API_KEY", f" {key}\n")
    server.answer = lambda number, body: (401, {}, f'{{"error": "Incorrect API key: {key}"}}'.encode())
    caplog.set_level("DEBUG")
    captioner = build(server)
    with pytest.raises(ServerError, match=r"Incorrect API key: \*\*\*") as failed:
        captioner.caption(frames[:1])
    assert server.keys == [f"Bearer {key}"]
    told = [
        *traceback.format_exception(failed.value),
        caplog.text,
        json.dumps(captioner.recipe()),
        repr(vars(captioner)),
    ]
    assert key not in "".join(told)
    monkeypatch.setenv("OPENAI_API_KEY", f"{key}\nmore")
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters") as refused:
        build(server)
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"choices": [{"mess', "expected JSON, found {"),
        (b"<html>a proxy</html>", "expected JSON, found <html>"),
        (b"", "expected JSON, found nothing"),
        (b"{}", "expected a chat completion, found {}"),
        (b'{"choices": []}', "expected a chat completion"),
        (b'{"choices": [{}]}', "expected a chat completion"),
        (b'{"error": {"message": "out of memory"}}', "out of memory"),
        (b"null", "found null"),
        (completion([{"type": "text", "text": "parts"}]), "expected a chat completion"),
    ],
)
def test_an_answer_that_is_no_caption_is_an_error(
    server: VisionServer, frames: np.ndarray, body: bytes, found: str
) -> None:
    server.answer = lambda number, request: (200, {}, body)
    with pytest.raises(ServerError) as failed:
        build(server).caption(frames[:2])
    assert found in str(failed.value)


def test_an_answer_that_does_not_come(server: VisionServer, frames: np.ndarray, waits: list[float]) -> None:
    server.answer = lambda number, body: (server.let_go.wait(60), None)[1]  # type: ignore[func-returns-value]
    captioner = build(server, timeout_s=0.3, max_retries=1)
    with pytest.raises(ServerError, match=r"gave no answer within 0\.3 s\n.*--caption-batch"):
        captioner.caption(frames[:1])
    assert len(server.bodies) == 2


def test_a_server_that_went_away(server: VisionServer, frames: np.ndarray, waits: list[float]) -> None:
    captioner = build(server)
    server.die()
    with pytest.raises(ServerError, match=r"cannot be reached: .+\nIs it running\?"):
        captioner.caption(frames[:2])
    assert len(waits) >= 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_wait_for_the_server(server: VisionServer, frames: np.ndarray, number: int) -> None:
    def hang(request: int, body: dict[str, Any]) -> None:
        os.kill(os.getpid(), number)
        server.let_go.wait(60)

    server.answer = hang
    captioner = build(server)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            captioner.caption(frames[:1])
    finally:
        signal.signal(number, before)
    assert server.in_flight == 1  # nothing was answered


# ------------------------------------------------------------------------------------------------ models and options


def test_models(server: VisionServer) -> None:
    server.models = {"data": [{"id": "qwen"}, {"id": "llava", "root": "org/llava"}]}
    with pytest.raises(ValueError, match=r"lists 2 models, choose by --caption-server-model: llava, qwen"):
        build(server)
    assert build(server, server_model="llava").recipe()["root"] == "org/llava"
    assert "root" not in build(server, server_model="qwen").recipe()
    with pytest.raises(ValueError, match="unknown model 'lava'; did you mean 'llava'"):
        build(server, server_model="lava")
    server.models = {"data": []}
    with pytest.raises(ValueError, match="lists 0 models"):
        build(server)
    assert build(server, server_model="own").recipe()["model"] == "own"  # nothing says that it is not there


@pytest.mark.parametrize("models", [b"<html>", {"models": []}, {"data": [{"name": "x"}]}, {"data": None}, []])
def test_a_list_of_models_that_is_none(server: VisionServer, models: Any) -> None:
    server.models = models
    with pytest.raises(ServerError, match=r"expected (JSON|a list of models \(GET /models\)), found"):
        build(server)


def test_the_url(server: VisionServer, frames: np.ndarray, waits: list[float]) -> None:
    host = server.url.removesuffix("/v1")
    for url in (host, f"{host}/", f"{host}/v1/", f" {host}/v1 "):
        captioner = ServerCaptioner(CaptionerConfig("server", server=url))
        assert captioner.caption(frames[:1]) == expected(frames[:1])
    with pytest.raises(ServerError, match="answered 404"):
        ServerCaptioner(CaptionerConfig("server", server=f"{host}/v2"))
    server.die()
    with pytest.raises(ServerError, match=f"caption server {host}/v1: cannot be reached"):
        build(server)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the URL of an OpenAI-compatible server: --caption-server http://HOST:8000/v1"),
        ({"server": "localhost:8000"}, "expected a URL like .*found 'localhost:8000'"),
        ({"server": "http://"}, "expected a URL like"),
        ({"server": "http://h:port/v1"}, "expected a URL like"),
        ({"server": "http://[::1/v1"}, "expected a URL like"),
        ({"server": "ftp://h/v1"}, "expected a URL like"),
        ({"server": "http://h/v1", "quantize": "int8"}, "takes no --caption-quantize"),
        ({"server": "http://h/v1", "weights": "folder"}, "takes no --caption-weights"),
        ({"server": "http://h/v1", "decoding": "beam"}, "unknown decoding 'beam'"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=message):
        ServerCaptioner(CaptionerConfig("server", **options))


@pytest.mark.parametrize("url", ["http://me:hidden@h/v1", "http://h/v1?key=hidden", "http://me:hidden@h:port/v1"])
def test_a_secret_in_the_url_is_refused_before_a_cache_notes_it(url: str, cli: Cli, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 20)
    refused = cli("run", "clip.mp4", "--preset", "tiny", "--captioner", "server", "--caption-server", url)
    assert refused.exit_code == 2
    assert "environment variable OPENAI_API_KEY" in refused.output
    assert "hidden" not in refused.output
    assert not Path("caches").exists()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "openai", None)
    with pytest.raises(ValueError, match=r"needs the package openai: pip install 'crossgru\[server\]'"):
        ServerCaptioner(CaptionerConfig("server", server="http://h/v1"))


def test_recipe(start: Callable[[], VisionServer]) -> None:
    one, two = start(), start()
    recipe = build(one).recipe()
    assert json.loads(json.dumps(recipe)) == recipe == build(two).recipe()  # the same model elsewhere
    assert one.url.split("/")[2] not in json.dumps(recipe)
    assert (recipe["captioner"], recipe["model"], recipe["root"]) == ("server", "vlm", "org/vlm")
    assert recipe["decoding"] == {"temperature": 0, "max_tokens": 300}
    others = [
        build(one, prompt="Why?"),
        build(one, max_new_tokens=20),
        build(one, decoding="sample"),
        build(one, decoding="sample", seed=1),
    ]
    two.models["data"][0]["root"] = "org/other"
    others.append(build(two))
    assert len({json.dumps(r) for r in (recipe, *(c.recipe() for c in others))}) == 6
    assert build(one, seed=1).recipe() == recipe  # no seed in what is not sampled


# ------------------------------------------------------------------------------------------------ whole runs


def clips_of(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, num_frames in enumerate((20, 150, 90)):
        write_video(folder / f"{number}.mp4", num_frames, size=(96, 48), seed=number)
    return folder


def test_a_run_through_the_command_line(cli: Cli, server: VisionServer, tmp_path: Path) -> None:
    folder = clips_of(tmp_path)
    words = ("run", folder, "--preset", "tiny", "--streams", "text", "--captioner", "server", "--cache", "c.zarr")
    done = cli(*words, "--caption-server", server.url, "--caption-batch", "6")
    assert done.exit_code == 0, done.output
    cache = FeatureCache.open("c.zarr")
    for name in ("0.mp4", "1.mp4", "2.mp4"):
        data = cache.read(name, "text")
        assert data.frames is not None
        with open_video(folder / name) as video:
            pictures = {f.index: ServerCaptioner.prepare(SimpleNamespace(), f.rgb()) for f in video.frames}  # type: ignore[arg-type]
        assert data.captions == [words_of(pictures[int(frame)]) for frame in data.frames]
    assert server.url not in json.dumps(cache.streams("0.mp4"), default=str)
    missing = cli(*words[:-1], "d.zarr")
    assert missing.exit_code == 2
    assert "--caption-server" in missing.output
    assert not Path("d.zarr").exists()


def test_a_server_that_dies_midway_loses_nothing(
    cli: Cli, start: Callable[[], VisionServer], tmp_path: Path, waits: list[float]
) -> None:
    folder, server = clips_of(tmp_path), start()
    words = ["run", folder, "--preset", "tiny", "--streams", "text", "--captioner", "server", "--caption-batch", "4"]
    asked = [*words, "--caption-server", server.url]
    assert cli(*asked, "--cache", "whole.zarr").exit_code == 0
    total, death = len(server.bodies), threading.Thread(target=server.die)
    first = len(FeatureCache.open("whole.zarr").read("0.mp4", "text").features)

    def die(number: int, body: dict[str, Any]) -> None:
        if number == total + first + 8:
            while not FeatureCache.open("cut.zarr").video_ids() and not server.let_go.wait(0.01):
                pass  # the first video is encoded; let it be written, too
            server.dead = True
            death.start()
            death.join()

    server.answer = die
    killed = cli(*asked, "--cache", "cut.zarr")
    assert killed.exit_code == 2, killed.output
    assert f"error: caption server {server.url} (model vlm): cannot be reached" in killed.output
    assert "run the same command again to go on" in killed.output
    assert "Traceback" not in killed.output
    assert FeatureCache.open("cut.zarr").video_ids() == ["0.mp4"]  # complete before, and still
    assert FailureLedger("cut.zarr").failures() == {}
    assert len(server.bodies) < 2 * total
    refused = cli(*asked, "--cache", "cut.zarr")
    assert refused.exit_code == 2
    assert "cannot be reached" in refused.output

    again = start()  # on another port: where the model is served is no part of the recipe
    done = cli(*words, "--caption-server", again.url, "--cache", "cut.zarr")
    assert done.exit_code == 0, done.output
    assert "3 videos, 1 already complete, 2 to do" in done.output
    assert 0 < len(again.bodies) < total
    assert cache_contents(Path("cut.zarr")) == cache_contents(Path("whole.zarr"))


def test_a_redirect_is_told_and_not_followed(server: VisionServer, frames: np.ndarray) -> None:
    captioner = ServerCaptioner(CaptionerConfig("server", server=server.url), max_retries=0)
    place = "http://elsewhere.invalid/v1/chat/completions"
    server.answer = lambda number, body: (307, {"Location": place}, b"")
    with pytest.raises(
        ServerError, match=rf"answered 307(?s:.*)It redirects to {place}; if that is right, give its URL"
    ):
        captioner.caption(frames[:1])
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({}, b" " * 2000 + completion("x"), "longer than 1000 bytes"),
        ({"Content-Encoding": "gzip"}, gzip.compress(completion("x")), "is packed"),
    ],
)
def test_an_answer_without_end(
    server: VisionServer,
    frames: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    body: bytes,
    message: str,
) -> None:
    captioner = ServerCaptioner(CaptionerConfig("server", server=server.url), max_retries=0)
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    assert captioner.caption(frames[:1])
    server.answer = lambda number, _: (200, headers, body)
    with pytest.raises(ServerError, match=message):
        captioner.caption(frames[:1])
