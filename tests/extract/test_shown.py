"""Frames are what a viewer shows: turned, mirrored, in square pixels, over black, of any depth; old caches say so."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import Result

from extract.video import OpenVideo, VideoError, look_at, open_video
from extract.video.showing import orientation
from shared.cache import FeatureCache, VideoInfo
from tests.extract.support import write_video

MATRICES = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0)]
MATRICES += [(0, -1, -1, 0)]
ONE = 1 << 16
Change = Callable[[Any], None]


def picture(width: int = 64, height: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, channels), dtype=np.uint8)


def write(
    path: Path, codec: str, pixels: str, change: Change = lambda stream: None, of: np.ndarray | None = None
) -> Path:
    """Two equal frames."""
    data = picture() if of is None else of
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, width=data.shape[1], height=data.shape[0], pix_fmt=pixels)
        change(stream)
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(data, format="rgba" if data.shape[-1] == 4 else "rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    return path


def first(path: Path) -> tuple[np.ndarray, OpenVideo]:
    with open_video(path) as video:
        frames = [frame.rgb() for frame in video.frames]
    for frame in frames[1:]:
        assert frame.shape == frames[0].shape
    assert frames[0].shape == (video.height, video.width, 3)
    assert look_at(path) == (video.shown, None)
    return frames[0], video


def placed(stored: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """The definition, pixel by pixel: (x, y) is shown at (a x + c y, b x + d y), moved into view."""
    a, b, c, d = matrix
    y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
    across, down = a * x + c * y, b * x + d * y
    shown = np.zeros((int(np.ptp(down)) + 1, int(np.ptp(across)) + 1, 3), np.uint8)
    shown[down - down.min(), across - across.min()] = stored
    return shown


# ------------------------------------------------------------------------------------------------ orientation


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.mp4", "mpeg4", "yuv420p"), ("a.mov", "png", "rgb24")])
def test_a_display_matrix_turns_and_mirrors(
    name: str, codec: str, pixels: str, matrix: tuple[int, int, int, int], tmp_path: Path
) -> None:
    a, b, c, d = (ONE * value for value in matrix)
    path = write(tmp_path / name, codec, pixels, lambda s: s.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30]))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    shown, video = first(path)
    np.testing.assert_array_equal(shown, placed(stored, matrix))
    assert shown.flags.c_contiguous
    mirrored = matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0
    assert video.shown == ({"mirrored": True} if mirrored else {})


@pytest.mark.parametrize("exif", range(1, 9))
def test_pictures_of_a_film_may_carry_their_orientation(exif: int, tmp_path: Path) -> None:
    """Motion JPEG of cameras; FFmpeg makes a display matrix of it, beside data that PyAV does not know."""
    tag, data = Image.Exif(), io.BytesIO()
    tag[0x112] = exif
    Image.fromarray(picture()).save(data, "JPEG", exif=tag)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=64, height=48, pix_fmt="yuvj420p")
        stream.codec_context.open()
        packet = av.Packet(data.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 25)
        container.mux(packet)
    with av.open(str(tmp_path / "a.avi")) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    shown, _ = first(tmp_path / "a.avi")
    upright = ImageOps.exif_transpose(_tagged(stored, tag))
    np.testing.assert_array_equal(shown, np.asarray(upright))


def _tagged(pixels: np.ndarray, tag: Image.Exif) -> Image.Image:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", exif=tag)
    return Image.open(data)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0.99, 0.1, -0.1, 0.99), (0, False)),  # the nearest of eight
        ((-0.1, 2.0, 2.1, 0.1), (270, True)),  # a scaling counts for nothing
        ((0, 0, 0, 0), (0, False)),  # nothing at all
    ],
)
def test_a_matrix_between_the_eight(matrix: tuple[float, ...], expected: tuple[int, bool]) -> None:
    a, b, c, d = (round(ONE * value) for value in matrix)
    assert orientation([a, b, 0, c, d, 0, 0, 0, 1 << 30]) == expected


@pytest.mark.parametrize("kind", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("exif", range(1, 9))
def test_pictures_carry_their_orientation_in_exif(exif: int, kind: str, tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x112] = exif
    stored = tmp_path / f"stored.{kind}"
    Image.fromarray(picture()).save(stored, exif=tag)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "00001.png").write_bytes(stored.read_bytes())
    shown, video = first(tmp_path / "f")
    with Image.open(stored) as whole:
        np.testing.assert_array_equal(shown, np.asarray(ImageOps.exif_transpose(whole)))
    if kind != "tiff":  # Pillow itself turns those
        assert video.shown.get("exif", 1) == exif
        assert video.rotation in ((90, 270) if exif > 4 else (0, 180))


def test_exif_that_is_garbage_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    Image.fromarray(picture()).save(tmp_path / "f" / "00001.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    shown, video = first(tmp_path / "f")
    np.testing.assert_array_equal(shown, picture())
    assert video.shown == {}


# ------------------------------------------------------------------------------------------------ depth and alpha


def folder_of(tmp_path: Path, image: Image.Image | bytes, **options: Any) -> Path:
    place = tmp_path / "f"
    place.mkdir(exist_ok=True)
    if isinstance(image, bytes):
        (place / "00001.png").write_bytes(image)
    else:
        image.save(place / "00001.png", **options)
    return place


def png(depth: int, kind: int, row: bytes, **chunks: bytes) -> bytes:
    """One row of a PNG of Pillow's unusual kinds (colour type ``kind``)."""
    width = 8 * len(row) // depth // {0: 1, 2: 3, 3: 1}[kind]
    parts = {"IHDR": struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0), **chunks}
    parts |= {"IDAT": zlib.compress(b"\x00" + row), "IEND": b""}
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in parts.items():
        data += struct.pack(">I", len(body)) + name.encode() + body
        data += struct.pack(">I", zlib.crc32(name.encode() + body))
    return data


