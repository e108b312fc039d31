"""Runs that are killed at random, and started again until they are done, make the cache of an undisturbed one."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from extract.faults.ledger import FailureLedger
from tests.extract.kills import WAYS, Killing, complete_is_whole, strike, wait, write_clips
from tests.extract.support import REPO
from tests.soak.conftest import Soak

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def killing(tmp_path_factory: pytest.TempPathFactory) -> Killing:
    folder = tmp_path_factory.mktemp("kills")
    killing = Killing(write_clips(folder / "clips"), folder / "scratch")
    killing.run_undisturbed()
    return killing


def told(killing: Killing) -> str:
    """How many kills of each way, and what came of them; 0: it had just ended, or the decoder's video was not lost."""
    counts = sorted(killing.counts.items())
    return ", ".join(f"{way} -> {status}: {count}" for (way, status), count in counts)


def test_kills_of_one_run(killing: Killing, soak: Soak) -> None:
    rng, kills, series = soak.rng(0), 0, 0
    ways = list(WAYS)
    weights = np.array([4 if way == "SIGKILL" else 1 for way in ways])
    slowest, killing.counts = 0.0, type(killing.counts)()
    while kills < soak.cases(50):
        url = killing.scratch / f"series{series}" / "killed.zarr"
        series += 1
        for _ in range(8):
            way = str(rng.choice(ways, p=weights / weights.sum()))
            ended = killing.kill(url, way, rng)
            slowest = max(slowest, ended.took_s if way != "decoder" else 0.0)
            kills += way == "decoder" or ended.status != 0
            if ended.status == 0 and way != "decoder" and not FailureLedger(str(url)).failures():
                break  # it was quicker, and all is done
        killing.finish(url)
        killing.check(url)
    soak.note(f"one run: {kills} kills in {series} series survived ({told(killing)}); ended within {slowest:.1f} s")


def test_kills_of_two_runs_on_one_cache(killing: Killing, soak: Soak) -> None:
    rng, kills, killing.counts = soak.rng(1), 0, type(killing.counts)()
    for series in itertools.count():
        url = killing.scratch / f"pair{series}" / "killed.zarr"
        runs: list[subprocess.Popen[str]] = [killing.start(url), killing.start(url)]
        for _ in range(4):
            victim = int(rng.integers(2))
            killing.wait_for_moment(runs[victim], url, rng)
            way = str(rng.choice(["SIGKILL", "SIGTERM", "SIGINT"]))
            ended = strike(runs[victim], way, rng)
            killing.counts[way, ended.status] += 1
            kills += ended.status != 0
            complete_is_whole(url)
            runs[victim] = killing.start(url)
        for run in runs:
            ended = wait(run)
            assert ended.status == 0, ended.output
        killing.check(url)
        if kills >= soak.cases(12):
            soak.note(f"two runs: {kills} kills in {series + 1} series survived ({told(killing)})")
            return


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of its own, of one page."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)], check=False)
    if done.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield place  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_again_and_again(killing: Killing, soak: Soak, small_disk: Path) -> None:
    rng, url = soak.rng(2), small_disk / "in" / "killed.zarr"
    size, full = 0, 0
    num_bytes = sum(p.stat().st_blocks * 512 for p in killing.whole.rglob("*"))
    while True:
        size += int(num_bytes * rng.uniform(0.1, 0.35))
        subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
        ended = wait(killing.start(url))
        assert "Traceback" not in ended.output, ended.output
        complete_is_whole(url)
        if ended.status == 0:
            break
        assert ended.status == 2, ended.output
        assert "No space left on device" in ended.output, ended.output
        full += 1
    assert full
    killing.check(url)
    assert os.listdir(small_disk) == ["in"]
    soak.note(f"full disk: {full} times, the last cache is whole")


@pytest.mark.parametrize("form", ["h5", "parquet"])
def test_kills_of_an_export(killing: Killing, soak: Soak, tmp_path: Path, form: str) -> None:
    rng, kills = soak.rng(3), 0
    output = tmp_path / f"features.{form}"

    def start(output: Path) -> subprocess.Popen[str]:
        words = ["export", str(killing.whole), "--format", form, "--output", str(output), "--overwrite"]
        return subprocess.Popen(
            [sys.executable, "-m", "extract", *words],
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    began = time.monotonic()
    ended = wait(start(tmp_path / "undisturbed"))
    took_s = time.monotonic() - began
    assert ended.status == 0, ended.output
    wanted = content(tmp_path / "undisturbed")
    while kills < soak.cases(12):
        run = start(output)
        with suppress(subprocess.TimeoutExpired):  # the beginning is imports, as in any command
            run.wait(took_s * rng.uniform(0.3, 1.1))
        kills += strike(run, str(rng.choice(["SIGKILL", "SIGTERM", "SIGINT"])), rng).status != 0
        assert not output.exists() or content(output) == wanted  # whole or not there
    assert wait(start(output)).status == 0
    assert content(output) == wanted
    assert sorted(os.listdir(tmp_path)) == [output.name, "undisturbed"]
    soak.note(f"export to {form}: {kills} kills survived")


def content(output: Path) -> dict[str, bytes]:
    """Every byte of a file, or of all files of a folder."""
    files = [output] if output.is_file() else [p for p in output.rglob("*") if p.is_file()]
    return {str(file.relative_to(output)): file.read_bytes() for file in files}
