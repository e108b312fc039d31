"""``extract run``: the work of stage 1, from the words of the command line to the final table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from extract.commands.parts import (
    err,
    explained,
    how_made,
    load,
    note,
    options_of,
    out,
    stream_names,
)
from extract.faults.ledger import FailureLedger
from extract.sharing.locks import open_claims
from shared.cache import CacheError, FeatureCache, RecipeMismatch
from shared.datasets import cache_of, find_dataset
from shared.manifest import Manifest
from shared.process.interrupts import GO_ON
from shared.videos.remote import is_url

if TYPE_CHECKING:
    from extract.config import ExtractConfig
    from extract.flow.engines import Engine
    from extract.jobs.shards import Shard
    from extract.jobs.summary import Summary

# Of the command line (extract/__main__.py): what the command that tries again need not say.
USUAL = {"--engine": "local", "--workers": 2, "--device": "auto", "--video-timeout": 60.0}


@explained
def run(
    dataset: str,
    *,
    preset: str | None,
    like: str | None,
    cache: str | None,
    root: str | None,
    streams: str,
    overwrite: str,
    retry_failed: bool,
    workers: int,
    gpu_memory: float | None,
    options: Mapping[str, Any],
    device: str = "auto",
    include_truncated: bool = False,
    video_timeout: float = 60.0,
    engine: str = "local",
    address: str | None = None,
    actors: int | None = None,
    shard: str | None = None,
    follow_links: bool = False,
) -> int:
    """``extract run``."""
    from extract.commands.choose_engine import check_engine, open_engine
    from extract.encoders.captioners import check_captioner
    from extract.encoders.devices import choose_device
    from extract.flow.loading import Choice
    from extract.jobs.planning import DAMAGED
    from extract.jobs.shards import parse_shard

    made_with = how_made(preset, like, options)
    config = Choice(made_with["preset"], made_with["options"], ()).config()
    wanted = stream_names(streams, tuple(config.window.samples), "--streams")
    choice = Choice(made_with["preset"], made_with["options"], wanted, device, gpu_memory)
    check_engine(engine, address, actors)
    part = parse_shard(shard) if shard is not None else None
    if overwrite in ("all", DAMAGED):
        replace = wanted if overwrite == "all" else (DAMAGED,)
    else:
        replace = stream_names(overwrite, wanted, "--overwrite")
    is_url(dataset) or find_dataset(dataset)  # a mistyped name is told before anything large is imported
    url = cache_of(dataset, cache)
    with suppress(CacheError):  # not there yet, or told below
        _check_preset(FeatureCache.open(url), made_with, replace)
    if "text" in wanted:
        check_captioner(config.captioner)
    manifest = load(dataset, root, follow_links=follow_links)
    if part is not None:
        manifest = _own_part(manifest, part, url)
        if not manifest.videos:
            return 0
    if engine == "local":  # the machines of a cluster are asked by the processes that run there
        with err.status("looking for devices"):  # before weights are downloaded
            choose_device(device, wanted, config.trained)
    store = FeatureCache.create(url, dataset=manifest.name, window=config.window, made_with=made_with)

    from extract.show.summary import print_summary

    with open_engine(engine, choice, store, address, actors, workers, video_timeout, note) as work:
        asked = {"overwrite": replace, "retry_failed": retry_failed, "include_truncated": include_truncated}
        summary = _extract(work, manifest, store, config, wanted, asked)
    if summary is None:
        return 2
    if set(replace) == set(config.window.samples) and summary.exit_status < 2:
        store.note_made_with(made_with)
    same = FeatureCache.open(url).made_with == made_with
    some = ",".join(wanted) if set(wanted) != set(config.window.samples) else None
    given: dict[str, Any] = {"--cache": cache, "--root": root, "--shard": shard, "--streams": some}
    given |= {"--overwrite": overwrite or None, "--engine": engine, "--address": address, "--actors": actors}
    given |= {"--workers": workers, "--device": device, "--gpu-memory": gpu_memory, "--video-timeout": video_timeout}
    given |= {"--include-truncated": include_truncated, "--follow-links": follow_links}
    retry = _retry_words(dataset, ["--like", url] if same else options_of(made_with), given)
    print_summary(out, summary, url, retry=retry)
    return max(summary.exit_status, 1 if summary.left else 0)


def _extract(
    engine: Engine,
    manifest: Manifest,
    store: FeatureCache,
    config: ExtractConfig,
    wanted: Sequence[str],
    asked: Mapping[str, Any],
) -> Summary | None:
    """Plan and run; None if the run was stopped, which the user was told."""
    from extract.config import IN_ITS_WORLD, OUT_OF_ITS_WORLD, is_packaged
    from extract.faults.inflight import InFlight, forget, suspects
    from extract.faults.systemic import CacheWriteError, SystemicFailure
    from extract.jobs.planning import DAMAGED, plan_jobs
    from extract.jobs.repair import plan_repair
    from extract.show.progress import RunDisplay

    url, ledger, about = store.url, FailureLedger(store.url), frozenset(v.id for v in manifest.videos)
    try:
        with err.status("loading encoders"):
            loaded = engine.load()
        plan = plan_repair if asked["overwrite"] == (DAMAGED,) else plan_jobs
        jobs, summary = plan(manifest, store, loaded.recipes, ledger, **asked, suspects=suspects(url))
        err.print(
            f"{manifest.name}: {len(manifest.videos)} videos, {len(summary.skipped)} already complete, "
            f"{len(jobs)} to do; preset {config.name}, streams {', '.join(wanted)} -> {url}"
        )
        if summary.recaptioned:
            note(
                f"the text of {len(summary.recaptioned)} videos came from a captions file (recaption), and is about to "
                "be replaced"
            )
        if miniature := any(map(is_packaged, loaded.recipes.values())):
            note(IN_ITS_WORLD if manifest.name == "demo" else OUT_OF_ITS_WORLD)
        for stream in () if miniature else loaded.on_cpu:
            note(f"stream {stream} runs on the CPU, which takes seconds per window; see README, GPU")
        if loaded.untrained:
            note(f"untrained encoders (random weights) for {', '.join(loaded.untrained)}; not a result")
        for video, count in summary.suspects.items():
            note(f"{count} runs died while they were at {video}; it comes last")
        if not jobs:
            forget(url, about)
            open_claims(url).close()  # of runs that were killed after their last video
            return summary
        with RunDisplay(err, jobs) as display, InFlight(url, display, about) as watcher:
            return engine.run(jobs, store, ledger, summary, watcher)
    except SystemicFailure as error:
        err.print(f"error: {error}")
    except CacheWriteError as error:
        err.print(f"error: {error}\n{GO_ON}")
    return None


def _check_preset(store: FeatureCache, asked: Mapping[str, Any], replaced: tuple[str, ...]) -> None:
    """Tell of a forgotten preset before weights are loaded, or downloaded. The recipes decide afterwards."""
    made = store.made_with.get("preset", asked["preset"])
    if made != asked["preset"] and not replaced and store.video_ids():
        raise RecipeMismatch(
            f"{store.url} was made with preset {made}, asked for {asked['preset']}. Use --preset {made} "
            "(PRESET= for make), give another cache (--cache, CACHE=), or replace what is there: --overwrite all."
        )


def _retry_words(dataset: str, made: Sequence[str], given: Mapping[str, Any]) -> str:
    """The command that tries failed videos again; ``given``: option -> value, or whether it is given."""
    words = ["python", "-m", "extract", "run", dataset, *made, "--retry-failed"]
    for option, value in given.items():
        if value is not None and value is not False and value != USUAL.get(option):
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def _own_part(manifest: Manifest, part: Shard, url: str) -> Manifest:
    from extract.jobs.shards import split
    from extract.show.progress import StepDisplay

    with StepDisplay(err, "looking at", "videos") as display:
        found = split(manifest, part.count, url, display.reached)
    err.print(f"{manifest.name}: {found.words(part)}")
    mine = found.of(manifest, part)
    if not mine.videos:
        err.print(f"nothing to do: the data set has fewer videos than there are shards ({part.count})")
    return mine
