"""Claims on a disk: locks of the kernel on small files; and which kind of claims a cache has."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from filelock import lock_descriptor

from extract.sharing.claims import CLAIM, Claims, Holder, claims_place, parse_holder, this_process
from shared.cache.folder import refuse_link
from shared.places import is_url, plain_place

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_TRIES = 20


def open_claims(cache_url: str) -> Claims:
    """The claims on a cache: locks where its disk has them, else leases.

    Raises:
        CacheError: their folder is a link to another one.
    """
    cache_url = plain_place(cache_url)
    refuse_link(claims_place(cache_url))
    if not is_url(cache_url) and _has_locks(Path(cache_url)):
        return LocalClaims(cache_url)
    from extract.sharing.leases import LeaseClaims

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
