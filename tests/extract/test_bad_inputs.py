"""Hostile data sets: what cannot be used is a row in the ledger, everything beside it is complete."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from extract.faults.ledger import FailureLedger
from shared.cache import FeatureCache
from tests.extract.fuzz_seeds import write_resized
from tests.extract.support import BROKEN, LONG, SHARED_VIDEOS, needs_shared_videos, write_audio, write_video

Cli = Callable[..., Result]


def table(path: Path, files: list[str]) -> Path:
    """A CSV data set with plain ids, whatever the files are called."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "id"), *((name, f"v{n:02d}") for n, name in enumerate(files))])
    return path


def frame_folder(path: Path, names: list[str]) -> None:
    path.mkdir()
    for n, name in enumerate(names):
        Image.new("RGB", (40, 30), (n, 90, 20)).save(path / name)


def without_frames(path: Path) -> None:
    """A container that announces a video track and has no packet of it."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=30, width=64, height=48, pix_fmt="yuv420p")
        stream.codec_context.open()
        container.start_encoding()


def cover_picture(path: Path) -> None:
    """Sound with a cover picture, which containers store as a video track of one frame."""
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1, width=32, height=32, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode(None))
        for start in range(0, 8000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def make_all(root: Path) -> dict[str, str | None]:
    """Files of every kind -> a piece of the message that the ledger has to hold, None for those that work."""
    (root / "text.mp4").write_text("this is not a video\n" * 50)
    (root / "empty.mp4").write_bytes(b"")
    (root / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1\n/etc/passwd\n")
    write_audio(root / "audio.mp4")
    cover_picture(root / "cover.mp4")
    without_frames(root / "zero.mkv")
    os.mkfifo(root / "fifo.mp4")
    (root / "dangling.mp4").symlink_to("nowhere.mp4")
    (root / "circle.mp4").symlink_to("circle.mp4")
    (root / "no_pictures").mkdir()
    (root / "no_pictures" / "readme.txt").write_text("empty")
    frame_folder(root / "zeroth", ["00000.jpg", "00001.jpg"])
    frame_folder(root / "twice", ["1.jpg", "00001.jpg"])
    frame_folder(root / "broken_picture", [f"{n:05d}.jpg" for n in range(1, 70)])
    (root / "broken_picture" / "00035.jpg").write_bytes(b"\xff\xd8\xff\xe0 and nothing more")
    frame_folder(root / "gaps", [f"{n:05d}.jpg" for n in range(2, 80, 3)])
    write_video(root / "one.mp4", 1)
    write_resized(root / "resized.ts")
    frame_folder(root / "sizes", ["00001.jpg", "00003.jpg"])
    Image.new("RGB", (70, 50)).save(root / "sizes" / "00002.png")
    for name in ("a b.mp4", "-dash.mp4", 'quo"te.mp4', "ünïcode ✓.mp4", "12:30.mp4", "[bold]markup.mp4"):
        write_video(root / name, 20)
    return {
        "text.mp4": "not a video",
        "empty.mp4": "not a video: the file is empty",
        "playlist.mp4": "not a video",
        "audio.mp4": "no video stream (found: audio)",
        "cover.mp4": "no video stream (found: audio, cover picture)",
        "zero.mkv": "",
        "fifo.mp4": "special file",
        "dangling.mp4": "cannot be read: No such file",
        "circle.mp4": "cannot be read: Too many levels",
        "no_pictures": "without numbered pictures",
        "zeroth": None,
        "twice": "two pictures for frame 1",
        "broken_picture": "picture 00035.jpg cannot be read",
        "gaps": None,
        "one.mp4": None,
        "resized.ts": None,
        "sizes": None,
        **dict.fromkeys(("a b.mp4", "-dash.mp4", 'quo"te.mp4', "ünïcode ✓.mp4", "12:30.mp4"), None),
        "[bold]markup.mp4": None,
    }


def test_every_kind_of_bad_input_is_a_row_and_the_rest_is_complete(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    expected = make_all(root)
    if os.geteuid() != 0:
        (root / "locked.mp4").write_bytes(b"x")
        (root / "locked.mp4").chmod(0)
        expected["locked.mp4"] = "cannot be read"
    files = list(expected)
    result = cli("run", table(root / "all.csv", files), "--preset", "tiny", "--streams", "image", "--cache", "x.zarr")
    assert result.exit_code == 1, result.output
    failures = FailureLedger("x.zarr").failures()
    cache = FeatureCache.open("x.zarr")
    for number, name in enumerate(files):
        video, why = f"v{number:02d}", expected[name]
        if why is None:
            assert video not in failures, failures[video]
            assert set(cache.streams(video)) == {"image"}
        else:
            assert why in failures[video].message
            assert failures[video].path == name
            assert f"{name}: {failures[video].stage}: {failures[video].message}" in result.output
    assert cache.group_ids() == cache.video_ids()
    gaps = cache.info(f"v{files.index('gaps'):02d}")
    assert gaps is not None
    assert (gaps.num_frames, gaps.missing_frames, gaps.width, gaps.height) == (77, 51, 40, 30)


def test_a_file_that_vanishes_after_the_manifest_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from extract.video import VideoError, open_video, read_source

    for use in (lambda: read_source(tmp_path / "gone.mp4"), lambda: open_video(tmp_path / "gone.mp4").__enter__()):
        with pytest.raises(VideoError, match="No such file"):
            use()


def test_a_truncated_video_is_taken_when_asked_and_named_ever_after(cli: Cli, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", 70)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: int(0.95 * whole.stat().st_size)])
    source = table(tmp_path / "all.csv", ["whole.mkv", "cut.mkv"])
    options = (source, "--preset", "tiny", "--cache", "x.zarr")
    refused = cli("run", *options, "--streams", "image")
    assert refused.exit_code == 1
    assert "cut.mkv: decode: truncated: " in refused.output
    assert FeatureCache.open("x.zarr").info("v01") is None

    taken = cli("run", *options, "--streams", "image", "--include-truncated")
    assert taken.exit_code == 0, taken.output
    info = FeatureCache.open("x.zarr").info("v01")
    assert info is not None
    assert 40 < info.num_frames < 70
    assert info.truncated == {"decoded": info.num_frames, "promised": 0}
    words = f"1 videos end early and are taken as far as they go: cut.mkv ({info.num_frames} of unknown frames)"
    assert words in taken.output
    assert words in cli("status", source, "--cache", "x.zarr").output
    # A stream that is added later follows the others, asked or not.
    later = cli("run", *options, "--streams", "image,text")
    assert later.exit_code == 0, later.output
    assert words in later.output
    assert set(FeatureCache.open("x.zarr").streams("v01")) == {"image", "text"}
    assert cli("verify", "x.zarr").exit_code == 0
    whole_info = FeatureCache.open("x.zarr").info("v00")
    assert whole_info is not None
    assert whole_info.truncated is None
    assert "truncated" not in whole_info.attrs()  # caches of before stay as they are


@needs_shared_videos
def test_the_shared_videos_as_one_data_set(cli: Cli, tmp_path: Path) -> None:
    suffixes = {".mp4", ".mov", ".webm", ".mkv", ".ts", ".avi", ".3gp"}
    files = sorted(p.relative_to(SHARED_VIDEOS).as_posix() for p in SHARED_VIDEOS.rglob("*") if p.suffix in suffixes)
    files = [f for f in files if f not in LONG]
    source = table(tmp_path / "all.csv", files)
    result = cli("run", source, "--root", SHARED_VIDEOS, "--preset", "tiny", "--cache", "x.zarr")
    assert result.exit_code == 1, result.output
    assert {f.path for f in FailureLedger("x.zarr").failures().values()} == set(BROKEN)
    cache = FeatureCache.open("x.zarr")
    assert len(cache.video_ids()) == len(files) - len(BROKEN)
    for video in cache.video_ids():
        info = cache.info(video)
        assert info is not None
        plan = cache.window.plan(info.num_frames)
        for stream in ("video", "image", "text"):
            rows = cache.read(video, stream).window_rows(plan, stream)
            assert rows.shape == (len(plan), cache.window.samples[stream])
    assert cli("verify", "x.zarr").exit_code == 0
    assert (
        f"{len(files) - 2}/{len(files)} videos complete"
        in cli("status", source, "--root", SHARED_VIDEOS, "--cache", "x.zarr").output
    )
