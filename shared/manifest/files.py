"""Which files below a data set's root are videos."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from shared.annotations import IGNORED_NAMES
from shared.manifest.table import Problems
from shared.remote_files import RemoteError, RemoteRoot

VIDEO_SUFFIXES = frozenset(
    ".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .ts .mts .m2ts .3gp .3g2 .flv .wmv .ogv .mxf .vob".split()  # noqa: SIM905
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png"])


def match_videos(patterns: Any, root: Path, problems: Problems) -> list[str]:
    """Paths below the root of all video files and frame folders that match one of the patterns."""
    found: dict[str, None] = {}
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        if not is_pattern_below(pattern):
            problems.add("[videos] glob", f"expected a pattern below the root, found {pattern!r}")
            continue
        try:
            paths = sorted(root.glob(pattern))
        except ValueError as error:
            problems.add("[videos] glob", f"not a pattern: {error}")
            continue
        for path in paths:
            parts = path.relative_to(root).parts
            hidden = any(p in IGNORED_NAMES or p.startswith(".") for p in parts)
            # A pipe or a dead link by the name of a video stays: decoding it fails, and the ledger says why.
            wanted = is_frame_folder(path) if path.is_dir() else path.suffix.lower() in VIDEO_SUFFIXES
            if not hidden and wanted:
                found[path.relative_to(root).as_posix()] = None
    return list(found)


def match_remote(patterns: Any, root: RemoteRoot, problems: Problems) -> list[str]:
    """``match_videos`` of an object store. Folders of pictures are a problem there: each would be many objects."""
    try:
        from fsspec.utils import glob_translate

        names = sorted(root.files())
    except (OSError, ImportError) as error:
        place = "" if isinstance(error, RemoteError) else f"{root.url}: "
        problems.add("root", f"cannot list {place}{error}")
        return []
    found: dict[str, None] = {}
    pictures: set[str] = set()
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        if not is_pattern_below(pattern):
            problems.add("[videos] glob", f"expected a pattern below the root, found {pattern!r}")
            continue
        rule = re.compile(glob_translate(pattern))
        for name in names:
            path = PurePosixPath(name)
            if name != str(path) or any(p in IGNORED_NAMES or p.startswith(".") for p in path.parts):
                continue  # hidden, a marker of a folder, or a name that no file could have
            if path.suffix.lower() in VIDEO_SUFFIXES:
                if rule.match(name):
                    found[name] = None
            elif path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdigit() and rule.match(str(path.parent)):
                pictures.add(str(path.parent))
    if pictures:
        some = ", ".join(sorted(pictures)[:5])
        problems.add("[videos] glob", f"folders of pictures are read from disks only; copy them or narrow it: {some}")
    return list(found)


def is_pattern_below(pattern: Any) -> bool:
    return (
        isinstance(pattern, str)
        and bool(pattern)
        and not Path(pattern).is_absolute()
        and ".." not in Path(pattern).parts
    )


def is_frame_folder(path: Path) -> bool:
    """Whether this is a folder with images that are named by a number."""
    return path.is_dir() and any(
        p.stem.isdigit() and p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir() if p.name not in IGNORED_NAMES
    )
