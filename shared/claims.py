"""Claims: which of several runs that fill one cache is at work on which streams of which video.

A run claims the streams of a video before it decodes it and gives them back when they are complete or have failed.
Claims lie beside the cache, in the folder ``<cache>.claims``, which readers of Zarr never see and which is gone when
nobody holds any.

On a disk (``LocalClaims``) a claim is a lock of the kernel on a small file: no two processes hold one, and that of a
process which died is free at once, however it died. The file says who holds it, for messages only. On object stores,
and on disks without locks, a claim is a lease (shared/claim_leases.py), which promises less. What is written is right
either way, since a stream counts only by its marker: claims keep two runs from doing the same work twice.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from shared.cache.folder import refuse_link
from shared.places import is_url, plain_place

ENDING = ".claims"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
CLAIM = re.compile(r"[0-9a-f]{32}")  # what ``claim_name`` gives: files of other names are not touched
_TRIES = 20


@dataclass(frozen=True)
class Holder:
    """The process behind a claim."""

    pid: int
    host: str
    machine: str = ""
    since: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether its number means a process that can be asked for from here."""
        return self.machine == this_machine()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended; of another machine nothing is known."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # not ours to ask
            return False
        return False


def this_process() -> Holder:
    """The holder that this process is."""
    return Holder(os.getpid(), socket.gethostname(), this_machine(), datetime.now(UTC).isoformat(timespec="seconds"))


