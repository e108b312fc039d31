"""The benchmark of training runs at toy size and gives the figures it promises; their sizes are no matter of tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def test_the_benchmark_runs_and_both_ways_agree(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    command = [sys.executable, "benchmarks/train_speed.py", "--quick", "--repeats", "1", "--json", tmp_path / "o.json"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, env=_here())
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "o.json").read_text())
    keys = ("resident_over_hdf5", "resident_over_zarr", "bulk_read_over_hdf5", "folds_together_ratio")
    assert all(found[key] > 0 for key in keys)
    assert found["max_abs_diff"] < 1e-4
    assert "features resident on cpu" in done.stdout


def _here() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
