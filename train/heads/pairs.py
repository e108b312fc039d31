"""Two of the three streams: `cross_gru` with one taken away. Ablations that Kim & Kim announce and do not print."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from train.heads.layers import CrossAttention, Mlp, StreamGrus, check_config, mean_pool


@dataclass(frozen=True)
class PairConfig:
    """Settings of a pair; the same as those of `cross_gru`.

    Attributes:
        hidden: H, the size of the GRU states and of the attention.
        attention_heads: Heads of the attention; divides H.
        dropout: On attention weights and inside the MLP.
        mlp: Width of the MLP.
    """

    hidden: int = 64
    attention_heads: int = 4
    dropout: float = 0.3
    mlp: int = 64

    def __post_init__(self) -> None:
        check_config(self.hidden, self.mlp, self.dropout, self.attention_heads)


class Pair(nn.Module):
    """What the three pairs share; not in the table of heads.

    Attributes:
        streams: (query, memory): the states of the first attend to those of the second.
    """

    streams: ClassVar[tuple[str, ...]]
    Config: ClassVar[type] = PairConfig

    def __init__(self, dims: Mapping[str, int], num_outputs: int, config: PairConfig) -> None:
        super().__init__()
        self.grus = StreamGrus(self.streams, dims, config.hidden)
        self.attend = CrossAttention(config.hidden, config.attention_heads, config.dropout)
        self.norm = nn.LayerNorm(config.hidden)
        self.mlp = Mlp(config.hidden, config.mlp, num_outputs, config.dropout)

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One window per row -> its outputs and every named intermediate.

        Args:
            streams: Query q and memory m, each (B, T_s, D_s) float32, standardised; others are ignored.

        Returns:
            h_<q>, h_<m> (B, T_s, H): GRU states;
            fused (B, H): mean over the steps of LayerNorm(h_q + Attention(Q = h_q, K = V = h_m));
            output (B, K): logits or values.

        Raises:
            ValueError: A stream is missing or has the wrong shape.
        """
        h = self.grus(streams)
        query, memory = (h[s] for s in self.streams)
        seen = self.attend(query, memory)  # (B, T_q, H)
        fused = mean_pool(self.norm(query + seen))  # (B, H)
        return {**{f"h_{s}": h[s] for s in self.streams}, "fused": fused, "output": self.mlp(fused)}  # output (B, K)


class VideoImage(Pair):
    """Without text: image attends to video, as in `cross_gru`."""

    streams = ("image", "video")


class ImageText(Pair):
    """Without video: image attends to text, as in `cross_gru`."""

    streams = ("image", "text")


class VideoText(Pair):
    """Without image, whose place as the query the video takes."""

    streams = ("video", "text")
