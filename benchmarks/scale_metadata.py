"""What a million videos cost where nothing is decoded: cache folders, index, status, manifest, folds, task index.

Two simulated caches, made in a temporary folder and removed afterwards:
  * groups: --groups videos written as an extraction writes them (three streams of one window, D = 8), to measure what
    a look at every video costs, what the index saves, and what verify reads;
  * index: --videos videos as rows of the index beside empty folders of their names, for everything that reads no
    feature. Files of that many videos would take days to write.

    python benchmarks/scale_metadata.py --groups 20000 --videos 1000000
    python benchmarks/scale_metadata.py --groups 0 --part status --part train

Memory is the peak of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from shared.cache import FeatureCache, VideoInfo
from shared.cache.facts import Facts, VideoFacts
from shared.recipe import fingerprint
from shared.windows import WindowSpec

SPEC = WindowSpec()
RECIPES = {stream: {"encoder": stream, "weights": "none"} for stream in SPEC.samples}
MARKS = {stream: fingerprint(recipe) for stream, recipe in RECIPES.items()}
PARTS = ("groups", "status", "manifest", "train", "plan", "fold")
Figures = dict[str, float]


def video_path(number: int) -> str:
    """Path of a video below the data set's root: a thousand videos to a folder."""
    return f"part{number // 1000:05d}/clip_{number:07d}.mp4"


def write_groups(cache: FeatureCache, count: int) -> None:
    """Videos as an extraction writes them, with tiny features."""
    samples = SPEC.plan(64).unique
    for number in range(count):
        path = video_path(number)
        source = {"path": path, "bytes": 1000 + number, "mtime_ns": 10**18 + number, "sha256": f"{number:064x}"}
        name = path.replace("/", "__")
        writers = []
        for stream, recipe in RECIPES.items():
            kind = "window" if stream == "video" else "timeline"
            writers.append(cache.writer(name, stream, kind=kind, recipe=recipe))
            frames = samples[stream]
            features = np.ones((len(frames), 8), np.float32)
            captions = ["a caption"] * len(frames) if stream == "text" else None
            writers[-1].append(*((features[None],) if kind == "window" else (features, frames, captions)))
        cache.write_info(name, VideoInfo(source, 25.0, 64, 320, 240, 0, "none", np.arange(64) / 25))
        for writer in writers:
            writer.finish()


def write_index(cache: FeatureCache, count: int) -> None:
    """Rows of as many videos, of 64 to 100 frames each, and their folders."""
    facts = Facts(recipes={MARKS[stream]: recipe for stream, recipe in RECIPES.items()})
    for number in range(count):
        path = video_path(number)
        stamp = (path, 1000 + number, 10**18 + number, f"{number:064x}")
        facts.videos[path.replace("/", "__")] = VideoFacts(64 + number % 37, 0, *stamp, streams=MARKS)
        os.mkdir(f"{cache.url}/videos/{path.replace('/', '__')}")
    found = cache.index.read()
    cache.index.fold(found, facts)


def write_table(root: Path, count: int) -> Path:
    """A table of the videos in groups of four, with a label each."""
    lines = (f"{video_path(n)},g{n // 4},{(n // 4) % 2}\n" for n in range(count))
    table = root / "clips.csv"
    table.write_text("path,group,label\n" + "".join(lines))
    return table


# ------------------------------------------------------------------ what is measured


def groups(folder: Path, count: int) -> Figures:
    """A cache of real groups: write, look at all, index, verify."""
    url = str(folder / "groups.zarr")
    cache, figures = FeatureCache.create(url, dataset="clips", window=SPEC), {}
    figures["groups_write_s"] = timed(lambda: write_groups(cache, count))
    figures["groups_write_ms_per_video"] = 1e3 * figures["groups_write_s"] / count
    some = [f"{url}/videos/{name}" for name in sorted(os.listdir(f"{url}/videos")) if name != "zarr.json"][:100]
    found = [entry for video in some for entry in (Path(video), *Path(video).rglob("*"))]
    files = [entry for entry in found if entry.is_file()]
    figures["groups_files_per_video"] = len(files) / len(some)
    figures["groups_folders_per_video"] = (len(found) - len(files)) / len(some)
    figures["groups_kib_per_video"] = sum(file.stat().st_size for file in files) / len(some) / 1024
    figures["groups_kib_on_disk_per_video"] = sum(entry.stat().st_blocks for entry in found) / len(some) / 2
    reader = FeatureCache.open(url)
    figures["groups_list_s"] = timed(lambda: os.listdir(f"{url}/videos"))
    figures["groups_look_at_all_s"] = timed(lambda: reader.write_index(rebuild=True))
    figures["groups_index_s"] = timed(lambda: reader.write_index())
    some = sorted(reader.facts().videos)[:2000]
    figures["groups_verify_ms_per_video"] = 1e3 * timed(lambda: [reader.verify(v) for v in some]) / len(some)
    figures["groups_find_ms_per_video"] = 1e3 * timed(lambda: [reader.find(v, list(RECIPES)) for v in some]) / len(some)
    return figures


