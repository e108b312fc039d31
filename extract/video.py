"""Decoding: the only file that knows a decoder.

A video is read once, from its first frame to its last, in decode order. Frame index = position in that order, 0-based;
header frame counts are only ever compared with what was decoded. Rotation metadata is applied, presentation times are
kept. A folder of numbered pictures (``00001.jpg`` is frame 0; gaps allowed) is a video too.
"""

from __future__ import annotations

import hashlib
import math
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png"])
DEFAULT_FOLDER_FPS = 30.0
MAX_FOLDER_FRAMES = 10_000_000  # 90 hours; a larger number is a date or a serial number, not a frame
# A container may promise a few frames more than it shows (edit lists, AVI headers); below this share it was cut off.
MIN_DECODED_SHARE = 0.85
# Where a container states only a duration, whole files end within a rounding of it.
MAX_MISSING_S = 0.25

# FFmpeg's own log would repeat on the terminal what ends up, in plain words, in the ledger.
av.logging.set_level(av.logging.PANIC)


class VideoError(Exception):
    """One video cannot be used. ``stage`` is "open" or "decode"; the message says what was found."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


@dataclass
class DecodedFrame:
    """One frame, converted to RGB only when asked for.

    Attributes:
        index: 0-based position in decode order.
        pts_s: presentation time in seconds.
    """

    index: int
    pts_s: float
    _convert: Callable[[], np.ndarray] = field(repr=False)

    def rgb(self) -> np.ndarray:
        """uint8 RGB (H, W, 3), upright."""
        return self._convert()


@dataclass
class OpenVideo:
    """A video being read.

    Attributes:
        fps: average frame rate the container states, 0.0 if it does not.
        promised_frames: frames the container promises, 0 if it does not say.
        decoder: decoder name, version and codec.
        width, height: displayed size; known once the first frame is out.
        rotation: degrees clockwise applied for display.
        missing_frames: pictures a frame folder lacks; the nearest earlier one stands in.
        duration_s: length the container states, 0.0 if it does not; it may be that of a longer sound track.
        codec: the decoder, whose threads may be set before the first frame is read; None for a frame folder.
    """

    fps: float
    promised_frames: int
    decoder: str
    frames: Iterator[DecodedFrame] = field(repr=False)
    width: int = 0
    height: int = 0
    rotation: int = 0
    missing_frames: int = 0
    duration_s: float = 0.0
    codec: Any = field(default=None, repr=False)


@contextmanager
def open_video(path: Path, fps: float | None = None) -> Iterator[OpenVideo]:
    """Open a video file or a frame folder.

    Args:
        path: file or folder.
        fps: frame rate of a frame folder (30 if not given); ignored for files.

    Raises:
        VideoError: it is not there, not a video, has no video stream, no frames, or breaks while decoding (the last
            two are raised while iterating ``frames``).
    """
    if path.is_dir():
        yield _open_folder(path, fps or DEFAULT_FOLDER_FPS)
        return
    _check_regular(path)
    try:
        # Absolute, because FFmpeg takes "12:30.mp4" for the protocol "12". Metadata of real phone files is not always
        # UTF-8; it is not worth losing the video.
        container = av.open(str(path.absolute()), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError("open", f"not a video this decoder knows: {_words(error)}") from None
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:
            kinds = ", ".join(sorted({"cover picture" if s.type == "video" else s.type for s in container.streams}))
            kinds = kinds or "nothing"
            raise VideoError("open", f"no video stream (found: {kinds})")
        yield _open_stream(container, stream)  # type: ignore[arg-type]


def _open_stream(container: av.container.InputContainer, stream: av.VideoStream) -> OpenVideo:
    if stream.codec_context is None:
        raise VideoError("open", "no decoder for its video track, or a header that is cut off")
    # Several videos are decoded side by side; more threads inside one decoder would only compete with them.
    stream.codec_context.thread_count = 1
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    codec = stream.codec_context.name
    video = OpenVideo(rate, _promised(stream, rate), f"pyav {av.__version__} {codec}", iter(()))
    video.duration_s = (container.duration or 0) / av.time_base
    video.codec = stream.codec_context
    video.frames = _decode(container, stream, video)
    return video


def _promised(stream: av.VideoStream, rate: float) -> int:
    """Frames promised; the smaller of the header's count and duration x rate, since edit lists hide some frames."""
    count = stream.frames
    if not count:
        return 0
    if stream.duration and stream.time_base and rate:
        count = min(count, round(float(stream.duration * stream.time_base) * rate))
    return count


def _decode(container: av.container.InputContainer, stream: av.VideoStream, video: OpenVideo) -> Iterator[DecodedFrame]:
    index, pts_s, step_s = 0, 0.0, 1 / video.fps if video.fps else 1 / 30
    read_to = [0.0]
    converters = threading.local()  # several threads may convert frames of one video; a converter serves one at a time
    try:
        for frame in _shown_frames(container, stream, read_to):
            if index == 0:
                _note_geometry(video, frame)
            if frame.is_corrupt:
                raise VideoError("decode", f"frame {index} is damaged{_of(video)}")
            # A frame without a time gets the previous one plus a frame; it is still counted.
            pts_s = float(frame.time) if frame.time is not None else (pts_s + step_s if index else 0.0)
            yield DecodedFrame(index, pts_s, partial(_to_rgb, frame, converters))
            index += 1
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VideoError("decode", f"broken after {index} frames: {_words(error)}{_of(video)}") from None
    if index == 0:
        raise VideoError("decode", f"no frame could be decoded{_of(video)}")
    if index < math.floor(MIN_DECODED_SHARE * video.promised_frames) - 1:
        raise VideoError("decode", f"truncated: decoded {index} frames{_of(video)}")
    duration_s = (container.duration or 0) / av.time_base
    if not stream.frames and duration_s - read_to[0] > max(MAX_MISSING_S, 2 * step_s):
        words = f"the file ends at {read_to[0]:.1f} s, its header promises {duration_s:.1f} s"
        raise VideoError("decode", f"truncated: decoded {index} frames, {words}")


