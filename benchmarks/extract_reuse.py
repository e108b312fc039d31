"""Paying per frame against paying per window: the same encoders, weights and batch sizes, both ways, in one process.

The straightforward pipeline sends every window through the whole encoder: 16 frames through VideoPrism, 16 through
CLIP, 4 through captioner and text tower. Ours encodes every distinct frame once and runs VideoPrism's temporal stage
per window. Random weights at real size (VideoPrism-B at 288 px, CLIP ViT-B/32) and the toy MiniGPT; no download.

    python benchmarks/extract_reuse.py                 # strides 4, 8, 16, 64; about 8 minutes on 2 cores
    python benchmarks/extract_reuse.py --quick         # toy sizes, seconds: shows that both ways agree
    python benchmarks/extract_reuse.py --json out.json

Ours packs blocks of fixed shape across videos, so that only the last block of a whole run is padded; a benchmark of a
few windows would be mostly that block. Hence each stream gets a number of windows with which both ways fill their last
call, 16 rows in either (12 for captions). The limit is the ratio of floating-point operations as XLA counts them, or of
encoded frames for CLIP and captions. Both ways advance in turn, call by call, so that a slow spell of the machine hits
both. Each case is timed at least once; those at strides 16 and 64 again and again, for as long as --minutes allows.
``stride64_ratio`` is VideoPrism's.

On a machine with a GPU, benchmarks/sections/gpu.py measures rates and utilisation afterwards.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sections import gpu
from sections.flops import stage_gigaflops

from extract.config import CaptionerConfig, ClipConfig, ExtractConfig, VideoPrismConfig
from extract.decode.sampling import Item, Window
from extract.encoders import build_encoder
from extract.flow.packing import TimelinePacker, WindowPacker
from shared.windows import WindowPlan, WindowSpec

STREAMS = {"videoprism": "video", "clip": "image", "captions": "text"}
WINDOWS_AT_64 = {"videoprism": 1, "clip": 4, "captions": 3}
WINDOWS_AT_16 = {"videoprism": 5, "clip": 45, "captions": 57}  # limits 1.84, 3.75 and 3.80; more takes longer
REPEATED = (16, 64)


@dataclass(frozen=True)
class Way:
    """One way to compute a stream.

    Attributes:
        steps: yields rows of features, call by call; nothing is in flight when it yields.
        num_rows: of all steps.
        arrange: rows in order of the steps -> (N, T, D).
    """

    steps: Callable[[], Iterator[np.ndarray]]
    num_rows: int
    arrange: Callable[[np.ndarray], np.ndarray] = lambda rows: rows


@dataclass
class Case:
    """One stream at one stride, both ways.

    Attributes:
        limit: most that the ratio can be.
        times: (per window, per frame) in seconds, pair by pair.
        max_abs_diff: between the outputs of the timed calls.
    """

    name: str
    stride: int
    num_windows: int
    num_frames: int
    limit: float
    slow: Way
    fast: Way
    times: list[tuple[float, float]] = field(default_factory=list)
    max_abs_diff: float = 0.0

    def time_pair(self) -> None:
        """Both ways once, in step: the one that is behind goes on, so that a slow spell of the machine hits both."""
        ways = [self.slow, self.fast]
        running = [way.steps() for way in ways]
        seconds, parts = [0.0, 0.0], [[], []]  # type: list[float], list[list[np.ndarray]]
        left = [0, 1][:: -1 if len(self.times) % 2 else 1]  # the other one begins than the time before
        while left:
            one = min(left, key=lambda k: sum(map(len, parts[k])) / ways[k].num_rows)
            started = time.perf_counter()
            rows = next(running[one], None)
            seconds[one] += time.perf_counter() - started
            if rows is None:
                left.remove(one)
            else:
                parts[one].append(rows)
        slow, fast = (way.arrange(np.concatenate(own)) for way, own in zip(ways, parts, strict=True))
        self.times.append((seconds[0], seconds[1]))
        self.max_abs_diff = max(self.max_abs_diff, float(np.abs(slow - fast).max()))

    def figures(self) -> dict[str, float]:
        """Medians and spread; ratio = per window / per frame, pair by pair."""
        ratios = [slow / fast for slow, fast in self.times]
        ratio = statistics.median(ratios)
        return {
            "windows": self.num_windows,
            "pairs": len(ratios),
            "slow_s": statistics.median(slow for slow, _ in self.times),
            "fast_s": statistics.median(fast for _, fast in self.times),
            "ratio_min": min(ratios),
            "ratio": ratio,
            "ratio_max": max(ratios),
            "limit": self.limit,
            "limit_share": ratio / self.limit,
            "max_abs_diff": self.max_abs_diff,
        }


# --- both ways --------------------------------------------------------------------------------------------------------


def prepared_frames(encoder: Any, plan: WindowPlan) -> dict[int, np.ndarray]:
    """A random picture for every frame that the stream needs, already at input size: decoding is not measured."""
    rng = np.random.default_rng(0)
    shape = encoder.prepare(np.zeros((90, 160, 3), np.uint8)).shape
    return {int(f): rng.integers(0, 256, shape, dtype=np.uint8) for f in plan.unique[encoder.stream]}


def video_per_window(encoder: Any, plan: WindowPlan, frames: dict[int, np.ndarray]) -> Way:
    """Every window through the full forward pass."""

    def steps() -> Iterator[np.ndarray]:
        for row in plan.frames["video"]:
            yield encoder.encode_clips(np.stack([frames[int(f)] for f in row])[None])  # (1, T, D)

    return Way(steps, len(plan))


def video_per_frame(encoder: Any, plan: WindowPlan, frames: dict[int, np.ndarray]) -> Way:
    """Every frame once, through the packer the pipeline uses."""

    def steps() -> Iterator[np.ndarray]:
        parts: list[np.ndarray] = []
        packer = WindowPacker(encoder, lambda video, features: parts.append(features.copy()), plan.spec.size)
        sent: set[int] = set()
        for start, row in zip(plan.starts, plan.frames["video"], strict=True):
            for frame in row:
                if int(frame) not in sent:
                    sent.add(int(frame))
                    packer.add("v", Item("video", int(frame), frames[int(frame)]))
            packer.add("v", Window("video", int(start), row))
            if parts:
                yield np.concatenate(parts)
                parts.clear()
        packer.close("v")
        packer.flush()
        if parts:
            yield np.concatenate(parts)

    return Way(steps, len(plan))


def frames_per_window(encoder: Any, plan: WindowPlan, frames: dict[int, np.ndarray]) -> Way:
    """Every sample of every window, in full calls.

    Windows of one call lie far apart: MiniGPT captions equal pictures of a call once, which is our way, not this one.
    """
    samples = plan.frames[encoder.stream]  # (N, T)
    num_calls = max(1, samples.size // encoder.batch_size)
    order = np.argsort(np.arange(len(samples)) % num_calls, kind="stable")
    sent = samples[order].ravel().tolist()

    def arrange(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(*samples.shape, -1)[np.argsort(order)]

    return Way(lambda: timeline(encoder, sent, frames), len(sent), arrange)


def frames_per_frame(encoder: Any, plan: WindowPlan, frames: dict[int, np.ndarray]) -> Way:
    """Every distinct frame once, then gathered."""
    sent = plan.unique[encoder.stream].tolist()
    return Way(lambda: timeline(encoder, sent, frames), len(sent), lambda rows: rows[plan.gather[encoder.stream]])


def timeline(encoder: Any, order: list[int], frames: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Features of frames in the given order, through the packer the pipeline uses: (n, D) after every call."""
    parts: list[np.ndarray] = []
    packer = TimelinePacker(encoder, lambda video, index, rows: parts.append(rows.features))
    for number, frame in enumerate(order):  # the packer does not mind that a frame comes again
        packer.add("v", Item(encoder.stream, number, np.stack([frames[frame]] * len(encoder.context))))
        if parts:
            yield parts.pop()
    packer.flush()
    if parts:
        yield parts.pop()


