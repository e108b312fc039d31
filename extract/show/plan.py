"""What a plan looks like in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from extract.config import ExtractConfig
from extract.costs.calibrate import BUDGET_S, Calibration
from extract.costs.cost import Length, Work
from extract.costs.estimate import Estimate
from extract.jobs.shards import Split
from extract.show.dataset import print_table

SHOWN = 5
_NAMES = {
    "decode": "decode",
    "prepare": "convert and resize",
    "hash": "read for the digest",
    "video, frames": "VideoPrism, frames",
    "video, windows": "VideoPrism, windows",
    "image": "CLIP, pictures",
    "captions": "captions",
    "text": "CLIP, captions",
    "write": "write",
}


def print_counts(console: Console, config: ExtractConfig, lengths: Sequence[Length], work: Work) -> None:
    """Videos, frames, windows, and what every stream has to encode."""
    broken = [length for length in lengths if length.problem]
    streams = list(work.unique)
    complete = sum(set(streams) <= length.complete for length in lengths)
    console.print(
        f"{len(lengths)} videos: {complete} complete, {len(work.videos)} to extract, {len(broken)} not readable"
    )
    for length in broken[:SHOWN]:
        console.print(f"  {length.video.path}: {length.problem}")
    if len(broken) > SHOWN:
        console.print(f"  ... and {len(broken) - SHOWN} more")
    if work.failed_before:
        console.print(f"{work.failed_before} failed before; only a run with --retry-failed tries again, so not counted")
    guessed = f", {work.estimated_frames:,} of them estimated from duration and rate" if work.estimated_frames else ""
    console.print(f"{work.frames:,} frames to decode ({gigabytes(work.read_bytes)} of files){guessed}")
    window = config.window
    table = Table("stream", "videos", "unique frames", "windows", "rows cached", box=None, pad_edge=False)
    for stream in streams:
        rows, videos = work.rows[stream]
        windows = f"{work.windows:,}" if stream == "video" else "-"
        table.add_row(stream, f"{videos:,}", f"{work.unique[stream]:,}", windows, f"{rows:,}")
    print_table(console, table)
    console.print(f"windows of {window.size} frames, one every {window.stride}; a frame is encoded once per stream")


def print_bytes(console: Console, parts: Mapping[str, float], url: str, measured: bool) -> None:
    """What the cache will hold, and what of that is a guess."""
    words = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items() if size)
    console.print(f"\n{url} grows by about {gigabytes(sum(parts.values()))}: {words}")
    how = "from captions of a few frames" if measured else "by what they usually take"
    texts = [name for name in ("captions", "thumbnails") if parts.get(name)]
    guessed = f"{' and '.join(texts)} {how}, " if texts else ""
    console.print(f"features, frames and times are exact for these frame counts; estimated: {guessed}metadata")


def print_hours(console: Console, config: ExtractConfig, found: Calibration, total: Estimate, workers: int) -> None:
    """Speed and share of every stage, and the whole."""
    console.print(
        f"\ntimed in {found.timed_s:.1f} s (at most {BUDGET_S:.0f} s, after {found.setup_s:.1f} s of loading and "
        "compiling), with random weights of the same architecture: speed does not depend on their values"
    )
    table = Table("stage", "speed", "busy time", "how sure", box=None, pad_edge=False)
    for name, stage in total.stages.items():
        if not stage.units or name == "hash":
            continue
        rate = stage.rate
        if rate.seconds is None:
            table.add_row(_NAMES[name], "not measured", "-", rate.reason)
            continue
        low, high = 1 / max(rate.high, 1e-12), 1 / max(rate.low, 1e-12)
        sure = f"{low:.3g} to {high:.3g} in {rate.timed} timings" if rate.timed > 1 else "one timing"
        table.add_row(
            _NAMES[name], f"{1 / max(rate.seconds, 1e-12):.3g} {rate.unit}s/s", duration(stage.seconds()), sure
        )
    print_table(console, table)
    for problem in found.unreadable:
        console.print(f"not timed: {problem}")
    without = f", without {' and '.join(_NAMES[n] for n in total.missing)}" if total.missing else ""
    bounds = f"{duration(total.low)} to {duration(total.high)} by the spread of these timings"
    if total.low == total.high:
        bounds = "timed once, so nothing is known of the spread"
    console.print(
        f"a run with {workers} workers takes about {duration(total.seconds)}{without} "
        f"({bounds}). Reading, encoding and writing overlap; {total.slowest} is the slowest"
    )
    video, clip, captioner = config.video, config.clip, config.captioner
    console.print(
        f"rows per call: VideoPrism {video.frame_batch} frames and {video.window_batch} windows, "
        f"CLIP {clip.batch_size}, captioner {captioner.batch_size}"
    )


def print_shards(console: Console, split: Split, works: Sequence[Work], seconds: Sequence[float | None]) -> None:
    """Every shard and what is left of it; seconds on a machine of its own, None where nothing was timed."""
    console.print(f"\nsplit {split.mark}, the mark that every run of a shard prints if it sees these videos")
    table = Table("shard", "videos", "to extract", "frames", "takes about", box=None, pad_edge=False)
    for number, (part, work, taken) in enumerate(zip(split.parts, works, seconds, strict=True), start=1):
        takes = "-" if taken is None else duration(taken)
        left = f"{len(work.videos):,}"
        table.add_row(f"{number}/{len(works)}", f"{len(part):,}", left, f"{work.frames:,}", takes)
    print_table(console, table)
    console.print("each shard on a machine like this one; on one machine they share its cores")


def gigabytes(size: float) -> str:
    """Bytes in words: "1.2 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds in words: "2.5 hours"."""
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.1f} seconds"
