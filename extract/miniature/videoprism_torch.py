"""VideoPrism in torch, for training only: on a CPU, several times as fast in bfloat16 as JAX is in float32.

The same function as extract/encoders/videoprism_model.py, which extracts; a test compares the two. Parameters have one
matrix per layer here and go to and from the official keys, where layers are stacked. Pixels are normalised before the
patch projection, and the official projection has that folded in: on pixels in [0, 1], which are all positive, a step of
the optimizer would move every patch the same way.

Axes: B clips, T frames of a clip, S patches of a frame, D width, n heads, k head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from extract.encoders.videoprism_checkpoint import LAYERS, Architecture

LOGIT_CAP = 50.0
MEAN, STD = 0.4, 0.2  # about those of the rendered pixels
_PARTS = {  # name here -> official name below ``x_layers``
    "attention_norm": "layer_norm",
    "query": "self_attention/query",
    "key": "self_attention/key",
    "value": "self_attention/value",
    "post": "self_attention/post",
    "mlp_norm": "ff_layer/layer_norm",
    "mlp1": "ff_layer/ffn_layer1/linear",
    "mlp2": "ff_layer/ffn_layer2/linear",
}


class Block(nn.Module):
    """One pre-norm layer on (rows, tokens, D)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.width
        self.heads, self.head_size = arch.heads, arch.head_size
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.key, self.value, self.post = (nn.Linear(width, width) for _ in range(4))
        self.mlp1, self.mlp2 = nn.Linear(width, arch.mlp), nn.Linear(arch.mlp, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, tokens, width = x.shape
        y = self.attention_norm(x)
        query, key, value = (
            layer(y).view(rows, tokens, self.heads, self.head_size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # (rows, n, tokens, k)
        logits = (query * self.head_size**-0.5) @ key.transpose(2, 3)
        weights = (LOGIT_CAP * torch.tanh(logits / LOGIT_CAP)).float().softmax(dim=-1).to(x.dtype)
        x = x + self.post((weights @ value).transpose(1, 2).reshape(rows, tokens, width))
        return x + self.mlp2(F.gelu(self.mlp1(self.mlp_norm(x))))


class TorchVideoPrism(nn.Module):
    """The encoder at its native picture size and number of frames."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.patches = nn.Linear(arch.patch_values, arch.width)
        self.spatial_embed = nn.Parameter(torch.zeros(arch.grid**2, arch.width))
        self.temporal_embed = nn.Parameter(torch.zeros(arch.num_frames, arch.width))
        self.spatial = nn.Sequential(*(Block(arch) for _ in range(arch.spatial_layers)))
        self.temporal = nn.Sequential(*(Block(arch) for _ in range(arch.temporal_layers)))
        self.spatial_ln, self.temporal_ln = (nn.LayerNorm(arch.width, eps=1e-6) for _ in range(2))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """float (B, T, h, h, 3) in [0, 1] -> mean over patches (B, T, D)."""
        batch, length = clips.shape[:2]
        side, patch, width = self.arch.grid, self.arch.patch, self.arch.width
        x = clips.reshape(batch * length, side, patch, side, patch, 3).permute(0, 1, 3, 2, 4, 5)
        x = self.patches((x.reshape(batch * length, side * side, -1) - MEAN) / STD) + self.spatial_embed  # (B*T, S, D)
        x = self.spatial_ln(self.spatial(x))
        x = x.view(batch, length, side * side, width).transpose(1, 2)  # (B, S, T, D)
        x = x.reshape(batch * side * side, length, width) + self.temporal_embed
        x = self.temporal_ln(self.temporal(x))
        return x.view(batch, side * side, length, width).mean(dim=1)

    def load_official(self, params: Mapping[str, np.ndarray]) -> None:
        """Take the values of official keys."""
        values = {key: torch.from_numpy(np.array(value)) for key, value in params.items()}
        with torch.no_grad():
            for key, parameter in self._by_key().items():
                parameter.copy_(self._converted(key, values[key[0]], key[1]).reshape(parameter.shape))
            self.patches.weight.mul_(STD)
            self.patches.bias.add_(MEAN / STD * self.patches.weight.sum(dim=1))

    def official(self) -> dict[str, np.ndarray]:
        """Official flat keys -> float32 arrays."""
        arch = self.arch
        stacked: dict[str, list[tuple[int, np.ndarray]]] = {}
        for (key, layer), parameter in self._by_key().items():
            value = parameter.detach().float()
            if key.endswith("scale"):
                value = value - 1
            elif "self_attention/" in key and key.endswith("post/w"):
                value = value.reshape(arch.width, arch.heads, arch.head_size)
            elif "self_attention/" in key and key.endswith("/w"):
                value = value.T.reshape(arch.width, arch.heads, arch.head_size)
            elif "self_attention/" in key and "post" not in key:
                value = value.reshape(arch.heads, arch.head_size)
            elif key.endswith("kernel"):
                value = value.T
            stacked.setdefault(key, []).append((layer, value.contiguous().numpy()))
        found = {k: np.stack([v for _, v in rows]) if rows[0][0] >= 0 else rows[0][1] for k, rows in stacked.items()}
        kernel = found["params/patch_projection/linear/kernel"] / STD
        bias = found["params/patch_projection/linear/bias"] - MEAN * kernel.sum(axis=0)
        return found | {"params/patch_projection/linear/kernel": kernel, "params/patch_projection/linear/bias": bias}

    def _by_key(self) -> dict[tuple[str, int], Any]:
        """(official key, layer or -1) -> parameter."""
        found: dict[tuple[str, int], Any] = {
            ("params/patch_projection/linear/kernel", -1): self.patches.weight,
            ("params/patch_projection/linear/bias", -1): self.patches.bias,
            ("params/spatial_pos_emb/emb_var", -1): self.spatial_embed,
            ("params/temporal_pos_emb/emb_var", -1): self.temporal_embed,
        }
        for stage in ("spatial", "temporal"):
            norm = getattr(self, f"{stage}_ln")
            found[f"params/{stage}_ln/scale", -1], found[f"params/{stage}_ln/bias", -1] = norm.weight, norm.bias
            for index, block in enumerate(getattr(self, stage)):
                for name, official in _PARTS.items():
                    part, attention = getattr(block, name), "self_attention" in official
                    weight = "scale" if name.endswith("norm") else "w" if attention else "kernel"
                    found[f"{LAYERS[stage]}{official}/{weight}", index] = part.weight
                    found[f"{LAYERS[stage]}{official}/{'b' if attention else 'bias'}", index] = part.bias
        return found

    @staticmethod
    def _converted(key: tuple[str, int], value: torch.Tensor, layer: int) -> torch.Tensor:
        """One official array as the parameter that it is here, up to its shape."""
        value, name = (value if layer < 0 else value[layer]), key[0]
        if name.endswith("scale"):
            return value + 1
        if name.endswith("kernel"):
            return value.T
        if name.endswith("/w") and "post" not in name:
            return value.flatten(1).T  # (D, n, k) -> (n*k, D); "post" is stored (D, n, k), which is (D, n*k) as it is
        return value