@cache
def this_machine() -> str:
    """One boot of one machine, and in it one space of process numbers; empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def parse_holder(row: Any) -> Holder | None:
    """A holder from JSON that anybody may have written."""
    if not isinstance(row, dict) or not isinstance(row.get("pid"), int) or row["pid"] <= 0:
        return None
    return Holder(row["pid"], *(str(row.get(name, "")) for name in ("host", "machine", "since")))


def claim_name(video: str, stream: str) -> str:
    """File name of a claim: of bounded length, and different on stores that do not tell "A" from "a"."""
    return hashlib.sha256(f"{video}\x00{stream}".encode("utf-8", errors="surrogatepass")).hexdigest()[:32]


def claims_place(cache_url: str) -> str:
    """Where the claims of a cache lie."""
    trimmed = str(cache_url).rstrip("/")
    if "://" in trimmed and "/" not in trimmed.partition("://")[2]:
        return f"{trimmed}/{ENDING}"  # a bucket of its own: beside it there are only other people's buckets
    return trimmed + ENDING


class Claims(ABC):
    """The claims of one run on one cache. Use it from one thread; ``holds`` may be asked from any.

    Attributes:
        poll_s: seconds after which it is worth looking again at what another run holds.
    """

    poll_s = 0.5

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Any]] = {}  # video -> name of a claim -> what stands for it

    def take(self, video: str, streams: Iterable[str]) -> bool:
        """Claim streams of a video: all of them, or none if another run holds one. Does not wait.

        Raises:
            OSError: the place of the claims cannot be written.
        """
        assert video not in self._held, video
        taken = self._held[video] = {}
        try:
            for name in sorted(claim_name(video, s) for s in streams):  # one order for all, so that one of two wins
                lock = self._take(name)
                if lock is None:
                    self.give(video)
                    return False
                taken[name] = lock
        except BaseException:
            self.give(video)
            raise
        return True

    def give(self, video: str) -> None:
        """Give back what ``take`` took of a video; nothing happens if it took nothing."""
        for name, lock in self._held.pop(video, {}).items():
            self._give(name, lock)

    def holds(self, video: str) -> bool:
        """Whether what was taken is still ours."""
        return all(self._holds(name) for name in self._held.get(video, ()))

    def holder(self, video: str, streams: Iterable[str]) -> Holder | None:
        """Who holds one of these streams, as far as that can be told; this process is as good as any."""
        found = (self._holder(claim_name(video, s)) for s in streams)
        return next((holder for holder in found if holder is not None), None)

    def close(self) -> None:
        """Give back everything, and remove what dead runs have left."""
        for video in list(self._held):
            self.give(video)

    @abstractmethod
    def _take(self, name: str) -> Any | None: ...

    @abstractmethod
    def _give(self, name: str, lock: Any) -> None: ...

    @abstractmethod
    def _holds(self, name: str) -> bool: ...

    @abstractmethod
    def _holder(self, name: str) -> Holder | None: ...


def open_claims(cache_url: str) -> Claims:
    """The claims on a cache: locks where its disk has them, else leases.

    Raises:
        CacheError: their folder is a link to another one.
    """
    cache_url = plain_place(cache_url)
    refuse_link(claims_place(cache_url))
    if not is_url(cache_url) and _has_locks(Path(cache_url)):
        return LocalClaims(cache_url)
    from shared.claim_leases import LeaseClaims

    return LeaseClaims(cache_url if is_url(cache_url) else f"file://{Path(cache_url).absolute().as_posix()}")


def _has_locks(path: Path) -> bool:
    folder = next((p for p in (path, *path.absolute().parents) if p.is_dir()), None)
    if folder is None:
        return True
    try:
        handle = os.open(folder, os.O_RDONLY)  # a folder can be locked like a file; nothing needs to be written
    except OSError:  # Windows has no handles of folders, but locks
        return True
    try:
        lock_descriptor(handle, blocking=False)
    except OSError as error:
        return error.errno not in NO_LOCKS
    finally:
        os.close(handle)
    return True


class LocalClaims(Claims):
    """Claims by locks of the kernel on files in a folder beside the cache."""

    def __init__(self, cache_url: str) -> None:
        super().__init__()
        self._folder = Path(claims_place(cache_url))
        self._words = json.dumps(asdict(this_process())).encode()

    def close(self) -> None:
        super().close()
        with suppress(OSError):
            for name in filter(CLAIM.fullmatch, os.listdir(self._folder)):
                with suppress(OSError):
                    if (handle := self._lock(name, 0)) is not None:  # of a run that was killed
                        self._give(name, handle)
            os.rmdir(self._folder)  # unless somebody has a claim there, or anything else

    def _take(self, name: str) -> int | None:
        handle = self._lock(name, os.O_CREAT)
        try:
            if handle is not None:
                os.ftruncate(handle, 0)
                os.write(handle, self._words)
        except BaseException:
            self._give(name, handle)  # type: ignore[arg-type]
            raise
        return handle

    def _lock(self, name: str, flags: int) -> int | None:
        """Open a file and lock it; None if another process has it, or without ``O_CREAT`` if there is none."""
        path = self._folder / name
        for _ in range(_TRIES):
            try:
                handle = os.open(path, os.O_RDWR | flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
            except FileNotFoundError:  # the first claim, or somebody has just removed the empty folder
                if not flags:
                    return None
                self._folder.mkdir(parents=True, exist_ok=True)
                continue
            try:
                if not lock_descriptor(handle, blocking=False):
                    os.close(handle)
                    return None
                if _is_at(handle, path):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its holder has removed the file between our opening and locking it
        return None

    def _give(self, name: str, lock: int) -> None:
        # Removed while it is locked: whoever has opened the old file sees that it is no longer there, and opens anew.
        with suppress(OSError):
            os.unlink(self._folder / name)
        os.close(lock)
        if os.name == "nt":  # refuses to remove what is open
            with suppress(OSError):
                os.unlink(self._folder / name)

    def _holds(self, name: str) -> bool:
        return True

    def _holder(self, name: str) -> Holder | None:
        # Only read: to try the lock would make a run believe, for a moment, that another one is at work.
        try:
            holder = parse_holder(json.loads((self._folder / name).read_bytes()))
        except (OSError, ValueError, RecursionError):  # the last of lists in lists without end
            return None
        return None if holder is None or holder.is_dead else holder


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
