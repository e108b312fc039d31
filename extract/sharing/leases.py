"""Claims where there are no locks: leases on an object store.

    <cache>.claims/run-<token>    of every run: who it is, and a count that it raises every few seconds
    <cache>.claims/<claim>        of every claim: the token of the run that holds it

A claim is made by a write that fails if the object is there, on stores that have such a write (S3, GCS, local files).
It may be taken over once its run has ended (its ``run-`` object is gone, or it is known to have died on this machine)
or has not raised its count for ``STALE_S`` seconds by the clock of the one who waits: clocks are never compared.

What is guaranteed: a claim that is held by a run which lives and reaches the store is not taken, and one whose run died
is free after ``STALE_S``. What is not: that never two runs believe to hold one claim. It happens if a run stands still
for longer than that, if two take over the same claim in the same moment, or on a store without exclusive writes. So
a run looks again before it marks a video complete and after (``holds``); if the claim is lost, the video is put aside
and checked at the end. Both would have written the same values, and a stream counts only by its marker.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from zarr.buffer.cpu import Buffer, buffer_prototype
from zarr.core.sync import sync

from extract.sharing.claims import CLAIM, Claims, Holder, claims_place, parse_holder, this_process
from shared.cache.remote import RemoteStore

STALE_S = 180.0
BEAT_S = 15.0
RUN = "run-"
_RUN = re.compile(RUN + "[0-9a-f]{16}")


class LeaseClaims(Claims):
    """Claims by objects beside the cache."""

    poll_s = 2.0

    def __init__(
        self,
        cache_url: str,
        *,
        stale_s: float = STALE_S,
        beat_s: float = BEAT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            cache_url: fsspec URL of the cache.
            stale_s: a run that has shown no sign of life for so long is dead.
            beat_s: how often this one shows a sign of life.
            clock: seconds, of this process only.
        """
        super().__init__()
        self._store = RemoteStore.at(claims_place(cache_url))
        self._token = secrets.token_hex(8)
        self._stale_s, self._beat_s, self._clock = stale_s, beat_s, clock
        self._seen: dict[str, tuple[bytes, float]] = {}  # run or claim -> its object, and since when it was seen so
        self._is_disk = "file" in self._store.fs.protocol
        self._beats = 0
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def close(self) -> None:
        super().close()
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
            with suppress(OSError):
                self._remove(RUN + self._token)
        with suppress(OSError):
            self._sweep()

    # ------------------------------------------------------------------ claims

    def _take(self, name: str) -> str | None:
        self._begin()
        mine = json.dumps({"run": self._token, **asdict(this_process())}).encode()
        if self._read(name) is None:
            self._create(name, mine)
        elif self._is_free(name):
            self._write(name, mine)
        else:
            return None
        return name if self._holds(name) else None  # of two that wrote at once, the later one

    def _give(self, name: str, lock: str) -> None:
        with suppress(OSError):  # it is free when this run has ended, at the latest
            if self._holds(name):
                self._remove(name)

    def _holds(self, name: str) -> bool:
        return _run_of(self._read(name)) == self._token

    def _holder(self, name: str) -> Holder | None:
        raw = self._read(name)
        return None if raw is None or self._is_stale(_run_of(raw)) else parse_holder(_json(raw))

    def _is_free(self, name: str) -> bool:
        raw = self._read(name)
        run = _run_of(raw)
        if raw is not None and not run:  # a disk may show a file before what is in it
            return self._is_silent(name, raw)
        return run != self._token and self._is_stale(run)

    # ------------------------------------------------------------------ runs

    def _begin(self) -> None:
        """Show the first sign of life, and see to the next ones."""
        if self._heart is None:
            self._beat()
            with suppress(OSError):
                for run in self._runs():
                    self._is_stale(run)  # from now on its silence counts
            self._heart = threading.Thread(target=self._beat_on, name="claims", daemon=True)
            self._heart.start()

    def _beat_on(self) -> None:
        while not self._stop.wait(self._beat_s):
            with suppress(Exception):  # a store that is away for a moment; the next one may arrive
                self._beat()

    def _beat(self) -> None:
        self._beats += 1
        self._write(RUN + self._token, json.dumps({"beats": self._beats, **asdict(this_process())}).encode())

    def _is_stale(self, run: str) -> bool:
        """Whether a run has ended, or has been silent for too long."""
        raw = self._read(RUN + run)
        if raw is None:
            return True
        holder = parse_holder(_json(raw))
        if holder is not None and holder.is_dead:
            return True
        return self._is_silent(run, raw)

    def _is_silent(self, name: str, raw: bytes) -> bool:
        """Whether something has stayed as it is for too long."""
        seen, since = self._seen.get(name, (b"", 0.0))
        if seen != raw or name not in self._seen:
            self._seen[name] = (raw, self._clock())
            return False
        return self._clock() - since > self._stale_s

    def _runs(self) -> list[str]:
        return [name.removeprefix(RUN) for name in self._names() if _RUN.fullmatch(name)]

    def _sweep(self) -> None:
        """Remove claims of runs that are known to be dead, then these runs."""
        names = self._names()
        for name in names:
            if CLAIM.fullmatch(name) and self._is_free(name):
                self._remove(name)
        for name in names:
            if _RUN.fullmatch(name) and self._is_stale(name.removeprefix(RUN)):
                self._remove(name)
        if self._is_disk and not self._names():  # only disks have folders that can be empty
            sync(self._store.fs._rmdir(self._store.path))

    # ------------------------------------------------------------------ objects

    def _read(self, name: str) -> bytes | None:
        found = sync(self._store.get(name, buffer_prototype))
        return None if found is None else found.to_bytes()

    def _write(self, name: str, value: bytes) -> None:
        self._make_folder()
        sync(self._store.set(name, Buffer.from_bytes(value)))

    def _create(self, name: str, value: bytes) -> None:
        """Write an object if there is none; whether it was written shows when it is read."""
        self._make_folder()
        with suppress(FileExistsError), self._store.errors():
            sync(self._store.fs._pipe_file(f"{self._store.path}/{name}", value, mode="create"))

    def _make_folder(self) -> None:
        if self._is_disk:
            with self._store.errors():
                sync(self._store.fs._makedirs(self._store.path, exist_ok=True))

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            sync(self._store.delete(name))

    def _names(self) -> list[str]:
        async def collect() -> list[str]:
            return [name async for name in self._store.list_dir("")]

        return sync(collect())


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):  # the last of lists in lists without end
        return None


def _run_of(raw: bytes | None) -> str:
    """Token of the run that holds a claim; of an object that says nothing, one that is no run's."""
    row = _json(raw) if raw is not None else None
    return str(row.get("run", "")) if isinstance(row, dict) else ""
