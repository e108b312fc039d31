"""The layers heads are made of: GRU, cross-attention, dropout, MLP.

GRU and attention keep the parameter names of `nn.GRU` and `nn.MultiheadAttention`. `torch.func.vmap` runs neither the
fused GRU nor the fused attention: the attention is written as two matmuls always (its matrices are 16 x 16 and 16 x 4),
the GRU inside `written_out()` alone, as torch's own is faster for one model.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.heads.noise import uniform

_written_out = False


@contextmanager
def written_out() -> Iterator[None]:
    """Inside, GRUs are matmuls and pointwise functions, which `torch.func.vmap` and `torch.compile` take apart."""
    global _written_out
    before, _written_out = _written_out, True
    try:
        yield
    finally:
        _written_out = before


class Gru(nn.GRU):
    """Single-layer, one-directional GRU. Parameters: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T, D) float32 -> states after every step (B, T, H); the last state is `[:, -1]`."""
        return run_side_by_side([self], [x])[0] if _written_out else super().forward(x)[0]


def run_side_by_side(grus: Sequence[Gru], streams: Sequence[Tensor]) -> list[Tensor]:
    """Several GRUs of one hidden size written out, all of them in one matmul per step.

    r, z, n = sigmoid(W_r x + U_r h), sigmoid(W_z x + U_z h), tanh(W_n x + r * U_n h); h <- n + z (h - n), each product
    with its bias, as in `nn.GRU`.

    Args:
        grus: S of them.
        streams: (B, T_s, D_s) each.

    Returns:
        (B, T_s, H) each.
    """
    order = sorted(range(len(grus)), key=lambda s: -streams[s].shape[1])  # the longest first: the rest ends earlier
    inputs = [F.linear(streams[s], grus[s].weight_ih_l0, grus[s].bias_ih_l0) for s in order]  # (B, T_s, 3H)
    weight = torch.stack([grus[s].weight_hh_l0.t() for s in order])  # (S, H, 3H)
    bias = torch.stack([grus[s].bias_hh_l0 for s in order]).unsqueeze(1)  # (S, 1, 3H)
    ends = sorted({x.shape[1] for x in inputs})
    h = inputs[0].new_zeros(len(grus), inputs[0].shape[0], grus[0].hidden_size, dtype=bias.dtype)  # (S, B, H)
    parts: list[list[Tensor]] = [[] for _ in grus]
    for first, last in zip([0, *ends], ends, strict=False):
        alive = [x[:, first:last] for x in inputs if x.shape[1] > first]
        h, w, b, states = h[: len(alive)], weight[: len(alive)], bias[: len(alive)], []
        for x in torch.stack(alive).unbind(2):  # (S, B, 3H)
            h = _gru_step(x, torch.baddbmm(b, h, w), h)
            states.append(h)
        for part, state in zip(parts, torch.stack(states, 2), strict=False):  # (B, T', H)
            part.append(state)
    states_of = dict(zip(order, (torch.cat(part, 1) for part in parts), strict=True))
    return [states_of[s] for s in range(len(grus))]


def _gru_step(x: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """Input part x (S, B, 3H) and state part u (S, B, 3H) of the gates, state h (S, B, H) -> next state."""
    size = h.shape[-1]
    gates = torch.sigmoid(x[..., : 2 * size] + u[..., : 2 * size])
    n = torch.tanh(x[..., 2 * size :] + gates[..., :size] * u[..., 2 * size :])
    return n + gates[..., size:] * (h - n)


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
        own = {name: checked(name, streams[name], gru.input_size) for name, gru in self.items()}
        if _written_out:
            return dict(zip(own, run_side_by_side(list(self.values()), list(own.values())), strict=True))  # type: ignore[arg-type]
        return {name: gru(own[name]) for name, gru in self.items()}


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
    """Multi-head attention of one sequence over another. Parameters: in_proj_weight, in_proj_bias, out_proj.*.

    Two matmuls around a softmax. In the backward pass of torch's fused kernel gradients that cancel are rounding noise;
    here they are exactly zero, which `cross_gru_literal` is about.
    """

    def __init__(self, hidden: int, num_heads: int, dropout: float) -> None:
        """hidden H, a multiple of num_heads; dropout acts on the attention weights."""
        super().__init__(hidden, num_heads, batch_first=True)
        self.drop = Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
        """Query (B, T_q, H) over keys = values = memory (B, T_m, H) -> (B, T_q, H)."""
        size, heads = self.embed_dim, self.num_heads
        weight, bias = self.in_proj_weight, self.in_proj_bias
        q = F.linear(query, weight[:size], bias[:size]).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, T_q, d)
        k, v = (
            F.linear(memory, weight[size:], bias[size:]).unflatten(-1, (2, heads, -1)).unbind(-3)
        )  # (B, T_m, heads, d)
        scores = q @ k.permute(0, 2, 3, 1) / self.head_dim**0.5  # (B, heads, T_q, T_m)
        mixed = self.drop(torch.softmax(scores, dim=-1)) @ v.transpose(1, 2)  # (B, heads, T_q, d)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Dropout(nn.Module):
    """x m / (1 - p), m ~ Bernoulli(1 - p) for every element while training; from the tape if there is one."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, which stays."""
        if not self.training or not self.p:
            return x
        return x * ((uniform(x.shape, x) >= self.p) / (1 - self.p)).to(x.dtype)


class Mlp(nn.Sequential):
    """The "shallow MLP" of Kim & Kim section 3.3: linear, GELU, dropout, linear."""

    def __init__(self, dim: int, width: int, num_outputs: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, width), nn.GELU(), Dropout(dropout), nn.Linear(width, num_outputs))


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
