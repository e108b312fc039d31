"""An index of what a cache has, in the folder ``<cache>.index/`` beside it: JSON lines, one per video.

    base-<time>-<writer>.jsonl         every video as of some moment, and which parts went into it
    part-<time>-<writer>-<n>.jsonl     what one process has changed since, in order

    {"of": "1700...", "folded": {...}, "seen": {}}  first of all: the cache that it belongs to; what a base replaces
    {"recipe": {...}, "fingerprint": "0123..."}     before the first video with a stream made by it
    {"id": "a.mp4"}                                 a process is about to change this video
    {"id": "a.mp4", "still": true}                  or is about it since before this part
    {"id": "a.mp4", "frames": 64, "streams": ...}   and now it is like this (shared/cache/facts.py)
    {"id": "a.mp4", "gone": true}                   or has nothing any more

The groups of the cache stay the truth; the index only says where nobody needs to look. A video that a process has
announced and not settled (it is at work, or was killed), or of which two processes say different things, is looked at.
A process that settles a video may have looked at it before another one settled it; as long as both say so, that shows.
Once a base has what the other one said, it does not: so a line replaces what a base says only if the video was
announced, and so looked at, after the base was made. ``seen`` says how long the parts were then (where it differs from
``folded``: how much of them is in the base). Of other lines only this is known, that the video has to be looked at.
Files are never changed but by their own writer, and what replaces others says so itself, so that nobody needs a lock,
on a disk or an object store: a kill at any moment leaves files that still mean the same, or a last line that is torn,
which counts as never written. A part that ends in ``.gone...`` was about to be removed, and still counts. The folder
can be removed at any time; it is made again by looking at every video.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.cache.facts import Facts, VideoFacts, from_row, to_row
from shared.cache.folder import Folder, plain_name
from shared.recipe import Recipe

ENDING = ".index"
_TIME = "%Y%m%dT%H%M%S"
# Files of other names are not touched: they are none of ours.
_OURS = re.compile(r"(base-\d{8}T\d{6}-[0-9a-f]{12}|part-\d{8}T\d{6}-[0-9a-f]{12}-\d{6,})\.jsonl(\.gone[0-9a-f]*)?")
KEEP = timedelta(days=7)  # without a line of a process that announced a video and never settled it: it is dead
_TRIES = 5
LINES_PER_OBJECT = 256  # object stores cannot append: a part is written anew with every line, so it has to be short


@dataclass
class Indexed:
    """What the index says.

    Attributes:
        facts: of videos that nobody needs to look at.
        doubtful: ids of videos that have to be looked at.
        has_base: whether somebody has looked at all videos once; else there may be others.
        num_loose: videos in parts, which no base has yet.
        sizes: file -> bytes of it that were read.
        folded: file -> bytes of it that went into a base.
        seen: part -> bytes of it that were there when the last base was made.
        open: writer -> ids of videos that it has announced and not settled.
        foreign: files of another cache, which was at this place before.
    """

    facts: Facts = field(default_factory=Facts)
    doubtful: set[str] = field(default_factory=set)
    has_base: bool = False
    num_loose: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    folded: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    open: dict[str, set[str]] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


Row = VideoFacts | bool | None  # None: announced; False: gone


class CacheIndex:
    """Reads and writes the index of one cache; one object per process and cache.

    Args:
        url: of the cache.
        stamp: of the cache as it was made; the index of another one that was at the same place does not count.
    """

    def __init__(self, url: str, stamp: str) -> None:
        self.folder = Folder(url.rstrip("/") + ENDING)
        self._stamp = stamp
        self._writer = f"{datetime.now(UTC).strftime(_TIME)}-{uuid.uuid4().hex[:12]}"
        self._number = 0
        self._lines: list[bytes] = []  # of the part that is being written, on an object store
        self._torn = False  # the last write failed: what it left is no place to go on
        self._open: set[str] = set()
        self._recipes: set[str] = set()  # those that the part has
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ write

    def begin(self, video_id: str) -> None:
        """Announce that a video is about to be changed.

        Raises:
            OSError: the index cannot be written; the video must not be changed then.
        """
        with self._lock:
            if video_id not in self._open or self._torn:  # a settle that failed may be there all the same
                self._append([_line({"id": video_id})])
                self._open.add(video_id)

    def settle(self, video_id: str, facts: VideoFacts | None, recipes: Mapping[str, Recipe]) -> None:
        """Say what a video has, now that it is not being changed; None: nothing."""
        with self._lock:
            row = {"id": video_id, "gone": True} if facts is None else to_row(video_id, facts)
            new = [mark for mark in (facts.streams.values() if facts else ()) if mark not in self._recipes]
            lines = [_line({"fingerprint": mark, "recipe": recipes[mark]}) for mark in dict.fromkeys(new)]
            self._append([*lines, _line(row)])
            self._recipes.update(new)
            self._open.discard(video_id)

    def _append(self, lines: list[bytes]) -> None:
        """Add lines to this process's part; a new one where there is none, or somebody has folded and removed it."""
        full = self.folder.is_remote and len(self._lines) + len(lines) > LINES_PER_OBJECT
        usable, self._torn = self._number and not full and not self._torn, True
        if not (usable and self._write(lines)):
            self._number += 1
            self._recipes.clear()
            self._lines = [_line({"of": self._stamp}), *(_line({"id": v, "still": True}) for v in sorted(self._open))]
            self.folder.write(self._part(), b"".join([*self._lines, *lines]))
            self._lines += lines if self.folder.is_remote else []
        self._torn = False

    def _write(self, lines: list[bytes]) -> bool:
        if not self.folder.is_remote:
            return self.folder.append(self._part(), b"".join(lines))
        self.folder.write(self._part(), b"".join([*self._lines, *lines]))
        self._lines += lines
        return True

    def _part(self) -> str:
        return f"part-{self._writer}-{self._number:06d}.jsonl"

    # ------------------------------------------------------------------ read

    def signature(self) -> dict[str, int]:
        """File -> bytes, of all files; another one means that there is something new."""
        return {name: size for name, size in self.folder.sizes().items() if _OURS.fullmatch(name)}

    def read(self) -> Indexed:
        """What the files say together. Files that are torn, foreign or gone meanwhile count as far as they go."""
        found = Indexed()
        contents = self._contents()
        heads = {name: _head(raw) for name, raw in contents.items()}
        own = [name for name in contents if heads[name].get("of") == self._stamp]
        found.foreign = sorted(contents.keys() - set(own))
        for name in own:
            _raise_to(found.folded, folded := heads[name].get("folded", {}))
            _raise_to(found.seen, {**folded, **heads[name].get("seen", {})})
        found.sizes = {name: len(contents[name]) for name in own}
        bases = [name for name in own if name.startswith("base-") and plain_name(name) not in found.folded]
        found.has_base = bool(bases)
        _merge(found, [_rows(contents.pop(name), found.facts)[0] for name in bases], all_know=True)
        writers: dict[str, dict[str, Row]] = {}
        announced: dict[str, dict[str, bool]] = {}  # writer -> video -> whether it was after the bases were made
        for name in (n for n in own if n.startswith("part-")):
            writer, plain = _writer_of(name), plain_name(name)
            skip = found.folded.get(plain, 0), found.seen.get(plain, 0)
            rows, new = _rows(contents.pop(name), found.facts, *skip, announced.setdefault(writer, {}))
            found.open.setdefault(writer, set()).difference_update(rows)
            found.open[writer].update(v for v, row in rows.items() if row is None)
            writers.setdefault(writer, {}).update(new)
        found.num_loose = len(newer := set().union(*writers.values()))
        found.doubtful -= newer
        _merge(found, list(writers.values()))
        found.doubtful.update(*found.open.values())  # a writer may have announced them before the base was made
        for video_id in found.doubtful:
            found.facts.videos.pop(video_id, None)
        return found

    def _contents(self) -> dict[str, bytes]:
        """File -> what is in it. If one is gone before it is read, another says the same: all are listed anew. If that
        never ends there is none, and every video is looked at: some of the files alone may say what is not so."""
        for _ in range(_TRIES):
            found = {name: self.folder.read(name) for name in sorted(self.signature())}
            if None not in found.values():
                return {name: raw for name, raw in found.items() if raw}
        return {}

    # ------------------------------------------------------------------ fold

    def fold(self, found: Indexed, facts: Facts) -> None:
        """Write everything into one new base and remove what it replaces.

        Args:
            found: what was read.
            facts: the same after a look at every doubtful video.

        Raises:
            OSError: it cannot be written; then nothing has changed.
        """
        seen = {plain_name(name): size for name, size in self.signature().items() if name.startswith("part-")}
        now = datetime.now(UTC)
        oldest = (now - KEEP).strftime(_TIME)
        alive = {w: ids for w, ids in found.open.items() if ids and self._last_time(w, found) >= oldest}
        doubtful = set(facts.damaged).union(*alive.values())
        folded = {name: size for name, size in found.folded.items() if _time_of(name) >= oldest}
        _raise_to(folded, {plain_name(name): size for name, size in found.sizes.items()})
        seen = {name: size for name, size in seen.items() if size != folded.get(name)}
        name = f"base-{now.strftime(_TIME)}-{uuid.uuid4().hex[:12]}.jsonl"
        self.folder.write(name, b"".join(_base({"of": self._stamp, "folded": folded, "seen": seen}, facts, doubtful)))
        for old, size in found.sizes.items():
            if old.startswith("base-"):
                self.folder.delete(old)
            elif _writer_of(old) not in alive:
                self.folder.retire(old, size)  # its writer may be adding to it at this moment
        for old in found.foreign:
            self.folder.delete(old)

    def reset(self) -> None:
        """Begin the index of a new cache: forget that of one that was at the same place before."""
        for name in self.signature():
            self.folder.delete(name)
        if self.folder.is_remote:  # where nobody lists a million videos only to see whether the index has them all
            self.fold(Indexed(), Facts())

    def _last_time(self, writer: str, found: Indexed) -> str:
        """When a process last wrote to one of its parts; when it began, if nobody tells."""
        times = [t for name in found.sizes if _writer_of(name) == writer and (t := self.folder.modified(name))]
        return max([_time_of(writer), *(t.strftime(_TIME) for t in times)])


