"""Training speed: what the field does against resident features, folds one after another against all in one program.

    python benchmarks/train_speed.py                      # 2,000 windows, a few minutes on 2 cores
    python benchmarks/train_speed.py --scale affwild2     # 52,000 windows; on a GPU also 5 folds, 20 epochs, compiled
    python benchmarks/train_speed.py --quick              # toy sizes, seconds
    python benchmarks/train_speed.py --json out.json

A random cache is written by the product's own writer, and the same windows as HDF5 and as Zarr with one chunk a window,
as a Dataset reads them. All ways run in one process, interleaved, with batches of the same number and size. Reading one
by one is measured on at most 2,000 windows. The per-item ways are counted at their better number of workers. With a
model, the clock runs over steps: no way's set-up counts, and ours include one validation batch.

HDF5 is measured twice. "by video" is a group for each video with a dataset for each stream, the structure of the cache
and of most feature files, in a file that stays open, each item looked up by name; ``resident_over_hdf5`` and
``bulk_read_over_hdf5`` are of it. "one dataset" is three datasets over all videos, looked up once: the fastest that
HDF5 can be, where nothing says which row is whose (keys with ``_rows`` and ``_whole``). HDF5 checks nothing here; ours
checks a CRC-32C of every chunk and that values are finite.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from sections.field import BATCH, STREAMS, Items, train_plainly, wait, write_items
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from shared.cache import FeatureCache, VideoInfo
from shared.windows import WindowSpec
from train.config import TrainConfig
from train.data.features import Features, Windows, build_windows, load_features
from train.data.labels import Track
from train.data.resident import gather_for, place
from train.fit.fitting import new_objective, targets_of
from train.fit.loop import fit
from train.fit.together import Member, fit_together
from train.heads.layers import written_out
from train.tasks import TASKS

SPEC = WindowSpec()
SCALES = {"quick": (60, 3, 16), "default": (2_000, 22, 768), "affwild2": (52_000, 564, 768)}  # windows, videos, D
FOLDS, PER_ITEM = 5, 2_000
TASK = TASKS["violence"]


# ------------------------------------------------------------------ data


def make_cache(url: Path, num_windows: int, num_videos: int, dim: int) -> FeatureCache:
    """Random features of videos of equal length."""
    cache = FeatureCache.create(url, dataset="random", window=SPEC)
    rng = np.random.default_rng(0)
    block = rng.normal(size=(4096, dim)).astype(np.float16)
    num_frames = SPEC.size + SPEC.stride * (round(num_windows / num_videos) - 1)
    plan = SPEC.plan(num_frames)
    source = {"path": "made-up", "bytes": 1, "sha256": "0" * 64}
    for number in range(num_videos):
        video_id = f"video{number:04d}"
        pts = np.arange(num_frames) / 25
        cache.write_info(video_id, VideoInfo(source, 25.0, num_frames, 640, 360, 0, "made-up", pts))
        for stream in STREAMS:
            windowed, frames = stream == "video", plan.unique[stream]
            count = plan.frames[stream].size if windowed else len(frames)
            rows = block[rng.integers(0, len(block), count)]
            recipe = {"encoder": stream, "model": "random", "weights": "0" * 64}
            writer = cache.writer(video_id, stream, kind="window" if windowed else "timeline", recipe=recipe)
            if windowed:
                writer.append(rows.reshape(*plan.frames[stream].shape, dim))
            else:
                captions = [f"a caption of frame {f}" for f in frames] if stream == "text" else None
                writer.append(rows, frames, captions)
            writer.finish()
    return FeatureCache.open(url)


def load(cache: FeatureCache) -> Features:
    return load_features(cache, cache.video_ids(), STREAMS)


def make_windows(features: Features) -> Windows:
    """With random yes/no labels."""
    rng = np.random.default_rng(1)
    tracks = []
    for video_id, plan in features.plans.items():
        labels = np.repeat(rng.integers(0, 2, (plan.num_frames // 16 + 1, 1)), 16, axis=0)[: plan.num_frames]
        tracks.append(Track(video_id, video_id, video_id, None, None, labels.astype(np.float32), "made-up"))
    return build_windows(tracks, features, "majority", 0.5)


def interleaved(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every way, each way once per round, after a warm-up round."""
    for way in ways.values():
        way()
    rounds = [{name: way() for name, way in ways.items()} for _ in range(repeats)]
    return {name: [r[name] for r in rounds] for name in ways}


