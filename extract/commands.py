"""What the commands of the command line do; each returns the exit status.

0 all complete; 1 some videos failed, or something was found to be wrong; 2 bad usage, or nothing could work.
"""

from __future__ import annotations

import _thread
import io
import shlex
import signal
import sys
import threading
import tomllib
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from shared.cache import CacheError, FeatureCache, RecipeMismatch
from shared.datasets import cache_of, find_dataset
from shared.ledger import FailureLedger
from shared.manifest import Manifest, ManifestError, load_manifest
from shared.names import unknown_name

if TYPE_CHECKING:
    from extract.config import ExtractConfig

# Plain words, no markup and no wrapping of paths: this text is also read from log files.
err = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
DEFAULT_PRESET = "base"
DEMO_MANIFEST = Path(__file__).resolve().parent.parent / "data_manifests" / "demo.toml"
GO_ON = "What is complete stays complete; run the same command again to go on."
out = Console(markup=False, highlight=False, soft_wrap=True)


def explained(command: Callable[..., int]) -> Callable[..., int]:
    """Errors that a user can mend end as one message and status 2, not as a traceback."""

    @wraps(command)
    def explained(*args: Any, **kwargs: Any) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show must not end a run
                stream.reconfigure(errors="backslashreplace")
        try:
            with no_interrupt_lost():
                return command(*args, **kwargs)
        except (ManifestError, CacheError, RecipeMismatch, ValueError) as error:
            err.print(f"error: {error}")
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            err.print(f"error: {error}" if error.errno is None else f"error: {error.strerror}{place}")
        except KeyboardInterrupt:
            err.print(f"interrupted. {GO_ON}")
            return 130
        except Exception:  # a bug, or a device that gave up: Python's own status 1 would claim that the rest is safe
            traceback.print_exc()
        return 2

    return explained


@explained
def run(
    dataset: str,
    *,
    preset: str | None,
    like: str | None,
    cache: str | None,
    root: Path | None,
    streams: str,
    overwrite: str,
    retry_failed: bool,
    workers: int,
    gpu_memory: float | None,
    options: Mapping[str, Any],
) -> int:
    """``extract run``."""
    signal.signal(signal.SIGTERM, as_interrupt)
    from extract.config import IN_ITS_WORLD, OUT_OF_ITS_WORLD, PACKAGED, find_preset, with_options
    from extract.encoders import build_encoders
    from extract.encoders.captioners import check_captioner
    from extract.encoders.captioners.quality import CaptionCounts

    made_with = how_made(preset, like, options)
    config = with_options(find_preset(made_with["preset"]), **made_with["options"])
    wanted = stream_names(streams, tuple(config.window.samples), "--streams")
    replace = wanted if overwrite == "all" else stream_names(overwrite, wanted, "--overwrite")
    find_dataset(dataset)  # a mistyped name is told before anything large is imported
    url = cache_of(dataset, cache)
    with suppress(CacheError):  # not there yet, or told below
        _check_preset(FeatureCache.open(url), made_with, replace)
    if "text" in wanted:
        check_captioner(config.captioner)
    manifest = load(dataset, root)
    store = FeatureCache.create(url, dataset=manifest.name, window=config.window, made_with=made_with)

    from extract.assemble import CacheWriteError
    from extract.pipeline import SystemicFailure, plan_jobs
    from extract.pipeline import run as extract
    from extract.show import RunDisplay, print_summary

    with err.status("loading encoders"):
        config = fit_memory(config, wanted, gpu_memory, made_with["options"].get("caption_batch_size"))
        encoders = build_encoders(config, wanted)
    recipes = {s: e.recipe() for s, e in encoders.items()}
    ledger = FailureLedger(url)
    jobs, summary = plan_jobs(manifest, store, recipes, ledger, overwrite=replace, retry_failed=retry_failed)
    if "text" in encoders:
        tower = encoders["text"].tower  # type: ignore[union-attr]
        summary.captions = CaptionCounts(tower.num_tokens, tower.context_length, tower.long_captions)
    untrained = sorted(s for s, e in encoders.items() if not e.trained)
    err.print(
        f"{manifest.name}: {len(manifest.videos)} videos, {len(summary.skipped)} already complete, {len(jobs)} to do; "
        f"preset {config.name}, streams {', '.join(wanted)} -> {url}"
    )
    miniature = any(str(recipe.get("weights", "")).startswith(PACKAGED) for recipe in recipes.values())
    for stream, encoder in encoders.items():
        if not miniature and encoder.trained and getattr(encoder, "device", "cpu") == "cpu" and stream != "text":
            err.print(f"note: stream {stream} runs on the CPU, which takes seconds per window; see README, GPU")
    if untrained:
        err.print(f"note: untrained encoders (random weights) for {', '.join(untrained)}; not a result")
    if miniature:
        err.print(f"note: {IN_ITS_WORLD if manifest.name == 'demo' else OUT_OF_ITS_WORLD}")
    if jobs:
        try:
            with RunDisplay(err, jobs) as display:
                summary = extract(jobs, store, encoders, ledger, summary, workers=workers, watcher=display)
        except SystemicFailure as error:
            err.print(f"error: {error}")
            return 2
        except CacheWriteError as error:
            err.print(f"error: {error}\n{GO_ON}")
            return 2
    if set(replace) == set(config.window.samples) and summary.exit_status < 2:
        store.note_made_with(made_with)
    words = ["python", "-m", "extract", "run", dataset, "--like", url, "--retry-failed"]
    words += [w for option, value in (("--cache", cache), ("--root", root)) if value for w in (option, str(value))]
    print_summary(out, summary, url, retry=shlex.join(words))
    return summary.exit_status


