"""What is learned: the tasks, as a frozen table. Light on purpose: no torch, so the command line can list them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from shared.names import unknown_name


@dataclass(frozen=True)
class Task:
    """One task: what a head must output and how that is trained and scored.

    Attributes:
        name: Key in `TASKS`.
        outputs: K, the width of a head's output (classes of a binary task, values of a regression).
        kind: "binary": K logits against one class index; "regression": K values against K values.
        label_names: Columns of a per-frame label array, in file order.
        label_range: Smallest and largest valid label.
        class_names: Names of the K classes; empty for a regression.
        losses: The losses of `train.losses` that fit this task.
        default_loss: The one the paper uses.
        window_label: How the frames of a window become its label: "mean" or "majority".
        metric: The official score, a key of the task's dict in `train.metrics`.
    """

    name: str
    outputs: int
    kind: Literal["binary", "regression"]
    label_names: tuple[str, ...]
    label_range: tuple[float, float]
    class_names: tuple[str, ...]
    losses: tuple[str, ...]
    default_loss: str
    window_label: Literal["mean", "majority"]
    metric: str


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "violence": Task(
            name="violence",
            outputs=2,
            kind="binary",
            label_names=("violence",),
            label_range=(0.0, 1.0),
            class_names=("nonviolent", "violent"),
            losses=("focal", "cross_entropy"),
            default_loss="focal",
            window_label="majority",
            metric="macro_f1",
        ),
        "va": Task(
            name="va",
            outputs=2,
            kind="regression",
            label_names=("valence", "arousal"),
            label_range=(-1.0, 1.0),
            class_names=(),
            losses=("mse", "ccc", "mse_ccc"),
            default_loss="mse",
            window_label="mean",
            metric="ccc_mean",
        ),
        # expr (8 classes, macro F1) and au (12 binary outputs, mean F1) are added here, with their metric in
        # train/metrics.py and their file format in train/label_formats.py.
    }
)


def task_named(name: str) -> Task:
    """The task called `name`.

    Raises:
        ValueError: No such task; the message carries the closest match.
    """
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, TASKS))
    return TASKS[name]