def test_gray_of_16_bits_is_gray(tmp_path: Path) -> None:
    values = np.tile(np.linspace(0, 65535, 64).round().astype(np.uint16), (48, 1))
    shown, video = first(folder_of(tmp_path, Image.fromarray(values)))
    np.testing.assert_array_equal(shown, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1))
    assert video.shown == {"depth": 16}


@pytest.mark.parametrize(("mode", "words"), [("I", "32-bit whole numbers"), ("F", "floating-point numbers")])
def test_values_whose_white_nobody_states_are_refused(mode: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=rf"picture 00001\.png cannot be read: its values are {words}"):
        first(folder_of(tmp_path, Image.new(mode, (8, 6), 300), format="TIFF"))


def test_a_picture_that_holds_several_is_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(picture()), Image.fromarray(picture())]
    with pytest.raises(VideoError, match="holds 2 pictures, expected one per frame"):
        first(folder_of(tmp_path, pages[0], format="TIFF", save_all=True, append_images=pages[1:]))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 51]]], np.uint8)), 3),
        (Image.fromarray(np.array([[[200, 0], [200, 255]]], np.uint8)), 2),
        (png(8, 3, b"\x00\x01", PLTE=bytes([9, 8, 7, 200, 100, 50]), tRNS=b"\x00\xff"), 2),
        (png(8, 0, b"\xf3\x05", tRNS=struct.pack(">H", 0xF3)), 2),
        (png(8, 2, bytes([9, 8, 7, 1, 2, 3]), tRNS=struct.pack(">3H", 9, 8, 7)), 2),
        (png(16, 0, struct.pack(">2H", 0x8012, 0x8013), tRNS=struct.pack(">H", 0x8012)), 2),
        (png(1, 0, b"\xf0", tRNS=struct.pack(">H", 1)), 8),
    ],
    ids=["rgba", "la", "palette", "gray", "rgb", "gray16", "bit"],
)
def test_what_is_transparent_shows_black(image: Any, expected: int, tmp_path: Path) -> None:
    shown, video = first(folder_of(tmp_path, image))
    assert shown.shape == (1, expected, 3)
    assert shown[0, 0].tolist() == [0, 0, 0]
    assert video.shown["alpha"] is True
    if expected == 3:
        assert shown[0, 1:].tolist() == [[200, 100, 50], [40, 20, 10]]


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    row = struct.pack(">6H", 0x8080, 0x1234, 1, 2, 3, 4)
    with pytest.raises(VideoError, match="counts as transparent"):
        first(folder_of(tmp_path, png(16, 2, row, tRNS=row[:6])))


def test_alpha_that_is_opaque_changes_nothing(tmp_path: Path) -> None:
    shown, video = first(folder_of(tmp_path, Image.fromarray(picture()).convert("RGBA")))
    np.testing.assert_array_equal(shown, picture())
    assert video.shown == {}


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "bgra")])
def test_videos_with_alpha_are_shown_over_black(name: str, codec: str, pixels: str, tmp_path: Path) -> None:
    data = picture(channels=4)
    data[..., 3] = 255
    shown, video = first(write(tmp_path / name, codec, pixels, of=data))
    np.testing.assert_array_equal(shown, data[..., :3])
    assert video.shown == {}
    data[:24, :, 3] = 0
    shown, video = first(write(tmp_path / name, codec, pixels, of=data))
    assert not shown[:24].any()
    np.testing.assert_array_equal(shown[24:], data[24:, :, :3])
    assert video.shown == {"alpha": True}


def test_a_fourth_byte_that_nobody_wrote_is_no_alpha(tmp_path: Path) -> None:
    data = picture(channels=4)
    data[..., 3] = 0
    shown, _ = first(write(tmp_path / "a.avi", "rawvideo", "bgra", of=data))
    np.testing.assert_array_equal(shown, data[..., :3])


