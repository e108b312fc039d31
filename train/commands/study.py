"""What `train audit` and `train ablate` do; each returns the exit status (0 done, 2 it could not be done)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shared.cache import FeatureCache
from shared.manifest import name_from
from train.commands.parts import (
    err,
    explained,
    go_on,
    open_data,
    open_task,
    open_tracks,
    out,
    resumable,
    tell,
    training_config,
)
from train.config import RANDOM_WINDOWS, TrainConfig
from train.data.features import Features, build_windows, load_features, window_rule
from train.data.resident import place as place_features
from train.data.spans import frame_times
from train.data.tracks import read_tracks
from train.experiments.ablate import FULL, as_markdown, as_table, choose_rows, row_config, row_result, streams_of_rows
from train.experiments.audit import audit_folds
from train.experiments.crossval import CrossValidation, assign_folds, cross_validate, split_windows
from train.fit.loop import pick_device
from train.fit.way import check_way, pick_way
from train.judging.cautions import cautions, find_copies
from train.runs.files import write_json, write_text
from train.runs.folder import Run, create_run, resume_run, row_run, run_facts
from train.show.study import print_ablation, print_audit
from train.show.training import CvDisplay, score_name
from train.tasks import Task


@explained
def audit(
    dataset: str | None,
    task_name: str,
    settings: Mapping[str, Any],
    *,
    cache: str | None,
    root: Path | None,
    follow_links: bool,
    output: Path | None,
    task_kind: str | None = None,
    label_files: Sequence[str] = (),
) -> int:
    """``train audit``: labels, folds and lengths of videos are read, features are not."""
    config = TrainConfig.from_dict(settings)
    if dataset is None and cache is None:
        raise ValueError("say what to audit: python -m train audit DATASET --task TASK, or --cache CACHE")
    store, manifest = open_data(dataset or FeatureCache.open(str(cache)).dataset, cache, root, follow_links)
    own = open_task(manifest, task_name, task_kind, label_files)
    task, manifest = own.task, own.manifest
    rule = window_rule(task, config.window_label)
    facts = store.facts().check().videos
    num_frames = {v: one.num_frames for v, one in facts.items() if one.streams}
    tracks, labels = read_tracks(manifest, task, num_frames, partial(frame_times, store))
    plans = {t.video_id: store.window.plan(num_frames[t.video_id]) for t in tracks}
    windows = build_windows(tracks, Features({}, {}, plans, {}), rule, config.min_valid)
    folds = assign_folds(config, tracks)
    splits = split_windows(config, tracks, windows, folds)
    tell(labels.lines(), [manifest.note] if manifest.note else [])
    warnings, copies = cautions(task, tracks, folds, facts), find_copies(tracks, facts)
    found = {**audit_folds(task, tracks, windows, splits), "notes": warnings, "copies": copies}
    print_audit(out, task, config.folds, found)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, {"task": task.name, "folds": config.folds, "seed": config.seed, **found})
    return 0


@explained
def ablate(
    dataset: str,
    task_name: str,
    settings: Mapping[str, Any],
    *,
    rows: Sequence[str],
    cache: str | None,
    root: Path | None,
    follow_links: bool,
    runs: Path,
    resume: Path | None,
    device: str,
    folds_at_once: str,
    task_kind: str | None = None,
    label_files: Sequence[str] = (),
) -> int:
    """``train ablate``."""
    place, names = pick_device(device), choose_rows(rows)
    way = check_way(folds_at_once)
    store, manifest = open_data(dataset, cache, root, follow_links)
    own_task = open_task(manifest, task_name, task_kind, label_files)
    task, manifest = own_task.task, own_task.manifest
    config = training_config(settings, task)
    if config.folds == RANDOM_WINDOWS:
        raise ValueError(
            "random windows leak too much to compare anything on; an ablation takes group, official or column"
        )
    rule, streams = window_rule(task, config.window_label), streams_of_rows(names, config)
    tracks, labels = open_tracks(manifest, task, store, streams)
    features = load_features(store, sorted({t.video_id for t in tracks}), streams)
    err.print(place_features(features, place).words)
    windows = build_windows(tracks, features, rule, config.min_valid)
    folds = assign_folds(config, tracks)
    splits = split_windows(config, tracks, windows, folds)
    facts = run_facts(task, config, manifest, store, features, tracks, labels, folds, False)
    facts["rows"] = {name: row_config(config, name).to_dict() for name in names}
    run = (
        resume_run(resume, facts)
        if resume
        else create_run(runs, f"{manifest.name}-{name_from(task.name)}-ablation", facts)
    )
    tell([], go_on(run) if resume else [])
    err.print(f"{manifest.name}, task {task.name}: {len(names)} rows of {len(splits)} folds -> {run.path}")
    tell(labels.lines(), facts["notes"])
    found: list[dict[str, Any]] = []
    full: CrossValidation | None = None
    for name in names:
        own = row_config(config, name)
        together, why = pick_way(way, place, task, own, features, windows)
        err.print(why)
        with resumable(run), CvDisplay(err, name, [s.fold for s in splits], own) as display:
            result = cross_validate(
                task,
                own,
                features,
                tracks,
                windows,
                splits,
                run=row_run(run, name, own),
                device=place,
                together=together,
                on_epoch=display.epoch,
            )
        full = result if name == FULL else full
        assert full is not None  # the full model is the first row
        found.append(row_result(task, name, own, result, full))
        _store(run, task, found, len(names))
    print_ablation(out, task, found)
    tell([], facts["notes"])
    out.print(f"table: {run.path / 'ablation.md'}, ablation.csv, ablation.json")
    return 0


def _store(run: Run, task: Task, rows: Sequence[Mapping[str, Any]], wanted: int) -> None:
    """Write the table so far, in three forms."""
    name, train = score_name(task.metric, task), run.train_config
    title = (
        f"{run.config['dataset']}, {task.name}: {name} per frame on unseen groups; {train.folds} folds, seed "
        f"{train.seed}, at most {train.max_epochs} epochs, patience {train.patience}"
    )
    write_text(run.path / "ablation.csv", as_table(rows).to_csv(index=False))
    write_text(run.path / "ablation.md", as_markdown(title, rows, run.config["notes"]))
    table = {"task": task.name, "metric": task.metric, "finished": len(rows) == wanted, "rows": list(rows)}
    write_json(run.path / "ablation.json", table)
