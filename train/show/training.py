"""What training looks like in a terminal: progress, the paper's table, predictions in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from shared.labels.annotations import AU_NAMES, EXPR_NAMES
from train.config import TrainConfig
from train.judging.evaluate import score_columns
from train.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from train.runs.folder import Run

SCORE_NAMES: Mapping[str, str] = {
    "macro_f1": "macro F1",
    "f1_nonviolent": "F1 non-violent",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "map": "mean average precision",
    "auc": "ROC AUC",
    "ap": "average precision",
    **{f"f1_{name.lower()}": f"F1 {name.lower()}" for name in EXPR_NAMES},
    **{f"f1_{name.lower()}": f"F1 {name}" for name in AU_NAMES},
}
MEASURES = {
    "f1": "F1",
    "ap": "average precision",
    "auc": "ROC AUC",
    "ccc": "CCC",
    "pearson": "Pearson r",
    "mae": "MAE",
    "rmse": "RMSE",
}
MIN_SEGMENT_S = 0.2


def score_name(key: str, task: Task) -> str:
    """What a key of the scores is called in tables: "ccc_valence" is "CCC valence"."""
    if key in SCORE_NAMES:
        return SCORE_NAMES[key]
    measure, _, what = key.partition("_")
    words = MEASURES.get(measure, measure)
    if what == "mean" and task.outputs == 1:
        return words
    if what == "mean":
        of = {"au": " of 12 units"}.get(task.name, "") if measure == "f1" else ""
        return f"mean {words}{of}"
    return f"{words} {what}"


class CvDisplay:
    """Progress of one head's folds."""

    def __init__(self, console: Console, head: str, folds: Sequence[int], config: TrainConfig) -> None:
        self._console, self._head, self._config, self._folds = console, head, config, list(folds)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(f"{head:>10}"),
            TextColumn("fold {task.fields[fold]}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("validation {task.fields[score]:.3f}, best {task.fields[best]:.3f}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        total = len(self._folds) * config.max_epochs
        self._task: TaskID = self._progress.add_task("cv", total=total, fold="-", epoch=0, score=0.0, best=0.0)
        self._best: dict[int, float] = {}
        self._best_epochs: dict[int, int] = {}
        self._epochs: dict[int, int] = {}

    def __enter__(self) -> CvDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._progress.stop()
        if self._best and exc[0] is None:
            mean = np.mean(list(self._best.values()))
            epochs = ", ".join(str(e) for e in self._epochs.values())
            self._console.print(f"{self._head}: epochs {epochs}; best validation score {mean:.3f} (mean of folds)")

    def epoch(self, fold: int, row: Mapping[str, float]) -> None:
        """One epoch of one fold has ended."""
        self._epochs[fold] = int(row["epoch"])
        if row["val_score"] > self._best.get(fold, -np.inf):
            self._best[fold], self._best_epochs[fold] = row["val_score"], self._epochs[fold]
        self._progress.update(
            self._task,
            completed=self.completed,
            fold=f"{self._folds.index(fold) + 1}/{len(self._folds)}",
            epoch=int(row["epoch"]),
            score=row["val_score"],
            best=self._best.get(fold, -np.inf),
        )

    @property
    def completed(self) -> int:
        """Epochs that are done or will not be needed: a fold out of patience counts in full."""
        waited = {fold: epoch - self._best_epochs.get(fold, epoch) for fold, epoch in self._epochs.items()}
        return sum(
            self._config.max_epochs if waited[fold] >= self._config.patience else epoch
            for fold, epoch in self._epochs.items()
        )


def percent(share: float) -> str:
    """A share in words, rounded down: 100.0 % must mean that nothing is missing."""
    return f"{np.floor(share * 1000) / 10:.1f} %"


def shown_scores(task: Task, scores: Mapping[str, Any]) -> list[str]:
    """The scores that tables have: of a task with one output its own score is the mean, and goes once."""
    again = {f"{measure}_{name}" for measure in MEASURES for name in task.label_names}
    return [key for key in scores if task.kind != "regression" or task.outputs > 1 or key not in again]


def baseline_name(key: str) -> str:
    """What a key of the baselines stands for."""
    return "constant prediction" if key == "constant" else f"{key} stream alone"


def print_table(console: Console, table: Table) -> None:
    """Print a table at its own width: rich would cut numbers to fit 80 columns when output goes to a file."""
    table.width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.print(table, crop=False, soft_wrap=True)


def print_cv(console: Console, task: Task, metrics: Mapping[str, Any]) -> None:
    """The paper's table (one column per fold, mean and std), then the pooled official scores and the baselines."""
    name = score_name(metrics["metric"], task)
    where = "windows of videos that were trained on" if "audit" in metrics else "unseen groups"
    console.print(f"\n{task.name}, head {metrics['head']}: {name} on {where}, per fold")
    num = len(metrics["folds"])
    table = Table("", *[f"fold {i + 1}" for i in range(num)], "mean", "std", box=None, pad_edge=False)
    after = metrics["postprocessed"]
    for label, part in (("frames", metrics), ("post-processed", after), ("windows", metrics["windows"])):
        table.add_row(label, *[f"{v:.4f}" for v in part["folds"]], f"{part['mean']:.4f}", f"{part['std']:.4f}")
    print_table(console, table)
    console.print(
        f"\nall folds pooled: {metrics['num_frames']} frames of {metrics['num_videos']} videos, "
        f"coverage {percent(metrics['coverage'])}"
    )
    if metrics.get("level") == "video":
        videos = metrics["video"]
        low, high = videos["interval"]
        console.print(
            f"labels are of whole videos: {name} per video {videos['value']:.4f} ({low:.3f} to {high:.3f}), "
            f"{videos['videos']} videos; constant prediction {videos['baselines']['constant']:.4f}. Per frame:"
        )
    _print_scores(console, task, (metrics, after))
    gain, (low, high) = after["gain"]["value"], after["gain"]["interval"]
    console.print(f"post-processing changes {name} by {gain:+.3f} ({low:.3f} to {high:.3f}):")
    for words in settings_words(task, after["combined"]).split("; "):
        console.print(f"  {words}")
    console.print(f"\nthe same videos, {name} of {metrics['head']} minus that of each baseline:")
    table = Table("baseline", "raw", "minus it (95 % interval)", "post-processed", "minus it", box=None, pad_edge=False)
    for key in metrics["baselines"]:
        value, gap = _gap_cells(after, key)
        table.add_row(baseline_name(key), *_gap_cells(metrics, key), value, gap.partition(" ")[0])
    print_table(console, table)
    for note in metrics["notes"]:
        console.print(f"note: {note}")


def _score_cells(part: Mapping[str, Any], key: str) -> tuple[str, str]:
    low, high = part["intervals"][key]
    return f"{part['scores'][key]:.4f}", f"{low:.3f} to {high:.3f}"


def _gap_cells(part: Mapping[str, Any], key: str) -> tuple[str, str]:
    gap = part["differences"][key]
    low, high = gap["interval"]
    return f"{part['baselines'][key]:.4f}", f"{gap['value']:+.3f} ({low:.3f} to {high:.3f})"


def settings_words(task: Task, settings: Mapping[str, Any]) -> str:
    """Post-processing in words: the medians over the folds, which is what predictions on new videos use."""
    widths = settings["half_widths"]
    names = task.label_names if task.kind == "regression" else [""]
    words = ", ".join(f"{name} {width}".strip() for name, width in zip(names, widths, strict=False))
    told = [f"frames smoothed on each side (median of folds): {words}"]
    if settings["thresholds"]:
        told.append(
            f"threshold{'s' * (len(settings['thresholds']) > 1)} {' '.join(f'{t:g}' for t in settings['thresholds'])}"
        )
    if task.kind == "classes":
        told.append(f"prior strength {settings['prior_strength']:g}")
    return "; ".join(told)


def print_evaluation(
    console: Console,
    run: Run,
    dataset: str,
    raw: Mapping[str, Any],
    after: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
) -> None:
    """Official scores of a run on another data set, from ``evaluate_frames``, without and with post-processing."""
    console.print(
        f"{run.path.name} on {dataset}: {raw['frames']} frames of {raw['videos']} videos, "
        f"coverage {percent(raw['coverage'])}"
    )
    _print_scores(console, run.task, [part for part in (raw, after) if part])
    if settings:
        console.print(f"post-processing, tuned on the run's training folds: {settings_words(run.task, settings)}")


def _print_scores(console: Console, task: Task, parts: Sequence[Mapping[str, Any]]) -> None:
    """One row for each score, raw and, if there is a second part, post-processed; intervals come from videos."""
    names = [name for what in ("raw", "post-processed")[: len(parts)] for name in (what, "95 % interval")]
    table = Table("score", *names, box=None, pad_edge=False)
    for key in shown_scores(task, parts[0]["scores"]):
        table.add_row(score_name(key, task), *[cell for part in parts for cell in _score_cells(part, key)])
    print_table(console, table)


def print_oracle(console: Console, task: Task, what: str, size: int, stride: int, scores: Mapping[str, Any]) -> None:
    """The ceiling of one label per window, from ``evaluate_frames``."""
    console.print(
        f"{what}: true window means as prediction, windows of {size} frames every {stride}; {scores['frames']} frames "
        f"of {scores['videos']} videos, coverage {percent(scores['coverage'])}"
    )
    table = Table("score", "ceiling", box=None, pad_edge=False)
    for key in shown_scores(task, scores["scores"]):
        table.add_row(score_name(key, task), f"{scores['scores'][key]:.4f}")
    print_table(console, table)


def print_predictions(console: Console, run: Run, table: pd.DataFrame, untrained: list[str], miniature: bool) -> None:
    """Per video: what was found, in words; and of which encoders it is to be doubted."""
    console.print(f"scored by {run.path.name} (task {run.task.name}, trained on {run.config['dataset']})")
    for name, part in table.groupby("video", sort=True):
        times = part["time_s"].to_numpy()
        head = f"{name}: {len(part)} frames, {times[-1] - times[0]:.1f} s"
        if run.task.kind == "binary":
            score = part["score"].to_numpy()
            spans = _segments(score > 0.5, times)
            shown = ", ".join(f"{a:.1f}-{b:.1f} s" for a, b in spans[:8]) + (" ..." if len(spans) > 8 else "")
            console.print(
                f"{head}; {run.task.class_names[1]} in {(score > 0.5).mean():.0%} of frames"
                + (f": {shown}" if spans else "")
            )
        elif run.task.kind == "classes":
            decided = part[[f"score_{n}" for n in run.task.score_names]].to_numpy().argmax(axis=1)
            shares = np.bincount(decided, minlength=run.task.outputs) / len(part)
            shown = ", ".join(
                f"{run.task.class_names[k]} {shares[k]:.0%}" for k in np.argsort(-shares) if shares[k] > 0
            )
            console.print(f"{head}; {shown}")
        elif run.task.kind == "multilabel":
            shares = (part[[f"score{c}" for c in score_columns(run.task)]].to_numpy() > 0.5).mean(axis=0)
            shown = ", ".join(f"{n} {s:.0%}" for n, s in zip(run.task.score_names, shares, strict=True) if s > 0)
            console.print(f"{head}; frames with {shown or 'none of ' + ', '.join(run.task.label_names)}")
        else:
            values = [part[f"score{c}"].to_numpy() for c in score_columns(run.task)]
            words = [
                f"{n} {v.mean():+.2f} ({v.min():+.2f} to {v.max():+.2f})"
                for n, v in zip(run.task.label_names, values, strict=True)
            ]
            console.print(f"{head}; mean {', '.join(words)}")
    if untrained:
        console.print(f"note: untrained encoders ({', '.join(untrained)}): these numbers mean nothing on real video")
    if miniature:
        console.print("note: miniature encoders, rendered data: on video of another world these numbers mean nothing")


def _segments(mask: np.ndarray, times: np.ndarray) -> list[tuple[float, float]]:
    """Runs of True as (first time, last time)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    spans = [(float(times[a]), float(times[b - 1])) for a, b in edges.reshape(-1, 2)]
    return [s for s in spans if s[1] - s[0] >= MIN_SEGMENT_S] or spans
