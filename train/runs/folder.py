"""A run is a folder; everything needed to read it again is in it.

runs/<dataset>-<task>-<time>/
  config.json           task, training config, folds, feature sizes, recipes, digests of features, labels and
                        training videos, versions, seed
  metrics.json          scores; first keys: task, metric, value, folds, interval, baselines, differences
  predictions.parquet   per frame: track, video, frame, label, score, fold
  checkpoints/          fold<k>.safetensors and fold<k>.json (history, and the sha256 of the former) per fold;
                        fold<k>.state.pt while it is trained
  baselines/<head>/     checkpoints and curves of the other heads, same folds
  tensorboard/          curves
  report.html           the run as a page
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from shared.cache import FeatureCache
from shared.cache.types import leading_words, truncated_words
from shared.manifest import Manifest
from shared.recipe import diff_recipes, fingerprint
from train.config import RANDOM_WINDOWS, TrainConfig
from train.data.features import Features
from train.data.labels import Track
from train.data.tracks import LabelReport
from train.heads.standardize import HeadModel
from train.judging.cautions import cautions
from train.judging.folds import SCATTERED, UNUSED
from train.runs.checkpoints import load_model
from train.runs.checks import check_config, check_weights
from train.runs.files import RunError, read_json, write_json
from train.tasks import Task, task_named

FORMAT_VERSION = 1
# Two trainings are the same if these are.
RESUME_KEYS = (
    "task",
    "dataset",
    "window",
    "train",
    "dims",
    "fingerprints",
    "features_sha256",
    "labels_sha256",
    "permuted",
    "folds",
)
MINIATURE = "crossgru miniature"  # how recipes of extract/ call the weights that are part of the package
TWO_WAYS = (
    "Two ways out: put settings, labels and features back as they were, or train a new run (the same command without "
    "--resume)."
)


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    path: Path
    config: dict[str, Any]

    @property
    def task(self) -> Task:
        whole = self.config.get("task_definition")
        try:
            return Task.from_dict(whole) if whole is not None else task_named(self.config["task"])
        except ValueError as error:
            raise RunError(f"{self.path / 'config.json'} holds no task of this version: {error}") from None

    @property
    def train_config(self) -> TrainConfig:
        try:
            return TrainConfig.from_dict(self.config["train"])
        except (TypeError, AttributeError, ValueError) as error:
            raise RunError(f"{self.path / 'config.json'} holds no training of this version: {error}") from None

    @property
    def metrics(self) -> dict[str, Any]:
        """Contents of metrics.json.

        Raises:
            RunError: the run has not ended.
        """
        file = self.path / "metrics.json"
        if "rows" in self.config:
            raise RunError(f"{self.path} is an ablation, not one trained head; its table is ablation.md")
        if not file.is_file():
            raise RunError(f"{self.path} has no metrics.json: the run has not ended; go on with --resume {self.path}")
        return read_json(file)

    def checkpoint(self, fold: int) -> Path:
        """Weights of one fold (0-based); files count folds from 1, as tables do."""
        return self.path / "checkpoints" / f"fold{fold + 1}.safetensors"

    def history(self, fold: int) -> Path:
        """Epochs of one fold; written last, so that its presence means that the fold is trained."""
        return self.checkpoint(fold).with_suffix(".json")

    def state(self, fold: int) -> Path:
        """Training state of a fold that is not trained to its end."""
        return self.checkpoint(fold).with_suffix(".state.pt")

    def fold_files(self, suffix: str) -> list[Path]:
        """Files ``fold<k><suffix>`` of all folds, in their order (fold10 after fold2)."""
        files = (self.path / "checkpoints").glob(f"fold*{suffix}")
        numbers = {file: file.name.removesuffix(suffix).removeprefix("fold") for file in files}
        return sorted((file for file, n in numbers.items() if n.isdecimal()), key=lambda file: int(numbers[file]))

    def load_models(self) -> list[HeadModel]:
        """The heads of all folds, rebuilt from the folder alone.

        Raises:
            RunError: no checkpoint, or one that is damaged or does not fit the stored config.
        """
        files = self.fold_files(".safetensors")
        if not files:
            raise RunError(f"{self.path} holds no checkpoint")
        for file in files:
            check_weights(file)
        return [load_model(self.task, self.train_config, self.config["dims"], file) for file in files]


def run_facts(
    task: Task,
    config: TrainConfig,
    manifest: Manifest,
    cache: FeatureCache,
    features: Features,
    tracks: Sequence[Track],
    labels: LabelReport,
    folds: np.ndarray,
    permuted: bool,
) -> dict[str, Any]:
    """Contents of config.json: what was trained on what, and what a reader must know of it."""
    untrained = sorted(s for s, recipe in features.recipes.items() if is_untrained(recipe))
    notes = [manifest.note] if manifest.note else []
    if untrained:
        notes.append(f"untrained encoders ({', '.join(untrained)}): random weights, not a result")
    if any(map(is_miniature, features.recipes.values())):
        notes.append("miniature encoders, rendered data: a test of the parts, not a result on real video")
    known = cache.facts().videos
    cut = {
        v: one.truncated
        for v in sorted({t.video_id for t in tracks})
        if (one := known.get(v)) and one.truncated is not None
    }
    if cut:
        notes.append(truncated_words(cut))
    if late := {v: known[v].leading for v in sorted({t.video_id for t in tracks}) if v in known and known[v].leading}:
        notes.append(leading_words(late))
    notes += cautions(task, tracks, folds, known)
    if permuted:
        notes.append("labels were permuted across groups: a control that must score chance")
    if unused := [t.name for t, fold in zip(tracks, folds, strict=True) if fold == UNUSED]:
        why = "neither train nor val by their split" if config.folds == "official" else "no fold given"
        shown = f"{', '.join(unused[:5])}{' ...' if len(unused) > 5 else ''}"
        notes.append(f"{len(unused)} of {len(tracks)} tracks are in no fold ({why}): {shown}")
    return {
        "task": task.name,
        "task_definition": task.to_dict(),
        "dataset": manifest.name,
        "manifest": str(manifest.source),
        "root": manifest.remote.url if manifest.remote else str(manifest.root),
        "cache": cache.url,
        "window": cache.window.to_dict(),
        "train": config.to_dict(),
        "dims": features.dims,
        "recipes": features.recipes,
        "fingerprints": {s: fingerprint(r) for s, r in features.recipes.items()},
        "features_sha256": features.digests(),
        "stored_sha256": features.stored,
        "labels_sha256": labels.digest,
        "permuted": permuted,
        "untrained": untrained,
        "notes": notes,
        "videos": sorted({t.video_id for t in tracks}),
        "sources": _sources(cache, tracks, folds),
        "folds": {t.name: int(f) for t, f in zip(tracks, folds, strict=True)},
    }


def _sources(cache: FeatureCache, tracks: Sequence[Track], folds: np.ndarray) -> dict[str, str]:
    """Video id -> sha256 of its file, of the videos that at least one fold learns from."""
    tested = sorted({int(fold) for fold in folds if fold >= 0})
    learned = {
        track.video_id
        for track, own in zip(tracks, folds, strict=True)
        if own == SCATTERED or (own != UNUSED and any(fold != own for fold in tested))
    }
    facts = cache.facts().videos
    found = {video_id: facts[video_id].sha256 for video_id in sorted(learned & facts.keys())}
    return {video_id: sha256 for video_id, sha256 in found.items() if sha256}


def is_untrained(recipe: Mapping[str, Any]) -> bool:
    """Whether a stream's numbers come from random weights."""
    return str(recipe.get("weights", "")).startswith("random")


