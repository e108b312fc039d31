"""Spans of a table on the video's own clock: seconds become frames by the times at which its frames are shown.

Where frames are read and seconds must be meant, that is told by the lengths of the videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np

from shared.cache import CacheError, FeatureCache
from shared.manifest import Segment

SLOWEST = 5  # frames per second; below, a video's length in seconds and in frames are too near to tell them apart
SHORTEST_S = 2.0
ROUNDING_S = 5e-4  # tools write milliseconds
MAX_SHIFT = 2.0  # frames by which a tool's own rate may move its last label; rates are rounded
# Recordings of broadcasts: their clock starts anywhere, and players show it from 0 on.
OWN_ZERO = frozenset([".ts", ".mts", ".m2ts", ".m2t", ".mpg", ".mpeg", ".vob", ".trp", ".tod", ".mod"])


def frame_times(cache: FeatureCache, video_id: str) -> np.ndarray:
    """Seconds (F,) at which the frames of a cached video are shown, as a player counts them; never falling.

    Raises:
        CacheError: the video is not there or damaged.
    """
    info = cache.info(video_id)
    if info is None:
        raise CacheError(f"{cache.url} has no video {video_id!r}")
    times = np.maximum.accumulate(np.asarray(info.pts, np.float64))
    suffix = PurePosixPath(str(info.source.get("path", ""))).suffix.lower()
    return times - times[0] if suffix in OWN_ZERO and len(times) else times


def duration_s(times: np.ndarray) -> float:
    """Seconds from the first frame to the end of the last one."""
    return float(times[-1] - times[0]) * len(times) / max(len(times) - 1, 1)


def to_frames(
    rows: Sequence[Segment],
    video_id: str,
    num_frames: Mapping[str, int],
    times: Callable[[str], np.ndarray] | None,
    told: list[str],
) -> list[Segment]:
    """Segments of one video in frames [start, end): those that begin to be shown from the start on and before the end.

    Args:
        rows: in frames or seconds. Those in seconds stay as they are where the video is not cached.
        video_id, num_frames, times: as of ``read_tracks``.
        told: grows by what is odd: a segment that ends after its video, or overlaps one of the same label.
    """
    found = list(rows)
    if video_id in num_frames and times is not None:
        _check_rate(rows, video_id, num_frames, times)
    if video_id in num_frames:
        if any(row.in_seconds for row in rows):
            if times is None:
                raise ValueError("labels in seconds need the times of the frames; extract the features first")
            shown = times(video_id)
            placed = [_in_frames(row, shown, told) if row.in_seconds else row for row in rows]
            found = [row for row in placed if row is not None]
        told += [
            f"{row.where}: ends at frame {row.end:.0f}, {video_id} has {num_frames[video_id]}"
            for row in rows
            if not row.in_seconds and row.end is not None and row.end > num_frames[video_id]
        ]
    else:
        found = [row for row in rows if not row.in_seconds]  # of the others no frame can be counted
    ordered = sorted(found, key=lambda row: row.start)
    for before, after in pairwise(ordered):
        ends = math.inf if before.end is None else before.end
        if after.start < ends and before.values == after.values:
            told.append(f"{after.where}: overlaps {before.where}, with the same label")
    return found


def _check_rate(
    rows: Sequence[Segment], video_id: str, num_frames: Mapping[str, int], times: Callable[[str], np.ndarray]
) -> None:
    """Refuse frames that a tool has counted at another rate than the video's: every label would be shifted.

    Raises:
        ValueError: has both rates.
    """
    counted = [row for row in rows if row.fps is not None]
    if not counted or num_frames[video_id] < 2:
        return
    rate = num_frames[video_id] / duration_s(times(video_id))
    last = max(row.end or num_frames[video_id] for row in counted)
    for row in counted:
        assert row.fps is not None
        shift = abs(rate / row.fps - 1) * last
        if shift > MAX_SHIFT:
            raise ValueError(
                f"{row.where}: its frames are counted at {row.fps:.3f} per second, {video_id} has {rate:.3f}: labels "
                f"would be up to {shift:.0f} frames off. Set the frame rate of the video in the tool, and export again"
            )


def _in_frames(row: Segment, times: np.ndarray, told: list[str]) -> Segment | None:
    """A segment in seconds on these times (F,); None if no frame is shown in it."""
    start = int(np.searchsorted(times, row.start - ROUNDING_S))
    end = len(times) if row.end is None else int(np.searchsorted(times, row.end - ROUNDING_S))
    last = times[0] + duration_s(times)
    if start >= end:
        told.append(f"{row.where}: no frame of {row.video_id} is shown in this segment; it labels nothing")
        return None
    if row.end is not None and row.end > last + 0.1:
        told.append(f"{row.where}: ends at {row.end:g} s, {row.video_id} at {last:.2f} s")
    return replace(row, start=start, end=end, in_seconds=False)


def refuse_seconds(
    segments: Mapping[str, Sequence[Segment]], num_frames: Mapping[str, int], duration: Callable[[str], float]
) -> None:
    """Raise where every span of every video ends within as many frames as its video has seconds.

    At 25 frames per second such labels would cover a twenty-fifth of each video at most, so that seconds are meant is
    nearly certain; and a run on them would end with a number that looks like any other.

    Args:
        segments: video id -> its labelled segments.
        num_frames: video id -> F of every cached video; others count for nothing.
        duration: video id -> seconds. Asked only where the number of frames alone does not rule seconds out.

    Raises:
        ValueError: says how frames are told from seconds.
    """
    ends: dict[str, float] = {}
    for video_id, rows in segments.items():
        for row in rows if video_id in num_frames else ():
            if row.end is None or row.in_seconds or row.end > num_frames[video_id] / SLOWEST + 1:
                return
            ends[video_id] = max(row.end, ends.get(video_id, 0))
    longest = 0.0
    for video_id, end in ends.items():
        seconds = duration(video_id)
        if end > math.ceil(seconds) or num_frames[video_id] < SLOWEST * seconds:
            return
        longest = max(longest, seconds)
    if longest < SHORTEST_S:
        return
    video_id, end = max(ends.items(), key=lambda one: one[1])
    file = segments[video_id][0].where.rpartition(":")[0]
    raise ValueError(
        f"{file}: every end is below the duration in seconds; did you mean start_s, end_s? The last segment "
        f"of {video_id!r}, which has {num_frames[video_id]} frames in {duration(video_id):.1f} s, ends at {end:g}. "
        "Expected start and end in frames, 0-based, end exclusive. If they are seconds, call the columns "
        "start_s,end_s; if they are frames: start_frame,end_frame"
    )
