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
from shared.claims import open_claims
from shared.datasets import cache_of, find_dataset
from shared.ledger import FailureLedger
from shared.manifest import Manifest, ManifestError, load_manifest
from shared.names import unknown_name
from shared.remote_files import is_url
from shared.terminal import harmless

if TYPE_CHECKING:
    from extract.config import ExtractConfig
    from extract.engines import Engine
    from extract.jobs import Summary
    from extract.shards import Shard

# Plain words, no markup and no wrapping of paths: this text is also read from log files.
err = harmless(Console(stderr=True, markup=False, highlight=False, soft_wrap=True))
DEFAULT_PRESET = "base"
OTHER_NAMES = {"caption_max_new_tokens": "caption_tokens", "caption_batch_size": "caption_batch"}  # on the command line
DEMO_MANIFEST = Path(__file__).resolve().parent.parent / "data_manifests" / "demo.toml"
GO_ON = "What is complete stays complete; run the same command again to go on."
out = harmless(Console(markup=False, highlight=False, soft_wrap=True))


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
) -> int:
    """``extract run``."""
    signal.signal(signal.SIGTERM, as_interrupt)
    from extract.choose_engine import check_engine, open_engine
    from extract.encoders.captioners import check_captioner
    from extract.encoders.devices import choose_device
    from extract.jobs import DAMAGED
    from extract.loading import Choice
    from extract.shards import parse_shard

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
    manifest = load(dataset, root)
    if part is not None:
        manifest = _own_part(manifest, part, url)
        if not manifest.videos:
            return 0
    if engine == "local":  # the machines of a cluster are asked by the processes that run there
        with err.status("looking for devices"):  # before weights are downloaded
            choose_device(device, wanted, config.trained)
    store = FeatureCache.create(url, dataset=manifest.name, window=config.window, made_with=made_with)

    from extract.show import print_summary

    with open_engine(engine, choice, store, address, actors, workers, video_timeout, note) as work:
        asked = {"overwrite": replace, "retry_failed": retry_failed, "include_truncated": include_truncated}
        summary = _extract(work, manifest, store, config, wanted, asked)
    if summary is None:
        return 2
    if set(replace) == set(config.window.samples) and summary.exit_status < 2:
        store.note_made_with(made_with)
    same = FeatureCache.open(url).made_with == made_with
    words = ["python", "-m", "extract", "run", dataset, *(["--like", url] if same else options_of(made_with))]
    some = ",".join(wanted) if set(wanted) != set(config.window.samples) else None
    given = {"--cache": cache, "--root": root, "--shard": shard, "--streams": some, "--overwrite": overwrite}
    words += ["--retry-failed", *(word for option, value in given.items() if value for word in (option, value))]
    print_summary(out, summary, url, retry=shlex.join(words))
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
    from extract.assemble import CacheWriteError
    from extract.inflight import InFlight, forget, suspects
    from extract.jobs import DAMAGED
    from extract.pipeline import plan_jobs
    from extract.repair import plan_repair
    from extract.show import RunDisplay
    from extract.systemic import SystemicFailure

    url, ledger = store.url, FailureLedger(store.url)
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
        for stream in loaded.on_cpu:
            note(f"stream {stream} runs on the CPU, which takes seconds per window; see README, GPU")
        if loaded.untrained:
            note(f"untrained encoders (random weights) for {', '.join(loaded.untrained)}; not a result")
        for video, count in summary.suspects.items():
            note(f"{count} runs died while they were at {video}; it comes last")
        if not jobs:
            forget(url)
            open_claims(url).close()  # of runs that were killed after their last video
            return summary
        with RunDisplay(err, jobs) as display, InFlight(url, display) as watcher:
            return engine.run(jobs, store, ledger, summary, watcher)
    except SystemicFailure as error:
        err.print(f"error: {error}")
    except CacheWriteError as error:
        err.print(f"error: {error}\n{GO_ON}")
    return None


@explained
def status(dataset: str, *, cache: str | None, root: str | None) -> int:
    """``extract status``: 0 if everything is complete, else 1."""
    from extract.show import print_status

    url = cache_of(dataset, cache)
    store = FeatureCache.open(url)
    manifest = load(dataset, root, render=False, cached=store.paths().values())
    return print_status(out, manifest, store, FailureLedger(url).failures())


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


def options_of(made_with: Mapping[str, Any]) -> list[str]:
    """Preset and options as words for the command line."""
    words = ["--preset", str(made_with["preset"])]
    for name, value in made_with["options"].items():
        option = OTHER_NAMES.get(name, name).replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def note(text: str) -> None:
    """Tell the user something that is not an error."""
    err.print(f"note: {text}")


def _check_preset(store: FeatureCache, asked: Mapping[str, Any], replaced: tuple[str, ...]) -> None:
    """Tell of a forgotten preset before weights are loaded, or downloaded. The recipes decide afterwards."""
    made = store.made_with.get("preset", asked["preset"])
    if made != asked["preset"] and not replaced and store.video_ids():
        raise RecipeMismatch(
            f"{store.url} was made with preset {made}, asked for {asked['preset']}. Use --preset {made} "
            "(PRESET= for make), give another cache (--cache, CACHE=), or replace what is there: --overwrite all."
        )


def _own_part(manifest: Manifest, part: Shard, url: str) -> Manifest:
    from extract.shards import split
    from extract.show import StepDisplay

    with StepDisplay(err, "looking at", "videos") as display:
        found = split(manifest, part.count, url, display.reached)
    err.print(f"{manifest.name}: {found.words(part)}")
    mine = found.of(manifest, part)
    if not mine.videos:
        err.print(f"nothing to do: the data set has fewer videos than there are shards ({part.count})")
    return mine


def load(dataset: str, root: str | None, render: bool = True, cached: Collection[str] = ()) -> Manifest:
    if is_url(dataset):
        return load_manifest(dataset, root, cached=cached)
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


__all__ = ["demo", "run", "status"]
