"""What the commands of the command line do; each returns the exit status (0 done, 2 it could not be done)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from shared.cache import CacheError, FeatureCache
from shared.manifest import Manifest, find_dataset, load_manifest
from shared.recipe import diff_recipes, fingerprint
from train.config import TrainConfig
from train.crossval import CrossValidation, assign_folds, constant_baseline, cross_validate, summarise
from train.data import Features, Windows, build_windows, load_features, window_rule
from train.evaluate import TrackScores, evaluate_frames, predictions_table, tracks_to_frames
from train.heads import head_class, head_config
from train.labels import Track
from train.loop import predict as predict_windows
from train.runs import Run, RunError, create_run, latest_run, open_run, write_json
from train.show import CvDisplay, print_cv, print_predictions
from train.tasks import Task, task_named
from train.tracks import LabelReport, read_tracks

err = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
out = Console(markup=False, highlight=False, soft_wrap=True)

BASELINE_HEADS = ("video", "image", "text")


def _explained(command: Callable[..., int]) -> Callable[..., int]:
    """Errors that a user can mend end as one message and status 2, not as a traceback."""

    @wraps(command)
    def explained(*args: Any, **kwargs: Any) -> int:
        # Heads are small: on a CPU a second thread costs more in waiting than it computes.
        torch.set_num_threads(1)
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            err.print(f"error: {error}")
        except OSError as error:
            err.print(f"error: {error}" if error.errno is None else f"error: {error.strerror}: {error.filename or ''}")
        except KeyboardInterrupt:
            err.print("interrupted")
            return 130
        return 2

    return explained


@_explained
def cv(
    dataset: str,
    task_name: str,
    settings: Mapping[str, Any],
    *,
    cache: str | None,
    root: Path | None,
    runs: Path,
    baselines: bool,
    permute_labels: bool,
    resume: Path | None,
    device: str,
) -> int:
    """``train cv``."""
    task, place = task_named(task_name), pick_device(device)
    config = TrainConfig.from_dict(settings)
    config = replace(
        config,
        head_options=asdict(head_config(config.head, **config.head_options)),
        loss=config.loss or task.default_loss,
    )
    manifest = load_manifest(find_dataset(dataset), root)
    store = FeatureCache.open(cache or f"caches/{manifest.name}.zarr")
    tracks, labels = _read_tracks(manifest, task, store)
    if permute_labels:
        tracks = _permuted(tracks, config.seed)
    heads = (config.head, *(h for h in BASELINE_HEADS if baselines and h != config.head))
    needed = sorted({s for h in heads for s in head_class(h).streams})
    features = load_features(store, sorted({t.video_id for t in tracks}), needed)
    windows = build_windows(tracks, features, window_rule(task, config.window_label), config.min_valid)
    folds = assign_folds(config, tracks)
    facts = _facts(task, config, manifest, store, features, tracks, labels, folds, permute_labels)
    run = _open_or_create(resume, runs, f"{manifest.name}-{task.name}", facts)
    _announce(task, manifest, tracks, windows, labels, facts, run)

    results: dict[str, CrossValidation] = {}
    for head in heads:
        own = config if head == config.head else replace(config, head=head, head_options=asdict(head_config(head)))
        target = run if head == config.head else _baseline_run(run, head, own)
        with CvDisplay(err, head, folds, own.max_epochs) as display:
            results[head] = cross_validate(
                task, own, features, tracks, windows, folds, run=target, device=place, on_epoch=display.epoch
            )
    floor = evaluate_frames(task, constant_baseline(task, config, tracks, windows, folds))["value"]
    others = {h: evaluate_frames(task, r.frames)["value"] for h, r in results.items() if h != config.head}
    metrics = summarise(task, results[config.head], {"constant": floor, **others})
    metrics |= {"head": config.head, "notes": facts["notes"], "labels": labels.lines()}
    predictions_table(task, results[config.head].frames).to_parquet(run.path / "predictions.parquet", index=False)
    write_json(run.path / "metrics.json", metrics)
    print_cv(out, task, metrics)

    from train.report import write_report

    page = write_report(run, features.captions)
    out.print(f"run: {run.path}\nreport: {page}")
    return 0


@_explained
def predict(
    cache: str,
    *,
    run: Path | None,
    task: str | None,
    runs: Path,
    output: Path | None,
    video: str | None,
    device: str,
) -> int:
    """``train predict``."""
    opened = _find_run(run, runs, task)
    store = FeatureCache.open(cache)
    ids = store.video_ids()
    if video is not None:
        if video not in ids:
            raise CacheError(f"no complete video {video!r} in {store.url}; there are: {', '.join(ids[:10])}")
        ids = [video]
    blank = {v: np.full((_frames_of(store, v), len(opened.task.label_names)), np.nan, np.float32) for v in ids}
    tracks = [Track(v, v, v, None, None, blank[v], store.url) for v in ids]
    results = _score(opened, store, tracks, pick_device(device))
    table = predictions_table(opened.task, results).drop(columns=["fold"])
    table = table.drop(columns=[c for c in table.columns if c.startswith("label")])
    times = {v: info.pts for v in ids if (info := store.info(v)) is not None}
    table.insert(3, "time_s", np.concatenate([times[r.track.video_id] for r in results]))
    print_predictions(out, opened, table, untrained=opened.config["untrained"])
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".parquet":
            table.to_parquet(output, index=False)
        else:
            table.to_csv(output, index=False, float_format="%.5f")
        out.print(f"{len(table)} frames -> {output}")
    return 0


@_explained
def evaluate(
    dataset: str,
    *,
    run: Path | None,
    task: str | None,
    cache: str | None,
    root: Path | None,
    runs: Path,
    device: str,
) -> int:
    """``train evaluate``."""
    opened = _find_run(run, runs, task)
    manifest = load_manifest(find_dataset(dataset), root)
    store = FeatureCache.open(cache or f"caches/{manifest.name}.zarr")
    if manifest.name == opened.config["dataset"]:
        err.print("note: the run was trained on this data set; its honest scores are in its metrics.json")
    tracks, labels = _read_tracks(manifest, opened.task, store)
    results = _score(opened, store, tracks, pick_device(device))
    scores = evaluate_frames(opened.task, results)
    for line in labels.lines():
        err.print(f"labels: {line}")
    out.print(f"{opened.path.name} on {manifest.name}: {scores['videos']} videos, {scores['frames']} frames")
    table = Table("score", "value", "95 % interval", box=None, pad_edge=False)
    for name, value in scores["scores"].items():
        low, high = scores["intervals"][name]
        table.add_row(name, f"{value:.4f}", f"{low:.3f} to {high:.3f}")
    out.print(table)
    return 0


@_explained
def report(*, run: Path | None, runs: Path) -> int:
    """``train report``."""
    from train.report import write_report

    opened = _find_run(run, runs, None)
    captions: dict[str, list[tuple[int, str]]] = {}
    try:
        store = FeatureCache.open(opened.config["cache"])
        captions = {v: _captions_of(store, v) for v in sorted({*opened.config["videos"]}) if "text" in store.streams(v)}
    except CacheError as error:
        err.print(f"note: without captions: {error}")
    out.print(f"report: {write_report(opened, captions)}")
    return 0


# ------------------------------------------------------------------ parts


def pick_device(name: str) -> str:
    """ "auto" takes a GPU if there is one; asking for one that is not there is an error."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, found {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is visible to torch; use --device cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _read_tracks(manifest: Manifest, task: Task, store: FeatureCache) -> tuple[list[Track], LabelReport]:
    cached = {v: _frames_of(store, v) for v in store.video_ids()}
    return read_tracks(manifest, task, cached)


