"""Nodes of the cache's Zarr hierarchy: few requests to the store, and damage told apart from absence.

zarr's own calls ask a store some ten questions for every node that they make (is there a node already? does each
parent exist?) and one for every node that they open, and they refuse to list a group in which one node is damaged.
Here metadata is still made by zarr, but in memory and then stored at once, and it is read as the JSON that it is.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Coroutine, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeGuard, TypeVar

import zarr
from zarr.abc.store import Store
from zarr.buffer.cpu import Buffer, buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from shared.cache.direct import read_file
from shared.cache.local import remove_folder, sweep, write_file

METADATA = "zarr.json"
MEND = "find all such places with: python -m extract verify, and extract again with --overwrite damaged"
_CONCURRENT = 32
T = TypeVar("T")


class CacheError(ValueError):
    """The cache lacks, or damaged, what was asked of it; the message says what and what to do."""


class Damaged:
    """Stands for metadata that cannot be read."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: damaged metadata ({METADATA} is not that of a Zarr group)"

    def error(self) -> CacheError:
        """The same as an error."""
        return CacheError(f"{self}; {MEND}")


Attrs = dict[str, Any]
Node = Attrs | Damaged | None  # None: there is no such node


def stage() -> tuple[zarr.Group, dict[str, Any]]:
    """A group in memory and the dict of keys and values behind it: where zarr makes models of what is stored."""
    staged: dict[str, Any] = {}
    return zarr.create_group(MemoryStore(staged)), staged


def put(store: Store, path: str, staged: Mapping[str, bytes], marks: Mapping[str, Any]) -> None:
    """Store what is staged below ``path``; then, when all of it is stored, the group there with ``marks``."""
    values = {f"{path}/{key}".lstrip("/"): value for key, value in staged.items()}
    if _is_local(store):
        for key, value in [*values.items(), (_key(path), _group(marks))]:
            write_file(f"{store.root}/{key}", value)
        return

    async def put_all() -> None:
        await _all(store.set(key, Buffer.from_bytes(value)) for key, value in values.items())
        await store.set(_key(path), Buffer.from_bytes(last))

    last = _group(marks)  # zarr may have to make one, in the thread that the next call occupies
    sync(put_all())  # one call: each hands over to zarr's thread and back


def put_group(store: Store, path: str, attrs: Mapping[str, Any], *, exclusive: bool = False) -> None:
    """Store a group's metadata in one write; with ``exclusive``, only if there is none."""
    key, value = _key(path), _group(attrs)
    if _is_local(store):
        return write_file(f"{store.root}/{key}", value, exclusive=exclusive)
    buffer = Buffer.from_bytes(value)
    return sync(store.set_if_not_exists(key, buffer) if exclusive else store.set(key, buffer))


def _is_local(store: Store) -> TypeGuard[LocalStore]:
    """Whether to write files here and now; a store built upon the local one keeps its own ways.

    Raises:
        ValueError: it is open for reading only.
    """
    if type(store) is not LocalStore:
        return False
    if store.read_only:
        raise ValueError(f"{store.root} is open for reading only")
    return True


def _group(attrs: Mapping[str, Any]) -> bytes:
    document = json.loads(_empty_group()) | {"attributes": dict(attrs)}
    return json.dumps(document, indent=2).encode()


@lru_cache(maxsize=1)
def _empty_group() -> bytes:
    """The metadata that zarr gives a group; making one takes longer than storing it."""
    staged: dict[str, Any] = {}
    zarr.create_group(MemoryStore(staged))
    return bytes(staged[METADATA].to_bytes())


def get_groups(store: Store, paths: Iterable[str]) -> list[Node]:
    """Attributes of several groups, fetched together."""
    if isinstance(store, LocalStore):  # no other thread needs to be asked
        return [parse_group(read_file(f"{store.root}/{_key(path)}"), path) for path in paths]

    async def get_all() -> list[Node]:
        return await _all(_attrs(store, path) for path in paths)

    return sync(get_all())


