"""Files and folders of pictures by the names that other tools give them: every one is decoded, or fails by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from extract.video import VideoError, open_video, read_source
from extract.video.reading import FORMATS
from shared.cache import FeatureCache
from shared.manifest import load_manifest
from shared.videos.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from shared.windows import WindowSpec
from tests.extract.support import write_audio, write_video

Cli = Callable[..., Result]
# Endings of the same formats for what is no video: sound, subtitles, pictures.
NO_VIDEOS = frozenset("avif heic heif isma m4a m4b mka mks ra wma".split())  # noqa: SIM905


def pictures(folder: Path, pattern: str, numbers: range) -> Path:
    """Pictures whose red is ten times their place."""
    folder.mkdir(parents=True)
    for place, number in enumerate(numbers):
        Image.new("RGB", (16, 12), (10 * place, 0, 0)).save(folder / (pattern % number))
    return folder


def reds(folder: Path) -> list[int]:
    with open_video(folder) as video:
        return [round(float(frame.rgb()[..., 0].mean()) / 10) for frame in video.frames]


def test_every_format_that_is_opened_is_found_by_its_endings() -> None:
    for name in FORMATS.split(","):
        for mode in ("r", "w"):
            try:
                endings = av.ContainerFormat(name, mode).extensions
            except ValueError:  # it only reads or only writes
                continue
            assert {f".{e}" for e in endings - NO_VIDEOS} <= VIDEO_SUFFIXES, name
    assert not VIDEO_SUFFIXES & IMAGE_SUFFIXES


def test_a_folder_of_recordings_by_odd_endings_is_decoded(tmp_path: Path) -> None:
    for ending, form, codec in (
        ("f4v", "mp4", "mpeg4"),
        ("DIVX", "avi", "mpeg4"),
        ("asf", "asf", "wmv2"),
        ("m2v", "mpeg2video", "mpeg2video"),
        ("gif", "gif", "gif"),
        ("qt", "mov", "mpeg4"),
    ):
        with av.open(str(tmp_path / f"v.{ending}"), "w", format=form) as container:
            kind = "rgb8" if codec == "gif" else "yuv420p"
            stream = container.add_stream(codec, rate=25, width=32, height=32, pix_fmt=kind)
            for value in (0, 90, 180):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    found = load_manifest(tmp_path)
    assert (len(found.videos), found.notes) == (6, ())
    for video in found.videos:
        with open_video(found.local_file(video)) as opened:
            assert len(list(opened.frames)) == 3, video.path


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("%05d.jpg", range(1, 4)),
        ("%05d.jpg", range(3)),
        ("frame_%05d.jpg", range(1, 4)),
        ("frame_%010d.jpg", range(1, 4)),
        ("img_%05d.PNG", range(3)),
        ("image-%03d.png", range(1, 4)),
        ("%05d.bmp", range(1, 4)),
        ("%03d.tif", range(1, 4)),
        ("%05d.webp", range(3)),
        ("shot.v2.%04d.tiff", range(1, 4)),
    ],
)
def test_frames_of_a_folder_count_from_its_first_number(pattern: str, numbers: range, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "f", pattern, numbers)
    assert reds(folder) == [0, 1, 2]
    before = read_source(folder)["sha256"]
    (folder / "notes.txt").touch()
    assert read_source(folder)["sha256"] == before
    (folder / (pattern % (numbers[0] + 1))).unlink()
    assert reds(folder) == [0, 0, 2]  # a gap


def test_plain_numbers_stay_what_they_were(tmp_path: Path) -> None:
    """The digest of a folder that worked before counts its plain JPEG and PNG pictures, whatever lies beside them."""
    folder = pictures(tmp_path / "f", "%05d.jpg", range(1, 4))
    before = read_source(folder)
    for name in ("frame_1.jpg", "frame_2.jpg", "00001.bmp", "v.mp4", "img_0.png"):
        (folder / name).write_bytes(b"x")
    (folder / "sub").mkdir()
    assert read_source(folder) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg"],
            r"found a_\*\.jpg \(2\), b_\*\.jpg \(2\); put each into a folder",
        ),
        (["IMG_20190101_123456.jpg", "IMG_20190101_123501.jpg"], "expected pictures numbered by frame, found 2"),
        (["f_1.jpg", "f_01.jpg"], "two pictures for frame 1"),
        (["f_1.jpg", "f_99999999.jpg"], "one number|count from 00001 or 00000"),
        (["poster_1.jpg", "poster_2.jpg", "v.mp4"], "without numbered pictures"),
    ],
)
def test_pictures_that_are_no_frames_fail_by_name(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(VideoError, match=message), open_video(tmp_path):
        pass


def test_a_picture_that_moves_is_not_one_frame(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "f", "%d.webp", range(1, 2))
    frames = [Image.new("RGB", (16, 12), (value, 0, 0)) for value in (0, 90)]
    frames[0].save(folder / "2.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(VideoError, match=r"2\.webp holds 2 pictures"):
        reds(folder)


def test_the_commands_say_what_a_folder_holds(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    write_video(root / "~v.mp4", 3)
    write_audio(root / "song.mp4")
    (root / "song.mp4").rename(root / "song.ogg")
    (root / "a:b.mp4").write_bytes(b"x")
    (root / "notes.txt").touch()
    (tmp_path / "far").mkdir()
    write_video(tmp_path / "far" / "w.mp4", 3)
    (root / "far").symlink_to(tmp_path / "far")
    told = ("1 .txt (first: notes.txt)", "a:b.mp4: id 'a:b.mp4' has ':'", "lead out of the root: 1 (far)")
    FeatureCache.create("c.zarr", dataset="data", window=WindowSpec())
    plan, status = ("plan", root, "--no-calibrate", "--cache", "c.zarr"), ("status", root, "--cache", "c.zarr")
    for command in (plan, status, ("doctor", "--dataset", root)):
        assert all(words in cli(*command).output for words in told), command
    shown = cli(*plan, "--follow-links").output
    assert ("3 videos: 0 complete, 2 to extract, 1 not readable" in shown, told[2] in shown) == (True, False)
    assert "song.ogg: no video stream (found: audio)" in shown
    assert "far__w.mp4" in cli(*status, "--follow-links").output
