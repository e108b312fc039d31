"""The world of the demo data set: what happens in each rendered video, before a pixel is drawn.


A video shows two figures in a scene. Three latent processes, drawn independently of each other, of the scene and of
every property of the file, are its labels:

    valence  in [-1, 1]   warmth of the light and of the figures' clothes
    arousal  in [-1, 1]   speed and strength of camera shake and light flicker (no single frame shows it), and mildly
                          how busy the wall pattern is (a single frame does)
    violence 0 or 1       the figures are close AND fast

Violence is a conjunction: two of the three calm activities share one half of it (``hug``: close, slow; ``dance``: fast,
apart), so neither closeness nor motion tells alone. Figures that meet draw the camera in; fast figures swing, pulse in
size and brightness, and raise dust. All cues live in large structure because the demo is made for small
untrained encoders with mean pooling, which cannot see small moving objects.

Axes: F frames of a video, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

SIZES = ((160, 120), (176, 128), (176, 144), (192, 144), (208, 160))  # (W, H), even as yuv420p needs
FPS = (Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001))
APART, HUG, DANCE, FIGHT = range(4)
KNOT_SPACING = 120  # frames between turning points of valence and arousal: slow against a 64-frame window
SEGMENT_FRAMES = (40, 160)  # length of one activity


@dataclass(frozen=True)
class Story:
    """Everything that happens in one video, before a pixel is drawn.

    Attributes:
        seed, scene, index: identity; also the only source of randomness.
        width, height: pixels.
        fps: frames per second.
        bit_rate: target of the codec in bits/s, drawn at random so that the size of a file says nothing.
        valence, arousal: float32 (F,) in [-1, 1].
        activity: int8 (F,), APART, HUG, DANCE or FIGHT; the violence label is ``activity == FIGHT``.
        va_valid, violence_valid: bool (F,), False where the annotation has no label.
    """

    seed: int
    scene: int
    index: int
    width: int
    height: int
    fps: Fraction
    bit_rate: int
    valence: np.ndarray
    arousal: np.ndarray
    activity: np.ndarray
    va_valid: np.ndarray
    violence_valid: np.ndarray

    @property
    def num_frames(self) -> int:
        return len(self.activity)

    @property
    def violence(self) -> np.ndarray:
        """uint8 (F,), 1 where the figures fight."""
        return (self.activity == FIGHT).astype(np.uint8)


def tell_story(seed: int, scene: int, index: int, frames: tuple[int, int] = (200, 600)) -> Story:
    """Draws the labels and the technical properties of one video; takes about a millisecond.

    Args:
        seed: of the data set.
        scene: the group the video belongs to; it changes the look, never the labels.
        index: number of the video inside its scene.
        frames: least and largest number of frames; short videos are more frequent.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, scene, index]))
    least, most = frames
    num_frames = least + round((most - least) * rng.beta(1.0, 3.0))
    width, height = SIZES[rng.integers(len(SIZES))]
    fps = FPS[rng.integers(len(FPS))]
    bit_rate = int(rng.uniform(350_000, 650_000))
    return Story(
        seed=seed,
        scene=scene,
        index=index,
        width=width,
        height=height,
        fps=fps,
        bit_rate=bit_rate,
        valence=_wander(num_frames, rng),
        arousal=_wander(num_frames, rng),
        activity=_schedule(num_frames, rng),
        va_valid=_with_gaps(num_frames, rng),
        violence_valid=_with_gaps(num_frames, rng),
    )


def _wander(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth float32 (F,) path through random turning points that covers most of [-1, 1] in every video."""
    num_knots = max(3, round(num_frames / KNOT_SPACING) + 1)
    # One knot per equal slice of [-1, 1], in random order: every video has low and high stretches, so the mean of a
    # video says nothing about it.
    knots = (rng.permutation(num_knots) + rng.uniform(0.0, 1.0, num_knots)) / num_knots * 2 - 1
    times = np.linspace(0, num_frames - 1, num_knots)
    times[1:-1] += rng.uniform(-0.25, 0.25, num_knots - 2) * times[1]
    frame = np.arange(num_frames)
    left = np.clip(np.searchsorted(times, frame, side="right") - 1, 0, num_knots - 2)
    part = (frame - times[left]) / (times[left + 1] - times[left])
    ease = (1 - np.cos(np.pi * np.clip(part, 0, 1))) / 2
    path = knots[left] + (knots[left + 1] - knots[left]) * ease
    low, high = -rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0)
    spread = max(float(np.ptp(path)), 1e-6)
    return (low + (path - path.min()) / spread * (high - low)).astype(np.float32)


def _schedule(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Activities int8 (F,): fights and calm segments in turn, about 45 % of the frames fights in every video."""
    short, long = (min(length, max(num_frames // 2, 4)) for length in SEGMENT_FRAMES)
    fights_first = bool(rng.integers(2))
    activity = np.zeros(num_frames, np.int8)
    for _ in range(1000):
        calm = list(rng.permutation([APART, HUG, DANCE]))
        fight, start = fights_first, 0
        while start < num_frames:
            stop = start + int(rng.integers(short, long + 1))
            if num_frames - stop < short:
                stop = num_frames
            activity[start:stop] = FIGHT if fight else calm[0]
            if not fight:
                calm = calm[1:] + calm[:1]
            start, fight = stop, not fight
        if 0.35 <= float(np.mean(activity == FIGHT)) <= 0.55:
            break
    return activity


def _with_gaps(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """bool (F,): in about one video of seven one or two short stretches were not annotated."""
    valid = np.ones(num_frames, bool)
    if rng.random() < 0.15:
        for _ in range(int(rng.integers(1, 3))):
            length = int(rng.integers(3, max(num_frames // 12, 4) + 1))
            start = int(rng.integers(0, num_frames - length + 1))
            valid[start : start + length] = False
    return valid