def _frames_of(store: FeatureCache, video_id: str) -> int:
    info = store.info(video_id)
    assert info is not None
    return info.num_frames


def _captions_of(store: FeatureCache, video_id: str) -> list[tuple[int, str]]:
    data = store.read(video_id, "text")
    return (
        []
        if data.frames is None or data.captions is None
        else list(zip(data.frames.tolist(), data.captions, strict=True))
    )


def _permuted(tracks: Sequence[Track], seed: int) -> list[Track]:
    """Give every track the labels of another video, cut or repeated to its own length: what is left is chance."""
    order = np.random.default_rng(seed).permutation(len(tracks))
    shift = order[np.argsort(np.argsort(order)) - 1]  # along one random cycle, so that no track keeps its own
    source = np.empty(len(tracks), dtype=np.int64)
    source[order] = shift
    return [
        replace(track, labels=np.resize(tracks[source[i]].labels, track.labels.shape)) for i, track in enumerate(tracks)
    ]


def _facts(
    task: Task,
    config: TrainConfig,
    manifest: Manifest,
    store: FeatureCache,
    features: Features,
    tracks: Sequence[Track],
    labels: LabelReport,
    folds: np.ndarray,
    permuted: bool,
) -> dict[str, Any]:
    """Contents of config.json."""
    untrained = sorted(s for s, r in features.recipes.items() if is_untrained(r))
    notes = [manifest.note] if manifest.note else []
    if untrained:
        notes.append(f"untrained encoders ({', '.join(untrained)}): random weights, not a result")
    if permuted:
        notes.append("labels were permuted across videos: a control that must score chance")
    return {
        "task": task.name,
        "dataset": manifest.name,
        "manifest": str(manifest.source),
        "cache": store.url,
        "window": store.window.to_dict(),
        "train": config.to_dict(),
        "dims": features.dims,
        "recipes": features.recipes,
        "fingerprints": {s: fingerprint(r) for s, r in features.recipes.items()},
        "labels_sha256": labels.digest,
        "untrained": untrained,
        "notes": notes,
        "videos": sorted({t.video_id for t in tracks}),
        "folds": {t.name: int(f) for t, f in zip(tracks, folds, strict=True)},
    }


