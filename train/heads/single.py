"""Unimodal baselines: one stream, one GRU, mean over its states, MLP. Announced by Kim & Kim, not printed there."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from torch import Tensor, nn

from train.heads.layers import Mlp, StreamGrus, check_config, mean_pool


@dataclass(frozen=True)
class SingleConfig:
    """Settings of a unimodal baseline.

    Attributes:
        hidden: H, the size of the GRU state.
        dropout: Inside the MLP.
        mlp: Width of the MLP.
    """

    hidden: int = 64
    dropout: float = 0.3
    mlp: int = 64

    def __post_init__(self) -> None:
        check_config(self.hidden, self.mlp, self.dropout)


class Single(nn.Module):
    """What the three baselines share; not in the table of heads."""

    streams: ClassVar[tuple[str, ...]]
    Config: ClassVar[type] = SingleConfig

    def __init__(self, dims: Mapping[str, int], num_outputs: int, config: SingleConfig) -> None:
        super().__init__()
        self.grus = StreamGrus(self.streams, dims, config.hidden)
        self.mlp = Mlp(config.hidden, config.mlp, num_outputs, config.dropout)

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One window per row -> its outputs and every named intermediate.

        Args:
            streams: The one stream s, (B, T_s, D_s) float32, standardised; others are ignored.

        Returns:
            h_<s> (B, T_s, H): GRU states; fused (B, H): their mean; output (B, K): logits or values.

        Raises:
            ValueError: The stream is missing or has the wrong shape.
        """
        (stream,) = self.streams
        h = self.grus(streams)[stream]  # (B, T_s, H)
        fused = mean_pool(h)  # (B, H)
        return {f"h_{stream}": h, "fused": fused, "output": self.mlp(fused)}  # output (B, K)


@cache
def single_head(stream: str) -> type[Single]:
    """The head of one stream by name.

    Raises:
        ValueError: torch cannot have a part of that name.
    """
    if "." in stream or hasattr(nn.ModuleDict, stream):
        raise ValueError(f"no head can read a stream that is called {stream!r}; import it under another name")
    return type("StreamOnly", (Single,), {"__doc__": f"The stream {stream} alone.", "streams": (stream,)})


class VideoOnly(Single):
    """The video stream alone."""

    streams = ("video",)


class ImageOnly(Single):
    """The image stream alone."""

    streams = ("image",)


class TextOnly(Single):
    """The text stream alone."""

    streams = ("text",)
