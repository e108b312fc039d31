"""Standardisation of cached features, as part of the model: its numbers are buffers and travel with every checkpoint.

Features are cached raw. CLIP has a few dimensions tens of times larger than the rest, which a GRU would saturate on.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_ROWS_AT_ONCE = 16_384  # 100 MB of float64 at D = 768; the features themselves may be float16 and far larger
_CONSTANT = 1e-6  # a deviation below this share of the size is rounding noise, not signal


class Standardize(nn.Module):
    """(x - mean) / std per feature. Until it is fitted or loaded it changes nothing.

    Attributes:
        mean: Buffer (D,) float32.
        std: Buffer (D,) float32, above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def fit(self, features: Tensor, rows: Tensor | None = None) -> "Standardize":
        """Take mean and (biased) standard deviation from training rows only, in float64.

        A dimension that does not vary gets std 1: it becomes 0 and not a division by nearly nothing.

        Args:
            features: (rows, D) any float dtype; flatten windows and steps into rows.
            rows: int64 (n,), the rows to use, copied part by part; default: all.

        Returns:
            Itself.

        Raises:
            ValueError: Another shape, no rows, or values that are not finite.
        """
        rows = torch.arange(len(features)) if rows is None else rows
        if features.ndim != 2 or features.shape[1] != len(self.mean) or not len(rows):
            raise ValueError(
                f"features must be (rows, {len(self.mean)}) with at least one row, not {tuple(features.shape)}"
            )
        parts = rows.split(_ROWS_AT_ONCE)
        zero = torch.zeros(())
        mean = sum((features[part].double().sum(0) for part in parts), zero) / len(rows)  # (D,)
        if not torch.isfinite(mean).all():
            raise ValueError("features to standardise hold values that are not finite")
        # Two passes: the one-pass formula loses every digit of a small variance around a large mean.
        variance = sum((((features[part].double() - mean) ** 2).sum(0) for part in parts), zero) / len(rows)  # (D,)
        std = variance.sqrt()
        std = torch.where(std > _CONSTANT * mean.abs().clamp_min(_CONSTANT), std, 1.0)
        self.mean.copy_(mean)
        self.std.copy_(std)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) any float dtype -> (..., D) float32.

        Raises:
            ValueError: Another feature size than it was made for.
        """
        if x.shape[-1:] != self.mean.shape:
            raise ValueError(f"features must be (..., {len(self.mean)}), not {tuple(x.shape)}")
        return (x.float() - self.mean) / self.std


class HeadModel(nn.Module):
    """A head behind its standardisers: raw cached features in, the head's named tensors out.

    This is what is trained, saved and loaded: its state dict holds `head.*` and `standardizers.<stream>.{mean,std}`.
    """

    def __init__(self, head: nn.Module, standardizers: Mapping[str, Standardize]) -> None:
        """Join the two; standardisers of streams the head does not read are left out.

        Raises:
            ValueError: A stream of the head has no standardiser.
        """
        super().__init__()
        self.streams: tuple[str, ...] = tuple(head.streams)  # type: ignore[arg-type]
        absent = [s for s in self.streams if s not in standardizers]
        if absent:
            raise ValueError(f"no standardiser for {', '.join(absent)}; at hand: {sorted(standardizers) or 'none'}")
        self.head = head
        self.standardizers = nn.ModuleDict({s: standardizers[s] for s in self.streams})

    def standardize(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw features of each stream (B, T_s, D_s) -> float32, standardised; streams the head does not read go.

        Raises:
            ValueError: A stream has another feature size.
        """
        return {s: self.standardizers[s](streams[s]) for s in self.streams if s in streams}

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw features of each stream (B, T_s, D_s) -> what the head returns, "output" (B, K) among it.

        Raises:
            ValueError: A stream is missing or has the wrong shape.
        """
        return self.head(self.standardize(streams))