def is_miniature(recipe: Mapping[str, Any]) -> bool:
    """Whether a stream's numbers come from the weights that are part of the package, trained on rendered data."""
    return str(recipe.get("weights", "")).startswith(MINIATURE)


def create_run(root: Path, name: str, config: Mapping[str, Any]) -> Run:
    """A new folder ``<root>/<name>-<time>`` with its config."""
    first = root / f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    path, number = first, 2
    while not _make_folder(path):  # two runs may start in one second
        path, number = Path(f"{first}-{number}"), number + 1
    (path / "checkpoints").mkdir()
    full = {"format_version": FORMAT_VERSION, **config, "versions": library_versions()}
    write_json(path / "config.json", full)
    return Run(path, full)


def resume_run(path: Path, facts: Mapping[str, Any]) -> Run:
    """An unfinished run, to go on with.

    Args:
        facts: from ``run_facts``, of what would be trained now.

    Raises:
        RunError: not a run folder, or one that was started with other settings or data; the message has the diff.
    """
    run = open_run(path)
    stored = {k: run.config.get(k) for k in RESUME_KEYS} | _row_prints(run.config)
    lines = diff_recipes(stored, {k: facts[k] for k in RESUME_KEYS} | _row_prints(facts))
    if lines:
        lines.sort(
            key=lambda line: line.startswith(("folds.", "rows."))
        )  # what differs first, what follows from it last
        shown = [line.replace("cache has", "the run has").replace("asked for", "now") for line in lines[:12]]
        raise RunError(
            f"{path} cannot be resumed, it was started with other settings or data:\n  "
            + "\n  ".join(shown)
            + f"\n{TWO_WAYS}"
        )
    return run


