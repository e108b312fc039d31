"""What the miniature's features and captions mean on worlds it has not seen: `python -m extract.miniature.check`.

Everything runs through the encoders as an extraction builds them, their preparation of frames included. Three figures:
attribute retrieval by CLIP, attributes named by captions, and linear probes on windows of the video stream beside the
same probes on CLIP features of the window's middle frame. Probes are fitted on the training world and tested on
another.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, r2_score
from sklearn.preprocessing import StandardScaler

from extract.config import ExtractConfig, find_preset
from extract.encoders import build_encoders
from extract.encoders.text import TextEncoder
from extract.encoders.videoprism import VideoPrismEncoder
from extract.miniature.dataset import factors_of, sampled, script_of
from extract.miniature.scenes import render_frames
from extract.miniature.sentences import WORDS, attributes, heard, prompts
from shared.process.interrupts import listen

NAMED = ("colour", "count", "action")


def encode(encoder: Any, frames: Iterator[np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Features (N, D) and captions of a timeline encoder for frames uint8 (H, W, 3)."""
    items = np.stack([encoder.prepare(frame) for frame in frames])[:, None]
    rows = []
    for start in range(0, len(items), encoder.batch_size):
        batch = items[start : start + encoder.batch_size]
        padding = np.repeat(batch[-1:], encoder.batch_size - len(batch), axis=0)
        rows.append(encoder.encode(np.concatenate([batch, padding])).part(0, len(batch)))
    return np.concatenate([r.features for r in rows]), [text for r in rows for text in r.captions or ()]


def stills(world: str, num: int) -> Iterator[np.ndarray]:
    """Single frames of a world."""
    for index in range(num):
        yield from render_frames(script_of(world, index, clip=False))


def check_retrieval(image: Any, text: TextEncoder, world: str, num: int) -> dict[str, float]:
    """Attribute -> share of frames whose best sentence, among those that name the attribute alone, is true."""
    features, _ = encode(image, stills(world, num))
    known = attributes(factors_of([script_of(world, i, clip=False) for i in range(num)], clip=False))
    found = {}
    for name in WORDS:
        words = text.encode_captions(prompts(name))
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        found[name] = float(((features @ words.T).argmax(axis=1) == known[name]).mean())
    return found


def check_captions(text: TextEncoder, world: str, num: int) -> dict[str, float]:
    """Attribute -> share of frames whose caption names it right; "all three" for colour, count and action at once."""
    _, captions = encode(text, stills(world, num))
    known = attributes(factors_of([script_of(world, i, clip=False) for i in range(num)], clip=False))
    right = {
        name: np.array(
            [heard(caption).get(name, -1) == value for caption, value in zip(captions, known[name], strict=True)]
        )
        for name in WORDS
    }
    together = np.logical_and.reduce([right[name] for name in NAMED])
    return {name: float(value.mean()) for name, value in right.items()} | {"all three": float(together.mean())}


def windows_of(
    video: VideoPrismEncoder, image: Any, world: str, num: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features (N, D) of uncut windows by stream, and their action and mean speed."""
    scripts = [script for script in (script_of(world, i, clip=True) for i in range(num)) if len(script.casts) == 1]
    clips, middles = [], []
    for script in scripts:
        frames = list(render_frames(script, list(sampled())))
        clips.append(np.stack([video.prepare(frame) for frame in frames]))
        middles.append(frames[len(frames) // 2])
    factors = factors_of(scripts, clip=True)
    features = {
        "video": video.encode_clips(np.stack(clips)).mean(axis=1),
        "image": encode(image, iter(middles))[0],
    }
    return features, {"action": factors["action"][:, 0], "speed": factors["speed"].mean(axis=1)}


def check_probes(video: VideoPrismEncoder, image: Any, world: str, num: int) -> dict[str, float]:
    """Linear probes, fitted on three times as many windows: macro F1 of the action and R2 of the speed, by stream."""
    features, known = windows_of(video, image, "train", 3 * num)
    unseen, truth = windows_of(video, image, world, num)
    found = {}
    for stream in features:
        scale = StandardScaler().fit(features[stream])
        x, y = scale.transform(features[stream]), scale.transform(unseen[stream])
        guess = LogisticRegression(C=0.1, max_iter=2000).fit(x, known["action"]).predict(y)
        found[f"{stream}, action (macro F1)"] = float(f1_score(truth["action"], guess, average="macro"))
        speed = Ridge(10.0).fit(x, known["speed"]).predict(y)
        found[f"{stream}, speed (R2)"] = float(r2_score(truth["speed"], speed))
    return found


def check(world: str, num: int, config: ExtractConfig) -> dict[str, Mapping[str, float]]:
    """All figures of one world."""
    encoders: dict[str, Any] = build_encoders(config, ("video", "image", "text"))
    return {
        f"CLIP: attribute retrieval, top 1, {num} frames": check_retrieval(
            encoders["image"], encoders["text"], world, num
        ),
        f"captions: attributes named right, {num} frames": check_captions(encoders["text"], world, num),
        f"linear probes, {num} windows less those with a cut": check_probes(
            encoders["video"], encoders["image"], world, num
        ),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="demo", choices=("validation", "demo"))
    parser.add_argument("--num", type=int, default=1000, help="frames, and windows of each world")
    given = parser.parse_args()
    print(f"miniature encoders, rendered data; world {given.world!r}, which shares no look with the training world")
    for title, figures in check(given.world, given.num, find_preset("mini")).items():
        print(title)
        for name, value in figures.items():
            print(f"  {name:<32}{value:.3f}")


if __name__ == "__main__":
    listen()
    main()
