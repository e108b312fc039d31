"""How a frame of the demo data set is drawn: stage, camera, light, figures.

Axes: F frames of a video, H height, W width. Only numpy and PIL, so that a worker process starts fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from extract.demo_story import DANCE, FIGHT, HUG, Story

CANVAS_SCALE = 1.5  # background canvas over frame size: the room in which the camera drifts and shakes
FOCUS_Y = 0.8  # height of the point that stays in place when the camera zooms
DUST = (226, 218, 200)
SUPERSAMPLE = 2  # figures are drawn this much larger and reduced, for smooth edges


@dataclass(frozen=True)
class Motion:
    """What moves in each frame; positions are shares of the frame, one float32 row per frame.

    Attributes:
        light: (F, 3) factor on the RGB channels.
        camera: (F, 3) x shift, y shift, zoom.
        busy: (F,) contrast of the wall pattern in [0, 1].
        x, y: (F, 2) foot points of the two figures.
        size: (F, 2) heights of the figures over the frame height.
        glow: (F, 2) brightness factor of the figures.
        swing: (F, 2) angle of the limbs in radians.
        dust: (F, 2) size of the dust cloud at the feet in 0..1; fast figures raise dust.
    """

    light: np.ndarray
    camera: np.ndarray
    busy: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    glow: np.ndarray
    swing: np.ndarray
    dust: np.ndarray


def _waves(rate: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """``num`` oscillations float64 (F, num) in [-1, 1] at ``rate`` (F,) cycles per frame, with uneven tempo."""
    tempo = rng.uniform(0.75, 1.25, (1, num)) * (1 + 0.3 * rng.uniform(-1, 1, (len(rate), num)))
    return np.sin(2 * np.pi * (np.cumsum(rate[:, None] * tempo, axis=0) + rng.random((1, num))))


def _smooth(values: np.ndarray, frames: int) -> np.ndarray:
    """Box mean over ``frames`` frames with held ends, (F,) -> (F,)."""
    padded = np.pad(values.astype(np.float64), (frames // 2, frames - 1 - frames // 2), mode="edge")
    return np.convolve(padded, np.full(frames, 1 / frames), mode="valid")


def choreograph(story: Story, rng: np.random.Generator) -> Motion:
    """Turns the latent processes of a story into light, camera and figure motion."""
    num_frames = story.num_frames
    excitement = (story.arousal.astype(np.float64) + 1) / 2  # 0..1
    # Rate and amplitude rise together: still frames look alike, only their differences tell.
    pulse = _waves(0.015 + 0.10 * excitement, 4, rng) * (0.03 + 0.97 * excitement[:, None])  # (F, 4)
    warmth = story.valence[:, None] * np.array([0.28, 0.03, -0.32])
    exposure = rng.uniform(0.80, 1.0)
    light = exposure * np.exp(warmth) * (1 + 0.20 * pulse[:, :1])
    close = _smooth(np.isin(story.activity, (HUG, FIGHT)), 9)[:, None]  # figures need some frames to meet or part
    fast = _smooth(np.isin(story.activity, (DANCE, FIGHT)), 5)[:, None]
    push = 1 + 0.55 * close  # the camera moves in when the figures meet
    drift = np.cumsum(rng.normal(0, 0.0015, (num_frames, 2)), axis=0)
    camera = np.concatenate(
        [np.clip(drift, -0.05, 0.05) + 0.05 * pulse[:, 1:3], push * (1 + 0.04 * pulse[:, 3:])], axis=1
    )
    busy = np.clip(0.15 + 0.55 * excitement + rng.uniform(-0.12, 0.12), 0, 1)
    vigour = 0.06 + 0.94 * fast
    beat = _waves(np.where(fast[:, 0] > 0.5, 0.11, 0.012), 8, rng).reshape(num_frames, 4, 2)  # (F, 4, 2)
    # Size and glow of the pair rise and fall mostly together; in antiphase the mean over the picture would not change.
    beat[:, 2:, 1] = 0.8 * beat[:, 2:, 0] + 0.2 * beat[:, 2:, 1]
    gap = (1 - close) * rng.uniform(0.25, 0.29) + close * rng.uniform(0.06, 0.08)
    side = np.array([[-1.0, 1.0]])
    middle = 0.5 + np.clip(np.cumsum(rng.normal(0, 0.003, (num_frames, 1)), axis=0), -0.06, 0.06)
    return Motion(
        light=light.astype(np.float32),
        camera=camera,
        busy=busy,
        x=middle + side * gap + 0.035 * vigour * beat[:, 0],
        y=rng.uniform(0.88, 0.94) + 0.03 * vigour * beat[:, 1],
        size=rng.uniform(0.50, 0.56, (1, 2)) * (1 + 0.24 * vigour * beat[:, 2]),
        glow=1 + 0.55 * vigour * beat[:, 3],
        swing=0.9 * vigour * beat[:, 1],
        dust=fast * (0.8 + 0.2 * beat[:, 0]),
    )


@dataclass(frozen=True)
class Stage:
    """The look of a scene at one frame size: two background canvases, ``CANVAS_SCALE`` times the frame.

    Attributes:
        plain: RGB image of wall and floor.
        busy: the same with the wall pattern at full contrast.
        vignette: float32 (H, W, 1), the lamp's fall-off.
    """

    plain: Image.Image
    busy: Image.Image
    vignette: np.ndarray


def build_stage(story: Story) -> Stage:
    """Background of a story's scene; equal for all videos of the scene but for the size."""
    rng = np.random.default_rng(np.random.SeedSequence([story.seed, story.scene, 2**31]))
    width, height = round(story.width * CANVAS_SCALE), round(story.height * CANVAS_SCALE)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / height, x / height  # one unit in both directions, so that patterns keep their shape
    grey = rng.uniform(105, 150)
    wall = grey + rng.uniform(-16, 16, 3)
    floor = grey * rng.uniform(0.55, 0.75) + rng.uniform(-12, 12, 3)
    horizon = rng.uniform(0.60, 0.68)
    base = np.where((y < horizon)[..., None], wall, floor * (0.8 + 0.6 * (y - horizon)[..., None]))
    pattern = _pattern(story.scene, x, y, rng)
    pattern *= np.where(y < horizon, 1.0, 0.35)
    plain = base + 10 * pattern[..., None]
    busy = base + 75 * pattern[..., None]
    row, column = np.mgrid[-1 : 1 : story.height * 1j, -1 : 1 : story.width * 1j]
    lamp = rng.uniform(-0.4, 0.4)
    vignette = 1.08 - 0.22 * ((column - lamp) ** 2 + row**2) / 2
    return Stage(_to_image(plain), _to_image(busy), vignette[..., None].astype(np.float32))


