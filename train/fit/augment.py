"""Augmentation of cached features, after standardisation: pure functions of a batch, drawn by train/heads/noise.py.

Every function takes and returns stream -> (B, T_s, D_s) float32, leaves its input as it was, and touches training only.
The formulas are in docs/heads.md. Zero is the mean of a standardised feature, so "set to zero" is "say nothing".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from train.config import Augmentation
from train.heads.noise import beta_share, normal, uniform

Streams = dict[str, Tensor]


def corrupt(streams: Mapping[str, Tensor], options: Augmentation) -> tuple[Streams, dict[str, Tensor]]:
    """Noise, feature dropout, temporal mask and stream dropout, in this order; mixup is the loop's, as it needs labels.

    Returns:
        The streams, and stream -> bool (B,), the windows that kept it.
    """
    ready = dict(streams)
    if options.noise:
        ready = add_noise(ready, options.noise)
    if options.feature_dropout:
        ready = drop_features(ready, options.feature_dropout)
    if options.temporal_mask:
        ready = mask_steps(ready, options.temporal_mask)
    return drop_streams(ready, options.stream_dropout)


def add_noise(streams: Mapping[str, Tensor], deviation: float) -> Streams:
    """x + deviation * e, e ~ N(0, 1) for every element."""
    return {s: x + deviation * normal(x.shape, x).to(x.dtype) for s, x in streams.items()}


def drop_features(streams: Mapping[str, Tensor], share: float) -> Streams:
    """x_d m_d / (1 - share), m ~ Bernoulli(1 - share): one mask per window, the same at all its steps."""
    return {s: x * _keep((x.shape[0], 1, x.shape[2]), share, x) / (1 - share) for s, x in streams.items()}


def mask_steps(streams: Mapping[str, Tensor], longest: float) -> Streams:
    """Zero at one run of steps per window and stream.

    Args:
        streams: as above.
        longest: share of the steps. The run has l steps, l uniform in 0 .. floor(longest * T), and begins anywhere in
            0 .. T - l, all equally likely.
    """
    masked = {}
    for s, x in streams.items():
        batch, steps = x.shape[:2]
        most = int(longest * steps + 1e-9)  # 0.3 * 10 is a little less than 3
        length = _below(most + 1, uniform((batch,), x))  # (B,)
        first = _below(steps - length + 1, uniform((batch,), x))  # (B,)
        step = torch.arange(steps, device=x.device)  # (T,)
        gap = (step >= first[:, None]) & (step < (first + length)[:, None])  # (B, T)
        masked[s] = x.masked_fill(gap[..., None], 0.0)
    return masked


def drop_streams(streams: Mapping[str, Tensor], share: float) -> tuple[Streams, dict[str, Tensor]]:
    """Zero for a whole stream of a window, each with chance `share`; where all would go, one drawn at random stays.

    Returns:
        The streams, and stream -> bool (B,), the windows that kept it.
    """
    first = next(iter(streams.values()))
    batch, device = first.shape[0], first.device
    lost = torch.zeros(batch, len(streams), dtype=torch.bool, device=device)  # (B, S)
    if share:
        lost = uniform((batch, len(streams)), first) < share
        spared = _below(len(streams), uniform((batch,), first))  # (B,)
        rescued = (spared[:, None] == torch.arange(len(streams), device=device)) & lost.all(1, keepdim=True)  # (B, S)
        lost = lost & ~rescued
    kept = {s: ~lost[:, k] for k, s in enumerate(streams)}
    return {s: x * kept[s][:, None, None] for s, x in streams.items()}, kept


def mixup(streams: Mapping[str, Tensor], a: float) -> tuple[Streams, Tensor, Tensor]:
    """x <- w x + (1 - w) x[partner], all streams alike; one w ~ Beta(a, a) per batch (Zhang et al. 2018, eq. 1).

    The loss is mixed alike, w L(y, t) + (1 - w) L(y, t[partner]). For cross-entropy that is the loss of the mixed
    labels, and for MSE it has the same gradient.

    Returns:
        The streams, partner int64 (B,), and w ().
    """
    first = next(iter(streams.values()))
    w = beta_share(a, first).to(first.dtype)
    partner = uniform(first.shape[:1], first).argsort(stable=True)  # (B,)
    return {s: w * x + (1 - w) * x[partner] for s, x in streams.items()}, partner, w


def _below(limit: int | Tensor, u: Tensor) -> Tensor:
    """Whole numbers 0 .. limit - 1 from u in [0, 1); rounding in float32 could give u * limit = limit."""
    return (u * limit).long().clamp(max=limit - 1)


def _keep(shape: tuple[int, ...], share: float, like: Tensor) -> Tensor:
    """1 with chance 1 - share, else 0."""
    return (uniform(shape, like) >= share).to(like.dtype)
