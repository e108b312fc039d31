"""Kills ``extract run`` at random moments, starts it again until it is done, and compares what it made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from extract.faults.ledger import FailureLedger
from shared.cache import FeatureCache
from tests.extract.support import REPO, cache_contents, write_video

PATIENCE_S = 120.0
TOO_EARLY = "Fatal Python error: init"  # Ctrl-C while Python itself starts
GO_ON = "run the same command again to go on"
WAYS = {  # way -> signals, the exit statuses that they may lead to
    "SIGKILL": ((signal.SIGKILL,), {-9}),
    "SIGTERM": ((signal.SIGTERM,), {130, -15}),  # the latter: before the program has begun to listen
    "SIGINT": ((signal.SIGINT,), {130, -2}),
    "SIGINT twice": ((signal.SIGINT, signal.SIGINT), {130, -2}),
    "SIGTERM twice": ((signal.SIGTERM, signal.SIGTERM), {130, -15}),
    "decoder": ((), {1}),  # not the run is killed, but a process that decodes for it
}


def write_clips(folder: Path) -> Path:
    """A data set of six clips and a frame folder; none takes long, and two are longer than one batch."""
    folder.mkdir(parents=True)
    for number, frames in enumerate((20, 90, 64, 131, 1, 75)):
        write_video(folder / f"{number}.mp4", frames, seed=number)
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 41):
        Image.fromarray(rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)).save(pictures / f"{number:05d}.png")
    return folder


def count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def children(pid: int) -> list[int]:
    """Processes below a process, of all generations."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents.setdefault(int(words[1]), []).append(int(entry.parent.name))
    found = list(parents.get(pid, ()))
    for child in found:
        found += parents.get(child, ())
    return found


def alive(pids: Sequence[int]) -> list[int]:
    """Those of some processes that have not ended."""
    left = []
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if words[0] != "Z":
            left.append(pid)
    return left


@dataclass(frozen=True)
class Ended:
    """How a process ended: status (as of subprocess), what it printed, how long it took to end after the kill."""

    status: int
    output: str
    took_s: float


@dataclass
class Killing:
    """A data set, and the cache that one run makes of it when nobody disturbs it.

    Attributes:
        folder: the data set.
        scratch: where caches, and the processes' temporary files, are put.
        whole: where the undisturbed cache belongs.
        took_s: how long an undisturbed run takes.
        counts: (way, status) of every kill.
    """

    folder: Path
    scratch: Path
    took_s: float = 0.0
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.whole = self.scratch / "whole.zarr"
        self.temporary = self.scratch / "tmp"
        self.temporary.mkdir(parents=True)

    def run_undisturbed(self) -> None:
        """Make the cache that all others are compared with, and learn how long a run takes."""
        started = time.monotonic()
        ended = wait(self.start(self.whole))
        assert ended.status == 0, ended.output
        self.took_s = time.monotonic() - started

    @cached_property
    def num_files(self) -> int:
        """Files of the undisturbed cache."""
        return count_files(self.whole)

    def start(self, url: Path, *options: str) -> subprocess.Popen[str]:
        """``extract run`` into a cache, as a process."""
        words = (sys.executable, "-m", "extract", "run", str(self.folder), "--preset", "tiny", "--cache", str(url))
        command = [*words, *options]
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(self.scratch / "torch")  # kept on purpose, beside TMPDIR
        return subprocess.Popen(
            command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def kill(self, url: Path, way: str, rng: np.random.Generator, files: int | None = None) -> Ended:
        """Start a run and kill it at a random moment, or when the cache has so many files."""
        run = self.start(url)
        self.wait_for_moment(run, url, rng, files)
        ended = strike(run, way, rng)
        self.counts[way, ended.status] += 1
        complete_is_whole(url)
        return ended

    def wait_for_moment(
        self, run: subprocess.Popen[str], url: Path, rng: np.random.Generator, files: int | None = None
    ) -> None:
        """A moment from the start of the process to its end; half of them while it writes, which is soon over."""
        by_time = files is None and bool(rng.random() < 0.5)
        deadline = time.monotonic() + (self.took_s * rng.random() if by_time else PATIENCE_S)
        if files is None:
            files = int(rng.integers(count_files(url), self.num_files + 1))
        while run.poll() is None and time.monotonic() < deadline and (by_time or count_files(url) < files):
            time.sleep(0.002)

    def finish(self, url: Path) -> None:
        """Run until all is done; videos whose decoder was killed twice have to be asked for."""
        ended = wait(self.start(url, "--retry-failed"))
        assert ended.status == 0, ended.output

    def check(self, url: Path) -> None:
        """A cache that is done is that of the undisturbed run, and nothing else is left of all the runs."""
        assert cache_contents(url) == cache_contents(self.whole)
        assert FailureLedger(str(url)).failures() == {}
        assert litter(url) == []
        assert os.listdir(self.temporary) == [], list(self.temporary.rglob("*"))


def strike(run: subprocess.Popen[str], way: str, rng: np.random.Generator) -> Ended:
    """Kill a run, or one of the processes that decode for it; no process of it may be left behind."""
    family = children(run.pid)
    began = time.monotonic()
    if way == "decoder" and family:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(int(rng.choice(family)), signal.SIGKILL)
    signals, statuses = WAYS[way]
    for number, one in enumerate(signals):
        time.sleep(0.3 * rng.random() * bool(number))
        run.send_signal(one)
    ended = wait(run, began)
    while alive(family) and time.monotonic() < began + PATIENCE_S:
        time.sleep(0.01)
    assert alive(family) == [], f"processes of the run outlive it ({way})"
    if TOO_EARLY in ended.output:
        return ended
    assert ended.status in statuses | {0}, f"{way}: status {ended.status}\n{ended.output}"
    if ended.status == 130:
        assert ended.output.count("interrupted") == ended.output.count(GO_ON) == 1, ended.output
    assert "Traceback" not in ended.output or ended.status == -2, ended.output
    return ended


def wait(run: subprocess.Popen[str], began: float | None = None) -> Ended:
    began = time.monotonic() if began is None else began
    output = run.communicate(timeout=PATIENCE_S)[0]
    return Ended(run.returncode, output, time.monotonic() - began)


def complete_is_whole(url: Path) -> None:
    """Whatever counts as complete in a cache has its checksums."""
    if not (url / "zarr.json").exists():
        return
    cache = FeatureCache.open(url)
    for video in cache.video_ids():
        assert [line for line in cache.verify(video) if "unfinished" not in line] == []


def litter(url: Path) -> list[str]:
    """What should not be beside a cache or in it when all is done."""
    beside = [p.name for p in url.parent.iterdir() if p.suffix in (".claims", ".inflight")]
    return beside + [str(p.relative_to(url.parent)) for p in url.parent.rglob("*.partial")]
