"""Weights and training state on disk: written in one step, and read without running what is in them.

Weights are safetensors. The state of an unfinished fold is a torch file, loaded with ``weights_only=True``: a pickle
that holds anything but numbers is refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from train.config import TrainConfig
from train.heads import build_head, head_config
from train.heads.standardize import HeadModel, Standardize
from train.runs.files import RunError, write_bytes
from train.tasks import Task

MAX_DIM = 2**16  # no encoder has features of this size; what says so is damaged

__all__ = ["RunError", "build_model", "load_model", "load_state", "save_model", "save_state"]


def build_model(task: Task, config: TrainConfig, dims: Mapping[str, int]) -> HeadModel:
    """A head and its standardisers, to be fitted or loaded."""
    head = build_head(config.head, dims, task.outputs, head_config(config.head, **config.head_options))
    return HeadModel(head, {s: Standardize(d) for s, d in dims.items()})


def save_model(model: HeadModel, file: Path) -> None:
    """Weights and standardisers as safetensors, in one step."""
    # Through memory: heads are small, and a full disk is then an error of the system and not of a library.
    write_bytes(file, save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}))


def load_model(task: Task, config: TrainConfig, dims: Mapping[str, int], file: Path) -> HeadModel:
    """One head from a safetensors file, ready to score.

    Raises:
        RunError: absent, damaged, or made for another head.
    """
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise RunError(f"checkpoint {file} cannot be read: {error}") from None
    if wrong := {s: d for s, d in dims.items() if not isinstance(d, int) or not 0 < d <= MAX_DIM}:
        raise RunError(f"config.json of {file}: feature sizes {wrong}; expected whole numbers from 1 to {MAX_DIM}")
    try:
        model = build_model(task, config, dims)
        model.load_state_dict(weights)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"checkpoint {file} does not fit head {config.head!r} of its config.json: {error}") from None
    return model.eval()


def save_state(state: Mapping[str, Any], file: Path) -> None:
    """Everything that the next epoch depends on, in one step."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(file, buffer.getvalue())


def load_state(
    file: Path, fresh: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: str
) -> dict[str, Any]:
    """Read what ``save_state`` wrote, and put model and optimizer back to where they were.

    Args:
        fresh: the state before the first epoch; the file must hold its keys.

    Returns:
        The values of those keys.

    Raises:
        RunError: damaged, not a state file, or of another head.
    """
    try:
        state = torch.load(file, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not fresh.keys() <= state.keys():
            raise ValueError("it holds something else")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch and pickle report damage in many classes; to a user all of them mean the same
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise RunError(
            f"{file} is not the state of a fold of this run ({reason}); delete it to train this fold from its start"
        ) from None
    return {key: state[key] for key in fresh}
