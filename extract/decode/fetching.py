"""Videos of an object store as files: copied before they are decoded, removed right after.

The decoder gets what it always gets, a plain file: it seeks as it likes, and digest and frames are those of the local
video. Copying is the run's part, not the decoder process's, which needs no network and no credentials for its hostile
work. A run has as many copies at once as workers, in a folder of its own in the system's temporary one (TMPDIR).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from extract.decode.events import Job
from extract.video import UnreadableFile
from extract.video.remote import fetch
from extract.video.sources import unreadable
from shared.videos.remote import RemoteFile, Stamp

PREFIX, LOCK = "crossgru-videos-", "lock"
TRIES = 2  # an object that is replaced while it is copied is copied once more


class Copies:
    """The copies of one run; may be used by several threads, and again after ``close``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._held: FileLock | None = None
        self._count = 0

    @contextmanager
    def of(self, job: Job, check: Callable[[], None] = lambda: None) -> Iterator[Job]:
        """The job with a file that can be decoded, which is there until the block ends.

        Args:
            check: called while it is copied; may raise to give up.

        Raises:
            VideoError: there is no such object, it cannot be read, or there is no room for it.
        """
        if not isinstance(job.file, RemoteFile):
            yield job
            return
        copy = self._place(job.file)
        try:
            stamp = _fetch(job.file, copy, check)
            yield replace(job, file=copy, origin=stamp)
        finally:
            copy.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder; nothing may be in use any more."""
        with self._lock:
            if self._folder is not None and self._held is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._held.release()
            self._folder = self._held = None

    def _place(self, file: RemoteFile) -> Path:
        with self._lock:
            if self._folder is None:
                try:
                    sweep()
                    self._folder, self._held = _make_folder()
                except OSError as error:
                    raise UnreadableFile("open", f"no temporary folder for copies of videos: {error}") from None
            self._count += 1
            # FFmpeg also goes by a file's ending; the rest of the name is hostile.
            ending = re.search(r"\.[A-Za-z0-9]{1,8}$", file.path)
            return self._folder / f"{self._count}{ending.group() if ending else ''}"


def _make_folder() -> tuple[Path, FileLock]:
    """A new folder and the lock that says that it is in use."""
    early = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}"))
    held = FileLock(early / LOCK, thread_local=False)
    held.acquire(timeout=0)  # before anybody can take it for that of a dead run
    return early.rename(early.with_name(early.name.removeprefix("new-"))), held


def _fetch(file: RemoteFile, to: Path, check: Callable[[], None]) -> Stamp:
    """Copy an object as it is at one moment; returns what tells it."""
    try:
        stamp = file.root.stamp_now(file.path)
        for _ in range(TRIES):
            if stamp["bytes"] > shutil.disk_usage(to.parent).free:
                raise _no_room(to, stamp)
            fetch(file, to, check)
            before, stamp = stamp, file.root.stamp_now(file.path)
            if stamp == before and to.stat().st_size == stamp["bytes"]:
                return stamp
    except FileNotFoundError:
        raise UnreadableFile("open", f"there is no object {file}") from None
    except OSError as error:
        raise _no_room(to, stamp) if error.errno == errno.ENOSPC else unreadable(error) from None
    raise UnreadableFile("open", f"the object changed while it was copied: {file}")


def _no_room(to: Path, stamp: Stamp) -> UnreadableFile:
    free = shutil.disk_usage(to.parent).free
    return UnreadableFile(
        "open",
        f"no room in {to.parent.parent}: the video has {stamp['bytes']} bytes, {free} are free. TMPDIR says where "
        "copies are put; each worker needs room for one",
    )


def sweep() -> None:
    """Remove the copies of runs that were killed: folders whose lock nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = folder / LOCK
        with suppress(OSError, Timeout):
            mine = folder.stat().st_uid == getattr(os, "getuid", lambda: 0)()
            if folder.is_symlink() or not mine or not lock.exists():
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


__all__ = ["Copies"]
