"""What the commands of stage 2 have in common: consoles, errors in words, opening features and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from shared.cache import FeatureCache
from shared.datasets import cache_of, dataset_name, find_dataset
from shared.manifest import Manifest, load_manifest
from shared.names import unknown_name
from shared.process.interrupts import say_how_to_go_on, until_interrupted
from shared.process.terminal import harmless
from train.config import TrainConfig, preset_settings
from train.data.features import cached_videos
from train.data.labels import Track
from train.data.own_task import OwnTask, find_task
from train.data.spans import frame_times
from train.data.tracks import LabelReport, read_tracks
from train.fit.losses import loss_for
from train.heads import head_config
from train.judging.postprocess import PostProcess
from train.runs.checkpoints import RunError
from train.runs.files import damage_in_words
from train.runs.folder import Run, latest_run, open_run, tasks_of
from train.runs.mending import mend_run
from train.tasks import TASKS, Task

err = harmless(Console(stderr=True, markup=False, highlight=False, soft_wrap=True))
out = harmless(Console(markup=False, highlight=False, soft_wrap=True))


def explained(command: Callable[..., int]) -> Callable[..., int]:
    """Errors that a user can mend end as one message and status 2, not as a traceback."""

    @wraps(command)
    def inner(*args: Any, **kwargs: Any) -> int:
        # Heads are small: on a CPU a second thread costs more in waiting than it computes.
        torch.set_num_threads(1)
        try:
            return until_interrupted(lambda: command(*args, **kwargs))
        except ValueError as error:
            err.print(f"error: {error}")
        except OSError as error:
            err.print(f"error: {error}" if error.errno is None else f"error: {error.strerror}: {error.filename or ''}")
        return 2

    return inner


@contextmanager
def resumable(run: Run) -> Iterator[None]:
    """Training that can be cut: interrupts, until the command ends, and errors of the system (a full disk) say how to
    go on."""
    say_how_to_go_on(f"Go on with the same command and --resume {run.path}")
    try:
        yield
    except OSError:
        err.print(f"what is trained stays; mend this, then: the same command and --resume {run.path}")
        raise


def training_config(settings: Mapping[str, Any], task: Task) -> TrainConfig:
    """Fields of `TrainConfig` and, beside them, "preset", "augment" and "autoencode", which are set on top of it.

    Raises:
        ValueError: an unknown name, with the closest match, or a value that is refused.
    """
    values = dict(settings)
    chosen = preset_settings(values.pop("preset"), values.pop("augment"), values.pop("autoencode"))
    return completed(TrainConfig.from_dict({**values, **chosen}), task)


def completed(config: TrainConfig, task: Task) -> TrainConfig:
    """The config with every default written out, so that a run means the same when defaults change."""
    config = replace(
        config,
        head_options=asdict(head_config(config.head, **config.head_options)),
        loss=config.loss or task.default_loss,
    )
    loss_for(task, config.loss)
    return config


def open_data(dataset: str, cache: str | None, root: Path | None, follow_links: bool) -> tuple[FeatureCache, Manifest]:
    """The features first: videos that are in the cache need not be on this machine."""
    store = FeatureCache.open(cache_of(dataset, cache))
    return store, load(dataset, root, store, follow_links)


def load(dataset: str, root: Path | None, store: FeatureCache | None, follow_links: bool) -> Manifest:
    """The data set; what must be known of it is printed."""
    known = store.paths().values() if store is not None else ()
    manifest = load_manifest(find_dataset(dataset), root, cached=known, follow_links=follow_links)
    tell([], manifest.notes)
    return manifest


def open_tracks(
    manifest: Manifest, task: Task, store: FeatureCache, streams: Sequence[str]
) -> tuple[list[Track], LabelReport]:
    """The tracks of all videos that have some streams, and what became of the annotations."""
    num_frames, lacking = cached_videos(store, streams)
    tracks, labels = read_tracks(manifest, task, num_frames, partial(frame_times, store))
    return tracks, replace(labels, without_streams=lacking)


def open_task(manifest: Manifest, name: str, kind: str | None, files: Sequence[str]) -> OwnTask:
    """The task of this name with its labels; what was made of a column is printed."""
    found = find_task(manifest, name, kind, files)
    tell(found.notes, [])
    if found.words:
        err.print(found.words)
    return found


def tell(labels: Sequence[str], notes: Sequence[str]) -> None:
    """Print what became of the labels, and what a reader must know of the data."""
    for line in labels:
        err.print(f"labels: {line}")
    for note in notes:
        err.print(f"note: {note}")


def go_on(run: Run) -> list[str]:
    """Make a run that is resumed fit to go on; lines to tell."""
    return [f"{run.path.name}: {line}" for line in mend_run(run)]


def find_run(run: Path | None, runs: Path, task: str | None, trained_on: str | None = None) -> Run:
    """The run that was asked for, else the latest finished one of a task and data set.

    Raises:
        RunError: there is none, or it is of another task.
    """
    known = dict.fromkeys([*TASKS, *tasks_of(runs)])
    if run is None and task is not None and task not in known:
        raise RunError(unknown_name("task", task, known))
    if run is None:
        return latest_run(runs, task, dataset_name(trained_on) if trained_on else None)
    opened = open_run(run)
    if task is not None and opened.task.name != task:
        raise RunError(f"{run} is a run of task {opened.task.name!r}, not of {task!r}")
    return opened


def run_settings(run: Run) -> PostProcess | None:
    """The post-processing that a run tuned on its training folds; None for a run that stored none."""
    with damage_in_words(run.path):
        after = run.metrics.get("postprocessed")
        return PostProcess.from_dict(after["combined"]) if after else None