def _rows(
    raw: bytes, facts: Facts, skip: int = 0, seen: int = 0, announced: dict[str, bool] | None = None
) -> tuple[dict[str, Row], dict[str, Row]]:
    """What a file says in the end, by id; and the same without what only the first ``skip`` bytes say, where videos
    that were not announced after ``seen`` bytes are doubtful. ``announced``: what earlier parts say of that."""
    rows: dict[str, Row] = {}
    new: dict[str, Row] = {}  # of a base, nothing: it may be of a million videos
    start = 0
    while (end := raw.find(b"\n", start)) >= 0:  # what follows the last one is torn
        line, start = raw[start:end], end + 1
        try:
            row = json.loads(line)
            if "recipe" in row:
                if isinstance(row["recipe"], dict):
                    facts.recipes.setdefault(row["fingerprint"], row["recipe"])
            elif isinstance(row.get("id"), str):
                rows[row["id"]] = said = _said(row, facts)
                if announced is None:
                    continue
                if len(row) == 1:
                    announced[row["id"]] = start > seen
                if start > skip:
                    new[row["id"]] = said if announced.get(row["id"]) else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # damaged: who is not in the index is looked at
    return rows, new


def _said(row: Mapping[str, Any], facts: Facts) -> Row:
    if len(row) == 1 or row.get("still") or row.get("gone"):
        return False if row.get("gone") else None
    try:
        return from_row(row, facts)
    except (KeyError, TypeError, AttributeError):  # values that no writer writes: the video is looked at
        return None


