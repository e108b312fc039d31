"""Equations 1-9 of Kim & Kim (arXiv:2507.03531) exactly as printed. For the record; use `cross_gru`.

h^(v), h^(i), h^(t) are the last GRU states, one vector each (eqs. 2, 4, 6). Attention over a single key has one weight,
softmax of one number = 1, so z = W_o W_v h^(v) + const whatever the query is (eqs. 7, 8). h^(i) enters only as a query,
and no residual is printed: the image stream cannot change the output, and its GRU gets a gradient of exactly zero.
The tests state this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from train.heads.layers import CrossAttention, Mlp, StreamGrus, check_config


@dataclass(frozen=True)
class CrossGruLiteralConfig:
    """The paper gives none of these.

    Attributes:
        hidden: d_h, the size of the GRU states.
        attention_heads: Heads of each attention; divides d_h. The equations show one.
        dropout: Inside the MLP only: dropped attention weights would be the one thing that tells queries apart.
        mlp: Width of the MLP.
    """

    hidden: int = 64
    attention_heads: int = 1
    dropout: float = 0.3
    mlp: int = 64

    def __post_init__(self) -> None:
        check_config(self.hidden, self.mlp, self.dropout, self.attention_heads)


class CrossGruLiteral(nn.Module):
    """The printed model. `image` is read, and has no effect."""

    streams: ClassVar[tuple[str, ...]] = ("video", "image", "text")
    Config: ClassVar[type] = CrossGruLiteralConfig

    def __init__(self, dims: Mapping[str, int], num_outputs: int, config: CrossGruLiteralConfig) -> None:
        super().__init__()
        self.grus = StreamGrus(self.streams, dims, config.hidden)
        self.attend = nn.ModuleDict(
            {s: CrossAttention(config.hidden, config.attention_heads, dropout=0.0) for s in ("video", "text")}
        )
        self.mlp = Mlp(2 * config.hidden, config.mlp, num_outputs, config.dropout)

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One window per row -> its outputs and every named intermediate.

        Args:
            streams: video (B, T_v, D_v), image (B, T_i, D_i), text (B, T_t, D_t), float32, standardised.

        Returns:
            h_video, h_image, h_text (B, H): last GRU states (eqs. 2, 4, 6);
            z_video, z_text (B, H): Attention(Q = h_image, K = V = h_s) (eqs. 7, 8);
            fused (B, 2H): [z_video; z_text] (eq. 9);
            output (B, K): logits or values.

        Raises:
            ValueError: A stream is missing or has the wrong shape.
        """
        h = {s: states[:, -1:] for s, states in self.grus(streams).items()}  # (B, 1, H)
        named = {f"h_{s}": h[s].squeeze(1) for s in self.streams}  # (B, H)
        for s in ("video", "text"):
            named[f"z_{s}"] = self.attend[s](h["image"], h[s]).squeeze(1)  # (B, H)
        named["fused"] = torch.cat([named["z_video"], named["z_text"]], dim=-1)  # (B, 2H)
        named["output"] = self.mlp(named["fused"])  # (B, K)
        return named
