"""Decoding: frames, times, sizes and colours of real files against a reference made with FFmpeg's own tools."""

from __future__ import annotations

import csv
import gc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from extract.video import DecodedFrame, VideoError, open_video, read_source
from tests.extract.fuzz_seeds import FRAMES, render
from tests.extract.support import BROKEN, SHARED_VIDEOS, needs_shared_videos, write_video

REFERENCES = sorted((SHARED_VIDEOS / "reference").glob("*.csv"))
# FFmpeg's "best" stream of the file with two is the second, larger one.
OTHER_STREAM = "torchcodec_nasa_13013_2streams.mp4.v0.csv"


def video_of(reference: Path) -> Path:
    return SHARED_VIDEOS / reference.name.removesuffix(".csv").removesuffix(".v1").replace("__", "/")


def read_times(path: Path) -> list[float]:
    with open_video(path) as video:
        return [frame.pts_s for frame in video.frames]


@needs_shared_videos
@pytest.mark.parametrize(
    "reference",
    [r for r in REFERENCES if r.name != OTHER_STREAM and not video_of(r).as_posix().endswith(BROKEN)],
    ids=lambda r: r.name.removesuffix(".csv"),
)
def test_frames_times_and_brightness_equal_the_reference(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.video.converting.Converter.rgb", _luma)
    with reference.open() as file:
        rows = list(csv.DictReader(file))
    times, means = [], {}
    with open_video(video_of(reference)) as video:
        for frame in video.frames:
            assert frame.index == len(times)
            times.append(frame.pts_s)
            if frame.index in (0, 1, len(rows) // 2, len(rows) - 1):
                means[frame.index] = frame.rgb().mean()
    np.testing.assert_allclose(times, [float(row["pts_time"]) for row in rows], atol=2e-4)
    for index, mean in means.items():
        assert mean == pytest.approx(float(rows[index]["y_mean"]), abs=0.01)


def _luma(converter: object, frame: av.VideoFrame, *_: object) -> np.ndarray:
    plane, wide = frame.planes[0], frame.format.components[0].bits > 8
    values = np.frombuffer(plane, np.uint16 if wide else np.uint8).reshape(plane.height, -1)
    return values[:, : plane.width]


@needs_shared_videos
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_while_decoding(name: str) -> None:
    with pytest.raises(VideoError, match=r"broken after|truncated|damaged") as caught:
        read_times(SHARED_VIDEOS / name)
    assert caught.value.stage == "decode"
    assert "promises" in str(caught.value)


@needs_shared_videos
@pytest.mark.parametrize(("angle", "turns"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_rotation_is_applied(angle: int, turns: int) -> None:
    path = SHARED_VIDEOS / f"decord_rot{angle}.mov"
    with av.open(str(path)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(path) as video:
        shown = [frame.rgb() for frame in video.frames]
    assert (video.width, video.height) == ((320, 568) if turns % 2 else (568, 320))
    assert video.rotation == angle
    assert len(shown) == len(stored) == 3
    for ours, raw in zip(shown, stored, strict=True):
        assert ours.shape == (video.height, video.width, 3)
        assert ours.flags.c_contiguous
        np.testing.assert_array_equal(ours, np.rot90(raw, turns))


@needs_shared_videos
def test_metadata_that_is_not_utf8_does_not_lose_the_video() -> None:
    assert len(read_times(SHARED_VIDEOS / "exoplayer_desks_h263_vfr.3gp")) == 71


@needs_shared_videos
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
@pytest.mark.parametrize(
    "name",
    [
        "mdn_flower.webm",  # no frame count in the header; video and sound both end early
        "derived/friday_hevc_noaudio.mkv",
        "torchcodec_av1.mkv",
        "derived/flower_mpeg4_bframes_480x270.avi",
        "mdn_friday.mp4",
    ],
)
def test_a_truncated_file_is_refused_in_every_container(name: str, share: float, tmp_path: Path) -> None:
    whole = (SHARED_VIDEOS / name).read_bytes()
    cut = tmp_path / Path(name).name
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(VideoError, match="truncated"):
        read_times(cut)


@needs_shared_videos
def test_frames_that_the_decoder_had_to_guess_are_refused(tmp_path: Path) -> None:
    data = bytearray((SHARED_VIDEOS / "mdn_friday.mp4").read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(100_000, len(data) - 60_000, 40):
        data[place] ^= 0xFF
    (tmp_path / "flipped.mp4").write_bytes(data)
    with pytest.raises(
        VideoError, match=r"(frame \d+ is damaged|broken after \d+ frames.*) \(the container promises 185\)"
    ):
        read_times(tmp_path / "flipped.mp4")


def test_pixels_equal_pyavs_own_conversion(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 12, size=(70, 50))
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(path) as video:
        held = list(video.frames)  # converted late and twice: a frame keeps its picture
        for _ in range(2):
            for frame, pixels in zip(held, expected, strict=True):
                np.testing.assert_array_equal(frame.rgb(), pixels)
    assert (video.width, video.height, video.rotation, video.fps) == (70, 50, 0, 30.0)
    assert video.promised_frames == 12
    assert "mpeg4" in video.decoder


def test_a_frame_is_given_back_with_its_last_reference(tmp_path: Path) -> None:
    """Not at some later time, when Python looks for cycles: frames are megabytes each."""
    path = write_video(tmp_path / "a.mp4", 12)
    gc.collect()
    gc.disable()
    try:
        with open_video(path) as video:
            for frame in video.frames:
                frame.rgb()
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) <= 2
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["12:30.mp4", "a b.mp4", "-dash.mp4", "ünï'c\"ode.mp4", "%05d.mp4", "x|y.mp4"])
def test_weird_file_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_times(Path(name))) == 3


# ------------------------------------------------------------------------------------------------ hostile files


@pytest.mark.parametrize("name", ["faststart.mp4", "h264.mkv", "vp8.webm", "mpeg4.avi", "flv1.flv"])
def test_the_beginning_of_a_truncated_file_is_there_for_whoever_asks(name: str, tmp_path: Path) -> None:
    whole = render(tmp_path / name).read_bytes()
    with open_video(tmp_path / name) as video:
        expected = [frame.rgb() for frame in video.frames]
    cut = tmp_path / f"cut{Path(name).suffix}"
    cut.write_bytes(whole[: int(0.8 * len(whole))])
    with pytest.raises(VideoError, match="truncated"):
        read_times(cut)
    with open_video(cut, allow_truncated=True) as video:
        shown = [frame.rgb() for frame in video.frames]
    assert 3 < len(shown) < FRAMES
    assert video.truncated == {"decoded": len(shown), "promised": video.promised_frames}
    for ours, theirs in zip(shown, expected, strict=False):
        np.testing.assert_array_equal(ours, theirs)
    with open_video(tmp_path / name, allow_truncated=True) as video:
        assert len(list(video.frames)) == FRAMES
    assert video.truncated is None


# ------------------------------------------------------------------------------------------------ frame folders


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(*numbers: int | str) -> Path:
        place = tmp_path / "frames"
        place.mkdir(exist_ok=True)
        for number in numbers:
            name = number if isinstance(number, str) else f"{number:05d}.png"
            value = number if isinstance(number, int) else 255
            Image.new("RGB", (6, 4), (value, 0, 0)).save(place / name)
        return place

    return make


def reds(frames: list[DecodedFrame]) -> list[int]:
    return [int(frame.rgb()[0, 0, 0]) for frame in frames]


def test_a_frame_folder_counts_from_one_and_fills_gaps(folder: Callable[..., Path]) -> None:
    with open_video(folder(2, 3, 6), fps=10) as video:
        frames = list(video.frames)
    assert reds(frames) == [2, 2, 3, 3, 3, 6]  # the nearest earlier picture; before the first one, the first one
    assert [f.pts_s for f in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert (video.width, video.height, video.missing_frames, video.promised_frames) == (6, 4, 3, 6)


def test_a_frame_folder_ignores_other_files(folder: Callable[..., Path]) -> None:
    place = folder(1, 2, "thumb.png", "2.5.png")
    (place / "notes.txt").write_text("3.jpg is blurred")
    with open_video(place) as video:
        assert reds(list(video.frames)) == [1, 2]
    assert video.fps == 30.0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, "1.png"), "two pictures for frame 1"),
        ((1, "20240131123045.png"), "count from 00001 or 00000"),  # else ten thousand billion frames
        (("cover.png",), "without numbered pictures"),
    ],
)
def test_frame_folders_that_are_refused(folder: Callable[..., Path], numbers: tuple[int | str], message: str) -> None:
    place = folder(*numbers)
    with pytest.raises(VideoError, match=message) as caught, open_video(place):
        pass
    assert caught.value.stage == "open"
    with pytest.raises(VideoError, match=message):
        read_source(place)


def test_a_broken_picture_names_itself(folder: Callable[..., Path]) -> None:
    place = folder(1, 2)
    (place / "00003.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    with open_video(place) as video, pytest.raises(VideoError, match=r"00003\.jpg") as caught:
        reds(list(video.frames))
    assert caught.value.stage == "decode"


def test_a_picture_that_is_no_file_is_refused(folder: Callable[..., Path]) -> None:
    place = folder(1)
    (place / "00002.jpg").symlink_to(place / "gone.jpg")
    with pytest.raises(VideoError, match="cannot be read"), open_video(place):
        pass


def test_digest_covers_names_and_contents(folder: Callable[..., Path], tmp_path: Path) -> None:
    place = folder(1, 2)
    before = read_source(place)
    assert read_source(place) == before
    (place / "00002.png").rename(place / "00003.png")
    after = read_source(place)
    assert after["bytes"] == before["bytes"]
    assert after["sha256"] != before["sha256"]
    blocks: list[int] = []
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    size = read_source(tmp_path / "big", lambda: blocks.append(1))["bytes"]
    assert (size, len(blocks)) == (3 << 20, 3)
