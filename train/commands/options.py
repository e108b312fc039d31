"""Options that several commands of stage 2 share. As light as the command line itself."""

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[str, typer.Argument(help="Name, manifest .toml, table .csv or folder of videos.")]
Cache = Annotated[str | None, typer.Option(help="Cache path or fsspec URL. [default: caches/DATASET.zarr]")]
Root = Annotated[Path | None, typer.Option(help="Where the labels are, if not where the manifest says.")]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="As it was extracted: links may lead out of the data set.")
]
Runs = Annotated[Path, typer.Option(help="Folder of runs.")]
TaskName = Annotated[
    str,
    typer.Option(
        "--task", help="violence, va, expr, au, a task of the manifest, or columns of the table: action, or smile,talk."
    ),
]
LabelFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        help="Label files of annotation tools below the data set's folder: '*.eaf', project.json; repeatable.",
    ),
]
TaskKind = Annotated[
    str | None,
    typer.Option(help="What a column is, if not as its cells look: binary, classes, multilabel or regression."),
]
OneRun = Annotated[Path | None, typer.Option("--run", help="Run folder. [default: the latest finished run]")]
LatestTask = Annotated[str | None, typer.Option("--task", help="Latest run of this task, if no --run is given.")]
Device = Annotated[str, typer.Option(help="auto, gpu (or cuda) or cpu. gpu: an error if torch sees none.")]
FoldsAtOnce = Annotated[
    str, typer.Option(help="auto, together (all folds in one program) or one-by-one; the scores are the same.")
]
Precision = Annotated[str, typer.Option(help="Of matrix products in training: float32 or bfloat16.")]
Preset = Annotated[str, typer.Option(help="plain, or augmented: augmentation and autoencoding (docs/heads.md).")]
Augment = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE; noise, feature_dropout, stream_dropout, temporal_mask, mixup; repeatable."),
]
Autoencode = Annotated[float | None, typer.Option(help="Weight of the autoencoding term. [default: the preset's]")]
NumFolds = Annotated[int, typer.Option(min=2, help="Number of group folds.")]
Epochs = Annotated[int, typer.Option(min=1, help="Most epochs per fold.")]
Patience = Annotated[int, typer.Option(min=1, help="Epochs without gain before a fold stops.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Windows per step.")]
LearningRate = Annotated[float, typer.Option(help="Of AdamW.")]
WindowLabel = Annotated[str | None, typer.Option(help="mean, majority, center, any.")]
Seed = Annotated[int, typer.Option(help="One seed, one result.")]
