"""How a head is trained. A frozen dataclass; the command line sets fields, a run folder stores them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from shared.names import unknown_name

WINDOW_LABELS = ("mean", "majority", "center", "any")
FOLD_KINDS = ("group", "official", "column")


@dataclass(frozen=True)
class TrainConfig:
    """One training recipe. Defaults follow arXiv:2507.03531 where the paper says something.

    Attributes:
        head: name in ``train.heads.HEADS``.
        head_options: fields of that head's config.
        loss: name in ``train.losses.LOSSES``; None takes the task's own (focal for violence, MSE for va).
        learning_rate, weight_decay: of AdamW (3e-4 in the paper; decay is not stated, torch's default).
        batch_size: windows per step.
        max_epochs, patience: stop after ``patience`` epochs without a better validation score.
        window_label: how frames label a window: mean, majority, center or any; None takes the task's own.
        min_valid: a window with a smaller share of labelled frames is not trained on.
        folds: "group" (cross-validation by group), "official" (train/val) or "column" (given in the
            manifest).
        num_folds: of group folds.
        val_fraction: share of each fold's training groups that chooses the epoch; the test fold never does.
        class_weights: weigh the classes of a binary task by inverse frequency.
        seed: one seed, one result.
    """

    head: str = "cross_gru"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    loss: str | None = None
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    batch_size: int = 8
    max_epochs: int = 30
    patience: int = 6
    window_label: str | None = None
    min_valid: float = 0.5
    folds: str = "group"
    num_folds: int = 5
    val_fraction: float = 0.2
    class_weights: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds not in FOLD_KINDS:
            raise ValueError(unknown_name("kind of folds", self.folds, FOLD_KINDS))
        if self.window_label is not None and self.window_label not in WINDOW_LABELS:
            raise ValueError(unknown_name("window label", self.window_label, WINDOW_LABELS))
        for name in ("batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("learning_rate", "val_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be above 0 and below 1, found {getattr(self, name)}")
        if not 0 <= self.seed < 2**31:  # what the splitter of scikit-learn takes, with room for the fold's number
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, found {self.seed}")
        if not 0 <= self.min_valid <= 1:
            raise ValueError(f"min_valid must be a share from 0 to 1, found {self.min_valid}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "head_options": dict(self.head_options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of ``to_dict``; unknown keys are errors."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(unknown_name("training option", key, known))
        return cls(**values)
