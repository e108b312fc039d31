"""The ablation table: one change at a time, on the same folds and seed, with paired differences to the full model.

runs/<dataset>-<task>-ablation-<time>/
  config.json              as of any run, with the training config of every row under "rows"
  rows/<row>/              checkpoints and curves of each row's folds; what is there is not trained again
  ablation.json            the table so far; "finished" says whether all rows are in it
  ablation.csv  ablation.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from shared.names import unknown_name
from train.config import Augmentation, TrainConfig
from train.experiments.crossval import CrossValidation
from train.heads import head_class, head_config
from train.judging.evaluate import compare_frames, evaluate_frames
from train.tasks import Task

FULL = "full"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: in words.
        head: replaces the full model's head; the new head has its own default sizes.
        augment, autoencode: whether the full model's are kept.
    """

    what: str
    head: str | None = None
    augment: bool = True
    autoencode: bool = True


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        FULL: Row("full model"),
        "video": Row("video alone", head="video"),
        "image": Row("image alone", head="image"),
        "text": Row("text alone", head="text"),
        "video_image": Row("without text", head="video_image"),
        "image_text": Row("without video", head="image_text"),
        "video_text": Row("without image", head="video_text"),
        "concat": Row("concatenation, no cross-attention", head="concat"),
        "mean_pool": Row("mean pooling, no GRU, no attention", head="mean_pool"),
        "literal": Row("equations 1-9 as printed", head="cross_gru_literal"),
        "no_augment": Row("without augmentation", augment=False),
        "no_autoencode": Row("without autoencoding", autoencode=False),
        "plain": Row("without both", augment=False, autoencode=False),
    }
)


def choose_rows(names: Sequence[str]) -> list[str]:
    """The rows asked for in the order of the table, the full model always among them; none asked for: all.

    Raises:
        ValueError: an unknown row, with the closest match.
    """
    for name in names:
        if name not in ROWS:
            raise ValueError(unknown_name("row", name, ROWS))
    return [name for name in ROWS if not names or name == FULL or name in names]


def row_config(config: TrainConfig, name: str) -> TrainConfig:
    """The training config of a row: that of the full model with one thing changed."""
    row = ROWS[name]
    if row.head is not None:
        config = replace(config, head=row.head, head_options=asdict(head_config(row.head)))
    if not row.augment:
        config = replace(config, augment=Augmentation())
    return config if row.autoencode else replace(config, autoencode=0.0)


def streams_of_rows(names: Sequence[str], config: TrainConfig) -> list[str]:
    """What the rows' heads read."""
    return sorted({s for name in names for s in head_class(row_config(config, name).head).streams})


def row_result(
    task: Task, name: str, config: TrainConfig, result: CrossValidation, full: CrossValidation
) -> dict[str, Any]:
    """One line of the table as plain values.

    Returns:
        row, what, head; ``value`` and ``interval`` pooled over all frames; ``folds``, their ``mean`` and ``std``;
        ``difference``: full model minus this row, paired over videos, with interval and share of resamples above 0.
    """
    pooled = evaluate_frames(task, result.frames)
    gap = compare_frames(task, full.frames, result.frames)
    folds = pd.Series(result.fold_frames)
    return {
        "row": name,
        "what": ROWS[name].what,
        "head": config.head,
        "value": pooled["value"],
        "interval": pooled["interval"],
        "folds": result.fold_frames,
        "mean": float(folds.mean()),
        "std": float(folds.std(ddof=0)),
        "difference": {
            "value": gap.value,
            "interval": [gap.low, gap.high],
            "share_above_zero": gap.share_above_zero,
        },
        "best_epochs": [epoch + 1 for epoch in result.best_epochs],
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows flat, one column per number."""
    flat = []
    for row in rows:
        low, high = row["interval"]
        gap = row["difference"]
        line = {k: row[k] for k in ("row", "what", "head", "value")} | {"low": low, "high": high}
        line |= {"mean": row["mean"], "std": row["std"], "full_minus_it": gap["value"]}
        line |= {"difference_low": gap["interval"][0], "difference_high": gap["interval"][1]}
        line |= {f"fold{k + 1}": value for k, value in enumerate(row["folds"])}
        flat.append(line)
    return pd.DataFrame(flat)


def cells(row: Mapping[str, Any]) -> list[str]:
    """One line for people: what, mean and std over folds, pooled with interval, full model minus it."""
    low, high = row["interval"]
    gap = row["difference"]
    words = "" if row["row"] == FULL else "{:+.3f} ({:.3f} to {:.3f})".format(gap["value"], *gap["interval"])
    return [
        row["what"],
        f"{row['mean']:.3f}",
        f"{row['std']:.3f}",
        f"{row['value']:.3f} ({low:.3f} to {high:.3f})",
        words,
    ]


COLUMNS = ("", "mean of folds", "std", "all frames pooled (95 %)", "full model minus it (95 %, paired)")


def as_markdown(title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """The table for a page."""
    lines = ["| " + " | ".join(line) + " |" for line in (COLUMNS, ("---",) * len(COLUMNS), *map(cells, rows))]
    return "\n".join([title, "", *lines, "", *(f"Note: {note}" for note in notes)]) + "\n"
