"""A store behind a URL, as zarr reaches it by fsspec; whatever goes wrong there is a ``RemoteError`` that names it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager
from typing import Any, Self

from zarr.abc.buffer import Buffer
from zarr.abc.store import ByteRequest
from zarr.core.buffer import BufferPrototype
from zarr.storage import FsspecStore

from shared.places import RemoteError, store_errors

# s3fs asks for the size of every object before it reads it, if it may read the parts of a large one side by side.
OPTIONS: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}


class RemoteStore(FsspecStore):
    """Errors aside, the store of zarr."""

    url = ""

    @classmethod
    def at(cls, url: str, *, read_only: bool = False) -> Self:
        """The store behind a URL; nothing is asked of it yet.

        Raises:
            RemoteError: there is no library for such URLs, or it lacks credentials.
        """
        try:
            with store_errors(url):
                found = cls.from_url(url, OPTIONS.get(url.partition("://")[0]), read_only=read_only)
        except ValueError as error:
            raise RemoteError(
                f"{url}: {error}; expected a path, or a URL such as s3://bucket/folder/c.zarr or gs://bucket/c.zarr"
            ) from None
        found.url = url  # type: ignore[attr-defined]
        return found  # type: ignore[return-value]

    def with_read_only(self, read_only: bool = False) -> Self:
        other = super().with_read_only(read_only)
        other.url = self.url  # type: ignore[attr-defined]
        return other  # type: ignore[return-value]

    def errors(self, key: str = "", *, absent: bool = True) -> AbstractContextManager[None]:
        """``store_errors`` of something in this store."""
        return store_errors(f"{self.url}/{key}" if key else self.url, absent=absent)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with self.errors(key):
            return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        with self.errors():
            return await super().get_partial_values(prototype, key_ranges)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        with self.errors(key, absent=False):  # then it is the bucket that is not there
            await super().set(key, value, byte_range)

    async def exists(self, key: str) -> bool:
        with self.errors(key):
            return await super().exists(key)

    async def delete(self, key: str) -> None:
        with self.errors(key):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self.errors(prefix):
            await super().delete_dir(prefix)

    async def getsize(self, key: str) -> int:
        with self.errors(key):
            return await super().getsize(key)

    async def list(self) -> AsyncIterator[str]:
        with self.errors(absent=False):
            found = [name async for name in super().list()]
        for name in found:
            yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with self.errors(prefix):
            found = [name async for name in super().list_dir(prefix)]
        for name in found:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with self.errors(prefix):
            found = [name async for name in super().list_prefix(prefix)]
        for name in found:
            yield name


__all__ = ["RemoteStore"]
