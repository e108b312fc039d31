"""``extract plan``: what an extraction will cost, before anything is spent on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.commands.parts import err, explained, how_made, load, note, out, stream_names
from extract.config import ExtractConfig
from extract.faults.ledger import FailureLedger
from shared.cache import CacheError, FeatureCache
from shared.datasets import cache_of, find_dataset
from shared.manifest import Manifest
from shared.names import unknown_name
from shared.videos.remote import is_url

if TYPE_CHECKING:
    from extract.costs.calibrate import Calibration
    from extract.costs.cost import Length, Work

UNKNOWN_DIM = 768  # of a CLIP model that only a download would describe


@explained
def plan(
    dataset: str,
    *,
    preset: str | None,
    like: str | None,
    cache: str | None,
    root: str | None,
    streams: str,
    workers: int,
    gpu_memory: float | None,
    calibrated: bool,
    json_file: Path | None,
    options: Mapping[str, Any],
    shards: int | None = None,
    follow_links: bool = False,
) -> int:
    """0, or 1 if some videos cannot be opened."""
    from extract.config import find_preset, with_options
    from extract.costs.cost import cache_bytes, count_work, measure_lengths
    from extract.flow.loading import fit_memory
    from extract.show.plan import print_bytes, print_counts, print_hours
    from extract.show.progress import StepDisplay

    made_with = how_made(preset, like, options)
    config = with_options(find_preset(made_with["preset"]), **made_with["options"])
    wanted = stream_names(streams, tuple(config.window.samples), "--streams")
    _check_names(config, wanted)
    if json_file is not None and not json_file.parent.is_dir():  # not after all the timing
        raise ValueError(f"--json {json_file}: there is no folder {json_file.parent}; make it, or give another file")
    is_url(dataset) or find_dataset(dataset)
    url, store = cache_of(dataset, cache), None
    with suppress(CacheError):  # nothing was extracted yet
        store = FeatureCache.open(url)
    if store is not None and store.window != config.window:
        raise ValueError(
            f"{url} was made for other windows; give the --stride and --sampling that it has, or a --cache"
        )
    manifest = load(dataset, root, follow_links=follow_links)
    with StepDisplay(err, "looking at", "videos") as display:
        failed = FailureLedger(url).failures() if store is not None else {}
        lengths = measure_lengths(manifest, store, display.reached, failed)
    kinds = {stream: "window" if stream == "video" else "timeline" for stream in wanted}
    work = count_work(lengths, config.window, kinds)
    if gpu_memory is not None or calibrated:
        config = fit_memory(config, wanted, gpu_memory, made_with["options"].get("caption_batch_size"), note)
    out.print(f"{manifest.name}: preset {config.name}, streams {', '.join(wanted)}; nothing is extracted or downloaded")
    print_counts(out, config, lengths, work)

    found = total = None
    if calibrated and work.videos:
        from extract.costs.calibrate import calibrate
        from extract.costs.estimate import estimate
        from extract.decode.preparing import num_cores

        with err.status("calibrating") as status:
            found = calibrate(config, wanted, lengths, work, lambda words: status.update(f"calibrating: {words}"))
        total = estimate(work, found, workers=workers, cores=num_cores())
    captions, thumbnails = _text_bytes(config, found)
    sizes = cache_bytes(
        work, config.window, kinds, _dims(config, wanted), caption_bytes=captions, thumbnail_bytes=thumbnails
    )
    print_bytes(out, sizes, url, found is not None and found.caption_bytes is not None)
    if found is not None and total is not None:
        print_hours(out, config, found, total, workers)
    if shards is not None:
        window = config.window
        _tell_shards(manifest, shards, url, lambda part: count_work(part, window, kinds), lengths, found, workers)
    broken = sum(length.problem is not None for length in lengths)
    if json_file is not None:
        complete = sum(set(wanted) <= length.complete for length in lengths)
        figures: dict[str, Any] = {"videos": len(lengths), "videos_complete": complete, "videos_not_readable": broken}
        figures["videos_failed_before"] = work.failed_before
        figures |= _figures(config, work, sizes)
        figures |= _time_figures(found, total) if found is not None and total is not None else {}
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if broken else 0


def _check_names(config: ExtractConfig, streams: Sequence[str]) -> None:
    """Refuse what no run would take. Files that are missing are no reason here."""
    from extract.encoders.captioners import CAPTIONERS, HUB_PREFIX, check_captioner

    if "text" not in streams:
        return
    name = config.captioner.name
    if name not in CAPTIONERS and not name.startswith(HUB_PREFIX):
        raise ValueError(unknown_name("captioner", name, list(CAPTIONERS)))
    if not name.startswith("minigpt"):  # those are checked with their files, where they are timed
        check_captioner(config.captioner)


def _tell_shards(
    manifest: Manifest,
    count: int,
    url: str,
    count_work: Callable[[Sequence[Length]], Work],
    lengths: Sequence[Length],
    found: Calibration | None,
    workers: int,
) -> None:
    """What is left for each shard, and how long it takes on a machine like this."""
    from extract.costs.estimate import estimate
    from extract.decode.preparing import num_cores
    from extract.jobs.shards import split
    from extract.show.plan import print_shards

    by_id = {length.video.id: length for length in lengths}
    parts = split(manifest, count, url)
    works = [count_work([by_id[v] for v in part]) for part in parts.parts]
    seconds: list[float | None] = [None] * count
    if found is not None:
        seconds = [estimate(work, found, workers=workers, cores=num_cores()).seconds for work in works]
    print_shards(out, parts, works, seconds)


def _dims(config: ExtractConfig, streams: Sequence[str]) -> dict[str, int]:
    """Stream -> D."""
    from extract.encoders.videoprism_checkpoint import ARCHITECTURES

    dims = {"video": ARCHITECTURES[config.video.architecture].width}
    if {"image", "text"} & set(streams):
        from extract.encoders.clip_sizes import clip_dim

        dim = clip_dim(config.clip.model)
        if dim is None:
            err.print(
                f"note: the width of {config.clip.model} is not known without a download; {UNKNOWN_DIM} is assumed"
            )
        dims |= dict.fromkeys(("image", "text"), dim or UNKNOWN_DIM)
    return dims


def _text_bytes(config: ExtractConfig, found: Calibration | None) -> tuple[float, float | None]:
    """Mean bytes of a caption and of a thumbnail (None: there are none), as measured or as usual."""
    from extract.costs.cost import CAPTION_BYTES, THUMBNAIL_BYTES

    captions = (found and found.caption_bytes) or CAPTION_BYTES
    thumbnails = (found and found.thumbnail_bytes) or THUMBNAIL_BYTES
    return captions, thumbnails if config.thumbnails else None


def _figures(config: ExtractConfig, work: Any, sizes: Mapping[str, float]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "preset": config.name,
        "videos_to_extract": len(work.videos),
        "frames": work.frames,
        "frames_estimated": work.estimated_frames,
        "windows": work.windows,
        **{f"unique_frames_{stream}": count for stream, count in work.unique.items()},
        "bytes": round(sum(sizes.values())),
        **{f"bytes_{name}": round(size) for name, size in sizes.items()},
    }
    batches = {"frame_batch": config.video.frame_batch, "window_batch": config.video.window_batch}
    return figures | batches | {"clip_batch": config.clip.batch_size, "caption_batch": config.captioner.batch_size}


def _time_figures(found: Any, total: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {"timed_s": found.timed_s, "setup_s": found.setup_s}
    for name, stage in total.stages.items():
        key = name.replace(", ", "_")
        figures[f"{key}_per_s"] = 1 / stage.rate.seconds if stage.rate.seconds else None
        figures[f"{key}_busy_s"] = stage.seconds() if stage.rate.seconds is not None else None
    return figures | {
        "hours": total.seconds / 3600,
        "hours_low": total.low / 3600,
        "hours_high": total.high / 3600,
        "not_measured": ", ".join(total.missing),
    }


__all__ = ["plan"]
