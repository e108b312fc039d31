"""What audit and ablation look like in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from train.experiments.ablate import COLUMNS, cells
from train.experiments.audit import PREDICTORS
from train.show.training import percent, print_table, score_name
from train.tasks import Task


def leak_words(task: Task, audit: Mapping[str, Any]) -> str:
    """What an audit found, in a sentence."""
    copied = audit["predictors"]["nearest_window"]["value"]
    name = score_name(audit["metric"], task)
    if not audit["same_video"]:
        return f"no tested window shares its video with a training window; copying labels scores {name} {copied:.3f}"
    return (
        f"these folds leak: {percent(audit['same_video'])} of the tested windows lie in a video that is trained on, "
        f"{percent(audit['overlapping'])} share frames with a training window; copying the nearest training label, "
        f"without any model, scores {name} {copied:.3f}"
    )


def print_audit(console: Console, task: Task, kind: str, audit: Mapping[str, Any]) -> None:
    """Scores of the predictors without a model, and what they mean."""
    console.print(f"\naudit of {kind} folds, task {task.name}: {audit['windows']} labelled windows tested, no model")
    table = Table("predictor", score_name(audit["metric"], task), "95 % interval (videos)", box=None, pad_edge=False)
    for name, words in PREDICTORS.items():
        found = audit["predictors"][name]
        low, high = found["interval"]
        table.add_row(words, f"{found['value']:.4f}", f"{low:.3f} to {high:.3f}")
    print_table(console, table)
    console.print(("WARNING: " if audit["same_video"] else "") + leak_words(task, audit))
    for note in audit.get("notes", ()):
        console.print(f"WARNING: {note}")
    for ids in audit.get("copies", ()):
        console.print(f"  the same bytes: {' = '.join(ids)}")


def print_ablation(console: Console, task: Task, rows: Sequence[Mapping[str, Any]]) -> None:
    """The ablation table."""
    console.print(f"\n{task.name}: {score_name(task.metric, task)} on unseen groups, per frame, same folds and seed")
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*cells(row))
    print_table(console, table)