def is_untrained(recipe: Mapping[str, Any]) -> bool:
    """Whether a stream's numbers come from random weights."""
    return any(str(v).startswith("random") for k, v in recipe.items() if k == "weights")


def _open_or_create(resume: Path | None, runs: Path, name: str, facts: Mapping[str, Any]) -> Run:
    if resume is None:
        return create_run(runs, name, facts)
    run = open_run(resume)
    same = ("task", "dataset", "window", "train", "dims", "fingerprints", "labels_sha256", "folds")
    lines = diff_recipes({k: run.config.get(k) for k in same}, {k: facts[k] for k in same})
    if lines:
        raise RunError(
            f"{resume} cannot be resumed, it was started with other settings or data:\n  " + "\n  ".join(lines[:12])
        )
    return run


def _baseline_run(run: Run, head: str, config: TrainConfig) -> Run:
    path = run.path / "baselines" / head
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Run(path, {**run.config, "train": config.to_dict()})


def _announce(
    task: Task,
    manifest: Manifest,
    tracks: Sequence[Track],
    windows: Windows,
    labels: LabelReport,
    facts: Mapping[str, Any],
    run: Run,
) -> None:
    err.print(
        f"{manifest.name}, task {task.name}: {len(tracks)} tracks, {int(windows.labelled.sum())} labelled windows of "
        f"{len(windows)}, {len({t.group for t in tracks})} groups -> {run.path}"
    )
    for line in labels.lines():
        err.print(f"labels: {line}")
    for note in facts["notes"]:
        err.print(f"note: {note}")


def _find_run(run: Path | None, runs: Path, task: str | None) -> Run:
    if task is not None:
        task_named(task)
    return open_run(run) if run is not None else latest_run(runs, task)


def _score(run: Run, store: FeatureCache, tracks: Sequence[Track], device: str) -> list[TrackScores]:
    """Mean over the run's heads, per frame; refuses features that the run was not trained on."""
    models = run.load_models()
    streams = sorted({s for m in models for s in m.streams})
    features = load_features(store, sorted({t.video_id for t in tracks}), streams)
    _check_recipes(run, features)
    windows = build_windows(tracks, features, "center", 0.0)
    scores = np.mean([predict_windows(run.task, m, features, windows, device) for m in models], axis=0)
    return tracks_to_frames(tracks, windows, scores, np.ones(len(windows), bool), -1)


def _check_recipes(run: Run, features: Features) -> None:
    for stream, recipe in features.recipes.items():
        trained = run.config["recipes"][stream]
        lines = diff_recipes(trained, recipe)
        if not lines:
            continue
        if all("versions" in line.split(":")[0].split(".") for line in lines):
            err.print(f"note: stream {stream!r} was extracted with other library versions than the run was trained on")
            continue
        raise RunError(
            f"the run was trained on other features of stream {stream!r} (first the run's, then this cache's):\n  "
            + "\n  ".join(lines)
            + "\nExtract these videos with the preset and options of the run's cache."
        )