@pytest.mark.parametrize("pixels", ["gray16le", "gbrp12le"])
def test_videos_beyond_8_bits_keep_their_range(pixels: str, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8)[:, None], (48, 1, 3))
    shown, _ = first(write(tmp_path / "a.mkv", "ffv1", pixels, of=ramp))
    assert np.abs(shown.astype(int) - ramp).max() <= 1


# ------------------------------------------------------------------------------------------------ shape of pixels


def shaped(ratio: str) -> Change:
    def change(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(ratio)

    return change


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ("16/11", (93, 48)),
        ("1/2", (64, 96)),
        ("200/199", (64, 48)),  # a rounding
        ("50/1", (64, 48)),  # not believed
    ],
)
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.ts", "libx264")])
def test_pixels_are_shown_square(name: str, codec: str, ratio: str, size: tuple[int, int], tmp_path: Path) -> None:
    plain, _ = first(write(tmp_path / f"plain-{name}", codec, "yuv420p"))
    shown, video = first(write(tmp_path / name, codec, "yuv420p", shaped(ratio)))
    assert (video.width, video.height) == size
    if size == (64, 48):
        np.testing.assert_array_equal(shown, plain)
        assert video.shown == {}
    else:
        assert video.shown == {"pixel_aspect": ratio.replace("/", ":")}
        means = (picture.reshape(-1, 3).mean(axis=0) for picture in (shown, plain))
        np.testing.assert_allclose(*means, atol=2)


def test_pixels_are_made_square_before_the_picture_is_turned(tmp_path: Path) -> None:
    def change(stream: Any) -> None:
        shaped("2/1")(stream)
        stream.set_display_rotation(90)

    _, video = first(write(tmp_path / "a.mp4", "mpeg4", "yuv420p", change))
    assert (video.width, video.height, video.rotation) == (48, 128, 270)


def test_a_stream_may_change_the_shape_of_its_pixels(tmp_path: Path) -> None:
    """Broadcasters do, from one key frame to the next; the frames shown before it keep theirs."""
    with av.open(str(tmp_path / "a.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for part, ratio in enumerate(("1/1", "4/3")):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
            encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
            encoder.sample_aspect_ratio = Fraction(ratio)
            frames = [av.VideoFrame.from_ndarray(picture()).reformat(format="yuv420p") for _ in range(12)]
            for packet in [p for frame in [*frames, None] for p in encoder.encode(frame)]:
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts, packet.dts = packet.pts + 12 * part, packet.dts + 12 * part
                container.mux(packet)
    with open_video(tmp_path / "a.ts") as video:
        assert [frame.rgb().shape[1] for frame in video.frames] == 12 * [64] + 12 * [85]


# ------------------------------------------------------------------------------------------------ old caches


def test_only_those_videos_of_an_old_cache_are_refused_that_were_shown_otherwise(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    write_video(root / "plain.mp4", 20)
    write(
        root / "mirrored.mp4",
        "mpeg4",
        "yuv420p",
        lambda s: s.set_display_matrix([-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30]),
    )
    _drop_packets(write_video(tmp_path / "whole.mkv", 40), root / "late.mkv", 5)
    Image.fromarray(picture()).save(_made(root / "frames") / "00001.png")
    words = ("run", str(root), "--preset", "tiny", "--cache", "old.zarr", "--streams")
    write_info = FeatureCache.write_info

    def write_as_before(cache: FeatureCache, video: str, info: VideoInfo) -> None:
        late = 1.0 if video == "late.mkv" else 0.0
        write_info(cache, video, replace(info, shown=None, leading=0, pts=info.pts - late))

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "write_info", write_as_before)
        assert cli(*words, "image").exit_code == 0
    info = FeatureCache.open("old.zarr").info("plain.mp4")
    assert info is not None
    assert "shown" not in info.attrs()

    for streams in ("image", "image,text"):
        refused = cli(*words, streams)
        assert refused.exit_code == 2, refused.output
        assert "Found so far: 2 (late.mkv, mirrored.mp4)" in refused.output
        assert "first frame, in seconds: cache has" in refused.output
        assert "--overwrite all" in refused.output
    again = cli(*words, "image", "--overwrite", "all")
    assert (again.exit_code, "2 to do" in again.output) == (0, True), again.output
    info = FeatureCache.open("old.zarr").info("mirrored.mp4")
    assert info is not None
    assert info.shown == {"mirrored": True}
    done = cli(*words, "image,text")
    assert (done.exit_code, "4 to do" in done.output) == (0, True), done.output


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _drop_packets(whole: Path, cut: Path, count: int) -> None:
    """A copy without the first packets."""
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number >= count and packet.size:
                packet.stream = stream
                target.mux(packet)
