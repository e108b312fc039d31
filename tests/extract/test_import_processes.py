"""HDF5 files over which the library hangs, crashes or wants all memory: the process that reads them ends, in words."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from extract.child_process import send_bytes
from extract.interchange import hdf5_file
from extract.interchange.archive_reading import open_archive
from extract.interchange.hdf5_child import END
from extract.interchange.hdf5_file import ReaderLost, ReaderProcess, ReaderThread, open_hdf5
from extract.interchange.hdf5_layout import FORMAT, FeatureFileError
from extract.interchange.import_archive import check_archive
from tests.extract.interchange import call, make_cache, refused
from tests.extract.support import cache_contents

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are for POSIX systems")
COMMON = ["--stream", "m", "--frames", "every:1", "--fps", 25, "--size", 16, "--stride", 8]
GOOD = np.ones((20, 3), np.float32)


def hang(path: Path, before: Callable[[h5py.File], None] = lambda file: None) -> Path:
    """A file whose last heap of texts has an object of no size, over which HDF5 2.0 steps for ever."""
    with h5py.File(path, "w") as file:
        before(file)
        file.attrs["format"] = FORMAT
    content = bytearray(path.read_bytes())
    first = content.rindex(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    path.write_bytes(content)
    return path


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Their class and the processes that the test starts; each calls ``act`` whenever it is waited for in vain."""
    started: list[Any] = []

    class Watched(ReaderProcess):
        def act(self) -> None:
            """Nothing."""

        def __init__(self, memory_bytes: int, timeout_s: float) -> None:
            super().__init__(memory_bytes, timeout_s)
            started.append(self)

        def listen(self, receive: Any, timeout_s: float, *others: Any) -> Any:
            return super().listen(receive, timeout_s, lambda: self.act() if self._ready else None)

    started.append(Watched)
    monkeypatch.setattr(hdf5_file, "ReaderProcess", Watched)
    return started


def test_a_file_over_which_hdf5_hangs_is_refused(tmp_path: Path, readers: list[Any]) -> None:
    file = hang(tmp_path / "f.h5")
    text = refused("import", file, "--cache", tmp_path / "c.zarr", *COMMON, "--file-timeout", 1)
    assert f"error: {file}: no sign of life from the reader for 1 s; it was ended" in text
    assert "copy or export the file again, or give it more time: --file-timeout 4" in text
    assert not (tmp_path / "c.zarr").exists()
    assert {reader.process.poll() for reader in readers[1:]} <= {-signal.SIGKILL, -signal.SIGALRM}  # who was first


def test_a_hang_in_the_middle_of_an_export_ends_the_check(tmp_path: Path) -> None:
    """The heap of the last texts: the root and other videos are read before."""
    make_cache(tmp_path / "c.zarr")
    assert call("export", tmp_path / "c.zarr", "--output", tmp_path / "c.h5").exit_code == 0
    content = bytearray((tmp_path / "c.h5").read_bytes())
    first = content.rindex(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    (tmp_path / "c.h5").write_bytes(content)
    with open_hdf5(tmp_path / "c.h5", 0.5) as file:
        assert file.is_export()
        archive = open_archive(file)
        with pytest.raises(ReaderLost, match=r"c\.h5: no sign of life from the reader for 0\.5 s"):
            check_archive(archive)


@pytest.mark.parametrize(
    ("number", "ours", "status", "words"),
    [
        (signal.SIGINT, True, 130, "interrupted"),
        (signal.SIGTERM, True, 130, "interrupted"),
        (signal.SIGSEGV, False, 2, "ended with signal 11 (SIGSEGV). The HDF5 library crashed over it: the file is"),
        (signal.SIGKILL, False, 2, "ended with signal 9 (SIGKILL), which others send, or the system for want of"),
    ],
    ids=["Ctrl-C", "SIGTERM", "crash", "killed"],
)
def test_signals_in_the_middle_of_a_hang(
    tmp_path: Path, readers: list[Any], number: int, ours: bool, status: int, words: str
) -> None:
    readers[0].act = lambda reader: os.kill(os.getpid() if ours else reader.process.pid, number)
    before = signal.getsignal(signal.SIGTERM)
    result = call("import", hang(tmp_path / "f.h5"), "--cache", tmp_path / "c.zarr", *COMMON)
    signal.signal(signal.SIGTERM, before)
    assert result.exit_code == status, result.output
    assert words in result.stderr
    assert not (tmp_path / "c.zarr").exists()
    assert [reader.process.poll() is None for reader in readers[1:]] == [False]


def test_a_process_that_hangs_ends_by_itself_where_nobody_is_left(tmp_path: Path) -> None:
    """As after SIGKILL of the import: HDF5 holds Python's lock, so that only the system can end it."""
    reader = ReaderProcess(2**30, 0.2)
    reader.wait_for_start(hdf5_file._part, 60, lambda: None)
    reader.send(json.dumps(["open", str(hang(tmp_path / "f.h5"))]).encode())
    reader.send(json.dumps(["is_export"]).encode())
    assert reader.process.wait(60) == -signal.SIGALRM
    reader.end()


def bomb(path: Path) -> Path:
    """A chunk of 4 MB that unpacks to 1 GiB, of zeros."""
    packer = zlib.compressobj(1)
    block = packer.compress(bytes(2**22)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(2**22)) + packer.flush(zlib.Z_FULL_FLUSH)
    with h5py.File(path, "w") as file:
        made = file.create_dataset("a", (1000, 1000), "f4", chunks=(1000, 1000), compression="gzip")
        made.id.write_direct_chunk((0, 0), block + rest * 255)
    return path


def test_a_file_that_wants_all_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_file, "usual_memory", lambda workers: 2**27)
    text = refused("import", bomb(tmp_path / "f.h5"), "--cache", tmp_path / "c.zarr", *COMMON)
    assert f"{tmp_path}/f.h5: /a: expected an HDF5 file" in text
    assert re.search(r"it may want too much memory: the process that reads it took 0\.\d of the 0\.1 GiB", text), text
    with open_hdf5(tmp_path / "f.h5") as file:
        huge = replace(file.numbers("a", kinds="f", num_axes=(2,)), shape=(10**9, 10**9))
        with pytest.raises(FeatureFileError, match="GiB at once are more than the 0"):
            huge.values()


