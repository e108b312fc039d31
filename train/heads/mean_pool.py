"""No order and no attention: the mean of each stream over its steps, a linear map, concatenation, MLP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from train.heads.layers import Mlp, StreamMeans, check_config


@dataclass(frozen=True)
class MeanPoolConfig:
    """Settings of the mean-pooling baseline.

    Attributes:
        hidden: H, what each stream's mean is mapped to.
        dropout: Inside the MLP.
        mlp: Width of the MLP.
    """

    hidden: int = 64
    dropout: float = 0.3
    mlp: int = 64

    def __post_init__(self) -> None:
        check_config(self.hidden, self.mlp, self.dropout)


class MeanPool(nn.Module):
    """The ablation "without GRU": a window is a bag of samples. What it loses to `concat` is what order is worth."""

    streams: ClassVar[tuple[str, ...]] = ("video", "image", "text")
    Config: ClassVar[type] = MeanPoolConfig

    def __init__(self, dims: Mapping[str, int], num_outputs: int, config: MeanPoolConfig) -> None:
        super().__init__()
        self.means = StreamMeans(self.streams, dims, config.hidden)
        self.mlp = Mlp(len(self.streams) * config.hidden, config.mlp, num_outputs, config.dropout)

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One window per row -> its outputs and every named intermediate.

        Args:
            streams: video (B, T_v, D_v), image (B, T_i, D_i), text (B, T_t, D_t), float32, standardised.

        Returns:
            h_video, h_image, h_text (B, H): W_s mean_t x_s + b_s; fused (B, 3H): their concatenation;
            output (B, K): logits or values.

        Raises:
            ValueError: A stream is missing or has the wrong shape.
        """
        h = self.means(streams)
        fused = torch.cat([h[s] for s in self.streams], dim=-1)  # (B, 3H)
        return {**{f"h_{s}": h[s] for s in self.streams}, "fused": fused, "output": self.mlp(fused)}  # output (B, K)
