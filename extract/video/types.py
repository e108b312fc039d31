"""What reading a video yields: an open video, its frames, or the error that says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Frames beyond this are refused before memory is taken for them; 16K (15360 x 8640) is the largest format in use.
MAX_PIXELS = 2**27


class VideoError(Exception):
    """One video cannot be used. ``stage`` is "open" or "decode"; the message says what was found."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        # It crosses from decoding processes; Exception's own way would call it with the message alone.
        return type(self), (self.stage, str(self))


class UnreadableFile(VideoError):
    """The file or folder could not be read; that says nothing of what is in it, and may be over the next time."""


@dataclass
class DecodedFrame:
    """One frame, converted to RGB only when asked for.

    Attributes:
        index: 0-based position in decode order.
        pts_s: presentation time in seconds, as the container has it: it may be negative, or repeat.
    """

    index: int
    pts_s: float
    _convert: Callable[[], np.ndarray] = field(repr=False)

    def rgb(self) -> np.ndarray:
        """uint8 RGB (H, W, 3), as a viewer shows it.

        Raises:
            VideoError: the picture cannot be converted.
        """
        return self._convert()


@dataclass
class OpenVideo:
    """A video being read.

    Attributes:
        fps: average frame rate the container states, 0.0 if it does not.
        promised_frames: frames the container promises, 0 if it does not say.
        decoder: decoder name, version and codec.
        width, height: displayed size of the first frame, known once it is out. Later ones may differ: a stream may
            change its resolution, pictures of a folder theirs; encoders resize every frame by itself.
        rotation: degrees clockwise applied for display.
        shown: what else was done to the first frame, so that it is what a viewer shows, known once it is out:
            {"mirrored": True, before it was turned; "exif": orientation of a picture; "pixel_aspect": "16:11", scaled
            to square pixels; "depth": 16, bits of a gray picture; "alpha": True, transparent parts made black}.
        leading: pictures before the first clean one of a recording that begins between two key frames; they are left
            out. Known once the last frame is out.
        missing_frames: pictures a frame folder lacks; the nearest earlier one stands in.
        duration_s: length the container states, 0.0 if it does not; it may be that of a longer sound track.
        truncated: {"decoded": frames, "promised": frames, 0 if unknown} of a video that ends early and was to be read
            all the same, known once the last frame is out; else None.
        codec: the decoder, whose threads may be set before the first frame is read; None for a frame folder.
    """

    fps: float
    promised_frames: int
    decoder: str
    frames: Iterator[DecodedFrame] = field(repr=False)
    width: int = 0
    height: int = 0
    rotation: int = 0
    shown: dict[str, Any] = field(default_factory=dict)
    leading: int = 0
    missing_frames: int = 0
    duration_s: float = 0.0
    truncated: dict[str, int] | None = None
    codec: Any = field(default=None, repr=False)


def words(error: BaseException) -> str:
    """An error of the system or of a library in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{text} ({type(error).__name__})"
