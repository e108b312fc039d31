"""What is behind a video: a file, a folder of numbered pictures or an object of a store; what tells that it changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extract.video.remote import sha256_of
from extract.video.types import UnreadableFile, VideoError
from shared.videos.names import frame_series
from shared.videos.remote import RemoteFile, Source

MAX_FOLDER_FRAMES = 10_000_000  # 90 hours; a larger number is a date or a serial number, not a frame
# So many frames per picture, beyond the first thousand, are no gaps: the number is not that of a frame.
MAX_FRAMES_PER_PICTURE = 100


def is_folder(path: Path) -> bool:
    """Whether it is a folder; what cannot be looked at is none, and ``check_regular`` says why."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def check_regular(path: Path) -> None:
    """Refuse what cannot be read as a file; opening a pipe would wait for ever.

    Raises:
        VideoError: a pipe, a device, a socket, a dangling or circular link, no permission to read.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise unreadable(error) from None
    if not regular:
        raise VideoError("open", "expected a video file or a folder of numbered pictures, found a special file")
    if not os.access(path, os.R_OK):
        raise UnreadableFile("open", "cannot be read: no permission to read it")


def unreadable(error: OSError | ValueError) -> VideoError:
    """The error of a file or folder that the system does not give out."""
    return UnreadableFile("open", f"cannot be read: {getattr(error, 'strerror', None) or error}")


def numbered_files(path: Path) -> dict[int, Path]:
    """1-based frame number -> picture of a frame folder. Which pictures: ``shared.videos.names.series_among``.

    A folder that has a picture 0 counts from 0 (number n is frame n), any other from 1 (number n is frame n - 1).

    Raises:
        VideoError: numbers that cannot be those of frames, two pictures of one number, pictures that are no files,
            pictures numbered in several ways.
    """
    try:
        series = frame_series(path)
    except OSError as error:
        raise unreadable(error) from None
    if not series:
        raise VideoError("open", "a folder without numbered pictures such as 00001.jpg or frame_00001.jpg")
    if len(series) > 1:
        kinds = ", ".join(f"{one.pattern} ({len(one.numbers)})" for one in series[:5]) + ", ..." * (len(series) > 5)
        raise VideoError(
            "open", f"expected one series of numbered pictures, found {kinds}; put each into a folder of its own"
        )
    files: dict[int, Path] = {}
    first = 0 if 0 in series[0].numbers.values() else 1
    for name, number in series[0].numbers.items():
        if number > MAX_FOLDER_FRAMES:
            raise VideoError(
                "open", f"frame folders count from 00001 or 00000, by the place in the video, found {name}"
            )
        file = path / name
        check_regular(file)
        frame = number - first + 1
        if frame in files:
            raise VideoError("open", f"two pictures for frame {number}: {files[frame].name} and {name}")
        files[frame] = file
    if max(files) > 1000 + MAX_FRAMES_PER_PICTURE * len(files):
        raise VideoError(
            "open",
            f"expected pictures numbered by frame, found {len(files)} of them up to {files[max(files)].name}; "
            "number them by their place in the video",
        )
    return files


def source_stamp(path: Source) -> dict[str, Any]:
    """What tells a changed file or frame folder without reading it: total bytes and newest modification time; of an
    object, its ETag where the store has one.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        if isinstance(path, RemoteFile):
            return dict(path.root.stamp(path.path))
        stats = [f.stat() for f in numbered_files(path).values()] if is_folder(path) else [path.stat()]
    except (OSError, ValueError) as error:
        raise unreadable(error) from None
    return {"bytes": sum(s.st_size for s in stats), "mtime_ns": max(s.st_mtime_ns for s in stats)}


def read_source(path: Source, on_block: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """``source_stamp`` and the sha256 of a video file or object, or of a frame folder's names and contents.

    Args:
        path: file, folder or object.
        on_block: called after every MiB of a file.

    Raises:
        VideoError: it cannot be read.
    """
    digest, stamp = hashlib.sha256(), source_stamp(path)
    if isinstance(path, RemoteFile):
        try:
            return {**stamp, "sha256": sha256_of(path)}
        except OSError as error:
            raise unreadable(error) from None
    folder = is_folder(path)
    if not folder:
        check_regular(path)
    try:
        for file in numbered_files(path).values() if folder else [path]:
            if folder:
                digest.update(file.name.encode(errors="surrogateescape") + b"\x00")
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
                    on_block()
    except OSError as error:
        raise unreadable(error) from None
    return {**stamp, "sha256": digest.hexdigest()}
