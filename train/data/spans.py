"""Spans of a table that were meant in seconds, where frames are read: told by the lengths of the videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from shared.cache import CacheError, FeatureCache
from shared.manifest import Segment

SLOWEST = 5  # frames per second; below, a video's length in seconds and in frames are too near to tell them apart
SHORTEST_S = 2.0


def duration_s(cache: FeatureCache, video_id: str) -> float:
    """Seconds from the first frame of a cached video to the end of its last.

    Raises:
        CacheError: the video is not there or damaged.
    """
    info = cache.info(video_id)
    if info is None:
        raise CacheError(f"{cache.url} has no video {video_id!r}")
    return float(info.pts[-1] - info.pts[0]) * info.num_frames / max(info.num_frames - 1, 1)


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
    ends: dict[str, int] = {}
    for video_id, rows in segments.items():
        for row in rows if video_id in num_frames else ():
            if row.end is None or row.end > num_frames[video_id] / SLOWEST + 1:
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
        f"{file}: every end is below the duration in seconds; did you mean start_s, end_s? The last segment of "
        f"{video_id!r}, which has {num_frames[video_id]} frames in {duration(video_id):.1f} s, ends at {end}. Expected "
        "start and end in frames, 0-based, end exclusive: multiply seconds by the frame rate. If they are frames, say "
        "so by the names of the columns: start_frame,end_frame"
    )
