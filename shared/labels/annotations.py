"""Annotations, as both stages know them: the official names, the error, which files count, which video a file means."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from shared.names import stays_below

VA_NAMES = ("valence", "arousal")
EXPR_NAMES = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")
AU_NAMES = tuple(f"AU{n}" for n in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26))
IGNORED_NAMES = frozenset([".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"])
MAX_FRAMES = 20_000_000  # 92 h at 60 fps: a larger frame number is a typing error, not a video to allocate for
SIDES = ("_left", "_right")


class LabelError(ValueError):
    """An annotation that cannot be trusted.

    Attributes:
        file: The annotation file.
        line: 1-based line in it, or None where no single line is at fault.
        expected: What the format demands.
        found: What stands there.
    """

    def __init__(self, file: Path | str, line: int | str | None, expected: str, found: str) -> None:
        self.file, self.line, self.expected, self.found = str(file), line, expected, found
        where = self.file if line is None else f"{self.file}:{line}"
        super().__init__(f"{where}: expected {expected}, found {found}")


def track_to_video(track_name: str, video_ids: Collection[str]) -> str | None:
    """The video a track annotates: the id equal to its name, else equal to it without `_left` or `_right`.

    Two people in one video are two tracks, and the main person may keep the bare name, so this is many-to-one.

    Returns:
        The video id, or None where neither exists.
    """
    if track_name in video_ids:
        return track_name
    for suffix in SIDES:
        bare = track_name.removesuffix(suffix)
        if bare != track_name and bare in video_ids:
            return bare
    return None


def is_stray(path: Path) -> bool:
    """Whether a file system, not the data set, put this here: `.DS_Store`, `._105.txt`, `Thumbs.db`."""
    return is_hidden(path.name)


def is_hidden(name: str) -> bool:
    """``is_stray`` of a name."""
    return name.startswith(".") or name in IGNORED_NAMES


def annotation_files(root: Path, patterns: Iterable[str]) -> list[Path]:
    """The files below the root that match one of the patterns, in order of pattern and name, without strays.

    Raises:
        ValueError: A pattern that leaves the root (`root / "/abs"` would silently drop the root) or is none, or a link
            that leads out of the root.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError(f"annotation files must lie below {root}; the pattern {pattern!r} leaves it")
        try:
            files = sorted(f for f in root.glob(pattern) if not is_stray(f) and f.is_file())
        except (ValueError, OSError) as error:  # a NUL, "**x", a name longer than the file system takes
            raise ValueError(f"{pattern[:80]!r} is no pattern of annotation files: {error}") from None
        for file in files:
            if not stays_below(file.relative_to(root).as_posix(), root):
                raise ValueError(f"annotation files must lie below {root}; {file} is a link to outside: copy the file")
        found.update(dict.fromkeys(files))
    return [*found]
