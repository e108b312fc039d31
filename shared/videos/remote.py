"""Videos on an object store: what is there, and what tells that one changed. What is in them: extract/video/remote.py.

Whatever fsspec reaches by a URL (s3://, gs://, abfs://, memory:// ...), with credentials from the standard chain of its
store only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.places import RemoteError, check_secrets, error_of_store, is_url, local_path

Stamp = Mapping[str, Any]
# No listing, no reliable mark of a change, redirects to anywhere: copy such videos first.
REFUSED = ("http", "https", "ftp", "data")
MAX_ASKED = 100  # objects that are asked for one by one; a listing gives a thousand per request
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class RemoteRoot:
    """A folder of an object store. Nothing is asked of the store before it has to be.

    Args:
        url: without credentials.

    Raises:
        ValueError: a URL that videos are not read from; does not repeat credentials.
    """

    def __init__(self, url: str) -> None:
        check_secrets(url, "the videos")
        if url.partition("://")[0] in REFUSED or "::" in url or "\x00" in url:
            raise ValueError(
                f"videos are not read from {url!r}: expected an object store that lists what it has, such as "
                "s3://bucket/folder or gs://bucket/folder. Copy them to a disk"
            )
        self.url = url.rstrip("/")
        self._files: Mapping[str, Stamp] | None = None
        self._asked = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)  # connections and listings stay in their process

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteRoot) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def files(self) -> Mapping[str, Stamp]:
        """Path below the root -> stamp of every object; listed once.

        Raises:
            RemoteError: it cannot be listed.
        """
        with self._lock:
            if self._files is None:
                with self.store() as (store, base):
                    found = store.find(base, detail=True)
                start = base.rstrip("/") + "/" if base.strip("/") else base
                self._files = {name.removeprefix(start): _stamp(info) for name, info in found.items()}
            return self._files

    def listed(self, path: str) -> Stamp | None:
        """The stamp of an object in the listing, if there was one."""
        return None if self._files is None else self._files.get(path)

    def stamp(self, path: str) -> Stamp:
        """What tells a changed object without reading it: bytes, and ETag or else modification time.

        May be as old as the listing of this process.

        Raises:
            FileNotFoundError: there is no such object.
            RemoteError: the store does not say.
        """
        self._asked += self._files is None
        if self._files is None and self._asked <= MAX_ASKED:
            return self.stamp_now(path)
        if (found := self.files().get(path)) is None:
            raise FileNotFoundError(2, "there is no such object", f"{self.url}/{path}")
        return found

    def stamp_now(self, path: str) -> Stamp:
        """``stamp``, asked of the store."""
        with self.store() as (store, base):
            info = store.info(join(base, path))
        if info.get("type") == "directory":
            raise FileNotFoundError(2, "a folder, expected an object", f"{self.url}/{path}")
        return _stamp(info)

    @contextmanager
    def store(self) -> Iterator[tuple[Any, str]]:
        """The file system and the root in its own words; whatever it raises becomes a ``RemoteError``."""
        try:
            from fsspec.core import url_to_fs

            # A remembered listing would hide that an object was replaced.
            yield url_to_fs(self.url, use_listings_cache=False)
        except OSError:
            raise
        except Exception as error:
            if (told := error_of_store(self.url, error)) is not None:
                raise told from error
            if isinstance(error, ValueError):
                raise RemoteError(f"{self.url}: {error}") from None
            raise


@dataclass(frozen=True)
class RemoteFile:
    """One object: ``path`` below ``root``."""

    root: RemoteRoot
    path: str

    def __str__(self) -> str:
        return f"{self.root.url}/{self.path}"

    def exists(self) -> bool:
        """Whether it is there; an error of the store is a yes, which somebody else then meets."""
        try:
            self.root.stamp(self.path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True


Source = Path | RemoteFile


def join(base: str, path: str) -> str:
    """A path below a root, in the words of its store."""
    return f"{base.rstrip('/')}/{path}" if base else path


def _stamp(info: Mapping[str, Any]) -> Stamp:
    """bytes and ETag (which an identical copy keeps), or bytes and mtime_ns where the store has no ETag."""
    found: dict[str, Any] = {"bytes": int(info["size"] or 0)}
    if etag := info.get("ETag") or info.get("etag"):
        return found | {"etag": str(etag).strip('"')}
    for name in TIMES:
        value = info.get(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, int | float):
            return found | {"mtime_ns": round(value * 1e9)}
    return found


__all__ = ["RemoteError", "RemoteFile", "RemoteRoot", "Source", "Stamp", "is_url", "local_path"]
