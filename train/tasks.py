"""What is learned: a task is data. The four that challenges made are in a table; users' own come from columns
(train/data/own_task.py) and are stored whole with every run. Light on purpose: no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Literal

from shared.labels.annotations import AU_NAMES, EXPR_NAMES, VA_NAMES
from shared.names import unknown_name

Kind = Literal["binary", "regression", "classes", "multilabel"]
KINDS: tuple[Kind, ...] = ("binary", "classes", "multilabel", "regression")
# Of a task of one's own: the losses that fit its kind, the first one by default, and its headline score.
LOSSES_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "binary": ("focal", "cross_entropy"),
        "classes": ("cross_entropy", "focal"),
        "multilabel": ("bce",),
        "regression": ("mse", "ccc", "mse_ccc"),
    }
)
METRIC_OF: Mapping[str, str] = MappingProxyType(
    {"binary": "macro_f1", "classes": "macro_f1", "multilabel": "f1_mean", "regression": "ccc_mean"}
)


@dataclass(frozen=True)
class Task:
    """One task: what a head must output and how that is trained and scored.

    Attributes:
        name: Key in `TASKS`, or a name of the user's.
        outputs: K, the width of a head's output (classes, or values of a regression, or units of a multilabel task).
        kind: "binary": 2 logits against one class index, scored as P(second class); "classes": K logits against one
            class index, scored as K probabilities; "multilabel": K logits against K values of 0 and 1, scored as K
            probabilities; "regression": K values against K values.
        label_names: Columns of a per-frame label array, in file order.
        label_range: Smallest and largest valid label, of all outputs.
        class_names: Names of the K classes; empty where there are none.
        losses: The losses of `train.fit.losses` that fit this task.
        default_loss: The one the paper uses.
        window_label: How the frames of a window become its label: "mean" or "majority".
        metric: The headline score, a name of `train.judging.metrics.metrics_of`.
        columns: Columns of a table, or tiers of an annotation tool, that hold the labels; empty for official files.
        codes: What stands in a cell for each class, in the order of `class_names`; as `columns` only.
        ignore: Cells that mean "not annotated", beside empty ones.
        ranges: Smallest and largest label of each output of a regression, where they differ; else empty.
        presence: Of several labels at once: each holds where a tool has an annotation of it, and nowhere else.
        background: What frames between segments are: a class name, or "" for "not annotated".
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
    columns: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    background: str = ""
    presence: bool = False

    def __post_init__(self) -> None:
        if self.kind in ("binary", "classes") and len(self.class_names) not in (0, self.outputs):
            raise ValueError(f"task {self.name!r}: {len(self.class_names)} classes for {self.outputs} outputs")

    @property
    def is_own(self) -> bool:
        """Whether its labels are columns that a user named."""
        return bool(self.columns)

    @property
    def limits(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Smallest and largest label of each output of a regression: (K,) each."""
        ranges = self.ranges or (self.label_range,) * len(self.label_names)
        return tuple(low for low, _ in ranges), tuple(high for _, high in ranges)

    @property
    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Middle and half width (K,) of the labels of a regression: a head learns (label - middle) / half width.

        0 and 1 for labels from -1 to 1, which therefore are learned as they stand.
        """
        pairs = list(zip(*self.limits, strict=True))
        return tuple((low + high) / 2 for low, high in pairs), tuple((high - low) / 2 or 1.0 for low, high in pairs)

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Task":
        """A task out of the config of a run.

        Raises:
            ValueError: Not what `to_dict` gives.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or not set(values) <= names:
            raise ValueError(f"expected a task with the keys {', '.join(sorted(names))}")
        try:
            task = cls(**{name: _frozen(value) for name, value in values.items()})  # type: ignore[arg-type]
        except TypeError as error:
            raise ValueError(f"expected a task: {error}") from None
        if task.kind not in KINDS or not isinstance(task.outputs, int) or task.outputs < 1:
            raise ValueError(f"expected a task of a kind {', '.join(KINDS)}, found {task.kind!r}")
        return task

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


def _frozen(value: object) -> object:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def task_named(name: str) -> Task:
    """The task called `name`.

    Raises:
        ValueError: No such task; the message carries the closest match.
    """
    if name not in TASKS:
        raise ValueError(unknown_name("task", name, TASKS))
    return TASKS[name]
