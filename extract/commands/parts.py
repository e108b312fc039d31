"""What the commands share: messages, errors, and the words of the command line as values."""

from __future__ import annotations

import io
import os
import sys
import tomllib
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from rich.console import Console

from shared.cache import CacheError, FeatureCache, RecipeMismatch
from shared.datasets import cache_of, find_dataset
from shared.manifest import Manifest, ManifestError, load_manifest
from shared.manifest.loading import PACKAGED, place_of
from shared.names import unknown_name
from shared.process.interrupts import until_interrupted
from shared.process.terminal import harmless
from shared.videos.remote import is_url

# Plain words, no markup and no wrapping of paths: this text is also read from log files.
err = harmless(Console(stderr=True, markup=False, highlight=False, soft_wrap=True))
out = harmless(Console(markup=False, highlight=False, soft_wrap=True))
DEFAULT_PRESET = "base"
OTHER_NAMES = {"caption_max_new_tokens": "caption_tokens", "caption_batch_size": "caption_batch"}  # on the command line


def explained(command: Callable[..., int]) -> Callable[..., int]:
    """Errors that a user can mend end as one message and status 2, not as a traceback."""

    @wraps(command)
    def explained(*args: Any, **kwargs: Any) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show must not end a run
                stream.reconfigure(errors="backslashreplace")
        try:
            return until_interrupted(lambda: command(*args, **kwargs))
        except (ManifestError, CacheError, RecipeMismatch, ValueError) as error:
            err.print(f"error: {error}")
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            err.print(f"error: {error}" if error.errno is None else f"error: {error.strerror}{place}")
        except Exception:  # a bug, or a device that gave up: Python's own status 1 would claim that the rest is safe
            traceback.print_exc()
        return 2

    return explained


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


def load(
    dataset: str, root: str | None, render: bool = True, cached: Collection[str] = (), follow_links: bool = False
) -> Manifest:
    source = dataset if is_url(dataset) else find_dataset(dataset)
    if isinstance(source, Path) and render and root is None and source.resolve() == PACKAGED / "demo.toml":
        # The one data set that can be made out of nothing: rendered on first use. A user's own demo.toml is not it.
        root_there = tomllib.loads(source.read_text(encoding="utf-8"))["root"]
        make_demo(Path(os.path.normpath(place_of(source) / root_there)), 0)
    manifest = load_manifest(source, root, cached=cached, follow_links=follow_links)
    for text in manifest.notes:
        note(text)
    return manifest


def make_demo(root: Path, seed: int) -> None:
    from extract.demo.render import render_demo
    from extract.show.progress import StepDisplay

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