def _shown_frames(
    container: av.container.InputContainer, stream: av.VideoStream, read_to: list[float]
) -> Iterator[av.VideoFrame]:
    """Frames of one stream; ``read_to[0]`` becomes the time in seconds at which the last packet of any track ends.

    The other tracks are read, not decoded: containers without a frame count (Matroska, WebM) state only the duration
    of their longest track, so only all tracks together tell a truncated file from a short video track.
    """
    for packet in container.demux():
        if packet.pts is not None and packet.time_base:
            read_to[0] = max(read_to[0], float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index == stream.index:
            yield from packet.decode()  # type: ignore[misc]


def _note_geometry(video: OpenVideo, frame: av.VideoFrame) -> None:
    video.rotation = -round(frame.rotation / 90) * 90 % 360
    turned = video.rotation in (90, 270)
    video.width, video.height = (frame.height, frame.width) if turned else (frame.width, frame.height)


def _to_rgb(frame: av.VideoFrame, converters: threading.local) -> np.ndarray:
    # One converter for all frames: each one made anew takes megabytes and four times as long.
    if not hasattr(converters, "own"):
        converters.own = VideoReformatter()
    rgb = converters.own.reformat(frame, format="rgb24", threads=1).to_ndarray()  # (H, W, 3)
    turns = round(frame.rotation / 90) % 4  # PyAV's angle is counter-clockwise, as np.rot90's
    return np.ascontiguousarray(np.rot90(rgb, turns))  # always copied if the rows are padded


def _check_regular(path: Path) -> None:
    """Refuse what cannot be read as a file; opening a pipe would wait for ever."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise VideoError("open", f"cannot be read: {error.strerror or error}") from None
    if not regular:
        raise VideoError("open", "expected a video file or a folder of numbered pictures, found a special file")


def _of(video: OpenVideo) -> str:
    return f" (the container promises {video.promised_frames})" if video.promised_frames else ""


def _words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{text} ({type(error).__name__})"


# ------------------------------------------------------------------ frame folders


def _open_folder(path: Path, fps: float) -> OpenVideo:
    files = _numbered_files(path)
    num_frames = max(files)
    video = OpenVideo(fps, num_frames, f"pillow {Image.__version__} frames", iter(()))
    video.missing_frames = num_frames - len(files)
    video.frames = _read_folder(files, num_frames, fps, video)
    return video


def _numbered_files(path: Path) -> dict[int, Path]:
    """1-based frame number -> file."""
    files: dict[int, Path] = {}
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise VideoError("open", f"cannot be read: {error.strerror or error}") from None
    for file in entries:
        if file.suffix.lower() not in IMAGE_SUFFIXES or not file.stem.isdecimal():
            continue
        number = int(file.stem)
        if not 1 <= number <= MAX_FOLDER_FRAMES:
            raise VideoError("open", f"frame folders count from 00001, found {file.name}")
        _check_regular(file)
        if number in files:
            raise VideoError("open", f"two pictures for frame {number}: {files[number].name} and {file.name}")
        files[number] = file
    if not files:
        raise VideoError("open", "a folder without numbered pictures such as 00001.jpg")
    return files


def _read_folder(files: dict[int, Path], num_frames: int, fps: float, video: OpenVideo) -> Iterator[DecodedFrame]:
    current = files[min(files)]
    for index in range(num_frames):
        current = files.get(index + 1, current)
        if index == 0:
            rgb = _read_picture(current)
            video.width, video.height = rgb.shape[1], rgb.shape[0]
        yield DecodedFrame(index, index / fps, lambda file=current: _read_picture(file))  # type: ignore[misc]


def _read_picture(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError("decode", f"picture {file.name} cannot be read: {_words(error)}") from None


def source_stamp(path: Path) -> dict[str, int]:
    """What tells a changed file or frame folder without reading it: total bytes and newest modification time.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        stats = [f.stat() for f in _numbered_files(path).values()] if path.is_dir() else [path.stat()]
    except OSError as error:
        raise VideoError("open", f"cannot be read: {error.strerror or error}") from None
    return {"bytes": sum(s.st_size for s in stats), "mtime_ns": max(s.st_mtime_ns for s in stats)}


def read_source(path: Path, on_block: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """``source_stamp`` and the sha256 of a video file, or of a frame folder's names and contents.

    Args:
        path: file or folder.
        on_block: called after every MiB.

    Raises:
        VideoError: it cannot be read.
    """
    digest, stamp = hashlib.sha256(), source_stamp(path)
    folder = path.is_dir()
    if not folder:
        _check_regular(path)
    try:
        for file in _numbered_files(path).values() if folder else [path]:
            if folder:
                digest.update(file.name.encode() + b"\x00")
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
                    on_block()
    except OSError as error:
        raise VideoError("open", f"cannot be read: {error.strerror or error}") from None
    return {**stamp, "sha256": digest.hexdigest()}
