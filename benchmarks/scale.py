"""One job by one process, by two shards, by one and two encoder processes of a Ray cluster, all on this machine.

Every way is what a user would type, ``python -m extract run ...`` as processes of their own, into a fresh cache each,
over the same rendered clips; the wall seconds are those of the whole commands, with the start and the end of Python, of
the encoders and of Ray. The ways take turns, ``--repeats`` times. What each made is compared, number for number.

    python benchmarks/scale.py                                     # a job of a minute or more for one process
    python benchmarks/scale.py --clips 100 --ways local ray-1 --repeats 3 --json out.json

On one machine all ways share the same cores, and more than what one process leaves idle cannot be gained. "cores busy"
says how much that is: CPU seconds of the whole machine over wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from extract_pipeline import render

from shared.cache import FeatureCache

DISTINCT = 10  # the other clips are copies
WAYS: dict[str, list[list[str]]] = {  # name -> options of each process
    "local": [[]],
    "shards-2": [["--shard", "1/2"], ["--shard", "2/2"]],
    "ray-1": [["--engine", "ray"]],
    "ray-2": [["--engine", "ray", "--actors", "2"]],
}


def machine_cpu_s() -> float:
    """CPU seconds of the whole machine so far; Ray's processes are not children of the run."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system = (int(w) for w in words[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def run_once(way: str, videos: Path, cache: Path, preset: str) -> tuple[float, float]:
    """Wall and CPU seconds of one way.

    Raises:
        RuntimeError: a process failed.
    """
    command = [sys.executable, "-m", "extract", "run", str(videos), "--preset", preset, "--cache", str(cache)]
    cpu, started = machine_cpu_s(), time.perf_counter()
    processes = [
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for options in WAYS[way]
    ]
    outputs = [process.communicate()[0] for process in processes]
    wall = time.perf_counter() - started
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{way}: {outputs}")
    return wall, machine_cpu_s() - cpu


def same(one: Path, other: Path) -> bool:
    """Whether two caches hold the same numbers."""
    first, second = FeatureCache.open(one), FeatureCache.open(other)
    if set(first.video_ids()) != set(second.video_ids()):
        return False
    for video in first.video_ids():
        if first.streams(video) != second.streams(video):
            return False
        for stream in first.streams(video):
            if not np.array_equal(first.read(video, stream).features, second.read(video, stream).features):
                return False
    return True


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=80)
    parser.add_argument("--frames", type=int, default=300, help="of each clip")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        videos = Path(scratch) / "clips"
        videos.mkdir()
        for number in range(options.clips):
            first = videos / f"{number % DISTINCT:05d}.mp4"
            if number < DISTINCT:
                render(first, options.frames, tuple(options.size), seed=number)
            else:
                shutil.copy(first, videos / f"{number:05d}.mp4")
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in options.ways}
        for repeat in range(options.repeats):
            for way in options.ways:
                found[way].append(run_once(way, videos, Path(scratch) / f"{way}-{repeat}.zarr", options.preset))
        first = Path(scratch) / f"{options.ways[0]}-0.zarr"
        equal = all(same(first, Path(scratch) / f"{way}-0.zarr") for way in options.ways[1:])
    print(f"{options.clips} clips of {options.frames} frames, preset {options.preset}; {options.repeats} repeats")
    print(f"{'way':10} {'wall s':>8} {'against ' + options.ways[0]:>16} {'cores busy':>11}")
    base = [wall for wall, _ in found[options.ways[0]]]
    for way, times in found.items():
        wall = statistics.median(w for w, _ in times)
        ratio = statistics.median(w / b for (w, _), b in zip(times, base, strict=True))
        busy = statistics.median(c / w for w, c in times)
        print(f"{way:10} {wall:8.1f} {ratio:15.2f}x {busy:11.2f}")
        figures |= {f"{way}_wall_s": wall, f"{way}_ratio": ratio, f"{way}_cores_busy": busy}
    print(f"all caches hold the same numbers: {'yes' if equal else 'NO'}")
    figures["equal"] = float(equal)
    if options.json:
        options.json.write_text(json.dumps(figures))
    if not equal:
        sys.exit(1)


if __name__ == "__main__":
    main()
