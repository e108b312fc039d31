"""Claims: which of several runs that fill one cache is at work on which streams of which video.

A run claims the streams of a video before it decodes it and gives them back when they are complete or have failed.
Claims lie beside the cache, in the folder ``<cache>.claims``, which readers of Zarr never see and which is gone when
nobody holds any.

On a disk (locks.py) a claim is a lock of the kernel on a small file: no two processes hold one, and that of a
process which died is free at once, however it died. The file says who holds it, for messages only. On object stores,
and on disks without locks, a claim is a lease (leases.py), which promises less. What is written is
right either way, since a stream counts only by its marker: claims keep two runs from doing the same work twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from shared.cache import CacheError

ENDING = ".claims"
CLAIM = re.compile(r"[0-9a-f]{32}")  # what ``claim_name`` gives: files of other names are not touched


class ClaimLost(CacheError):
    """Another run has taken this video over: it writes the same streams, and this run no longer should."""


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
