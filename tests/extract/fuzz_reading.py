"""Reads videos in a process of its own, bounded in memory and time, and says what came out.

Run as a script it takes a path per line and answers with a line of JSON: the frames that ``open_video`` counts, those
that a loop over PyAV counts which checks nothing, and whether two readings gave the same pixels; or the error. glibc
fills what it allocates with another byte in each reading, so pixels of memory that nobody wrote differ.
"""

from __future__ import annotations

import ctypes
import json
import resource
import select
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.extract.fuzz_damage import Case, known_frames

LIMIT_S = 20.0
LIMIT_BYTES = 2**31
M_PERTURB = -6  # of mallopt(3)
REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What reading a video led to.

    Attributes:
        frames: frames that came out, None after an error.
        leading: pictures that it says it left out before the first clean one.
        plain: frames that a loop without checks counts.
        same: two readings gave the same pixels and times.
        error: "stage: message" of a ``VideoError``.
        died: how the process ended instead of an answer.
    """

    frames: int | None = None
    leading: int = 0
    plain: int | None = None
    same: bool = True
    error: str | None = None
    died: str | None = None
    seconds: float = 0.0


def read_all(paths: Iterable[Path], command: Sequence[str] = ("-m", "tests.extract.fuzz_reading")) -> Iterator[Outcome]:
    """Outcomes in order; a process (``command`` of Python) that dies or hangs costs one of them."""
    child: subprocess.Popen[str] | None = None
    try:
        for path in paths:
            if child is None:
                child = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=REPO,
                    text=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                _ask(child, "", 2 * LIMIT_S)  # until everything is imported
            answer = _ask(child, json.dumps(str(path)), LIMIT_S)
            if answer is None:
                died = _end(child)
                yield Outcome(died=died)
                child = None
            else:
                yield Outcome(**answer)
    finally:
        if child is not None:
            child.communicate()


def _end(child: subprocess.Popen[str]) -> str:
    """How a process ended that gave no answer; one that still runs is killed."""
    try:
        status = child.wait(1.0)
    except subprocess.TimeoutExpired:
        child.kill()
        status = None
    child.communicate()
    return f"no answer in {LIMIT_S:.0f} s" if status is None else f"ended with {status}"


def _ask(child: subprocess.Popen[str], line: str, wait_s: float) -> dict[str, Any] | None:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(f"{line}\n")
        child.stdin.flush()
    except BrokenPipeError:
        return None
    if not select.select([child.stdout], [], [], wait_s)[0]:
        return None
    answer = child.stdout.readline()
    return json.loads(answer) if answer.endswith("\n") else None


def wrongs(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with reading a damaged video this way."""
    if outcome.died or not outcome.same:
        return [f"{case}: {outcome.died or 'two readings differ'}"]
    if outcome.error is not None:
        return []
    known = known_frames(case)
    wrong = outcome.frames not in (outcome.plain, case.seed.frames) or known not in (
        None,
        (outcome.frames or 0) + outcome.leading,
    )
    return [f"{case}: complete with {outcome.frames} frames, not {known or outcome.plain}"] if wrong else []


# ------------------------------------------------------------------------------------------------ in the process


def main() -> None:
    sys.stdin.readline()
    print("{}", flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        started = time.perf_counter()
        answer = _look(Path(json.loads(line)))
        print(json.dumps({**answer, "seconds": time.perf_counter() - started}), flush=True)


def _look(path: Path) -> dict[str, Any]:
    from extract.video import VideoError

    libc, seen = ctypes.CDLL(None), []
    try:
        for fill in (0x5A, 0xA5):
            libc.mallopt(M_PERTURB, fill)
            seen.append(_read(path))
    except VideoError as error:
        if seen:
            return {"same": False, "error": f"only at the second reading: {error}"}
        return {"error": f"{error.stage}: {error}"}
    frames, leading, _ = seen[0]
    plain = frames if path.is_dir() else _count(path)
    return {"frames": frames, "leading": leading, "same": seen[0] == seen[1], "plain": plain}


def _read(path: Path) -> tuple[int, int, int]:
    """Number of frames, those left out before them, checksum of pixels and times."""
    from extract.video import open_video

    count, checksum = 0, 0
    with open_video(path) as video:
        for frame in video.frames:
            checksum = zlib.crc32(frame.rgb().tobytes(), checksum)
            checksum = zlib.crc32(repr(frame.pts_s).encode(), checksum)
            count += 1
    return count, video.leading, checksum


def _count(path: Path) -> int:
    """Frames that PyAV gives if errors are passed over."""
    import av

    count = 0
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        assert stream is not None
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            if packet.size or packet.dts is None:
                try:
                    count += len(packet.decode())
                except av.error.FFmpegError:
                    continue
    return count


if __name__ == "__main__":
    main()
