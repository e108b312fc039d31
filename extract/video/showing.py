"""What a viewer would see of a stored picture: turned and mirrored, in square pixels, its transparent parts black.

Files say of their pictures how they are to be shown, and players and browsers do it; features are to be those of the
film stored as it is shown. Nothing here knows a decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from extract.video.types import MAX_PIXELS

# Pixels less than a hundredth off a square are square ones, and a rounding of whoever wrote the file; those beyond four
# to one (no format in use goes that far) are not believed. Both are shown as they are stored.
MIN_STRETCH, MAX_STRETCH = 1.01, 4.0


def orientation(matrix: Sequence[int]) -> tuple[int, bool]:
    """The nearest of the eight orientations to a display matrix.

    Args:
        matrix: nine numbers as ISO/IEC 14496-12, 6.2.2 has them: (x, y) is shown at (a x + c y, b x + d y).

    Returns:
        Degrees clockwise (0, 90, 180, 270) and whether the picture is mirrored, left to right, before it is turned.
    """
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
    across, down = math.hypot(a, c) or 1.0, math.hypot(b, d) or 1.0  # a scaling is none of an orientation's
    a, b, c, d = a / across, b / down, c / across, d / down
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.degrees(math.atan2(b - c, a + d)) / 90) * 90 % 360, mirrored


def turn(picture: np.ndarray, rotation: int, mirrored: bool) -> np.ndarray:
    """A picture (H, W, 3) as ``orientation`` says, as an array of its own rows."""
    if mirrored:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(np.rot90(picture, -rotation // 90 % 4))  # np.rot90 turns counter-clockwise


def believed_aspect(stated: Fraction | None) -> Fraction:
    """Width of a pixel by its height, 1 where nothing is stated or what is stated does not count."""
    aspect = stated if stated is not None and stated > 0 else Fraction(1)
    return aspect if MIN_STRETCH <= max(aspect, 1 / aspect) <= MAX_STRETCH else Fraction(1)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Size in square pixels: the axis with too few of them gets more, so that nothing of the picture is lost."""
    if aspect == 1:
        return width, height
    wide = round(width * aspect) if aspect > 1 else width
    high = round(height / aspect) if aspect < 1 else height
    return (wide, high) if wide * high <= MAX_PIXELS else (width, height)


def over_black(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) and (H, W): what is transparent shows black, and never the arbitrary colour stored there."""
    return ((rgb * alpha[..., None].astype(np.uint16) + 127) // 255).astype(np.uint8)
