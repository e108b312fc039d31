"""What a cache has, with as little reading as the state of its index allows."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from zarr.abc.store import Store
from zarr.storage import LocalStore

from shared.cache.facts import Facts, read_facts
from shared.cache.index import CacheIndex, Indexed
from shared.cache.nodes import METADATA, child_names
from shared.process.collecting import no_collection

# Caches with so few videos are read as they are, in a second or two: there, whatever happened to them is seen, also
# what no program of this project did. In a larger one that is seen by ``verify``, and when features are read.
READ_ALL_LOCAL, READ_ALL_REMOTE = 4000, 100
FOLD_FROM, FOLD_SHARE = 1000, 0.1  # videos that no base of the index has yet
MAX_FILES = 16


def stamp_of(store: Store) -> str:
    """What tells a cache from another one that was at the same place before, as far as a disk does."""
    if isinstance(store, LocalStore):
        with suppress(OSError):
            return str(os.stat(f"{store.root}/videos/{METADATA}").st_mtime_ns)
    return ""


@no_collection()
def survey(store: Store, index: CacheIndex) -> Facts:
    """Facts of all videos: from the index where nobody needs to look, else from the groups themselves.

    On a disk the names of all videos are compared with the index, which finds what others have added or removed. On an
    object store that would take a request for every thousand videos, and the index alone has to know.
    """
    is_local = isinstance(store, LocalStore)
    listed = child_names(store, "videos") if is_local else None
    if listed is not None and len(listed) <= READ_ALL_LOCAL:
        return _read_all(store, index, listed)
    found = index.read()
    if listed is None and not (found.has_base and len(found.facts.videos) + len(found.doubtful) > READ_ALL_REMOTE):
        listed = child_names(store, "videos")
        if len(listed) <= READ_ALL_REMOTE:
            return _read_all(store, index, listed)
    if listed is not None:
        listed = child_names(store, "videos")  # again: what was added since is in neither, or in the index alone
    facts, num_new = _look(store, found, listed)
    num_loose = num_new + found.num_loose
    if (not is_local and not found.has_base) or num_loose >= max(FOLD_FROM, FOLD_SHARE * len(facts.videos)):
        with suppress(OSError):  # a reader may not be allowed to write; it has looked, and knows
            index.fold(found, facts)
    return facts


def _read_all(store: Store, index: CacheIndex, listed: list[str]) -> Facts:
    """Every video as it is. Each run on a small cache leaves a file of the index that nobody reads: not too many."""
    if len(index.signature()) > MAX_FILES:
        with suppress(OSError):
            return rebuild_index(store, index)
    return read_facts(store, listed)


@no_collection()
def rebuild_index(store: Store, index: CacheIndex) -> Facts:
    """Look at every video, and begin the index anew with what is there.

    Raises:
        OSError: the index cannot be written.
    """
    found = index.read()  # before the look: what is written during it stays in its part
    facts = read_facts(store, child_names(store, "videos"))
    index.fold(found, facts)
    return facts


@no_collection()
def fold_index(store: Store, index: CacheIndex) -> Facts:
    """What ``survey`` finds, with everything in one file of the index afterwards.

    Raises:
        OSError: the index cannot be written.
    """
    found = index.read()
    listed = child_names(store, "videos") if isinstance(store, LocalStore) or not found.has_base else None
    facts, _ = _look(store, found, listed)
    index.fold(found, facts)
    return facts


def _look(store: Store, found: Indexed, listed: list[str] | None) -> tuple[Facts, int]:
    """The index's facts and those of what it does not know; and of how many videos they differ from it."""
    facts = replace(found.facts, videos=dict(found.facts.videos))
    wanted, gone = set(found.doubtful), set()
    if listed is not None:
        names = set(listed)
        wanted = (wanted & names) | (names - facts.videos.keys())
        gone = facts.videos.keys() - names
    for video_id in gone:
        del facts.videos[video_id]
    read_facts(store, sorted(wanted), into=facts)
    facts.videos = dict(sorted(facts.videos.items()))
    return facts, len(wanted) + len(gone)
