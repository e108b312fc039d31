"""Decoding: the only file that knows a decoder, beside extract/video/converting.py, which converts its frames.

A video is read once, from its first clean frame to its last, in decode order. Frame index = position in that order,
0-based; header frame counts are only ever compared with what was decoded. Frames are what a player shows
(extract/video/showing.py), presentation times are kept. A folder of numbered pictures (``00001.jpg`` is frame 0; gaps
allowed) is a video too.

Input is hostile: a file is opened as what it is by content, but only as one of the formats that hold a video in
themselves, and never leads to another file or to the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from av.video.frame import PictureType

from extract.video.containers import padding_start
from extract.video.converting import DECODER_ERRORS, Converter
from extract.video.folder import look_at_folder, open_folder
from extract.video.promises import Promise, Tally, is_cut_off, read_promise, shortfall
from extract.video.remote import opened
from extract.video.sources import check_regular, is_folder, read_source, source_stamp, unreadable
from extract.video.types import MAX_PIXELS, DecodedFrame, OpenVideo, VideoError, words
from shared.videos.remote import Source

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
# Decoders that fail where a picture refers to one that they do not have, and those that make it up without a word. All
# others pass such pictures over, or have none; their errors are damage wherever they occur.
FAILING = frozenset(["h264", "hevc", "vvc", "vp8", "vp9", "libdav1d", "av1"])
MPEG4_LIKE = frozenset(["mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "h261", "h263", "flv", "wmv1", "wmv2"])
INVENTING = MPEG4_LIKE | {"rv10", "rv20", "theora"}
# Formats whose readers look only so far for the next packet, and then fail: of padding they get no more than this.
LOST_IN_PADDING = frozenset(["mpegts", "ogg"])
SOME_PADDING = 2**14

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


def look_at(source: Source) -> tuple[dict[str, Any], float | None]:
    """How a video is shown, without reading more of it than its first frame; nothing if it cannot be read.

    Returns:
        ``OpenVideo.shown``, and the time of the first frame in seconds if pictures before it are left out.
    """
    with suppress(VideoError, *DECODER_ERRORS):
        if isinstance(source, Path) and is_folder(source):
            return look_at_folder(source), None
        with ExitStack() as stack:
            if isinstance(source, Path):
                check_regular(source)
                place: Any = str(source.absolute())
            else:
                place = stack.enter_context(opened(source))
            container = stack.enter_context(_open_url(place, "file"))
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                return {}, None
            video, tally, converter = OpenVideo(0.0, 0, "", iter(())), Tally(), Converter(container, stream)  # type: ignore[arg-type]
            _prepare(stream)  # type: ignore[arg-type]
            for frame in _shown_frames(container, stream, tally, Promise(), converter):  # type: ignore[arg-type]
                converter.look(video, frame)
                tally.begin(frame.pts)
                return video.shown, float(frame.time or 0) if tally.num_leading else None
    return {}, None


def _open_container(path: Path) -> av.container.InputContainer:
    if not (size := path.stat().st_size):
        raise VideoError("open", "not a video: the file is empty")
    # Absolute, because FFmpeg takes "12:30.mp4" for the protocol "12".
    url, protocols = str(path.absolute()), "file"
    container = _open_url(url, protocols)
    if container.format.name in LOST_IN_PADDING and (end := padding_start(path) + SOME_PADDING) < size:
        container.close()
        container = _open_url(f"subfile,,start,0,end,{end},,:{url}", f"{protocols},subfile")
    return container


def _open_url(url: Any, protocols: str) -> av.container.InputContainer:
    try:
        # Metadata of real phone files is not always UTF-8; it is not worth losing the video.
        return av.open(
            url,
            metadata_errors="replace",
            options=STRICT,
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": protocols},
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
    _prepare(stream)
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


def _prepare(stream: av.VideoStream) -> None:
    # Several videos are decoded side by side; more threads inside one decoder would only compete with them.
    stream.codec_context.thread_count = 1
    stream.codec_context.options = STRICT


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
    converter = Converter(container, stream)
    try:
        for frame in _shown_frames(container, stream, tally, promise, converter):
            if frame.is_corrupt:
                raise VideoError("decode", f"frame {index} is damaged{_of(promise)}")
            if index == 0:
                converter.look(video, frame)
                tally.begin(frame.pts)
            # A frame without a time gets the previous one plus a frame; it is still counted.
            pts_s = float(frame.time) if frame.time is not None else (pts_s + step_s if index else 0.0)
            yield DecodedFrame(index, pts_s, partial(converter.rgb, frame, index, converter.aspect(frame)))
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
    video.leading = tally.num_leading
    lack = shortfall(promise, tally, index, stream.codec_context.name, step_s)
    if lack is None and damage is None:
        return
    if not allow_truncated:
        raise VideoError("decode", f"truncated: decoded {index} frames{_of(promise)}; {lack}")
    video.truncated = {"decoded": index, "promised": promise.frames}


def _shown_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    tally: Tally,
    promise: Promise,
    converter: Converter,
) -> Iterator[av.VideoFrame]:
    """Frames from the first clean one on.

    A recording that begins between two key frames refers to pictures that it does not have. What comes before its first
    key frame, or is shown before it, may fail; then nothing else is tried until there is a key frame.
    """
    context, clean, failed = stream.codec_context, False, None  # type: av.VideoCodecContext, bool, Exception | None
    skips = False
    for packet in _read_packets(container, stream, tally):
        if skips:
            if not tally.keyed:
                continue
            context.flush_buffers()  # whatever is left of the pictures before
            skips = False
        try:
            if packet.is_corrupt:
                raise VideoError("decode", f"packet {tally.packets - 1} of its video track is damaged{_of(promise)}")
            frames = packet.decode()
        except (VideoError, *DECODER_ERRORS) as error:
            if clean or context.name not in FAILING or not tally.may_lack_references(packet):
                raise
            failed, skips = error, not tally.keyed
            continue
        converter.note(packet)
        for frame in frames:
            clean = clean or not (tally.late or failed) or _is_clean(frame, context.name, failed is not None)  # type: ignore[arg-type]
            if clean:
                yield frame  # type: ignore[misc]
    if failed is not None and not clean:
        why = f"broken after 0 frames: {words(failed)}; nor is there a key frame to begin with{_of(promise)}"
        raise VideoError("decode", why)


def _is_clean(frame: av.VideoFrame, codec: str, failed: bool) -> bool:
    """Whether nothing that is missing can be seen in the first frame of a recording that begins between key frames.

    What a decoder calls a key frame may be one of many that together renew the picture, each a stripe of it: only one
    without references is whole.
    """
    if frame.key_frame and frame.pict_type not in (PictureType.P, PictureType.B):
        return True
    return not failed and codec not in INVENTING


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
            tally.add(packet)  # type: ignore[arg-type]
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


def _of(promise: Promise) -> str:
    return f" (the container promises {promise.frames})" if promise.frames else ""


__all__ = ["DecodedFrame", "OpenVideo", "VideoError", "open_video", "read_source", "source_stamp"]