def child_groups(store: Store, paths: Iterable[str], skip: Iterable[str] = ()) -> list[dict[str, Attrs | Damaged]]:
    """Child groups of several groups: name -> attributes. Arrays, and files that are not Zarr's, are left out."""

    if isinstance(store, LocalStore):
        return [_local_children(store, path, skip) for path in paths]

    async def get_all() -> list[dict[str, Attrs | Damaged]]:
        gate = asyncio.Semaphore(_CONCURRENT)

        async def get_one(path: str) -> dict[str, Attrs | Damaged]:
            async with gate:
                names = await _names(store, path, skip)
                nodes = await _all(_attrs(store, f"{path}/{name}") for name in names)
            return {name: node for name, node in zip(names, nodes, strict=True) if node is not None}

        return await _all(get_one(path) for path in paths)

    return sync(get_all())


def _local_children(store: LocalStore, path: str, skip: Iterable[str]) -> dict[str, Attrs | Damaged]:
    own = _own(_listed(store, path), skip)
    nodes = get_groups(store, [f"{path}/{name}" for name in own])
    return {name: node for name, node in zip(own, nodes, strict=True) if node is not None}


def _listed(store: LocalStore, path: str) -> list[str]:
    try:
        return os.listdir(f"{store.root}/{path}")
    except (FileNotFoundError, NotADirectoryError):
        return []


def headless_groups(store: Store, path: str, known: Iterable[str]) -> list[str]:
    """Folders below a group that have lost their metadata, or were left when their removal was cut short."""

    async def find() -> list[str]:
        names = await _names(store, path, known)
        return [name for name in names if await _names(store, f"{path}/{name}", ())]

    return sync(find())


def child_names(store: Store, path: str) -> list[str]:
    """Everything below a group but its metadata and hidden or half-written files."""
    if isinstance(store, LocalStore):
        return _own(_listed(store, path), ())
    return sync(_names(store, path, ()))


def sweep_group(store: Store, path: str) -> None:
    """Remove files that a killed process has half written at a group itself or at its array of times."""
    if _is_local(store):
        for folder in (f"{store.root}/{path}", f"{store.root}/{path}/pts"):
            sweep(folder)


def delete(store: Store, path: str) -> None:
    """Remove a node with all that is below it; no error if there is none, or if another process is at work on it."""
    for _ in range(3):
        try:
            return remove_folder(f"{store.root}/{path}") if _is_local(store) else sync(store.delete_dir(path))
        except FileNotFoundError:
            pass  # somebody else deletes it, too; what is left may need a second look
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # somebody has begun to write there, and keeps it
                raise
            return None
    return None


async def _all(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, or the first error. Even then all have ended: nothing is written after the caller has cleaned up,
    and none is left that the end of the process cuts off, with a traceback each."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]


async def _names(store: Store, path: str, skip: Iterable[str]) -> list[str]:
    return _own([name.rstrip("/") async for name in store.list_dir(path)], skip)


def _own(names: Iterable[str], skip: Iterable[str]) -> list[str]:
    """Names of nodes, sorted: no metadata, nothing hidden or half-written."""
    return sorted(n for n in {*names} - {METADATA, *skip} if not n.startswith(".") and not n.endswith(".partial"))


def raw_metadata(store: Store, path: str) -> bytes | None:
    """Metadata of a node as stored, or None if there is none."""
    return sync(_raw(store, path))


async def _raw(store: Store, path: str) -> bytes | None:
    if isinstance(store, LocalStore):
        return read_file(f"{store.root}/{_key(path)}")
    raw = await store.get(_key(path), buffer_prototype)
    return None if raw is None else raw.to_bytes()


async def _attrs(store: Store, path: str) -> Node:
    return parse_group(await _raw(store, path), path)


def _key(path: str) -> str:
    return f"{path}/{METADATA}".lstrip("/")


def parse_group(raw: bytes | None, path: str) -> Node:
    """Attributes of the group at ``path`` from its metadata as stored."""
    if raw is None:
        return None
    try:
        document = json.loads(raw)
        attrs = document.get("attributes", {})
        if document["node_type"] == "group" and document["zarr_format"] == 3 and isinstance(attrs, dict):
            return attrs
    except (ValueError, KeyError, TypeError, AttributeError):  # not UTF-8, not JSON, or JSON of another shape
        pass
    return Damaged(path.removeprefix("videos/"))
