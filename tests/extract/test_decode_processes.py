"""Decoder processes: the events of the plain way, and nothing that a video does to one of them reaches the others."""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extract.decode import child as decode_child
from extract.decode.ahead import DecodeAhead, Failed, Finished, Job
from extract.decode.child import Work
from extract.decode.decoders import Decoders, portable
from extract.decode.events import Read
from extract.decode.one_video import video_events
from extract.decode.preparing import PreparePool
from extract.decode.process import DecoderProcess, DecoderStartError
from extract.decode.wire import Alive, Spent, receive, send_bytes
from extract.preparation import Squash
from extract.video import UnreadableFile, VideoError
from shared.windows import WindowSpec
from tests.extract.hostile_preparations import Hostile
from tests.extract.support import BROKEN, REPO, SHARED_VIDEOS, FakeTimeline, needs_shared_videos, write_video

PATIENCE_S = 60
SPEC = WindowSpec(size=16, stride=4, samples={"image": 4, "text": 2})
posix = pytest.mark.skipif(os.name != "posix", reason="processes are for POSIX systems")
pytestmark = posix


@dataclass(frozen=True)
class Half:
    """As much of an encoder as decoding needs."""

    preparation: Any
    context: tuple[int, ...] = (0,)
    kind: str = "timeline"

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = self.preparation(frame)
        return pixels


def halves(preparation: Any = None) -> dict[str, Any]:
    squash = Squash(8, 8, Image.Resampling.BICUBIC)
    return {"image": Half(preparation or squash), "text": Half(Squash(5, 7, Image.Resampling.BOX), (-2, 0))}


def jobs_of(files: Sequence[Path]) -> list[Job]:
    return [Job(f"v{n}", file.name, file, None, ("image", "text")) for n, file in enumerate(files)]


def plain(event: Any) -> Any:
    """An event in values that can be compared."""
    if isinstance(event, np.ndarray):
        return event.dtype.name, event.shape, event.tobytes()
    if hasattr(event, "__dataclass_fields__"):
        return type(event).__name__, [plain(getattr(event, f.name)) for f in fields(event)]
    return event


def read(
    files: Sequence[Path], encoders: Any = None, workers: int = 2, max_bytes: int = 1 << 24, **options: Any
) -> Any:
    """All events of all videos, comparable; and the last event of each."""
    decode = DecodeAhead(SPEC, encoders or halves(), workers, max_bytes, **options)
    events, ends = [], []
    with closing(decode.run(jobs_of(files))) as videos:
        for job, found in videos:
            all_of_it = list(found)
            events.append((job.video, [plain(e) for e in all_of_it]))
            ends.append(all_of_it[-1])
    assert decode.seconds > 0
    return events, ends


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[list[Any]]:
    """Every process is ended and waited for, every file closed, no thread left, nothing on the terminal."""
    started: list[Any] = []
    usual = DecoderProcess.__init__

    def noted(self: Any, *args: Any) -> None:
        usual(self, *args)
        started.append(self)

    monkeypatch.setattr(DecoderProcess, "__init__", noted)
    before = open_files()
    yield started
    assert [d.process.returncode is None for d in started] == [False] * len(started)
    assert [t.name for t in threading.enumerate() if t.name.startswith("decode")] == []
    assert open_files() == before
    assert "".join(capfd.readouterr()) == ""


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small and large frames, shorter and longer than a window; the third one is 96 pixels wide."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = [(64, 48), (352, 288), (96, 48), (64, 48)]
    return [
        write_video(folder / f"{n}.mp4", frames, size=size, seed=n)
        for n, (size, frames) in enumerate(zip(sizes, (9, 40, 60, 33), strict=True))
    ]


# ------------------------------------------------------------------ the same events


@pytest.mark.parametrize(("workers", "max_bytes"), [(1, 1), (3, 1 << 24)])
def test_events_are_those_of_the_plain_way(workers: int, max_bytes: int, videos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2, 5, 20):
        Image.new("RGB", (400, 300), (number, 2 * number, 200)).save(folder / f"{number:05d}.png")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(videos[2].read_bytes()[:5000])
    files = [*videos, folder, cut, tmp_path / "missing.mp4"]
    expected, ends = read(files, workers=workers, max_bytes=max_bytes, processes=False)
    assert [type(end) for end in ends] == [Finished] * 5 + [Failed] * 2
    assert read(files, workers=workers, max_bytes=max_bytes)[0] == expected


