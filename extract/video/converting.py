"""Frames of the decoder as pictures: uint8 RGB as a player shows them."""

from __future__ import annotations

import struct
import threading
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter

from extract.video.showing import believed_aspect, orientation, over_black, square_size, turn
from extract.video.types import OpenVideo, VideoError, words

DECODER_ERRORS = (av.error.FFmpegError, OSError, ValueError, MemoryError)
# Formats that say nothing of the shape of pixels: the stream does, and broadcasters change it on the way.
SHAPELESS = frozenset(["mpegts", "mpeg"])
MAX_SIDE_DATA = 48  # beyond the numbers that FFmpeg gives to kinds of data beside a frame


class Converter:
    """Converts the frames of one video; several threads may do so at once.

    Args:
        container, stream: open for reading.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        stated = None if container.format.name in SHAPELESS else stream.sample_aspect_ratio
        self._context, self._stated = stream.codec_context, believed_aspect(stated) if stated else None
        self._changes: list[tuple[int | None, Fraction | None]] = []  # presentation time, shape of pixels from then on
        self._converters = threading.local()  # of swscale, each of which serves one thread at a time

    def note(self, packet: av.Packet[av.VideoStream]) -> None:
        """A packet was decoded."""
        if self._stated is None:
            aspect = self._context.sample_aspect_ratio  # type: ignore[attr-defined]
            if not self._changes or self._changes[-1][1] != aspect:
                self._changes.append((packet.pts, aspect))

    def aspect(self, frame: av.VideoFrame) -> Fraction:
        """Width of a pixel by its height: what the container states, else what the stream does at that place."""
        if self._stated is not None:
            return self._stated
        for time, aspect in reversed(self._changes[1:]):
            if time is None or frame.pts is None or time <= frame.pts:
                return believed_aspect(aspect)
        return believed_aspect(self._changes[0][1]) if self._changes else Fraction(1)

    def look(self, video: OpenVideo, frame: av.VideoFrame) -> None:
        """Note the geometry of the first frame, and what is done to it."""
        aspect = self.aspect(frame)
        video.rotation, mirrored = _orientation(frame)
        square = square_size(frame.width, frame.height, aspect)
        video.width, video.height = square[::-1] if video.rotation in (90, 270) else square
        if mirrored:
            video.shown["mirrored"] = True
        if square != (frame.width, frame.height):
            video.shown["pixel_aspect"] = f"{aspect.numerator}:{aspect.denominator}"
        if self._alpha(frame, 0, aspect) is not None:
            video.shown["alpha"] = True

    def rgb(self, frame: av.VideoFrame, index: int, aspect: Fraction) -> np.ndarray:
        """uint8 (H, W, 3).

        Raises:
            VideoError: the frame cannot be converted.
        """
        picture = self._reformat(frame, index, aspect, "rgb24")
        if (alpha := self._alpha(frame, index, aspect)) is not None:
            picture = over_black(picture, alpha)
        return turn(picture, *_orientation(frame))

    def _alpha(self, frame: av.VideoFrame, index: int, aspect: Fraction) -> np.ndarray | None:
        """uint8 (H, W), None if all of the frame is opaque."""
        if not _has_alpha(frame.format.name):
            return None
        alpha = self._reformat(frame, index, aspect, "rgba")[..., 3]
        # Uncompressed pictures of 32 bits mostly have a byte there that nobody wrote.
        unused = self._context.name == "rawvideo" and not alpha.any()  # type: ignore[attr-defined]
        return None if unused or alpha.min() == 255 else alpha

    def _reformat(self, frame: av.VideoFrame, index: int, aspect: Fraction, pixels: str) -> np.ndarray:
        # One converter for all frames: each one made anew takes megabytes and four times as long.
        if not hasattr(self._converters, pixels):
            setattr(self._converters, pixels, VideoReformatter())
        own = getattr(self._converters, pixels)
        width, height = square_size(frame.width, frame.height, aspect)
        smooth = "BICUBIC" if (width, height) != (frame.width, frame.height) else None  # as players enlarge
        try:
            return own.reformat(frame, width, height, pixels, interpolation=smooth, threads=1).to_ndarray()
        except DECODER_ERRORS as error:
            size = f"{frame.width}x{frame.height}, {frame.format.name}"
            raise VideoError("decode", f"frame {index} ({size}) cannot be shown: {words(error)}") from None


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    # Not ``frame.side_data``, which the frame keeps, and which keeps the frame: a cycle around megabytes.
    try:
        data: Any = SideDataContainer(frame)  # type: ignore[call-arg]
    except ValueError:  # PyAV knows not all kinds of such data (not EXIF), and gives none if one of them is there
        data = SideDataContainer(_strip(frame))  # type: ignore[call-arg]
    matrix = data.get(SideDataType.DISPLAYMATRIX) if len(data) else None  # mostly there is nothing
    return orientation(struct.unpack("=9i", bytes(matrix))) if matrix is not None else (0, False)


def _strip(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame without the side data that PyAV does not know."""
    graph = av.filter.Graph()
    unknown = set(range(MAX_SIDE_DATA)) - {kind.value for kind in SideDataType}
    filters = [graph.add("sidedata", f"mode=delete:type={kind}") for kind in sorted(unknown)]
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    graph.link_nodes(source, *filters, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()  # type: ignore[return-value]


@lru_cache
def _has_alpha(pixels: str) -> bool:
    kind = av.VideoFormat(pixels)
    return kind.has_palette or any(component.is_alpha for component in kind.components)