def _pattern(scene: int, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wall pattern of a scene, float (H, W) in [-1, 1]: neighbouring scenes have different kinds."""
    frequency, angle = rng.uniform(9, 14), rng.uniform(0, np.pi)
    u = frequency * (x * np.cos(angle) + y * np.sin(angle))
    v = frequency * (y * np.cos(angle) - x * np.sin(angle))
    match scene % 5:
        case 0:  # stripes
            return np.sign(np.sin(2 * np.pi * u))
        case 1:  # checks
            return np.sign(np.sin(np.pi * u) * np.sin(np.pi * v))
        case 2:  # bricks
            row = np.floor(frequency * y)
            joint = np.minimum((frequency * y) % 1, ((frequency * x / 2 + row / 2) % 1) * 2)
            return np.where(joint < 0.22, -1.0, 0.25)
        case 3:  # dots
            return np.where((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1, 1.0, -0.4)
        case _:  # waves
            return np.sin(2 * np.pi * (u + 0.35 * np.sin(2 * np.pi * v * 0.5)))


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def render_frames(story: Story) -> Iterator[np.ndarray]:
    """Yields the frames of a story, uint8 RGB (H, W, 3); the same on every call."""
    rng = np.random.default_rng(np.random.SeedSequence([story.seed, story.scene, story.index, 1]))
    stage = build_stage(story)
    motion = choreograph(story, rng)
    clothes = rng.permutation([[190, 60, 60], [60, 150, 70], [70, 80, 190], [200, 170, 50], [150, 60, 160]])[:2]
    clothes = clothes + rng.uniform(-20, 20, (2, 3))
    blobs = _passing_blobs(story.num_frames, rng)
    shape = (story.height, story.width, 3)
    grain = rng.normal(0, rng.uniform(2, 6), (2 * story.height, story.width, 3)).astype(np.float32)
    front = rng.integers(2)
    for t in range(story.num_frames):
        image = _background(stage, motion.camera[t], float(motion.busy[t]), shape)
        figures = _draw_figures(
            motion, t, clothes + story.valence[t] * np.array([30, 0, -30]), int(front), blobs, shape
        )
        image.paste(figures, (0, 0), figures)
        pixels = np.asarray(image, np.float32) * (stage.vignette * motion.light[t])
        offset = rng.integers(story.height)
        pixels += grain[offset : offset + story.height]
        yield np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _background(stage: Stage, camera: np.ndarray, busy: float, shape: tuple[int, ...]) -> Image.Image:
    """The part of the canvas that the camera (x shift, y shift, zoom) sees, as an RGB image of ``shape``."""
    height, width, _ = shape
    shift_x, shift_y, zoom = (float(value) for value in camera)
    canvas_width, canvas_height = stage.plain.size
    center_x = canvas_width / 2 + shift_x * width
    center_y = canvas_height / 2 + (shift_y + (FOCUS_Y - 0.5) * (1 - 1 / zoom)) * height
    box = (
        max(center_x - width / zoom / 2, 0.0),
        max(center_y - height / zoom / 2, 0.0),
        min(center_x + width / zoom / 2, canvas_width),
        min(center_y + height / zoom / 2, canvas_height),
    )
    return Image.blend(stage.plain, stage.busy, busy).resize((width, height), Image.Resampling.BILINEAR, box)


def _passing_blobs(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Distractors that cross the picture slowly at random times: (2, F, 6) of x, y, radius and colour."""
    blobs = np.zeros((2, num_frames, 6))
    for blob in blobs:
        start, duration = rng.uniform(-0.3, 0.9) * num_frames, rng.uniform(60, 160)
        across = (np.arange(num_frames) - start) / duration * 1.4 - 0.2
        blob[:, 0] = across if rng.integers(2) else 1 - across
        blob[:, 1] = rng.uniform(0.1, 0.3)
        blob[:, 2] = rng.uniform(0.05, 0.08)
        blob[:, 3:] = rng.uniform(60, 200, 3)
    return blobs


def _draw_figures(
    motion: Motion, t: int, clothes: np.ndarray, front: int, blobs: np.ndarray, shape: tuple[int, ...]
) -> Image.Image:
    """RGBA layer with the distractors and both figures of frame ``t``; the camera moves them like the background."""
    height, width = shape[0] * SUPERSAMPLE, shape[1] * SUPERSAMPLE
    layer = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(layer)
    shift_x, shift_y, zoom = motion.camera[t]

    def place(x: float, y: float) -> tuple[float, float]:
        return (0.5 + (x - 0.5 - shift_x) * zoom) * width, (FOCUS_Y + (y - FOCUS_Y - shift_y) * zoom) * height

    for x, y, radius, *colour in blobs[:, t]:
        (cx, cy), r = place(x, y), radius * zoom * height
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(*_tone(np.array(colour), 1.0), 200))
    for who in (1 - front, front):
        foot = place(float(motion.x[t, who]), float(motion.y[t, who]))
        size = float(motion.size[t, who]) * zoom * height
        colour = clothes[who] * float(motion.glow[t, who])
        _draw_figure(pen, foot, size, float(motion.swing[t, who]), 1 if who == 0 else -1, colour)
    for who in range(2):
        foot = place(float(motion.x[t, who]), float(motion.y[t, who]))
        _draw_dust(pen, foot, float(motion.dust[t, who]) * zoom * height, float(motion.swing[t, who]))
    return layer.reduce(SUPERSAMPLE)


