"""Recordings that begin between two key frames: all from the first clean picture on, and what came before is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import Result

from extract.video import VideoError, open_video
from shared.cache import FeatureCache
from tests.extract.support import write_video

GOP, FRAMES = 12, 36
OPEN = {"x264-params": f"open-gop=1:keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes=2:b-adapt=0"}
CODECS = {
    "h264": ("libx264", {"bf": "2", "sc_threshold": "0"}),
    "h264 without B": ("libx264", {"bf": "0", "sc_threshold": "0"}),
    "h264, open": ("libx264", OPEN),
    "hevc": ("libx265", {"x265-params": f"keyint={GOP}:min-keyint={GOP}:open-gop=0:log-level=none"}),
    "hevc, open": (
        "libx265",
        {"x265-params": f"keyint={GOP}:min-keyint={GOP}:open-gop=1:bframes=2:b-adapt=0:log-level=none"},
    ),
    "mpeg2": ("mpeg2video", {"bf": "2"}),
    "mpeg4": ("mpeg4", {}),
}


@dataclass(frozen=True)
class Film:
    """The frames of a video.

    Attributes:
        leading: pictures that were left out before them.
    """

    frames: list[np.ndarray]
    leading: int


def record(path: Path, codec: str, options: dict[str, str]) -> Path:
    """A square that moves over noise."""
    noise = np.random.default_rng(0).integers(0, 160, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, width=64, height=48, pix_fmt="yuv420p", options=options)
        stream.codec_context.gop_size = GOP
        stream.codec_context.thread_count = 1
        for index in range(FRAMES):
            picture = np.roll(noise, index, axis=1)
            picture[index : index + 8, index : index + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def capture(whole: Path, cut: Path, count: int) -> Path:
    """What a recorder has that misses the first packets: of a transport stream the bytes, of others the packets."""
    with av.open(str(whole)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        if cut.suffix == ".ts":
            cut.write_bytes(whole.read_bytes()[packets[count].pos + 188 :])  # behind the head of a picture
            return cut
        with av.open(str(cut), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in packets[count:]:
                packet.stream = stream
                target.mux(packet)
    return cut


def read(path: Path) -> Film:
    with open_video(path) as video:
        frames = [frame.rgb() for frame in video.frames]
    return Film(frames, video.leading)


@pytest.mark.parametrize("ending", ["ts", "mkv", "mp4"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_recording_is_read_from_its_first_clean_picture_on(codec: str, ending: str, tmp_path: Path) -> None:
    whole = record(tmp_path / "whole.ts", *CODECS[codec])
    film, cut = read(whole), read(capture(whole, tmp_path / f"cut.{ending}", 4))
    assert (len(film.frames), film.leading) == (FRAMES, 0)
    # The key frame, or in an open group of pictures what refers to it alone.
    assert FRAMES - GOP <= len(cut.frames) <= FRAMES - GOP + 2
    for ours, theirs in zip(cut.frames, film.frames[-len(cut.frames) :], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert 0 < cut.leading <= FRAMES - 4 - len(cut.frames)  # an edit list may leave some out of both


@pytest.mark.parametrize("codec", ["h264, open", "hevc, open", "mpeg2"])
def test_a_cut_at_a_key_frame_that_is_no_new_beginning(codec: str, tmp_path: Path) -> None:
    """Pictures shown before it refer to the group before, and come after it in the file."""
    whole = record(tmp_path / "whole.ts", *CODECS[codec])
    with av.open(str(whole)) as source:
        keys = [n for n, packet in enumerate(p for p in source.demux(video=0) if p.size) if packet.is_keyframe]
    film, cut = read(whole), read(capture(whole, tmp_path / "cut.mkv", keys[1]))
    for ours, theirs in zip(cut.frames, film.frames[-len(cut.frames) :], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(cut.frames) + cut.leading == FRAMES - keys[1]
    assert cut.leading > 0


def test_a_picture_renewed_in_stripes_never_is_a_beginning(tmp_path: Path) -> None:
    stripes = {"x264-params": f"intra-refresh=1:keyint={GOP}"}
    whole = record(tmp_path / "whole.ts", "libx264", stripes)
    assert len(read(whole).frames) == FRAMES
    with pytest.raises(VideoError, match="broken after 0 frames"):
        read(capture(whole, tmp_path / "cut.ts", 4))


def test_a_recording_without_a_key_frame_is_refused(tmp_path: Path) -> None:
    whole = record(tmp_path / "whole.ts", *CODECS["h264"])
    data = capture(whole, tmp_path / "cut.ts", FRAMES - GOP + 4).read_bytes()
    (tmp_path / "cut.ts").write_bytes(whole.read_bytes()[: 3 * 188] + data)
    with pytest.raises(VideoError, match="nor is there a key frame to begin with"):
        read(tmp_path / "cut.ts")


@pytest.mark.parametrize("place", [0.05, 0.5, 0.9])
def test_damage_behind_the_beginning_is_damage(place: float, tmp_path: Path) -> None:
    whole = record(tmp_path / "whole.ts", *CODECS["h264"])
    cut = capture(whole, tmp_path / "cut.mkv", 4)
    with av.open(str(cut)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
    first = next(n for n, packet in enumerate(packets) if packet.is_keyframe)
    hit = packets[first + int(place * (len(packets) - first))]
    data = cut.read_bytes()
    cut.write_bytes(data.replace(bytes(hit), bytes(hit)[:6] + bytes([0xA5] * (hit.size - 6))))
    with pytest.raises(VideoError, match=r"broken after|damaged|truncated"):
        read(cut)


def test_what_was_left_out_is_told(cli: Callable[..., Result], tmp_path: Path) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    capture(record(tmp_path / "whole.ts", *CODECS["h264"]), root / "late.mkv", 4)
    write_video(root / "plain.mp4", 20)
    words = "1 videos begin between two key frames; the pictures before the first whole one are left out"
    options = (str(root), "--cache", "x.zarr")
    for result in (cli("run", *options, "--preset", "tiny", "--streams", "image"), cli("status", *options)):
        assert words in result.output
        assert "late.mkv (8)" in result.output
    assert words in cli("run", *options, "--preset", "tiny", "--streams", "image,text").output
    cache = FeatureCache.open("x.zarr")
    info = cache.info("late.mkv")
    assert info is not None
    assert (info.num_frames, info.leading, cache.facts().videos["late.mkv"].leading) == (24, 8, 8)
    assert "leading" not in cache.info("plain.mp4").attrs()  # type: ignore[union-attr]
    assert cli("export", "x.zarr", "--output", "x.h5").exit_code == 0
    assert cli("import", "x.h5", "--cache", "y.zarr").exit_code == 0
    again = FeatureCache.open("y.zarr").info("late.mkv")
    assert again is not None
    assert again.attrs() == info.attrs()