def _merge(found: Indexed, sources: list[dict[str, Row]], *, all_know: bool = False) -> None:
    """Let several sources, none newer than the other, replace what older ones said; ``all_know``: a source has all
    videos, so that one which it lacks is gone for it."""
    videos = found.facts.videos
    seen: set[str] = set()
    for rows in sources:
        for video_id, row in rows.items():
            if row is None or (video_id in seen and row != videos.get(video_id, False)):
                found.doubtful.add(video_id)
            elif row is False:
                videos.pop(video_id, None)
            else:
                videos[video_id] = row  # type: ignore[assignment]
        seen.update(rows)
    if all_know and len(sources) > 1:
        found.doubtful.update(seen.difference(set(sources[0]).intersection(*sources[1:])))


def _base(head: Mapping[str, Any], facts: Facts, doubtful: set[str]) -> Iterator[bytes]:
    yield _line(head)
    ways = {id(one.streams): one.streams for one in facts.videos.values()}.values()
    for mark in sorted({mark for streams in ways for mark in streams.values()}):
        yield _line({"fingerprint": mark, "recipe": facts.recipes[mark]})
    for video_id in sorted(facts.videos):
        if video_id not in doubtful:
            yield _line(to_row(video_id, facts.videos[video_id]))
    for video_id in sorted(doubtful):
        yield _line({"id": video_id})


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _head(raw: bytes) -> dict[str, Any]:
    try:
        head = json.loads(raw[: raw.find(b"\n")])
    except (ValueError, RecursionError):  # the last of lists in lists without end
        return {}
    sizes = [head.get(name, {}) for name in ("folded", "seen")] if isinstance(head, dict) else [None]
    return head if all(isinstance(s, dict) and all(type(n) is int for n in s.values()) for s in sizes) else {}


def _raise_to(sizes: dict[str, int], others: Mapping[str, int]) -> None:
    for name, size in others.items():
        sizes[name] = max(size, sizes.get(name, 0))


def _writer_of(part: str) -> str:
    return part.rpartition("-")[0]


def _time_of(name: str) -> str:
    """When the writer of a file began, or "" of a name that is none of ours."""
    parts = name.split("-")
    return parts[1] if len(parts) > 2 else ""
