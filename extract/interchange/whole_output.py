"""A file or folder that is there whole or not at all: it is made beside its place and moved there at the end.

A process that is killed leaves what it has made so far as ``NAME.<random>.partial``. It held a lock on that, so the
next one that makes the same thing knows that nobody is at work on it any more, and removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

PARTIAL, OLD = ".partial", ".old"


class OutputError(ValueError):
    """The output cannot be written where it was asked for; the message says why and what to do."""


def check_place(target: Path, *, folder: bool, overwrite: bool) -> None:
    """Refuse a place before any work is done; what killed processes left of it is removed.

    Raises:
        OutputError: no such folder, something is there already, or it is neither a file nor a folder, as wanted.
    """
    if not target.parent.is_dir():
        raise OutputError(f"--output {target}: there is no folder {target.parent}; make it, or give another place")
    sweep(target)
    if not os.path.lexists(target):
        return
    _check_kind(target, folder)
    if not overwrite:
        raise OutputError(f"--output {target} is there already; give another place, or replace it: --overwrite")


def _check_kind(target: Path, folder: bool) -> None:
    """Refuse what a move would replace and nobody means to lose: devices, pipes, links, and the other kind."""
    mode = os.lstat(target).st_mode
    if (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        return
    wanted = ("a file", "a folder")[folder]
    if stat.S_ISLNK(mode):
        raise OutputError(f"--output {target}: expected {wanted}, found a link; give the place that it leads to")
    found = "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a device, pipe or socket"
    raise OutputError(f"--output {target}: expected {wanted}, found {found}; give another place")


@contextmanager
def whole_output(target: Path, *, folder: bool, overwrite: bool) -> Iterator[Path]:
    """Where to write instead: an empty file or folder, moved to ``target`` if all went well, else removed.

    Raises:
        OutputError: as of ``check_place``, also if the target came to be meanwhile.
        OSError: it cannot be written; what was there before is still there.
    """
    check_place(target, folder=folder, overwrite=overwrite)
    part, lock = _begin(target, folder)
    try:
        yield part
        if not folder:
            _sync(part)
        _move(part, target, folder, overwrite)
    finally:
        os.close(lock)
        _remove(part)


def sweep(target: Path) -> None:
    """Remove what killed processes have left of a target; a folder that one had moved aside comes back."""
    for old in _leftovers(target, OLD):
        with suppress(OSError):
            if os.path.lexists(target):
                _remove(old)
            else:
                os.rename(old, target)
    for part in _leftovers(target, PARTIAL):
        lock = _locked(part)
        if lock is not None:
            _remove(part)
            os.close(lock)


def _leftovers(target: Path, ending: str) -> list[Path]:
    names = [p for p in target.parent.iterdir() if p.name.startswith(f"{target.name}.") and p.name.endswith(ending)]
    # Exactly our own: eight hex digits between the name and the ending.
    own = [p for p in names if _is_mark(p.name[len(target.name) + 1 : -len(ending)])]
    return [p for p in own if p.is_file() or p.is_dir()]  # a pipe of such a name would hold up whoever opens it


def _is_mark(text: str) -> bool:
    return len(text) == 8 and set(text) <= set("0123456789abcdef")


def _begin(target: Path, folder: bool) -> tuple[Path, int]:
    """An empty place beside the target, and the lock on it."""
    for _ in range(10):
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        if folder:
            part.mkdir()
        else:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            lock = os.open(part, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for a leftover before it was locked
            continue
        if _lock(lock) and os.path.lexists(part):
            return part, lock
        os.close(lock)
    raise OutputError(f"--output {target}: other processes write there all the time; give another place")


def _lock(handle: int) -> bool:
    """Whether nobody else has the lock now; also where there are no locks."""
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:
        return True


def _locked(part: Path) -> int | None:
    """A handle with the lock on somebody's leftover; None if that is at work, or nobody can say."""
    with suppress(OSError):
        handle = os.open(part, os.O_RDONLY)
        try:
            if lock_descriptor(handle, blocking=False):
                return handle
        except OSError:  # a disk without locks
            pass
        os.close(handle)
    return None


def _sync(part: Path) -> None:
    handle = os.open(part, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move(part: Path, target: Path, folder: bool, overwrite: bool) -> None:
    if overwrite and os.path.lexists(target):
        _check_kind(target, folder)  # making the output may have taken hours
    if overwrite and not folder:
        os.replace(part, target)
        return
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{OLD}")
    if overwrite and os.path.lexists(target):
        os.rename(target, aside)  # no system call of Python's exchanges two folders; sweep() mends a kill right here
    try:
        if folder:
            os.rename(part, target)  # refuses a folder that is not empty
        else:
            os.link(part, target)  # refuses to replace
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputError(f"--output {target} came to be meanwhile; replace it: --overwrite") from None
        if folder or os.path.lexists(target):
            raise
        os.rename(part, target)  # a file system without links
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
