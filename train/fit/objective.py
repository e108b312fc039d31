"""What a training step minimises: the task's loss on what augmentation left, plus the autoencoding term."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from train.config import TrainConfig
from train.fit.augment import corrupt, mixup
from train.fit.autoencode import Decoders
from train.fit.losses import loss_for
from train.heads import head_config
from train.heads.standardize import HeadModel
from train.tasks import Task

Loss = Callable[[Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """Everything that is trained in one module, and its loss: `model` goes into checkpoints, `decoders` do not."""

    def __init__(self, task: Task, config: TrainConfig, model: HeadModel, decoders: Decoders) -> None:
        """Put them together.

        Raises:
            ValueError: a loss for another task.
        """
        super().__init__()
        self.config, self.loss = config, loss_for(task, config.loss)
        self.model, self.decoders = model, decoders

    def task_loss(self, outputs: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """The task's loss of outputs (B, K): ()."""
        if class_weights is None:
            return self.loss(outputs, targets)
        return self.loss(outputs, targets, class_weights=class_weights)

    def forward(self, raw: Mapping[str, Tensor], targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """What a step minimises, as in `training_loss`; class weights as the loss takes them, or None."""
        return training_loss(
            self.config,
            self.model,
            self.decoders,
            lambda outputs, wanted: self.task_loss(outputs, wanted, class_weights),
            raw,
            targets,
        )


def decoders_for(config: TrainConfig, model: HeadModel, dims: Mapping[str, int]) -> Decoders:
    """Fresh decoders of the streams that the head reads; none where the autoencoding term is off."""
    if not config.autoencode:
        return Decoders({}, 1)
    return Decoders({s: dims[s] for s in model.streams}, head_config(config.head, **config.head_options).hidden)


def training_loss(
    config: TrainConfig,
    model: HeadModel,
    decoders: Decoders,
    loss_of: Loss,
    raw: Mapping[str, Tensor],
    targets: Tensor,
) -> Tensor:
    """The loss of one batch: L_task(augmented) + autoencode * L_ae.

    With everything off this is ``loss_of(model(raw)["output"], targets)`` and draws only what the head drops.

    Args:
        config: ``augment`` and ``autoencode`` are read.
        model, decoders: both are trained.
        loss_of: the task's loss, of outputs (B, K) and targets.
        raw: stream -> cached features (B, T_s, D_s).
        targets: (B,) or (B, K), as the loss takes them.
    """
    options, kept = config.augment, None
    share, partner = torch.ones(()), torch.arange(0)
    streams = model.standardize(raw)
    if options.mixup:
        streams, partner, share = mixup(streams, options.mixup)
    wanted = streams  # the decoders are asked for what was there before noise and gaps
    if options.any:
        streams, kept = corrupt(streams, options)
    named = model.head(streams)
    loss = loss_of(named["output"], targets)
    if options.mixup:
        loss = share * loss + (1 - share) * loss_of(named["output"], targets[partner])
    if config.autoencode:
        loss = loss + config.autoencode * decoders(named, wanted, kept)
    return loss
