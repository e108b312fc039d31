"""A small cache with everything that an export must keep, and files of features as others write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from extract.__main__ import app
from shared.cache import FeatureCache, VideoInfo
from shared.windows import WindowSpec

SPEC = WindowSpec(size=16, stride=8, samples={"video": 4, "image": 4, "text": 2})
VIDEOS = {"0017": 70, "sc\u00e8ne \U0001f3ac": 24, "short": 5}
ODD = [
    "",
    "\u00e4 \U0001f600 \u2028 end",
    ' "quoted", <b>\n\ttabs ',
    "e\u0301 is not \u00e9",
    "\u202eright to left",
    "-5",
]


def call(*arguments: object) -> Result:
    """Run a command; whatever it says, it must not say it as a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def refused(*arguments: object) -> str:
    """What a command says that must end with status 2."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


def video_info(video: str, num_frames: int) -> VideoInfo:
    """Facts with what is hard to keep: a large number, a text like JSON, times that do not start at 0."""
    source = {"path": f"{video}.mp4", "bytes": 10, "sha256": "ab" * 32, "mtime_ns": 1_700_000_000_123_456_789}
    pts = np.arange(num_frames) / 29.97 - 0.1
    return VideoInfo(source, 29.97, num_frames, 64, 48, 90, '{"not": "json for us"}', pts, missing_frames=1)


def make_cache(url: Path, videos: dict[str, int] = VIDEOS, spec: WindowSpec = SPEC) -> FeatureCache:
    """A cache whose features are random, and whose captions are odd; the last video has no image stream."""
    cache = FeatureCache.create(url, dataset="demo", window=spec, made_with={"preset": "tiny", "options": {"x": None}})
    rng = np.random.default_rng(0)
    for number, (video, num_frames) in enumerate(videos.items()):
        plan = spec.plan(num_frames)
        cache.write_info(video, video_info(video, num_frames))
        for stream, size in (("video", 6), ("image", 5), ("text", 3)):
            if stream == "image" and number == len(videos) - 1:
                continue
            recipe: dict[str, Any] = {
                "encoder": stream,
                "seed": number % 1,
                "parts": [1.5, None],
                "prompt": "x" * 70_000,
            }
            kind = "window" if stream == "video" else "timeline"
            writer = cache.writer(video, stream, kind=kind, recipe=recipe)
            if kind == "window":
                writer.append(rng.standard_normal((*plan.frames[stream].shape, size)))
            else:
                frames = plan.unique[stream]
                strings = [ODD[i % len(ODD)] for i in range(len(frames))] if stream == "text" else None
                writer.append(
                    rng.standard_normal((len(frames), size)), frames, strings, strings and ["aGk="] * len(frames)
                )
            writer.finish()
    return cache


def save_npy(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """One .npy per name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder
