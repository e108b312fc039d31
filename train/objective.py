"""What a training step minimises: the task's loss on what augmentation left, plus the autoencoding term."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from train.augment import corrupt, mixup
from train.autoencode import Decoders
from train.config import TrainConfig
from train.heads import head_config
from train.heads.standardize import HeadModel

Loss = Callable[[Tensor, Tensor], Tensor]


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

    With everything off this is ``loss_of(model(raw)["output"], targets)`` and draws no random number.

    Args:
        config: ``augment`` and ``autoencode`` are read.
        model, decoders: both are trained.
        loss_of: the task's loss, of outputs (B, K) and targets.
        raw: stream -> cached features (B, T_s, D_s).
        targets: (B,) or (B, K), as the loss takes them.
    """
    options, kept, share = config.augment, None, 1.0
    streams, partner = model.standardize(raw), torch.arange(0)
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
