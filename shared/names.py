"""Names: which are safe as a group of any store or a path below its root, and what to say of one that is unknown."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

MAX_NAME_BYTES = 200
# Direction marks, invisible characters, line separators: ids that look alike, texts that show another order.
_HIDDEN = r"\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
_CONTROLS = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_FORBIDDEN = re.compile(rf'[/\\:*?"<>|{_CONTROLS}{_HIDDEN}]')
_UNPRINTABLE = re.compile(rf"[{_CONTROLS}{_HIDDEN}]")
_ODD_PARTS = re.compile(r"(?:^|/)\.?(?:/|$)")
# Devices of Windows, whatever ending follows: a cache is copied to other systems.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)


def name_problem(name: str) -> str | None:
    """Why a name cannot be a video or stream id, or None if it can."""
    if not name:
        return "an id must not be empty"
    if len(name.encode("utf-8", errors="replace")) > MAX_NAME_BYTES:
        return f"id {name[:40]!r}... is longer than {MAX_NAME_BYTES} bytes"
    if name.startswith(("__", ".")) or name.lower() in ("zarr.json", "pts"):
        return f"id {name!r} is reserved: it must not start with '.' or '__' nor be 'pts' or 'zarr.json'"
    if name.lower().endswith(".partial"):
        return f"id {name!r} is reserved: stores use the ending .partial for files that are being written"
    if _DEVICES.match(name):
        return f"id {name!r} is reserved: Windows has a device of that name"
    if found := _FORBIDDEN.search(name):
        return f'id {name!r} has {found.group()!r}; / \\ : * ? " < > |, control and hidden characters are not allowed'
    if name != name.strip() or name.endswith("."):
        return f"id {name!r} begins or ends with a space, or ends with a dot; some systems drop those"
    return None


def name_key(name: str) -> str:
    """What two names have in common that are one file on some system: letter case and the form of accents aside."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def printable(text: str) -> str:
    """A text for a terminal or a log: what could drive it or hide something is spelled out, line ends and tabs stay."""
    return _UNPRINTABLE.sub(lambda m: m[0] if m[0] in "\n\t" else m[0].encode("unicode_escape").decode("ascii"), text)


def stays_below(path: str, root: Path) -> bool:
    """Whether a relative path stays below the root: not absolute, no "..", no NUL, no link that leads out."""
    return Root(root).holds(path)


class Root:
    """``stays_below`` for many paths of one root: where a folder really lies is looked up once.

    A root that is None is one of an object store, or of files that nobody opens: the path alone says.

    Args:
        root: the folder.
        follow_links: the user has said that links may lead out.
    """

    def __init__(self, root: Path | None, follow_links: bool = False) -> None:
        self.real = None if root is None else os.path.realpath(root)
        self._follow = follow_links
        self._folders: dict[str, tuple[str, bool]] = {}  # as written -> where it is, whether that is below the root

    def holds(self, path: str) -> bool:
        """Whether a relative path stays below the root."""
        if not path or "\x00" in path or path.startswith("/") or path[1:2] == ":":
            return False
        if ".." in (parts := path.split("/")) or parts[0] == "~":  # a home, to whoever wrote it
            return False
        if self.real is None or self._follow:
            return True
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            real = os.path.realpath(os.path.join(self.real, folder))
            self._folders[folder] = real, self._is_below(real)
        real, below = self._folders[folder]
        file = f"{real}/{name}"
        return below and (not os.path.islink(file) or self.lets(os.path.realpath(file), real))

    def lets(self, real: str, folder: str) -> bool:
        """Whether a link may lead to a place: below the root, or from a snapshot of a model hub to its own blobs.

        Args:
            real: where the link leads in the end.
            folder: where the folder with the link really is.
        """
        return self._follow or self._is_below(real) or _is_blob(real, folder)

    def _is_below(self, real: str) -> bool:
        return self.real is not None and os.path.commonpath([self.real, real]) == self.real


def _is_blob(real: str, folder: str) -> bool:
    """REPOSITORY/snapshots/COMMIT/... -> REPOSITORY/blobs/..., as the client of a model hub lays it out."""
    snapshots = next((above for above in PurePath(folder).parents if above.name == "snapshots"), None)
    return snapshots is not None and PurePath(real).is_relative_to(snapshots.parent / "blobs")


def plain_path(path: str) -> str:
    """A path without empty parts and ".": ./a//b.mp4 is a/b.mp4."""
    return str(PurePosixPath(path)) if _ODD_PARTS.search(path) else path


def video_id(path: str, rule: str = "path") -> str:
    """The id of a video from its path below the root: "a/b.mp4" -> "a__b.mp4" (rule "path") or "b" (rule "stem")."""
    plain = plain_path(path.strip("/"))
    return PurePosixPath(plain).stem if rule == "stem" else plain.replace("/", "__")


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is in no table: what was asked for, the closest match, everything known.

    Args:
        what: the kind of thing, in words ("task", "head", "stream").
        name: the unknown name.
        known: every valid name.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(names) or 'none'})"
