"""Failures are data: an append-only ``failures.jsonl`` beside the cache.

One JSON object per line: ``time`` (UTC, ISO 8601), ``cache`` (file name of the cache), ``video``, ``path``, ``stage``
(open, decode, encode, write), ``error`` (class), ``message``, ``attempts``. The last line of a video counts; a line
with ``"resolved": true`` says that the video was extracted after all. Lines are appended in one write each, so that
several runs may share the file and a killed run leaves at most one torn last line, which readers skip.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Failure:
    """Why one video is not in the cache."""

    video: str
    path: str
    stage: str
    error: str
    message: str
    attempts: int = 1


class FailureLedger:
    """Reads and appends the ledger that belongs to one cache (local path or fsspec URL)."""

    def __init__(self, cache_url: str) -> None:
        trimmed = str(cache_url).rstrip("/")
        parent, _, self.cache_name = trimmed.rpartition("/")
        self.remote = "://" in trimmed
        self.location = f"{parent}/failures.jsonl" if parent else "failures.jsonl"

    def failures(self) -> dict[str, Failure]:
        """Video id -> its latest failure; resolved videos are left out."""
        latest: dict[str, Failure] = {}
        for row in self._rows():
            if row.get("cache") != self.cache_name or "video" not in row:
                continue
            if row.get("resolved"):
                latest.pop(row["video"], None)
            else:
                latest[row["video"]] = Failure(**{k: row.get(k, "") for k in Failure.__dataclass_fields__})
        return latest

    def record(self, failure: Failure) -> None:
        """Append one failure."""
        self._append(asdict(failure))

    def resolve(self, video: str) -> None:
        """Note that a video that failed before is now complete."""
        self._append({"video": video, "resolved": True})

    def _append(self, row: dict[str, Any]) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": stamp, "cache": self.cache_name, **row}, ensure_ascii=False) + "\n"
        if self.remote:  # object stores cannot append: read, add, write
            rows = [*self._rows(), json.loads(line)]
            pd.Series([json.dumps(r, ensure_ascii=False) for r in rows]).to_csv(
                self.location, index=False, header=False, quoting=3, sep="\x01", escapechar="\x02"
            )
            return
        Path(self.location).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.location, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode("utf-8", errors="replace"))
        finally:
            os.close(handle)

    def _rows(self) -> list[dict[str, Any]]:
        if self.remote:
            try:
                frame = pd.read_csv(self.location, header=None, sep="\x01", quoting=3, dtype=str, engine="c")
            except (FileNotFoundError, pd.errors.EmptyDataError):
                return []
            lines = frame[0].tolist()
        else:
            if not Path(self.location).is_file():
                return []
            lines = Path(self.location).read_text(encoding="utf-8", errors="replace").splitlines()
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line torn by a crash
            if isinstance(row, dict):
                rows.append(row)
        return rows
