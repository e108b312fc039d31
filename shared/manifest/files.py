"""Which files below a data set's root are videos."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from shared.labels.annotations import is_hidden
from shared.manifest.passed import LINK_OUT, SAME_VIDEO, Passed
from shared.manifest.table import Problems
from shared.manifest.tree import Entry, Tree
from shared.names import Root
from shared.videos.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Series, frame_series, series_among
from shared.videos.remote import RemoteError, RemoteRoot


def match_videos(patterns: Any, below: Root, problems: Problems, passed: Passed) -> list[str]:
    """Paths below the root of all video files and frame folders that match one of the patterns."""
    scan = _Scan(below, passed)
    for pattern in _checked(patterns, problems):
        try:
            for entry in scan.tree.match(pattern):
                scan.look_at(entry)
        except ValueError as error:
            problems.add("[videos] glob", f"not a pattern: {error}")
    return scan.finish()


class _Scan:
    """Sorts what the patterns match into videos and what is passed over."""

    def __init__(self, below: Root, passed: Passed) -> None:
        self.tree, self._passed = Tree(below, passed.because), passed
        self._found: dict[str, Entry] = {}
        self._seen: set[str] = set()
        self._pictures: dict[str, Counter[str]] = {}  # frame folder, which may not be taken -> endings of its pictures
        self._series = lru_cache(maxsize=64)(_readable_series)

    def look_at(self, entry: Entry) -> None:
        if entry.path in self._seen:
            return
        self._seen.add(entry.path)
        folder, _, name = entry.path.rpartition("/")
        suffix = PurePosixPath(name).suffix.lower()
        if entry.hidden:
            if not entry.folder or entry.outside:
                self._passed.by_name(entry.path, hidden=True)
        elif entry.folder:
            self._look_at_folder(entry)
        elif suffix in VIDEO_SUFFIXES:
            # A pipe or a dead link by the name of a video is taken: decoding fails, and the ledger says why.
            self._take(entry, entry.outside)
        elif suffix in IMAGE_SUFFIXES and any(name in one.numbers for one in self._series(entry.place)):
            self._pictures.setdefault(folder, Counter())[suffix] += 1
        else:
            self._passed.by_name(entry.path)

    def _look_at_folder(self, entry: Entry) -> None:
        """A folder that is no video is nothing itself: the patterns say whether what is in it is looked at."""
        if entry.outside:
            self._take(entry, True)
        elif series := self._series(entry.real):
            links = [name for one in series for name in one.links]
            self._take(entry, not all(self.tree.lets(entry, name) for name in links))

    def _take(self, entry: Entry, leads_out: bool) -> None:
        if leads_out:
            self._passed.because(entry.path, LINK_OUT)
        else:
            self._found[entry.path] = entry

    def finish(self) -> list[str]:
        """The paths of the videos, each video once wherever links lead to it: at its own place if that is one."""
        for folder, endings in self._pictures.items():
            for suffix, count in endings.items() if folder not in self._found else ():
                self._passed.by_name(f"{folder}/*{suffix}".lstrip("/"), count=count)
        once: dict[str, Entry] = {}
        for entry in sorted(self._found.values(), key=lambda e: (e.linked, e.path)):
            first = once.setdefault(entry.real, entry)
            if first is not entry:
                self._passed.because(entry.path, SAME_VIDEO, f"it is {first.path}")
        return [entry.path for entry in once.values()]


def match_remote(patterns: Any, root: RemoteRoot, problems: Problems, passed: Passed) -> list[str]:
    """``match_videos`` of an object store. Folders of pictures are a problem there: each would be many objects."""
    try:
        from fsspec.utils import glob_translate

        names = sorted(root.files())
    except (OSError, ImportError) as error:
        place = "" if isinstance(error, RemoteError) else f"{root.url}: "
        problems.add("root", f"cannot list {place}{error}")
        return []
    rules = [re.compile(glob_translate(pattern)) for pattern in _checked(patterns, problems)]
    found: list[str] = []
    frames = {folder for folder in _remote_frame_folders(names) if any(rule.match(folder) for rule in rules)}
    for name in names:
        path = PurePosixPath(name)
        if name.endswith("/") or not any(rule.match(name) for rule in rules):
            continue  # a marker of a folder is nothing
        if any(map(is_hidden, path.parts)):
            passed.by_name(name, hidden=True)
        elif name == str(path) and path.suffix.lower() in VIDEO_SUFFIXES:  # else a name that no file could have
            found.append(name)
        elif not (path.suffix.lower() in IMAGE_SUFFIXES and str(path.parent) in frames):
            passed.by_name(name)
    if frames:
        some = ", ".join(sorted(frames)[:5])
        problems.add("[videos] glob", f"folders of pictures are read from disks only; copy them or narrow it: {some}")
    return found


def _remote_frame_folders(names: list[str]) -> Iterator[str]:
    paths = [path for path in map(PurePosixPath, names) if not any(map(is_hidden, path.parts))]
    inside: dict[PurePosixPath, set[str]] = {p.parent: set() for p in paths if p.suffix.lower() in IMAGE_SUFFIXES}
    with_folders = {folder for path in paths if inside for folder in list(path.parents)[1:]}
    for path in paths:
        if path.parent in inside:
            inside[path.parent].add(path.name)
    return (str(p) for p, names in inside.items() if series_among(names, folders=p in with_folders))


def _readable_series(folder: str) -> list[Series]:
    try:
        return frame_series(folder)
    except OSError:  # told where it is gone through
        return []


def _checked(patterns: Any, problems: Problems) -> Iterator[str]:
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        if is_pattern_below(pattern):
            yield pattern
        else:
            problems.add("[videos] glob", f"expected a pattern below the root, found {pattern!r}")


def is_pattern_below(pattern: Any) -> bool:
    return (
        isinstance(pattern, str)
        and bool(pattern)
        and not Path(pattern).is_absolute()
        and ".." not in Path(pattern).parts
    )
