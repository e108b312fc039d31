"""How often each class occurs among the labels a head learns from, and what class weights make of that."""

from __future__ import annotations

import numpy as np
import torch

from train.fit.losses import effective_prior
from train.tasks import Task


def class_prior(task: Task, known: np.ndarray) -> tuple[float, ...]:
    """Share of each class among labels (n, 1), each count raised by one so that none is 0; () for other tasks."""
    if task.kind != "classes":
        return ()
    counts = np.bincount(known[:, 0].astype(np.int64), minlength=task.outputs) + 1.0
    return tuple((counts / counts.sum()).tolist())


def prior_line(task: Task, known: np.ndarray, weighted: bool) -> str:
    """The shares of the classes in words, and the prior that the loss teaches; "" for a regression.

    Args:
        task: what is learned.
        known: (n, K) labels of the windows, none masked.
        weighted: whether the loss weighs classes.
    """
    if task.kind == "regression":
        return ""
    targets = torch.from_numpy(known if task.kind == "multilabel" else known[:, 0].astype(np.int64))
    shares = effective_prior(task, targets, weighted)
    names = task.class_names or task.label_names
    words = [
        f"{name} {own:.1%} (as {taught:.1%})"
        for name, own, taught in zip(names, shares["labels"].tolist(), shares["weighted"].tolist(), strict=True)
    ]
    return f"share of labelled windows (as the loss weighs it): {', '.join(words)}"
