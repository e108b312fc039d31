"""What the commands of the command line do; each returns the exit status (0 done, 2 it could not be done)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import typer

from shared.cache import CacheError, FeatureCache
from shared.datasets import cache_of
from shared.manifest import name_from
from train.commands.parts import (
    err,
    explained,
    find_run,
    go_on,
    open_data,
    open_task,
    open_tracks,
    out,
    resumable,
    run_settings,
    tell,
    training_config,
)
from train.config import RANDOM_WINDOWS, TrainConfig
from train.data.features import (
    Features,
    Windows,
    build_windows,
    cached_videos,
    load_features,
    read_captions,
    window_rule,
)
from train.data.labels import Track
from train.data.own_task import with_labels
from train.data.resident import place as place_features
from train.data.spans import frame_times
from train.data.tracks import LabelReport, permute_labels
from train.experiments.audit import audit_folds
from train.experiments.crossval import (
    CrossValidation,
    Split,
    assign_folds,
    constant_baseline,
    cross_validate,
    split_windows,
    untested_frames,
)
from train.experiments.inference import choose_videos, score_tracks, streams_of, unlabelled_tracks
from train.experiments.segments import check_output, write_output
from train.experiments.summary import summarise
from train.fit.loop import pick_device
from train.fit.priors import prior_line
from train.fit.way import check_way, pick_way
from train.heads import head_class, head_config
from train.judging.cautions import label_ranges, label_words
from train.judging.evaluate import TrackScores, evaluate_frames, predictions_table
from train.judging.postprocess import apply_all
from train.runs.changes import changed_features, changed_labels, changes_since
from train.runs.files import damage_in_words, write_bytes, write_json
from train.runs.folder import Run, baseline_run, create_run, is_miniature, resume_run, run_facts
from train.show.study import leak_words, print_audit
from train.show.training import CvDisplay, print_cv, print_evaluation, print_predictions
from train.tasks import Task

BASELINE_HEADS = ("video", "image", "text")


@explained
def cv(
    dataset: str,
    task_name: str,
    settings: Mapping[str, Any],
    *,
    cache: str | None,
    root: Path | None,
    follow_links: bool,
    runs: Path,
    baselines: bool,
    permuted: bool,
    resume: Path | None,
    device: str,
    folds_at_once: str,
    task_kind: str | None = None,
    label_files: Sequence[str] = (),
) -> int:
    """``train cv``."""
    place, way = pick_device(device), check_way(folds_at_once)
    store, manifest = open_data(dataset, cache, root, follow_links)
    own = open_task(manifest, task_name, task_kind, label_files)
    task, manifest = own.task, own.manifest
    config = training_config(settings, task)
    rule = window_rule(task, config.window_label)
    if permuted and config.folds == RANDOM_WINDOWS:
        raise ValueError("permuted labels are no control on random windows: within a video they can still be copied")
    heads = (config.head, *(h for h in BASELINE_HEADS if baselines and h != config.head))
    streams = sorted({s for h in heads for s in head_class(h).streams})
    tracks, labels = open_tracks(manifest, task, store, streams)
    if permuted:
        tracks = permute_labels(tracks, config.seed)
    features = load_features(store, sorted({t.video_id for t in tracks}), streams)
    err.print(place_features(features, place).words)
    windows = build_windows(tracks, features, rule, config.min_valid)
    folds = assign_folds(config, tracks)
    splits = split_windows(config, tracks, windows, folds)
    facts = run_facts(task, config, manifest, store, features, tracks, labels, folds, permuted)
    leaks = audit_folds(task, tracks, windows, splits) if config.folds == RANDOM_WINDOWS else None
    if leaks:
        facts["notes"].insert(0, leak_words(task, leaks))
    run = resume_run(resume, facts) if resume else create_run(runs, f"{manifest.name}-{name_from(task.name)}", facts)
    tell([], go_on(run) if resume else [])
    err.print(
        f"{manifest.name}, task {task.name}: {len(tracks)} tracks, {int(windows.labelled.sum())} labelled windows of "
        f"{len(windows)}, {len({t.group for t in tracks})} groups -> {run.path}"
    )
    prior = prior_line(task, windows.labels[windows.labelled], config.class_weights)
    tell([*labels.lines(), *([prior] if prior else [])], facts["notes"])

    with resumable(run):
        results = _train_heads(task, config, heads, features, tracks, windows, splits, run, place, way)
    floor = constant_baseline(task, tracks, windows, splits)
    with resumable(run):
        metrics = _store_results(run, task, config, results, floor, labels, leaks)
    if leaks:
        print_audit(out, task, config.folds, leaks)
    print_cv(out, task, metrics)
    out.print(f"run: {run.path}\nreport: {_write_report(run, store)}")
    return 0


@explained
def predict(
    features: str | None,
    *,
    cache: str | None,
    run: Path | None,
    task: str | None,
    trained_on: str | None,
    runs: Path,
    output: Path | None,
    video: str | None,
    device: str,
    segments: bool = False,
    min_length: float = 0.0,
    close_gaps: float = 0.0,
) -> int:
    """``train predict``."""
    if output is not None:
        check_output(output, None, segments)
    if features is None and cache is None:
        raise ValueError("say what to score: python -m train predict CACHE_OR_DATASET")
    opened, place = find_run(run, runs, task, trained_on), pick_device(device)
    if output is not None:
        check_output(output, opened.task.kind, segments)
    store = FeatureCache.open(cache_of(features or "", cache))
    found, lacking = cached_videos(store, streams_of(opened))
    tracks = unlabelled_tracks(opened.task, choose_videos(found, video, store.url), store.url)
    results, notes = score_tracks(opened, store, tracks, place)
    notes += changed_features(opened, store)
    tell([], notes + ([f"videos that lack a stream, not scored: {', '.join(lacking)}"] if lacking else []))
    table = predictions_table(opened.task, results).drop(columns=["fold"])
    table = table.drop(columns=[c for c in table.columns if c.startswith("label")])
    infos = [store.info(r.track.video_id) for r in results]
    table.insert(3, "time_s", np.concatenate([info.pts for info in infos if info is not None]))
    miniature = any(map(is_miniature, opened.config["recipes"].values()))
    print_predictions(out, opened, table, untrained=opened.config["untrained"], miniature=miniature)
    if output is not None:
        times = {r.track.video_id: frame_times(store, r.track.video_id) for r in results}
        media = store.paths()
        lines = write_output(
            output,
            opened.task,
            table,
            {video_id: media.get(video_id, video_id) for video_id in times},
            times,
            as_segments=segments,
            min_s=min_length,
            gap_s=close_gaps,
        )
        for line in lines:
            out.print(line)
    return 0


@explained
def evaluate(
    dataset: str,
    *,
    run: Path | None,
    task: str | None,
    cache: str | None,
    root: Path | None,
    follow_links: bool,
    runs: Path,
    device: str,
    label_files: Sequence[str] = (),
) -> int:
    """``train evaluate``."""
    opened, place = find_run(run, runs, task), pick_device(device)
    store, manifest = open_data(dataset, cache, root, follow_links)
    manifest = with_labels(manifest, opened.task, label_files)
    tracks, labels = open_tracks(manifest, opened.task, store, streams_of(opened))
    results, notes = score_tracks(opened, store, tracks, place)
    own = manifest.name == opened.config["dataset"]
    notes += changed_features(opened, store) + (changed_labels(opened, tracks) if own else [])
    tell(labels.lines(), notes)
    left_out = sum(one.frames for one in labels.left_out)  # everything is tested here, whatever the folds
    raw = evaluate_frames(opened.task, results, left_out=left_out, ranks=True)
    settings = run_settings(opened)
    after = (
        evaluate_frames(opened.task, apply_all(opened.task, settings, results), left_out=left_out, ranks=True)
        if settings
        else None
    )
    print_evaluation(out, opened, manifest.name, raw, after, settings.to_dict() if settings else None)
    tell([], label_words(opened.task, label_ranges(opened.task, tracks)))
    return 0


@explained
def report(*, run: Path | None, runs: Path) -> int:
    """``train report``."""
    opened = find_run(run, runs, None)
    store = None
    try:
        store = FeatureCache.open(opened.config["cache"])
    except CacheError as error:
        err.print(f"note: without captions: {error}")
    tell([], [f"{line}; the page shows what was trained" for line in changes_since(opened, store)])
    out.print(f"report: {_write_report(opened, store)}")
    return 0


def head_options(pairs: Sequence[str]) -> dict[str, int | float]:
    """``["hidden=64", "dropout=0.5"]`` -> fields of a head's config, or of an augmentation.

    Raises:
        typer.BadParameter: not NAME=NUMBER.
    """
    options: dict[str, int | float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            options[name.strip()] = int(text) if text.strip().lstrip("-").isdecimal() else float(text)
        except ValueError:
            raise typer.BadParameter(f"expected NAME=NUMBER such as dropout=0.5, found {pair!r}") from None
    return options


# ------------------------------------------------------------------ parts


def _train_heads(
    task: Task,
    config: TrainConfig,
    heads: Sequence[str],
    features: Features,
    tracks: Sequence[Track],
    windows: Windows,
    splits: Sequence[Split],
    run: Run,
    device: str,
    way: str,
) -> dict[str, CrossValidation]:
    """The head of the config, and the baselines with their own defaults, all on the same splits."""
    results = {}
    for head in heads:
        main = head == config.head
        own = config if main else replace(config, head=head, head_options=asdict(head_config(head)))
        target = run if main else baseline_run(run, head, own)
        together, why = pick_way(way, device, task, own, features, windows)
        err.print(why)
        with CvDisplay(err, head, [s.fold for s in splits], own) as display:
            results[head] = cross_validate(
                task,
                own,
                features,
                tracks,
                windows,
                splits,
                run=target,
                device=device,
                together=together,
                on_epoch=display.epoch,
            )
    return results


def _store_results(
    run: Run,
    task: Task,
    config: TrainConfig,
    results: Mapping[str, CrossValidation],
    floor: Sequence[TrackScores],
    labels: LabelReport,
    leaks: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write predictions and, last, the metrics: their presence says that the run has ended."""
    main = results[config.head]
    frames = {"constant": floor, **{head: r.frames for head, r in results.items() if head != config.head}}
    processed = {head: r.processed for head, r in results.items() if head != config.head}
    left_out = untested_frames(config, labels.left_out)
    metrics = summarise(task, main, frames, left_out, processed, whole=labels.whole)
    metrics |= {"head": config.head, "notes": run.config["notes"], "labels": labels.lines()}
    metrics |= {"audit": leaks} if leaks else {}
    write_bytes(run.path / "predictions.parquet", predictions_table(task, main.frames).to_parquet(index=False))
    write_json(run.path / "metrics.json", metrics)
    return metrics


def _write_report(run: Run, store: FeatureCache | None) -> Path:
    from train.show.report import write_report  # pyplot takes a second to import

    with damage_in_words(run.path):
        return write_report(run, lambda video: read_captions(store, video) if store is not None else [])
