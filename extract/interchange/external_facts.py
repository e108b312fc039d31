"""What must be known of features that were made elsewhere: of which video, of which frames, and when those are shown.

Axes: F frames of a video, U rows.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from extract.interchange.external_files import ExternalRows
from extract.interchange.hdf5_layout import FeatureFileError
from shared.cache import FeatureCache, VideoInfo
from shared.manifest import Video
from shared.names import name_key, name_problem
from shared.windows import WindowPlan

MAX_FRAMES = 2**26  # 25 days at 30 frames/s
COLUMNS = ("video", "num_frames", "fps")
TELL_FRAMES = (
    "say which frames the rows are of: --frames every:4 (0, 4, 8, ...), every:16:8 (8, 24, ...), centers (the middle "
    "frame of every window), plan (the frames that the windows sample), or a file VIDEO.frames.npy beside"
)
TELL_FACTS = (
    "give --facts with a cache or a CSV (video,num_frames,fps), or a file VIDEO.pts.npy with the time of every frame; "
    "with --frames every:1, --fps is enough"
)


@dataclass(frozen=True)
class FrameRule:
    """Which frames the rows of a video are of.

    Attributes:
        text: as the user gave it; "file" if the files say it.
        step, offset: of "every:STEP:OFFSET"; step 0 for the others.
    """

    text: str
    step: int = 0
    offset: int = 0

    @classmethod
    def parse(cls, text: str | None) -> FrameRule | None:
        """From the command line; None stays None.

        Raises:
            ValueError: not a rule.
        """
        if text is None:
            return None
        text = {"centres": "centers"}.get(text, text)
        if text in ("plan", "centers"):
            return cls(text)
        if found := re.fullmatch(r"every:([1-9][0-9]{0,6})(?::([0-9]{1,7}))?", text):
            return cls(text, int(found[1]), int(found[2] or 0))
        raise ValueError(f"--frames: expected every:K, every:K:OFFSET, centers or plan, found {text!r}")

    def frames(self, num_rows: int, wanted: np.ndarray) -> np.ndarray:
        """int64 (U,): the frame of every row; ``wanted`` are the distinct frames that the windows sample."""
        return self.offset + self.step * np.arange(num_rows, dtype=np.int64) if self.step else wanted


def declared_frames(rows: ExternalRows, rule: FrameRule | None, plan: WindowPlan, stream: str) -> np.ndarray | None:
    """The frame of every row: int64 (U,), ascending, below F; None for rows that are windows.

    Raises:
        FeatureFileError: nobody says which, or what is said cannot be.
    """
    where, num_rows = rows.where, rows.shape[0]
    if len(rows.shape) == 3:
        if rows.shape[:2] != plan.frames[stream].shape or (rule is not None and rule.text != "plan"):
            raise FeatureFileError(
                f"{where}: features of whole windows belong to --frames plan and to the windows of the cache; expected "
                f"{plan.frames[stream].shape} windows and samples of {plan.num_frames} frames, found {rows.shape[:2]}"
            )
        return None
    if (rows.frames is None) == (rule is None):
        both = "both a file of frames and --frames; leave one away" if rule else f"rows without frames; {TELL_FRAMES}"
        raise FeatureFileError(f"{where}: found {both}")
    frames = rows.frames if rule is None else rule.frames(num_rows, plan.unique[stream])
    assert frames is not None
    said = f"by --frames {rule.text}" if rule else "by its file of frames"
    if len(frames) != num_rows:
        raise FeatureFileError(f"{where}: expected {len(frames)} rows {said}, found {num_rows}")
    if (np.diff(frames) <= 0).any() or frames[0] < 0:
        raise FeatureFileError(f"{where}: frames {said} must ascend from 0 on, without repeats; sort the rows")
    if frames[-1] >= plan.num_frames:
        raise FeatureFileError(
            f"{where}: the last row is of frame {frames[-1]} {said}, the video has {plan.num_frames}"
        )
    return frames


@dataclass
class Facts:
    """Where the facts of a video come from: the cache itself, another cache or a table, files beside, --fps.

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
        for known in (self.cache, self.other):
            if known is not None and (info := known.info(video)) is not None:
                if rows.pts is not None and len(rows.pts) != info.num_frames:
                    raise FeatureFileError(
                        f"{rows.where}: its times are of {len(rows.pts)} frames, {known.url} has {info.num_frames}"
                    )
                return info
        num_frames, fps = self.table.get(video, (0, 0.0))
        fps = fps or self.fps or 0.0
        pts = rows.pts
        if pts is None:
            if not num_frames and rule is not None and (rule.step, rule.offset) == (1, 0):
                num_frames = rows.shape[0]
            if not num_frames or not fps:
                what = "how many frames the video has" if not num_frames else "its frame rate"
                raise FeatureFileError(f"{rows.where}: nothing says {what}; {TELL_FACTS}")
            pts = np.arange(num_frames) / fps
        _check_times(pts, num_frames, rows.where)
        return VideoInfo(
            source={"path": path},
            fps=fps,
            num_frames=len(pts),
            width=0,
            height=0,
            rotation=0,
            decoder="external",
            pts=pts,
        )


def _check_times(pts: np.ndarray, num_frames: int, where: str) -> None:
    if num_frames and len(pts) != num_frames:
        raise FeatureFileError(f"{where}: its times are of {len(pts)} frames, --facts says {num_frames}")
    if not 1 <= len(pts) <= MAX_FRAMES or not np.isfinite(pts).all():
        raise FeatureFileError(f"{where}: expected finite times of 1 to {MAX_FRAMES} frames, found {len(pts)}")


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
            if not {"video", "num_frames"} <= set(reader.fieldnames or ()):
                raise FeatureFileError(f"{file}: expected columns {', '.join(COLUMNS)}, found {reader.fieldnames}")
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


def match_videos(names: Iterable[str], videos: Sequence[Video] | None) -> tuple[dict[str, Video], list[str]]:
    """Name in the files -> video, and everything that is wrong with the names.

    Args:
        videos: of the manifest: a name is an id, a file name or a file name without its ending. None: any safe name.
    """
    known: dict[str, set[Video]] = {}
    for video in videos or ():
        path = PurePosixPath(video.path)
        for key in {path.name, path.stem}:
            known.setdefault(key, set()).add(video)
    known |= {video.id: {video} for video in videos or ()}
    found: dict[str, Video] = {}
    taken: dict[str, str] = {}
    problems = []
    for name in names:
        matches = known.get(name, set()) if videos is not None else {Video(name, name, name)}
        if videos is None and (problem := name_problem(name)):
            problems.append(f"{name!r}: {problem}")
        elif len(matches) != 1:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            what = f"is the name of {len(matches)} videos; name it by id" if matches else f"is no video of it{hint}"
            problems.append(f"{name!r} {what}")
        else:
            (video,) = matches
            if other := taken.get(name_key(video.id)):
                problems.append(f"{name!r} and {other!r} are the same video {video.id!r}")
            taken[name_key(video.id)] = name
            found[name] = video
    return found, problems


def window_gaps(frames: np.ndarray | None, wanted: np.ndarray) -> int:
    """How many of the frames that the windows sample have no row."""
    return 0 if frames is None else int((~np.isin(wanted, frames)).sum())


def nearest_rows(frames: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64: for every wanted frame the row whose frame is nearest, the earlier one of two; both ascend."""
    after = np.clip(np.searchsorted(frames, wanted), 1, max(1, len(frames) - 1))
    before = after - 1
    after = np.minimum(after, len(frames) - 1)
    return np.where(wanted - frames[before] <= frames[after] - wanted, before, after)
