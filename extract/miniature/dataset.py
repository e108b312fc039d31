"""Renders the training and the test pictures of the miniature: arrays of small frames, and their factors.

One picture size serves all three encoders, so that a frame is rendered once. Axes: N pictures or clips, T frames of a
clip, S side in pixels.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from extract.miniature.scenes import geometry, render_frames
from extract.miniature.world import Script, draw_script
from shared.process.interrupts import leave_to_parent
from shared.process.whole_file import whole_path

SIDE = 72  # pixels of all three encoders' input
WINDOW, SAMPLES = 64, 16  # of the video stream: frames 2, 6, .. 62 of a window of 64
DISCRETE = ("colour", "shape", "size", "count", "action", "ground")
PATHS = ("speed", "camera", "warmth")
CHUNK = 250


@dataclass(frozen=True)
class Pictures:
    """Rendered pictures of one world.

    Attributes:
        pixels: uint8 (N, S, S, 3), or (N, T, S, S, 3) for clips; mapped from the file.
        factors: name -> int64 or float32 (N, ...) or (N, T, ...).
        scripts: what was rendered.
    """

    pixels: np.ndarray
    factors: dict[str, np.ndarray]


def script_of(world: str, index: int, *, clip: bool) -> Script:
    """The script of picture or clip number ``index``: a single frame, or one window, often with a cut."""
    if clip:
        return draw_script(world, (2, index), WINDOW, shot_frames=(20, 120))
    return draw_script(world, (1, index), 1)


def load_pictures(folder: Path, world: str, num: int, *, clip: bool, workers: int = 1) -> Pictures:
    """Pictures 0 to ``num`` - 1 of a world, rendered into ``folder`` unless they are there."""
    name = f"{world}-{'clips' if clip else 'stills'}-{num}"
    path = folder / f"{name}.npy"
    frames = (SAMPLES,) if clip else ()
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_path(path) as part:
            pixels = np.lib.format.open_memmap(part, "w+", np.uint8, (num, *frames, SIDE, SIDE, 3))
            for start, block in zip(range(0, num, CHUNK), _render_all(world, num, clip, workers), strict=True):
                pixels[start : start + len(block)] = block
            pixels.flush()
    scripts = [script_of(world, index, clip=clip) for index in range(num)]
    return Pictures(np.load(path, mmap_mode="r"), factors_of(scripts, clip=clip))


def factors_of(scripts: Sequence[Script], *, clip: bool) -> dict[str, np.ndarray]:
    """Factors of the frames that are rendered: (N,), or (N, T) for clips.

    Clips also have "geometry" (N, T, 5), see ``scenes.geometry``, and "shot" (N, T), the number of the shot.
    """
    at = sampled() if clip else np.array([0])
    found = {name: np.stack([script.factor(name)[at] for script in scripts]) for name in DISCRETE}
    found |= {name: np.stack([getattr(script, name)[at] for script in scripts]) for name in PATHS}
    if not clip:
        return {name: value[:, 0] for name, value in found.items()}
    every = [geometry(script) for script in scripts]
    now, shot = np.stack([value[at] for value in every]), np.stack([script.shot[at] for script in scripts])
    return found | {"geometry": now, "shot": shot}


def sampled() -> np.ndarray:
    """Frames of a window that the video stream sees, int64 (T,)."""
    step = WINDOW // SAMPLES
    return np.arange(SAMPLES) * step + step // 2


def shrink(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> (S, S, 3), squashed, as the encoders' ``prepare`` does up to the filter."""
    return np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _render_all(world: str, num: int, clip: bool, workers: int) -> list[np.ndarray]:
    starts = range(0, num, CHUNK)
    render = partial(_render_chunk, world, num, clip)
    if workers <= 1:
        return list(map(render, starts))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=leave_to_parent) as pool:
        return list(pool.map(render, starts))


def _render_chunk(world: str, num: int, clip: bool, start: int) -> np.ndarray:
    pictures = []
    for index in range(start, min(start + CHUNK, num)):
        frames = render_frames(script_of(world, index, clip=clip), list(sampled()) if clip else None)
        small = [shrink(frame) for frame in frames]
        pictures.append(np.stack(small) if clip else small[0])
    return np.stack(pictures)
