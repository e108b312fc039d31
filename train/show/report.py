"""A run as one self-contained page: scores, curves, errors, and a few tracks frame by frame."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed, and none may be opened

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.data.features import Caption
from train.experiments.audit import PREDICTORS
from train.judging.evaluate import label_columns, score_columns
from train.judging.folds import SCATTERED
from train.runs.checkpoints import RunError
from train.runs.files import read_json, write_text
from train.runs.folder import Run
from train.show.training import baseline_name, percent, score_name, settings_words, shown_scores
from train.tasks import Task

NUM_TRACKS = 4
NUM_CAPTIONS = 6
TRUTH, PREDICTED, ALERT, UNKNOWN = "#6b7280", "#2563eb", "#f8d4d4", "#eceef1"
COLORS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626")
Captions = Callable[[str], Sequence[Caption]]


def write_report(run: Run, captions: Captions) -> Path:
    """Write ``report.html`` of a finished run.

    Args:
        run: with metrics.json, predictions.parquet and the folds' histories.
        captions: of a video id; empty where there are none.

    Returns:
        The page.
    """
    task, metrics = run.task, run.metrics
    if "postprocessed" not in metrics:
        raise RunError(f"{run.path} was made by a version that stored no post-processed scores; train it again")
    table = _predictions(run.path / "predictions.parquet")
    histories = [read_json(file) for file in run.fold_files(".json")]
    if not histories:
        raise RunError(f"{run.path} holds no history of a fold; take the run from where it was made, or train it again")
    # Everything from outside (captions, names, paths) is escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("train.show", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = _rendered(
        environment.get_template("report.html.jinja"),
        run=run.path.name,
        config=run.config,
        task=task,
        metrics=metrics,
        after=metrics["postprocessed"],
        audit=metrics.get("audit"),
        predictors=PREDICTORS,
        score_name=lambda key: score_name(key, task),
        shown=shown_scores(task, metrics["scores"]),
        coverage=percent(metrics["coverage"]),
        baseline_name=baseline_name,
        curves=_svg(_curves(histories, score_name(metrics["metric"], task))),
        settings=settings_words(task, metrics["postprocessed"]["combined"]),
        errors=_svg(ERRORS[task.kind](table, task)),
        timelines=[_timeline(table[table["track"] == t], task, captions) for t in _telling_tracks(table, task)],
        colors={"truth": TRUTH, "predicted": PREDICTED, "alert": ALERT, "unknown": UNKNOWN},
    )
    file = run.path / "report.html"
    write_text(file, page)
    return file


def _rendered(template: jinja2.Template, **values: Any) -> str:
    """The page; what it misses is damage of the run."""
    try:
        return template.render(**values)
    except jinja2.UndefinedError as error:
        raise LookupError(str(error)) from error


def _predictions(file: Path) -> pd.DataFrame:
    """The scores per frame.

    Raises:
        RunError: no such file, or no Parquet.
    """
    try:
        return pd.read_parquet(file)
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise RunError(f"{file} cannot be read: {str(error).partition(chr(10))[0]}") from None


# ------------------------------------------------------------------ pictures


def _curves(histories: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Loss and validation score per epoch; one colour per fold."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for k, fold in enumerate(histories):
        rows, color = pd.DataFrame(fold["history"]), COLORS[k % len(COLORS)]
        left.plot(rows["epoch"], rows["train_loss"], color=color, lw=1.4)
        left.plot(rows["epoch"], rows["val_loss"], color=color, lw=1.2, ls=":")
        right.plot(rows["epoch"], rows["val_score"], color=color, lw=1.4, label=f"fold {k + 1}")
        best = fold["best_epoch"]
        right.plot(rows["epoch"][best], rows["val_score"][best], "o", color=color, ms=5)
    left.set(xlabel="epoch", title="loss: training (solid), validation (dotted)")
    right.set(xlabel="epoch", title=f"validation {metric}; dot: epoch kept")
    right.legend(fontsize=7, ncols=2, frameon=False)
    for axes in (left, right):
        _plain(axes)
    return figure


def _confusion(table: pd.DataFrame, task: Task) -> Figure:
    """Truth against decision, all scored frames: at 0.5 for two classes, by the largest score for more."""
    scores = [f"score{c}" for c in score_columns(task)]
    known = table[table["label"].notna() & table[scores].notna().all(axis=1)]
    values = known[scores].to_numpy()  # (n, K')
    truth = known["label"].to_numpy().astype(np.int64)
    found = (values[:, 0] > 0.5).astype(np.int64) if task.kind == "binary" else values.argmax(axis=1)
    num = len(task.class_names)
    counts = np.bincount(num * truth + found, minlength=num**2).reshape(num, num)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = (3.8, 3.2) if num == 2 else (7, 5.5)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(counts):
        color = "white" if share[i, j] > 0.5 else "black"
        words = f"{share[i, j]:.0%}\n{value:,} frames" if num == 2 else f"{share[i, j]:.0%}"
        axes.text(j, i, words, ha="center", va="center", color=color, fontsize=9 if num == 2 else 7)
    names = ["non-violent", "violent"] if task.class_names == ("nonviolent", "violent") else task.class_names
    axes.set(xticks=range(num), yticks=range(num), xlabel="predicted", ylabel="truth")
    axes.set_xticklabels(names, rotation=0 if num == 2 else 45)
    axes.set_yticklabels(names)
    axes.set_title("frames, share of each row", fontsize=9)
    return figure


def _units(table: pd.DataFrame, task: Task) -> Figure:
    """F1 of every unit at 0.5, and how often it is present."""
    names = task.label_names
    labels = table[[f"label{c}" for c in label_columns(task)]].to_numpy()
    scores = table[[f"score{c}" for c in score_columns(task)]].to_numpy()
    known = np.isfinite(labels).all(axis=1) & np.isfinite(scores).all(axis=1)
    truth, found = labels[known] > 0.5, scores[known] > 0.5  # (n, K) each
    f1 = 2 * (truth & found).sum(axis=0) / np.maximum(truth.sum(axis=0) + found.sum(axis=0), 1)
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    place = np.arange(len(names))
    axes.bar(place - 0.2, f1, 0.4, color=PREDICTED, label="F1 at 0.5")
    axes.bar(
        place + 0.2, truth.mean(axis=0) if len(truth) else 0 * f1, 0.4, color=TRUTH, label="share of frames with it"
    )
    axes.set(xticks=place, ylim=(0, 1.25), title="per action unit" if task.name == "au" else "per label")
    axes.set_xticklabels(names)
    axes.legend(fontsize=7, frameon=False, loc="upper right", ncols=2)
    _plain(axes)
    return figure


def _scatter(table: pd.DataFrame, task: Task) -> Figure:
    """Prediction against truth per output, as density: the frames of a real set would be one blot."""
    names, columns, limits = task.label_names, label_columns(task), zip(*task.limits, strict=True)
    width = 7 if len(names) == 2 else 3.5 * len(names)
    figure, panels = plt.subplots(1, len(names), figsize=(width, 3.4), layout="constrained", squeeze=False)
    for axes, name, column, (low, high) in zip(panels[0], names, columns, limits, strict=True):
        ticks = np.linspace(low, high, 5)
        known = table[table[f"label{column}"].notna() & table[f"score{column}"].notna()]
        axes.hexbin(
            known[f"label{column}"],
            known[f"score{column}"],
            gridsize=40,
            extent=(low, high, low, high),
            cmap="Blues",
            bins="log",
            mincnt=1,
        )
        axes.plot([low, high], [low, high], color=TRUTH, lw=1, ls="--", zorder=3)
        axes.set(
            xticks=ticks,
            yticks=ticks,
            xlim=(low, high),
            ylim=(low, high),
            xlabel="truth",
            ylabel="predicted",
            title=f"{name}, per frame",
        )
        axes.set_aspect("equal")
        _plain(axes)
    return figure


def _timeline(part: pd.DataFrame, task: Task, captions: Captions) -> dict[str, Any]:
    """One track: truth and prediction over its frames, and the captions of its video."""
    figure = _raster(part, task) if task.kind == "multilabel" else _lines(part, task)
    row, told = part.iloc[0], captions(str(part["video"].iloc[0]))
    return {
        "track": str(row["track"]),
        "fold": "all folds, window by window" if row["fold"] == SCATTERED else f"fold {int(row['fold']) + 1}",
        "svg": _svg(figure),
        "captions": [told[i] for i in _spread(len(told), NUM_CAPTIONS)],
    }


def _lines(part: pd.DataFrame, task: Task) -> Figure:
    """Truth and prediction as lines, a panel for each value; classes as steps."""
    columns, steps = label_columns(task), "steps-mid" if task.kind == "classes" else "default"
    size = (9, 1.7 * len(columns) + (0.3 if task.kind != "classes" else 1.0))
    figure, panels = plt.subplots(len(columns), 1, figsize=size, sharex=True, squeeze=False, layout="constrained")
    limits = zip(*task.limits, strict=True) if task.kind == "regression" else [(-1.0, 1.0)] * len(columns)
    for axes, column, name, (low, high) in zip(panels[:, 0], columns, task.label_names, limits, strict=True):
        edge = 0.01 * (high - low)
        truth = part[f"label{column}"].to_numpy()  # (F,)
        score = _decided(part, task) if task.kind == "classes" else part[f"score{column}"].to_numpy()  # (F,)
        _band(axes, np.isnan(truth), UNKNOWN)
        if task.kind == "binary":
            _band(axes, truth > 0.5, ALERT)
            axes.axhline(0.5, color=TRUTH, lw=0.8, ls=":")
            axes.set(ylim=(-0.02, 1.02), ylabel=f"P({task.class_names[1]})")
        else:
            axes.plot(part["frame"], truth, color=TRUTH, lw=1.6, drawstyle=steps)
            axes.set(ylim=(low - edge, high + edge), ylabel=name)
        if task.kind == "classes":
            axes.set(ylim=(-0.5, task.outputs - 0.5), yticks=range(task.outputs), yticklabels=task.class_names)
        axes.plot(part["frame"], score, color=PREDICTED, lw=1.6, drawstyle=steps)
        axes.set_xlim(-0.5, len(part) - 0.5)
        _plain(axes)
    panels[-1, 0].set_xlabel("frame")
    return figure


def _decided(part: pd.DataFrame, task: Task) -> np.ndarray:
    """(F,) class with the largest score, NaN where there is none."""
    scores = part[[f"score{c}" for c in score_columns(task)]].to_numpy()  # (F, K')
    known = np.isfinite(scores).all(axis=1)
    return np.where(known, np.where(known[:, None], scores, 0.0).argmax(axis=1), np.nan)


def _raster(part: pd.DataFrame, task: Task) -> Figure:
    """Truth above prediction, a row for each unit and a column for each frame."""
    figure, panels = plt.subplots(2, 1, figsize=(9, 3.8), sharex=True, layout="constrained")
    for axes, kind, title in zip(panels, ("label", "score"), ("truth", "P(present)"), strict=True):
        columns = label_columns(task) if kind == "label" else score_columns(task)
        values = part[[f"{kind}{c}" for c in columns]].to_numpy(np.float64).T  # (K, F)
        axes.imshow(values, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1)
        axes.set_facecolor(UNKNOWN)
        axes.set(yticks=range(len(task.label_names)), yticklabels=task.label_names, ylabel=title)
        _plain(axes)
        axes.tick_params(axis="y", labelsize=6)
    panels[-1].set_xlabel("frame")
    return figure


def _band(axes: Axes, where: np.ndarray, color: str) -> None:
    """Shade the frames where a mask (F,) is True, one box per run of frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]]))).reshape(-1, 2)
    axes.broken_barh([(a - 0.5, b - a) for a, b in edges], (-2, 12), color=color, lw=0)


def _telling_tracks(table: pd.DataFrame, task: Task) -> list[str]:
    """The best, the worst and two middling tracks, by mean absolute error, so that the page does not flatter."""
    if task.kind == "classes":
        errors = (table["label"] != _decided(table, task)).astype(float)
        errors[table["label"].isna() | table[[f"score{c}" for c in score_columns(task)]].isna().any(axis=1)] = np.nan
    else:
        errors = pd.concat([(table[f"label{c}"] - table[f"score{c}"]).abs() for c in label_columns(task)], axis=1).mean(
            axis=1
        )
    ranked = errors.groupby(table["track"]).mean().dropna().sort_values(kind="stable")
    return [str(ranked.index[i]) for i in _spread(len(ranked), NUM_TRACKS)]


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` evenly spaced positions out of ``count``, both ends included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, most)}) if count else []


ERRORS: Mapping[str, Callable[[pd.DataFrame, Task], Figure]] = {
    "binary": _confusion,
    "classes": _confusion,
    "multilabel": _units,
    "regression": _scatter,
}


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(9)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)


def _svg(figure: Figure) -> str:
    """The figure as a data URL; an <img> keeps the ids inside several SVGs from clashing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
