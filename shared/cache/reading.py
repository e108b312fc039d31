"""Reading a feature cache: what there is, and what is in it. The layout: ``shared/cache/__init__.py``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import zarr
from zarr.storage import LocalStore

from shared.cache.arrays import STRING_ARRAYS, read_array
from shared.cache.bulk import StoredStream, find_stored
from shared.cache.facts import Facts
from shared.cache.index import CacheIndex
from shared.cache.nodes import (
    MEND,
    Attrs,
    CacheError,
    Damaged,
    child_groups,
    child_names,
    get_groups,
    headless_groups,
)
from shared.cache.survey import READ_ALL_LOCAL, fold_index, rebuild_index, stamp_of, survey
from shared.cache.types import StreamData, VideoInfo
from shared.cache.verify import verify_root, verify_video
from shared.names import name_problem
from shared.recipe import Recipe, RecipeMismatch, diff_recipes, fingerprint
from shared.windows import WindowSpec


class CacheReader:
    """What an open cache can be asked, whether for reading or for writing."""

    def __init__(self, url: str, root: zarr.Group) -> None:
        self.url = url
        self._root = root
        self._videos: zarr.Group = root["videos"]  # type: ignore[assignment]
        self._store = root.store
        self._surveyed: tuple[Any, Facts] | None = None

    @cached_property
    def index(self) -> CacheIndex:
        """The index beside the cache; ``facts`` reads it."""
        return CacheIndex(self.url, stamp_of(self._store))

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self._root.attrs["dataset"])

    @property
    def window(self) -> WindowSpec:
        """The windows whose frames were extracted, or imported."""
        window = WindowSpec.from_dict(self._root.attrs["window"])  # type: ignore[arg-type]
        return replace(window, samples={**self.imported, **window.samples})

    @property
    def imported(self) -> dict[str, int]:
        """Streams that were made elsewhere, beside those that the cache was made for: name -> T, samples per window."""
        return dict(self._root.attrs.get("imported", {}))  # type: ignore[arg-type]

    @property
    def made_with(self) -> dict[str, Any]:
        """Preset and options that the cache was begun with; empty if nobody noted them."""
        return dict(self._root.attrs.get("made_with", {}))  # type: ignore[arg-type]

    def facts(self) -> Facts:
        """What every video has, in short. A large cache has an index, and its groups are not looked at.

        Then damage is not seen here, nor what others than this project's programs have changed: it is when features
        are read, and by ``verify``.
        """
        is_local = isinstance(self._store, LocalStore)
        key = self.index.signature(), len(child_names(self._store, "videos")) if is_local else 0
        if self._surveyed is None or self._surveyed[0] != key:
            facts = survey(self._store, self.index)
            exact = len(facts.videos) <= READ_ALL_LOCAL  # may change without a trace in the index
            self._surveyed = None if exact else (key, facts)
            return facts
        return self._surveyed[1]

    def write_index(self, *, rebuild: bool = False) -> Facts:
        """Bring the index up to date in one file; with ``rebuild``, after a look at every video.

        Raises:
            OSError: it cannot be written.
        """
        return (rebuild_index if rebuild else fold_index)(self._store, self.index)

    # ------------------------------------------------------------------ read

    def video_ids(self) -> list[str]:
        """Ids of all videos with at least one complete stream, sorted.

        Raises:
            CacheError: metadata of a video or stream is damaged.
        """
        (videos,) = child_groups(self._store, ["videos"])
        streams = child_groups(self._store, [f"videos/{v}" for v in videos], skip=["pts"])
        return sorted(
            v for (v, node), found in zip(videos.items(), streams, strict=True) if self._complete(v, node, found)
        )

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

    def decoder(self, video_id: str) -> str:
        """Name, version and codec of the decoder that read a video; empty if it was never decoded to the end."""
        (node,) = self._nodes(video_id)
        return str(node.get("decoder", "")) if isinstance(node, dict) else ""

    def paths(self) -> dict[str, str]:
        """Video id -> source path below the data set's root, of every video that was decoded to its end."""
        return {video_id: one.path for video_id, one in self.facts().videos.items() if one.path}

    def streams(self, video_id: str) -> dict[str, dict[str, Any]]:
        """Complete streams of a video: name -> recipe.

        Raises:
            CacheError: metadata of the video or of one of its streams is damaged.
        """
        (node,) = self._nodes(video_id)
        if node is None:
            return {}
        (found,) = child_groups(self._store, [f"videos/{video_id}"], skip=["pts"])
        return {name: attrs["recipe"] for name, attrs in self._complete(video_id, node, found).items()}

    def begun(self, video_id: str) -> set[str]:
        """Streams of a video, complete or not."""
        check_name(video_id)
        return set(child_names(self._store, f"videos/{video_id}")) - {"pts"}

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

    def checksums(self, video_id: str, stream: str) -> dict[str, str]:
        """Noted sha256 of the arrays of a complete stream, by name; empty if it is not complete."""
        return dict((self._marks(video_id, stream, None) or {}).get("checksums", {}))

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
            self._doubt(video_id)
            raise CacheError(f"{self.url} has no video {video_id!r}")
        found = {s: node for s, node in zip(streams, nodes, strict=True) if node is not None}
        complete = self._complete(video_id, video, found)
        for stream in streams:
            if stream not in complete:
                self._doubt(video_id)
                raise CacheError(f"{self.url} has no complete stream {stream!r} for video {video_id!r}")
        return video["num_frames"], {s: find_stored(self._videos, f"{video_id}/{s}", complete[s]) for s in streams}

    # ------------------------------------------------------------------ verify

    def verify_root(self) -> list[str]:
        """What changed in the metadata of the cache itself since they were written; one line per problem."""
        return verify_root(self._store)

    def verify(self, video_id: str) -> list[str]:
        """Recompute every checksum of a video; one line per problem, empty if all is well."""
        check_name(video_id)
        problems = verify_video(self._videos, video_id)
        if problems:
            self._doubt(video_id)
        return problems

    def found_marks(self, video_id: str) -> dict[str, Attrs]:
        """Attributes of complete streams, whatever the state of the others and of the video; damage never raises."""
        check_name(video_id)
        (found,) = child_groups(self._store, [f"videos/{video_id}"], skip=["pts"])
        return {name: node for name, node in found.items() if isinstance(node, dict) and node.get("complete") is True}

    def folder_ids(self) -> list[str]:
        """Ids of all video groups and of what is left of such, sorted: one listing, and no look into them."""
        return child_names(self._store, "videos")

    def group_ids(self) -> list[str]:
        """Ids of all video groups, finished or not, damaged or not, sorted."""
        (videos,) = child_groups(self._store, ["videos"])
        return sorted([*videos, *headless_groups(self._store, "videos", videos)])

    # ------------------------------------------------------------------ parts

    def _nodes(self, video_id: str, *streams: str) -> list[Attrs | Damaged | None]:
        for name in (video_id, *streams):
            check_name(name)
        return get_groups(self._store, [f"videos/{video_id}", *(f"videos/{video_id}/{s}" for s in streams)])

    def _complete(
        self, video_id: str, video: Attrs | Damaged, found: Mapping[str, Attrs | Damaged]
    ) -> dict[str, Attrs]:
        """``_complete`` of what was read one after the other: the video may have been finished between."""
        if isinstance(video, dict) and "num_frames" not in video and found:
            (video,) = self._nodes(video_id)  # type: ignore[assignment]
        return {} if video is None else _complete(video_id, video, found)

    def _marks(self, video_id: str, stream: str, recipe: Recipe | None) -> Attrs | None:
        """Attributes of a complete stream that was made by this recipe, or None."""
        video, node = self._nodes(video_id, stream)
        if video is None or node is None:
            return None
        marks = self._complete(video_id, video, {stream: node}).get(stream)
        if marks is None or recipe is None or fingerprint(marks["recipe"]) == fingerprint(recipe):
            return marks
        lines = "\n  ".join(diff_recipes(marks["recipe"], recipe))
        raise RecipeMismatch(
            f"stream {stream!r} of {self.url} (first seen on video {video_id!r}) was made by another recipe:\n"
            f"  {lines}\n"
            f"Either keep both: give another cache (--cache NEW.zarr); or replace it: --overwrite {stream}."
        )

    def _doubt(self, video_id: str) -> None:
        """What the index says of a video is wrong, or will be once it is mended: let everybody look."""
        with suppress(OSError):  # of a reader that may not write there
            self.index.begin(video_id)

    def _finished(self, video_id: str) -> set[str]:
        """Complete streams, whatever the state of the others."""
        return set(self.found_marks(video_id))


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
