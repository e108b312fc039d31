"""Fusion without attention: three GRUs, mean over the states of each, concatenation, MLP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from train.heads.layers import Mlp, StreamGrus, check_config, mean_pool


@dataclass(frozen=True)
class ConcatConfig:
    """Settings of the concatenation baseline.

    Attributes:
        hidden: H, the size of each GRU state.
        dropout: Inside the MLP.
        mlp: Width of the MLP.
    """

    hidden: int = 64
    dropout: float = 0.3
    mlp: int = 64

    def __post_init__(self) -> None:
        check_config(self.hidden, self.mlp, self.dropout)


class Concat(nn.Module):
    """The ablation "without cross-attention": what the streams say together, without asking each other."""

    streams: ClassVar[tuple[str, ...]] = ("video", "image", "text")
    Config: ClassVar[type] = ConcatConfig

    def __init__(self, dims: Mapping[str, int], num_outputs: int, config: ConcatConfig) -> None:
        super().__init__()
        self.grus = StreamGrus(self.streams, dims, config.hidden)
        self.mlp = Mlp(len(self.streams) * config.hidden, config.mlp, num_outputs, config.dropout)

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One window per row -> its outputs and every named intermediate.

        Args:
            streams: video (B, T_v, D_v), image (B, T_i, D_i), text (B, T_t, D_t), float32, standardised.

        Returns:
            h_video, h_image, h_text (B, T_s, H): GRU states; fused (B, 3H): their means, concatenated;
            output (B, K): logits or values.

        Raises:
            ValueError: A stream is missing or has the wrong shape.
        """
        h = self.grus(streams)
        fused = torch.cat([mean_pool(h[s]) for s in self.streams], dim=-1)  # (B, 3H)
        return {**{f"h_{s}": h[s] for s in self.streams}, "fused": fused, "output": self.mlp(fused)}  # output (B, K)
