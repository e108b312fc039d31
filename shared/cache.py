"""The feature cache: one Zarr v3 store per data set, one writer and one reader.

    <dataset>.zarr/            attrs: format, format_version, dataset, window, made_with
      videos/<video_id>/       attrs: source, fps, num_frames, width, height, rotation, decoder, missing_frames
        pts                    float64 (F,)     seconds, as decoded
        <stream>/              attrs: kind, recipe, fingerprint, checksums, complete
          features             float16 (N, T, D) for kind "window", (U, D) for kind "timeline"
          frames               int32 (U,)       timeline only: the frame of each row, ascending
          captions             string (U,)      text only
          thumbnails           string (U,)      text only, optional: base64 JPEG

Promises:
  * ``complete`` is written last. A stream without it does not exist for readers and is redone by writers.
  * A stream is never mixed: asking for another recipe than the cached one raises ``RecipeMismatch`` with the diff.
  * Values are finite float16; a NaN, an infinity or a float16 overflow is refused when it is written.
  * Chunks carry a CRC-32C, arrays a sha256. A lost chunk reads as NaN (features) and is refused, never as zeros.
  * Metadata that is damaged is refused by readers (``CacheError``) and redone by writers, as unfinished streams are.
  * Everything is readable with plain ``zarr.open``. Local paths and fsspec URLs (s3://, gs://, memory://) both work.

Axes: F frames of a video, N windows, T samples in a window, U unique frames, D feature size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from shared.cache_arrays import STRING_ARRAYS, StreamWriter, checksum, read_array, whole_arrays
from shared.cache_bulk import StoredStream, find_stored
from shared.cache_nodes import (
    MEND,
    Attrs,
    CacheError,
    Damaged,
    child_groups,
    child_names,
    delete,
    get_groups,
    headless_groups,
    put,
    put_group,
    sweep_group,
)
from shared.cache_open import FORMAT, FORMAT_VERSION, check_root, empty_store, open_root
from shared.cache_types import StreamData, VideoInfo
from shared.cache_verify import attributes_digest, verify_video
from shared.names import name_problem
from shared.recipe import Recipe, RecipeMismatch, diff_recipes, fingerprint
from shared.windows import WindowSpec

__all__ = ["CacheError", "FeatureCache", "RecipeMismatch", "StreamData", "VideoInfo"]


class FeatureCache:
    """One data set's cache. Open it with ``create`` (writers) or ``open`` (readers)."""

    def __init__(self, url: str, root: zarr.Group) -> None:
        self.url = url
        self._root = root
        self._videos: zarr.Group = root["videos"]  # type: ignore[assignment]
        self._store = root.store
        self._begun: set[str] = set()  # videos that this process has begun to write

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
        """
        url = str(url)
        wanted: dict[str, Any] = {"dataset": dataset, "window": window.to_dict()}
        root = open_root(url, "r")
        if root is None or not root.attrs:
            store = empty_store(url)
            put_group(store, "videos", {})
            # Last, and in one write that does not replace: the cache is there whole or not at all, and of two
            # processes that make it at once one wins.
            marks = {"format": FORMAT, "format_version": FORMAT_VERSION, **wanted, "made_with": dict(made_with or {})}
            put_group(store, "", marks, exclusive=root is None)
        cache = cls._open(url, "r+")
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
        """
        return cls._open(str(url), "r")

    @classmethod
    def _open(cls, url: str, mode: Literal["r", "r+"]) -> FeatureCache:
        root = open_root(url, mode)
        if root is None:
            raise CacheError(f"no feature cache at {url}: nothing was extracted yet; see python -m extract run --help")
        check_root(url, root)
        return cls(url, root)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self._root.attrs["dataset"])

    @property
    def window(self) -> WindowSpec:
        """The windows whose frames were extracted."""
        return WindowSpec.from_dict(self._root.attrs["window"])  # type: ignore[arg-type]

    @property
    def made_with(self) -> dict[str, Any]:
        """Preset and options that the cache was begun with; empty if nobody noted them."""
        return dict(self._root.attrs.get("made_with", {}))  # type: ignore[arg-type]

    # ------------------------------------------------------------------ read

    def video_ids(self) -> list[str]:
        """Ids of all videos with at least one complete stream, sorted.

        Raises:
            CacheError: metadata of a video or stream is damaged.
        """
        (videos,) = child_groups(self._store, ["videos"])
        streams = child_groups(self._store, [f"videos/{v}" for v in videos], skip=["pts"])
        return sorted(v for (v, node), found in zip(videos.items(), streams, strict=True) if _complete(v, node, found))

    def info(self, video_id: str) -> VideoInfo | None:
        """What is stored of a video, or None if it was never decoded to the end.

        Raises:
            CacheError: it is damaged.
        """
        (node,) = self._nodes(video_id)
        if isinstance(node, Damaged):
            raise node.error()
        if node is None or "num_frames" not in node:
            return None
        pts = read_array(self._videos, f"{video_id}/pts", f"{video_id}/pts")
        try:
            info = VideoInfo(pts=pts, **{k: v for k, v in node.items() if k != "checksums"})
        except TypeError:
            raise Damaged(video_id).error() from None
        if len(pts) != info.num_frames:
            raise CacheError(f"{video_id}/pts: {len(pts)} rows for {info.num_frames} frames; {MEND}")
        return info

    def source(self, video_id: str) -> dict[str, Any]:
        """Path, bytes and sha256 of the file a video was decoded from; empty if it was never decoded to the end."""
        (node,) = self._nodes(video_id)
        return dict(node.get("source", {})) if isinstance(node, dict) else {}

    def paths(self) -> dict[str, str]:
        """Video id -> source path below the data set's root, of every video that was decoded to its end."""
        (videos,) = child_groups(self._store, ["videos"])
        found = {v: node.get("source", {}).get("path") for v, node in videos.items() if isinstance(node, dict)}
        return {v: path for v, path in found.items() if path}

    def note_made_with(self, made_with: Mapping[str, Any]) -> None:
        """Say which preset and options all streams are now made with, after they were replaced."""
        put_group(self._store, "", {**dict(self._root.attrs), "made_with": dict(made_with)})

    def streams(self, video_id: str) -> dict[str, dict[str, Any]]:
        """Complete streams of a video: name -> recipe.

        Raises:
            CacheError: metadata of the video or of one of its streams is damaged.
        """
        (node,) = self._nodes(video_id)
        if node is None:
            return {}
        (found,) = child_groups(self._store, [f"videos/{video_id}"], skip=["pts"])
        return {name: attrs["recipe"] for name, attrs in _complete(video_id, node, found).items()}

    def has(self, video_id: str, stream: str, recipe: Recipe | None = None) -> bool:
        """Whether a stream is complete.

        Raises:
            RecipeMismatch: it is complete, but was made by another recipe than the one asked for.
            CacheError: its metadata is damaged. A cache open for writing says False instead: it is to be redone.
        """
        try:
            return self._marks(video_id, stream, recipe) is not None
        except CacheError:
            if self._root.read_only or name_problem(video_id) or name_problem(stream):
                raise
            return False

    def is_whole(self, video_id: str, stream: str) -> bool:
        """Whether a complete stream and the facts of its video still have their checksums. Reads all of the video."""
        own = tuple(f"{video_id}{part}" for part in (":", "/pts", f"/{stream}:", f"/{stream}/"))
        return not any(line.startswith(own) for line in self.verify(video_id))

    def read(self, video_id: str, stream: str, recipe: Recipe | None = None) -> StreamData:
        """One complete stream; with ``recipe``, only if it was made by it.

        Raises:
            CacheError: the stream is absent, unfinished or damaged.
            RecipeMismatch: it was made by another recipe.
        """
        marks = self._marks(video_id, stream, recipe)
        if marks is None:
            raise CacheError(f"{self.url} has no complete stream {stream!r} for video {video_id!r}")
        where = f"{video_id}/{stream}"
        arrays = {n: read_array(self._videos, f"{where}/{n}", f"{where}/{n}") for n in sorted(marks["checksums"])}
        features = arrays.get("features")
        num_axes = {"window": 3, "timeline": 2}.get(marks.get("kind", ""))
        if (
            features is None
            or (len(features) and features.ndim != num_axes)
            or len({len(a) for a in arrays.values()}) > 1
        ):
            raise CacheError(f"{where}: damaged (its arrays do not fit each other); {MEND}")
        strings = {n: arrays[n].tolist() for n in STRING_ARRAYS if n in arrays}
        return StreamData(marks["kind"], marks["recipe"], features, arrays.get("frames"), **strings)

    def find(self, video_id: str, streams: Iterable[str]) -> tuple[int, dict[str, StoredStream]]:
        """Complete streams of a video that are to be read later, and its number of frames; reads metadata only.

        Raises:
            CacheError: the video or a stream is absent, unfinished or damaged.
        """
        streams = list(streams)
        video, *nodes = self._nodes(video_id, *streams)
        if isinstance(video, Damaged):
            raise video.error()
        if video is None or "num_frames" not in video:
            raise CacheError(f"{self.url} has no video {video_id!r}")
        found = {s: node for s, node in zip(streams, nodes, strict=True) if node is not None}
        complete = _complete(video_id, video, found)
        for stream in streams:
            if stream not in complete:
                raise CacheError(f"{self.url} has no complete stream {stream!r} for video {video_id!r}")
        return video["num_frames"], {s: find_stored(self._videos, f"{video_id}/{s}", complete[s]) for s in streams}

    # ------------------------------------------------------------------ write

    def writer(self, video_id: str, stream: str, *, kind: str, recipe: Recipe) -> StreamWriter:
        """Begin a stream. What was there of it (unfinished, or complete and to be replaced) is removed."""
        if video_id not in self._begun:
            self._begin(video_id)
        self._remove(video_id, stream)
        where = f"{video_id}/{stream}"
        return StreamWriter(self._store, f"videos/{where}", kind=kind, recipe=recipe, where=where)

    def write_info(self, video_id: str, info: VideoInfo) -> None:
        """Store what was learned by decoding; call it before the first ``finish`` of the video's streams.

        Raises:
            CacheError: the cache has streams of this video made from another file or another frame count.
        """
        old = self._begin(video_id)
        if "num_frames" in old and self._finished(video_id):
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
            return
        pts = np.asarray(info.pts, dtype=np.float64)
        checks = {"pts": checksum(pts), "attributes": attributes_digest(info.attrs())}
        marks = {**info.attrs(), "checksums": checks}
        put(self._store, f"videos/{video_id}", whole_arrays({"pts": pts}), marks)

    def abandon(self, video_id: str, streams: Iterable[str] | None = None) -> None:
        """Remove unfinished streams of a video, and the video itself if nothing of it is left.

        Args:
            streams: those that this process was writing; others may be in the making in another process. None: all.
        """
        names = None if streams is None else tuple(streams)
        (node, *_) = self._nodes(video_id, *(names or ()))
        finished = set() if node is None else self._finished(video_id)
        self._begun.discard(video_id)
        if names is None:
            (found,) = child_groups(self._store, [f"videos/{video_id}"], skip=["pts"])
            names = tuple(found)
        for name in set(names) - finished:
            delete(self._store, f"videos/{video_id}/{name}")
        if not finished and (streams is None or not set(child_names(self._store, f"videos/{video_id}")) - {"pts"}):
            delete(self._store, f"videos/{video_id}")

    def drop(self, video_id: str, streams: Iterable[str]) -> None:
        """Remove complete streams, to be extracted again."""
        for name in streams:
            self._remove(video_id, name)

    # ------------------------------------------------------------------ verify

    def verify(self, video_id: str) -> list[str]:
        """Recompute every checksum of a video; one line per problem, empty if all is well."""
        check_name(video_id)
        return verify_video(self._videos, video_id)

    # ------------------------------------------------------------------ parts

    def group_ids(self) -> list[str]:
        """Ids of all video groups, finished or not, damaged or not, sorted."""
        (videos,) = child_groups(self._store, ["videos"])
        return sorted([*videos, *headless_groups(self._store, "videos", videos)])

    def _nodes(self, video_id: str, *streams: str) -> list[Attrs | Damaged | None]:
        for name in (video_id, *streams):
            check_name(name)
        return get_groups(self._store, [f"videos/{video_id}", *(f"videos/{video_id}/{s}" for s in streams)])

    def _marks(self, video_id: str, stream: str, recipe: Recipe | None) -> Attrs | None:
        """Attributes of a complete stream that was made by this recipe, or None."""
        video, node = self._nodes(video_id, stream)
        if video is None or node is None:
            return None
        marks = _complete(video_id, video, {stream: node}).get(stream)
        if marks is None or recipe is None or fingerprint(marks["recipe"]) == fingerprint(recipe):
            return marks
        lines = "\n  ".join(diff_recipes(marks["recipe"], recipe))
        raise RecipeMismatch(
            f"stream {stream!r} of {self.url} (first seen on video {video_id!r}) was made by another recipe:\n"
            f"  {lines}\n"
            f"Either keep both: give another cache (--cache NEW.zarr); or replace it: --overwrite {stream}."
        )

    def _begin(self, video_id: str) -> Attrs:
        """Attributes of a video's group, which is made if it is not there, and made anew if it is damaged."""
        path = f"videos/{video_id}"
        (node,) = self._nodes(video_id)  # refuses names that leave the cache
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

    def _finished(self, video_id: str) -> set[str]:
        """Complete streams, whatever the state of the others."""
        (found,) = child_groups(self._store, [f"videos/{video_id}"], skip=["pts"])
        return {name for name, node in found.items() if isinstance(node, dict) and node.get("complete") is True}

    def _remove(self, video_id: str, stream: str) -> None:
        _, node = self._nodes(video_id, stream)
        if isinstance(node, dict) and "complete" in node:
            # Deleting many files is not atomic; unmark first, so that no reader trusts a half-deleted stream.
            put_group(self._store, f"videos/{video_id}/{stream}", {})
        # Even without metadata there may be arrays: a removal that was cut short leaves some.
        delete(self._store, f"videos/{video_id}/{stream}")


def check_name(name: str) -> None:
    """Refuse ids that are not safe as a group name on every store.

    Raises:
        CacheError: says what is wrong with the name.
    """
    if problem := name_problem(name):
        raise CacheError(problem)


def _complete(video_id: str, video: Attrs | Damaged, found: Mapping[str, Attrs | Damaged]) -> dict[str, Attrs]:
    """The complete ones among a video's streams, by name.

    Raises:
        CacheError: metadata of the video or of a stream is damaged.
    """
    for node in (video, *found.values()):
        if isinstance(node, Damaged):
            raise node.error()
    complete = {n: node for n, node in sorted(found.items()) if isinstance(node, dict) and node.get("complete") is True}
    if complete and "num_frames" not in video:  # type: ignore[operator]
        raise Damaged(video_id).error()
    for name, marks in complete.items():
        if not isinstance(marks.get("recipe"), dict) or not isinstance(marks.get("checksums"), dict):
            raise Damaged(f"{video_id}/{name}").error()
    return complete
