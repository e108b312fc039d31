"""Options of `train audit` and `train ablate`. Heavy imports live inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from train.commands.options import (
    Augment,
    Autoencode,
    BatchSize,
    Cache,
    Dataset,
    Device,
    Epochs,
    FoldsAtOnce,
    FollowLinks,
    LabelFiles,
    LearningRate,
    NumFolds,
    Patience,
    Precision,
    Preset,
    Root,
    Runs,
    Seed,
    TaskKind,
    TaskName,
    WindowLabel,
)


def audit(
    task: TaskName,
    dataset: Annotated[str | None, typer.Argument(help="As for cv; without it, what the cache was made of.")] = None,
    task_kind: TaskKind = None,
    labels: LabelFiles = None,
    cache: Cache = None,
    root: Root = None,
    follow_links: FollowLinks = False,
    folds: Annotated[str, typer.Option(help="group, official, column, or random-windows to see what those leak.")] = (
        "group"
    ),
    num_folds: Annotated[int, typer.Option(min=2, help="Number of group or random folds.")] = 5,
    window_label: WindowLabel = None,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
) -> None:
    """What folds give away without a model: scores of copies of training labels. Reads labels, no features."""
    from train.commands import study as study_commands

    settings = {"folds": folds, "num_folds": num_folds, "window_label": window_label, "seed": seed}
    raise typer.Exit(
        study_commands.audit(
            dataset,
            task,
            settings,
            cache=cache,
            root=root,
            follow_links=follow_links,
            output=output,
            task_kind=task_kind,
            label_files=labels or [],
        )
    )


def ablate(
    dataset: Dataset,
    task: TaskName,
    task_kind: TaskKind = None,
    labels: LabelFiles = None,
    cache: Cache = None,
    root: Root = None,
    follow_links: FollowLinks = False,
    runs: Runs = Path("runs"),
    row: Annotated[list[str] | None, typer.Option(help="Only this row beside the full model; repeatable.")] = None,
    loss: Annotated[str | None, typer.Option(help="As for cv.")] = None,
    folds: Annotated[str, typer.Option(help="group, official (train/val) or column (manifest).")] = "group",
    num_folds: NumFolds = 5,
    epochs: Epochs = 30,
    patience: Patience = 6,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 3e-4,
    window_label: WindowLabel = None,
    preset: Preset = "augmented",
    augment: Augment = None,
    autoencode: Autoencode = None,
    seed: Seed = 0,
    resume: Annotated[Path | None, typer.Option(help="Go on with this unfinished ablation folder.")] = None,
    device: Device = "auto",
    folds_at_once: FoldsAtOnce = "auto",
    precision: Precision = "float32",
) -> None:
    """The paper's ablations in one table: streams, pairs, other fusions, without augmentation, without autoencoding."""
    from train.commands import runs as commands
    from train.commands import study as study_commands

    settings = {
        "loss": loss,
        "folds": folds,
        "num_folds": num_folds,
        "max_epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "window_label": window_label,
        "preset": preset,
        "augment": commands.head_options(augment or []),
        "autoencode": autoencode,
        "precision": precision,
        "seed": seed,
    }
    raise typer.Exit(
        study_commands.ablate(
            dataset,
            task,
            settings,
            rows=row or [],
            cache=cache,
            root=root,
            follow_links=follow_links,
            runs=runs,
            resume=resume,
            device=device,
            folds_at_once=folds_at_once,
            task_kind=task_kind,
            label_files=labels or [],
        )
    )
