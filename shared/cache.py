"""The feature cache: one Zarr v3 store per data set, one writer and one reader.

    <dataset>.zarr/            attrs: format, format_version, dataset, window
      videos/<video_id>/       attrs: source, fps, num_frames, width, height, rotation, decoder, missing_frames
        pts                    float64 (F,)     seconds, as decoded
        <stream>/              attrs: kind, recipe, fingerprint, checksums, complete
          features             float16 (N, T, D) for kind "window", (U, D) for kind "timeline"
          frames               int32 (U,)       timeline only: the frame of each row, ascending
          captions             string (U,)      text only

Promises:
  * ``complete`` is written last. A stream without it does not exist for readers and is redone by writers.
  * A stream is never mixed: asking for another recipe than the cached one raises ``RecipeMismatch`` with the diff.
  * Values are finite float16; a NaN, an infinity or a float16 overflow is refused when it is written.
  * Chunks carry a CRC-32C, arrays a sha256. A lost chunk reads as NaN (features) and is refused, never as zeros.
  * Everything is readable with plain ``zarr.open``. Local paths and fsspec URLs (s3://, gs://, memory://) both work.

Axes: F frames of a video, N windows, T samples in a window, U unique frames, D feature size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.errors import GroupNotFoundError

from shared.cache_arrays import CacheError, StreamWriter, checksum, read_array, write_array
from shared.names import name_problem
from shared.recipe import Recipe, RecipeMismatch, diff_recipes, fingerprint
from shared.windows import WindowPlan, WindowSpec

FORMAT = "crossgru-cache"
FORMAT_VERSION = 1

__all__ = ["CacheError", "FeatureCache", "RecipeMismatch", "StreamData", "VideoInfo"]


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video once it has been decoded.

    Attributes:
        source: {"path": relative posix path, "bytes": size, "sha256": hex digest}.
        fps: average frame rate, or 0.0 if the container does not say.
        num_frames: F, frames that were decoded (not what a header promised).
        width, height: displayed size in pixels, after rotation.
        rotation: degrees clockwise that were applied for display: 0, 90, 180 or 270.
        decoder: name, version and codec.
        pts: float64 (F,), presentation time of every frame in seconds.
        missing_frames: frames of a frame folder without a file; they show the nearest earlier picture.
    """

    source: Mapping[str, Any]
    fps: float
    num_frames: int
    width: int
    height: int
    rotation: int
    decoder: str
    pts: np.ndarray = field(repr=False)
    missing_frames: int = 0

    def attrs(self) -> dict[str, Any]:
        """The JSON part, as stored in the video group."""
        names = ("fps", "num_frames", "width", "height", "rotation", "decoder", "missing_frames")
        return {"source": dict(self.source), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class StreamData:
    """One cached stream of one video, in memory.

    Attributes:
        features: float16 (N, T, D) for kind "window", (U, D) for kind "timeline".
        frames: int32 (U,) for a timeline stream, else None.
        captions: U strings for a text stream, else None.
    """

    kind: str
    recipe: dict[str, Any]
    features: np.ndarray
    frames: np.ndarray | None = None
    captions: list[str] | None = None

    def window_rows(self, plan: WindowPlan, stream: str) -> np.ndarray:
        """Rows of ``features`` (timeline) or of ``features.reshape(N * T, D)`` (window): int64 (N, T).

        Raises:
            CacheError: the plan needs windows or frames that were not extracted.
        """
        wanted = plan.frames[stream]  # (N, T)
        if self.kind == "window":
            if wanted.shape != self.features.shape[:2]:
                raise CacheError(
                    f"stream {stream!r} is cached as {self.features.shape[0]} windows of {self.features.shape[1]} "
                    f"samples, the window asked for needs {wanted.shape[0]} of {wanted.shape[1]}; extract it again"
                )
            return np.arange(wanted.size, dtype=np.int64).reshape(wanted.shape)
        assert self.frames is not None
        rows = np.searchsorted(self.frames, wanted)
        found = self.frames[np.minimum(rows, len(self.frames) - 1)] == wanted
        if not found.all():
            lost = np.unique(wanted[~found])
            raise CacheError(
                f"stream {stream!r} lacks {len(lost)} of the frames that the window needs (first: {lost[0]}); "
                "extract again with that window"
            )
        return rows


class FeatureCache:
    """One data set's cache. Open it with ``create`` (writers) or ``open`` (readers)."""

    def __init__(self, url: str, root: zarr.Group) -> None:
        self.url = url
        self._root = root
        self._videos: zarr.Group = root["videos"]  # type: ignore[assignment]

    # ------------------------------------------------------------------ open

    @classmethod
    def create(cls, url: str | Path, *, dataset: str, window: WindowSpec) -> FeatureCache:
        """Open a cache for writing, making it if it is not there.

        Raises:
            RecipeMismatch: the cache exists with another window specification or for another data set.
            CacheError: something that is not a cache of this format version is there.
        """
        url = str(url)
        wanted: dict[str, Any] = {"dataset": dataset, "window": window.to_dict()}
        if not _exists(url):
            root = zarr.open_group(url, mode="a", zarr_format=3)
            root.require_group("videos")
            root.attrs.put({"format": FORMAT, "format_version": FORMAT_VERSION, **wanted})
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
        try:
            root = zarr.open_group(url, mode=mode, zarr_format=3)
        except (FileNotFoundError, GroupNotFoundError):
            raise CacheError(
                f"no feature cache at {url}; make it with: python -m extract run DATASET --cache {url}"
            ) from None
        attrs = _attrs(root)
        if attrs.get("format") != FORMAT:
            raise CacheError(
                f"{url} is a Zarr store, but not a crossgru cache (attribute format={attrs.get('format')!r})"
            )
        if attrs.get("format_version") != FORMAT_VERSION:
            raise CacheError(
                f"{url} has cache format version {attrs.get('format_version')!r}, this version of crossgru reads "
                f"{FORMAT_VERSION}; use the crossgru version that wrote it or extract into a new cache"
            )
        return cls(url, root)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self._root.attrs["dataset"])

    @property
    def window(self) -> WindowSpec:
        """The windows whose frames were extracted."""
        return WindowSpec.from_dict(_attrs(self._root)["window"])

    # ------------------------------------------------------------------ read

    def video_ids(self) -> list[str]:
        """Ids of all videos with at least one complete stream, sorted."""
        return sorted(v for v, _ in self._videos.groups() if self.streams(v))

    def info(self, video_id: str) -> VideoInfo | None:
        """What is stored of a video, or None if it was never decoded to the end."""
        group = self._group(video_id)
        attrs = _attrs(group) if group is not None else {}
        if group is None or "num_frames" not in attrs:
            return None
        attrs.pop("checksums", None)
        pts = read_array(group, "pts", f"{video_id}/pts")
        return VideoInfo(pts=pts, **attrs)

    def streams(self, video_id: str) -> dict[str, dict[str, Any]]:
        """Complete streams of a video: name -> recipe."""
        group = self._group(video_id)
        if group is None or "num_frames" not in group.attrs:
            return {}
        found = {}
        for name, stream in group.groups():
            attrs = _attrs(stream)
            if attrs.get("complete") is True:
                found[name] = attrs["recipe"]
        return dict(sorted(found.items()))

    def has(self, video_id: str, stream: str, recipe: Recipe | None = None) -> bool:
        """Whether a stream is complete.

        Raises:
            RecipeMismatch: it is complete, but was made by another recipe than the one asked for.
        """
        group = self._group(video_id, stream)
        if group is None or group.attrs.get("complete") is not True:
            return False
        cached = _attrs(group)["recipe"]
        if recipe is not None and fingerprint(cached) != fingerprint(recipe):
            lines = "\n  ".join(diff_recipes(cached, recipe))
            raise RecipeMismatch(
                f"stream {stream!r} of {self.url} (first seen on video {video_id!r}) was made by another recipe:\n"
                f"  {lines}\n"
                f"Either keep both: give another cache (--cache NEW.zarr); or replace it: --overwrite {stream}."
            )
        return True

    def read(self, video_id: str, stream: str, recipe: Recipe | None = None) -> StreamData:
        """One complete stream; with ``recipe``, only if it was made by it.

        Raises:
            CacheError: the stream is absent, unfinished or damaged.
            RecipeMismatch: it was made by another recipe.
        """
        if not self.has(video_id, stream, recipe):
            raise CacheError(f"{self.url} has no complete stream {stream!r} for video {video_id!r}")
        group = self._group(video_id, stream)
        assert group is not None
        attrs = _attrs(group)
        where = f"{video_id}/{stream}"
        features = read_array(group, "features", f"{where}/features")
        frames = read_array(group, "frames", f"{where}/frames") if "frames" in group else None
        captions = read_array(group, "captions", f"{where}/captions").tolist() if "captions" in group else None
        return StreamData(str(attrs["kind"]), attrs["recipe"], features, frames, captions)

    # ------------------------------------------------------------------ write

    def writer(self, video_id: str, stream: str, *, kind: str, recipe: Recipe) -> StreamWriter:
        """Begin a stream. What was there of it (unfinished, or complete and to be replaced) is removed."""
        check_name(video_id)
        check_name(stream)
        group = self._videos.require_group(video_id)
        if stream in group:
            self._unmark(group[stream])
            del group[stream]
        return StreamWriter(group, stream, kind=kind, recipe=recipe, where=f"{video_id}/{stream}")

    def write_info(self, video_id: str, info: VideoInfo) -> None:
        """Store what was learned by decoding; call it before the first ``finish`` of the video's streams.

        Raises:
            CacheError: the cache has streams of this video made from another file or another frame count.
        """
        check_name(video_id)
        old = self.info(video_id)
        if old is not None and self.streams(video_id):
            for name in ("bytes", "sha256"):
                if old.source.get(name) != info.source.get(name):
                    raise CacheError(
                        f"video {video_id!r}: the file changed since its other streams were extracted ({name} was "
                        f"{old.source.get(name)}, is {info.source.get(name)}); extract all again: --overwrite all"
                    )
            if old.num_frames != info.num_frames:
                raise CacheError(
                    f"video {video_id!r}: decoded {info.num_frames} frames, the cached streams were made from "
                    f"{old.num_frames}; extract all streams again with --overwrite all"
                )
            return
        group = self._videos.require_group(video_id)
        digest = write_array(group, "pts", np.asarray(info.pts, dtype=np.float64))
        group.attrs.put({**info.attrs(), "checksums": {"pts": digest}})

    def abandon(self, video_id: str) -> None:
        """Remove every unfinished stream of a video, and the video itself if nothing of it is left."""
        group = self._group(video_id)
        if group is None:
            return
        for name, stream in list(group.groups()):
            if stream.attrs.get("complete") is not True:
                del group[name]
        if not self.streams(video_id):
            del self._videos[video_id]

    def drop(self, video_id: str, streams: Iterable[str]) -> None:
        """Remove complete streams, to be extracted again."""
        group = self._group(video_id)
        for name in streams:
            if group is not None and name in group:
                self._unmark(group[name])
                del group[name]

    # ------------------------------------------------------------------ verify

    def verify(self, video_id: str) -> list[str]:
        """Recompute every checksum of a video; one line per problem, empty if all is well."""
        problems: list[str] = []
        group = self._group(video_id)
        if group is None or "num_frames" not in group.attrs:
            return [f"{video_id}: unfinished video group (it will be redone by the next extract run)"]
        attrs = _attrs(group)
        problems += _verify_array(group, "pts", attrs.get("checksums", {}), video_id)
        if not problems and (rows := group["pts"].shape[0]) != attrs["num_frames"]:  # type: ignore[union-attr]
            problems.append(f"{video_id}/pts: {rows} rows for {attrs['num_frames']} frames")
        for name, stream in group.groups():
            where, marks = f"{video_id}/{name}", _attrs(stream)
            if marks.get("complete") is not True:
                problems.append(f"{where}: unfinished stream (it will be redone by the next extract run)")
                continue
            if fingerprint(marks["recipe"]) != marks.get("fingerprint"):
                problems.append(f"{where}: the recipe does not match its fingerprint")
            checks = marks.get("checksums", {})
            for array in checks:
                problems += _verify_array(stream, array, checks, where)
        return problems

    # ------------------------------------------------------------------ parts

    def group_ids(self) -> list[str]:
        """Ids of all video groups, finished or not, sorted."""
        return sorted(name for name, _ in self._videos.groups())

    def _group(self, *names: str) -> zarr.Group | None:
        node: Any = self._videos
        for name in names:
            try:
                node = node[name]
            except KeyError:
                return None
        return node if isinstance(node, zarr.Group) else None

    @staticmethod
    def _unmark(stream: zarr.Group | zarr.Array) -> None:
        # Deleting many files is not atomic; unmark first, so that no reader trusts a half-deleted stream.
        if "complete" in stream.attrs:
            stream.attrs.put({k: v for k, v in _attrs(stream).items() if k != "complete"})


def check_name(name: str) -> None:
    """Refuse ids that are not safe as a group name on every store.

    Raises:
        CacheError: says what is wrong with the name.
    """
    if problem := name_problem(name):
        raise CacheError(problem)


def _attrs(node: zarr.Group | zarr.Array) -> dict[str, Any]:
    return dict(node.attrs)


def _exists(url: str) -> bool:
    try:
        zarr.open_group(url, mode="r", zarr_format=3)
    except (FileNotFoundError, GroupNotFoundError):
        return False
    return "format" in zarr.open_group(url, mode="r", zarr_format=3).attrs


def _verify_array(group: zarr.Group, name: str, checks: Mapping[str, str], where: str) -> list[str]:
    try:
        values = read_array(group, name, f"{where}/{name}")
    except (CacheError, KeyError) as error:
        return [str(error) if isinstance(error, CacheError) else f"{where}/{name}: the array is missing"]
    if checksum(values) != checks.get(name):
        return [f"{where}/{name}: sha256 differs from the one stored when it was written"]
    return []
