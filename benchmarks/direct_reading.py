"""Is reading plain arrays without zarr worth its file? The same streams of one cache into the same memory, both ways.

    python benchmarks/direct_reading.py
    python benchmarks/direct_reading.py --videos 2000 --json out.json

Both sides check every checksum and refuse what is not finite. The rounds alternate; the median of each side counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from shared.cache import FeatureCache, VideoInfo
from shared.cache.bulk import StoredStream
from shared.windows import WindowSpec

DIM, FRAMES = 768, 300


def write(folder: Path, num_videos: int) -> FeatureCache:
    """A cache of short clips with one stream of kind "timeline"."""
    cache = FeatureCache.create(str(folder / "c.zarr"), dataset="made", window=WindowSpec())
    frames = WindowSpec().plan(FRAMES).unique["image"]
    features = np.random.default_rng(0).normal(size=(len(frames), DIM)).astype(np.float32)
    for number in range(num_videos):
        source = {"path": f"{number}.mp4", "bytes": 1, "sha256": f"{number:064x}"}
        info = VideoInfo(source, 25.0, FRAMES, 64, 64, 0, "made-up", np.arange(FRAMES) / 25)
        cache.write_info(f"v{number}", info)
        writer = cache.writer(f"v{number}", "image", kind="timeline", recipe={"encoder": "made-up"})
        writer.append(features, frames)
        writer.finish()
    return FeatureCache.open(cache.url)


def read(streams: list[StoredStream], out: np.ndarray) -> float:
    """Seconds to read all of them."""
    started = time.perf_counter()
    for stream in streams:
        stream.read_into(out)
    return time.perf_counter() - started


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = write(Path(folder), args.videos)
        direct = [cache.find(video, ["image"])[1]["image"] for video in cache.video_ids()]
        by_zarr = [replace(stream, _plain=None) for stream in direct]
        out = np.empty((direct[0].num_rows, DIM), np.float16)
        times = [(read(direct, out), read(by_zarr, out)) for _ in range(args.rounds)]
    ours, theirs = (statistics.median(side) for side in zip(*times, strict=True))
    megabytes = args.videos * out.nbytes / 2**20
    print(
        f"{args.videos} streams of {out.shape[0]} x {DIM} float16, {megabytes:.0f} MiB, median of {args.rounds} rounds"
    )
    print(f"direct  {ours:.3f} s   {megabytes / ours:8.0f} MiB/s")
    print(f"zarr    {theirs:.3f} s   {megabytes / theirs:8.0f} MiB/s")
    print(f"zarr takes {theirs / ours:.1f} times as long")
    if args.json:
        args.json.write_text(json.dumps({"zarr_over_direct": theirs / ours}))


if __name__ == "__main__":
    main()
