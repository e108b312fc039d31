"""The benchmarks of decoding and of the pipeline at toy sizes: they run, and the keys that others read are there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.extract.support import write_video

REPO = Path(__file__).resolve().parents[2]


def run_benchmark(script: str, out: Path, *options: Any) -> dict[str, Any]:
    """Its JSON figures; every number in it is finite."""
    command = [sys.executable, f"benchmarks/{script}", *map(str, options), "--json", str(out)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(out.read_text())
    assert all(math.isfinite(v) for v in figures.values() if isinstance(v, float))
    return figures


@pytest.mark.soak
def test_overlap(tmp_path: Path) -> None:
    options = ["--only", "720p", "--frames", 12, "--copies", 2, "--loads", 1]
    figures = run_benchmark("extract_pipeline.py", tmp_path / "out.json", *options)
    assert figures["wall_over_slowest"] == figures["720p_load1_ratio"] > 0
    assert figures["720p_load1_decode_frames_per_s"] > 0


def test_decoders(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", 9)
    figures = run_benchmark("decode.py", tmp_path / "out.json", "--videos", videos, "--frames", 4)
    assert figures["files"] == 3
    assert figures["pyav_none_1_exact_files"] == 3
    assert figures["pyav_none_1_speedup_all"] == 1


@pytest.mark.soak
def test_many_videos(tmp_path: Path) -> None:
    figures = run_benchmark("many_videos.py", tmp_path / "out.json", "--clips", 3, "--calibrate", 200)
    assert figures["frames"] == 64 + 65 + 66
    assert figures["tiny_ratio"] > 0
    assert figures["sleeping_ratio"] > 0
    assert figures["sleeping_rate"] > 0
    for kind in ("tiny", "sleeping"):
        assert figures[f"{kind}_ratio_per_item"] * figures[f"{kind}_encoded_ratio"] == pytest.approx(
            figures[f"{kind}_ratio"]
        )
    assert 17 < figures["files_per_clip"] < 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems count memory in other units")
def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    """Ten times as long; holding its 640x480 frames, or even what is resized of them, would take far more."""
    long = write_video(tmp_path / "long.mp4", 1500, size=(640, 480))
    figures = run_benchmark("memory.py", tmp_path / "out.json", "--file", long, "--frames", 150)
    assert figures["long_mib"] - figures["short_mib"] < 150  # 1,350 frames of YUV are 590 MiB, of RGB twice that