def _draw_figure(
    pen: ImageDraw.ImageDraw, foot: tuple[float, float], size: float, swing: float, facing: int, colour: np.ndarray
) -> None:
    """A stout puppet of height ``size`` pixels that stands at ``foot`` and faces right (1) or left (-1)."""
    x, y = foot
    body, dark, skin = _tone(colour, 1.0), _tone(colour, 0.6), _tone(0.35 * colour + 120, 1.0)
    lean = x + 0.10 * size * np.sin(swing) * facing
    pen.ellipse((x - 0.30 * size, y - 0.05 * size, x + 0.30 * size, y + 0.05 * size), fill=(20, 20, 24, 140))
    for side in (-1, 1):
        hip, toe = (lean + side * 0.09 * size, y - 0.30 * size), (x + side * (0.13 + 0.06 * swing) * size, y)
        pen.line((*hip, *toe), fill=(*dark, 255), width=round(0.13 * size))
    _limb(pen, (lean - facing * 0.12 * size, y - 0.62 * size), 0.9 - swing, -facing, size, dark)
    box = (lean - 0.21 * size, y - 0.76 * size, lean + 0.21 * size, y - 0.20 * size)
    pen.rounded_rectangle(box, radius=0.18 * size, fill=(*body, 255))
    head = 0.145 * size
    pen.ellipse((lean - head, y - 0.86 * size - head, lean + head, y - 0.86 * size + head), fill=(*skin, 255))
    eye_x, eye_y, eye = lean + facing * 0.07 * size, y - 0.88 * size, 0.025 * size
    pen.ellipse((eye_x - eye, eye_y - eye, eye_x + eye, eye_y + eye), fill=(25, 25, 30, 255))
    _limb(pen, (lean + facing * 0.10 * size, y - 0.62 * size), 0.9 + swing, facing, size, dark)


