"""The layers heads are made of: GRU, cross-attention, MLP.

GRU and attention are kept behind one class each because `nn.GRU` does not run under `torch.func.vmap`. A version that
does must keep the parameter names, those of `nn.GRU` and `nn.MultiheadAttention`, so that checkpoints live on.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Gru(nn.GRU):
    """Single-layer, one-directional GRU. Parameters: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T, D) float32 -> states after every step (B, T, H); the last state is `[:, -1]`."""
        return super().forward(x)[0]


class StreamGrus(nn.ModuleDict):
    """One GRU per stream, under the stream's name."""

    def __init__(self, streams: Sequence[str], dims: Mapping[str, int], hidden: int) -> None:
        """Build the GRUs.

        Raises:
            ValueError: A stream has no entry in `dims`.
        """
        require_streams(streams, dims, "is missing from the cached streams")
        super().__init__({stream: Gru(dims[stream], hidden) for stream in streams})

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stream -> (B, T_s, D_s) float32 becomes stream -> (B, T_s, H); streams without a GRU are ignored.

        Raises:
            ValueError: A stream is missing, or has another rank or feature size than its GRU.
        """
        require_streams(list(self), streams, "was not given")
        return {name: gru(checked(name, streams[name], gru.input_size)) for name, gru in self.items()}


class StreamMeans(nn.ModuleDict):
    """One linear map per stream, of the mean over its steps: what a stream says when order does not count."""

    def __init__(self, streams: Sequence[str], dims: Mapping[str, int], hidden: int) -> None:
        """Build the maps.

        Raises:
            ValueError: A stream has no entry in `dims`.
        """
        require_streams(streams, dims, "is missing from the cached streams")
        super().__init__({stream: nn.Linear(dims[stream], hidden) for stream in streams})

    def forward(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stream -> (B, T_s, D_s) float32 becomes stream -> (B, H); other streams are ignored.

        Raises:
            ValueError: A stream is missing, or has another rank or feature size than its map.
        """
        require_streams(list(self), streams, "was not given")
        return {s: linear(mean_pool(checked(s, streams[s], linear.in_features))) for s, linear in self.items()}


def checked(name: str, x: Tensor, dim: object) -> Tensor:
    """The stream itself, if it is (B, T, dim), dim an int.

    Raises:
        ValueError: Another rank or feature size.
    """
    if x.ndim != 3 or x.shape[-1] != dim:
        raise ValueError(f"stream {name!r} must be (B, T, {dim}), not {tuple(x.shape)}")
    return x


def require_streams(needed: Sequence[str], given: Mapping[str, object], trouble: str) -> None:
    """Raise ValueError where a stream that a head reads is not at hand; `trouble` says what is wrong with it."""
    for name in needed:
        if name not in given:
            raise ValueError(
                f"this head reads the stream {name!r}, which {trouble}; at hand: {sorted(given) or 'none'}"
            )


class CrossAttention(nn.MultiheadAttention):
    """Multi-head attention of one sequence over another. Parameters: in_proj_weight, in_proj_bias, out_proj.*."""

    def __init__(self, hidden: int, num_heads: int, dropout: float, *, plain_softmax: bool = False) -> None:
        """Build the attention.

        Args:
            hidden: H.
            num_heads: Divides H.
            dropout: On the attention weights.
            plain_softmax: Write softmax(Q K^T) V out instead of calling the fused kernel. The backward pass of the
                fused kernel recomputes sums in another order, so that gradients which cancel are rounding noise there
                and exactly zero here.
        """
        super().__init__(hidden, num_heads, dropout=dropout, batch_first=True)
        self.plain_softmax = plain_softmax

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
        """Query (B, T_q, H) over keys = values = memory (B, T_m, H) -> (B, T_q, H)."""
        # Asking for the weights is how nn.MultiheadAttention is told to leave the fused kernel.
        return super().forward(query, memory, memory, need_weights=self.plain_softmax, average_attn_weights=False)[0]


class Mlp(nn.Sequential):
    """The "shallow MLP" of Kim & Kim section 3.3: linear, GELU, dropout, linear."""

    def __init__(self, dim: int, width: int, num_outputs: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, num_outputs))


def check_config(hidden: int, mlp: int, dropout: float, attention_heads: int = 1) -> None:
    """What every head's config must satisfy.

    Raises:
        ValueError: A size below 1, a dropout outside [0, 1), or heads that do not divide the hidden size.
    """
    if min(hidden, mlp, attention_heads) < 1:
        raise ValueError(f"hidden ({hidden}), mlp ({mlp}) and attention_heads ({attention_heads}) must be 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), not {dropout}")
    if hidden % attention_heads:
        raise ValueError(f"hidden ({hidden}) must be a multiple of attention_heads ({attention_heads})")


def mean_pool(states: Tensor) -> Tensor:
    """Mean over steps: (B, T, H) -> (B, H)."""
    return torch.mean(states, dim=1)
