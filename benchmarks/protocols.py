"""From official label folders to a checked submission, at the size of Aff-Wild2 and DVD, without training.

Writes synthetic data sets in the official formats: Aff-Wild2 with 432 annotated tracks and 2 M label rows for each of
VA, EXPR and AU, and 162 test tracks with a template of 0.9 M rows; DVD with 120 annotated videos and 0.85 M rows, and
20 test videos. Features are random and written straight into a cache; the head has random weights. Then the commands
are run as a user runs them, each in a process of its own, and timed:

    extract doctor    matches videos and labels, counts rows against frames
    train evaluate    scores every labelled frame, raw and post-processed, with intervals
    train submit      fills the template and checks what it wrote
    train validate-submission

    python benchmarks/protocols.py                  # about 10 minutes on 2 cores, most of it writing the data sets
    python benchmarks/protocols.py --quick          # a hundredth of the rows: shows that it works
    python benchmarks/protocols.py --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

from shared.cache import FeatureCache, VideoInfo
from shared.datasets import find_dataset
from shared.labels.annotations import AU_NAMES, EXPR_NAMES
from shared.labels.formats import read_labels
from shared.manifest import load_manifest
from shared.windows import WindowSpec
from train.commands.parts import completed
from train.config import TrainConfig
from train.data.features import cached_videos, load_features
from train.data.tracks import read_tracks
from train.experiments.crossval import assign_folds
from train.judging.evaluate import TrackScores
from train.judging.postprocess import identity, tune
from train.runs.checkpoints import build_model, save_model
from train.runs.files import write_json
from train.runs.folder import create_run, run_facts
from train.tasks import task_named

REPO = Path(__file__).resolve().parents[1]
SPEC = WindowSpec(size=64, stride=64)
DIM = 16
FOLDERS = {"va": "VA_Estimation_Challenge", "expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"}
HEADERS = {"va": "valence,arousal", "expr": ",".join(EXPR_NAMES), "au": ",".join(AU_NAMES)}
DUMMIES = {"va": "0.5,-0.5", "expr": "0", "au": ",".join("0" * 12)}


@dataclass(frozen=True)
class Sizes:
    """Tracks and rows of the published editions (VA), and of DVD."""

    train: int = 356
    val: int = 76
    rows: int = 2_065_871
    test: int = 162
    test_rows: int = 927_210
    dvd: tuple[int, int, int] = (103, 17, 20)
    dvd_rows: int = 849_000


def lengths(num: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of videos as in Aff-Wild2: skewed, a few ten times the median, their sum given."""
    raw = rng.lognormal(0, 0.75, num)
    found = np.maximum((raw / raw.sum() * total).astype(int), 73)
    found[-1] += max(total - found.sum(), 0)
    return found