def _draw_dust(pen: ImageDraw.ImageDraw, foot: tuple[float, float], size: float, swing: float) -> None:
    """A cloud of pale puffs about a third as high as ``size`` pixels; none for size 0."""
    for k in range(-3, 4):
        r = size * (0.085 + 0.025 * np.sin(5 * swing + 2.4 * k)) * (1 - 0.1 * abs(k))
        x, y = foot[0] + 0.07 * k * size, foot[1] - r * (0.5 + 0.5 * np.cos(1.9 * k + swing))
        if r >= 1:
            pen.ellipse((x - r, y - r, x + r, y + r), fill=(*DUST, 255))


def _limb(
    pen: ImageDraw.ImageDraw,
    shoulder: tuple[float, float],
    angle: float,
    facing: int,
    size: float,
    colour: tuple[int, int, int],
) -> None:
    """An arm from ``shoulder``, ``angle`` radians up from straight down, with a round hand."""
    hand = shoulder[0] + facing * 0.32 * size * np.sin(angle), shoulder[1] + 0.32 * size * np.cos(angle)
    pen.line((*shoulder, *hand), fill=(*colour, 255), width=round(0.11 * size))
    r = 0.075 * size
    pen.ellipse((hand[0] - r, hand[1] - r, hand[0] + r, hand[1] + r), fill=(*colour, 255))


def _tone(colour: np.ndarray, factor: float) -> tuple[int, int, int]:
    red, green, blue = np.clip(colour * factor, 0, 255).astype(int)
    return int(red), int(green), int(blue)
