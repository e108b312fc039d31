"""A small data set whose cached features carry its labels: 10 groups of 2 videos, both tasks, official file formats."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from shared.cache import FeatureCache, VideoInfo
from shared.labels.annotations import AU_NAMES, EXPR_NAMES
from shared.windows import WindowSpec
from train.data.features import build_windows, load_features, window_rule
from train.data.labels import Track
from train.tasks import task_named

torch.set_num_threads(1)

SPEC = WindowSpec(size=16, stride=8, samples={"video": 4, "image": 4, "text": 2})
DIM = 8
DIRECTIONS = np.random.default_rng(42).normal(size=(3, DIM))  # of violence, valence and arousal in feature space


@dataclass(frozen=True, eq=False)
class Clip:
    """One made-up video: labels (F, 1) and (F, 2) float32, NaN = masked; split as in an official data set.

    Expressions and action units follow from violence, valence and arousal, so that the features carry them, too.
    """

    id: str
    group: str
    split: str
    violence: np.ndarray
    va: np.ndarray

    @property
    def num_frames(self) -> int:
        return len(self.violence)

    def labels(self, task: str) -> np.ndarray:
        valence, arousal = self.va[:, :1], self.va[:, 1:]
        if task == "expr":  # (F, 1) of 0..7
            return np.where(np.isnan(valence), np.nan, 4 * self.violence + 2 * (valence > 0) + (arousal > 0)).astype(
                "f4"
            )
        if task == "au":  # (F, 12)
            levels = [part > level for level in (-0.5, -0.2, 0, 0.2, 0.4) for part in (valence, arousal)]
            present = np.hstack([self.violence, 1 - self.violence, *levels])
            return np.where(np.isnan(valence), np.nan, present).astype("f4")
        return self.violence if task == "violence" else self.va


def make_clips(num_groups: int = 10, per_group: int = 2, seed: int = 0) -> list[Clip]:
    rng = np.random.default_rng(seed)
    clips = []
    for g in range(num_groups):
        for k in range(per_group):
            num_frames = int(rng.integers(60, 90))
            time = np.arange(num_frames)
            violent = (time > rng.integers(15, 45)) ^ (rng.random() < 0.5)  # (F,)
            angles = rng.uniform(0, 2 * np.pi, 2) + time[:, None] / rng.uniform(10, 20, 2)  # (F, 2)
            va = (0.8 * np.sin(angles)).round(4)
            va[:3] = np.nan
            split = "val" if g % 3 == 0 else "train"
            name = f"scene{g}-{k}"
            clips.append(Clip(name, f"scene{g}", split, np.float32(violent)[:, None], va.astype(np.float32)))
    return clips


def recipe_of(stream: str) -> dict[str, Any]:
    return {"encoder": stream, "model": "made-up", "weights": "sum of labels", "versions": {"torch": "1.0"}}


def write_cache(
    url: Path | str,
    clips: Iterable[Clip],
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    streams: Iterable[str] = ("video", "image", "text"),
    window: WindowSpec = SPEC,
    dataset: str = "made",
) -> FeatureCache:
    """Write a cache whose features are the labels of the sampled frames along DIRECTIONS, plus noise."""
    cache = FeatureCache.create(str(url), dataset=dataset, window=window)
    for clip in clips:
        plan = window.plan(clip.num_frames)
        rng = np.random.default_rng(sum(clip.id.encode()))
        truth = np.nan_to_num(np.hstack([clip.violence, clip.va]))  # (F, 3)
        content = hashlib.sha256(clip.violence.tobytes() + clip.va.tobytes()).hexdigest()
        source = {"path": f"videos/{clip.id}.mp4", "bytes": clip.num_frames, "sha256": content}
        pts = np.arange(clip.num_frames) / 25
        cache.write_info(clip.id, VideoInfo(source, 25.0, clip.num_frames, 64, 64, 0, "made-up", pts))
        for stream in streams:
            kind = "window" if stream == "video" else "timeline"
            frames = plan.frames[stream] if kind == "window" else plan.unique[stream]
            features = truth[frames] @ DIRECTIONS + rng.normal(0, 0.5, (*frames.shape, DIM))
            writer = cache.writer(clip.id, stream, kind=kind, recipe=(recipes or {}).get(stream, recipe_of(stream)))
            if kind == "window":
                writer.append(features)
            else:
                captions = [f"frame {f} of {clip.id}" for f in frames] if stream == "text" else None
                writer.append(features, frames, captions)
            writer.finish()
    return cache


def make_tracks(clips: Iterable[Clip], task: str) -> list[Track]:
    return [Track(c.id, c.id, c.group, c.split, None, c.labels(task), f"{c.id}.csv") for c in clips]


def write_labels(root: Path, clips: Iterable[Clip]) -> Path:
    """A data set on disk without pictures: manifest, table of videos, annotation files. Returns the manifest."""
    rows = ["path,id,group"]
    for clip in clips:
        (root / "videos").mkdir(parents=True, exist_ok=True)
        (root / "videos" / f"{clip.id}.mp4").write_bytes(b"")
        rows.append(f"videos/{clip.id}.mp4,{clip.id},{clip.group}")
        dvd, va = root / "dvd" / clip.split, root / "va" / clip.split
        expr, au = root / "expr" / clip.split, root / "au" / clip.split
        for folder in (dvd, va, expr, au):
            folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{i + 1},{int(v)}" for i, v in enumerate(clip.violence[:, 0])]
        (dvd / f"{clip.id}.csv").write_text("\n".join(["Frame_Number,Label", *lines]) + "\n")
        lines = ["-5,-5" if np.isnan(v) else f"{v:.4f},{a:.4f}" for v, a in clip.va]
        (va / f"{clip.id}.txt").write_text("\n".join(["valence,arousal", *lines]) + "\n")
        lines = ["-1" if np.isnan(k) else f"{k:.0f}" for k in clip.labels("expr")[:, 0]]
        (expr / f"{clip.id}.txt").write_text("\n".join([",".join(EXPR_NAMES), *lines]) + "\n")
        lines = [",".join("-1" if np.isnan(k) else f"{k:.0f}" for k in row) for row in clip.labels("au")]
        (au / f"{clip.id}.txt").write_text("\n".join([",".join(AU_NAMES), *lines]) + "\n")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")
    manifest = root / "made.toml"
    manifest.write_text(
        'name = "made"\nroot = "."\nnote = "made-up data"\n[videos]\ntable = "videos.csv"\n'
        '[tasks.violence]\nformat = "dvd"\ntrain = "dvd/train/*.csv"\nval = "dvd/val/*.csv"\n'
        '[tasks.va]\nformat = "affwild2-va"\ntrain = "va/train/*.txt"\nval = "va/val/*.txt"\n'
        '[tasks.expr]\nformat = "affwild2-expr"\ntrain = "expr/train/*.txt"\nval = "expr/val/*.txt"\n'
        '[tasks.au]\nformat = "affwild2-au"\ntrain = "au/train/*.txt"\nval = "au/val/*.txt"\n'
    )
    return manifest


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The makers above, for tests that need their own variant."""
    return SimpleNamespace(
        SPEC=SPEC,
        DIM=DIM,
        Clip=Clip,
        make_clips=make_clips,
        recipe_of=recipe_of,
        write_cache=write_cache,
        make_tracks=make_tracks,
        write_labels=write_labels,
    )


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    return make_clips()


@pytest.fixture(scope="session")
def cache(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    url = tmp_path_factory.mktemp("cache") / "made.zarr"
    write_cache(url, clips)
    return FeatureCache.open(url)


@pytest.fixture(scope="session")
def manifest(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labels(tmp_path_factory.mktemp("data"), clips)


@pytest.fixture(scope="session")
def problem(clips: list[Clip], cache: FeatureCache) -> Callable[[str], SimpleNamespace]:
    """Task name -> task, tracks, features and windows of the made-up data."""
    features = load_features(cache, [c.id for c in clips], ["video", "image", "text"])

    def of(name: str) -> SimpleNamespace:
        task, tracks = task_named(name), make_tracks(clips, name)
        windows = build_windows(tracks, features, window_rule(task, None), 0.5)
        return SimpleNamespace(task=task, tracks=tracks, features=features, windows=windows)

    return of


@pytest.fixture(scope="session", autouse=True)
def working_folder() -> set[str]:
    """What was in the working folder before any test ran."""
    return set(os.listdir())
