"""One job by one process, by two shards, by one and two encoder processes of a Ray cluster, all on this machine.

Every way is what a user would type, ``python -m extract run ...`` as processes of their own, into a fresh cache each,
over the same rendered clips; the wall seconds are those of the whole commands, with the start and the end of Python, of
the encoders and of Ray. The ways take turns, forwards and backwards, so that a slow spell of the machine hits all of
them, and a ratio is of two runs of one turn. What each made is compared, number for number. Two kinds of work:

    encode   VideoPrism-B and CLIP ViT-B/32 at real size, random weights, the offline captioner: as in a real
             extraction nearly all of the time goes into encoding
    decode   toy encoders on 640x480: decoding keeps all cores busy

    python benchmarks/scale.py --work encode                       # a job of a minute or more for one process
    python benchmarks/scale.py --work decode --ways local ray-1 --repeats 3 --json out.json

Each way also does a job of a few clips in every turn. From both follow what it costs to begin and to end ("fixed s")
and what a clip costs ("s per clip").

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
from dataclasses import dataclass, field
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
CLIP = "ViT-B-32"


@dataclass(frozen=True)
class Job:
    """Clips to extract: how many in the whole job and in the small one, frames of each, (width, height)."""

    clips: int
    few: int
    frames: int
    size: tuple[int, int]


JOBS = {"encode": Job(6, 1, 128, (640, 480)), "decode": Job(60, 6, 300, (640, 480))}


@dataclass
class Times:
    """What one way took, turn by turn, in wall seconds of the whole job and of the small one."""

    whole: list[float] = field(default_factory=list)
    few: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)


def encoder_options(work: str, scratch: Path) -> list[str]:
    """Of ``extract run``. Weights at real size are drawn once, into the scratch folder."""
    if work == "decode":
        return ["--preset", "tiny"]
    video, clip = scratch / "videoprism-base.npz", scratch / "clip.pt"
    if not video.exists():
        from extract.encoders.videoprism import ARCHITECTURES, init_params, save_checkpoint

        save_checkpoint(video, init_params(ARCHITECTURES["base"], seed=0))
    if not clip.exists():
        import open_clip
        import torch

        torch.manual_seed(0)
        torch.save(open_clip.create_model(CLIP).state_dict(), clip)
    words = ["--preset", "base", "--videoprism-weights", str(video), "--clip-model", CLIP, "--clip-weights", str(clip)]
    return [*words, "--captioner", "offline", "--device", "cpu"]


def write_clips(folder: Path, job: Job, count: int) -> Path:
    """So many clips, unless they are there."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05d}.mp4"
        if number < DISTINCT:
            render(path, job.frames, job.size, seed=number)
        elif not path.exists():
            shutil.copy(folder / f"{number % DISTINCT:05d}.mp4", path)
    return folder


def machine_cpu_s() -> float:
    """CPU seconds of the whole machine so far; Ray's processes are not children of the run."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system = (int(w) for w in words[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def run_once(way: str, videos: Path, cache: Path, encoders: Sequence[str]) -> tuple[float, float]:
    """Wall seconds of one way, and how many cores were busy.

    Raises:
        RuntimeError: a process failed.
    """
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "extract", "run", str(videos), *encoders, "--cache", str(cache)]
    cpu, started = machine_cpu_s(), time.perf_counter()
    processes = [
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for options in WAYS[way]
    ]
    outputs = [process.communicate()[0] for process in processes]
    wall = time.perf_counter() - started
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{way}: {outputs}")
    return wall, (machine_cpu_s() - cpu) / wall


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


def measure(
    ways: Sequence[str], repeats: int, work: str, job: Job, scratch: Path
) -> tuple[dict[str, Times], bool | None]:
    """Times by way, and whether all caches hold the same numbers (None: there was nothing to compare)."""
    encoders = encoder_options(work, scratch)
    whole = write_clips(scratch / f"{work}-{job.clips}", job, job.clips)
    few = write_clips(scratch / f"{work}-{job.few}", job, job.few)
    found = {way: Times() for way in ways}
    for repeat in range(repeats):
        for way in ways if repeat % 2 == 0 else reversed(ways):
            wall, busy = run_once(way, whole, scratch / f"{work}-{way}.zarr", encoders)
            found[way].whole.append(wall)
            found[way].busy.append(busy)
            print(f"# {way}: {job.clips} clips {wall:.1f} s", file=sys.stderr, flush=True)
            found[way].few.append(run_once(way, few, scratch / f"{work}-few.zarr", encoders)[0])
            print(f"# {way}: {job.few} clips {found[way].few[-1]:.1f} s", file=sys.stderr, flush=True)
    caches = [scratch / f"{work}-{way}.zarr" for way in ways]
    return found, all(same(caches[0], cache) for cache in caches[1:]) if repeats and len(ways) > 1 else None


def spread(values: Sequence[float], digits: int) -> str:
    """min/median/max."""
    return "/".join(f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))


def report(found: dict[str, Times], job: Job) -> dict[str, float]:
    """Print a line for each way; returns the figures."""
    base, figures = next(iter(found.values())), dict[str, float]()
    print(
        f"{'way':10} {'wall s':>20} {'against ' + next(iter(found)):>17} {'fixed s':>8} {'s per clip':>11} {'cores':>6}"
    )
    for way, times in found.items():
        wall, small = statistics.median(times.whole), statistics.median(times.few)
        ratios = [w / b for w, b in zip(times.whole, base.whole, strict=True)]
        slope = (wall - small) / (job.clips - job.few)
        fixed, busy = small - slope * job.few, statistics.median(times.busy)
        print(f"{way:10} {spread(times.whole, 1):>20} {spread(ratios, 3):>17} {fixed:8.1f} {slope:11.3f} {busy:6.2f}")
        figures |= {f"{way}_wall_s": wall, f"{way}_ratio": statistics.median(ratios), f"{way}_cores_busy": busy}
        figures |= {f"{way}_fixed_s": fixed, f"{way}_s_per_clip": slope, f"{way}_few_s": small}
        figures |= {f"{way}_ratio_min": min(ratios), f"{way}_ratio_max": max(ratios)}
    return figures


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=JOBS, default="encode")
    parser.add_argument("--clips", type=int, nargs=2, metavar=("WHOLE", "FEW"), help="of both jobs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=1, help="0 only writes what is needed into --scratch")
    parser.add_argument(
        "--scratch", type=Path, help="an empty folder, or that of an earlier run, whose clips serve again"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    job = JOBS[options.work]
    if options.clips:
        job = Job(*options.clips, job.frames, job.size)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        found, equal = measure(options.ways, options.repeats, options.work, job, scratch)
    if not options.repeats:
        return
    print(f"{options.work}: {job.clips} clips of {job.frames} frames (few: {job.few}); {options.repeats} repeats")
    figures = report(found, job)
    if equal is not None:
        print(f"all caches hold the same numbers: {'yes' if equal else 'NO'}")
        figures["equal"] = float(equal)
    if options.json:
        options.json.write_text(json.dumps(figures))
    if equal is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
