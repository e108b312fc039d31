"""The losses. Each is `loss(outputs, targets, ...) -> scalar` over a batch, pure, and safe under `torch.func.vmap`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.names import unknown_name
from train.tasks import Task

CCC_EPS = 1e-8  # keeps a batch of one constant value at CCC 0 with a finite gradient


def _full(outputs: Tensor) -> Tensor:
    """At least float32: moments and logarithms of a bf16 batch are noise."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def focal(outputs: Tensor, targets: Tensor, *, gamma: float = 2.0, class_weights: Tensor | None = None) -> Tensor:
    """Focal loss: FL = sum_b a_t (1 - p_t)^gamma (-log p_t) / sum_b a_t, p = softmax(outputs), t = targets[b].

    Lin et al. 2017 (arXiv:1708.02002), eq. 5, with softmax in place of the sigmoid. The weighted mean is that of
    `torch.nn.functional.cross_entropy`, so gamma = 0 is exactly weighted cross-entropy and the scale of the weights
    does not change the step size.

    Args:
        outputs: (B, K) float, logits.
        targets: (B,) integer class in 0..K-1.
        gamma: 0 or more; larger values count easy examples less. The paper of the method gives none; 2 is Lin's.
        class_weights: (K,) positive float, the a of the formula; None: all 1.

    Returns:
        () float32 or wider, 0 or more.
    """
    log_p = F.log_softmax(_full(outputs), dim=-1)  # (B, K)
    log_pt = log_p.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)  # (B,)
    # expm1 keeps 1 - p exact near p = 1; the floor keeps the gradient finite there for gamma < 1.
    miss = (-torch.expm1(log_pt)).clamp_min(torch.finfo(log_pt.dtype).tiny)  # (B,) 1 - p_t
    loss = -(miss**gamma) * log_pt  # (B,)
    if class_weights is None:
        return loss.mean()
    weight = class_weights.to(loss)[targets.long()]  # (B,)
    return (weight * loss).sum() / weight.sum()


def cross_entropy(outputs: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy: sum_b a_t (-log p_t) / sum_b a_t, p = softmax(outputs), t = targets[b].

    The intro of Kim & Kim names it for violence; their section 4.1 uses focal loss.

    Args:
        outputs: (B, K) float, logits.
        targets: (B,) integer class in 0..K-1.
        class_weights: (K,) positive float, the a of the formula; None: all 1.

    Returns:
        () float32 or wider, 0 or more.
    """
    outputs = _full(outputs)
    weight = None if class_weights is None else class_weights.to(outputs)
    return F.cross_entropy(outputs, targets.long(), weight=weight)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over batch and outputs: mean_bk (y_bk - t_bk)^2. Kim & Kim section 4.1, for VA.

    Args:
        outputs: (B, K) float.
        targets: (B, K) float, finite.

    Returns:
        () float32 or wider, 0 or more.
    """
    outputs = _full(outputs)
    return F.mse_loss(outputs, targets.to(outputs))


def ccc(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 - mean_k CCC_k, CCC = 2 s_yt / (s_y^2 + s_t^2 + (m_y - m_t)^2), biased moments over the batch.

    Lin 1989, eq. 1, the official VA metric as a loss (HSEmotion ABAW-6 uses it on batches of 1024). It is a statistic
    of the batch: with 8 windows it is very noisy, and a batch of one window has CCC 0 and no gradient from s_yt.

    Args:
        outputs: (B, K) float.
        targets: (B, K) float, finite.

    Returns:
        () float32 or wider, in [0, 2].
    """
    outputs = _full(outputs)
    targets = targets.to(outputs)
    mean_y, mean_t = outputs.mean(0), targets.mean(0)  # (K,)
    y, t = outputs - mean_y, targets - mean_t  # (B, K)
    total = (y * y).mean(0) + (t * t).mean(0) + (mean_y - mean_t) ** 2  # (K,)
    return 1 - (2 * (y * t).mean(0) / (total + CCC_EPS)).mean()


def mse_ccc(outputs: Tensor, targets: Tensor) -> Tensor:
    """MSE + (1 - mean CCC): half of HSEmotion's MSE_V + MSE_A - (CCC_V + CCC_A) (arXiv:2603.12693), plus one.

    Args:
        outputs: (B, K) float.
        targets: (B, K) float, finite.

    Returns:
        () float32 or wider, 0 or more.
    """
    return mse(outputs, targets) + ccc(outputs, targets)


def bce(outputs: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over batch and units: mean_bk w_bk (-log p_bk), p = sigmoid(outputs) or 1 - it.

    Args:
        outputs: (B, K) float, logits.
        targets: (B, K) of 0 and 1.
        class_weights: (2, K) positive float, the w of a unit's 0 and 1 (HSEmotion ABAW-6: total / (2 n_0) and
            total / (2 n_1)); None: all 1.

    Returns:
        () float32 or wider, 0 or more.
    """
    outputs = _full(outputs)
    targets = targets.to(outputs)
    if class_weights is None:
        return F.binary_cross_entropy_with_logits(outputs, targets)
    absent, present = class_weights.to(outputs)  # (K,) each
    weight = absent + (present - absent) * targets  # (B, K)
    return F.binary_cross_entropy_with_logits(outputs, targets, weight=weight)


LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"focal": focal, "cross_entropy": cross_entropy, "mse": mse, "ccc": ccc, "mse_ccc": mse_ccc, "bce": bce}
)


def class_counts(task: Task, targets: Tensor) -> Tensor:
    """How often each class occurs: (K,) for targets (n,) of class numbers; (2, K) absent and present for (n, K)."""
    if task.kind == "multilabel":
        present = targets.float().sum(dim=0)  # (K,)
        return torch.stack([len(targets) - present, present])
    return torch.bincount(targets, minlength=task.outputs).float()


def class_weights(task: Task, targets: Tensor) -> Tensor:
    """Inverse frequency, mean 1 over the targets: total / (classes x count); shape of `class_counts`.

    A class that never occurs counts as one, so that its weight is finite; no target uses it.
    """
    counts = class_counts(task, targets).clamp_min(1)
    num_classes = 2 if task.kind == "multilabel" else task.outputs
    return len(targets) / (num_classes * counts)


def effective_prior(task: Task, targets: Tensor, weighted: bool) -> dict[str, Tensor]:
    """What a head is taught to expect before it sees anything: the share of each class, and that after class weights.

    Weights, biased sampling and multipliers for a class stack up unseen; so their product is said.

    Returns:
        "labels" and "weighted": (K,) shares of the classes, or of "present" of each unit.
    """
    counts = class_counts(task, targets)

    def share(values: Tensor) -> Tensor:
        shares = values / values.sum(dim=0).clamp_min(1)
        return shares[1] if task.kind == "multilabel" else shares

    return {"labels": share(counts), "weighted": share(counts * class_weights(task, targets) if weighted else counts)}


def loss_named(name: str) -> Callable[..., Tensor]:
    """The loss called `name`.

    Raises:
        ValueError: No such loss; the message carries the closest match.
    """
    if name not in LOSSES:
        raise ValueError(unknown_name("loss", name, LOSSES))
    return LOSSES[name]


def loss_for(task: Task, name: str | None) -> Callable[..., Tensor]:
    """The loss of a task by name; None takes the task's own.

    Raises:
        ValueError: No such loss, or one for another kind of task.
    """
    name = name or task.default_loss
    loss = loss_named(name)
    if name not in task.losses:
        raise ValueError(f"task {task.name!r} takes the losses {', '.join(task.losses)}, not {name!r}")
    return loss
