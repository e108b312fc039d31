"""Do decoding, encoding and writing overlap? The wall time of a whole run against its slowest stage alone.

The decode workers are the product's, with the pictures resized as for VideoPrism-B (288 px, Lanczos), CLIP (224 px,
bicubic) and the offline captioner. The encoders sleep instead of computing, so that they take no CPU from the decoder,
as a GPU would not; the time per batch is set so that encoding alone takes half as long, as long and twice as long as
decoding alone. As long is the hardest: whichever stage stalls shows in the wall time.

    python benchmarks/extract_pipeline.py                       # rendered 720p and 1080p, real videos if there are any
    python benchmarks/extract_pipeline.py --only 1080p --json out.json

Decode-only reads every event of the decode workers and does nothing with it. Encode-only is the sleep of all batches
plus what the packers take to build them, measured with encoders that do not sleep.
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
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from extract.decode.ahead import DecodeAhead, Decoders, Failed, Finished, Job
from extract.decode.sampling import Item, Window
from extract.encoders.captioners.offline import OfflineCaptioner
from extract.encoders.contract import Rows
from extract.faults.ledger import FailureLedger
from extract.flow.packing import TimelinePacker, WindowPacker
from extract.flow.pipeline import MAX_QUEUE_BYTES, run
from extract.jobs.planning import plan_jobs
from extract.preparation import ClipFrames, VideoPrismFrames
from shared.cache import FeatureCache
from shared.manifest import Manifest, Video
from shared.windows import WindowSpec

SHARED_VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"
SUFFIXES = frozenset([".mp4", ".mov", ".mkv", ".webm", ".ts", ".3gp", ".avi"])
BROKEN = ("decord_corrupted.mp4", "flower_truncated_700k.mp4")
LONG = ("media3_long_1080p_10883f.mp4",)  # takes minutes
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
LOADS = (0.5, 1.0, 2.0)  # encode-only time over decode-only time
# Stage -> share of the sleeping; roughly what VideoPrism-B, CLIP ViT-L/14 and a captioner take of a GPU at stride 16.
SHARES = {"frames": 0.6, "windows": 0.1, "image": 0.2, "text": 0.1}


def render(path: Path, num_frames: int, size: tuple[int, int], seed: int = 0, codec: str = "libx264") -> Path:
    """A video of a textured picture that pans, ``size`` (width, height); nothing is rendered if the file is there."""
    if path.exists():
        return path
    width, height = size
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    picture = np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])  # (H, W, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, width=width, height=height, pix_fmt="yuv420p")
        stream.options = {"preset": "veryfast"} if codec == "libx264" else {}
        for index in range(num_frames):
            panned = np.roll(picture, (3 * index, 5 * index), axis=(0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(panned, format="rgb24")))
        container.mux(stream.encode(None))
    return path


# ------------------------------------------------------------------------------------------------ sleeping encoders


@dataclass
class SleepingFrames:
    """A timeline encoder that sleeps; ``calls`` counts its batches."""

    stream: str
    prepare: Any
    context: tuple[int, ...] = (0,)
    batch_size: int = 32
    dim: int = 768
    kind: str = "timeline"
    trained: bool = False
    sleep_s: float = 0.0
    calls: int = 0

    @property
    def preparation(self) -> Any:
        """Sent to the decoder processes."""
        return self.prepare

    def encode(self, items: np.ndarray) -> Rows:
        self.calls += 1
        time.sleep(self.sleep_s)
        captions = ["a caption"] * self.batch_size if self.stream == "text" else None
        return Rows(np.zeros((self.batch_size, self.dim), np.float32), captions)

    def recipe(self) -> dict[str, Any]:
        return {"encoder": f"sleeping {self.stream}"}


@dataclass
class SleepingWindows:
    """A window encoder that sleeps in both of its stages."""

    prepare: Any
    stream: str = "video"
    kind: str = "window"
    dim: int = 768
    num_samples: int = 16
    frame_batch: int = 16
    window_batch: int = 4
    num_slots: int = 16 + 4 * 16 + 64
    trained: bool = False
    frames_s: float = 0.0
    windows_s: float = 0.0
    calls: dict[str, int] = field(default_factory=lambda: {"frames": 0, "windows": 0})

    @property
    def preparation(self) -> Any:
        """Sent to the decoder processes."""
        return self.prepare

    def encode_frames(self, frames: np.ndarray, slots: np.ndarray) -> None:
        self.calls["frames"] += 1
        time.sleep(self.frames_s)

    def encode_windows(self, slots: np.ndarray) -> np.ndarray:
        self.calls["windows"] += 1
        time.sleep(self.windows_s)
        return np.zeros((*slots.shape, self.dim), np.float32)

    def recipe(self) -> dict[str, Any]:
        return {"encoder": "sleeping video"}


def sleeping_encoders() -> dict[str, Any]:
    """Sleeping encoders with the real ones' ``prepare`` halves; no weights are made."""
    import open_clip

    from extract.encoders.clip import light_step

    steps = open_clip.transform.image_transform(224, is_train=False).transforms[:2]
    captioner = OfflineCaptioner()
    return {
        "video": SleepingWindows(VideoPrismFrames(288)),
        "image": SleepingFrames("image", ClipFrames(tuple(light_step(step) for step in steps))),
        "text": SleepingFrames("text", captioner.preparation, captioner.context, batch_size=8),
    }


