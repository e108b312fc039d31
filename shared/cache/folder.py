"""A folder of small files beside a cache, on a disk or an object store."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from datetime import UTC, datetime

from zarr.buffer.cpu import Buffer, buffer_prototype
from zarr.core.sync import sync

from shared.cache.direct import read_file
from shared.cache.local import write_file
from shared.cache.nodes import CacheError
from shared.cache.remote import RemoteStore
from shared.places import is_url, plain_place

RETIRED = ".gone"
_TRIES = 5


class Folder:
    """Local path or fsspec URL; made when the first file is written.

    Attributes:
        is_remote: an object store, which cannot append.

    Raises:
        CacheError: it is a link to another folder.
    """

    def __init__(self, url: str) -> None:
        refuse_link(url)
        self.url = plain_place(url)
        self.is_remote = is_url(self.url)
        self._store = RemoteStore.at(self.url) if self.is_remote else None

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of every file, 0 of one that is gone meanwhile; without those that are being written."""
        if self._store is None:
            found: dict[str, int | None] = {}
            for _ in range(_TRIES):  # one that is gone meanwhile may have another name: the next list has it
                with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.url) as entries:
                    files = [one for one in entries if one.is_file() and not one.name.endswith(".partial")]
                    found = {one.name: _size(one) for one in files}
                if None not in found.values():
                    break
            return {name: size or 0 for name, size in found.items()}
        return sync(_sizes(self._store))

    def read(self, name: str) -> bytes | None:
        """A file, or None if there is none."""
        if self._store is None:
            return read_file(f"{self.url}/{name}")
        found = sync(self._store.get(name, buffer_prototype))
        return None if found is None else found.to_bytes()

    def write(self, name: str, value: bytes) -> None:
        """Write a file whole or not at all."""
        if self._store is None:
            return write_file(f"{self.url}/{name}", value)
        return sync(self._store.set(name, Buffer.from_bytes(value)))

    def append(self, name: str, value: bytes) -> bool:
        """Add to a file on a disk in one write; False if there is no such file any more, before the write or after.

        Raises:
            OSError: it cannot be written, or only in part.
        """
        path = f"{self.url}/{name}"
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return False
        try:
            if os.write(file, value) != len(value):
                raise OSError(f"{path}: the disk took a part of a line only; is it full?")
            with suppress(FileNotFoundError):
                return os.path.samestat(os.fstat(file), os.stat(path))
            return False  # ``retire`` has taken it away meanwhile, and may not have seen the line
        finally:
            os.close(file)

    def retire(self, name: str, size: int) -> None:
        """Remove a file that somebody may be adding to, unless it has more than ``size`` bytes.

        On a disk it is moved away first: what was added before shows in its size then, and who adds to it later finds
        that it is not at its place. A kill leaves it under its name with ``RETIRED`` behind, and something that only
        this call has, so that no other one removes what this one puts back. An object store has no such move, and
        a line that is added in the moment between the look and the removal is lost.
        """
        if self._store is not None:
            with suppress(FileNotFoundError):
                if sync(self._store.getsize(name)) == size:
                    self.delete(name)
            return
        away = f"{plain_name(name)}{RETIRED}{uuid.uuid4().hex[:12]}"
        with suppress(FileNotFoundError):
            os.rename(f"{self.url}/{name}", f"{self.url}/{away}")
            if os.stat(f"{self.url}/{away}").st_size == size:
                self.delete(away)
            else:
                os.rename(f"{self.url}/{away}", f"{self.url}/{plain_name(name)}")

    def modified(self, name: str) -> datetime | None:
        """When a file was last written; None if it is gone, or the store does not say."""
        with suppress(OSError):
            if self._store is None:
                return datetime.fromtimestamp(os.stat(f"{self.url}/{name}").st_mtime, UTC)
            with self._store.errors():
                told = sync(self._store.fs._info(f"{self._store.path}/{name}")).values()
            times = [t if t.tzinfo else t.replace(tzinfo=UTC) for t in told if isinstance(t, datetime)]
            return max(times, default=None)
        return None

    def delete(self, name: str) -> None:
        """Remove a file; no error if there is none."""
        with suppress(FileNotFoundError):
            if self._store is None:
                os.unlink(f"{self.url}/{name}")
            else:
                sync(self._store.delete(name))


def plain_name(name: str) -> str:
    """A file's name before it was retired."""
    return name.partition(RETIRED)[0]


def refuse_link(url: str) -> None:
    """Refuse a folder beside a cache that is a link: files in the folder that it means would be changed and removed.

    Raises:
        CacheError: it is one.
    """
    path = plain_place(url).rstrip("/")
    if not is_url(path) and os.path.islink(path):
        raise CacheError(
            f"{path} is a link to another folder; this program keeps files of its own there, which belong beside the "
            "cache: remove the link (what it points to stays as it is) and repeat the command"
        )


def _size(entry: os.DirEntry[str]) -> int | None:
    with suppress(FileNotFoundError):
        return entry.stat().st_size
    return None


async def _sizes(store: RemoteStore) -> dict[str, int]:
    names = [name async for name in store.list()]
    return {name: await store.getsize(name) for name in names}
