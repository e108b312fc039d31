"""What is at a cache's URL: a Zarr group, nothing, or something that is not to be touched."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import zarr
from zarr.abc.store import Store
from zarr.errors import ContainsArrayError, GroupNotFoundError
from zarr.storage import LocalStore

from shared.cache.nodes import CacheError, child_names
from shared.cache.remote import RemoteStore
from shared.places import BUCKETS, RemoteError, check_secrets, is_url
from shared.windows import WindowSpec

FORMAT = "crossgru-cache"
FORMAT_VERSION = 1


def open_root(url: str, mode: Literal["r", "r+"]) -> zarr.Group | None:
    """The store's root group, or None if there is nothing.

    Raises:
        CacheError: something else is there.
        RemoteError: the store cannot be reached, or refuses.
    """
    check_url(url)
    if not is_url(url) and Path(url).is_file():
        raise CacheError(f"{url} is a file, a feature cache is a folder")
    place = RemoteStore.at(url, read_only=mode == "r") if is_url(url) else url
    try:
        return zarr.open_group(place, mode=mode, zarr_format=3)
    except (FileNotFoundError, GroupNotFoundError):
        return None
    except ContainsArrayError:
        raise CacheError(f"{url} is a Zarr array, not a crossgru cache") from None
    except RemoteError:
        raise
    except OSError as error:
        raise CacheError(f"cannot open the feature cache at {url}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CacheError(f"{url}: damaged (zarr.json of the cache itself: {error}); extract into a new one") from None


def check_url(url: str) -> None:
    """Refuse a URL with credentials in it, and one that is a whole bucket.

    Raises:
        CacheError: does not repeat credentials.
    """
    try:
        check_secrets(url, "the cache")
    except ValueError as error:
        raise CacheError(str(error)) from None
    scheme, _, rest = url.partition("://")
    if scheme in BUCKETS and "/" not in rest.strip("/"):
        bucket = rest.strip("/") or "bucket"
        raise CacheError(
            f"{url} is a bucket; give a place in it, such as {scheme}://{bucket}/c.zarr: an index, claims and "
            "failures.jsonl lie beside a cache"
        )


def check_root(url: str, root: zarr.Group) -> None:
    """Refuse a group that is not a feature cache which this version reads.

    Raises:
        CacheError: says what it is instead.
    """
    attrs = dict(root.attrs)
    if attrs.get("format") != FORMAT:
        raise CacheError(f"{url} is a Zarr store, but not a crossgru cache (attribute format={attrs.get('format')!r})")
    version = attrs.get("format_version")
    if type(version) is not int:
        raise CacheError(
            f"{url}: damaged (zarr.json of the cache itself has no format_version, expected {FORMAT_VERSION}, found "
            f"{version!r}); extract into a new one"
        )
    if version != FORMAT_VERSION:
        other = "an older" if version < FORMAT_VERSION else "a newer"
        raise CacheError(
            f"{url} has cache format version {version}, this version of crossgru reads {FORMAT_VERSION}; use "
            f"{other} crossgru, such as wrote it, or extract into a new cache (--cache NEW.zarr)"
        )
    try:
        WindowSpec.from_dict(attrs["window"])  # type: ignore[arg-type]
        attrs["dataset"], root["videos"]
    except Exception as error:  # whatever damaged JSON leads to, in zarr or in WindowSpec
        raise CacheError(f"{url}: damaged (zarr.json of the cache itself: {error}); extract into a new one") from None


def empty_store(url: str) -> Store:
    """A store without a cache: nothing is there, or what a killed ``create`` left.

    Raises:
        CacheError: something else is there already, and would become part of the cache.
    """
    store: Store = RemoteStore.at(url) if is_url(url) else LocalStore(url)
    others = set(child_names(store, "")) - {"videos"}
    if child_names(store, "videos"):  # a killed create has made none yet
        others.add("videos")
    if others:
        raise CacheError(
            f"{url} is not a crossgru cache and not empty (it has {sorted(others)[0]!r}); give a new place"
        )
    return store
