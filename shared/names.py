"""Names: which are safe as a group of any store or a path below its root, and what to say of one that is unknown."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

MAX_NAME_BYTES = 200
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]')


def name_problem(name: str) -> str | None:
    """Why a name cannot be a video or stream id, or None if it can."""
    if not name:
        return "an id must not be empty"
    if len(name.encode("utf-8", errors="replace")) > MAX_NAME_BYTES:
        return f"id {name[:40]!r}... is longer than {MAX_NAME_BYTES} bytes"
    if name.startswith(("__", ".")) or name in ("zarr.json", "pts"):
        return f"id {name!r} is reserved: it must not start with '.' or '__' nor be 'pts' or 'zarr.json'"
    if name.endswith(".partial"):
        return f"id {name!r} is reserved: stores use the ending .partial for files that are being written"
    if found := _FORBIDDEN.search(name):
        return f'id {name!r} has {found.group()!r}; / \\ : * ? " < > | and control characters are not allowed'
    return None


def stays_below(path: str, root: Path) -> bool:
    """Whether a relative path stays below the root: not absolute, no "..", no NUL, no link that leads out."""
    if not path or "\x00" in path or path.startswith(("/", "~")) or path[1:2] == ":" or ".." in path.split("/"):
        return False
    real_root = os.path.realpath(root)
    return os.path.commonpath([real_root, os.path.realpath(os.path.join(real_root, path))]) == real_root


def video_id(path: str, rule: str = "path") -> str:
    """The id of a video from its path below the root: "a/b.mp4" -> "a__b.mp4" (rule "path") or "b" (rule "stem")."""
    plain = PurePosixPath(path.strip("/"))  # "./a//b.mp4" is a/b.mp4
    return plain.stem if rule == "stem" else str(plain).replace("/", "__")


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
