"""What must be known of features that were made elsewhere: of which video and of which frames.

Axes: F frames of a video, U rows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from extract.interchange.external_files import ExternalRows
from extract.interchange.hdf5_layout import FeatureFileError
from shared.manifest import Video
from shared.names import name_key, name_problem
from shared.windows import WindowPlan

TELL_FRAMES = (
    "say which frames the rows are of: --frames every:4 (0, 4, 8, ...), every:16:8 (8, 24, ...), centers (the middle "
    "frame of every window), plan (the frames that the windows sample), or a file VIDEO.frames.npy beside"
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
    if rule is not None and rule.step:
        check_count(rows, rule, plan.num_frames)
    if len(frames) != num_rows:
        raise FeatureFileError(f"{where}: expected {len(frames)} rows {said}, found {num_rows}")
    if (np.diff(frames) <= 0).any() or frames[0] < 0:
        raise FeatureFileError(f"{where}: frames {said} must ascend from 0 on, without repeats; sort the rows")
    if frames[-1] >= plan.num_frames:
        raise FeatureFileError(
            f"{where}: the last row is of frame {frames[-1]} {said}, the video has {plan.num_frames}"
        )
    return frames


def check_count(rows: ExternalRows, rule: FrameRule, num_frames: int) -> None:
    """Refuse rows that are not one per step to the end of the video, where an incomplete last step may be left out.

    Raises:
        FeatureFileError: says which steps would give as many rows.
    """
    left, num_rows = num_frames - rule.offset, rows.shape[0]
    least, most = max(0, left // rule.step), max(0, -(-left // rule.step))
    if least <= num_rows <= most:
        return
    wanted = str(most) if least == most else f"{least} or {most}"
    # Steps that would give as many rows: floor(left / step) or ceil(left / step) is their number.
    first, last = left // (num_rows + 1) + 1, -(-left // (num_rows - 1)) - 1 if num_rows > 1 else left
    fitting = f"every:{first}" if first == last else f"every:{first} to every:{last}"
    offset = f" with offset {rule.offset}" if rule.offset else ""
    hint = f"{fitting}{offset} would fit" if first <= min(last, left) else "no step fits so many rows"
    raise FeatureFileError(
        f"{rows.where}: expected {wanted} rows by --frames {rule.text} of {num_frames} frames, found {num_rows}; "
        f"{hint}. Say what made the features, or the frames themselves in VIDEO.frames.npy"
    )


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


def nearest_distance(rows: ExternalRows, rule: FrameRule | None, frames: np.ndarray, wanted: np.ndarray) -> int:
    """How far, in frames, the farthest wanted frame is from the row that ``nearest_rows`` gives it.

    Raises:
        FeatureFileError: two steps or more, which is more than rows of clips leave whose incomplete last one was
            left out: rows would stand for a part of the video that nobody looked at.
    """
    distances = np.abs(frames[nearest_rows(frames, wanted)] - wanted)
    farthest = int(np.argmax(distances))
    step = (rule.step if rule else 0) or int(np.diff(frames).max(initial=1))
    if distances[farthest] < 2 * step:
        return int(distances[farthest])
    raise FeatureFileError(
        f"{rows.where}: --nearest: frame {wanted[farthest]}, which windows sample, is {distances[farthest]} frames "
        f"from the nearest row, and rows are at most {step} apart; add rows there, or leave --nearest away"
    )
