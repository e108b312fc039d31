"""What ``submit``, ``validate-submission`` and ``oracle`` do; each returns the exit status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from shared.cache import CacheError, FeatureCache
from shared.datasets import cache_of
from shared.labels.annotations import track_to_video
from shared.videos.names import VIDEO_SUFFIXES
from train.commands.parts import err, explained, find_run, load, open_task, out, run_settings, tell
from train.data.features import cached_videos
from train.data.labels import Track
from train.data.spans import frame_times
from train.data.tracks import read_tracks
from train.experiments.inference import score_tracks, streams_of
from train.fit.loop import pick_device
from train.judging.evaluate import TrackScores, evaluate_frames
from train.judging.folds import check_groups
from train.judging.oracle import oracle_frames
from train.judging.postprocess import apply_all, identity
from train.runs.checkpoints import RunError
from train.runs.folder import is_miniature
from train.show.training import print_oracle, settings_words
from train.submission.check import check_dvd, check_flat
from train.submission.dvd import DvdTemplate, blank_dvd_template, read_dvd_templates, write_dvd
from train.submission.files import (
    FLAT_COLUMNS,
    FlatTemplate,
    SubmissionError,
    read_flat_template,
    row_values,
    write_flat,
)
from train.tasks import Task, task_named

SHOWN = 5


@explained
def submit(
    features: str | None,
    *,
    template: Path | None,
    output: Path,
    cache: str | None,
    run: Path | None,
    task: str | None,
    runs: Path,
    raw: bool,
    fill_missing: bool,
    label_column: str | None,
    overwrite: bool,
    device: str,
) -> int:
    """``train submit``."""
    if features is None and cache is None:
        raise ValueError("say where the features are: python -m train submit CACHE_OR_DATASET --template ...")
    opened, place = find_run(run, runs, task), pick_device(device)
    wanted = _read_template(opened.task, template, label_column)
    if isinstance(wanted, FlatTemplate) and output.exists() and not overwrite and not output.samefile(wanted.path):
        raise ValueError(f"{output} exists; give another --output, or replace it with --overwrite")
    store = FeatureCache.open(cache_of(features or "", cache))
    found, lacking = cached_videos(store, streams_of(opened))
    if not isinstance(wanted, FlatTemplate) and not wanted:
        wanted = [blank_dvd_template(name, label_column) for name in _bare_names(found)]
    names = wanted.tracks if isinstance(wanted, FlatTemplate) else [t.video for t in wanted]
    tracks, without = _tracks_of(opened.task, names, found)
    if without and not (fill_missing and tracks):
        raise CacheError(
            f"{len(without)} of {len(names)} tracks of the template have no features in {store.url}: "
            f"{_some(without)}. Extract them, or give them the commonest prediction with --fill-missing"
            + (f" (videos that lack a stream: {_some(lacking)})" if lacking else "")
        )
    scored, notes = score_tracks(opened, store, tracks, place)
    settings = identity(opened.task) if raw else run_settings(opened)
    if settings is None:
        raise RunError(f"{opened.path} was made before runs stored their post-processing; train it again or give --raw")
    results = {r.track.name: r for r in apply_all(opened.task, settings, scored)}
    missing = _commonest(opened.task, [*results.values()]) if without else ""
    if isinstance(wanted, FlatTemplate):
        filled = write_flat(opened.task, wanted, results, missing, output)
        assert template is not None
        rows = check_flat(opened.task, output, template)
    else:
        filled = write_dvd(opened.task, wanted, results, missing, output)
        own = {name: found[video] for name, video in _bare_names(found).items()}
        rows = check_dvd(output, template, label_column, own)
    if without:
        notes = [*notes, f"{len(without)} tracks without features got {missing!r} throughout: {_some(without)}"]
    if opened.config["untrained"]:
        notes = [*notes, f"untrained encoders ({', '.join(opened.config['untrained'])}): not a result"]
    if any(map(is_miniature, opened.config["recipes"].values())):
        notes = [*notes, "miniature encoders, rendered data: not a result on real video"]
    tell([], notes)
    how = "raw scores" if raw else settings_words(opened.task, settings.to_dict())
    out.print(f"{opened.path.name}, task {opened.task.name}: {rows} rows of {len(names)} tracks -> {output}\n{how}")
    out.print(f"{filled} rows took the value of the nearest scored frame; checked: valid")
    return 0


@explained
def validate_submission(submission: Path, *, task: str, template: Path | None, label_column: str | None) -> int:
    """``train validate-submission``: 0 valid, 1 a violation, 2 it could not be checked."""
    wanted = task_named(task)
    try:
        if wanted.name in FLAT_COLUMNS:
            if template is None:
                raise ValueError(
                    f"task {task!r} is checked row by row against the organisers' example: --template FILE"
                )
            if not submission.is_file():
                raise ValueError(f"no submission file {submission}")
            rows = check_flat(wanted, submission, template)
        elif wanted.name == "violence":
            rows = check_dvd(submission, template, label_column)
        else:
            raise ValueError(f"task {task!r} has no submission format")
    except SubmissionError as error:
        if template is not None and Path(error.file).is_relative_to(template):
            raise ValueError(f"the template cannot be used, so nothing was checked: {error}") from None
        out.print(f"not valid: {error}")
        return 1
    out.print(f"{submission}: valid, {rows} rows")
    return 0


@explained
def oracle(
    dataset: str,
    *,
    task: str,
    cache: str | None,
    root: Path | None,
    follow_links: bool,
    size: int | None,
    stride: int | None,
    split: str,
    task_kind: str | None = None,
    label_files: Sequence[str] = (),
) -> int:
    """``train oracle``: what the window costs, from labels alone."""
    store: FeatureCache | None = None
    try:
        store = FeatureCache.open(cache_of(dataset, cache))
    except CacheError as error:
        if cache is not None:
            raise
        err.print(f"note: {error}; label rows are taken for frames")
    own = open_task(load(dataset, root, store, follow_links), task, task_kind, label_files)
    wanted, manifest = own.task, own.manifest
    num_frames = None if store is None else cached_videos(store, [])[0]
    tracks, labels = read_tracks(manifest, wanted, num_frames, partial(frame_times, store) if store else None)
    tell(labels.lines(), [manifest.note] if manifest.note else [])
    parts = sorted({str(t.split) for t in tracks})
    # Two people of one video in train and val: its labels count on both sides, and no ceiling means anything.
    check_groups([parts.index(str(t.split)) for t in tracks], [t.group for t in tracks], parts)
    chosen = [t for t in tracks if split == "all" or t.split == split]
    if not chosen:
        raise ValueError(f"no track of the split {split!r}; there are {parts}, or all")
    size = size or (store.window.size if store is not None else 64)
    stride = stride or size
    scores = evaluate_frames(wanted, oracle_frames(wanted, chosen, size, stride))
    print_oracle(out, wanted, f"{manifest.name}, task {wanted.name}, split {split}", size, stride, scores)
    return 0


# ------------------------------------------------------------------ parts


def _read_template(task: Task, template: Path | None, label_column: str | None) -> FlatTemplate | list[DvdTemplate]:
    if task.name in FLAT_COLUMNS:
        if template is None or not template.is_file():
            raise ValueError(
                f"task {task.name!r} is handed in row by row as the organisers' example file has it: --template FILE, "
                f"found {template}"
            )
        return read_flat_template(task, template)
    if task.name != "violence":
        raise ValueError(f"task {task.name!r} has no submission format")
    return read_dvd_templates(template, label_column) if template is not None else []


def _tracks_of(task: Task, names: Sequence[str], found: Mapping[str, int]) -> tuple[list[Track], list[str]]:
    """Unlabelled tracks of a template, and the names of those whose video has no features."""
    tracks, without, bare = [], [], _bare_names(found)
    for name in names:
        video = track_to_video(name, found) or bare.get(track_to_video(name, bare) or "")
        if video is None:
            without.append(name)
            continue
        empty = np.full((found[video], len(task.label_names)), np.nan, np.float32)
        tracks.append(Track(name, video, video, None, None, empty, "template"))
    return tracks, without


def _bare_names(videos: Iterable[str]) -> dict[str, str]:
    """Ids without the ending of a video file -> ids: a folder gives ids such as 0008.mp4, templates say 0008."""
    return {v[: v.rindex(".")] if Path(v).suffix.lower() in VIDEO_SUFFIXES else v: v for v in videos}


def _commonest(task: Task, results: Sequence[TrackScores]) -> str:
    """What the scored frames say most often, or on average: the value of rows without features."""
    scores = np.concatenate([r.scores for r in results])
    scores = scores[np.isfinite(scores).all(axis=1)]  # (n, K')
    if task.kind == "classes":
        scores = (scores.argmax(axis=1)[:, None] == np.arange(task.outputs)).astype(np.float64)
    return row_values(task, scores.mean(axis=0, keepdims=True))[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
