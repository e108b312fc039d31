"""A run that is killed outright, again and again, ends in the cache of a run that was not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from typer.testing import Result

from shared.cache import FeatureCache
from shared.ledger import FailureLedger
from tests.extract.support import REPO, cache_contents, write_video

PATIENCE_S = 120


def count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def run_and_kill(folder: Path, url: Path, num_files: int) -> int:
    """SIGKILL ``extract run`` once the cache has so many files; its exit status."""
    command = [sys.executable, "-m", "extract", "run", str(folder), "--preset", "tiny", "--cache", str(url)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + PATIENCE_S
        while run.poll() is None and count_files(url) < num_files and time.monotonic() < deadline:
            time.sleep(0.001)
        run.kill()
        run.communicate()
    return run.returncode


def test_sigkill_at_random_moments(tmp_path: Path, cli: Callable[..., Result]) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, frames in enumerate((20, 90, 64, 131, 1, 75)):
        write_video(folder / f"{number}.mp4", frames, seed=number)
    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    assert cli("run", folder, "--preset", "tiny", "--cache", whole).exit_code == 0
    total = count_files(whole)

    rng = np.random.default_rng(0)
    moments = sorted(int(m) for m in rng.integers(total // 8, total - 4, 3))
    statuses = []
    for moment in moments:
        statuses.append(run_and_kill(folder, killed, moment))
        for video in FeatureCache.open(killed).video_ids():  # what counts as complete is whole
            assert [line for line in FeatureCache.open(killed).verify(video) if "unfinished" not in line] == []
    assert statuses.count(-9) >= 2  # the last one may have come too late

    assert cli("run", folder, "--preset", "tiny", "--cache", killed).exit_code == 0
    assert cache_contents(killed) == cache_contents(whole)
    assert FailureLedger(str(killed)).failures() == {}
    assert cli("verify", killed).exit_code == 0
