"""How the miniature's world is drawn: ground, camera, light and figures.

Only numpy and PIL, so that a worker process starts fast. Axes: F frames of a video, K figures, H height, W width.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from extract.miniature.world import ACTIONS, COLOURS, COUNTS, GROUNDS, SHAPES, SIZES, Cast, Script

GRAIN_ROWS = 40  # more than the picture has: frames take their grain from different places
SUPERSAMPLE = 2  # figures are drawn this much larger and reduced, for smooth edges
MARGIN = 1.3  # ground canvas over picture: the room in which the camera shakes
HUES = {"red": 0.0, "green": 0.36, "blue": 0.61, "yellow": 0.145, "purple": 0.80}
HEIGHTS = {"small": 0.40, "large": 0.58}  # of figures, over the picture's height
CYCLES = (0.006, 0.072)  # of the figures' beat per frame, at speed 0 and 1
WAYS = (0.005, 0.023)  # of the way that approach and part go, per frame
APART = 0.33  # half the width of the group at rest, over the picture's width
CLOSE = 0.38  # distance between neighbours that cling, over their height
HOP = 0.045  # up and down, over the picture's height: 6 pixels in all at 72
TURNED = 1 / 3  # share of shots in which those who part have turned away from each other
# Arms of every action, radians up from straight down: middle and swing, of the inner and of the outer arm.
ARMS = {
    "rest": (0.7, 0.6, 0.7, 0.6),
    "approach": (1.45, 0.55, 0.5, 0.5),
    "part": (1.45, 0.55, 0.5, 0.5),
    "circle": (1.65, 0.5, 1.65, 0.5),
    "clinch": (1.2, 0.6, 0.6, 0.6),
    "shake": (2.55, 0.55, 2.55, 0.55),
}


@dataclass(frozen=True)
class Poses:
    """Figures of one shot, float64; places are shares of the picture's height, from its centre.

    Attributes:
        beat: (F,) phase in radians of the rhythm in which all figures of a group move.
        x, y: (F, K) foot points.
        inner, outer: (F, K) angles in radians of the arm towards the middle of the group and of the other one, up from
            straight down.
        lean: (F, K) of the body towards the middle, shares of its height.
        stride: (F, K) of the legs in [-1, 1].
        side: (F, K) 1 where the figure looks to the right, mostly to the middle of the group, else -1.
    """

    beat: np.ndarray
    x: np.ndarray
    y: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    lean: np.ndarray
    stride: np.ndarray
    side: np.ndarray


def pose(cast: Cast, speed: np.ndarray, aspect: float) -> Poses:
    """Where the figures of a shot are and how they hold themselves.

    The figures of a group move in one rhythm: the inner arm, the sway and the legs with the sine of its phase, the
    outer arm and the hop with the cosine. So a frame tells the phase, two frames the speed, and none tells it alone.
    Approach and part look alike but for their direction and for ``TURNED``.

    Args:
        cast: of the shot.
        speed: (F,) in its frames.
        aspect: width over height of the picture.
    """
    rng = np.random.default_rng(cast.seed)
    count, action = COUNTS[cast.count], ACTIONS[cast.action]
    pace = speed.astype(float)
    # Either way round: played backwards, a shot is as likely as before.
    beat = rng.choice([-1, 1]) * 2 * np.pi * (np.cumsum(_between(CYCLES, pace)) + rng.random())  # (F,)
    own = beat[:, None] + rng.uniform(-0.3, 0.3, count)  # (F, K), hardly apart
    sine, cosine = np.sin(own), np.cos(own)
    place = np.linspace(-1, 1, count) + rng.uniform(-0.08, 0.08, count)  # (K,) from left to right
    depth = rng.uniform(-0.045, 0.045, count)
    near = CLOSE * HEIGHTS[SIZES[cast.size]] * (count - 1) / 2
    far = APART * aspect * rng.uniform(0.85, 1.05)
    inner_at, inner_by, outer_at, outer_by = ARMS[action]
    x, y = far * place + np.zeros_like(own), depth - HOP * cosine
    side = np.broadcast_to(np.where(place + 1e-3 * rng.normal(size=count) < 0, 1.0, -1.0), x.shape)
    lean, stride = 0.08 * sine, 0.3 * sine
    share = (np.cumsum(_between(WAYS, pace)) + rng.random())[:, None] % 1  # (F, 1) of the way, over and over
    turned = rng.random() < TURNED
    match action:
        case "approach" | "part":
            way = share if action == "part" else 1 - share
            close = 1.2 * near
            x, stride = (close + (max(far, close + 0.15) - close) * way) * place, sine
            side = -side if turned and action == "part" else side
        case "circle":
            turn = 2 * np.pi * (np.cumsum(0.4 * _between(CYCLES, pace))[:, None] + rng.random()) * rng.choice([-1, 1])
            angle = turn + 2 * np.pi * np.arange(count) / count  # (F, K)
            x, y, stride = 0.85 * far * np.cos(angle), 0.11 * np.sin(angle) - HOP * cosine, sine
            side = np.where(x < x.mean(axis=1, keepdims=True), 1.0, -1.0)
        case "clinch":
            x, lean = near * place + 0.03 * sine, lean + 0.10
        case "shake":
            x = 0.75 * far * place + 0.03 * sine
    x = x + rng.uniform(-0.06, 0.06)
    return Poses(beat, x, y, inner_at + inner_by * sine, outer_at + outer_by * cosine, lean, stride, side)


def _between(ends: tuple[float, float], share: np.ndarray) -> np.ndarray:
    return ends[0] + (ends[1] - ends[0]) * share


def geometry(script: Script) -> np.ndarray:
    """float32 (F, 5): where the figures are in their motion, and where the camera looks, in every frame.

    Columns: spread of the group, sine and cosine of its beat, and both shifts of the camera; scaled to about 1.
    """
    shifts = _camera_path(script, np.random.default_rng(script.seed))
    found = np.zeros((script.num_frames, 5), np.float32)
    for shot, cast in enumerate(script.casts):
        at = script.shot == shot
        poses = pose(cast, script.speed[at], script.width / script.height)
        found[at, :3] = np.stack([poses.x.std(axis=1), np.sin(poses.beat), np.cos(poses.beat)], axis=1)
    found[:, 3:] = shifts
    return found * np.array([3, 1, 1, 6, 6], np.float32)


def render_frames(script: Script, frames: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Yields frames of a script, uint8 RGB (H, W, 3), all or the ones that are asked for; the same on every call."""
    rng = np.random.default_rng(script.seed)
    width, height = script.width, script.height
    shake = _camera_path(script, rng)
    grain = rng.uniform(2, 4) * rng.standard_normal((height + GRAIN_ROWS, width, 1), np.float32)
    offsets = rng.integers(GRAIN_ROWS, size=script.num_frames)
    exposure = rng.uniform(0.85, 1.0)
    tints = exposure * np.exp(script.warmth[:, None] * np.array([0.24, 0.02, -0.30]))
    stages: dict[int, tuple[Image.Image, Poses, int]] = {}
    for t in range(script.num_frames) if frames is None else frames:
        shot = int(script.shot[t])
        if shot not in stages:
            cast, start = script.casts[shot], int(np.argmax(script.shot == shot))
            speed = script.speed[script.shot == shot]
            stages[shot] = (draw_ground(cast, width, height), pose(cast, speed, width / height), start)
        ground, poses, start = stages[shot]
        image = _look(ground, shake[t], width, height)
        figures = _draw_figures(script.casts[shot], poses, t - start, shake[t], width, height)
        image.paste(figures, (0, 0), figures)
        pixels = np.asarray(image, np.float32) * tints[t].astype(np.float32)
        pixels += grain[offsets[t] : offsets[t] + height]
        yield np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def figure_colour(cast: Cast) -> np.ndarray:
    """RGB float64 (3,) in the shade of the cast's world."""
    hue, light, saturation = (2 * value - 1 for value in cast.looks[:3])
    name = COLOURS[cast.colour]
    if name == "white":
        return np.array(colorsys.hls_to_rgb((hue + 1) / 2, 0.90 + 0.06 * light, 0.15)) * 255
    reach = 0.025 if name in ("red", "yellow") else 0.04
    return (
        np.array(colorsys.hls_to_rgb((HUES[name] + reach * hue) % 1, 0.50 + 0.09 * light, 0.75 + 0.15 * saturation))
        * 255
    )


