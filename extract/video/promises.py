"""Whether all of a video arrived: what its container promises, against what was read.

Header counts lie, so none is ever taken for the number of frames. But a file that holds less than it promises was cut
off or damaged, and the frames after the gap would carry wrong numbers. How much a container promises differs: MP4, AVI
and Matroska list every compressed picture, FLV and WMV state bytes or seconds, MPEG program and transport streams state
nothing; of those a part that is missing can only be seen where the decoder notices.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from extract.video.containers import walk_file

if TYPE_CHECKING:
    import av

# Where a container states only a duration, whole files end within a rounding of it.
MAX_MISSING_S = 0.25
# Codecs with packets that show no picture ("not coded", hidden references, fields): below this share it is a loss.
MIN_DECODED_SHARE = 0.85
# Every packet shows one picture, also where a container (Matroska) states packets and no pictures: the fields of an
# interlaced picture, and hidden references (the superframes of VP9, the temporal units of AV1), travel together.
ONE_A_PACKET = frozenset(["h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1"])
SKIPPING_CODECS = frozenset(["mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "vp8", "h261", "h263", "flv", "vc1", "wmv3"])


@dataclass(frozen=True)
class Promise:
    """What a container says that it holds; 0 wherever it says nothing.

    Attributes:
        frames: pictures to be shown.
        packets: compressed pictures in its table of samples, shown or not.
        duration_s: of its longest track.
        flaw: where its structure ends early or breaks, in words; None if it does not.
    """

    frames: int = 0
    packets: int = 0
    duration_s: float = 0.0
    flaw: str | None = None


@dataclass
class Tally:
    """What was read so far.

    Attributes:
        packets, empty: packets of the video track, and those without data (a frame that repeats the last one).
        times: presentation times of the packets to be shown, in units of the track.
        untimed: packets without a time before the first key frame.
        late: whether it begins with another packet than that of a key frame.
        keyed: whether a key frame was read.
        start: presentation time of the first key frame.
        key: presentation time of the first key frame to be shown; an edit list may hide that one.
        first: presentation time of the first picture that came out.
        read_to_s: where the last packet of any track ends.
    """

    packets: int = 0
    empty: int = 0
    times: array[int] = field(default_factory=lambda: array("q"))
    untimed: int = 0
    late: bool = False
    keyed: bool = False
    start: int | None = None
    key: int | None = None
    first: int | None = None
    read_to_s: float = 0.0

    @property
    def num_leading(self) -> int:
        """Pictures before the first clean one, which a recording that begins between two key frames cannot show."""
        if self.first is None:
            return self.untimed
        until = self.first if self.key is None else min(self.first, self.key)
        return self.untimed + sum(time < until for time in self.times)

    def add(self, packet: av.Packet[av.VideoStream]) -> None:
        """Count a packet of the video track."""
        self.late |= not (self.packets or packet.is_keyframe)
        self.packets += 1
        self.empty += not packet.size
        if packet.is_keyframe and not self.keyed:
            self.keyed, self.start = True, packet.pts
        if packet.pts is None:
            self.untimed += not self.keyed
        elif not packet.is_discard:
            self.times.append(packet.pts)
            if self.key is None and packet.is_keyframe:
                self.key = packet.pts

    def begin(self, first: int | None) -> None:
        """The first picture came out, with this time; if no key frame was read yet, it is that of the first packet."""
        self.first = first
        self.untimed *= self.keyed

    def may_lack_references(self, packet: av.Packet[av.VideoStream]) -> bool:
        """Whether a packet comes before the first key frame, or after it and is shown before it."""
        if not self.keyed:
            return True
        return packet.pts is not None and self.start is not None and packet.pts < self.start


def read_promise(path: Path, container: av.container.InputContainer, stream: av.VideoStream, rate: float) -> Promise:
    """What the container of an open file promises; ``rate`` is its frame rate, 0.0 if unknown."""
    name, structure = container.format.name, walk_file(path)
    frames = packets = max(0, stream.frames)
    length_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if name.startswith("matroska"):
        frames, packets = 0, structure.video_blocks(container.streams.video.index(stream))
    elif name == "gif":
        frames = packets = 0  # FFmpeg's own count, of what is there
    elif frames and name.startswith("mov"):
        # The table of samples as the edit list leaves it: some are decoded only for others to refer to.
        entries = stream.index_entries
        packets = len(entries)
        frames = sum(not entry.is_discard for entry in entries)
    elif name == "avi" and structure.flaw is None and 0 < len(stream.index_entries) < frames:
        frames = packets = len(stream.index_entries)  # the others are chunks without data: the last picture stays
    elif name == "ogg" and stream.codec_context.name in ("theora", "vp8"):
        packets = max(0, stream.duration or 0)  # their unit of time is the frame
    elif (frames or name == "mxf") and length_s > 0 and rate:
        frames = min(frames or 2**62, round(length_s * rate))
    # One microsecond is FFmpeg's unit for the length of a file.
    duration_s = max(0, container.duration or 0) / 1e6
    return Promise(frames, packets, duration_s, structure.flaw)


def shortfall(promise: Promise, tally: Tally, decoded: int, codec: str, step_s: float) -> str | None:
    """What a video lacks that was read to its end, in words; None if it is all there.

    Args:
        promise, tally: what was promised, what was read.
        decoded: pictures that came out.
        codec: name of the decoder.
        step_s: length of a frame.
    """
    if tally.packets < promise.packets:
        return f"{promise.packets - tally.packets} of {promise.packets} compressed frames are not in the file"
    whole = promise.frames and decoded >= promise.frames
    if promise.flaw and not whole:
        return promise.flaw
    due = (promise.frames or (promise.packets if codec in ONE_A_PACKET else 0)) - tally.empty - tally.num_leading
    if due > 0 and decoded < (MIN_DECODED_SHARE * due - 1 if codec in SKIPPING_CODECS else due):
        return f"{due - decoded} of its frames did not come out of the decoder"
    if _is_late(promise, tally, step_s):
        return f"the file ends at {tally.read_to_s:.1f} s, its header promises {promise.duration_s:.1f} s"
    return None


def is_cut_off(promise: Promise, tally: Tally) -> bool:
    """Whether a file that could not be decoded to its end was cut off there, as far as its container can tell."""
    if not (promise.packets or promise.duration_s or promise.flaw):
        return True  # a transport stream: there is nothing to compare with
    return tally.packets < promise.packets or promise.flaw is not None or _is_late(promise, tally, 0.0)


def _is_late(promise: Promise, tally: Tally, step_s: float) -> bool:
    """Whether a container without a frame count promises a longer video than there is."""
    return not promise.frames and promise.duration_s - tally.read_to_s > max(MAX_MISSING_S, 2 * step_s)