@explained
def status(dataset: str, *, cache: str | None, root: Path | None) -> int:
    """``extract status``: 0 if everything is complete, else 1."""
    from extract.show import print_status

    url = cache_of(dataset, cache)
    store = FeatureCache.open(url)
    manifest = load(dataset, root, render=False, cached=store.paths().values())
    return print_status(out, manifest, store, FailureLedger(url).failures())


@explained
def verify(dataset: str, *, cache: str | None) -> int:
    """``extract verify``: 0 if all is well, 1 if something is damaged."""
    url = cache_of(dataset, cache)
    store = FeatureCache.open(url)
    ids = store.group_ids()
    problems = [line for name in ids for line in store.verify(name)]
    for line in problems:
        out.print(line)
    streams = sum(len(store.streams(name)) for name in ids)
    verdict = f"{len(problems)} problems" if problems else "every checksum holds"
    out.print(f"{url}: {len(ids)} videos, {streams} complete streams, {verdict}")
    if problems:
        out.print("Extract the damaged streams again: python -m extract run DATASET --overwrite STREAM")
    return 1 if problems else 0


@explained
def demo(root: Path, seed: int) -> int:
    """``extract demo``."""
    _render(root, seed)
    return 0


# ------------------------------------------------------------------ parts


def how_made(preset: str | None, like: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Preset and options of this run; with ``like``, those of another cache where the command line says nothing."""
    given = {k: v for k, v in options.items() if v is not None}
    if like is None:
        return {"preset": preset or DEFAULT_PRESET, "options": given}
    model = FeatureCache.open(cache_of(like))
    made = model.made_with
    if not made:
        raise CacheError(
            f"{model.url} does not say which preset made it; give --preset and its options instead of --like"
        )
    return {"preset": preset or made["preset"], "options": {**made["options"], **given}}


def fit_memory(
    config: ExtractConfig, streams: Sequence[str], gpu_memory: float | None, caption_batch: int | None
) -> ExtractConfig:
    """The configuration with batch sizes for so many GiB; without a number, for most of what is free on the GPU.

    Where no encoder runs on a GPU the preset's sizes stay, and a number counts main memory.

    Raises:
        ValueError: too little for these streams.
    """
    from extract.encoders.devices import free_gpu_bytes, on_gpu
    from extract.memory import GIB, SAFE_SHARE, fit, least_sizes, too_little

    there = [s for s in streams if on_gpu(s)]
    if gpu_memory is not None:
        gpu, shared, num_bytes = bool(there), there or list(streams), gpu_memory * GIB
        if fitted := fit(config, shared, num_bytes, gpu=gpu, caption_batch=caption_batch):
            return fitted
        why = too_little(config, shared, num_bytes, gpu=gpu, caption_batch=caption_batch)
        raise ValueError(f"--gpu-memory {gpu_memory:g}: {why}")
    if not there or not (num_bytes := SAFE_SHARE * free_gpu_bytes()):
        return config
    if fitted := fit(config, there, num_bytes, gpu=True, caption_batch=caption_batch):
        return fitted
    # By arithmetic alone nothing is refused that nobody asked to be bounded: the least sizes may just do.
    err.print(
        f"note: the GPU may be too full: {too_little(config, there, num_bytes, gpu=True, caption_batch=caption_batch)}"
    )
    return least_sizes(config, there, caption_batch)


def _check_preset(store: FeatureCache, asked: Mapping[str, Any], replaced: tuple[str, ...]) -> None:
    """Tell of a forgotten preset before weights are loaded, or downloaded. The recipes decide afterwards."""
    made = store.made_with.get("preset", asked["preset"])
    if made != asked["preset"] and not replaced and store.video_ids():
        raise RecipeMismatch(
            f"{store.url} was made with preset {made}, asked for {asked['preset']}. Use --preset {made} "
            "(PRESET= for make), give another cache (--cache, CACHE=), or replace what is there: --overwrite all."
        )


def load(dataset: str, root: Path | None, render: bool = True, cached: Collection[str] = ()) -> Manifest:
    source = find_dataset(dataset)
    if render and root is None and source.resolve() == DEMO_MANIFEST:
        # The one data set that can be made out of nothing: rendered on first use. A user's own demo.toml is not it.
        _render(source.parent / tomllib.loads(source.read_text(encoding="utf-8"))["root"], 0)
    return load_manifest(source, root, cached=cached)


def _render(root: Path, seed: int) -> None:
    from extract.demo import render_demo
    from extract.show import StepDisplay

    with StepDisplay(err, "rendering", "demo videos") as display:
        render_demo(root, seed=seed, progress=display.reached)


def stream_names(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    for name in names:
        if name not in known:
            raise ValueError(f"{option}: {unknown_name('stream', name, known)}")
    if not names and option == "--streams":
        raise ValueError(f"{option} takes names out of {', '.join(known)}; found nothing")
    return names


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """An interrupt that Python ignores is raised again a moment later.

    Where a signal arrives while a finaliser or a callback of the garbage collector runs (JAX has one, and loading
    encoders collects often), Python prints the KeyboardInterrupt and goes on: Ctrl-C would not stop the run.
    """
    usual, timers = sys.unraisablehook, []  # type: Callable[[Any], Any], list[threading.Timer]

    def again(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            usual(unraisable)
            return
        # It may have been SIGTERM, of a process that ignores Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not now: raised in here, it would be ignored as well.
        timers.append(threading.Timer(0.05, _thread.interrupt_main))
        timers[-1].start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = usual
        for timer in timers:
            timer.cancel()


def as_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Handler of SIGTERM: what Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


__all__ = ["demo", "run", "status", "verify"]
