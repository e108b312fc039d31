"""How many frames a video has and when they are shown, for features that were made elsewhere; F frames of a video."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from extract.interchange.external_facts import FrameRule
from extract.interchange.external_files import ExternalRows
from extract.interchange.hdf5_layout import FeatureFileError
from extract.interchange.video_facts import MAX_FRAMES
from shared.cache import FeatureCache, VideoInfo
from shared.labels.columns import columns_called

COLUMNS = ("video", "num_frames", "fps")
MIN_STEP_S = 1e-6
SAME_RATE = 0.01  # 30 for 29.97 is meant to be the same, 24 for 25 is not
TELL_FACTS = (
    "give --facts with a cache or a CSV (video,num_frames,fps), or a file VIDEO.pts.npy with the time of every frame; "
    "with --frames every:1, --fps is enough"
)


@dataclass
class Facts:
    """Where the facts of a video come from: the cache itself, another cache or a table, files beside, --fps.

    The first of them that knows a video is believed; what the others say must agree with it.

    Attributes:
        cache: the cache that is imported into, if it is there.
        other: another cache.
        table: video id -> number of frames and frame rate.
        fps: for videos whose rate nothing else says.
    """

    cache: FeatureCache | None = None
    other: FeatureCache | None = None
    table: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    fps: float | None = None

    @classmethod
    def of(cls, cache: FeatureCache | None, facts: str | None, fps: float | None) -> Facts:
        """From the command line: ``facts`` is a CSV or a cache.

        Raises:
            ValueError: it cannot be read.
        """
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"--fps: expected frames per second, found {fps:g}")
        if facts is None:
            return cls(cache, fps=fps)
        if facts.lower().endswith(".csv"):
            return cls(cache, table=read_facts(Path(facts)), fps=fps)
        return cls(cache, FeatureCache.open(facts), fps=fps)

    def info(self, video: str, path: str, rows: ExternalRows, rule: FrameRule | None) -> VideoInfo:
        """The facts of one video.

        Raises:
            FeatureFileError: nobody knows them, or two that know differ.
            CacheError: a cache is damaged.
        """
        if rows.pts is not None:
            check_times(rows.pts, rows.where)
        num_frames, fps = self.table.get(video, (0, 0.0))
        fps_by = "--facts" if fps else "--fps"
        fps = fps or self.fps or 0.0
        infos = [(c, i) for c in (self.cache, self.other) if c is not None and (i := c.info(video)) is not None]
        if infos:
            (known, info), others = infos[0], infos[1:]
            for other, same in others:
                _check_same(rows.where, info, known.url, other.url, same.num_frames, same.fps, same.pts)
            _check_same(rows.where, info, known.url, "--facts", num_frames, 0.0, None)
            _check_same(rows.where, info, known.url, fps_by, 0, fps, None)
            if rows.pts is not None:
                _check_same(rows.where, info, known.url, "its file of times", len(rows.pts), 0.0, rows.pts)
            return info
        return self._new(path, rows, rule, num_frames, fps, fps_by)

    def _new(
        self, path: str, rows: ExternalRows, rule: FrameRule | None, num_frames: int, fps: float, fps_by: str
    ) -> VideoInfo:
        """Of a video that no cache knows."""
        pts = rows.pts
        if pts is None:
            if not num_frames and rule is not None and (rule.step, rule.offset) == (1, 0):
                num_frames = rows.shape[0]
            if not num_frames or not fps:
                what = "how many frames the video has" if not num_frames else "its frame rate"
                raise FeatureFileError(f"{rows.where}: nothing says {what}; {TELL_FACTS}")
            pts = np.arange(num_frames) / fps
            check_times(pts, rows.where)
        elif num_frames and len(pts) != num_frames:
            raise FeatureFileError(f"{rows.where}: its times are of {len(pts)} frames, --facts says {num_frames}")
        rates = rates_of(pts)
        if fps and rates and not any(_same_rate(fps, rate) for rate in rates):
            raise FeatureFileError(
                f"{rows.where}: its times are of {rates[0]:.4g} frames/s, {fps_by} says {fps:g}; leave one away"
            )
        return VideoInfo(
            source={"path": path},
            fps=fps or (rates[0] if rates else 0.0),
            num_frames=len(pts),
            width=0,
            height=0,
            rotation=0,
            decoder="external",
            pts=pts,
        )


def check_times(pts: np.ndarray, where: str) -> None:
    """Refuse times (F,) that no video has.

    Raises:
        FeatureFileError: too many or none, not finite, or they do not ascend by a millionth of a second at least.
    """
    if not 1 <= len(pts) <= MAX_FRAMES or not np.isfinite(pts).all():
        raise FeatureFileError(f"{where}: expected finite times of 1 to {MAX_FRAMES} frames, found {len(pts)}")
    if (back := np.diff(pts) < MIN_STEP_S).any():
        frame = int(np.argmax(back)) + 1
        raise FeatureFileError(
            f"{where}: times must ascend, and that of frame {frame} ({pts[frame]:g} s) is not after that of frame "
            f"{frame - 1} ({pts[frame - 1]:g} s); write them in seconds, in the order of the frames"
        )


def rates_of(pts: np.ndarray) -> list[float]:
    """Frame rate by the median distance of two frames, and on average; nothing for a single frame."""
    steps = np.diff(pts)
    return [float(1 / step) for step in (np.median(steps), steps.mean()) if step > 0] if len(steps) else []


def _same_rate(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_RATE * max(one, other)


def _check_same(
    where: str, info: VideoInfo, url: str, by: str, num_frames: int, fps: float, pts: np.ndarray | None
) -> None:
    """Refuse what contradicts a cache; 0 and None say nothing.

    Raises:
        FeatureFileError: says which of the two says what.
    """
    tell = "are these features of the same video? Leave away what is wrong"
    if num_frames and num_frames != info.num_frames:
        raise FeatureFileError(
            f"{where}: {num_frames} frames by {by}, {url} has {info.num_frames} frames of this video; {tell}"
        )
    rates = [rate for rate in (info.fps, *rates_of(info.pts)) if rate]
    if fps and rates and not any(_same_rate(fps, rate) for rate in rates):
        raise FeatureFileError(f"{where}: {fps:g} frames/s by {by}, {rates[0]:g} by {url}; {tell}")
    if pts is None or not rates:
        return
    # Programs count from the first frame or from the container's zero, and round frame rates.
    apart = np.abs((pts - pts[0]) - (info.pts - info.pts[0]))
    far = apart > 0.5 / rates[0] + 1e-3 * (info.pts - info.pts[0])
    if far.any():
        frame = int(np.argmax(far))
        raise FeatureFileError(
            f"{where}: frame {frame} is shown {pts[frame] - pts[0]:.4g} s after the first one by {by}, "
            f"{info.pts[frame] - info.pts[0]:.4g} s by {url}; {tell}"
        )


def read_facts(file: Path) -> dict[str, tuple[int, float]]:
    """Number of frames and frame rate (0.0 if not given) of every video in a CSV.

    Raises:
        FeatureFileError: not of that form; the message names the line.
        OSError: it cannot be read.
    """
    found: dict[str, tuple[int, float]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            names = list(reader.fieldnames or ())
            places = {key: columns_called(names, (key,)) for key in COLUMNS}
            if not all(len(p) == 1 or (key == "fps" and not p) for key, p in places.items()):
                raise FeatureFileError(f"{file}: expected columns {', '.join(COLUMNS)}, each once, found {names}")
            ours = {p[0]: key for key, p in places.items() if p}
            reader.fieldnames = [ours.get(i, name) for i, name in enumerate(names)]
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                count, rate = row["num_frames"] or "", row.get("fps") or "0"
                if not re.fullmatch(r"[0-9]{1,8}", count) or not 1 <= int(count) <= MAX_FRAMES:
                    raise FeatureFileError(f"{where}: num_frames is {count!r}, expected 1 to {MAX_FRAMES}")
                if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", rate):
                    raise FeatureFileError(f"{where}: fps is {rate!r}, expected a number such as 29.97")
                if row["video"] in found:
                    raise FeatureFileError(f"{where}: video {row['video']!r} is there twice")
                found[row["video"]] = int(count), float(rate)
    except (UnicodeDecodeError, csv.Error) as error:
        raise FeatureFileError(f"{file} is not a CSV in UTF-8 ({error})") from None
    return found