# --- cases ------------------------------------------------------------------------------------------------------------


def unpadded_plan(spec: WindowSpec, stream: str, capacity: int, least: int) -> WindowPlan:
    """The shortest video of at least so many windows with which both ways fill every call of ``capacity`` rows."""
    for num_windows in range(least, least + 10 * capacity):
        plan = spec.plan(spec.size + spec.stride * (num_windows - 1))
        if plan.frames[stream].size % capacity == len(plan.unique[stream]) % capacity == 0:
            return plan
    raise ValueError(f"at stride {spec.stride} no number of windows fills calls of {capacity} {stream} frames")


def least_windows(name: str, stride: int) -> int:
    """Windows that make the ratio worth measuring, in the time that there is."""
    if stride in REPEATED:
        return (WINDOWS_AT_16 if stride == 16 else WINDOWS_AT_64)[name]
    # Captions: as many as frames_per_window needs to keep the three windows of a call apart.
    return 3 * -(-64 // stride) if name == "captions" else 2


def build_cases(streams: list[str], strides: list[int], quick: bool) -> Iterator[Case]:
    """The streams at the strides, their encoders warm."""
    video = VideoPrismConfig("tiny" if quick else "base", seed=0, dtype="float32", frame_batch=16, window_batch=1)
    clip = ClipConfig("tiny" if quick else "ViT-B-32", weights=None, seed=0, dtype="float32", batch_size=16)
    # Slots; a call takes four times as many frames. Random weights seldom end a caption, so most get all the tokens.
    captioner = CaptionerConfig("minigpt4-tiny", dtype="float32", batch_size=3, max_new_tokens=24)
    config = ExtractConfig("bench", video, clip, captioner)
    for name in streams:
        stream = STREAMS[name]
        encoder: Any = build_encoder(stream, config)
        capacity = encoder.frame_batch if name == "videoprism" else encoder.batch_size
        slow, fast = (
            (video_per_window, video_per_frame) if name == "videoprism" else (frames_per_window, frames_per_frame)
        )
        for stride in strides:
            least = least_windows(name, stride)
            plan = unpadded_plan(WindowSpec(stride=stride), stream, capacity, least)
            num_windows, num_frames = len(plan), len(plan.unique[stream])
            limit = plan.frames[stream].size / num_frames
            if name == "videoprism":
                spatial, temporal = stage_gigaflops(encoder.arch)
                limit = num_windows * (16 * spatial + temporal) / (num_frames * spatial + num_windows * temporal)
            frames = prepared_frames(encoder, plan)
            if stride == strides[0]:
                warm(encoder, slow, fast)
            ways = [way(encoder, plan, frames) for way in (slow, fast)]
            yield Case(name, stride, num_windows, num_frames, limit, *ways)


def warm(encoder: Any, *ways: Callable[..., Way]) -> None:
    """Compile every shape once."""
    plan = WindowSpec().plan(64)
    frames = prepared_frames(encoder, plan)
    for way in ways:
        list(way(encoder, plan, frames).steps())


# --- output -----------------------------------------------------------------------------------------------------------

HEADER = (
    f"{'stride stream':<18}{'windows':>8}{'pairs':>6}{'per window s':>13}{'per frame s':>12}{'ratio min/med/max':>20}"
    f"{'limit':>6}{'share':>6}{'max abs diff':>13}"
)


def show(case: Case) -> None:
    """One line of the table."""
    f = case.figures()
    spread = f"{f['ratio_min']:.2f}/{f['ratio']:.2f}/{f['ratio_max']:.2f}"
    print(
        f"{case.stride:>6} {case.name:<11}{case.num_windows:>8}{f['pairs']:>6}{f['slow_s']:>13.2f}{f['fast_s']:>12.2f}"
        f"{spread:>20}{f['limit']:>6.2f}{f['limit_share']:>6.0%}{f['max_abs_diff']:>13.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy encoders, one pair each, and the GPU's part as well")
    parser.add_argument("--strides", type=int, nargs="+", default=[16, 64, 8, 4])
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--minutes", type=float, default=8.0, help="no further pair is begun that would end later")
    parser.add_argument(
        "--repeats", type=int, default=5, help="most pairs at strides 16 and 64; VideoPrism at 64 nearly twice"
    )
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()

    started = time.perf_counter()
    cases = list(build_cases(args.streams, args.strides, args.quick))
    print(f"{platform.machine()} {platform.system()}; encoders ready after {time.perf_counter() - started:.0f} s")
    for case in cases:
        case.time_pair()
    repeated = [] if args.quick else [case for case in cases if case.stride in REPEATED]
    # VideoPrism's pairs are the fewest calls, hence the noisiest: all of them first, then the other streams in turn.
    video, others = ([c for c in repeated if (c.name == "videoprism") == first] for first in (True, False))
    video += [case for case in video if case.stride == 64]  # one window a call: twice as many pairs
    for case in [*video * (args.repeats - 1), *others * (args.repeats - 1)]:
        if time.perf_counter() - started + 1.2 * sum(case.times[-1]) < 60 * args.minutes:
            case.time_pair()
    print(HEADER)
    flat: dict[str, float] = {}
    for case in sorted(cases, key=lambda c: c.stride):
        show(case)
        flat |= {f"{case.name}_stride{case.stride}_{key}": value for key, value in case.figures().items()}
    if "videoprism_stride64_ratio" in flat:
        flat["stride64_ratio"] = flat["videoprism_stride64_ratio"]
    flat["max_abs_diff"] = max(case.max_abs_diff for case in cases)
    flat["minutes"] = (time.perf_counter() - started) / 60
    print(f"{flat['minutes']:.1f} minutes")
    flat |= gpu.measure(quick=args.quick)
    if args.json:
        args.json.write_text(json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
