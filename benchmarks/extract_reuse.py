"""Paying per frame against paying per window: the same encoders, weights and batch sizes, both ways, in one process.

The straightforward pipeline sends every window through the whole encoder: 16 frames through VideoPrism, 16 through
CLIP, 4 captions. Ours encodes every distinct frame once and runs VideoPrism's temporal stage per window. Random weights
at real size (VideoPrism-B at 288 px, CLIP ViT-B/32) and the offline captioner; no download.

    python benchmarks/extract_reuse.py                 # strides 16 and 64, about 12 minutes on 2 cores
    python benchmarks/extract_reuse.py --quick         # toy sizes, seconds: shows that both ways agree
    python benchmarks/extract_reuse.py --json out.json

The limit is the ratio of floating-point operations (XLA's count for VideoPrism-B: 47.0 GF per frame in the spatial
stage, 236.3 GF per window in the temporal stage), or of encoded frames for CLIP and captions.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from extract.config import ClipConfig, ExtractConfig, VideoPrismConfig
from extract.encoders import build_encoder
from extract.plan import Item, TimelinePacker, Window, WindowPacker
from shared.windows import WindowPlan, WindowSpec

SPATIAL_GF, TEMPORAL_GF = 47.0, 236.3  # VideoPrism-B at 288 px, T = 16


def prepared_frames(encoder, plan: WindowPlan, seed: int) -> dict[int, np.ndarray]:
    """A random picture for every frame that the stream needs, already at input size: decoding is not measured."""
    rng = np.random.default_rng(seed)
    shape = encoder.prepare(np.zeros((90, 160, 3), np.uint8)).shape
    return {int(f): rng.integers(0, 256, shape, dtype=np.uint8) for f in plan.unique[encoder.stream]}


def video_per_window(encoder, plan: WindowPlan, frames: dict[int, np.ndarray]) -> np.ndarray:
    """Every window through the full forward pass, window_batch at a time."""
    parts, size = [], encoder.window_batch
    for first in range(0, len(plan), size):
        rows = plan.frames["video"][first : first + size]
        clips = np.stack([[frames[int(f)] for f in row] for row in rows])  # (n, T, h, w, 3)
        parts.append(encoder.encode_clips(clips))
    return np.concatenate(parts)  # (N, T, D)


def video_per_frame(encoder, plan: WindowPlan, frames: dict[int, np.ndarray], spec: WindowSpec) -> np.ndarray:
    """Every frame once, through the packer the pipeline uses."""
    parts: list[np.ndarray] = []
    packer = WindowPacker(encoder, lambda video, features: parts.append(features.copy()), spec.size)
    sent: set[int] = set()
    for start, row in zip(plan.starts, plan.frames["video"], strict=True):
        for frame in row:
            if int(frame) not in sent:
                sent.add(int(frame))
                packer.add("v", Item("video", int(frame), frames[int(frame)]))
        packer.add("v", Window("video", int(start), row))
    packer.close("v")
    packer.flush()
    return np.concatenate(parts)


def frames_per_window(encoder, plan: WindowPlan, frames: dict[int, np.ndarray]) -> np.ndarray:
    """Every sample of every window, in full batches."""
    return _timeline(encoder, [int(f) for f in plan.frames[encoder.stream].ravel()], frames).reshape(
        *plan.frames[encoder.stream].shape, -1
    )


def frames_per_frame(encoder, plan: WindowPlan, frames: dict[int, np.ndarray]) -> np.ndarray:
    """Every distinct frame once, then gathered."""
    rows = _timeline(encoder, [int(f) for f in plan.unique[encoder.stream]], frames)
    return rows[plan.gather[encoder.stream]]


def _timeline(encoder, order: list[int], frames: dict[int, np.ndarray]) -> np.ndarray:
    parts: list[np.ndarray] = []
    packer = TimelinePacker(encoder, lambda video, index, rows: parts.append(rows.features))
    for number, frame in enumerate(order):  # the packer does not mind that a frame comes again
        packer.add("v", Item(encoder.stream, number, np.stack([frames[frame]] * len(encoder.context))))
    packer.flush()
    return np.concatenate(parts)


def compare(slow: Callable[[], np.ndarray], fast: Callable[[], np.ndarray], repeats: int) -> dict[str, float]:
    """Interleaved timings of both ways after one warm-up each; ratio = slow / fast, pair by pair."""
    difference = float(np.abs(slow() - fast()).max())
    pairs = []
    for _ in range(repeats):
        times = []
        for way in (slow, fast):
            started = time.perf_counter()
            way()
            times.append(time.perf_counter() - started)
        pairs.append(times)
    ratios = [a / b for a, b in pairs]
    return {
        "slow_s": statistics.median(a for a, _ in pairs),
        "fast_s": statistics.median(b for _, b in pairs),
        "ratio_min": min(ratios),
        "ratio": statistics.median(ratios),
        "ratio_max": max(ratios),
        "max_abs_diff": difference,
    }


def measure(stride: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One stride, all three streams."""
    spec = WindowSpec(stride=stride)
    plan = spec.plan(spec.size + stride * (args.windows - 1))
    long_plan = spec.plan(spec.size + stride * (args.clip_windows - 1))
    video = VideoPrismConfig("tiny" if args.quick else "base", seed=0, frame_batch=16, window_batch=2)
    clip = ClipConfig("tiny" if args.quick else "ViT-B-32", weights=None, seed=0, batch_size=16)
    config = ExtractConfig("bench", video, clip, window=spec)
    results = {}
    encoder = build_encoder("video", config)
    frames = prepared_frames(encoder, plan, stride)
    row = compare(
        lambda: video_per_window(encoder, plan, frames),
        lambda: video_per_frame(encoder, plan, frames, spec),
        args.repeats,
    )
    num_windows, num_frames = len(plan), len(plan.unique["video"])
    whole = num_windows * (16 * SPATIAL_GF + TEMPORAL_GF)
    row["limit"] = whole / (num_frames * SPATIAL_GF + num_windows * TEMPORAL_GF)
    results["videoprism"] = row
    for stream, name in (("image", "clip"), ("text", "captions")):
        one = build_encoder(stream, config)
        pictures = prepared_frames(one, long_plan, stride)
        row = compare(
            lambda one=one, p=pictures: frames_per_window(one, long_plan, p),
            lambda one=one, p=pictures: frames_per_frame(one, long_plan, p),
            args.repeats,
        )
        row["limit"] = long_plan.frames[stream].size / len(long_plan.unique[stream])
        results[name] = row
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy encoders")
    parser.add_argument("--strides", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--windows", type=int, default=6, help="windows of the VideoPrism run")
    parser.add_argument("--clip-windows", type=int, default=20, help="windows of the CLIP and caption runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()

    machine = f"{platform.machine()} {platform.system()}"
    print(f"{machine}; {args.windows} windows through VideoPrism, {args.clip_windows} through CLIP and captions")
    print(
        f"{'stride':>6} {'stream':<11}{'per window s':>13}{'per frame s':>13}{'ratio min/med/max':>20}{'limit':>7}"
        f"{'share':>7}{'max abs diff':>14}"
    )
    flat: dict[str, float] = {}
    for stride in args.strides:
        for name, row in measure(stride, args).items():
            share = row["ratio"] / row["limit"]
            spread = f"{row['ratio_min']:.2f}/{row['ratio']:.2f}/{row['ratio_max']:.2f}"
            print(
                f"{stride:>6} {name:<11}{row['slow_s']:>13.2f}{row['fast_s']:>13.2f}{spread:>20}{row['limit']:>7.2f}"
                f"{share:>7.0%}{row['max_abs_diff']:>14.1e}",
                flush=True,
            )
            flat |= {f"{name}_stride{stride}_{key}": value for key, value in row.items()}
            flat[f"{name}_stride{stride}_limit_share"] = share
    flat["max_abs_diff"] = max(value for key, value in flat.items() if key.endswith("max_abs_diff"))
    if args.json:
        args.json.write_text(json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
