"""Videos of the rendered world with labels as people write them: segments in seconds, words, ratings, yes and no."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from extract.miniature.scenes import render_frames
from extract.miniature.world import COLOURS, SHAPES, Script, draw_script

WANTED = ("red", "green", "blue")
FPS = 25


@dataclass(frozen=True)
class Shot:
    """One labelled part of a video, in seconds."""

    video: str
    start_s: float
    end_s: float
    colour: str
    pace: float  # 0 to 10
    many: bool
    square: bool


def make_world(folder: Path, num_videos: int = 30, num_frames: int = 192) -> list[Shot]:
    """Render videos ``clip00.mp4`` ... whose shots differ in colour, pace, number and shape of the figures."""
    shots: list[Shot] = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_videos):
        script = _coloured(draw_script("demo", (77, number), num_frames, shot_frames=(64, 96), size=(160, 120)))
        name = f"clip{number:02d}.mp4"
        if not (folder / name).exists():
            _write(folder / name, script)
        changes = [0, *(np.flatnonzero(np.diff(script.shot)) + 1).tolist(), num_frames]
        for start, end in pairwise(changes):
            cast = script.casts[script.shot[start]]
            pace = round(10 * float(script.speed[start:end].mean()), 1)
            colour, square = COLOURS[cast.colour], SHAPES[cast.shape] == "square"
            shots.append(Shot(name, start / FPS, end / FPS, colour, pace, cast.count > 0, square))
    return shots


def _coloured(script: Script) -> Script:
    wanted = [COLOURS.index(name) for name in WANTED]
    return replace(script, casts=tuple(replace(c, colour=wanted[c.colour % len(wanted)]) for c in script.casts))


def _write(path: Path, script: Script) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = script.width, script.height, "yuv420p"
        stream.options = {"preset": "veryfast", "threads": "1"}
        for pixels in render_frames(script):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_table(path: Path, shots: list[Shot]) -> None:
    """A table as a spreadsheet of half of Europe saves it: semicolons, decimal commas, a mark of UTF-8, CRLF."""
    rows = ["Video;Start_s;End_s;Colour;Pace;Many;Square"]
    for s in shots:
        cells = [f"{s.start_s:.2f}", f"{s.end_s:.2f}", s.colour.title(), f"{s.pace:.1f}"]
        yes = [("no", "yes")[flag] for flag in (s.many, s.square)]
        rows.append(";".join([s.video, *(c.replace(".", ",") for c in cells), *yes]))
    path.write_bytes("\ufeff".encode() + "\r\n".join([*rows, ""]).encode())
