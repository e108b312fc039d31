"""Fixtures of the extract stage's tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extract.__main__ import app
from extract.interchange import hdf5_file
from extract.interchange.hdf5_file import ReaderProcess

# Read when torch is first imported. Contended threads are 10-30 times slower, and results are compared to the bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """``python -m extract`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)  # a run replaces it
    yield lambda *words: CliRunner().invoke(app, [str(w) for w in words])
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def one_reader() -> Iterator[None]:
    """One process reads the HDF5 files of all imports of a module: to start one takes a quarter of a second."""

    class Kept(ReaderProcess):
        def end(self) -> None:
            """Not yet."""

    kept: list[ReaderProcess] = []

    def reader(memory_bytes: int, timeout_s: float) -> ReaderProcess:
        if not kept or kept[-1].process.poll() is not None:
            kept.append(Kept(memory_bytes, timeout_s))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5_file, "ReaderProcess", reader)
        yield
    for each in kept:
        ReaderProcess.end(each)
