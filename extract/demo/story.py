"""What happens in each video of the demo data set, before a pixel is drawn, and what its labels mean.

The demo plays in the world "demo" of extract/miniature/world.py, whose looks the miniature's encoders never saw. All
videos of a scene share a ground. The labels are functions of the world's factors, frame by frame:

    violence 0 or 1       the figures cling or shake, AND they are fast, AND they are not round
    valence  in [-1, 1]   mostly whether the figures move as their colour likes, the merry ones fast and the gloomy ones
                          slowly; then the warmth of the light
    arousal  in [-1, 1]   mostly their speed, then the shaking of the camera and their number

Valence and arousal are felt over three seconds. Violence is a conjunction, and most of valence a product, of what a
single frame shows (action, shape, colour) and of what it does not (speed): one stream alone cannot tell them. Every
calm activity shares at least one part with a fight. Round figures only play.

Axes: F frames of a video.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from extract.miniature.world import (
    ACTIONS,
    COLOURS,
    COUNTS,
    PICTURE_SIZES,
    SHAPES,
    Cast,
    Script,
    draw_cast,
    wander,
)

FPS = (Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001))
IDLE, HUG, DANCE, PLAY, FIGHT = range(5)
CALM = (IDLE, HUG, HUG, DANCE, PLAY, PLAY)  # most often what lacks just one part of a fight
FIGHTING = (0.38, 0.55)  # share of a video's frames
LONG_FRAMES = 480  # from which on a video has three activities
SHOT_FRAMES = (40, 90)  # within an activity, others do the same in the next shot
FAST = (0.65, 0.95)  # paces of shots, between which speed does not lie for long
SLOW = (0.05, 0.35)
FELT_FRAMES = 81  # over which valence and arousal are felt, about three seconds
THRESHOLD = 0.5  # of speed: fast or slow
CHEER = {"red": -1.0, "purple": -0.6, "blue": -0.2, "white": 0.2, "green": 0.6, "yellow": 1.0}
_CLOSE, _OPEN = ("clinch", "shake"), ("rest", "approach", "part", "circle")
_ROUND = SHAPES.index("round")


@dataclass(frozen=True)
class Story:
    """Everything that happens in one video, before a pixel is drawn.

    Attributes:
        seed, scene, index: identity; also the only source of randomness.
        script: the factors.
        fps: frames per second.
        bit_rate: target of the codec in bits/s, drawn at random so that the size of a file says nothing.
        activity: int8 (F,), of the shots: IDLE, HUG, DANCE, PLAY or FIGHT.
        va_valid, violence_valid: bool (F,), False where the annotation has no label.
    """

    seed: int
    scene: int
    index: int
    script: Script
    fps: Fraction
    bit_rate: int
    activity: np.ndarray
    va_valid: np.ndarray
    violence_valid: np.ndarray

    @property
    def num_frames(self) -> int:
        return self.script.num_frames

    @property
    def width(self) -> int:
        return self.script.width

    @property
    def height(self) -> int:
        return self.script.height

    @property
    def violence(self) -> np.ndarray:
        """uint8 (F,), 1 where the figures fight."""
        return violence_of(self.script)

    @property
    def valence(self) -> np.ndarray:
        """float32 (F,) in [-1, 1]."""
        cheer = np.array([CHEER[name] for name in COLOURS])[self.script.factor("colour")]
        return _felt(0.3 * self.script.warmth + 0.7 * cheer * (2 * self.script.speed - 1))

    @property
    def arousal(self) -> np.ndarray:
        """float32 (F,) in [-1, 1]."""
        crowd = self.script.factor("count") / (len(COUNTS) - 1)
        return _felt(2 * (0.6 * self.script.speed + 0.2 * self.script.camera + 0.2 * crowd) - 1)


def _felt(values: np.ndarray) -> np.ndarray:
    """Mean over ``FELT_FRAMES`` around every frame, float32 (F,): moods do not jump at cuts."""
    half = FELT_FRAMES // 2
    padded = np.pad(values.astype(np.float64), half, mode="edge")
    return np.convolve(padded, np.full(FELT_FRAMES, 1 / FELT_FRAMES), mode="valid").astype(np.float32)


def violence_of(script: Script) -> np.ndarray:
    """uint8 (F,), 1 where figures that are not round cling or shake at speed."""
    close = np.isin(script.factor("action"), [ACTIONS.index(name) for name in _CLOSE])
    return (close & (script.factor("shape") != _ROUND) & (script.speed > THRESHOLD)).astype(np.uint8)


def tell_story(seed: int, scene: int, index: int, frames: tuple[int, int] = (200, 600)) -> Story:
    """Draws one video; takes about a millisecond.

    Args:
        seed: of the data set.
        scene: the group the video belongs to; it changes the ground, never the labels.
        index: number of the video inside its scene.
        frames: least and largest number of frames; short videos are more frequent.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, scene, index]))
    least, most = frames
    num_frames = least + round((most - least) * rng.beta(1.0, 3.0))
    activity, shot = _schedule(num_frames, rng)
    width, height = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    place = draw_cast("demo", np.random.default_rng(np.random.SeedSequence([seed, scene, 2**32 - 1])))
    kinds = activity[np.searchsorted(shot, np.arange(shot[-1] + 1))]
    pace = np.array([rng.uniform(*(SLOW if kind in (IDLE, HUG) else FAST)) for kind in kinds])[shot]
    speed = np.clip(pace + 0.1 * wander(num_frames, rng), 0, 1)
    script = Script(
        width=width,
        height=height,
        casts=tuple(_cast(int(kind), place, rng) for kind in kinds),
        shot=shot,
        speed=speed.astype(np.float32),
        camera=((_stretched(wander(num_frames, rng)) + 1) / 2).astype(np.float32),
        warmth=_stretched(wander(num_frames, rng)).astype(np.float32),
        seed=int(rng.integers(2**31)),
    )
    return Story(
        seed=seed,
        scene=scene,
        index=index,
        script=script,
        fps=FPS[rng.integers(len(FPS))],
        bit_rate=int(rng.uniform(350_000, 650_000)),
        activity=activity,
        va_valid=_with_gaps(num_frames, rng),
        violence_valid=_with_gaps(num_frames, rng),
    )


