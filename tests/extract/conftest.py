"""Fixtures of the extract stage's tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extract.__main__ import app

# Read when torch is first imported. Contended threads are 10-30 times slower, and results are compared to the bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """``python -m extract`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)  # a run replaces it
    yield lambda *words: CliRunner().invoke(app, [str(w) for w in words])
    signal.signal(signal.SIGTERM, before)