@needs_shared_videos
def test_events_of_real_videos_are_those_of_the_plain_way(nothing_left: list[Any]) -> None:
    files = sorted(SHARED_VIDEOS.rglob("*.mp4"), key=lambda f: f.stat().st_size)[:6]
    files += [SHARED_VIDEOS / BROKEN[0], *sorted(SHARED_VIDEOS.glob("*.mov"))[:1]]
    assert read(files)[0] == read(files, processes=False)[0]
    assert len(nothing_left) <= 2  # of eight videos, a broken one among them


def test_what_cannot_be_sent_is_decoded_here(videos: list[Path], nothing_left: list[Any]) -> None:
    class Local(Hostile):
        pass

    def from_script(frame: np.ndarray) -> np.ndarray:
        return frame

    from_script.__module__ = "__main__"
    sys.modules["__main__"].from_script = from_script  # type: ignore[attr-defined]
    from_script.__qualname__ = "from_script"
    assert portable(halves()) is not None
    assert portable({"image": FakeTimeline()}) is None
    for preparation in (lambda frame: frame, Local("raise"), from_script):
        assert portable(halves(preparation)) is None
    del sys.modules["__main__"].from_script  # type: ignore[attr-defined]
    assert isinstance(read(videos[:1], halves(lambda frame: frame[:8, :8]))[1][0], Finished)
    assert nothing_left == []


# ------------------------------------------------------------------ hostile videos

ENDS = {
    "crash": ("DecoderDied", r"ended with signal \d+ \(SIGSEGV\)"),
    "abort": ("DecoderDied", r"ended with signal \d+ \(SIGABRT\).*: free\(\): invalid pointer"),
    "exit": ("DecoderDied", "ended with status 3"),
    "hang": ("DecoderHung", "no sign of life from the decoder for 1 s before its first frame"),
    "raise": ("ZeroDivisionError", "nothing to divide"),
}


@pytest.mark.parametrize("act", ENDS)
def test_one_video_fails_and_the_others_do_not(act: str, videos: list[Path]) -> None:
    kind, words = ENDS[act]
    found, ends = read(videos, halves(Hostile(act)), timeout_s=1.0)
    assert [type(end) for end in ends] == [Finished, Finished, Failed, Finished]
    assert (ends[2].stage, ends[2].error) == ("decode", kind)
    with pytest.raises(ValueError, match=words):
        raise ValueError(ends[2].message)
    harmless, _ = read(videos, halves(Hostile("none")), processes=False)
    assert [found[n] for n in (0, 1, 3)] == [harmless[n] for n in (0, 1, 3)]
    assert found[2][1][:-1] == harmless[2][1][: len(found[2][1]) - 1]  # what came before it is handed out, once


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds the memory of a process")
def test_a_video_that_wants_all_memory_fails(videos: list[Path]) -> None:
    with Decoders(2, memory_bytes=1 << 29) as decoders:
        ends = read(videos, halves(Hostile("allocate")), decoders=decoders)[1]
    assert [type(end) for end in ends] == [Finished, Finished, Failed, Finished]
    assert "MemoryError" in ends[2].error
    assert ends[2].message.endswith("a decoder may take 0.5 GiB")


def test_what_libraries_print_stays_off_the_terminal(videos: list[Path]) -> None:
    assert isinstance(read([videos[2]], halves(Hostile("chatter")))[1][0], Finished)


def test_a_long_stretch_without_events_is_not_a_silent_one(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing, and frames that no window samples."""

    def slow(job: Job, spec: WindowSpec, encoders: Any, progress: Any) -> Iterator[Any]:
        for frames in (0, 0, 1, 2):
            time.sleep(0.02)
            progress(frames)
        raise VideoError("decode", "broken")
        yield

    monkeypatch.setattr(decode_child, "video_events", slow)
    work = Work(jobs_of(videos)[0], {"size": 16, "stride": 4, "samples": {"image": 4}}, {}, 0, 1 << 30, alive_s=0.01)
    ours, theirs = socket.socketpair()
    pool = PreparePool(1)
    with ours, theirs:
        decode_child._Reading(theirs, pool, work).run()
        found = [receive(ours) for _ in range(6)]
    pool.close()
    assert found[:4] == [Alive(0), Alive(0), Alive(1), Alive(2)]
    assert isinstance(found[4], Spent)
    assert found[5] == Failed("decode", "VideoError", "broken")


def test_what_a_process_sends_is_never_run(videos: list[Path]) -> None:
    """An array of objects would be one of addresses, and a pickle a program."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for words in (
            {"kind": "Window", "arrays": {"frames": ["object", [1]]}, "values": {"stream": "image", "start": 0}},
            {"kind": "system", "arrays": {}, "values": {}},
            {"kind": "Alive", "arrays": {}, "values": {"files": 1}},
        ):
            send_bytes(theirs, json.dumps(words).encode())
            with pytest.raises(ValueError, match="not a message"):
                receive(ours)
        send_bytes(theirs, pickle.dumps(Alive(1)))
        with pytest.raises(ValueError):
            receive(ours)


