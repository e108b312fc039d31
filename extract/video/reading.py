"""Decoding: the only file that knows a decoder.

A video is read once, from its first frame to its last, in decode order. Frame index = position in that order, 0-based;
header frame counts are only ever compared with what was decoded. Rotation metadata is applied, presentation times are
kept. A folder of numbered pictures (``00001.jpg`` is frame 0; gaps allowed) is a video too.

Input is hostile: a file is opened as what it is by content, but only as one of the formats that hold a video in
themselves, and never leads to another file or to the network.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from extract.video.folder import open_folder
from extract.video.promises import Promise, Tally, is_cut_off, read_promise, shortfall
from extract.video.sources import check_regular, is_folder, read_source, source_stamp, unreadable
from extract.video.types import MAX_PIXELS, DecodedFrame, OpenVideo, VideoError, words

# FFmpeg's names of the formats of VIDEO_SUFFIXES and of bare streams. Not among them, on purpose: playlists, manifests
# and scripts (hls, dash, concat, sdp, image2 ...), which read other files or the network, and single pictures.
FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,flv,live_flv,asf,ogg,mxf,gif,apng,ivf,nut,wtv,rm,dv,"
    "h261,h263,h264,hevc,vvc,av1,obu,vc1,yuv4mpegpipe"
)
# A damaged packet is an error, not a frame of leftovers; checksums inside of streams are looked at.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode", "max_pixels": str(MAX_PIXELS)}
# Where a file is cut off, so many of the last packets may be damaged: decoders hold frames back to reorder them.
MAX_DELAY = 32
DECODER_ERRORS = (av.error.FFmpegError, OSError, ValueError, MemoryError)

# FFmpeg's own log would repeat on the terminal what ends up, in plain words, in the ledger.
av.logging.set_level(av.logging.PANIC)


@contextmanager
def open_video(path: Path, fps: float | None = None, *, allow_truncated: bool = False) -> Iterator[OpenVideo]:
    """Open a video file or a frame folder.

    Args:
        path: file or folder.
        fps: frame rate of a frame folder (30 if not given); ignored for files.
        allow_truncated: a file that ends early yields the frames before its end; ``truncated`` tells then.

    Raises:
        VideoError: it is not there, not a video, has no video stream, no frames, ends early, or breaks while decoding
            (the last three are raised while iterating ``frames``).
    """
    if is_folder(path):
        yield open_folder(path, fps)
        return
    check_regular(path)
    with _open_container(path) as container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:
            kinds = ", ".join(sorted({"cover picture" if s.type == "video" else s.type for s in container.streams}))
            kinds = kinds or "nothing"
            raise VideoError("open", f"no video stream (found: {kinds})")
        yield _open_stream(path, container, stream, allow_truncated)  # type: ignore[arg-type]


def _open_container(path: Path) -> av.container.InputContainer:
    if not path.stat().st_size:
        raise VideoError("open", "not a video: the file is empty")
    try:
        # Absolute, because FFmpeg takes "12:30.mp4" for the protocol "12". Metadata of real phone files is not always
        # UTF-8; it is not worth losing the video.
        return av.open(
            str(path.absolute()),
            metadata_errors="replace",
            options=STRICT,
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
        )
    except av.error.ArgumentError:  # what FFmpeg says of formats that are not on the list
        message = "not a video this decoder reads (pictures, playlists and other files that point to files are refused)"
        raise VideoError("open", message) from None
    except DECODER_ERRORS as error:
        raise VideoError("open", f"not a video this decoder knows: {words(error)}") from None


def _open_stream(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, allow_truncated: bool
) -> OpenVideo:
    context = stream.codec_context
    if context is None:
        raise VideoError("open", "no decoder for its video track, or a header that is cut off")
    # Several videos are decoded side by side; more threads inside one decoder would only compete with them.
    context.thread_count = 1
    context.options = STRICT
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    try:
        promise = read_promise(path, container, stream, rate)
    except OSError as error:
        raise unreadable(error) from None
    video = OpenVideo(rate, promise.frames, f"pyav {av.__version__} {context.name}", iter(()))
    video.duration_s = promise.duration_s
    video.codec = context
    video.frames = _decode(container, stream, video, promise, allow_truncated)
    return video


def _decode(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    video: OpenVideo,
    promise: Promise,
    allow_truncated: bool,
) -> Iterator[DecodedFrame]:
    sized = stream.codec_context.width > 0  # FFmpeg drops sizes that it refuses
    index, pts_s, step_s = 0, 0.0, 1 / video.fps if video.fps else 1 / 30
    tally, damage = Tally(), None
    converters = threading.local()  # several threads may convert frames of one video; a converter serves one at a time
    try:
        for frame in _shown_frames(container, stream, tally, promise):
            if frame.is_corrupt:
                raise VideoError("decode", f"frame {index} is damaged{_of(promise)}")
            if index == 0:
                _note_geometry(video, frame)
                tally.first = frame.pts
            # A frame without a time gets the previous one plus a frame; it is still counted.
            pts_s = float(frame.time) if frame.time is not None else (pts_s + step_s if index else 0.0)
            yield DecodedFrame(index, pts_s, partial(_to_rgb, frame, index, converters))
            index += 1
    except VideoError as error:
        damage = error
    except DECODER_ERRORS as error:
        damage = VideoError("decode", f"broken after {index} frames: {words(error)}{_of(promise)}")
    if damage is not None and not (index and allow_truncated and _ends_here(container, stream, tally, promise)):
        if not (index or sized):
            damage = VideoError("decode", f"{damage}; its header states no size, or more than {MAX_PIXELS} pixels")
        raise damage if promise.flaw is None else VideoError("decode", f"truncated: {damage}; {promise.flaw}")
    if index == 0:
        raise VideoError("decode", f"no frame could be decoded{_of(promise)}")
    lack = shortfall(promise, tally, index, stream.codec_context.name, step_s)
    if lack is None and damage is None:
        return
    if not allow_truncated:
        raise VideoError("decode", f"truncated: decoded {index} frames{_of(promise)}; {lack}")
    video.truncated = {"decoded": index, "promised": promise.frames}


def _shown_frames(
    container: av.container.InputContainer, stream: av.VideoStream, tally: Tally, promise: Promise
) -> Iterator[av.VideoFrame]:
    for packet in _read_packets(container, stream, tally):
        if packet.is_corrupt:
            raise VideoError("decode", f"packet {tally.packets - 1} of its video track is damaged{_of(promise)}")
        yield from packet.decode()  # type: ignore[misc]


def _read_packets(
    container: av.container.InputContainer, stream: av.VideoStream, tally: Tally
) -> Iterator[av.Packet[av.VideoStream]]:
    """Packets of one stream that are to be decoded; ``tally`` counts them all.

    The other tracks are read, too: containers without a frame count (Matroska, WebM) state only the duration of their
    longest track, so only all tracks together tell a truncated file from a short video track.
    """
    for packet in container.demux():
        if packet.pts is not None and packet.time_base:
            tally.read_to_s = max(tally.read_to_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index != stream.index:
            continue
        flushes = not packet.size and packet.pts is None and packet.dts is None  # PyAV's own, behind the last one
        if not flushes:
            tally.packets += 1
            tally.empty += not packet.size
            if packet.pts is not None and not packet.is_discard:
                tally.times.append(packet.pts)
                if tally.key is None and packet.is_keyframe:
                    tally.key = packet.pts
        if packet.size or flushes:  # one without data says that the last picture stays
            yield packet  # type: ignore[misc]


def _ends_here(container: av.container.InputContainer, stream: av.VideoStream, tally: Tally, promise: Promise) -> bool:
    """Whether a file breaks because it ends: nearly nothing is left to read, and it is shorter than promised."""
    before = tally.packets
    with suppress(*DECODER_ERRORS):
        for _ in _read_packets(container, stream, tally):
            if tally.packets - before > MAX_DELAY:
                return False
    return is_cut_off(promise, tally)


def _note_geometry(video: OpenVideo, frame: av.VideoFrame) -> None:
    video.rotation = -round(frame.rotation / 90) * 90 % 360
    turned = video.rotation in (90, 270)
    video.width, video.height = (frame.height, frame.width) if turned else (frame.width, frame.height)


def _to_rgb(frame: av.VideoFrame, index: int, converters: threading.local) -> np.ndarray:
    # One converter for all frames: each one made anew takes megabytes and four times as long.
    if not hasattr(converters, "own"):
        converters.own = VideoReformatter()
    try:
        rgb = converters.own.reformat(frame, format="rgb24", threads=1).to_ndarray()  # (H, W, 3)
    except DECODER_ERRORS as error:
        message = f"frame {index} ({frame.width}x{frame.height}, {frame.format.name}) cannot be shown: {words(error)}"
        raise VideoError("decode", message) from None
    turns = round(frame.rotation / 90) % 4  # PyAV's angle is counter-clockwise, as np.rot90's
    return np.ascontiguousarray(np.rot90(rgb, turns))  # always copied if the rows are padded


def _of(promise: Promise) -> str:
    return f" (the container promises {promise.frames})" if promise.frames else ""


__all__ = ["DecodedFrame", "OpenVideo", "VideoError", "open_video", "read_source", "source_stamp"]
