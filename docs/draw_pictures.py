"""Draws the README's pictures: `python docs/draw_pictures.py`, after `make demo`; of the latest run of each task.

world.png: frames of the miniature's world. captions.png: frames of the demo and what the miniature says about them.
timeline.png: a video of the demo, its labels and what `cross_gru` says, scored by folds that had not seen its scene.
Miniature encoders, rendered data.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from extract.miniature.scenes import render_frames
from extract.miniature.world import ACTIONS, draw_script
from shared.cache import FeatureCache
from train.data.features import read_captions
from train.runs.folder import latest_run

REPO = Path(__file__).resolve().parents[1]
FOLDER = REPO / "docs" / "pictures"
NOTE = "miniature encoders, rendered data"
STEPS = range(4, 64, 12)  # frames of a row of world.png
NUM_CAPTIONS = 6


def save(figure: plt.Figure, name: str) -> None:
    """With few colours, which halves the file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(FOLDER / name, optimize=True)
    print(f"{name}: {picture.width} x {picture.height}, {(FOLDER / name).stat().st_size / 1000:.0f} kB")


def draw_world() -> None:
    """One row per action, at half speed."""
    figure, axes = plt.subplots(len(ACTIONS), len(STEPS), figsize=(7, 6.6), layout="constrained")
    for row, action in zip(axes, ACTIONS, strict=True):
        script = draw_script("demo", (9, ACTIONS.index(action)), 64, shot_frames=(200, 300), size=(160, 120))
        cast = replace(script.casts[0], action=ACTIONS.index(action))
        script = replace(script, casts=(cast,), speed=np.full(64, 0.5, np.float32))
        for axis, frame in zip(row, render_frames(script, list(STEPS)), strict=True):
            axis.imshow(frame)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(action)
    for axis, step in zip(axes[0], STEPS, strict=True):
        axis.set_title(f"frame {step}", fontsize=8)
    save(figure, "world.png")


def draw_captions(cache: FeatureCache) -> None:
    """A frame from the middle of every eighth video, and its caption."""
    figure, axes = plt.subplots(2, NUM_CAPTIONS // 2, figsize=(8, 4.4), layout="constrained")
    videos = cache.video_ids()[:: len(cache.video_ids()) // NUM_CAPTIONS]
    for axis, video in zip(axes.flat, videos, strict=False):
        captions = read_captions(cache, video)
        caption = captions[len(captions) // 2]
        assert caption.thumbnail is not None
        picture = Image.open(io.BytesIO(base64.b64decode(caption.thumbnail)))
        axis.imshow(picture, extent=(0, caption.aspect, 0, 1), aspect="equal")
        axis.set(xticks=[], yticks=[])
        words = caption.text.split()
        half = (len(words) + 1) // 2
        axis.set_title(f"{' '.join(words[:half])}\n{' '.join(words[half:])}", fontsize=6.5)
    figure.suptitle(f"captions of unseen frames ({NOTE})", fontsize=8)
    save(figure, "captions.png")


def draw_timeline() -> None:
    """The video whose violence changes most often, among those without a gap."""
    tables = {
        task: pd.read_parquet(latest_run(REPO / "runs", task, "demo").path / "predictions.parquet")
        for task in ("violence", "va")
    }
    violence = tables["violence"].dropna()
    changes = violence.groupby("video")["label"].agg(lambda v: int(np.abs(np.diff(v)).sum()) + len(v) / 1e4)
    video = str(changes.idxmax())
    figure, panels = plt.subplots(3, 1, figsize=(8, 4.2), sharex=True, layout="constrained")
    rows = {task: table[table["video"] == video] for task, table in tables.items()}
    shown = (("violence", "violent", ""), ("va", "valence", "_valence"), ("va", "arousal", "_arousal"))
    for panel, (task, name, column) in zip(panels, shown, strict=True):
        part = rows[task]
        panel.plot(part["frame"], part[f"label{column}"], color="#6b7280", lw=1.5, label="label")
        panel.plot(part["frame"], part[f"score{column}"], color="#2563eb", lw=1.5, label="cross_gru")
        panel.set_ylabel(name)
        panel.set_ylim((-0.05, 1.05) if task == "violence" else (-1, 1))
    panels[0].legend(loc="center right", fontsize=7, ncols=2)
    panels[-1].set_xlabel(f"frame of video {video}, whose scene the head had not seen ({NOTE})")
    save(figure, "timeline.png")


if __name__ == "__main__":
    plt.switch_backend("Agg")  # no display is needed
    FOLDER.mkdir(exist_ok=True)
    draw_world()
    draw_captions(FeatureCache.open(str(REPO / "caches" / "demo.zarr")))
    draw_timeline()