ITEM = {"stream": "image", "frame": 0}
FACTS = {"source": {"path": "v", "sha256": ""}, "fps": 1.0, "decoder": "", "num_frames": 0, "width": 1, "height": 1}
FACTS |= {"rotation": 0, "missing_frames": 0}
LIES: dict[str, Any] = {
    "arrays as a list": {"kind": "Ready", "arrays": [], "values": {}},
    "a list": [],
    "a kind that is a list": {"kind": [], "arrays": {}, "values": {}},
    "an array of terabytes": {"kind": "Item", "arrays": {"pixels": ["uint8", [10**13]]}, "values": ITEM},
    "an array below nothing": {"kind": "Item", "arrays": {"pixels": ["uint8", [-1, -1]]}, "values": ITEM},
    "pixels as a number": {"kind": "Item", "arrays": {}, "values": {**ITEM, "pixels": 3}},
    "pixels as times": {"kind": "Item", "arrays": {"pixels": ["float64", [1]]}, "values": ITEM},
    "a frame in letters": {"kind": "Item", "arrays": {"pixels": ["uint8", [0]]}, "values": {**ITEM, "frame": "x"}},
    "a huge frame": {"kind": "Item", "arrays": {"pixels": ["uint8", [0]]}, "values": {**ITEM, "frame": 2**64}},
    "a frame that is true": {"kind": "Item", "arrays": {"pixels": ["uint8", [0]]}, "values": {**ITEM, "frame": True}},
    "a stranger's stream": {"kind": "Item", "arrays": {"pixels": ["uint8", [0]]}, "values": {**ITEM, "stream": "nope"}},
    "no seconds": {"kind": "Spent", "arrays": {}, "values": {"seconds": float("nan"), "exhausted": False}},
    "no facts": {"kind": "Read", "arrays": {"pts": ["float64", [0]]}, "values": {"facts": {}}},
    "a fact in letters": {
        "kind": "Read",
        "arrays": {"pts": ["float64", [0]]},
        "values": {"facts": {**FACTS, "width": "x"}},
    },
    "frames without times": {
        "kind": "Read",
        "arrays": {"pts": ["float64", [0]]},
        "values": {"facts": {**FACTS, "num_frames": 1}},
    },
    "deep nesting": b"[" * 2**19,
    "too many words": b" " * 2**20 + b"{}",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_process_that_lies_costs_one_video(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Liar(DecoderProcess):
        """What it says comes through a real socket, of no process."""

        videos = 1
        process: Any = SimpleNamespace(poll=lambda: None, kill=lambda: None)

        def __init__(self, turns: Any, row: int, rows: int) -> None:
            self.row = row

        def read(self, work: bytes, timeout_s: float, check: Any, wanted: Any) -> Iterator[Any]:
            words = LIES[lie]
            ours, theirs = socket.socketpair()
            with ours, theirs:
                self._link = ours
                data = words if isinstance(words, bytes) else json.dumps(words).encode()
                sender = threading.Thread(target=send_quietly, args=(theirs, data))
                sender.start()
                try:
                    yield self.listen(receive, timeout_s, check, wanted)
                    yield Failed("decode", "VideoError", "believed")
                finally:
                    ours.close()
                    sender.join(PATIENCE_S)

        def end(self) -> None:
            pass

    monkeypatch.setattr("extract.decode.decoders.DecoderProcess", Liar)
    events: list[Any] = []
    job = Job("v", "v", Path("v"), None, ("image",))
    with Decoders(1) as decoders:
        decoders.decode(0, job, SPEC, halves(), events.append, lambda: None)
    assert [(type(event), event.error) for event in events] == [(Failed, "DecoderDied")]


def send_quietly(link: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        send_bytes(link, data)


# ------------------------------------------------------------------ killed from outside


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    mark = tmp_path / "mark"
    mark.touch()
    return mark


def killing(
    act: str, mark: Path, started: list[Any], number: int, times: int
) -> tuple[dict[str, Any], threading.Thread]:
    """Encoders that hang in the middle of a video 96 pixels wide, and who then ends the process."""

    def kill() -> None:
        for _ in range(times):
            wait_until(Path(f"{mark}.acts").exists)
            if act == "hang":
                Path(f"{mark}.acts").unlink()  # for the next process
            started[-1].process.send_signal(number)

    killer = threading.Thread(target=kill)
    killer.start()
    # The first item of the stream "image" comes before the first of "text".
    return {"image": halves()["image"], "text": Half(Hostile(act, mark=str(mark)), (-2, 0))}, killer


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_killed_from_outside_is_replaced_and_its_video_read_again(
    number: int, videos: list[Path], mark: Path, nothing_left: list[Any]
) -> None:
    encoders, killer = killing("hang once", mark, nothing_left, number, 1)
    found, ends = read(videos[2:], encoders, workers=1)
    killer.join(PATIENCE_S)
    assert [type(end) for end in ends] == [Finished, Finished]
    assert found == read(videos[2:], encoders, processes=False)[0]
    assert len(nothing_left) == 2


def test_a_video_whose_processes_are_killed_twice_fails(
    videos: list[Path], mark: Path, nothing_left: list[Any]
) -> None:
    encoders, killer = killing("hang", mark, nothing_left, signal.SIGKILL, 2)
    found, ends = read(videos[2:], encoders, workers=1)
    killer.join(PATIENCE_S)
    assert [type(end) for end in ends] == [Failed, Finished]
    assert ends[0].message == "the decoder process ended with signal 9 (SIGKILL) after at least 3 frames"
    assert [event[0] for event in found[0][1]] == ["Opened", "Item", "Failed"]


def test_a_video_replaced_while_its_process_is_killed_fails(
    videos: list[Path], tmp_path: Path, mark: Path, nothing_left: list[Any]
) -> None:
    """What was handed out is of another file than what the second process reads, with as many frames."""
    file, other = tmp_path / "v.mp4", write_video(tmp_path / "other.mp4", 60, size=(96, 48), seed=9)
    shutil.copyfile(videos[2], file)

    def replace_it() -> None:
        wait_until(Path(f"{mark}.acts").exists)
        other.replace(file)
        nothing_left[-1].process.kill()

    replacing = threading.Thread(target=replace_it)
    replacing.start()
    encoders = {"image": halves()["image"], "text": Half(Hostile("hang once", mark=str(mark)), (-2, 0))}
    found, ends = read([file, videos[3]], encoders, workers=1)
    replacing.join(PATIENCE_S)
    assert [event[0] for event in found[0][1]] == ["Opened", "Item", "Failed"]
    assert isinstance(ends[1], Finished)
    assert (ends[0].error, ends[0].message) == ("UnreadableFile", "the file changed while it was read")
    assert len(nothing_left) == 3


@pytest.mark.parametrize("when", [0, 1, 30])
def test_a_video_that_changes_while_it_is_read_fails(when: int, videos: list[Path], tmp_path: Path) -> None:
    """While it is hashed, at its first frame and later; a run tries such a video again."""
    file = Path(shutil.copyfile(videos[2], tmp_path / "v.mp4"))

    def progress(frames: int) -> None:
        if frames == when:
            os.utime(file, (when + 1, when + 1))

    events: list[Any] = []
    with pytest.raises(UnreadableFile, match="changed while it was read"):
        events.extend(video_events(jobs_of([file])[0], SPEC, halves(), progress))
    assert not any(isinstance(event, Read) for event in events)


def test_a_process_killed_between_two_videos_costs_nothing(videos: list[Path], nothing_left: list[Any]) -> None:
    with Decoders(2) as decoders:
        decoders.start(wait=True)
        for decoder in nothing_left:
            decoder.process.kill()
            decoder.process.wait()
        found = [read(videos, decoders=decoders)[0] for _ in range(2)]
    assert found == 2 * [read(videos, processes=False)[0]]
    assert 3 <= len(nothing_left) <= 4


def test_a_crash_after_other_videos_is_tried_in_a_process_of_its_own(
    videos: list[Path], nothing_left: list[Any]
) -> None:
    """What an earlier video left behind may have caused it."""
    ends = read([videos[0], videos[2], videos[3]], halves(Hostile("crash")), workers=1)[1]
    assert [type(end) for end in ends] == [Finished, Failed, Finished]
    assert len(nothing_left) == 3  # of the first two videos, of the second alone, of the third


# ------------------------------------------------------------------ the end


@pytest.mark.parametrize("act", ["hang", "none"])
def test_leaving_early_ends_the_processes(act: str, videos: list[Path], mark: Path) -> None:
    """In the middle of a decode that never ends, and of one that waits for the queue."""
    jobs = DecodeAhead(SPEC, halves(Hostile(act, mark=str(mark))), 2, 2).run(jobs_of(videos[2:]))
    next(jobs)
    wait_until(Path(f"{mark}.acts").exists)
    closer = threading.Thread(target=jobs.close)
    closer.start()
    closer.join(PATIENCE_S)
    assert not closer.is_alive()
    assert is_free(mark)


SCRIPT = """
import sys
from tests.extract.test_decode_processes import *
decode = DecodeAhead(SPEC, halves(Hostile("hang", mark=sys.argv[2])), 1, 1 << 20)
for job, events in decode.run(jobs_of([Path(p) for p in sys.argv[3:]])):
    print("video", job.video, flush=True)
    print(type(list(events)[-1]).__name__, flush=True)
"""


def test_no_process_outlives_a_killed_parent(videos: list[Path], tmp_path: Path, mark: Path) -> None:
    """Of a script without a guard for its main part, killed while a process hangs."""
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, sys.argv[1])\n{SCRIPT}")
    words = [sys.executable, script, REPO, mark, videos[0], videos[2]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(3)] == ["video v0\n", "Finished\n", "video v1\n"]
        wait_until(Path(f"{mark}.acts").exists)
        assert not is_free(mark)
        parent.kill()
    wait_until(lambda: is_free(mark))


def test_processes_that_do_not_come_up_are_no_videos_fault(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DecoderStartError, match=r"does not start: .* status 1: ModuleNotFoundError"):
        read(videos)


def test_processes_that_cannot_set_themselves_up_are_no_videos_fault(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come up, and the first work asks for what is not there for them."""
    (tmp_path / "only_here.py").write_text("def prepare(frame):\n    return frame\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("only_here")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    with pytest.raises(DecoderStartError, match="does not start: ModuleNotFoundError: No module named 'only_here'"):
        read(videos, halves(module.prepare))


def test_limits_are_kept_below_those_of_whoever_started_the_run() -> None:
    script = (
        "import resource as r\n"
        "from extract.decode.child import bound_memory\n"
        "r.setrlimit(r.RLIMIT_FSIZE, (1000, 1000))\n"
        "bound_memory(1 << 30)\n"
        "print(r.getrlimit(r.RLIMIT_FSIZE), r.getrlimit(r.RLIMIT_CORE))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stdout == "(1000, 1000) (0, 0)\n", done.stderr


@pytest.mark.parametrize("works", [0, 1])
def test_a_process_that_cannot_be_started_costs_no_place(
    works: int, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any process the run ends and says why; with one it goes on."""
    usual, asked = subprocess.Popen, []

    def refuse(words: Any, *args: Any, **options: Any) -> Any:
        asked.append(words)
        if len(asked) > works:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return usual(words, *args, **options)

    expected = read(videos, processes=False)[0]
    with Decoders(2) as decoders:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refuse)
            for _ in range(3):
                if works:
                    decoders.start()
                    assert read(videos, decoders=decoders)[0] == expected
                else:
                    with pytest.raises(DecoderStartError, match=r"temporarily unavailable.*ulimit -u"):
                        read(videos, decoders=decoders)
        assert len(asked) > works
        assert read(videos, decoders=decoders)[0] == expected


def wait_until(condition: Any) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def is_free(mark: Path) -> bool:
    """Whether nobody lives who holds the lock."""
    with mark.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_jobs_may_be_relative(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that started elsewhere finds them."""
    with Decoders(1) as decoders:
        decoders.start(wait=True)
        monkeypatch.chdir(videos[0].parent)
        job = replace(jobs_of(videos)[0], file=Path(videos[0].name))
        with closing(DecodeAhead(SPEC, halves(), 1, 1 << 20, decoders=decoders).run([job])) as jobs:
            assert [type(list(events)[-1]) for _, events in jobs] == [Finished]
