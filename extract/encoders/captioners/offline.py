"""Describes a frame in words measured from its pixels: a captioner that needs no weights and no network.

It stands where MiniGPT-4 stands in the full system and has the same interface, so ``make demo`` and the tests run the
whole text path (caption -> CLIP text encoder -> cache). It knows brightness, warmth, colours, contrast, large regions,
motion and change of light; it does not know what anything *is*.

Sentence template, always in this order, at most 60 words, every word from a fixed vocabulary:

    A {brightness} {warmth} picture, mostly {colour} with {colour}. {texture} background. {layout}.
    {amount} motion {place}, {direction}, {center} center. {light}.

Each caption is computed from its own item alone, so it does not depend on what else is in the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL
from PIL import Image

from extract.config import CaptionerConfig
from extract.encoders.captioners.contract import check_items
from extract.preparation import Squash

SIZE = 64  # pixels per side of a prepared frame
ROWS = 13  # rows of the grid whose median is the usual colour of a row
CELLS = 32  # side of the grid on which regions are found
MIDDLE = np.s_[SIZE // 4 : -SIZE // 4]  # columns
WINDOW = np.hanning(SIZE)[:, None] * np.hanning(SIZE)[None, :]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

BRIGHTNESS = ((45, "very dark"), (80, "dark"), (120, "medium"), (170, "bright"), (256, "very bright"))
WARMTH = ((-0.22, "icy blue"), (-0.07, "cool"), (0.07, "neutral"), (0.22, "warm"), (np.inf, "fiery orange"))
TEXTURE = ((6, "Plain"), (14, "Softly textured"), (24, "Patterned"), (np.inf, "Busy striped"))
AMOUNT = ((2.0, "No"), (8.0, "Slight"), (16.0, "Moderate"), (28.0, "Strong"), (np.inf, "Violent shaking"))
CENTER = ((4.0, "still"), (9.0, "calm"), (17.0, "lively"), (np.inf, "wild"))
LIGHT = (
    (-0.10, "Light dimming fast"),
    (-0.03, "Light dimming"),
    (0.03, "Steady light"),
    (0.10, "Light brightening"),
    (np.inf, "Light flashing brighter"),
)
AREA = ((0.08, "small"), (0.16, "medium"), (0.28, "large"), (np.inf, "huge"))
HUES = ((20, "red"), (45, "orange"), (70, "yellow"), (160, "green"), (200, "cyan"), (260, "blue"), (310, "purple"))


class OfflineCaptioner:
    """Deterministic captions from pixels.

    Attributes:
        name: "offline".
        context: offsets of the frames of one item; the frame two earlier gives the motion.
        batch_size: items per call, as configured; any other number does as well.
        trained: True; it has no weights, so nothing about it is random.
    """

    name = "offline"
    context = (-2, 0)
    trained = True
    preparation = Squash(SIZE, SIZE, Image.Resampling.BOX)

    def __init__(self, config: CaptionerConfig | None = None) -> None:
        self.batch_size = (config or CaptionerConfig()).batch_size

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (64, 64, 3), squashed (aspect ratio not kept) with PIL's box filter."""
        return self.preparation(frame)

    def caption(self, items: np.ndarray) -> list[str]:
        """uint8 (B, 2, 64, 64, 3), earlier frame first -> B captions."""
        check_items(items, len(self.context), SIZE, SIZE)
        return [_describe(earlier.astype(np.float32), now.astype(np.float32)) for earlier, now in items]

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the words."""
        return {
            "captioner": self.name,
            "version": 1,
            "context": list(self.context),
            "size": SIZE,
            "resize": "pillow box, squash",
            "pillow": PIL.__version__,
        }


def _describe(earlier: np.ndarray, now: np.ndarray) -> str:
    """Caption of one item: two float32 RGB frames (64, 64, 3) in [0, 255]."""
    luma_before, luma = earlier @ LUMA, now @ LUMA  # (64, 64)
    red, _, blue = now.mean(axis=(0, 1))
    warmth = float((red - blue) / (red + blue + 1))
    texture = float(np.abs(np.diff(luma, axis=1)).mean() + np.abs(np.diff(luma, axis=0)).mean())
    return (
        f"A {_level(float(luma.mean()), BRIGHTNESS)} {_level(warmth, WARMTH)} picture, {_colours(now)}. "
        f"{_level(texture, TEXTURE)} background. {_layout(now)}. {_motion(luma_before, luma)}. "
        f"{_level(_relative_change(luma_before, luma), LIGHT)}."
    )


def _level(value: float, table: tuple[tuple[float, str], ...]) -> str:
    """The word of the first row whose upper bound exceeds ``value``."""
    return next((word for bound, word in table if value < bound), table[-1][1])


def _relative_change(before: np.ndarray, now: np.ndarray) -> float:
    """Change of the mean luma over the mean luma of both frames, about -2..2."""
    return float(2 * (now.mean() - before.mean()) / (now.mean() + before.mean() + 1))


def _colours(frame: np.ndarray) -> str:
    """Names of the two largest hue groups with their shares, e.g. "mostly blue with some grey"."""
    high, low = frame.max(axis=2), frame.min(axis=2)
    chroma = high - low
    safe = np.maximum(chroma, 1e-6)
    red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
    hue = np.where(
        high == red,
        (green - blue) / safe % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    bounds = np.array([bound for bound, _ in HUES])
    index = np.digitize(hue * 60, bounds) % len(HUES)  # hues beyond purple are red again
    names = [name for _, name in HUES] + ["grey", "black", "white"]
    grey = chroma < 0.16 * high + 8
    index = np.where(grey, len(HUES) + np.where(high < 50, 1, np.where(low > 200, 2, 0)), index)
    shares = np.bincount(index.ravel(), minlength=len(names)) / index.size
    first, second = np.argsort(-shares, kind="stable")[:2]
    lead = "mostly" if shares[first] > 0.6 else "partly"
    if shares[second] < 0.05:
        return f"all {names[first]}"
    return f"{lead} {names[first]} with {'much' if shares[second] > 0.25 else 'some'} {names[second]}"


def _layout(frame: np.ndarray) -> str:
    """Number, size, place and nearness of the large regions that stand out from the background."""
    small = frame.reshape(CELLS, SIZE // CELLS, CELLS, SIZE // CELLS, 3).mean(axis=(1, 3))  # (32, 32, 3)
    luma = small @ LUMA
    tint = small / (luma[..., None] + 20)  # colour without brightness: a wall pattern or a shadow changes it little
    stands_out = (_unusual(tint) > 0.22) | (_unusual(luma[..., None]) > 60)
    regions = [region for region in _regions(_opened(stands_out)) if region.mean() > 0.025]
    regions = sorted(regions, key=lambda region: -int(region.sum()))[:3]
    if not regions:
        return "No shape stands out"
    if len(regions) == 1:
        return f"One {_level(float(regions[0].mean()), AREA)} shape {_place(regions[0])}{_two_tone(small, regions[0])}"
    first, second = sorted(regions[:2], key=lambda region: float(np.nonzero(region)[1].mean()))
    gap = int(np.nonzero(second)[1].min()) - int(np.nonzero(first)[1].max())
    nearness = "touching" if gap <= 1 else ("near each other" if gap <= 5 else "far apart")
    sizes = (
        f"{_level(float(first.mean()), AREA)} {_place(first)} and {_level(float(second.mean()), AREA)} {_place(second)}"
    )
    return f"{'Two' if len(regions) == 2 else 'Several'} shapes {nearness}, {sizes}"


def _unusual(values: np.ndarray) -> np.ndarray:
    """How far each cell of (32, 32, C) is from its surroundings, (32, 32): what is usual in the picture counts as 0."""
    # Row by row, because a room has a wall above a floor: in most rows most cells are background. The median over
    # neighbouring rows overrules the few rows that wide shapes fill, and keeps the edge between wall and floor.
    rows = np.pad(np.median(values, axis=1), ((ROWS // 2, ROWS // 2), (0, 0)), mode="edge")
    usual = np.median(np.lib.stride_tricks.sliding_window_view(rows, ROWS, axis=0), axis=-1)  # (32, C)
    distance = np.abs(values - usual[:, None]).max(axis=2)
    return np.where(distance > 2 * np.median(distance), distance, 0)


def _opened(mask: np.ndarray) -> np.ndarray:
    """Keeps cells whose 3x3 neighbourhood is mostly set: thin stripes of a wall pattern are not shapes."""
    padded = np.pad(mask.astype(np.int8), 1)
    height, width = mask.shape
    votes = sum(padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3))
    return mask & (votes >= 6)


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """4-connected regions of a bool (32, 32) mask as bool masks, in raster order."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        # Each cell takes the largest label among itself and its neighbours until nothing changes.
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce([labels, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        spread = np.where(mask, spread, 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    return [labels == label for label in np.unique(labels) if label]


def _place(region: np.ndarray) -> str:
    return _level(float(np.nonzero(region)[1].mean()) / CELLS, ((0.38, "left"), (0.62, "center"), (2.0, "right")))


def _two_tone(frame: np.ndarray, region: np.ndarray) -> str:
    """Tells whether the left and right parts of one region differ in colour, as two overlapping things do."""
    columns = np.nonzero(region)[1]
    left = np.arange(CELLS)[None, :] < np.median(columns)
    if not (region & left).any() or not (region & ~left).any():
        return ""
    difference = np.abs(frame[region & left].mean(axis=0) - frame[region & ~left].mean(axis=0)).max()
    return ", two colours overlapping" if difference > 30 else ", of one colour"


def _motion(before: np.ndarray, now: np.ndarray) -> str:
    """Amount, place and direction of the change between two luma frames (64, 64), change of light taken out."""
    steady = before * ((now.mean() + 1) / (before.mean() + 1))
    change = np.abs(now - steady)
    amount = _level(float(change.mean()), AMOUNT)
    if amount == "No":
        return "No motion, still"
    shift = _shift(steady, now)
    # Camera motion is taken out before the center is judged, so that a fight differs from a shaken picture.
    moved = np.abs(now - np.roll(steady, shift, axis=(0, 1)))
    inside = min(float(_center(moved).mean()), float(_center(change).mean()))
    middle = float(_center(change).mean())
    share = middle / (middle + float(np.delete(change, MIDDLE, axis=1).mean()) + 1e-6)
    place = _level(share, ((0.40, "at the sides"), (0.60, "everywhere"), (np.inf, "in the center")))
    return f"{amount} motion {place}, {_direction(*shift)}, {_level(inside, CENTER)} center"


def _center(picture: np.ndarray) -> np.ndarray:
    """The middle half of the columns, without the rows and columns that a shift brings in from the other side."""
    return picture[SIZE // 8 : -SIZE // 8, MIDDLE]


def _shift(before: np.ndarray, now: np.ndarray) -> tuple[int, int]:
    """Shift (down, right) in pixels, -32..31, that explains most of the change, by phase correlation."""
    spectrum = np.fft.rfft2((now - now.mean()) * WINDOW) * np.conj(np.fft.rfft2((before - before.mean()) * WINDOW))
    # The square root keeps some weight on strong frequencies; full whitening would follow the noise.
    surface = np.fft.irfft2(spectrum / np.sqrt(np.abs(spectrum) + 1e-6), s=(SIZE, SIZE))
    row, column = divmod(int(np.argmax(surface)), SIZE)
    half = SIZE // 2
    return (row + half) % SIZE - half, (column + half) % SIZE - half


def _direction(down: int, right: int) -> str:
    if down == right == 0:
        return "in place"
    speed = "quickly" if max(abs(down), abs(right)) >= 4 else "slowly"
    way = ("right" if right > 0 else "left") if abs(right) >= abs(down) else ("down" if down > 0 else "up")
    return f"moving {speed} {way}"
