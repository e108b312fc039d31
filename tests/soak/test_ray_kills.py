"""Encoder processes, decode tasks, nodes and drivers killed at random, on a Ray cluster of several local processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.extract.kills import GO_ON, Killing, complete_is_whole, count_files, wait, write_clips
from tests.extract.support import write_video
from tests.soak.conftest import Soak

pytest.importorskip("ray")

from tests.extract.ray_cluster import SmallCluster

pytestmark = pytest.mark.soak

WAYS = ("encoder", "decode task", "node", "driver", "driver's SIGTERM")
KILLS = 4  # of one run at most: a video that loses its task three times has failed
PATIENCE_S = 120.0


def strike(cluster: SmallCluster, run: subprocess.Popen[str], way: str, rng: np.random.Generator) -> bool:
    """Kill one of those that are there; returns whether there was one."""
    if way.startswith("driver"):
        run.send_signal(signal.SIGTERM if "SIGTERM" in way else signal.SIGKILL)
        return True
    if way == "node":
        return cluster.kill_a_node("EncoderProcess")
    found = cluster.processes("EncoderProcess" if way == "encoder" else "decode_blocks")
    if found:
        os.kill(int(rng.choice(found)), signal.SIGKILL)
    return bool(found)


def test_kills_on_a_cluster(tmp_path: Path, soak: Soak) -> None:
    killing, rng, counts = Killing(write_clips(tmp_path / "clips"), tmp_path / "scratch"), soak.rng(9), Counter[str]()
    for number in range(10, 30):
        write_video(killing.folder / f"{number}.mp4", 150, seed=number)
    killing.run_undisturbed()
    with SmallCluster() as cluster:
        for series in range(soak.cases(20)):
            url = killing.scratch / f"series{series}" / "killed.zarr"
            for attempt in range(KILLS + 1):
                run = killing.start(url, *cluster.options, "--actors", "2", "--retry-failed")
                for _ in range(KILLS if attempt < KILLS else 0):
                    last, deadline = killing.num_files - 1, time.monotonic() + PATIENCE_S
                    files = int(rng.integers(min(count_files(url), last), last + 1))
                    while run.poll() is None and count_files(url) < files and time.monotonic() < deadline:
                        time.sleep(0.01)
                    way = str(rng.choice(WAYS, p=[0.35, 0.25, 0.2, 0.1, 0.1]))
                    counts[way] += strike(cluster, run, way, rng) if run.poll() is None else 0
                ended = wait(run)
                complete_is_whole(url)
                assert ended.status in (0, 130, -9, -15), ended.output
                assert ended.status != 130 or GO_ON in ended.output, ended.output
                if ended.status == 0:
                    break
            killing.check(url)
    told = ", ".join(f"{count} of {way}" for way, count in sorted(counts.items()))
    soak.note(f"cluster: {counts.total()} kills survived ({told})")
