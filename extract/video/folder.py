"""A folder of numbered pictures as a video: ``00001.jpg`` is frame 0, gaps show the nearest earlier picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from extract.video.sources import numbered_files
from extract.video.types import MAX_PIXELS, DecodedFrame, OpenVideo, VideoError, words

DEFAULT_FOLDER_FPS = 30.0
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
            rgb = _read_picture(current)
            video.width, video.height = rgb.shape[1], rgb.shape[0]
        yield DecodedFrame(index, index / fps, lambda file=current: _read_picture(file))  # type: ignore[misc]


def _read_picture(file: Path) -> np.ndarray:
    try:
        with Image.open(file, formats=("JPEG", "PNG", "BMP", "TIFF", "WEBP")) as picture:  # Pillow goes by content
            # Else all but the first would be left out without a word. (Of photos, JPEG, the others are previews.)
            if picture.format in ("TIFF", "WEBP") and getattr(picture, "is_animated", False):
                raise VideoError("decode", f"picture {file.name} holds several pictures; a frame is one")
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise VideoError("decode", f"picture {file.name} says {width}x{height}, more than {MAX_PIXELS} pixels")
            return np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError:
        raise VideoError("decode", f"picture {file.name} cannot be read: neither JPEG nor PNG") from None
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise VideoError("decode", f"picture {file.name} cannot be read: {words(error)}") from None