def draw_ground(cast: Cast, width: int, height: int) -> Image.Image:
    """The ground of a shot, ``MARGIN`` times the picture."""
    period, angle, contrast, grey = cast.looks[3:7]
    wide, high = round(width * MARGIN), round(height * MARGIN)
    y, x = np.mgrid[0:high, 0:wide].astype(np.float32) / np.float32(height)
    kind = GROUNDS[cast.ground]
    turn = angle * np.pi
    frequency = 3.5 + 3 * period
    u = frequency * (x * np.cos(turn) + y * np.sin(turn))
    v = frequency * (y * np.cos(turn) - x * np.sin(turn))
    match kind:
        case "striped":
            pattern = np.sign(np.sin(2 * np.pi * u))
        case "checked":
            pattern = np.sign(np.sin(np.pi * u) * np.sin(np.pi * v))
        case "dotted":
            pattern = np.where((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.07, 1.3, -0.3)
        case _:
            pattern = 0.3 * (y - y.mean())
    tint = np.array(colorsys.hls_to_rgb(cast.looks[7], 0.5, 0.06)) * 2
    pixels = (75 + 50 * grey) * tint + ((10 + 9 * contrast) * pattern)[..., None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _camera_path(script: Script, rng: np.random.Generator) -> np.ndarray:
    """float64 (F, 2): shift of the picture in shares of its height; shakes more and faster the larger ``camera`` is."""
    strength = script.camera.astype(float)[:, None]
    rate = 0.01 + 0.09 * strength
    tempo = rng.uniform(0.8, 1.2, (1, 2)) * (1 + 0.2 * rng.uniform(-1, 1, (script.num_frames, 2)))
    waves = np.sin(2 * np.pi * (np.cumsum(rate * tempo, axis=0) + rng.random((1, 2))))
    return waves * (0.01 + 0.05 * strength)


def _look(ground: Image.Image, shift: np.ndarray, width: int, height: int) -> Image.Image:
    """The part of the ground that the camera sees."""
    left = (ground.width - width) / 2 - shift[0] * height
    top = (ground.height - height) / 2 - shift[1] * height
    return ground.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + width, top + height))