def _cast(kind: int, place: Cast, rng: np.random.Generator) -> Cast:
    """Who does it: a cast of the demo's world on the ground of a scene."""
    cast = draw_cast("demo", rng)
    action = rng.choice(_OPEN if kind in (IDLE, DANCE) else _CLOSE)
    angular = int(rng.choice([index for index in range(len(SHAPES)) if index != _ROUND]))
    shape = {PLAY: _ROUND, FIGHT: angular, HUG: angular}.get(kind, cast.shape)
    looks = cast.looks[:3] + place.looks[3:]
    return replace(cast, action=ACTIONS.index(str(action)), shape=shape, ground=place.ground, looks=looks)


def _stretched(path: np.ndarray) -> np.ndarray:
    """A path (F,) that covers most of [-1, 1] in every video, so that a video's mean says nothing."""
    return 0.95 * (2 * (path - path.min()) / max(float(np.ptp(path)), 1e-6) - 1)


def _schedule(num_frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Activities int8 (F,) and number of the shot int32 (F,).

    Two activities in a short video and three in a long one, every other one a fight. How much of it fights is drawn
    without regard to its length, which must not tell.
    """
    share = rng.uniform(*FIGHTING)
    fights = [bool(rng.integers(2))]
    for _ in range(1 if num_frames < LONG_FRAMES else 2):
        fights.append(not fights[-1])
    calm = list(rng.permutation(CALM))
    lengths = np.zeros(len(fights))
    for fight, part in ((True, share), (False, 1 - share)):
        places = [index for index, kind in enumerate(fights) if kind == fight]
        first = rng.uniform(0.4, 0.6) if len(places) == 2 else 1.0
        lengths[places] = np.array([first, 1 - first])[: len(places)] * part
    edges = [0, *np.rint(np.cumsum(lengths) * num_frames).astype(int).tolist()]
    activity, shot, number = np.zeros(num_frames, np.int8), np.zeros(num_frames, np.int32), 0
    for index, (first_frame, last) in enumerate(itertools.pairwise(edges)):
        activity[first_frame:last] = FIGHT if fights[index] else calm[index]
        for start, stop in _pieces(last - first_frame, SHOT_FRAMES, rng):
            shot[first_frame + start : first_frame + stop], number = number, number + 1
    return activity, shot


def _pieces(length: int, frames: tuple[int, int], rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Cuts so many frames into pieces (start, stop) of random lengths; the last one may be longer."""
    short, long = (min(f, max(length // 2, 4)) for f in frames)
    start = 0
    while start < length:
        stop = start + int(rng.integers(short, long + 1))
        if length - stop < short:
            stop = length
        yield start, stop
        start = stop


def _with_gaps(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """bool (F,): in about one video of seven one or two short stretches were not annotated."""
    valid = np.ones(num_frames, bool)
    if rng.random() < 0.15:
        for _ in range(int(rng.integers(1, 3))):
            length = int(rng.integers(3, max(num_frames // 12, 4) + 1))
            start = int(rng.integers(0, num_frames - length + 1))
            valid[start : start + length] = False
    return valid
