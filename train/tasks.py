"""What is learned: the tasks, as a frozen table. Light on purpose: no torch, so the command line can list them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from shared.labels.annotations import AU_NAMES, EXPR_NAMES, VA_NAMES
from shared.names import unknown_name

Kind = Literal["binary", "regression", "classes", "multilabel"]


@dataclass(frozen=True)
class Task:
    """One task: what a head must output and how that is trained and scored.

    Attributes:
        name: Key in `TASKS`.
        outputs: K, the width of a head's output (classes, or values of a regression, or units of a multilabel task).
        kind: "binary": 2 logits against one class index, scored as P(second class); "classes": K logits against one
            class index, scored as K probabilities; "multilabel": K logits against K values of 0 and 1, scored as K
            probabilities; "regression": K values against K values.
        label_names: Columns of a per-frame label array, in file order.
        label_range: Smallest and largest valid label.
        class_names: Names of the K classes; empty where there are none.
        losses: The losses of `train.fit.losses` that fit this task.
        default_loss: The one the paper uses.
        window_label: How the frames of a window become its label: "mean" or "majority".
        metric: The official score, a key of the task's dict in `train.judging.metrics`.
    """

    name: str
    outputs: int
    kind: Kind
    label_names: tuple[str, ...]
    label_range: tuple[float, float]
    class_names: tuple[str, ...]
    losses: tuple[str, ...]
    default_loss: str
    window_label: Literal["mean", "majority"]
    metric: str

    @property
    def score_names(self) -> tuple[str, ...]:
        """Columns of a per-frame score array (F, K'): one per class, unit or value; one for a binary task."""
        return self.class_names if self.kind == "classes" else self.label_names


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
            label_names=VA_NAMES,
            label_range=(-1.0, 1.0),
            class_names=(),
            losses=("mse", "ccc", "mse_ccc"),
            default_loss="mse",
            window_label="mean",
            metric="ccc_mean",
        ),
        "expr": Task(
            name="expr",
            outputs=len(EXPR_NAMES),
            kind="classes",
            label_names=("expression",),
            label_range=(0.0, len(EXPR_NAMES) - 1.0),
            class_names=tuple(name.lower() for name in EXPR_NAMES),
            losses=("cross_entropy", "focal"),
            default_loss="cross_entropy",
            window_label="majority",
            metric="macro_f1",
        ),
        "au": Task(
            name="au",
            outputs=len(AU_NAMES),
            kind="multilabel",
            label_names=AU_NAMES,
            label_range=(0.0, 1.0),
            class_names=(),
            losses=("bce",),
            default_loss="bce",
            window_label="majority",
            metric="f1_mean",
        ),
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
