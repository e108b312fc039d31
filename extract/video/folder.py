"""A folder of numbered pictures as a video: ``00001.jpg`` is frame 0, gaps show the nearest earlier picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from extract.video.showing import over_black, turn
from extract.video.sources import numbered_files
from extract.video.types import MAX_PIXELS, DecodedFrame, OpenVideo, VideoError, words

LOOKED_AT = 16  # pictures of a folder, at most
DEFAULT_FOLDER_FPS = 30.0
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")  # Pillow goes by content; PSD, EPS and others are none of them
# The first picture of these is the picture by their standard; of others that hold several, nobody says which one.
FIRST_COUNTS = ("JPEG", "MPO", "PNG")
# Orientations of EXIF 2.32, 4.6.4 A, as ``turn`` takes them: degrees clockwise, mirrored before that.
EXIF = {2: (0, True), 3: (180, False), 4: (180, True), 5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False)}
# The size is checked here, by the same bound as for videos; Pillow's own check warns far below it.
Image.MAX_IMAGE_PIXELS = None
# Half a picture is an error, whatever another library of this process has asked of Pillow.
ImageFile.LOAD_TRUNCATED_IMAGES = False


def open_folder(path: Path, fps: float | None) -> OpenVideo:
    """Open a frame folder; 30 frames/s if not told.

    Raises:
        VideoError: see ``numbered_files``; pictures that cannot be read raise while iterating, or in ``rgb``.
    """
    files, fps = numbered_files(path), fps or DEFAULT_FOLDER_FPS
    num_frames = max(files)
    video = OpenVideo(fps, num_frames, f"pillow {Image.__version__} frames", iter(()))
    video.missing_frames = num_frames - len(files)
    video.frames = _read_folder(files, num_frames, fps, video)
    return video


def _read_folder(files: dict[int, Path], num_frames: int, fps: float, video: OpenVideo) -> Iterator[DecodedFrame]:
    current = files[min(files)]
    for index in range(num_frames):
        current = files.get(index + 1, current)
        if index == 0:
            rgb, video.shown = read_picture(current)
            video.width, video.height = rgb.shape[1], rgb.shape[0]
            video.rotation = EXIF.get(video.shown.get("exif", 1), (0, False))[0]
        yield DecodedFrame(index, index / fps, lambda file=current: read_picture(file)[0])  # type: ignore[misc]


def look_at_folder(path: Path) -> dict[str, Any]:
    """``OpenVideo.shown`` of the first picture to which anything is done, among some that are spread over the folder.

    Raises:
        VideoError: see ``numbered_files``; a picture cannot be read.
    """
    files = list(numbered_files(path).values())
    every = -(-len(files) // LOOKED_AT)
    return next((shown for file in files[::every] if (shown := read_picture(file)[1])), {})


def read_picture(file: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A picture as a viewer shows it: uint8 RGB (H, W, 3), and what was done to it (``OpenVideo.shown``).

    Colour profiles and densities ("pixels per inch", which may differ by axis) are ignored.

    Raises:
        VideoError: it cannot be read, or nobody can say how it is to be shown.
    """
    try:
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise VideoError("decode", f"picture {file.name} says {width}x{height}, more than {MAX_PIXELS} pixels")
            if picture.format not in FIRST_COUNTS and (count := getattr(picture, "n_frames", 1)) > 1:
                raise VideoError("decode", f"picture {file.name} holds {count} pictures, expected one per frame")
            picture.load()  # a PNG may have its EXIF at the end
            exif = _orientation(picture)
            rgb, shown = _flatten(picture)
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise VideoError("decode", f"picture {file.name} cannot be read: none of {kinds}") from None
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise VideoError("decode", f"picture {file.name} cannot be read: {words(error)}") from None
    if exif not in EXIF:
        return rgb, shown
    rotation, mirrored = EXIF[exif]
    return turn(rgb, rotation, mirrored), {"exif": exif, **({"mirrored": True} if mirrored else {}), **shown}


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # hostile EXIF fails in many ways, and viewers pass over it
        return 1


def _flatten(picture: Image.Image) -> tuple[np.ndarray, dict[str, Any]]:
    """uint8 RGB (H, W, 3) of a picture of any mode, and what of it was more than that.

    Raises:
        ValueError: its range of values is not stated, or cannot be converted.
    """
    key, shown = picture.info.get("transparency"), {}  # type: Any, dict[str, Any]
    if picture.mode in ("I", "F"):
        kind = "32-bit whole numbers" if picture.mode == "I" else "floating-point numbers"
        raise ValueError(f"its values are {kind}, whose black and white nobody states; store 8 or 16 bits per colour")
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint16)
        gray = (values >> 8).astype(np.uint8)  # the upper byte, as Pillow has it of 16-bit colours
        if isinstance(key, int) and (hidden := values == key).any():
            gray[hidden], shown["alpha"] = 0, True
        return np.repeat(gray[..., None], 3, axis=-1), {"depth": 16, **shown}
    if isinstance(key, tuple) and max(key) > 255:
        raise ValueError(f"it has 16 bits per colour, one of which ({key}) counts as transparent; store it with alpha")
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB")), shown
    rgba = np.asarray(picture.convert("RGBA"))
    if rgba[..., 3].min() == 255:
        return np.ascontiguousarray(rgba[..., :3]), shown
    return over_black(rgba[..., :3], rgba[..., 3]), {"alpha": True}
