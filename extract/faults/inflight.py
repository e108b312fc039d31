"""Which videos a run has in its hands, kept on disk, so that the next run knows what one that died was at.

A decoder runs in a process of its own, and what it does to itself is a row in the ledger. But a video may also end the
whole run: by what its frames make an encoder do, or by the memory that they take. Nobody is left to write a row then,
and every later run would end at the same place, with all the videos behind it never reached.

So a run keeps a small file beside the cache (``<cache>.inflight/``), locked for as long as it lives: which videos it is
encoding. A file without a lock is what a dead run left. Runs also die for reasons that are no video's (a power cut, an
impatient user), and nothing tells these apart: a video that two dead runs have in common is therefore not given up, but
comes last, after everything that was on its way is written, and no other video waits for it any more. A run that
comes to its end takes the videos that it was about out of all such files: what another part of the data set died of is
not its business. Ctrl-C removes the run's own.

A cache in an object store has none: whether a run elsewhere still lives cannot be seen there.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from extract.decode.events import Job
from extract.faults.ledger import Failure
from extract.faults.systemic import CacheWriteError, SystemicFailure
from extract.watcher import Watcher
from shared.cache.folder import refuse_link
from shared.places import is_url, plain_place

try:
    import fcntl
except ImportError:  # Windows: without such locks, runs that live look like dead ones
    fcntl = None  # type: ignore[assignment]

_OURS = re.compile(r"\d+-[0-9a-f]{32}\.(json|new)")  # files of other names are not touched
SUSPICIOUS = 2  # dead runs that have a video in common
HARMLESS = (KeyboardInterrupt, SystemicFailure, CacheWriteError)  # ends of a run that no single video brings about


class InFlight(Watcher):
    """Notes what opens and ends, and passes it on. A context manager around one run, which is about ``videos``."""

    def __init__(self, url: str, watcher: Watcher, videos: Collection[str]) -> None:
        self._folder, self._watcher, self._about = _folder(url), watcher, videos
        self._videos: list[str] = []
        self._file: int | None = None
        self._path = Path()

    def __enter__(self) -> InFlight:
        if self._folder is not None:
            # Without this file a run works as well; what keeps the disk from taking it will be told of the cache.
            with suppress(OSError):
                self._create(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            if kind is None or issubclass(kind, HARMLESS):
                self._path.unlink(missing_ok=True)
        if kind is None and self._folder is not None:
            forget(self._folder, self._about)
        elif self._folder is not None:
            _remove_empty(self._folder)

    def opened(self, job: Job, promised_frames: int) -> None:
        self._note([*self._videos, job.video])
        self._watcher.opened(job, promised_frames)

    def reached(self, job: Job, frame: int) -> None:
        self._watcher.reached(job, frame)

    def ended(self, job: Job, failure: Failure | None) -> None:
        if job.video in self._videos:
            self._note([v for v in self._videos if v != job.video])
        self._watcher.ended(job, failure)

    def waits(self, jobs: Sequence[Job], holder: str) -> None:
        self._watcher.waits(jobs, holder)

    def _create(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{uuid.uuid4().hex}"
        early, self._path = folder / f"{name}.new", folder / f"{name}.json"
        file = os.open(early, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before anybody can take it for that of a dead run
            os.rename(early, self._path)
        except OSError:
            os.close(file)
            early.unlink(missing_ok=True)
            raise
        self._file = file

    def _note(self, videos: list[str]) -> None:
        self._videos = videos
        if self._file is not None:
            with suppress(OSError):
                _write(self._file, videos)


def suspects(url: str) -> dict[str, int]:
    """Video id -> dead runs that it was being encoded by, of those with ``SUSPICIOUS`` of them or more."""
    counts: Counter[str] = Counter()
    folder = _folder(url)
    for path in _files(folder) if folder is not None else ():
        with _dead(path) as file:
            counts.update(_noted(file) if file is not None else ())
    return {video: count for video, count in counts.items() if count >= SUSPICIOUS}


def forget(url: str | Path, videos: Collection[str]) -> None:
    """Take videos out of what dead runs have left; a file that names no other goes."""
    folder = url if isinstance(url, Path) else _folder(url)
    for path in _files(folder) if folder is not None else ():
        with _dead(path) as file, suppress(OSError):  # a folder of another user, a full disk: it is noted still
            if file is None:
                continue
            noted = _noted(file)
            if not (others := noted.difference(videos)):
                path.unlink(missing_ok=True)
            elif others != noted:
                _write(file, sorted(others))
    if folder is not None:
        _remove_empty(folder)


def _noted(file: int) -> set[str]:
    """Video ids in an open file; none if it is torn."""
    try:
        found = json.loads(os.pread(file, 1 << 20, 0))
    except (ValueError, RecursionError):
        return set()
    return {v for v in found if isinstance(v, str)} if isinstance(found, list) else set()


def _write(file: int, videos: Sequence[str]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(videos).encode(), 0)


def _folder(url: str) -> Path | None:
    """Where the files are, or None if there are none; raises ``CacheError`` if it is a link to another folder."""
    if fcntl is None or is_url(url := plain_place(url)):
        return None
    refuse_link(place := url.rstrip("/") + ".inflight")
    return Path(place)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if _OURS.fullmatch(path.name))


@contextmanager
def _dead(path: Path) -> Iterator[int | None]:
    """A dead run's file, open, which nobody else looks at meanwhile; None if the run lives or the file is gone."""
    try:
        file = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield file
    finally:
        os.close(file)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # another run's file is there, or it was never made
        folder.rmdir()
