"""The offline captioner says what the pixels show, the same way every time, whatever else is in the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from extract.encoders.captioners.offline import SIZE, OfflineCaptioner

CAPTIONER = OfflineCaptioner()


def paint(background: tuple[int, int, int], *discs: tuple[int, int, int, tuple[int, int, int]]) -> np.ndarray:
    """uint8 (64, 64, 3) frame with discs (x, y, radius, colour)."""
    image = Image.new("RGB", (SIZE, SIZE), background)
    pen = ImageDraw.Draw(image)
    for x, y, radius, colour in discs:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)


def caption(earlier: np.ndarray, now: np.ndarray | None = None) -> str:
    return CAPTIONER.caption(np.stack([earlier, earlier if now is None else now])[None])[0]


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Items of very different frames: uint8 (24, 2, 64, 64, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 2, 8, 8, 3), np.uint8).repeat(8, 2).repeat(8, 3)
    coarse[::3] = rng.integers(0, 256, coarse[::3].shape, np.uint8)
    coarse[1] = 0
    coarse[2] = 255
    return coarse


def test_prepare_squashes_any_frame() -> None:
    frame = np.zeros((120, 333, 3), np.uint8)
    frame[:, 200:] = 255
    prepared = CAPTIONER.prepare(frame)
    assert prepared.shape == (SIZE, SIZE, 3)
    assert prepared.dtype == np.uint8
    assert prepared[:, 0].max() == 0
    assert prepared[:, -1].min() == 255


def test_a_caption_depends_on_its_own_item_only(noise: np.ndarray) -> None:
    together = CAPTIONER.caption(noise)
    assert together == [CAPTIONER.caption(item[None])[0] for item in noise]
    assert together == CAPTIONER.caption(noise[::-1])[::-1]
    assert together == OfflineCaptioner().caption(noise.copy())
    assert len(set(together)) > 5


def test_captions_are_short_enough_for_clip(noise: np.ndarray) -> None:
    open_clip = pytest.importorskip("open_clip")
    captions = CAPTIONER.caption(noise)
    tokens = open_clip.get_tokenizer("ViT-B-32")(captions, context_length=200)
    assert int((tokens != 0).sum(1).max()) < 77
    assert max(len(text.split()) for text in captions) <= 60


@pytest.mark.parametrize(
    ("colour", "word"),
    [
        ((230, 230, 230), "very bright"),
        ((20, 20, 20), "very dark"),
        ((220, 30, 20), "red"),
        ((20, 40, 220), "blue"),
        ((30, 180, 40), "green"),
        ((200, 140, 70), "fiery orange"),
        ((70, 120, 200), "icy blue"),
        ((110, 110, 110), "neutral"),
    ],
)
def test_light_and_colour_words(colour: tuple[int, int, int], word: str) -> None:
    assert word in caption(paint(colour))


def test_texture_words() -> None:
    stripes = np.zeros((SIZE, SIZE, 3), np.uint8)
    stripes[:, np.arange(SIZE) // 2 % 2 == 0] = 200
    assert "Busy striped background" in caption(stripes)
    assert "Plain background" in caption(paint((90, 90, 90)))


def test_layout_words() -> None:
    red, green, grey = (200, 40, 40), (40, 170, 60), (120, 120, 120)
    assert "No shape stands out" in caption(paint(grey))
    assert "Two shapes far apart" in caption(paint(grey, (14, 32, 10, red), (50, 32, 10, green)))
    assert "One medium shape left, of one colour" in caption(paint(grey, (16, 32, 13, red)))
    clinch = caption(paint(grey, (25, 32, 12, red), (40, 32, 12, green)))
    assert "shape center, two colours overlapping" in clinch
    assert clinch != caption(paint(grey, (32, 32, 14, red)))


@pytest.mark.parametrize(("shift", "word"), [((0, 5), "right"), ((0, -5), "left"), ((5, 0), "down"), ((-5, 0), "up")])
def test_direction_of_motion(shift: tuple[int, int], word: str) -> None:
    texture = np.random.default_rng(1).integers(40, 200, (16, 16, 3), np.uint8)
    before = np.asarray(Image.fromarray(texture).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    now = np.roll(before, shift, axis=(0, 1))
    assert f"moving quickly {word}" in caption(before, now)


def test_amount_of_motion_and_change_of_light() -> None:
    texture = np.random.default_rng(2).integers(40, 200, (8, 8, 3), np.uint8)
    frame = np.asarray(Image.fromarray(texture).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert "No motion, still. Steady light" in caption(frame)
    assert "Violent shaking motion" in caption(frame, np.roll(frame, (9, 13), axis=(0, 1)))
    dimmed = (frame * 0.7).astype(np.uint8)
    assert "No motion, still. Light dimming fast" in caption(frame, dimmed)  # a lamp is not a motion
    assert "Light flashing brighter" in caption(dimmed, frame)


def test_motion_in_the_center_differs_from_motion_everywhere() -> None:
    rng = np.random.default_rng(3)
    before = np.full((SIZE, SIZE, 3), 120, np.uint8)
    now = before.copy()
    before[16:48, 24:40], now[16:48, 24:40] = rng.integers(0, 255, (2, 32, 16, 3))
    assert "motion in the center" in caption(before, now)
    assert "wild center" in caption(before, now)


def test_wrong_items_are_refused() -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        CAPTIONER.caption(np.zeros((1, 1, SIZE, SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        CAPTIONER.caption(np.zeros((1, 2, SIZE, SIZE, 3), np.float32))
    assert CAPTIONER.caption(np.zeros((0, 2, SIZE, SIZE, 3), np.uint8)) == []


def test_recipe_is_plain_json() -> None:
    recipe = CAPTIONER.recipe()
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["captioner"] == "offline"
    assert recipe["context"] == [-2, 0]
