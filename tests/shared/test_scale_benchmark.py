"""The benchmark of a million videos' metadata at a toy size: it runs, and nothing of it is left behind."""

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_scale_metadata(tmp_path: Path) -> None:
    parts = ["--part", "groups", "--part", "status", "--part", "fold"]
    options = [*parts, "--groups", "20", "--videos", "4500", "--folder", tmp_path, "--json", tmp_path / "out.json"]
    command = [sys.executable, "benchmarks/scale_metadata.py", *map(str, options)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4500/4500 videos complete" in done.stderr, "from the index alone: these videos have no groups"
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["groups_files_per_video"] == 18
    assert figures["index_mb"] > 1
    assert figures["status_peak_mib"] > 10
    assert [f.name for f in tmp_path.iterdir()] == ["out.json"]