def calibrate(encoders: dict[str, Any], total_s: float, batches: dict[str, int]) -> None:
    """Let the encoders sleep ``total_s`` in all over so many batches per stage."""
    each = {stage: SHARES[stage] * total_s / max(1, batches[stage]) for stage in SHARES}
    encoders["video"].frames_s, encoders["video"].windows_s = each["frames"], each["windows"]
    encoders["image"].sleep_s, encoders["text"].sleep_s = each["image"], each["text"]


def count_batches(encoders: dict[str, Any]) -> dict[str, int]:
    """Calls per stage so far."""
    return {**encoders["video"].calls, "image": encoders["image"].calls, "text": encoders["text"].calls}


# ------------------------------------------------------------------------------------------------ the three runs


def decode_only(jobs: Sequence[Job], encoders: dict[str, Any], workers: int) -> tuple[float, int, list[Any]]:
    """Seconds and frames of the decode workers alone, and their events without the pictures."""
    events: list[Any] = []
    num_frames = 0
    decoders = Decoders(workers)
    decoders.start(wait=True)  # a fifth of a second that belongs to a run, not to a frame
    decode = DecodeAhead(WindowSpec(), encoders, workers, MAX_QUEUE_BYTES, decoders=decoders)
    started = time.perf_counter()
    with decoders, closing(decode.run(jobs)) as videos:
        for job, found in videos:
            for event in found:
                if isinstance(event, Item):
                    shape = event.pixels.shape
                    event = replace(event, pixels=np.broadcast_to(np.uint8(0), shape))
                elif isinstance(event, Finished):
                    num_frames += event.info.num_frames
                elif isinstance(event, Failed):
                    raise SystemExit(f"{job.path} cannot be used here: {event.message}")
                events.append((job.video, event))
        seconds = time.perf_counter() - started
    return seconds, num_frames, events


def encode_only(events: list[Any], encoders: dict[str, Any]) -> float:
    """Seconds of packers and encoders alone."""
    packers: dict[str, Any] = {
        "video": WindowPacker(encoders["video"], lambda video, features: None, WindowSpec().size),
        "image": TimelinePacker(encoders["image"], lambda video, frames, rows: None),
        "text": TimelinePacker(encoders["text"], lambda video, frames, rows: None),
    }
    started = time.perf_counter()
    for video, event in events:
        if isinstance(event, Item | Window):
            packers[event.stream].add(video, event)
        elif isinstance(event, Finished):
            for packer in packers.values():
                packer.close(video)
    for packer in packers.values():
        packer.flush()
    return time.perf_counter() - started