def clocked(work: Callable[[], object], device: str = "cpu") -> float:
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def ratios(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """min, median, max over rounds."""
    found = [a / b for a, b in zip(slow, fast, strict=True)]
    return min(found), statistics.median(found), max(found)


def _print_row(name: str, seconds: list[float], windows: int, steps: int | None = None) -> None:
    low, mid, high = (windows / s for s in (max(seconds), statistics.median(seconds), min(seconds)))
    per_step = f"{1e3 * statistics.median(seconds) / steps:>10.2f}" if steps else ""
    print(f"{name:<36}{f'{low:,.0f}/{mid:,.0f}/{high:,.0f}':>30}{per_step}", flush=True)


# ------------------------------------------------------------------ measurements


def measure_bulk(cache: FeatureCache, features: Features, folder: Path, repeats: int) -> dict[str, float]:
    def read_whole() -> dict[str, np.ndarray]:
        with h5py.File(folder / "bulk.h5") as file:
            return {s: file[s][...] for s in STREAMS}

    def read_by_video() -> dict[str, np.ndarray]:
        """Straight into banks, as well as h5py can."""
        with h5py.File(folder / "videos.h5") as file:
            found = {s: np.empty(tuple(bank.shape), np.float16) for s, bank in features.banks.items()}
            first = dict.fromkeys(STREAMS, 0)
            for group in file.values():
                for stream in STREAMS:
                    stored = group[stream]
                    stored.read_direct(found[stream][first[stream] : first[stream] + len(stored)])
                    first[stream] += len(stored)
        return found

    read_ours = lambda: {s: bank.numpy() for s, bank in load(cache).banks.items()}  # noqa: E731
    ways = {"HDF5, by video": read_by_video, "HDF5, one dataset": read_whole, "ours": read_ours}
    wanted = read_ours()
    for name, way in ways.items():
        assert all(np.array_equal(values, wanted[s]) for s, values in way().items()), name
    times = interleaved({name: lambda way=way: clocked(way) for name, way in ways.items()}, repeats)
    num_bytes = sum(2 * bank.numel() for bank in features.banks.values())
    print(
        f"\nbulk read, {num_bytes / 1e6:,.0f} MB of {len(features.plans)} videos, warm page cache, GB/s min/median/max"
    )
    for name, seconds in times.items():
        rates = [num_bytes / s / 1e9 for s in (max(seconds), statistics.median(seconds), min(seconds))]
        print(f"{name:<36}{'/'.join(f'{r:.2f}' for r in rates):>30}")
    found = {}
    for name, key in (("HDF5, by video", "bulk_read_over_hdf5"), ("HDF5, one dataset", "bulk_read_over_hdf5_whole")):
        low, mid, high = ratios(times[name], times["ours"])
        print(f"ours over {name}: {low:.2f}/{mid:.2f}/{high:.2f}")
        found |= {key: mid, f"{key}_min": low, f"{key}_max": high}
    return found


def measure_data_path(
    folder: Path, features: Features, windows: Windows, count: int, repeats: int, device: str
) -> dict[str, float]:
    """Batches of 8 without a model; Zarr on fewer windows, or it would take most of the time."""
    order = np.random.default_rng(2).permutation(count)
    gather = gather_for(STREAMS, features, windows, device)
    index, targets = torch.from_numpy(order).to(device), targets_of(TASK, windows.labels).to(device)
    files = {
        "HDF5, one dataset": "items.h5",
        "HDF5, by video": "named.h5",
        "Zarr, a chunk a window": "items.zarr",
    }
    items = {k: Items(folder / file, windows, count) for k, file in files.items()}

    def resident() -> None:
        for part in index.split(BATCH):
            gather(part), targets[part]

    def per_item(kind: str, workers: int, num: int) -> float:
        batches: Iterator[object] = iter(
            DataLoader(items[kind], BATCH, sampler=order[:num].tolist(), num_workers=workers)
        )
        next(batches)  # workers have started and opened the file
        seconds = clocked(lambda: [None for _ in batches])
        return seconds * count / (num - BATCH)

    few = max(3 * BATCH, min(count, 480))
    ways: dict[str, Callable[[], float]] = {"resident": lambda: clocked(resident, device)}
    for kind in items:
        num = few if kind.startswith("Zarr") else count
        for workers in (0, 2):
            ways[f"{kind}, {workers} workers"] = lambda k=kind, w=workers, n=num: per_item(k, w, n)
    times = interleaved(ways, repeats)
    print("\ndata path alone, batches of 8                windows/s min/median/max")
    for name, seconds in times.items():
        _print_row(name, seconds, count)
    found = {}
    for kind, key in zip(items, ("hdf5_rows", "hdf5", "zarr"), strict=True):
        best = min((times[f"{kind}, {w} workers"] for w in (0, 2)), key=statistics.median)
        low, mid, high = ratios(best, times["resident"])
        print(f"resident over {kind}: {low:.1f}/{mid:.1f}/{high:.1f}")
        found |= {f"resident_over_{key}": mid, f"resident_over_{key}_min": low, f"resident_over_{key}_max": high}
    return found


def members_of(windows: Windows, steps: int) -> list[Member]:
    """Five folds of so many full batches each, and one batch to choose the epoch by."""
    known = np.random.default_rng(3).permutation(np.flatnonzero(windows.labelled))
    config = TrainConfig(max_epochs=1, batch_size=BATCH)
    members = []
    for fold in range(FOLDS):
        own = np.roll(known, fold * len(known) // FOLDS)
        train, val = np.zeros(len(windows), bool), np.zeros(len(windows), bool)
        val[own[:BATCH]] = train[own[BATCH : BATCH * (steps + 1)]] = True
        members.append(Member(config, train, val, fold))
    return members


def measure_training(
    folder: Path, features: Features, windows: Windows, count: int, steps: int, repeats: int, device: str
) -> dict[str, float]:
    """Five folds of some steps: the field's way, ours one after another, ours at once."""
    members = members_of(windows, steps)
    dim = next(iter(features.dims.values()))
    orders = [np.random.default_rng(k).permutation(count)[: steps * BATCH] for k in range(FOLDS)]
    items = {k: Items(folder / f"items.{k}", windows, count) for k in ("h5", "zarr")}

    def singly() -> float:
        fits = [fit(TASK, m.config, features, windows, m.train, m.val, fold=m.fold, device=device) for m in members]
        return sum(f.history[-1]["seconds"] for f in fits)

    def at_once(compiled: bool = False) -> float:
        fits = fit_together(TASK, members, features, windows, device=device, compiled=compiled)
        return fits[0].history[-1]["seconds"]

    ways: dict[str, Callable[[], float]] = {
        "(a) HDF5, nn.GRU, 0 workers": lambda: train_plainly(items["h5"], orders, dim, 0, device),
        "(a) HDF5, nn.GRU, 2 workers": lambda: train_plainly(items["h5"], orders, dim, 2, device),
        "(a) Zarr, nn.GRU, 0 workers": lambda: train_plainly(items["zarr"], orders, dim, 0, device),
        "(b) resident, one after another": singly,
        "(c) resident, all in one program": at_once,
    }
    if device != "cpu":
        ways["(d) the same, compiled"] = lambda: at_once(compiled=True)
    times = interleaved(ways, repeats)
    done = FOLDS * steps * BATCH
    print(f"\n{FOLDS} folds of {steps} steps of 8          windows/s min/median/max, ms per step of one fold")
    for name, seconds in times.items():
        _print_row(name, seconds, done, FOLDS * steps)
    one, together = times["(b) resident, one after another"], times["(c) resident, all in one program"]
    low, mid, high = ratios(one, together)
    print(f"(b) over (c): {low:.2f}/{mid:.2f}/{high:.2f}")
    found = {"folds_together_ratio": mid, "folds_together_ratio_min": low, "folds_together_ratio_max": high}
    rate, flops = matmul_rate(device), step_flops(features, windows, members[0])
    for name, seconds in times.items():
        if name[:3] in ("(c)", "(d)"):
            share = flops * FOLDS * steps / statistics.median(seconds) / rate
            print(f"{name[:3]} reaches {share:.1%} of the {rate / 1e9:,.0f} GFLOP/s that float32 matmul reaches here")
            found[f"matmul_share_{name[1]}"] = share
    return found | {"max_abs_diff": together_difference(members, features, windows, device)}


def together_difference(members: list[Member], features: Features, windows: Windows, device: str) -> float:
    """Largest difference of a weight after the same steps, one after another and at once."""
    alone = [fit(TASK, m.config, features, windows, m.train, m.val, fold=m.fold, device=device).model for m in members]
    both = zip(alone, fit_together(TASK, members, features, windows, device=device), strict=True)
    states = [(a.state_dict(), b.model.state_dict()) for a, b in both]
    found = max(float((a[k].double() - b[k].double()).abs().max()) for a, b in states for k in a)
    print(f"largest difference of a weight between (b) and (c): {found:.1e}")
    return found


def step_flops(features: Features, windows: Windows, member: Member) -> int:
    """Floating-point operations of the matrix products of one training step of one fold."""
    rows = torch.from_numpy(np.flatnonzero(member.train))
    objective = copy.deepcopy(new_objective(TASK, member.config, features, windows, rows, 0)).eval()
    inputs = gather_for(STREAMS, features, windows, "cpu")(rows[:BATCH])
    targets = targets_of(TASK, windows.labels)[rows[:BATCH]]
    with FlopCounterMode(display=False) as counter, written_out():
        objective(inputs, targets, None).backward()
    return counter.get_total_flops()


def matmul_rate(device: str, size: int = 2048) -> float:
    """Operations per second of a large float32 product, best of five."""
    a, b = torch.randn(2, size, size, device=device)
    a @ b
    wait(device)
    return 2 * size**3 / min(clocked(lambda: a @ b, device) for _ in range(5))


def measure_whole_run(features: Features, windows: Windows, epochs: int, device: str) -> dict[str, float]:
    """Five folds over all windows, a fifth of them to choose the epoch by; no early stop."""
    fold = windows.track % FOLDS
    config = TrainConfig(max_epochs=epochs, patience=epochs, batch_size=BATCH)
    members = [Member(config, fold != k, fold == k, k) for k in range(FOLDS)]
    seconds = clocked(lambda: fit_together(TASK, members, features, windows, device=device), device)
    print(f"\n{FOLDS} folds, {len(windows):,} windows, {epochs} epochs in one program: {seconds / 60:.2f} minutes")
    return {"whole_run_minutes": seconds / 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    parser.add_argument("--scale", choices=("default", "affwild2"), default="default")
    parser.add_argument("--videos", type=int, help="cut the same windows into so many videos")
    parser.add_argument("--steps", type=int, help="steps of each fold (default 40; 3 with --quick)")
    parser.add_argument("--repeats", type=int, help="rounds (default 5; 2 with --quick)")
    parser.add_argument("--data-only", action="store_true", help="leave out everything with a model")
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()
    num_windows, num_videos, dim = SCALES["quick" if args.quick else args.scale]
    steps, repeats = args.steps or (3 if args.quick else 40), args.repeats or (2 if args.quick else 5)
    device = "cuda" if torch.cuda.is_available() and not args.quick else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = make_cache(folder / "cache.zarr", num_windows, args.videos or num_videos, dim)
        features = load(cache)
        windows = make_windows(features)
        count = min(len(windows), PER_ITEM)
        write_items(folder, features, windows, count)
        machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
        print(f"{machine}, torch {torch.__version__}; {len(windows):,} windows; {place(features, device).words}")
        found = measure_bulk(cache, features, folder, repeats)
        found |= measure_data_path(folder, features, windows, count, repeats, device)
        if not args.data_only:
            found |= measure_training(folder, features, windows, count, steps, repeats, device)
            if device == "cuda" and args.scale == "affwild2":
                found |= measure_whole_run(features, windows, 20, device)
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory of the process {found['peak_memory_mb']:,.0f} MB", end="")
    if device == "cuda":
        found["peak_device_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        print(f", of the GPU {found['peak_device_memory_mb']:,.0f} MB", end="")
    print()
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
