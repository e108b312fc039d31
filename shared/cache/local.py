"""Files of a cache on a local disk, written and removed by the thread that asks.

zarr has them written by two other threads, its own and one of a pool. Beside encoders that hold Python's lock each
handing over waits for that lock, and a short clip's twenty small files took longer to hand over than to write.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress

PARTIAL = ".partial"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def write_file(path: str, value: bytes, *, exclusive: bool = False) -> None:
    """Write a file whole or not at all, and the folders above it; with ``exclusive``, only if there is none.

    It is written beside its place, under a name (``*.partial``) that readers pass over, and then moved there.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    for _ in range(3):
        with suppress(FileNotFoundError):  # another process took it for a leftover, or removed the folder
            _write(path, value, exclusive)
            return
    _write(path, value, exclusive)


def sweep(folder: str) -> None:
    """Remove what killed processes have half written in a folder; whoever is writing there writes again."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder):
            if name.endswith(PARTIAL):
                with suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")


def _write(path: str, value: bytes, exclusive: bool) -> None:
    folder, name = os.path.split(path)
    beside = f"{folder}/{os.path.splitext(name)[0]}.{uuid.uuid4().hex}{PARTIAL}"
    try:
        file = os.open(beside, _NEW, 0o666)
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
        file = os.open(beside, _NEW, 0o666)
    try:
        try:
            rest = memoryview(value)
            while rest:  # once, unless the value is huge or the disk nearly full
                rest = rest[os.write(file, rest) :]
        finally:
            os.close(file)
        if exclusive:
            with suppress(FileExistsError):
                _move_new(beside, path)
        else:
            os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _move_new(source: str, target: str) -> None:
    """Move a file to where there is none; raises ``FileExistsError`` if there is one, and leaves it."""
    try:
        if os.name == "nt":
            os.rename(source, target)  # refuses to replace there, and only there
        else:
            os.link(source, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(source)


def remove_folder(path: str) -> None:
    """Remove a folder with all that is below it; no error if there is none.

    Raises:
        OSError: as of ``shutil.rmtree``, also if another process removes or writes there meanwhile.
    """
    if os.path.isdir(path):
        shutil.rmtree(path)
