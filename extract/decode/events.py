"""What decoding a video is asked for and what it says: the words between the decoder and the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.decode.sampling import Item, Window
from shared.videos.remote import Source

if TYPE_CHECKING:
    from shared.cache import VideoInfo  # not at run time: it brings zarr, and a decoder process stays small


@dataclass(frozen=True)
class Job:
    """One video to decode, and for which streams.

    Attributes:
        file: where it is. Only a file or folder of this machine can be decoded; see extract/decode/fetching.py.
        changed: the file is not the one that the cached streams were made from; they are void.
        allow_truncated: a file that ends early is taken as far as it goes.
        origin: what tells the object of a store that ``file`` is a copy of; None: it is no copy.
    """

    video: str
    path: str
    file: Source
    fps: float | None
    streams: tuple[str, ...]
    changed: bool = False
    allow_truncated: bool = False
    origin: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Opened:
    """The video could be opened.

    Attributes:
        source: as of ``VideoInfo``, without the path; whoever opens it again compares the sha256.
    """

    promised_frames: int
    source: Mapping[str, Any] = field(default_factory=dict)
    nbytes: int = 0


@dataclass(frozen=True)
class Read:
    """The video was read to its end: what becomes its ``VideoInfo``.

    Attributes:
        facts: its JSON part.
        pts: float64 (F,).
    """

    facts: Mapping[str, Any]
    pts: np.ndarray = field(repr=False)
    nbytes: int = 0


@dataclass(frozen=True)
class Finished:
    """The video was read to its end."""

    info: VideoInfo
    nbytes: int = 0


@dataclass(frozen=True)
class Failed:
    """The video cannot be used; everything already emitted of it is void."""

    stage: str
    error: str
    message: str
    nbytes: int = 0


Event = Opened | Item | Window | Finished | Failed


class Stopped(Exception):
    """Nobody reads these events any more."""
