"""Failures are data: an append-only ``failures.jsonl`` beside the cache.

One JSON object per line: ``time`` (UTC, ISO 8601), ``cache`` (file name of the cache), ``video``, ``path``, ``stage``
(open, decode, encode, write), ``error`` (class), ``message``, ``attempts`` (failures in a row while the file stayed the
same), ``file`` (its bytes and modification time then; empty if it was not there). The last line of a video counts; a
line with ``"resolved": true`` says that the video was extracted after all. Lines are appended in one write each, so
that several runs may share the file and a killed run leaves at most one torn line, which readers skip. Object stores
cannot append: there a line is added by rewriting the file, and of two runs that do so at once one may lose its line.

Who is tried again. A failure that may be the machine's (a decoder that died or hung, a file that could not be read, a
value that an encoder made) is tried once more by the next run. After ``MAX_ATTEMPTS`` such failures, or at once where
what was read of the file says that it is unusable (``VERDICTS``), a video is *quarantined*: no run tries it until it is
asked to (``--retry-failed``) or the file is another one, for which the count begins anew. A decoder that somebody ended
(``OUTSIDE``: by hand, or the system for want of memory) quarantines nothing, and the failures that made a run stop for
one cause of all its videos are noted with one attempt less, 0 for the first: the next run tries all of these again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zarr.buffer.cpu import Buffer, buffer_prototype
from zarr.core.sync import sync

from shared.cache.remote import RemoteStore
from shared.places import is_url, plain_place

FILE = "failures.jsonl"
MAX_ATTEMPTS = 2  # then a video is quarantined
VERDICTS = frozenset({"VideoError"})  # errors that are about what is in the file
OUTSIDE = frozenset({"DecoderKilled"})  # errors that nobody can blame on the file
MAX_MESSAGE = 2000  # characters; a decoder's log of a broken file can be megabytes


@dataclass(frozen=True)
class Failure:
    """Why one video is not in the cache.

    Attributes:
        file: bytes and mtime_ns (or etag) of the file that failed, empty if it was not there; None: not noted.
    """

    video: str
    path: str
    stage: str
    error: str
    message: str
    attempts: int = 1
    file: Mapping[str, Any] | None = None

    @property
    def quarantined(self) -> bool:
        """Whether it would be no use to try the same file once more."""
        return self.error in VERDICTS or (self.blamed and self.attempts >= MAX_ATTEMPTS)

    @property
    def blamed(self) -> bool:
        """Whether it may have been the video's own fault."""
        return self.attempts > 0 and self.error not in OUTSIDE

    def is_of(self, file: Mapping[str, Any]) -> bool:
        """Whether this file is the one that failed; where that was not noted, it is taken to be."""
        return self.file is None or dict(self.file) == dict(file)


class FailureLedger:
    """Reads and appends the ledger that belongs to one cache (local path or fsspec URL)."""

    def __init__(self, cache_url: str) -> None:
        trimmed = plain_place(str(cache_url)).rstrip("/")
        self.remote = is_url(trimmed)
        if self.remote:
            scheme, _, rest = trimmed.partition("://")
            folder, _, self.cache_name = rest.rpartition("/")
            self._parent = f"{scheme}://{folder}"
            self.location = f"{self._parent}/{FILE}" if folder else f"{self._parent}{FILE}"
        else:
            self.cache_name = Path(trimmed).name
            self.location = str(Path(trimmed).parent / FILE)

    def failures(self) -> dict[str, Failure]:
        """Video id -> its latest failure; resolved videos are left out.

        Raises:
            OSError: the ledger is there, but cannot be read.
        """
        latest: dict[str, Failure] = {}
        for row in self._rows():
            video = row.get("video")
            if row.get("cache") != self.cache_name or not isinstance(video, str):
                continue
            latest.pop(video, None)
            if not row.get("resolved"):
                latest[video] = _failure(row)
        return latest

    def record(self, failure: Failure) -> None:
        """Append one failure.

        Raises:
            OSError: the ledger cannot be written; the message names it.
        """
        row = {name: value for name, value in asdict(failure).items() if value is not None}
        if len(row["message"]) > MAX_MESSAGE:
            row["message"] = f"{row['message'][:MAX_MESSAGE]} ... ({len(row['message']) - MAX_MESSAGE} characters more)"
        self._append(row)

    def resolve(self, video: str) -> None:
        """Note that a video that failed before is now complete."""
        self._append({"video": video, "resolved": True})

    def _append(self, row: dict[str, Any]) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps({"time": stamp, "cache": self.cache_name, **row}, ensure_ascii=False)
        line = (text + "\n").encode("utf-8", errors="replace")
        try:
            if self.remote:
                old = self._read()
                self._write_remote(old + (b"\n" if old and not old.endswith(b"\n") else b"") + line)
            else:
                _append_local(Path(self.location), line)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"cannot write the ledger of failures {self.location}: {reason}") from error

    def _read(self) -> bytes:
        if not self.remote:
            try:
                return Path(self.location).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return b""
        store = RemoteStore.at(self._parent, read_only=True)
        found = sync(store.get(FILE, buffer_prototype))
        return b"" if found is None else found.to_bytes()

    def _write_remote(self, content: bytes) -> None:
        sync(RemoteStore.at(self._parent).set(FILE, Buffer.from_bytes(content)))

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        # Not splitlines(): a message may hold U+2028 and other characters that it takes for line ends.
        for line in self._read().decode("utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # empty, or torn by a crash
            if isinstance(row, dict):
                rows.append(row)
        return rows


def _append_local(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if os.fstat(handle).st_size:
            os.lseek(handle, -1, os.SEEK_END)
            if os.read(handle, 1) != b"\n":  # a torn line has no end, and this one would become part of it
                line = b"\n" + line
        if os.write(handle, line) != len(line):
            raise OSError("the disk took a part of the line only; is it full?")
    finally:
        os.close(handle)


def _failure(row: Mapping[str, Any]) -> Failure:
    words = {name: str(row.get(name, "")) for name in ("video", "path", "stage", "error", "message")}
    attempts = row.get("attempts")
    file = row.get("file")
    return Failure(
        **words, attempts=attempts if isinstance(attempts, int) else 1, file=file if isinstance(file, dict) else None
    )
