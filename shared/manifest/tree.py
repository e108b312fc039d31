"""Files and folders below a root that match a pattern, as ``Path.glob`` finds them, but with links by one rule."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import NamedTuple

from shared.labels.annotations import is_hidden
from shared.manifest.passed import GONE_THROUGH, LINK_OUT
from shared.names import Root

_WILD = re.compile(r"[*?\[]")


class Entry(NamedTuple):
    """A file or folder.

    Attributes:
        path: posix path below the root, as it is named.
        place: the folder that it is in, where that really is.
        real: where it really is itself.
        folder: whether it is a folder, or a link to one.
        hidden: whether a part of its path is hidden.
        linked: whether it, or a folder above it, is a link.
        outside: it is a link that may not be followed.
    """

    path: str
    place: str
    real: str
    folder: bool
    hidden: bool = False
    linked: bool = False
    outside: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def moved(self) -> bool:
        """Whether it is a link."""
        return self.real != os.path.join(self.place, self.name)


class Tree:
    """What lies below a root. A link is gone through if ``below`` lets it; no folder is walked twice, so circles end.

    Args:
        below: the root and the rule of its links.
        passed: called with path and reason for a folder that is not gone through.
    """

    def __init__(self, below: Root, passed: Callable[[str, str], None]) -> None:
        self._below, self._passed = below, passed

    def match(self, pattern: str) -> Iterator[Entry]:
        """Everything that matches, a folder before what is in it, hidden ones too; some perhaps twice.

        Raises:
            ValueError: not a pattern.
        """
        parts = PurePath(pattern).parts
        if not parts or any("**" in part and part != "**" for part in parts) or "\x00" in pattern:
            raise ValueError(f"{pattern!r}; '**' can only be an entire part of a path")
        yield from self._match(Entry("", "", str(self._below.real), True), parts)

    def lets(self, folder: Entry, name: str) -> bool:
        """Whether a link in a folder may be followed."""
        return self._below.lets(os.path.realpath(os.path.join(folder.real, name)), folder.real)

    def _match(self, folder: Entry, parts: tuple[str, ...]) -> Iterator[Entry]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            for inner in self._walk(folder):
                if rest:
                    yield from self._match(inner, rest)
                elif inner.path:
                    yield inner
            return
        for entry in self._list(folder) if _WILD.search(part) else self._named(folder, part):
            if not fnmatch.fnmatch(entry.name, part):
                continue
            if not rest:
                yield entry
            elif self._may_enter(entry):
                yield from self._match(entry, rest)

    def _walk(self, top: Entry) -> Iterator[Entry]:
        """A folder and all below it, each once: at its own place before wherever links lead."""
        seen, links, stack = set[tuple[str, bool]](), deque[Entry](), [top]
        while stack or links:
            folder = stack.pop() if stack else links.popleft()
            if (folder.real, folder.hidden) in seen:
                self._passed(folder.path, GONE_THROUGH)
                continue
            seen.add((folder.real, folder.hidden))
            yield folder
            inner = [entry for entry in self._list(folder, files=False) if self._may_enter(entry)]
            links += [entry for entry in inner if entry.moved]
            stack += [entry for entry in reversed(inner) if not entry.moved]

    def _may_enter(self, entry: Entry) -> bool:
        if entry.folder and entry.outside and not entry.hidden:
            self._passed(entry.path, LINK_OUT)
        return entry.folder and not entry.outside

    def _list(self, folder: Entry, files: bool = True) -> list[Entry]:
        try:
            with os.scandir(folder.real) as found:
                items = [(item.name, item.is_symlink(), item.is_dir(follow_symlinks=False)) for item in found]
        except OSError as error:
            self._passed(folder.path or ".", f"folders that cannot be read ({error.strerror or error})")
            return []
        return [self._entry(folder, *item) for item in sorted(items) if files or item[1] or item[2]]

    def _named(self, folder: Entry, name: str) -> list[Entry]:
        place = os.path.join(folder.real, name)
        if not os.path.lexists(place):
            return []
        return [self._entry(folder, name, os.path.islink(place), os.path.isdir(place))]

    def _entry(self, folder: Entry, name: str, link: bool, is_folder: bool) -> Entry:
        path = f"{folder.path}/{name}" if folder.path else name
        hidden, place = folder.hidden or is_hidden(name), os.path.join(folder.real, name)
        if not link:
            return Entry(path, folder.real, place, is_folder, hidden, folder.linked)
        real = os.path.realpath(place)
        outside = hidden or not self._below.lets(real, folder.real)
        return Entry(path, folder.real, real, os.path.isdir(real), hidden, True, outside)