def test_all_of_a_file_comes_through(tmp_path: Path) -> None:
    """Blocks of rows and lists of texts of more than one part, both ways of numbers, and any text."""
    rng = np.random.default_rng(0)
    large = rng.standard_normal((5, 1200, 1000)).astype(">f4")
    words = [f"{n} \x01 \u20ac" * 20 for n in range(5000)]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a/large"], file["a/chunks"] = large, file.create_dataset("c", data=large[0], chunks=(7, 1000))
        file["a/words"] = words
        file["a"].attrs.update({"n": 2**63 - 1, "x": float("nan"), "t": '["\\u00e4"]', "yes": True})
    with open_hdf5(tmp_path / "f.h5") as found:
        group = found.group("a")
        assert group.names() == ["chunks", "large", "words"]
        marks = group.attributes()
        assert np.isnan(marks.pop("x"))
        assert marks == {"n": 2**63 - 1, "t": ["\u00e4"], "yes": True}
        numbers = group.numbers("large", kinds="f", num_axes=(3,))
        np.testing.assert_array_equal(numbers.values(), large)
        np.testing.assert_array_equal(numbers.values(2, 3), large[2:3])
        np.testing.assert_array_equal(group.numbers("chunks", kinds="f", num_axes=(2,)).values(3, 900), large[0, 3:900])
        assert group.texts("words").tolist() == words


def test_without_processes_files_are_read_in_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path / "c.zarr")
    assert call("export", tmp_path / "c.zarr", "--output", tmp_path / "c.h5").exit_code == 0
    monkeypatch.setattr(hdf5_file, "ReaderProcess", ReaderThread)
    assert call("import", tmp_path / "c.h5", "--cache", tmp_path / "d.zarr").exit_code == 0
    assert cache_contents(tmp_path / "d.zarr") == cache_contents(tmp_path / "c.zarr")


LIES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "no JSON": (b"(", lambda group: group.names()),
    "deep nesting": (b"[" * 10**6, lambda group: group.names()),
    "numbers for names": ([1], lambda group: group.names()),
    "a table for an attribute": ([["a", {}]], lambda group: group.attributes()),
    "an array of objects": ([["object", [1, 2]]], lambda group: group.numbers("a", kinds="f", num_axes=(2,))),
    "a shape below zero": ([["float32", [-1, 2]]], lambda group: group.numbers("a", kinds="f", num_axes=(2,))),
    "two answers": ([True, True], lambda group: group.is_export()),
    "rows that nobody asked for": ({"rows": 1}, lambda group: group.names()),
    "fewer rows": ([], lambda group: values_of(group)),
    "more rows": ({"rows": 10**9}, lambda group: values_of(group)),
}


def values_of(group: Any) -> np.ndarray:
    found: np.ndarray = hdf5_file.Numbers(group._file, ("a",), "a", np.dtype("f4"), (4, 4)).values()
    return found


@pytest.mark.parametrize("lie", LIES)
def test_what_a_process_sends_is_not_believed(lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, ask = LIES[lie]

    class Liar(ReaderProcess):
        process: Any = SimpleNamespace(kill=lambda: None)

        def __init__(self, memory_bytes: int, timeout_s: float) -> None:
            self._link, self.theirs = socket.socketpair()
            for data in (END, b"[true]", END, words if isinstance(words, bytes) else json.dumps(words).encode(), END):
                self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
                self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
                send_bytes(self.theirs, data)

        def end(self) -> None:
            self._link.close()
            self.theirs.close()

    monkeypatch.setattr(hdf5_file, "ReaderProcess", Liar)
    with open_hdf5(tmp_path / "f.h5") as group, pytest.raises(ReaderLost, match=r"nonsense|2 answers"):
        ask(group)
