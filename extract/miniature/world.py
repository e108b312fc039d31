"""A small world with known truth: what happens in a scripted video, frame by frame, before a pixel is drawn.

A video is a row of shots. A shot has a cast (how many figures, of which colour, shape and size), an action and a
ground; speed, camera motion and warmth of light run on through the shots as smooth paths. All of these are the
*factors*; labels and sentences are functions of them.

There are three worlds, "train", "validation" and "demo". They share the factors and nothing else: their random streams
are different, and every continuous property of a look (shades of colours; period, angle and grey of ground patterns) is
a number in [0, 1) whose twelve stripes belong to the three worlds in turn. A shade of one world occurs in no other.

Axes: F frames of a video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WORLDS = ("train", "validation", "demo")
STRIPES = 12
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("round", "square", "pointed")
SIZES = ("small", "large")
COUNTS = (2, 3, 4)
ACTIONS = ("rest", "approach", "part", "circle", "clinch", "shake")
GROUNDS = ("plain", "striped", "checked", "dotted")
PICTURE_SIZES = ((160, 120), (176, 128), (176, 144), (192, 144), (208, 160))  # (W, H), even as yuv420p needs
KNOT_SPACING = 100  # frames between turning points of the paths


@dataclass(frozen=True)
class Cast:
    """What one shot shows; every factor is an index into its tuple above.

    Attributes:
        looks: 8 numbers in the world's stripes: hue, lightness and saturation of the figures, period, angle, contrast
            and grey of the ground, and tint.
        seed: of the little things that are no factor (places, phases).
    """

    colour: int
    shape: int
    size: int
    count: int
    action: int
    ground: int
    looks: tuple[float, ...]
    seed: int


@dataclass(frozen=True)
class Script:
    """Everything that happens in one video.

    Attributes:
        width, height: pixels.
        casts: the shots' casts, in order.
        shot: int32 (F,), which of them.
        speed, camera: float32 (F,) in [0, 1], pace of the figures and strength of the camera's shaking.
        warmth: float32 (F,) in [-1, 1], from cool to warm light.
        seed: of grain and camera.
    """

    width: int
    height: int
    casts: tuple[Cast, ...]
    shot: np.ndarray
    speed: np.ndarray
    camera: np.ndarray
    warmth: np.ndarray
    seed: int

    @property
    def num_frames(self) -> int:
        return len(self.shot)

    def factor(self, name: str) -> np.ndarray:
        """int64 (F,): one of the casts' factors, frame by frame."""
        return np.array([getattr(cast, name) for cast in self.casts])[self.shot]


def in_stripes(world: str, rng: np.random.Generator, num: int) -> np.ndarray:
    """Numbers float64 (num,) in [0, 1) from the stripes of a world, with a gap between neighbours."""
    stripe = rng.integers(STRIPES // len(WORLDS), size=num) * len(WORLDS) + WORLDS.index(world)
    return (stripe + rng.uniform(0.1, 0.9, num)) / STRIPES


def draw_cast(world: str, rng: np.random.Generator) -> Cast:
    """A cast with every factor drawn evenly and independently."""
    colour, shape, size, count, action, ground = (
        int(rng.integers(len(values))) for values in (COLOURS, SHAPES, SIZES, COUNTS, ACTIONS, GROUNDS)
    )
    looks = tuple(float(value) for value in in_stripes(world, rng, 8))
    return Cast(colour, shape, size, count, action, ground, looks, int(rng.integers(2**31)))


def draw_script(
    world: str,
    identity: tuple[int, ...],
    num_frames: int,
    *,
    shot_frames: tuple[int, int] = (48, 160),
    size: tuple[int, int] | None = None,
) -> Script:
    """A video of a world.

    Args:
        world: one of ``WORLDS``.
        identity: numbers that name the video within the world; the only source of randomness.
        num_frames: F.
        shot_frames: shortest and longest shot; the last one may be longer.
        size: (W, H); None draws one.
    """
    rng = np.random.default_rng(np.random.SeedSequence([WORLDS.index(world) + 1, *identity]))
    shot, num_shots = np.zeros(num_frames, np.int32), 1
    start = int(rng.integers(shot_frames[0], shot_frames[1] + 1))
    while start + shot_frames[0] // 2 < num_frames:
        shot[start:] = num_shots
        num_shots += 1
        start += int(rng.integers(shot_frames[0], shot_frames[1] + 1))
    # Pace changes at cuts and wanders a little in between.
    pace = rng.uniform(0, 1, num_shots)[shot]
    speed = np.clip(pace + 0.12 * wander(num_frames, rng), 0, 1)
    width, height = size or PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    return Script(
        width=width,
        height=height,
        casts=tuple(draw_cast(world, rng) for _ in range(num_shots)),
        shot=shot,
        speed=speed.astype(np.float32),
        camera=((wander(num_frames, rng) + 1) / 2).astype(np.float32),
        warmth=wander(num_frames, rng).astype(np.float32),
        seed=int(rng.integers(2**31)),
    )


def wander(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth float64 (F,) path in [-1, 1] through random turning points."""
    num_knots = max(2, round(num_frames / KNOT_SPACING) + 2)
    times = np.linspace(-rng.random(), num_frames + rng.random(), num_knots)
    knots = rng.uniform(-1, 1, num_knots)
    frame = np.arange(num_frames)
    left = np.clip(np.searchsorted(times, frame, side="right") - 1, 0, num_knots - 2)
    part = (frame - times[left]) / (times[left + 1] - times[left])
    return knots[left] + (knots[left + 1] - knots[left]) * (1 - np.cos(np.pi * np.clip(part, 0, 1))) / 2
