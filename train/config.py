"""How a head is trained. A frozen dataclass; the command line sets fields, a run folder stores them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from shared.names import unknown_name

WINDOW_LABELS = ("mean", "majority", "center", "any")
PRECISIONS = ("float32", "bfloat16")
RANDOM_WINDOWS = "random-windows"
# The last one leaks, opens its report with how much, and is meant for showing exactly that.
FOLD_KINDS = ("group", "official", "column", RANDOM_WINDOWS)


@dataclass(frozen=True)
class Augmentation:
    """What training does to standardised features; the formulas are in docs/heads.md, the code in train/fit/augment.py.

    Attributes:
        noise: deviation of Gaussian noise, in deviations of the feature.
        feature_dropout: share of features set to zero per window, the rest scaled up.
        stream_dropout: chance that a window loses a stream; one always stays.
        temporal_mask: longest share of a stream's samples that one gap takes.
        mixup: a of Beta(a, a), the share in which two windows are mixed.

    All are off at 0.
    """

    noise: float = 0.0
    feature_dropout: float = 0.0
    stream_dropout: float = 0.0
    temporal_mask: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise", "mixup"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"augmentation {name} must be 0 (off) or more, found {getattr(self, name)}")
        for name in ("feature_dropout", "stream_dropout", "temporal_mask"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"augmentation {name} must be at least 0 (off) and below 1, found {getattr(self, name)}"
                )

    @property
    def any(self) -> bool:
        """Whether it does anything."""
        return any(getattr(self, f.name) for f in fields(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Augmentation:
        """Unknown keys are errors."""
        return cls(**_known(cls, values, "augmentation"))


@dataclass(frozen=True)
class TrainConfig:
    """One training recipe. Defaults follow arXiv:2507.03531 where the paper says something.

    Attributes:
        head: name in ``train.heads.HEADS``.
        head_options: fields of that head's config.
        loss: name in ``train.fit.losses.LOSSES``; None takes the task's own (focal for violence, MSE for va).
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
        augment: what training does to features; off by default.
        autoencode: weight of the reconstruction term, see train/fit/autoencode.py; 0 is off.
        precision: of matrix products in training, "float32" or "bfloat16"; weights are float32 always.
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
    augment: Augmentation = field(default_factory=Augmentation)
    autoencode: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds not in FOLD_KINDS:
            raise ValueError(unknown_name("kind of folds", self.folds, FOLD_KINDS))
        if self.window_label is not None and self.window_label not in WINDOW_LABELS:
            raise ValueError(unknown_name("window label", self.window_label, WINDOW_LABELS))
        if self.precision not in PRECISIONS:
            raise ValueError(unknown_name("precision", self.precision, PRECISIONS))
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
        if not 0 <= self.autoencode < float("inf"):
            raise ValueError(f"autoencode must be 0 (off) or more, found {self.autoencode}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "head_options": dict(self.head_options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of ``to_dict``; unknown keys are errors."""
        known = _known(cls, values, "training option")
        if isinstance(known.get("augment"), Mapping):
            known["augment"] = Augmentation.from_dict(known["augment"])
        return cls(**known)


def _known(cls: Any, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values, if each is a field of the class."""
    names = [f.name for f in fields(cls)]
    for key in values:
        if key not in names:
            raise ValueError(unknown_name(what, key, names))
    for one in fields(cls):
        if one.name in values:
            _check_type(one, values[one.name], what)
    return dict(values)


def _check_type(one: Field[Any], value: Any, what: str) -> None:
    """Refuse a value of another type than the field's default: a stored config may hold anything."""
    default = one.default_factory() if one.default is MISSING else one.default  # type: ignore[misc, operator]
    kinds: dict[type, tuple[type, ...]] = {float: (int, float), dict: (Mapping,), type(None): (str, type(None))}
    wanted = kinds.get(type(default), (type(default),))
    fits = isinstance(value, (*wanted, Mapping) if isinstance(default, Augmentation) else wanted)
    if not fits or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(f"{what} {one.name}: expected a {wanted[-1].__name__}, found {value!r:.60}")


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "plain": MappingProxyType({"augment": Augmentation(), "autoencode": 0.0}),
        "augmented": MappingProxyType(
            {
                "augment": Augmentation(
                    noise=0.1, feature_dropout=0.1, stream_dropout=0.1, temporal_mask=0.25, mixup=0.2
                ),
                "autoencode": 0.1,
            }
        ),
    }
)


def preset_settings(name: str, augment: Mapping[str, Any], autoencode: float | None) -> dict[str, Any]:
    """A preset's fields of `TrainConfig`, with some of them set otherwise.

    Args:
        name: a key of ``PRESETS``.
        augment: fields of `Augmentation` that replace the preset's.
        autoencode: replaces the preset's, if given.

    Raises:
        ValueError: an unknown preset or field, with the closest match, or a value out of range.
    """
    if name not in PRESETS:
        raise ValueError(unknown_name("training preset", name, PRESETS))
    chosen = dict(PRESETS[name])
    chosen["augment"] = Augmentation.from_dict({**asdict(chosen["augment"]), **augment})
    if autoencode is not None:
        chosen["autoencode"] = autoencode
    return chosen
