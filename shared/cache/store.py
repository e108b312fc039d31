"""Writing a cache: the class that everybody else sees, on top of reading. The format: shared/cache/__init__.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from shared.cache.arrays import StreamWriter, checksum, whole_arrays
from shared.cache.facts import read_facts
from shared.cache.index import CacheIndex
from shared.cache.nodes import (
    Attrs,
    CacheError,
    Damaged,
    child_groups,
    child_names,
    delete,
    put,
    put_group,
    sweep_group,
)
from shared.cache.opening import FORMAT, FORMAT_VERSION, check_root, empty_store, open_root
from shared.cache.reading import CacheReader, check_name
from shared.cache.seals import sealed
from shared.cache.types import StreamData, VideoInfo
from shared.cache.verify import attributes_digest
from shared.places import plain_place
from shared.recipe import Recipe, RecipeMismatch, diff_recipes
from shared.windows import WindowSpec

__all__ = ["CacheError", "FeatureCache", "RecipeMismatch", "StreamData", "VideoInfo"]


class FeatureCache(CacheReader):
    """One data set's cache. Open it with ``create`` (writers) or ``open`` (readers)."""

    def __init__(self, url: str, root: zarr.Group) -> None:
        super().__init__(url, root)
        self._begun: set[str] = set()  # videos that this process has begun to write
        self._writing: dict[str, set[str]] = {}  # video -> streams that it has not finished

    # ------------------------------------------------------------------ open

    @classmethod
    def create(
        cls, url: str | Path, *, dataset: str, window: WindowSpec, made_with: Mapping[str, Any] | None = None
    ) -> FeatureCache:
        """Open a cache for writing, making it if it is not there.

        Args:
            url: local path or fsspec URL.
            dataset: name of the data set.
            window: the windows to extract for.
            made_with: preset and options, noted in a new cache so that others can be made like it.

        Raises:
            RecipeMismatch: the cache exists with another window specification or for another data set.
            CacheError: something that is not a cache of this format version is there.
            RemoteError: the store cannot be reached, or refuses.
        """
        url = plain_place(str(url))
        wanted: dict[str, Any] = {"dataset": dataset, "window": window.to_dict()}
        root = open_root(url, "r")
        if root is None or not root.attrs:
            store = empty_store(url)
            CacheIndex(url, "").reset()
            put_group(store, "videos", {})
            # Last, and in one write that does not replace: the cache is there whole or not at all, and of two
            # processes that make it at once one wins.
            marks = {"format": FORMAT, "format_version": FORMAT_VERSION, **wanted, "made_with": dict(made_with or {})}
            put_group(store, "", sealed(marks), exclusive=root is None)
        cache = cls._open(url, "r+")
        # Samples of streams that were imported since are nothing that an extraction has to ask for.
        wanted["window"] = replace(window, samples={**cache.imported, **window.samples}).to_dict()
        found = {"dataset": cache.dataset, "window": cache.window.to_dict()}
        if lines := diff_recipes(found, wanted):
            raise RecipeMismatch(
                f"{url} was made for other windows or another data set:\n  " + "\n  ".join(lines) + "\n"
                "Either give another cache (--cache NEW.zarr) or use the settings that the cache has."
            )
        return cache

    @classmethod
    def open(cls, url: str | Path) -> FeatureCache:
        """Open an existing cache for reading.

        Raises:
            CacheError: nothing is there, or it is not a cache of this format version.
            RemoteError: the store cannot be reached, or refuses.
        """
        return cls._open(str(url), "r")

    @classmethod
    def _open(cls, url: str, mode: Literal["r", "r+"]) -> FeatureCache:
        url = plain_place(url)
        root = open_root(url, mode)
        if root is None:
            raise CacheError(f"no feature cache at {url}: nothing was extracted yet; see python -m extract run --help")
        check_root(url, root)
        return cls(url, root)

    # ------------------------------------------------------------------ write

    def writer(self, video_id: str, stream: str, *, kind: str, recipe: Recipe) -> StreamWriter:
        """Begin a stream. What was there of it (unfinished, or complete and to be replaced) is removed."""
        check_name(stream)
        if video_id not in self._begun:
            self._begin(video_id)
        self.index.begin(video_id)
        self._writing.setdefault(video_id, set()).add(stream)
        self._remove(video_id, stream)
        where = f"{video_id}/{stream}"
        finished = partial(self._settle, video_id, {stream})
        return StreamWriter(self._store, f"videos/{where}", kind=kind, recipe=recipe, where=where, finished=finished)

    def write_info(self, video_id: str, info: VideoInfo) -> None:
        """Store what was learned by decoding; call it before the first ``finish`` of the video's streams.

        Raises:
            CacheError: the cache has streams of this video made from another file or another frame count.
        """
        old = self._begin(video_id)
        if "num_frames" in old and self._finished(video_id):
            _check_same(video_id, old, info)
            return
        pts = np.asarray(info.pts, dtype=np.float64)
        checks = {"pts": checksum(pts), "attributes": attributes_digest(info.attrs())}
        marks = {**info.attrs(), "checksums": checks}
        put(self._store, f"videos/{video_id}", whole_arrays({"pts": pts}), marks)

    def check_info(self, video_id: str, info: VideoInfo) -> None:
        """Refuse what ``write_info`` would refuse, and change nothing; errors as there."""
        (old,) = self._nodes(video_id)
        if isinstance(old, dict) and "num_frames" in old and self._finished(video_id):
            _check_same(video_id, old, info)

    def abandon(self, video_id: str, streams: Iterable[str] | None = None) -> None:
        """Remove unfinished streams of a video, and the video itself if nothing of it is left.

        Args:
            streams: those that this process was writing; others may be in the making in another process. None: all.
        """
        names = None if streams is None else tuple(streams)
        (node, *_) = self._nodes(video_id, *(names or ()))
        finished = set() if node is None else self._finished(video_id)
        self.index.begin(video_id)
        self._begun.discard(video_id)
        if names is None:
            (found,) = child_groups(self._store, [f"videos/{video_id}"], skip=["pts"])
            names = tuple(found)
        for name in set(names) - finished:
            delete(self._store, f"videos/{video_id}/{name}")
        if not finished and (streams is None or not set(child_names(self._store, f"videos/{video_id}")) - {"pts"}):
            delete(self._store, f"videos/{video_id}")
        self._settle(video_id, set(names))

    def drop(self, video_id: str, streams: Iterable[str]) -> None:
        """Remove complete streams, to be extracted again."""
        for name in (video_id, *(streams := tuple(streams))):
            check_name(name)
        self.index.begin(video_id)
        for name in streams:
            self._remove(video_id, name)
        self._settle(video_id, set())

    def note_made_with(self, made_with: Mapping[str, Any]) -> None:
        """Say which preset and options all streams are now made with, after they were replaced."""
        put_group(self._store, "", sealed({**dict(self._root.attrs), "made_with": dict(made_with)}))

    def note_imported(self, samples: Mapping[str, int]) -> None:
        """Say how many samples a window has of streams that were made elsewhere."""
        marks = {**dict(self._root.attrs), "imported": {**self.imported, **samples}}
        put_group(self._store, "", sealed(marks))
        self._root = zarr.open_group(self._store, mode="r+", zarr_format=3)

    # ------------------------------------------------------------------ parts

    def _begin(self, video_id: str) -> Attrs:
        """Attributes of a video's group, which is made if it is not there, and made anew if it is damaged."""
        path = f"videos/{video_id}"
        (node,) = self._nodes(video_id)  # refuses names that leave the cache
        self.index.begin(video_id)
        if video_id not in self._begun:
            sweep_group(self._store, path)
        # A process that writes other streams may make the group at this moment: it does so before anything below, so
        # what lies below a group that is still not there after that is a leftover.
        leftovers = node is None and video_id not in self._begun and bool(child_names(self._store, path))
        if leftovers:
            (node,) = self._nodes(video_id)
        self._begun.add(video_id)
        if isinstance(node, dict):
            return node
        if leftovers or isinstance(node, Damaged):
            delete(self._store, path)
        put_group(self._store, path, {}, exclusive=True)
        return {}

    def _settle(self, video_id: str, streams: set[str]) -> None:
        """This process is done with these streams; when it is with all of the video, the index says what is there."""
        if left := self._writing.pop(video_id, set()) - streams:
            self._writing[video_id] = left
            return
        facts = read_facts(self._store, [video_id])
        if video_id not in facts.damaged:
            with suppress(OSError):  # then it stays announced, and is looked at
                self.index.settle(video_id, facts.videos.get(video_id), facts.recipes)

    def _remove(self, video_id: str, stream: str) -> None:
        _, node = self._nodes(video_id, stream)
        if isinstance(node, dict) and "complete" in node:
            # Deleting many files is not atomic; unmark first, so that no reader trusts a half-deleted stream.
            put_group(self._store, f"videos/{video_id}/{stream}", {})
        # Even without metadata there may be arrays: a removal that was cut short leaves some.
        delete(self._store, f"videos/{video_id}/{stream}")


def _check_same(video_id: str, old: Attrs, info: VideoInfo) -> None:
    for name in ("bytes", "sha256"):
        before = old.get("source", {}).get(name)
        if before != info.source.get(name):
            raise CacheError(
                f"video {video_id!r}: the file changed since its other streams were extracted ({name} was "
                f"{before}, is {info.source.get(name)}); extract all again: --overwrite all"
            )
    if old["num_frames"] != info.num_frames:
        raise CacheError(
            f"video {video_id!r}: decoded {info.num_frames} frames, the cached streams were made from "
            f"{old['num_frames']}; extract all streams again with --overwrite all"
        )