def end_to_end(files: Sequence[Path], encoders: dict[str, Any], workers: int) -> tuple[float, dict[str, float]]:
    """Wall seconds of a whole run into a fresh cache, and its stages' own."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/cache.zarr"
        cache = FeatureCache.create(url, dataset="bench", window=WindowSpec())
        ledger = FailureLedger(url)
        entries = tuple(Video(f"v{n:04d}", str(file), str(file)) for n, file in enumerate(files))
        manifest = Manifest("bench", Path("/"), entries, {}, Path(folder))
        started = time.perf_counter()
        recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
        jobs, summary = plan_jobs(manifest, cache, recipes, ledger)
        summary = run(jobs, cache, encoders, ledger, summary, workers=workers)
        wall_s = time.perf_counter() - started
    if summary.failed:
        raise SystemExit(f"failed: {summary.failed}")
    return wall_s, summary.seconds


# ------------------------------------------------------------------------------------------------ workloads


def workloads(args: argparse.Namespace, folder: Path) -> dict[str, list[Path]]:
    """Name -> files; only what is wanted is rendered."""
    wanted = [w for w in args.only.split(";") if w]
    found: dict[str, list[Path]] = {}
    for name, size in SIZES.items():
        if not wanted or name in wanted:
            first = render(folder / f"{name}.mp4", args.frames, size)
            found[name] = [first, *(shutil.copy(first, folder / f"{name}_{n}.mp4") for n in range(1, args.copies))]
    if not wanted or "one" in wanted:
        found["one"] = [render(folder / "long.mp4", 4 * args.frames, SIZES["1080p"])]
    if args.videos.is_dir() and (not wanted or "real" in wanted):
        real = [f for f in sorted(args.videos.rglob("*")) if f.suffix in SUFFIXES and f.name not in BROKEN]
        found["real"] = [f for f in real if f.name not in LONG]
    return found


def measure(files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Frames, and per load rows of decode-only, encode-only and end-to-end seconds, a row per repeat."""
    encoders = sleeping_encoders()
    jobs = [Job(f"v{n:04d}", str(f), f, None, tuple(encoders)) for n, f in enumerate(files)]
    warm = min(jobs, key=lambda job: job.file.stat().st_size)
    decode_only([warm], encoders, args.workers)  # imports, page cache
    _, num_frames, events = decode_only(jobs, encoders, args.workers)
    pack_s = encode_only(events, encoders)
    batches = count_batches(encoders)
    loads: dict[float, list[tuple[float, float, float]]] = {load: [] for load in args.loads}
    for _ in range(args.repeats):
        for load, rows in loads.items():
            # Right before the run it is compared with: the speed of a shared machine drifts.
            decode_s = decode_only(jobs, encoders, args.workers)[0]
            calibrate(encoders, load * decode_s, batches)
            wall_s, _ = end_to_end(files, encoders, args.workers)
            rows.append((decode_s, pack_s + load * decode_s, wall_s))
    return {"frames": num_frames, "loads": loads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=480, help="of a rendered video; four times as many of 'one'")
    parser.add_argument("--copies", type=int, default=8, help="videos of each rendered size")
    parser.add_argument("--videos", type=Path, default=SHARED_VIDEOS, help="folder of real videos")
    parser.add_argument("--only", default="", help='workloads: 720p, 1080p, one (1080p), real; e.g. "720p;real"')
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS, help="encode-only over decode-only seconds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()

    worst, figures = 0.0, {}
    print(f"{len(os.sched_getaffinity(0))} cores, {args.workers} decode workers")
    print(f"{'videos':<12}{'frames':>7}{'decode f/s':>12}{'encode f/s':>12}{'whole f/s':>11}{'wall/slowest':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for name, files in workloads(args, Path(folder)).items():
            found = measure(files, args)
            frames, key = found["frames"], name
            for load, rows in found["loads"].items():
                decode_s, encode_s, wall_s = (statistics.median(column) for column in zip(*rows, strict=True))
                ratio = statistics.median(wall / max(decode, encode) for decode, encode, wall in rows)
                worst = max(worst, ratio)
                figures[f"{key}_load{load:g}_ratio"] = ratio
                figures[f"{key}_load{load:g}_frames_per_s"] = frames / wall_s
                figures[f"{key}_load{load:g}_decode_frames_per_s"] = frames / decode_s
                print(
                    f"{name:<12}{frames:>7}{frames / decode_s:>12.1f}{frames / encode_s:>12.1f}{frames / wall_s:>11.1f}"
                    f"{ratio:>14.3f}",
                    flush=True,
                )
    print(f"worst wall over slowest stage: {worst:.3f}")
    if args.json:
        args.json.write_text(json.dumps({"wall_over_slowest": worst, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
