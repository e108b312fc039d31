"""Segments -> files that annotation tools open, and plain tables. A file is whole or not there.

ELAN and WebVTT have times in whole milliseconds and no scores; Label Studio has frames and no times.
"""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from shared.labels.tools.elan_writing import eaf
from shared.labels.tools.types import Segment, VideoSegments, one_line, writable
from shared.names import unknown_name
from shared.process.whole_file import whole_file

CONTROL = "timeline"  # the control of Label Studio for segments of a column without a name
Videos = Sequence[VideoSegments]


def write_segments(
    path: Path, media: str, duration_s: float, num_frames: int, fps: float, segments: Sequence[Segment]
) -> None:
    """Write the segments of one video, in the format of the file's ending. See ``write_videos``."""
    write_videos(path, [VideoSegments(media, duration_s, num_frames, fps, segments)])


def write_videos(path: Path, videos: Videos) -> None:
    """Write the segments of several videos into one file.

    Args:
        path: .eaf (ELAN) and .vtt (WebVTT) for one video; .json (predictions for Label Studio), .csv, .parquet and
            .jsonl (one row per segment) for any number.
        videos: In the order to be written.

    Raises:
        ValueError: An unknown ending, several videos where the format holds one, or a segment that is not in its video.
        OSError: The file cannot be written; what stood there stays.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in WRITERS:
        raise ValueError(f"{path}: {unknown_name('ending of a file of segments', ending, WRITERS)}")
    if len(videos) != 1 and not holds_many(path):
        raise ValueError(
            f"{path}: a file {ending} holds the segments of one video, not of {len(videos)}: write one each"
        )
    for video in videos:
        _check(path, video)
    content = WRITERS[ending](videos)
    with whole_file(path) as file:
        file.write(content)


def holds_many(path: Path) -> bool:
    """Whether a file of this ending can hold the segments of several videos."""
    return Path(path).suffix.lower() in (".json", ".csv", ".parquet", ".jsonl")


def _check(path: Path, video: VideoSegments) -> None:
    """Raise at the first thing that no reader would take."""
    if not (math.isfinite(video.duration_s) and video.num_frames > 0 and math.isfinite(video.fps) and video.fps > 0):
        numbers = f"{video.duration_s} s, {video.num_frames} frames, {video.fps} fps"
        raise ValueError(f"{path}: {video.media}: expected a duration, frames and a rate above 0, found {numbers}")
    for s in video.segments:
        times = 0 <= s.start_s <= s.end_s < math.inf
        if not (times and 0 <= s.start_frame < s.end_frame <= video.num_frames):
            found = f"{s.start_s}-{s.end_s} s, frames {s.start_frame}-{s.end_frame} of {video.num_frames}"
            raise ValueError(
                f"{path}: {video.media}: expected a segment of at least a frame of the video, found {found}"
            )


def _one(write: Callable[[VideoSegments], bytes]) -> Callable[[Videos], bytes]:
    return lambda videos: write(videos[0])


def _vtt(video: VideoSegments) -> bytes:
    lines = ["WEBVTT", ""]
    for s in sorted(video.segments, key=lambda s: (s.start_s, s.end_s)):
        start_ms = round(s.start_s * 1000)
        end_ms = max(round(s.end_s * 1000), start_ms + 1)  # a cue of no length is never shown
        voice = f"<v {html.escape(one_line(s.column), quote=False)}>" if s.column else ""
        lines += [f"{_clock(start_ms)} --> {_clock(end_ms)}", voice + html.escape(one_line(s.value), quote=False), ""]
    return "\n".join(lines).encode()


def _clock(ms: int) -> str:
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"


def _labelstudio(videos: Videos) -> bytes:
    tasks = [
        {
            "data": {"video": writable(video.media)},
            "predictions": [
                {
                    "model_version": "crossgru",
                    "result": [_result(video, s, f"r{i}") for i, s in enumerate(video.segments, start=1)],
                }
            ],
        }
        for video in videos
    ]
    return json.dumps(tasks, ensure_ascii=False, indent=1, allow_nan=False).encode()


def _result(video: VideoSegments, s: Segment, name: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "id": name,
        "from_name": one_line(s.column) or CONTROL,
        "to_name": "video",
        "type": "timelinelabels",
        "value": {
            "ranges": [{"start": s.start_frame + 1, "end": s.end_frame}],  # from 1, with the last
            "timelinelabels": [one_line(s.value)],
            "framesCount": video.num_frames,
            "duration": video.num_frames / video.fps,  # so that a reader finds the rate
        },
    }
    if s.score is not None and math.isfinite(s.score):
        result["score"] = s.score
    return result


def _numbers(s: Segment) -> tuple[float | None, ...]:
    return s.start_s, s.end_s, s.start_frame, s.end_frame, s.score


def _frame(videos: Videos) -> pd.DataFrame:
    """One row per segment; ``end_frame`` is the frame after the last."""
    rows = [
        (
            writable(v.media),
            one_line(s.column),
            one_line(s.value),
            s.start_s,
            s.end_s,
            s.start_frame,
            s.end_frame,
            s.score,
            v.fps,
        )
        for v in videos
        for s in v.segments
    ]
    columns = ["video", "column", "value", "start_s", "end_s", "start_frame", "end_frame", "score", "fps"]
    types = dict.fromkeys(columns[:3], "str") | dict.fromkeys(columns[3:], "float64")
    return pd.DataFrame(rows, columns=columns).astype(types | {"start_frame": "int64", "end_frame": "int64"})


def _csv(videos: Videos) -> bytes:
    return _frame(videos).to_csv(index=False, lineterminator="\n").encode()


def _jsonl(videos: Videos) -> bytes:
    rows = _frame(videos).to_dict("records")
    clean = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in clean).encode()


def _parquet(videos: Videos) -> bytes:
    buffer = io.BytesIO()
    _frame(videos).to_parquet(buffer, index=False)
    return buffer.getvalue()


# Every format by the ending of its file. A new one is a function above and a line here.
WRITERS: Mapping[str, Callable[[Videos], bytes]] = MappingProxyType(
    {
        ".eaf": _one(eaf),
        ".vtt": _one(_vtt),
        ".json": _labelstudio,
        ".csv": _csv,
        ".jsonl": _jsonl,
        ".parquet": _parquet,
    }
)
