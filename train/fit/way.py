"""Whether folds train one after another or all at once.

The scores are the same up to rounding, so it is a matter of speed: on a GPU, folds at once share every launch. On a
CPU they share what a call costs beside its arithmetic, and lose where their weights together no longer fit in its
cache. What is gained grows with the steps of the GRUs, what is lost with the number of weights; the limit between them
is fixed, from measurements with 1 and 2 threads (docs/heads.md). Trying both out at run time would make one seed two
results.
"""

from __future__ import annotations

from shared.names import unknown_name
from train.config import TrainConfig
from train.data.features import Features, Windows
from train.fit.objective import decoders_for
from train.heads.layers import Gru
from train.runs.checkpoints import build_model
from train.tasks import Task

WAYS = ("auto", "together", "one-by-one")
WEIGHTS = 100_000  # a head without GRUs may have, and
WEIGHTS_PER_STEP = 45_000  # for every step of a GRU


def check_way(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: an unknown name, with the closest match.
    """
    if name not in WAYS:
        raise ValueError(unknown_name("way to train folds", name, WAYS))
    return name


def pick_way(
    name: str, device: str, task: Task, config: TrainConfig, features: Features, windows: Windows
) -> tuple[bool, str]:
    """Whether the folds of a head train at once, and a line that says so and why."""
    if check_way(name) != "auto":
        words = {"together": "all at once", "one-by-one": "one after another"}[name]
        return name == "together", f"{config.head}: folds train {words} on {device}, as asked for"
    if device != "cpu":
        return True, f"{config.head}: folds train all at once on {device}: they share its launches"
    model = build_model(task, config, features.dims)
    parts = [model.head, decoders_for(config, model, features.dims)]
    weights = sum(p.numel() for part in parts for p in part.parameters())
    has_grus = any(isinstance(module, Gru) for module in model.modules())
    steps = sum(windows.rows[s].shape[1] for s in model.streams) if has_grus else 0
    most = WEIGHTS + WEIGHTS_PER_STEP * steps
    together = weights <= most
    words, sign = ("all at once", "at most") if together else ("one after another", "more than")
    return together, (
        f"{config.head}: folds train {words} on {device}: {weights:,} weights, {sign} the {most:,} up to which that is "
        f"faster at {steps} GRU steps a window"
    )
