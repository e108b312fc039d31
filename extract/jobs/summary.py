"""What a run did: the sums at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from extract.decode.events import Job
from extract.encoders.captioners.quality import CaptionCounts
from extract.faults.ledger import Failure
from shared.cache import VideoInfo


@dataclass
class Summary:
    """What a run did.

    Attributes:
        done, skipped: ids of videos completed now, and complete before.
        others: ids of videos that another run has completed meanwhile.
        failed: id -> why, for videos that failed now or earlier and were not tried again.
        overwrite: streams that are replaced where they are of another recipe or damaged; or DAMAGED.
        left: id -> what of a video is damaged still, and why this run does not replace it.
        recaptioned: ids of videos whose text came from a captions file and is to be replaced.
        suspects: id -> dead runs that were at this video; it comes last, after all others are written.
        gaps: path of a frame folder done now -> pictures it lacks (the nearest earlier one stands in).
        truncated: path of a video that ends early and was taken all the same, now or before -> decoded and promised
            frames.
        leading: path of a recording that begins between two key frames, done now or before -> pictures left out.
        captions: counts what is wrong with the captions written now, where somebody asked for it.
        seconds: stage -> busy wall seconds ("decode" summed over workers, "waiting": encoders waiting for frames).
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    overwrite: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    recaptioned: list[str] = field(default_factory=list)
    suspects: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    truncated: dict[str, Mapping[str, int]] = field(default_factory=dict)
    leading: dict[str, int] = field(default_factory=dict)
    captions: CaptionCounts | None = None
    num_frames: int = 0
    num_windows: int = 0
    wall_s: float = 0.0

    def completed(self, job: Job, info: VideoInfo, num_windows: int, captions: Sequence[str]) -> None:
        """A video is complete in the cache."""
        self.done.append(job.video)
        self.num_windows += num_windows
        self.num_frames += info.num_frames
        if self.captions is not None:
            self.captions.add(job.video, captions)
        if info.missing_frames:
            self.gaps[job.path] = info.missing_frames
        if info.truncated is not None:
            self.truncated[job.path] = info.truncated
        if info.leading:
            self.leading[job.path] = info.leading

    @property
    def exit_status(self) -> int:
        """0 all complete, 1 some failed, 2 nothing could work."""
        if not self.failed:
            return 0
        return 1 if self.done or self.skipped or self.others else 2