def status(folder: Path, count: int) -> Figures:
    """``extract status`` with its manifest."""
    from extract.commands.status import status as command

    with redirect_stdout(sys.stderr):
        return {"status_s": timed(lambda: command(str(folder / "clips.csv"), cache=cache_at(folder), root=None))}


def manifest(folder: Path, count: int) -> Figures:
    """The table, videos known from the cache."""
    from shared.manifest import load_manifest

    paths = FeatureCache.open(cache_at(folder)).paths().values()
    return {"manifest_s": timed(lambda: load_manifest(folder / "clips.csv", cached=paths))}


def train(folder: Path, count: int) -> Figures:
    """From the command line to the windows of every fold, features aside."""
    from shared.manifest import load_manifest
    from train.config import TrainConfig
    from train.data.features import cached_videos
    from train.data.tracks import read_tracks
    from train.experiments.crossval import assign_folds
    from train.tasks import TASKS

    figures, made = {}, {}
    cache = FeatureCache.open(cache_at(folder))
    figures["train_index_s"] = timed(lambda: made.update(frames=cached_videos(cache, list(RECIPES))[0]))
    figures["train_manifest_s"] = timed(
        lambda: made.update(manifest=load_manifest(folder / "clips.csv", cached=cache.paths().values()))
    )
    task = TASKS["violence"]
    figures["train_tracks_s"] = timed(
        lambda: made.update(tracks=read_tracks(made["manifest"], task, made["frames"])[0])
    )
    figures["train_folds_s"] = timed(lambda: assign_folds(TrainConfig(), made["tracks"]))
    figures["train_in_all_s"] = sum(v for k, v in figures.items() if k.startswith("train_"))
    return figures


def plan(folder: Path, count: int) -> Figures:
    """The resume scan of ``extract run``; the files of the videos are not there, so none is asked for its size."""
    from extract.faults.ledger import FailureLedger
    from extract.jobs.planning import plan_jobs
    from shared.manifest import load_manifest

    cache = FeatureCache.create(cache_at(folder), dataset="clips", window=SPEC)
    figures = {}
    figures["plan_index_s"] = timed(cache.facts)
    videos = load_manifest(folder / "clips.csv", cached=cache.paths().values())
    return {**figures, "plan_s": timed(lambda: plan_jobs(videos, cache, RECIPES, FailureLedger(cache.url)))}


def fold_index(folder: Path, count: int) -> Figures:
    """Reading the whole index and writing it anew."""
    cache = FeatureCache.open(cache_at(folder))
    size = sum(cache.index.signature().values())
    read_s = timed(lambda: cache.index.read())
    return {"index_mb": size / 1e6, "index_read_s": read_s, "index_fold_s": timed(cache.write_index)}


def cache_at(folder: Path) -> str:
    return str(folder / "clips.zarr")


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alone(work: Callable[[Path, int], Figures], folder: Path, count: int) -> Figures:
    """Run in a process of its own, with its peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        figures, peak = pool.apply(_measure, (work, folder, count))
    return {**figures, f"{work.__name__}_peak_mib": peak}


def _measure(work: Callable[[Path, int], Figures], folder: Path, count: int) -> tuple[Figures, float]:
    return work(folder, count), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=5000, help="videos with groups of their own; 0: none")
    parser.add_argument("--videos", type=int, default=100_000, help="videos of the index")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these (may be repeated)")
    parser.add_argument("--folder", type=Path, help="where to make the caches (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args(words)
    parts = args.part or PARTS
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=args.folder))
    figures: Figures = {"groups": args.groups, "videos": args.videos}

    def tell(found: Figures) -> None:
        figures.update(found)
        for name, value in found.items():
            print(f"{name:<32}{value:>14,.3f}", flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a million folders are not to be left behind
    try:
        if args.groups and "groups" in parts:
            tell(alone(groups, folder, args.groups))
        if set(parts) - {"groups"}:
            cache = FeatureCache.create(cache_at(folder), dataset="clips", window=SPEC)
            write_index(cache, args.videos)
            write_table(folder, args.videos)
        works = {"status": status, "manifest": manifest, "train": train, "plan": plan, "fold": fold_index}
        for name, work in works.items():
            if name in parts:
                tell(alone(work, folder, args.videos))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
