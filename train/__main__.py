"""Command line of stage 2. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from shared.process.interrupts import listen

if __name__ == "__main__":
    listen()

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
    LatestTask,
    LearningRate,
    NumFolds,
    OneRun,
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
from train.commands.study_cli import ablate, audit

app = typer.Typer(
    name="crossgru-train",
    help="Stage 2: train GRU + cross-attention heads on cached features. No video is opened.\n\n"
    "    python -m train cv demo --task violence          5-fold cross-validation, table and report\n\n"
    "    python -m train cv dvd --task violence --folds official\n\n"
    "    python -m train predict clip.mp4 --task va       score a video that was extracted, with the latest run\n\n"
    "DATASET is a name in data_manifests/ (demo, dvd, affwild2), a manifest (.toml) or a table of videos (.csv).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def cv(
    dataset: Dataset,
    task: TaskName,
    task_kind: TaskKind = None,
    labels: LabelFiles = None,
    cache: Cache = None,
    root: Root = None,
    follow_links: FollowLinks = False,
    runs: Runs = Path("runs"),
    head: Annotated[
        str,
        typer.Option(
            help="cross_gru, cross_gru_literal, concat, mean_pool, or any one or two streams (docs/heads.md)."
        ),
    ] = "cross_gru",
    hidden: Annotated[int | None, typer.Option(min=1, help="GRU width. [default: 64]")] = None,
    head_option: Annotated[
        list[str] | None,
        typer.Option(help="Any field of the head's config, NAME=VALUE; repeatable, e.g. dropout=0.5 mlp=128."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="focal, cross_entropy (violence); mse, ccc, mse_ccc (va); cross_entropy, focal (expr); bce (au)."
        ),
    ] = None,
    folds: Annotated[str, typer.Option(help="group, official (train/val) or column (manifest).")] = "group",
    num_folds: NumFolds = 5,
    epochs: Epochs = 30,
    patience: Patience = 6,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 3e-4,
    window_label: WindowLabel = None,
    preset: Preset = "plain",
    augment: Augment = None,
    autoencode: Autoencode = None,
    seed: Seed = 0,
    baselines: Annotated[bool, typer.Option(help="Also train each stream alone, on the same folds.")] = True,
    permute_labels: Annotated[
        bool, typer.Option(help="Control: exchange labels across groups; must score chance.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with this unfinished run folder.")] = None,
    device: Device = "auto",
    folds_at_once: FoldsAtOnce = "auto",
    precision: Precision = "float32",
) -> None:
    """Cross-validate a head: the paper's table, official frame-level scores, a report page."""
    from train.commands import runs as commands

    options = commands.head_options(head_option or [])
    if hidden is not None:
        options["hidden"] = hidden
    settings = {
        "head": head,
        "head_options": options,
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
        commands.cv(
            dataset,
            task,
            settings,
            cache=cache,
            root=root,
            follow_links=follow_links,
            runs=runs,
            baselines=baselines,
            permuted=permute_labels,
            resume=resume,
            device=device,
            folds_at_once=folds_at_once,
            task_kind=task_kind,
            label_files=labels or [],
        )
    )


app.command()(audit)
app.command()(ablate)


@app.command()
def predict(
    features: Annotated[
        str | None, typer.Argument(help="What to score: a cache (.zarr or URL), or the DATASET it was extracted from.")
    ] = None,
    cache: Annotated[str | None, typer.Option(help="Cache of the new videos, if not the default one.")] = None,
    run: OneRun = None,
    task: LatestTask = None,
    trained_on: Annotated[str | None, typer.Option(help="Latest run trained on this DATASET.")] = None,
    runs: Runs = Path("runs"),
    output: Annotated[
        Path | None,
        typer.Option(
            help="A row per frame: .csv, .parquet, .jsonl. Segments for annotation tools: .eaf (ELAN), .vtt, .json "
            "(Label Studio)."
        ),
    ] = None,
    segments: Annotated[
        bool, typer.Option("--segments", help="Segments in seconds, also in .csv, .parquet and .jsonl.")
    ] = False,
    min_length: Annotated[float, typer.Option(min=0, help="Shortest segment that is kept, in seconds.")] = 0.0,
    close_gaps: Annotated[float, typer.Option(min=0, help="Longest gap that is closed, in seconds.")] = 0.0,
    video: Annotated[str | None, typer.Option(help="Only this video id.")] = None,
    device: Device = "auto",
) -> None:
    """Score the videos of a cache with a trained run: mean over the heads of its folds, per frame."""
    from train.commands import runs as commands

    raise typer.Exit(
        commands.predict(
            features,
            cache=cache,
            run=run,
            task=task,
            trained_on=trained_on,
            runs=runs,
            output=output,
            video=video,
            device=device,
            segments=segments,
            min_length=min_length,
            close_gaps=close_gaps,
        )
    )


