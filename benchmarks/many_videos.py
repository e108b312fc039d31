"""Many small videos against the same number of frames in one: what a video costs beyond its frames.

Clips of 64 to 100 frames, and one video as long as all of them, each extracted end to end into a fresh cache: once
with the tiny preset's encoders, which compete with the decoder and the writer for the same cores, and once with
encoders that sleep and leave the cores alone. Those encode the frames of a long video in the time in which this machine
decodes and resizes them (measured right before, on one of --calibrate frames). Slower encoders hide more of a video's
cost, and faster ones would wait for the decoder whatever the videos are like. --rate sets their speed instead.

    python benchmarks/many_videos.py
    python benchmarks/many_videos.py --clips 1000 --json out.json

Two ratios of clips over one video, wall seconds both:
  * raw: as the clock says. Clips have tail windows off the stride's grid, whose frames nothing shares: the same frames
    in clips are more for the encoders to do, which no bookkeeping can avoid.
  * per encoded frame: divided by how many times as much the encoders get, which is known for the sleeping ones (what
    each stage takes, windows too) and otherwise counted in frames of all streams. "At most 1.15 times the encode time
    of the same frames in one video" is read as this one, with the same encoded frames.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from extract_pipeline import SHARES, calibrate, count_batches, decode_only, encode_only, render, sleeping_encoders

from extract.config import PRESETS
from extract.decode.ahead import Job
from extract.encoders import build_encoders
from extract.faults.ledger import FailureLedger
from extract.flow.pipeline import run
from extract.jobs.planning import plan_jobs
from shared.cache import FeatureCache
from shared.manifest import Manifest, Video
from shared.windows import WindowSpec

DISTINCT = 37  # lengths 64 to 100; the other clips are copies
SIZE = (128, 96)


def clips(folder: Path, count: int) -> tuple[list[Path], int]:
    """Paths of ``count`` clips, and their frames in all."""
    lengths = [64 + n % DISTINCT for n in range(count)]
    files = []
    for number, length in enumerate(lengths):
        path = folder / f"clip_{number:05d}.mp4"
        first = folder / f"clip_{number % DISTINCT:05d}.mp4"
        files.append(render(path, length, SIZE, seed=number) if number < DISTINCT else Path(shutil.copy(first, path)))
    return files, sum(lengths)


def more_to_encode(count: int, num_frames: int) -> dict[str, float]:
    """How many times as much the encoders get of the clips as of one long video, as the sleeping ones weigh it (by what
    each stage takes) and as the tiny ones are weighed (every frame of every stream alike)."""

    def stages(length: int) -> np.ndarray:
        plan = WindowSpec().plan(length)
        given = {"windows": len(WindowSpec().starts(length)), "frames": len(plan.unique["video"])}
        return np.array([(given | {s: len(plan.unique[s]) for s in ("image", "text")})[stage] for stage in SHARES])

    clips, one = sum(stages(64 + n % DISTINCT) for n in range(count)), stages(num_frames)  # (4,)
    frames = np.array([stage != "windows" for stage in SHARES])
    return {
        "tiny": float(clips[frames].sum() / one[frames].sum()),
        "sleeping": float(np.dot(list(SHARES.values()), clips / one)),
    }


def as_fast_as_decoding(folder: Path, num_frames: int, rate: float | None) -> tuple[dict[str, Any], float]:
    """Sleeping encoders, and the frames/s of a long video that they take: ``rate``, or those of the decode workers."""
    encoders = sleeping_encoders()
    file = render(folder / "calibrate.mp4", num_frames, SIZE)
    jobs = [Job("v", str(file), file, None, tuple(encoders))]
    decode_only(jobs, encoders, 2)  # imports
    decode_s, _, events = decode_only(jobs, encoders, 2)
    encode_only(events, encoders)
    rate = rate or num_frames / decode_s
    calibrate(encoders, num_frames / rate, count_batches(encoders))
    return encoders, rate


def extract(files: Sequence[Path], encoders: dict[str, Any], folder: Path) -> tuple[float, dict[str, float], int]:
    """Wall seconds, seconds per stage, and files in the cache."""
    url = folder / "cache.zarr"
    cache = FeatureCache.create(url, dataset="bench", window=WindowSpec())
    ledger = FailureLedger(str(url))
    manifest = Manifest("bench", Path("/"), tuple(Video(f.stem, str(f), str(f)) for f in files), {}, folder)
    started = time.perf_counter()
    recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
    jobs, summary = plan_jobs(manifest, cache, recipes, ledger)
    planned_s = time.perf_counter() - started
    summary = run(jobs, cache, encoders, ledger, summary)
    wall_s = time.perf_counter() - started
    if summary.failed:
        raise SystemExit(f"failed: {summary.failed}")
    num_files = sum(len(names) for _, _, names in os.walk(url))
    shutil.rmtree(url)
    return wall_s, {"plan": planned_s, **summary.seconds}, num_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rate", type=float, help="frames/s of the sleeping encoders on one long video")
    parser.add_argument("--calibrate", type=int, default=3000, help="frames to measure the decoder on")
    parser.add_argument("--repeats", type=int, default=1, help="interleaved; the ratio is taken within each")
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()
    with suppress(ImportError):
        import torch

        torch.set_num_threads(1)

    figures: dict[str, Any] = {"clips": args.clips}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, num_frames = clips(folder, args.clips)
        long = render(folder / "long.mp4", num_frames, SIZE)
        figures["frames"] = num_frames
        tiny: dict[str, Any] = dict(build_encoders(PRESETS["tiny"], ("video", "image", "text")))
        sleeping, figures["sleeping_rate"] = as_fast_as_decoding(folder, args.calibrate, args.rate)
        more = more_to_encode(args.clips, num_frames)
        print(f"{num_frames} frames, {args.clips} clips or one video")
        print(f"the sleeping encoders take {figures['sleeping_rate']:.0f} frames/s of one video")
        print(f"{'encoders':<10}{'videos':>7}{'s':>8}{'frames/s':>10}{'files':>8}  stages")
        for kind, encoders in (("tiny", tiny), ("sleeping", sleeping)):
            extract(small[:5], encoders, folder)  # warm: jit, imports
            pairs = []
            for _ in range(args.repeats):
                pairs.append([extract(files, encoders, folder) for files in ([long], small)])
                for files, (wall_s, stages, num_files) in zip(([long], small), pairs[-1], strict=True):
                    words = ", ".join(f"{stage} {s:.1f}" for stage, s in stages.items())
                    print(
                        f"{kind:<10}{len(files):>7}{wall_s:>8.1f}{num_frames / wall_s:>10.0f}{num_files:>8}  {words}",
                        flush=True,
                    )
            ratio = statistics.median(pair[1][0] / pair[0][0] for pair in pairs)
            per_item = ratio / more[kind]
            figures[f"{kind}_encoded_ratio"] = more[kind]
            words = f"raw {ratio:.3f}, {more[kind]:.3f} times as much to encode, per encoded frame {per_item:.3f}"
            print(f"{kind}: clips over one video: {words}; {pairs[0][1][2] / args.clips:.2f} files per clip")
            figures[f"{kind}_ratio"], figures[f"{kind}_ratio_per_item"] = ratio, per_item
            figures["files_per_clip"] = pairs[0][1][2] / args.clips
            figures[f"{kind}_ms_per_clip"] = 1e3 * float(np.median([p[1][0] - p[0][0] for p in pairs])) / args.clips
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
