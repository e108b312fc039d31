"""What every video of a cache has, in short: enough for a status, a resumed run and a task's index.

The groups of the cache are the truth. ``read_facts`` reads them, one by one; ``shared/cache/index.py`` keeps what it
found, so that nobody has to do so for a million videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from zarr.abc.store import Store

from shared.cache.nodes import Attrs, Damaged, child_groups, get_groups
from shared.recipe import Recipe, fingerprint

T = TypeVar("T")
AT_ONCE = 512  # videos whose metadata are in memory together; recipes are long


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """One video that was decoded to its end.

    Attributes:
        num_frames, missing_frames, truncated, leading, shown: as of ``VideoInfo``.
        path, num_bytes, mtime_ns, sha256, etag: of its source, None where it was not noted.
        streams: complete streams: name -> fingerprint of the recipe.
    """

    num_frames: int
    missing_frames: int
    path: str | None
    num_bytes: int | None
    mtime_ns: int | None
    sha256: str | None
    streams: Mapping[str, str]
    truncated: Mapping[str, Any] | None = None
    etag: str | None = None
    leading: int = 0
    shown: Mapping[str, Any] | None = None

    @property
    def source(self) -> dict[str, Any]:
        """As of ``VideoInfo``."""
        found = {"path": self.path, "bytes": self.num_bytes, "mtime_ns": self.mtime_ns, "sha256": self.sha256}
        found["etag"] = self.etag
        return {name: value for name, value in found.items() if value is not None}


@dataclass
class Facts:
    """What a cache has.

    Attributes:
        videos: id -> facts, in order of ids.
        recipes: fingerprint -> recipe, of all streams of all videos.
        damaged: id -> the metadata that cannot be read, of videos where there is such.
    """

    videos: dict[str, VideoFacts] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    damaged: dict[str, Damaged] = field(default_factory=dict)
    _shared: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = field(default_factory=dict, repr=False)

    def check(self) -> Facts:
        """Itself.

        Raises:
            CacheError: metadata of a video or of one of its streams is damaged.
        """
        for video_id in sorted(self.damaged)[:1]:
            raise self.damaged[video_id].error()
        return self

    def same(self, streams: Mapping[str, str]) -> Mapping[str, str]:
        """An equal mapping that other videos have, too: most videos have the same streams, and a dict is large."""
        return self._shared.setdefault(tuple(streams.items()), streams)


def read_facts(store: Store, video_ids: Iterable[str], into: Facts | None = None) -> Facts:
    """Look at the groups of some videos; those that are not there, or were not decoded to their end, are left out."""
    facts = Facts() if into is None else into
    rest = iter(video_ids)
    while ids := list(islice(rest, AT_ONCE)):
        paths = [f"videos/{v}" for v in ids]
        # The video after its streams: it is written before the first of them is complete.
        found = child_groups(store, paths, skip=["pts"])
        for video_id, node, streams in zip(ids, get_groups(store, paths), found, strict=True):
            _add(facts, video_id, node, streams)
    return facts


def _add(facts: Facts, video_id: str, node: Attrs | Damaged | None, found: Mapping[str, Attrs | Damaged]) -> None:
    complete = {}
    for part in (node, *found.values()):
        if isinstance(part, Damaged):
            facts.damaged[video_id] = part
    for name, marks in sorted(found.items()):
        if isinstance(marks, Damaged) or marks.get("complete") is not True:
            continue
        if isinstance(marks.get("recipe"), dict) and isinstance(marks.get("checksums"), dict):
            complete[name] = _known(facts, marks)
        else:
            facts.damaged[video_id] = Damaged(f"{video_id}/{name}")
    if isinstance(node, dict) and "num_frames" in node:
        source = node.get("source", {})
        facts.videos[video_id] = VideoFacts(
            node["num_frames"],
            node.get("missing_frames", 0),
            source.get("path"),
            source.get("bytes"),
            source.get("mtime_ns"),
            source.get("sha256"),
            facts.same(complete),
            node.get("truncated"),
            source.get("etag"),
            node.get("leading", 0),
            node.get("shown"),
        )
    elif complete and isinstance(node, dict):
        facts.damaged[video_id] = Damaged(video_id)


def _known(facts: Facts, marks: Attrs) -> str:
    """Fingerprint of a stream's recipe, under which the recipe is known from now on."""
    mark = marks.get("fingerprint")
    if not isinstance(mark, str) or facts.recipes.get(mark) != marks["recipe"]:  # the first, or a wrong fingerprint
        mark = fingerprint(marks["recipe"])
        facts.recipes.setdefault(mark, marks["recipe"])
    return mark


def to_row(video_id: str, facts: VideoFacts) -> dict[str, Any]:
    """A video's facts as JSON."""
    row = {"id": video_id, "frames": facts.num_frames, "streams": dict(facts.streams), "source": facts.source}
    if facts.missing_frames:
        row["missing_frames"] = facts.missing_frames
    if facts.truncated is not None:
        row["truncated"] = dict(facts.truncated)
    if facts.leading:
        row["leading"] = facts.leading
    if facts.shown is not None:
        row["shown"] = dict(facts.shown)
    return row


def from_row(row: Mapping[str, Any], facts: Facts) -> VideoFacts:
    """The opposite of ``to_row``; ``facts`` knows the mappings that videos share.

    Raises:
        KeyError, TypeError, AttributeError: it is no such row, or one with recipes that ``facts`` does not know.
    """
    source, streams = row["source"], row["streams"]
    numbers = row["frames"], row.get("missing_frames", 0), row.get("leading", 0)
    known = all(mark in facts.recipes for mark in streams.values())
    if not (known and all(type(n) is int and n >= 0 for n in numbers)):
        raise TypeError(row)
    return VideoFacts(
        *numbers[:2],
        _of_type(str, source.get("path")),
        _of_type(int, source.get("bytes")),
        _of_type(int, source.get("mtime_ns")),
        _of_type(str, source.get("sha256")),
        facts.same(streams),
        _of_type(dict, row.get("truncated")),
        _of_type(str, source.get("etag")),
        numbers[2],
        _of_type(dict, row.get("shown")),
    )


def _of_type(kind: type[T], value: Any) -> T | None:
    if value is not None and type(value) is not kind:
        raise TypeError(value)
    return value
