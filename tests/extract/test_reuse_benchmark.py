"""The reuse benchmark at toy sizes: it runs, both ways agree, and the keys that others read are there."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.soak  # test_reuse.py has that both ways agree
def test_quick_run(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "benchmarks/extract_reuse.py", "--quick", "--strides", "16", "64", "--json", str(out)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    ratios = [f"{name}_stride16_ratio" for name in ("videoprism", "clip", "captions")]
    for key in [*ratios, "videoprism_stride16_limit_share", "stride64_ratio"]:
        assert figures[key] > 0
        assert math.isfinite(figures[key])
    assert figures["max_abs_diff"] < 1e-4
    # 45 windows of 16 samples have 12 + 45 * 4 distinct frames, 57 of 4 have 3 + 57.
    assert figures["videoprism_stride16_windows"] == 5
    assert figures["clip_stride16_limit"] == 720 / 192
    assert figures["captions_stride16_limit"] == 228 / 60
    assert figures["videoprism_stride64_limit"] == 1
    assert "gpu_spatial_pallas_batch8_frames_per_s" in figures
    assert "gpu_clip_batch4_utilisation" in figures
