"""Command line of stage 2. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

Dataset = Annotated[str, typer.Argument(help="Name, manifest .toml, table .csv or folder of videos.")]
Cache = Annotated[str | None, typer.Option(help="Cache path or fsspec URL. [default: caches/DATASET.zarr]")]
Root = Annotated[Path | None, typer.Option(help="Where the labels are, if not where the manifest says.")]
Runs = Annotated[Path, typer.Option(help="Folder of runs.")]
TaskName = Annotated[str, typer.Option("--task", help="violence or va.")]
OneRun = Annotated[Path | None, typer.Option("--run", help="Run folder. [default: the latest finished run]")]
LatestTask = Annotated[str | None, typer.Option("--task", help="Latest run of this task, if no --run is given.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command()
def cv(
    dataset: Dataset,
    task: TaskName,
    cache: Cache = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    head: Annotated[
        str, typer.Option(help="cross_gru, cross_gru_literal, concat, video, image or text.")
    ] = "cross_gru",
    hidden: Annotated[int | None, typer.Option(min=1, help="GRU width. [default: 64]")] = None,
    head_option: Annotated[
        list[str] | None,
        typer.Option(help="Any field of the head's config, NAME=VALUE; repeatable, e.g. dropout=0.5 mlp=128."),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="focal, cross_entropy (violence); mse, ccc, mse_ccc (va). [default: focal, mse]")
    ] = None,
    folds: Annotated[str, typer.Option(help="group, official (train/val) or column (manifest).")] = "group",
    num_folds: Annotated[int, typer.Option(min=2, help="Number of group folds.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs per fold.")] = 30,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without gain before a fold stops.")] = 6,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    learning_rate: Annotated[float, typer.Option()] = 3e-4,
    window_label: Annotated[str | None, typer.Option(help="mean, majority, center, any.")] = None,
    seed: Annotated[int, typer.Option(help="One seed, one result.")] = 0,
    baselines: Annotated[bool, typer.Option(help="Also train each stream alone, on the same folds.")] = True,
    permute_labels: Annotated[
        bool, typer.Option(help="Control: exchange labels across groups; must score chance.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with this unfinished run folder.")] = None,
    device: Device = "auto",
) -> None:
    """Cross-validate a head: the paper's table, official frame-level scores, a report page."""
    from train import commands

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
        "seed": seed,
    }
    raise typer.Exit(
        commands.cv(
            dataset,
            task,
            settings,
            cache=cache,
            root=root,
            runs=runs,
            baselines=baselines,
            permuted=permute_labels,
            resume=resume,
            device=device,
        )
    )


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
    output: Annotated[Path | None, typer.Option(help="Per-frame table, .csv or .parquet.")] = None,
    video: Annotated[str | None, typer.Option(help="Only this video id.")] = None,
    device: Device = "auto",
) -> None:
    """Score the videos of a cache with a trained run: mean over the heads of its folds, per frame."""
    from train import commands

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
        )
    )


@app.command()
def evaluate(
    dataset: Dataset,
    run: OneRun = None,
    task: LatestTask = None,
    cache: Cache = None,
    root: Root = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Score a trained run on the labels of a data set it was not trained on."""
    from train import commands

    raise typer.Exit(commands.evaluate(dataset, run=run, task=task, cache=cache, root=root, runs=runs, device=device))


@app.command()
def report(run: OneRun = None, runs: Runs = Path("runs")) -> None:
    """Write report.html of a run again."""
    from train import commands

    raise typer.Exit(commands.report(run=run, runs=runs))


if __name__ == "__main__":
    app()
