"""Exports that are damaged at random, imported again: refused in words, or exactly what was exported. Never a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.extract.interchange import call, make_cache
from tests.extract.support import REPO, cache_contents
from tests.soak.conftest import Soak

pytestmark = pytest.mark.soak
AT_ONCE = 50
# In a process of its own: what the command lets through would end the tests.
SCRIPT = """
import sys
from pathlib import Path
from extract.__main__ import app
for file in map(Path, sys.argv[1:]):
    try:
        app(["import", str(file), "--cache", str(file.with_suffix(".zarr")), "--file-timeout", "10"])
    except SystemExit as end:
        print(file.name, end.code, flush=True)
"""


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One to 64 bytes flipped, zeroed or cut off, or a part copied over another."""
    values, place = bytearray(content), int(rng.integers(len(content)))
    size = min(int(rng.integers(1, 65)), len(content) - place)
    kind = rng.integers(4)
    if kind == 0:
        values[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        values[place : place + size] = bytes(size)
    elif kind == 2:
        del values[place:]
    else:
        start = int(rng.integers(len(content) - size))
        values[place : place + size] = content[start : start + size]
    return bytes(values)


def test_damaged_exports(tmp_path: Path, soak: Soak) -> None:
    make_cache(tmp_path / "c.zarr")
    assert call("export", tmp_path / "c.zarr", "--output", tmp_path / "c.h5").exit_code == 0
    content, expected = (tmp_path / "c.h5").read_bytes(), cache_contents(tmp_path / "c.zarr")
    rng, cases, ends = soak.rng(6), soak.cases(600), {0: 0, 2: 0}
    hangs = crashes = 0
    for first in range(0, cases, AT_ONCE):
        files = [tmp_path / f"{number}.h5" for number in range(first, min(cases, first + AT_ONCE))]
        for file in files:
            file.write_bytes(damaged(content, rng))
        command = [sys.executable, "-c", SCRIPT, *map(str, files)]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=600)
        said = dict(line.split() for line in done.stdout.splitlines() if line.split(".")[0].isdigit())
        assert done.returncode == 0, (len(said), done.stderr[-2000:])
        assert "Traceback" not in done.stderr, done.stderr[-4000:]
        for file in files:
            ends[int(said[file.name])] += 1
            if said[file.name] == "0":
                assert cache_contents(file.with_suffix(".zarr")) == expected, file
        hangs += done.stderr.count("no sign of life")
        crashes += done.stderr.count("the reader process ended")
    how = f"{hangs} of them over which HDF5 hung, {crashes} over which it crashed"
    soak.note(f"damaged exports: {cases} cases, {ends[2]} refused, {how}, {ends[0]} came back whole")
