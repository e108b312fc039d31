"""The autoencoding term: each stream's GRU states must still tell the features they were made from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Decoders(nn.ModuleDict):
    """One linear map H -> D_s per stream. They serve training only and are in no checkpoint."""

    def __init__(self, dims: Mapping[str, int], hidden: int) -> None:
        super().__init__({s: nn.Linear(hidden, dim) for s, dim in dims.items()})

    def forward(
        self, named: Mapping[str, Tensor], wanted: Mapping[str, Tensor], kept: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Mean over streams of the mean squared error of x^_bt = W_s h_bt + b_s against x_bt.

        Where a head keeps one state of a window, it must tell the mean of the window's steps.

        Args:
            named: What the head returned: h_<s> (B, T_s, H), or (B, H), of each stream.
            wanted: x, stream -> (B, T_s, D_s) float32, standardised and not corrupted.
            kept: Stream -> bool (B,): windows from which a stream was taken tell nothing of it and do not count.

        Returns:
            () float32.
        """
        errors = []
        for s, decode in self.items():
            h, x = named[f"h_{s}"], wanted[s]
            if h.ndim == 2:
                x = x.mean(1)  # (B, D)
            each = (decode(h) - x).square().flatten(1).mean(1)  # (B,)
            weight = torch.ones_like(each) if kept is None else kept[s].to(each)
            errors.append((weight * each).sum() / weight.sum().clamp_min(1))
        return torch.stack(errors).mean()