@app.command()
def evaluate(
    dataset: Dataset,
    run: OneRun = None,
    task: LatestTask = None,
    labels: LabelFiles = None,
    cache: Cache = None,
    root: Root = None,
    follow_links: FollowLinks = False,
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Score a trained run on the labels of a data set it was not trained on."""
    from train.commands import runs as commands

    raise typer.Exit(
        commands.evaluate(
            dataset,
            run=run,
            task=task,
            cache=cache,
            root=root,
            follow_links=follow_links,
            runs=runs,
            device=device,
            label_files=labels or [],
        )
    )


@app.command()
def report(run: OneRun = None, runs: Runs = Path("runs")) -> None:
    """Write report.html of a run again."""
    from train.commands import runs as commands

    raise typer.Exit(commands.report(run=run, runs=runs))


@app.command()
def submit(
    features: Annotated[
        str | None, typer.Argument(help="Features of the test videos: a cache (.zarr or URL), or a DATASET.")
    ] = None,
    output: Annotated[Path, typer.Option(help="File to write; for violence a new folder.")] = Path("submission"),
    template: Annotated[
        Path | None, typer.Option(help="The organisers' example file; for violence their folder of CSVs, if any.")
    ] = None,
    run: OneRun = None,
    task: LatestTask = None,
    cache: Cache = None,
    runs: Runs = Path("runs"),
    raw: Annotated[bool, typer.Option("--raw", help="Without the post-processing that the run has tuned.")] = False,
    fill_missing: Annotated[
        bool, typer.Option("--fill-missing", help="Tracks without features get the commonest prediction.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    label_column: Annotated[
        str | None, typer.Option(help="Violence: column to fill, Label or Predicted_Label. [default: as the template]")
    ] = None,
    device: Device = "auto",
) -> None:
    """Write a challenge submission in the order of the organisers' template, and check it."""
    from train.commands import submit as submit_commands

    raise typer.Exit(
        submit_commands.submit(
            features,
            template=template,
            output=output,
            cache=cache,
            run=run,
            task=task,
            runs=runs,
            raw=raw,
            fill_missing=fill_missing,
            label_column=label_column,
            overwrite=overwrite,
            device=device,
        )
    )


@app.command("validate-submission")
def validate_submission(
    submission: Annotated[Path, typer.Argument(help="File, or for violence a folder of CSVs.")],
    task: TaskName,
    template: Annotated[Path | None, typer.Option(help="What it must match row by row.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Violence: name of the label column.")] = None,
) -> None:
    """Check a submission against its template; the first violation is named with its line.

    Exit status: 0 valid, 1 a violation, 2 it could not be checked (for example, the template is none).
    """
    from train.commands import submit as submit_commands

    raise typer.Exit(
        submit_commands.validate_submission(submission, task=task, template=template, label_column=label_column)
    )


@app.command()
def oracle(
    dataset: Dataset,
    task: TaskName,
    size: Annotated[int | None, typer.Option(min=1, help="Frames of a window. [default: the cache's, else 64]")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Frames between windows. [default: the size]")] = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "val",
    task_kind: TaskKind = None,
    labels: LabelFiles = None,
    cache: Cache = None,
    root: Root = None,
    follow_links: FollowLinks = False,
) -> None:
    """What one label per window can reach at best: true window means as the prediction. Needs labels only."""
    from train.commands import submit as submit_commands

    raise typer.Exit(
        submit_commands.oracle(
            dataset,
            task=task,
            cache=cache,
            root=root,
            follow_links=follow_links,
            size=size,
            stride=stride,
            split=split,
            task_kind=task_kind,
            label_files=labels or [],
        )
    )


def main() -> None:
    """The program."""
    listen()
    app()


if __name__ == "__main__":
    main()
