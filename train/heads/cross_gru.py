"""The default head: image GRU states attend to the state sequences of the video and the text GRU.

Kim & Kim (arXiv:2507.03531) with keys and values taken as the whole sequences of GRU states instead of one vector each.
With one vector, as printed, the attention is degenerate: see `cross_gru_literal`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from train.heads.layers import CrossAttention, Mlp, StreamGrus, check_config, mean_pool


@dataclass(frozen=True)
class CrossGruConfig:
    """The paper gives none of these; the defaults are the best of a few tried on the demo set (docs/heads.md).

    Attributes:
        hidden: H, the size of the GRU states and of the attention.
        attention_heads: Heads of each attention; divides H.
        dropout: On attention weights and inside the MLP.
        mlp: Width of the MLP.
    """

    hidden: int = 64
    attention_heads: int = 4
    dropout: float = 0.3
    mlp: int = 64

    def __post_init__(self) -> None:
        check_config(self.hidden, self.mlp, self.dropout, self.attention_heads)


class CrossGru(nn.Module):
    """Three GRUs, two cross-attentions from image, residual and norm, mean over queries, MLP."""

    streams: ClassVar[tuple[str, ...]] = ("video", "image", "text")
    Config: ClassVar[type] = CrossGruConfig

    def __init__(self, dims: Mapping[str, int], num_outputs: int, config: CrossGruConfig) -> None:
        super().__init__()
        self.grus = StreamGrus(self.streams, dims, config.hidden)
        self.attend = nn.ModuleDict(
            {s: CrossAttention(config.hidden, config.attention_heads, config.dropout) for s in ("video", "text")}
        )
        self.norm = nn.ModuleDict({s: nn.LayerNorm(config.hidden) for s in ("video", "text")})
        self.mlp = Mlp(2 * config.hidden, config.mlp, num_outputs, config.dropout)

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One window per row -> its outputs and every named intermediate.

        Args:
            streams: video (B, T_v, D_v), image (B, T_i, D_i), text (B, T_t, D_t), float32, standardised.

        Returns:
            h_video, h_image, h_text (B, T_s, H): GRU states (eqs. 2, 4, 6);
            z_video, z_text (B, H): image attending to each (eqs. 7, 8, over sequences, with residual and norm);
            fused (B, 2H): their concatenation (eq. 9);
            output (B, K): logits or values.

        Raises:
            ValueError: A stream is missing or has the wrong shape.
        """
        h = self.grus(streams)
        named = {f"h_{s}": h[s] for s in self.streams}
        for s in ("video", "text"):
            seen = self.attend[s](h["image"], h[s])  # (B, T_i, H)
            named[f"z_{s}"] = mean_pool(self.norm[s](h["image"] + seen))  # (B, H)
        named["fused"] = torch.cat([named["z_video"], named["z_text"]], dim=-1)  # (B, 2H)
        named["output"] = self.mlp(named["fused"])  # (B, K)
        return named
