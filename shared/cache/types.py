"""What a cache holds, in memory: facts of a video, and a stream of it.

Axes: F frames of a video, N windows, T samples in a window, U unique frames, D feature size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.cache.nodes import CacheError
from shared.windows import WindowPlan

MAX_NAMES = 20  # of videos in one message


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video once it has been decoded.

    Attributes:
        source: {"path": relative posix path, "bytes": size, "sha256": hex digest, "mtime_ns": or "etag": its mark}.
        fps: average frame rate, or 0.0 if the container does not say.
        num_frames: F, frames that were decoded (not what a header promised).
        width, height: displayed size in pixels, after rotation.
        rotation: degrees clockwise that were applied for display: 0, 90, 180 or 270.
        decoder: name, version and codec.
        pts: float64 (F,), presentation time of every frame in seconds.
        missing_frames: frames of a frame folder without a file; they show the nearest earlier picture.
        truncated: {"decoded": frames, "promised": frames, 0 if the container does not say} of a video that ends early
            and was to be taken all the same; else None, and not stored.
        leading: pictures of a recording that begins between two key frames which come before the first frame; they
            could not be shown whole. Not stored if there are none.
        shown: what was done to the first frame beside turning it, so that it is what a viewer shows: "mirrored" before
            it was turned, "exif" (the orientation), "pixel_aspect" ("16:11", made square), "depth" (bits of a gray
            picture), "alpha" (made black where transparent). None, and not stored, if the version that read it did
            none of these, or the features were made elsewhere.
    """

    source: Mapping[str, Any]
    fps: float
    num_frames: int
    width: int
    height: int
    rotation: int
    decoder: str
    pts: np.ndarray = field(repr=False)
    missing_frames: int = 0
    truncated: Mapping[str, int] | None = None
    leading: int = 0
    shown: Mapping[str, Any] | None = None

    def attrs(self) -> dict[str, Any]:
        """The JSON part, as stored in the video group."""
        names = ("fps", "num_frames", "width", "height", "rotation", "decoder", "missing_frames")
        facts = {"source": dict(self.source), **{name: getattr(self, name) for name in names}}
        optional = {"truncated": self.truncated, "leading": self.leading or None, "shown": self.shown}
        for name, value in optional.items():
            if value is not None:
                facts[name] = dict(value) if isinstance(value, Mapping) else value
        return facts


def truncated_words(videos: Mapping[str, Mapping[str, int]]) -> str:
    """What has to be said of videos that end early and were taken all the same: name -> ``VideoInfo.truncated``."""
    counts = [
        f"{name} ({facts['decoded']} of {facts['promised'] or 'unknown'} frames)"
        for name, facts in list(videos.items())[:MAX_NAMES]
    ]
    more = " ..." * (len(videos) > MAX_NAMES)
    return f"{len(videos)} videos end early and are taken as far as they go: {', '.join(counts)}{more}"


def leading_words(videos: Mapping[str, int]) -> str:
    """What has to be said of recordings that begin between two key frames: name -> ``VideoInfo.leading``."""
    counts = ", ".join(f"{name} ({count})" for name, count in list(videos.items())[:MAX_NAMES])
    more = " ..." * (len(videos) > MAX_NAMES)
    return (
        f"{len(videos)} videos begin between two key frames; the pictures before the first whole one are left out, and "
        f"frame 0 is that one: {counts}{more}"
    )


@dataclass(frozen=True)
class StreamData:
    """One cached stream of one video, in memory.

    Attributes:
        features: float16 (N, T, D) for kind "window", (U, D) for kind "timeline".
        frames: int32 (U,) for a timeline stream, else None.
        captions: U strings for a text stream, else None.
        thumbnails: U base64 JPEGs (small, squared pictures) if the text stream keeps them, else None.
    """

    kind: str
    recipe: dict[str, Any]
    features: np.ndarray
    frames: np.ndarray | None = None
    captions: list[str] | None = None
    thumbnails: list[str] | None = None

    def window_rows(self, plan: WindowPlan, stream: str) -> np.ndarray:
        """Rows of ``features`` (timeline) or of ``features.reshape(N * T, D)`` (window): int64 (N, T).

        Raises:
            CacheError: the plan needs windows or frames that were not extracted.
        """
        return window_rows(self.kind, self.features.shape, self.frames, plan, stream)


def window_rows(
    kind: str, shape: tuple[int, ...], frames: np.ndarray | None, plan: WindowPlan, stream: str
) -> np.ndarray:
    """``StreamData.window_rows`` of features that need not have been read: their shape and frames are enough."""
    if stream not in plan.frames:
        raise CacheError(f"the window has no samples of stream {stream!r}; it has {', '.join(sorted(plan.frames))}")
    wanted = plan.frames[stream]  # (N, T)
    if kind == "window":
        if wanted.shape != shape[:2]:
            raise CacheError(
                f"stream {stream!r} is cached as {shape[0]} windows of {shape[1]} "
                f"samples, the window asked for needs {wanted.shape[0]} of {wanted.shape[1]}; extract it again"
            )
        return np.arange(wanted.size, dtype=np.int64).reshape(wanted.shape)
    assert frames is not None
    if frames is plan.unique[stream]:
        return plan.gather[stream]
    rows = np.searchsorted(frames, wanted)
    found = np.isin(wanted, frames)
    if not found.all():
        lost = np.unique(wanted[~found])
        raise CacheError(
            f"stream {stream!r} lacks {len(lost)} of the frames that the window needs (first: {lost[0]}); "
            "extract again with that window"
        )
    return rows