def _draw_figures(cast: Cast, poses: Poses, t: int, shift: np.ndarray, width: int, height: int) -> Image.Image:
    """RGBA picture of all figures of frame ``t`` of a shot, those in front last."""
    layer = Image.new("RGBA", (width * SUPERSAMPLE, height * SUPERSAMPLE))
    pen = ImageDraw.Draw(layer)
    unit = height * SUPERSAMPLE
    size = HEIGHTS[SIZES[cast.size]] * unit
    colour = figure_colour(cast)
    middle_y = 0.5 + 0.5 * HEIGHTS[SIZES[cast.size]]
    for k in np.argsort(poses.y[t]):
        foot = (
            layer.width / 2 + (poses.x[t, k] + shift[0]) * unit,
            (middle_y + poses.y[t, k] + shift[1]) * unit,
        )
        limbs = [float(value[t, k]) for value in (poses.inner, poses.outer, poses.lean, poses.stride, poses.side)]
        _draw_figure(pen, foot, size, SHAPES[cast.shape], limbs, colour)
    return layer.reduce(SUPERSAMPLE)


def _draw_figure(
    pen: ImageDraw.ImageDraw,
    foot: tuple[float, float],
    size: float,
    shape: str,
    limbs: list[float],
    colour: np.ndarray,
) -> None:
    """A puppet of height ``size`` pixels that stands at ``foot``; ``limbs``: inner, outer, lean, stride, side."""
    inner, outer, lean, stride, side = limbs
    x, y = foot
    fill, dark, pale = _tone(colour, 1.0), _tone(colour, 0.45), _tone(0.4 * colour + 140, 1.0)
    edge = max(round(0.035 * size), 1)
    top = x + lean * side * size  # of the body
    for leg in (-1, 1):
        toe = x + (leg * 0.10 + 0.12 * stride * leg) * size
        pen.line((x + leg * 0.07 * size, y - 0.25 * size, toe, y), fill=dark, width=round(0.09 * size))
    for angle, way in ((outer, -side), (inner, side)):
        shoulder = (top + way * 0.12 * size, y - 0.62 * size)
        hand = (shoulder[0] + way * 0.40 * size * np.sin(angle), shoulder[1] + 0.40 * size * np.cos(angle))
        pen.line((*shoulder, *hand), fill=fill, width=round(0.10 * size))
        r = 0.085 * size
        pen.ellipse((hand[0] - r, hand[1] - r, hand[0] + r, hand[1] + r), fill=pale)
    left, right, low, high = x - 0.2 * size, x + 0.2 * size, y - 0.2 * size, y - 0.72 * size
    bend = (top - x) / 2
    match shape:
        case "round":
            pen.ellipse(
                (left - 0.04 * size + bend, high, right + 0.04 * size + bend, low), fill=fill, outline=dark, width=edge
            )
        case "square":
            corners = [(left, low), (right, low), (right + 2 * bend, high), (left + 2 * bend, high)]
            pen.polygon(corners, fill=fill, outline=dark, width=edge)
        case _:
            corners = [(left - 0.10 * size, low), (right + 0.10 * size, low), (top, high - 0.02 * size)]
            pen.polygon(corners, fill=fill, outline=dark, width=edge)
    head = 0.12 * size
    head_y = y - 0.84 * size
    pen.ellipse((top - head, head_y - head, top + head, head_y + head), fill=pale, outline=dark, width=edge)
    eye, eye_x = 0.035 * size, top + side * 0.06 * size
    pen.ellipse((eye_x - eye, head_y - eye, eye_x + eye, head_y + eye), fill=(25, 25, 30, 255))


def _tone(colour: np.ndarray, factor: float) -> tuple[int, int, int, int]:
    red, green, blue = np.clip(colour * factor, 0, 255).astype(int)
    return int(red), int(green), int(blue), 255