def _row_prints(config: Mapping[str, Any]) -> dict[str, Any]:
    """Row -> fingerprint of its training config, of an ablation; any other run has no rows."""
    return {"rows": {name: fingerprint(own) for name, own in config.get("rows", {}).items()}}


def baseline_run(run: Run, head: str, config: TrainConfig) -> Run:
    """The folder of another head inside a run."""
    path = run.path / "baselines" / head
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Run(path, {**run.config, "train": config.to_dict()})


def row_run(run: Run, row: str, config: TrainConfig) -> Run:
    """The folder of one row inside an ablation."""
    path = run.path / "rows" / row
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Run(path, {**run.config, "train": config.to_dict()})


def open_run(path: Path) -> Run:
    """An existing run.

    Raises:
        RunError: not a run folder, or of another format version.
    """
    file = path / "config.json"
    if not file.is_file():
        raise RunError(
            f"{path} is not a run folder (no config.json); runs are made by: python -m train cv DATASET --task TASK"
        )
    config = read_json(file)
    if config.get("format_version") != FORMAT_VERSION:
        raise RunError(f"{path} has run format {config.get('format_version')!r}, this version reads {FORMAT_VERSION}")
    check_config(file, config)
    return Run(path, config)


def latest_run(root: Path, task: str | None = None, dataset: str | None = None) -> Run:
    """The newest finished run below ``root``, of one task and data set if given.

    Permuted controls and random windows do not count.

    Raises:
        RunError: there is none.
    """
    files = sorted(root.glob("*/metrics.json"), key=lambda f: f.stat().st_mtime, reverse=True)
    for file in files:
        run = open_run(file.parent)
        fits = task in (None, run.config["task"]) and dataset in (None, run.config["dataset"])
        if fits and not run.config["permuted"] and run.train_config.folds != RANDOM_WINDOWS:
            return run
    wanted = (f" of task {task!r}" if task else "") + (f" trained on {dataset!r}" if dataset else "")
    mend = f"python -m train cv {dataset or 'DATASET'} --task {task or 'TASK'}"
    raise RunError(f"no finished run{wanted} below {root}; train one first: {mend}")


def tasks_of(root: Path) -> list[str]:
    """Names of the tasks of all finished runs below ``root``; damaged ones count for nothing."""
    found: dict[str, None] = {}
    for file in sorted(root.glob("*/metrics.json")):
        with suppress(RunError):
            found[open_run(file.parent).config["task"]] = None
    return [*found]


def _make_folder(path: Path) -> bool:
    """Whether the folder is new and ours."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def library_versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for name in ("crossgru", "numpy", "scikit-learn", "torch", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