def wave(num: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Slowly changing values in [-1, 1]: (num, columns)."""
    time_ = np.arange(num)[:, None] / rng.uniform(40, 400, columns)
    return np.sin(time_ + rng.uniform(0, 6.3, columns)) * rng.uniform(0.3, 1, columns)


def label_text(task: str, num: int, rng: np.random.Generator) -> str:
    values = wave(num, 12, rng)
    masked = rng.random(num) < 0.002
    if task == "va":
        rows = [f"{v:.3f},{a:.3f}" for v, a in values[:, :2]]
        mark = "-5,-5"
    elif task == "expr":
        rows = np.digitize(values[:, 0], np.linspace(-0.9, 0.9, 7)).astype(str).tolist()
        mark = "-1"
    else:
        bits = (values > 0.5).astype(int).astype(str)
        rows, mark = [",".join(row) for row in bits.tolist()], ",".join(["-1"] * 12)
    rows = [mark if m else row for row, m in zip(rows, masked.tolist(), strict=True)]
    return "\n".join([HEADERS[task], *rows]) + "\n"


def tiny_video(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_features(cache: FeatureCache, video: str, path: str, num_frames: int, rng: np.random.Generator) -> None:
    plan = SPEC.plan(num_frames)
    source = {"path": path, "bytes": num_frames, "sha256": f"{video}-{num_frames}"}
    cache.write_info(video, VideoInfo(source, 30.0, num_frames, 32, 32, 0, "synthetic", np.arange(num_frames) / 30))
    for stream in SPEC.samples:
        kind = "window" if stream == "video" else "timeline"
        frames = plan.frames[stream] if kind == "window" else plan.unique[stream]
        recipe = {"encoder": stream, "weights": "random, seed 0", "model": "synthetic"}
        writer = cache.writer(video, stream, kind=kind, recipe=recipe)
        features = rng.normal(size=(*frames.shape, DIM)).astype(np.float16)
        if kind == "window":
            writer.append(features)
        else:
            writer.append(features, frames, [f"frame {f}" for f in frames] if stream == "text" else None)
        writer.finish()


def write_affwild2(root: Path, sizes: Sizes, rng: np.random.Generator) -> FeatureCache:
    """432 labelled tracks over 418 videos (14 have two people), 162 test tracks, three tasks, three templates."""
    num = sizes.train + sizes.val
    rows = lengths(num, sizes.rows, rng)
    places = ["batch1", "batch2", "new_vids"]
    clip = tiny_video(root / "clip.mp4")
    cache = FeatureCache.create(root / "affwild2.zarr", dataset="affwild2", window=SPEC)
    for i in range(num):
        second = 0 < i % 30 <= 1 and i + 1 < num  # every 30th track is the second person of the one before
        video = f"{(i - 1 if second else i) + 1000}-30-640x360"
        track = f"{video}_right" if second else video
        split = "Train_Set" if i < sizes.train else "Validation_Set"
        length = int(rows[i - 1] if second else rows[i]) + int(rng.random() < 0.6)  # most files have a row too many
        for task, folder in FOLDERS.items():
            file = root / "6th_ABAW_Annotations" / folder / split / f"{track}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(label_text(task, length, rng))
        if not second:
            path = Path(places[i % 3]) / f"{video}.mp4"
            (root / path.parent).mkdir(exist_ok=True)
            os.link(clip, root / path)
            write_features(cache, video, str(path), int(rows[i]), rng)
    wanted = []
    for i, length in enumerate(lengths(sizes.test, sizes.test_rows, rng).tolist()):
        video, path = f"{i + 5000}-30-640x360", Path("batch1") / f"{i + 5000}-30-640x360.mp4"
        os.link(clip, root / path)
        write_features(cache, video, str(path), max(length - 1, 1), rng)
        wanted += [f"{video}/{n:05d}.jpg" for n in range(1, length + 1)]
    for task in FOLDERS:
        lines = [f"image_location,{HEADERS[task]}", *(f"{place},{DUMMIES[task]}" for place in wanted)]
        (root / f"template_{task}.txt").write_text("\n".join(lines) + "\n")
    return cache


def write_dvd(root: Path, sizes: Sizes, rng: np.random.Generator) -> FeatureCache:
    """Annotated videos of both splits, and a template folder for the test videos."""
    clip = tiny_video(root / "clip.mp4")
    cache = FeatureCache.create(root / "dvd.zarr", dataset="dvd", window=SPEC)
    rows, number = lengths(sum(sizes.dvd), int(sizes.dvd_rows * sum(sizes.dvd) / sum(sizes.dvd[:2])), rng), 0
    for split, count in zip(("Training", "Validation", "Test"), sizes.dvd, strict=True):
        for folder in ("videos", "annotations"):
            (root / split / folder).mkdir(parents=True)
        for _ in range(count):
            video, length = f"{number:04d}", int(rows[number])
            violent = wave(length, 1, rng)[:, 0] > 0.1
            values = violent.astype(int).tolist() if split != "Test" else [0] * length
            lines = ["Frame_Number,Label", *(f"{f},{v}" for f, v in enumerate(values, start=1))]
            (root / split / "annotations" / f"{video}.csv").write_text("\n".join(lines) + "\n")
            path = Path(split) / "videos" / f"{video}.mp4"
            if split != "Test":
                os.link(clip, root / path)
            write_features(cache, video, str(path), length, rng)
            number += 1
    return cache


def untrained_run(runs: Path, dataset: str, task_name: str, root: Path, cache: FeatureCache) -> Path:
    """A finished run whose head has random weights: `evaluate` and `submit` cannot tell it from a trained one."""
    task = task_named(task_name)
    config = completed(TrainConfig(folds="official"), task)
    manifest = load_manifest(find_dataset(dataset), root, cached=cache.paths().values())
    num_frames, _ = cached_videos(cache, list(SPEC.samples))
    tracks, labels = read_tracks(manifest, task, num_frames)
    few = tracks[:4]  # sizes and recipes are the same for all
    features = load_features(cache, sorted({t.video_id for t in few}), list(SPEC.samples))
    folds = assign_folds(config, tracks)
    run = create_run(
        runs, f"{dataset}-{task_name}", run_facts(task, config, manifest, cache, features, tracks, labels, folds, False)
    )
    torch.manual_seed(0)
    save_model(build_model(task, config, features.dims), run.checkpoint(0))
    noise = np.random.default_rng(0)
    scored = [
        TrackScores(t, noise.random((len(t.labels), len(task.score_names))), 0) for t in tracks if t.split == "val"
    ]
    started = time.perf_counter()
    settings = tune(task, scored, (1 / task.outputs,) * task.outputs if task.kind == "classes" else ())
    print(
        f"  tuning on {sum(len(t.scores) for t in scored):,} frames: {time.perf_counter() - started:.1f} s", flush=True
    )
    assert len(settings.half_widths) == len(identity(task).half_widths)
    write_json(run.path / "metrics.json", {"postprocessed": {"combined": settings.to_dict()}})
    return run.path


def parse_seconds(files: list[Path], form: str) -> tuple[float, int]:
    started = time.perf_counter()
    rows = sum(len(read_labels(file, form)) for file in files)
    return time.perf_counter() - started, rows


def commands(dataset: str, task: str, root: Path, cache: str, run: Path) -> Iterator[tuple[str, list[str]]]:
    data = ["--root", str(root), "--cache", cache]
    output = root / f"submission_{task}{'' if task == 'violence' else '.txt'}"
    template = root / ("Test/annotations" if task == "violence" else f"template_{task}.txt")
    yield "doctor", ["extract", "doctor", "--dataset", dataset, *data]
    yield "evaluate", ["train", "evaluate", dataset, "--run", str(run), *data]
    yield "submit", ["train", "submit", cache, "--run", str(run), "--template", str(template), "--output", str(output)]
    yield "validate", ["train", "validate-submission", str(output), "--task", task, "--template", str(template)]


def measure(dataset: str, task: str, root: Path, cache: FeatureCache, work: Path) -> dict[str, float]:
    """Seconds of every command of one task; all must end with status 0."""
    run = untrained_run(work / "runs", dataset, task, root, cache)
    seconds = {}
    for name, words in commands(dataset, task, root, cache.url, run):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *words], cwd=REPO, capture_output=True, text=True, check=False)
        seconds[name] = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows")
    parser.add_argument("--tasks", default="va,expr,au,violence")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = Sizes(rows=40_000, test_rows=15_000, dvd_rows=12_000) if options.quick else Sizes()
    tasks = options.tasks.split(",")
    figures: dict[str, float] = {}
    work = Path(tempfile.mkdtemp(prefix="protocols-"))
    try:
        makers: Mapping[str, tuple] = {
            "affwild2": (write_affwild2, ("va", "expr", "au")),
            "dvd": (write_dvd, ("violence",)),
        }
        for dataset, (write, own) in makers.items():
            if not set(own) & set(tasks):
                continue
            root, started = work / dataset, time.perf_counter()
            root.mkdir()
            cache = write(root, sizes, np.random.default_rng(0))
            print(f"{dataset} written in {time.perf_counter() - started:.0f} s (not counted)", flush=True)
            for task in (t for t in own if t in tasks):
                pattern = f"6th*/{FOLDERS[task]}/*/*.txt" if dataset == "affwild2" else "[TV][ra]*/annotations/*.csv"
                form = "dvd" if dataset == "dvd" else f"affwild2-{task}"
                files = sorted(root.glob(pattern))
                took, rows = parse_seconds(files, form)
                print(f"{task}: {len(files)} files, {rows:,} label rows parsed in {took:.1f} s", flush=True)
                seconds = measure(dataset, task, root, cache, work)
                total = sum(seconds.values())
                words = ", ".join(f"{name} {s:.1f}" for name, s in seconds.items())
                print(f"  {words}; together {total:.1f} s", flush=True)
                figures |= {f"{task}_parse_s": took, f"{task}_rows": rows, f"{task}_total_s": total}
                figures |= {f"{task}_{name}_s": s for name, s in seconds.items()}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
