"""Small whole videos in many containers and codecs, for the fuzzer to damage, and the odd ones that are not damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.extract.support import BROKEN, LONG, SHARED_VIDEOS, write_audio, write_video

FRAMES = 24
GOP = 6  # several key frames, so that a decoder could go on after damage
# file name -> encoder and pixel format
CODECS = {
    "mpeg4.mp4": ("mpeg4", "yuv420p"),
    "h264.mp4": ("libx264", "yuv420p"),
    "fragmented.mp4": ("libx264", "yuv420p"),
    "faststart.mp4": ("libx264", "yuv420p"),
    "hevc.mp4": ("libx265", "yuv420p"),
    "av1.mp4": ("libsvtav1", "yuv420p"),
    "mjpeg.mov": ("mjpeg", "yuvj420p"),
    "prores.mov": ("prores_ks", "yuv422p10le"),
    "png.mov": ("png", "rgb24"),
    "h263.3gp": ("h263", "yuv420p"),
    "ffv1.mkv": ("ffv1", "yuv420p"),
    "h264.mkv": ("libx264", "yuv420p"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "vp8.webm": ("libvpx", "yuv420p"),
    "live.webm": ("libvpx", "yuv420p"),
    "mpeg4.avi": ("mpeg4", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "huffyuv.avi": ("huffyuv", "yuv422p"),
    "raw.avi": ("rawvideo", "yuv420p"),
    "msmpeg4.avi": ("msmpeg4v2", "yuv420p"),
    "mpeg2.ts": ("mpeg2video", "yuv420p"),
    "h264.ts": ("libx264", "yuv420p"),
    "mpeg1.mpg": ("mpeg1video", "yuv420p"),
    "flv1.flv": ("flv", "yuv420p"),
    "wmv2.wmv": ("wmv2", "yuv420p"),
    "vp8.ogv": ("libvpx", "yuv420p"),
    "mpeg2.mxf": ("mpeg2video", "yuv420p"),
    "anim.gif": ("gif", "rgb8"),
}
MUXER = {
    "live.webm": {"live": "1"},
    "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "faststart.mp4": {"movflags": "faststart"},
}
# Nothing in these files says how much there is of them: frames that are lost show only if the decoder notices.
STATE_NOTHING = (".ts", ".mpg", ".gif", "fragmented.mp4")
MAX_REAL_BYTES = 1_500_000


@dataclass(frozen=True)
class Seed:
    """A whole video.

    Attributes:
        name: of its file, ending included.
        frames: frames that it has.
    """

    name: str
    data: bytes
    frames: int


@dataclass(frozen=True)
class Odd:
    """A path that is odd, not damaged: which frame counts it may give, and a piece of the error if it may not."""

    path: Path
    frames: tuple[int, ...] = ()
    error: str | None = None


def render(path: Path, size: tuple[int, int] = (64, 48), frames: int = FRAMES) -> Path:
    """A square that moves over noise, in the container and codec that ``CODECS`` has for the file's name."""
    codec, pixels = CODECS[path.name.rpartition("_")[2]]
    width, height = (176, 144) if codec == "h263" else size  # one of the five sizes that H.263 knows
    background = np.random.default_rng(0).integers(0, 160, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w", options=MUXER.get(path.name, {})) as container:
        stream = container.add_stream(codec, rate=25, width=width, height=height, pix_fmt=pixels)
        stream.codec_context.gop_size = GOP
        stream.codec_context.thread_count = 1
        if codec == "libx265":
            stream.codec_context.options = {"x265-params": "log-level=none"}
        for index in range(frames):
            picture = background.copy()
            top, left = 2 * index % (height - 8), 3 * index % (width - 8)
            picture[top : top + 8, left : left + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
        container.mux(stream.encode(None))
    return path


def rendered(folder: Path) -> list[Seed]:
    """One seed per container and codec."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["SVT_LOG"] = "0"
    return [Seed(name, render(folder / name).read_bytes(), FRAMES) for name in CODECS]


def real() -> list[Seed]:
    """The small files of ../shared/videos; their frames were counted when the folder was made."""
    seeds = []
    for reference in sorted((SHARED_VIDEOS / "reference").glob("*.csv")):
        name = reference.name.removesuffix(".csv").replace("__", "/")
        path = SHARED_VIDEOS / name
        if path.is_file() and name not in (*BROKEN, *LONG) and path.stat().st_size < MAX_REAL_BYTES:
            seeds.append(Seed(path.name, path.read_bytes(), len(reference.read_text().splitlines()) - 1))
    return seeds


# ------------------------------------------------------------------------------------------------ odd ones


def write_packets(path: Path, change: Callable[[int, av.Packet], None]) -> Path:
    """Twelve MPEG-4 frames whose packets are changed before they are written."""
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("mpeg4", rate=25, width=64, height=48, pix_fmt="yuv420p")
        noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        packets = [p for n in range(12) for p in stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, n, 1)))]
        for number, packet in enumerate([*packets, *stream.encode(None)]):
            change(number, packet)
            container.mux(packet)
    return path


def write_resized(path: Path) -> Path:
    """Ten frames of 64x48, then ten of 96x80, in one stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for start, (width, height) in enumerate([(64, 48), (96, 80)]):
            encoder = av.CodecContext.create("mpeg2video", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
            noise = np.random.default_rng(start).integers(0, 255, (height, width, 3), dtype=np.uint8)
            pictures = [av.VideoFrame.from_ndarray(np.roll(noise, n, 1)).reformat(format="yuv420p") for n in range(10)]
            for packet in [p for picture in [*pictures, None] for p in encoder.encode(picture)]:
                packet.stream = stream
                packet.pts, packet.dts = packet.pts + 10 * start, packet.dts + 10 * start
                packet.time_base = Fraction(1, 25)
                container.mux(packet)
    return path


def _shift(number: int, packet: av.Packet) -> None:
    packet.pts = packet.dts = (number - 6) * 512


def _repeat(number: int, packet: av.Packet) -> None:
    packet.pts = packet.dts = number // 3 * 3  # three frames at a time


def odd_ones(root: Path) -> list[Odd]:
    """Odd files and folders below ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    plain, inner = write_video(root / "plain.mp4", 20), write_video(root / "inner.mp4", 9).read_bytes()
    found = [Odd(plain, (20,)), Odd(write_video(root / "one.mp4", 1), (1,))]

    def write(name: str, data: bytes, *frames: int, error: str | None = None) -> None:
        (root / name).write_bytes(data)
        found.append(Odd(root / name, frames, error))

    found.append(Odd(write_audio(root / "audio.mp4"), error="no video stream (found: audio)"))
    found.append(Odd(write_packets(root / "negative.mp4", _shift), (12, 6)))  # an edit list may hide those before 0
    found.append(Odd(write_packets(root / "repeating.mkv", _repeat), (12,)))
    found.append(
        Odd(write_resized(root / "resized.ts"), (19,))
    )  # FFmpeg loses the one that waits when the size changes
    write("empty.mp4", b"", error="empty")
    write("zeros.mp4", bytes(100_000), error="not a video")
    write("text.mp4", b"no video at all\n" * 40, error="not a video")
    write("playlist.m3u8", b"#EXTM3U\n#EXTINF:1,\ninner.mp4\n#EXT-X-ENDLIST\n", error="not a video")
    write("script.mp4", b"ffconcat version 1.0\nfile 'inner.mp4'\n", error="not a video")
    write(
        "session.sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", error="not"
    )
    write("archive.mp4", plain.read_bytes() + b"PK\x05\x06" + bytes(18), 20)
    write("two_in_one.gif", render(root / "x_anim.gif").read_bytes() + inner, error="ends a GIF")
    write("pdf_in_front.mp4", b"%PDF-1.7\n" + plain.read_bytes(), 20, error="")
    title = plain.read_bytes().replace(b"Lavf", b"\xff\xfe\x80\x81")
    write("title.mp4", title, 20)
    with (root / "sparse.mp4").open("wb") as file:
        file.truncate(2**33)
    found.append(Odd(root / "sparse.mp4", error="not a video"))
    found += _links(root, plain)
    (root / "pictures").mkdir()
    for number in (1, 2, 4):
        Image.new("RGB", (40 + number, 30), (number, 9, 9)).save(root / "pictures" / f"{number:05d}.png")
    return [*found, Odd(root / "pictures", (4,))]


def _links(root: Path, plain: Path) -> list[Odd]:
    (root / "link.mp4").symlink_to(plain)
    (root / "dangling.mp4").symlink_to(root / "gone.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (root / "null.mp4").symlink_to("/dev/zero")
    os.mkfifo(root / "fifo.mp4")
    (root / "folder.mp4").mkdir()
    odd = [
        Odd(root / "link.mp4", (20,)),
        Odd(root / "dangling.mp4", error="No such file"),
        Odd(root / "loop.mp4", error="symbolic links"),
        Odd(root / "null.mp4", error="special file"),
        Odd(root / "fifo.mp4", error="special file"),
        Odd(root / "folder.mp4", error="without numbered pictures"),
    ]
    if os.geteuid() != 0:  # nothing is unreadable for root
        (root / "locked.mp4").write_bytes(plain.read_bytes())
        (root / "locked.mp4").chmod(0)
        odd.append(Odd(root / "locked.mp4", error="permission"))
    return odd
