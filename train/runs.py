"""A run is a folder; everything needed to read it again is in it.

runs/<dataset>-<task>-<time>/
  config.json           task, training config, folds, feature sizes, recipes, label digest, versions, seed
  metrics.json          scores; first keys: task, metric, value, folds, interval, baselines
  predictions.parquet   per frame: track, video, frame, label, score, fold
  checkpoints/          fold<k>.safetensors and fold<k>.json (history) per fold
  tensorboard/          curves
  report.html           the run as a page
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from train.config import TrainConfig
from train.heads.standardize import HeadModel
from train.loop import build_model
from train.tasks import Task, task_named

FORMAT_VERSION = 1


class RunError(ValueError):
    """A run folder that cannot be used; the message says why."""


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    path: Path
    config: dict[str, Any]

    @property
    def task(self) -> Task:
        return task_named(self.config["task"])

    @property
    def train_config(self) -> TrainConfig:
        return TrainConfig.from_dict(self.config["train"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Contents of metrics.json.

        Raises:
            RunError: the run has not ended.
        """
        file = self.path / "metrics.json"
        if not file.is_file():
            raise RunError(f"{self.path} has no metrics.json: the run has not ended; go on with --resume {self.path}")
        return read_json(file)

    def checkpoint(self, fold: int) -> Path:
        """Weights of one fold (0-based); files count folds from 1, as tables do."""
        return self.path / "checkpoints" / f"fold{fold + 1}.safetensors"

    def history(self, fold: int) -> Path:
        """Epochs of one fold; written last, so that its presence means that the fold is trained."""
        return self.checkpoint(fold).with_suffix(".json")

    def load_models(self) -> list[HeadModel]:
        """The heads of all folds, rebuilt from the folder alone.

        Raises:
            RunError: no checkpoint, or one that does not fit the stored config.
        """
        files = sorted((self.path / "checkpoints").glob("fold*.safetensors"))
        if not files:
            raise RunError(f"{self.path} holds no checkpoint")
        return [load_model(self.task, self.train_config, self.config["dims"], file) for file in files]


def load_model(task: Task, config: TrainConfig, dims: Mapping[str, int], file: Path) -> HeadModel:
    """One head from a safetensors file.

    Raises:
        RunError: damaged, or made for another head.
    """
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise RunError(f"checkpoint {file} cannot be read: {error}") from None
    model = build_model(task, config, dict(dims))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"checkpoint {file} does not fit head {config.head!r} of its config.json: {error}") from None
    return model.eval()


def create_run(root: Path, name: str, config: Mapping[str, Any]) -> Run:
    """A new folder ``<root>/<name>-<time>`` with its config."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = root / f"{name}-{stamp}", 2
    while path.exists():
        path, number = root / f"{name}-{stamp}-{number}", number + 1
    (path / "checkpoints").mkdir(parents=True)
    full = {"format_version": FORMAT_VERSION, **config, "versions": library_versions()}
    write_json(path / "config.json", full)
    return Run(path, full)


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
    return Run(path, config)


def latest_run(root: Path, task: str | None = None) -> Run:
    """The newest finished run below ``root``, of one task if given.

    Raises:
        RunError: there is none.
    """
    files = sorted(root.glob("*/metrics.json"), key=lambda f: f.stat().st_mtime, reverse=True)
    for file in files:
        run = open_run(file.parent)
        if task is None or run.config["task"] == task:
            return run
    wanted = f" of task {task!r}" if task else ""
    raise RunError(
        f"no finished run{wanted} below {root}; train one first: python -m train cv DATASET --task {task or 'TASK'}"
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RunError: not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is damaged: {error}") from None


def write_json(file: Path, values: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON in one step."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, file)


def library_versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for name in ("crossgru", "numpy", "scikit-learn", "torch", "torchmetrics", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
