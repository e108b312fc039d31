"""The vision half once more, from the formulas: float64, plain tensor algebra, the original names, no transformers.

Sources: EVA-CLIP (Fang et al. 2023; pre-norm ViT of Dosovitskiy et al. 2021 with q and v biases, features before the
last block), BERT (Devlin et al. 2019; post-norm) for the Q-Former of BLIP-2 (Li et al. 2023), Keys (1981) for the
bicubic kernel, Hendrycks & Gimpel (2016) for GELU. The names and sizes of tensors are those of ``eva_vit_g.pth``,
``blip2_pretrained_flant5xxl.pth`` and the MiniGPT checkpoints.

``Reference(..., wrong=name)`` makes one of the mistakes of ``WRONG``; the tests show that each would be noticed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from extract.encoders.minigpt.variants import BLIP2, EVA, VARIANTS, LlmSize, QFormerSize, Variant, VisionSize

Files = Mapping[str, Mapping[str, torch.Tensor]]  # file -> name -> tensor
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures
STD = (0.26862954, 0.26130258, 0.27577711)
KEYS_A = -0.75  # slope of the bicubic kernel; Pillow and antialiased resizing have -0.5

_SMALL = {"vision": VisionSize(48, 3, 4, 96, 14, 4), "image_size": 56, "llm_size": LlmSize(24, 1, 32, 2, 512)}
TOYS: Mapping[str, Variant] = {
    "minigpt4-vicuna-7b": replace(VARIANTS["minigpt4-vicuna-7b"], qformer=QFormerSize(32, 4, 4, 64, 8), **_SMALL),
    "minigpt4-vicuna-13b": replace(
        VARIANTS["minigpt4-vicuna-13b"],
        **_SMALL | {"qformer": QFormerSize(40, 5, 5, 56, 6), "llm_size": LlmSize(40, 1, 32, 2, 512)},
    ),
    "minigpt4-llama2": replace(VARIANTS["minigpt4-llama2"], **_SMALL),
    "minigpt-v2": replace(VARIANTS["minigpt-v2"], **_SMALL | {"image_size": 112}),  # table 4 x 4 -> 8 x 8
}
"""The published variants in small."""

ALL, QFORMER = tuple(TOYS), ("minigpt4-vicuna-7b", "minigpt4-vicuna-13b")
CONCAT, RESIZED = ("minigpt4-llama2", "minigpt-v2"), ("minigpt-v2",)
WRONG: Mapping[str, tuple[str, ...]] = {
    "q and v bias swapped": ALL,
    "v bias on k": ALL,
    "attention biases dropped": ALL,
    "last block used": ALL,
    "one block fewer": ALL,
    "block eps 1e-5": ALL,
    "ln_vision eps 1e-6": ALL,
    "tanh GELU in the ViT": ALL,
    "own ln_vision ignored": ALL,
    "bilinear table": RESIZED,
    "table with align_corners": RESIZED,
    "table with antialias": RESIZED,
    "Q-Former eps 1e-5": QFORMER,
    "tanh GELU in the Q-Former": QFORMER,
    "queries not normalised": QFORMER,
    "cross-attention on odd layers": QFORMER,
    "CLS kept from the Q-Former": QFORMER,
    "text branch instead of query branch": QFORMER,
    "BLIP-2's ln_vision used": CONCAT,
    "last token dropped instead of CLS": CONCAT,
    "2 x 2 blocks joined": CONCAT,
}
"""Mistake -> the variants it concerns."""


class Reference:
    """Image tokens of one variant in float64.

    Args:
        files: file -> original name -> tensor, of EVA, BLIP-2 and the checkpoint.
        wrong: a mistake to make.
    """

    def __init__(self, files: Files, variant: Variant, wrong: str = "") -> None:
        if wrong and variant.name not in WRONG[wrong]:
            raise ValueError(f"{wrong!r} does not concern {variant.name}")
        self.variant, self.wrong = variant, wrong
        names = (EVA.file, BLIP2.file, variant.checkpoint.file)
        self.eva, self.blip2, self.own = ({k: v.double() for k, v in files[name].items()} for name in names)

    def image_tokens(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 (B, S, S, 3) -> (B, tokens, width of the language model)."""
        tokens = self.vit(normalise(pictures))
        joined = self.bridge(self._ln_vision(tokens))
        return linear(joined, self.own, "llama_proj")

    def vit(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, 1 + P, D), the residual stream before the file's last block."""
        size, eva = self.variant.vision, self.eva
        b, _, side, _ = images.shape
        n, p = side // size.patch, size.patch
        patches = images.reshape(b, 3, n, p, n, p).permute(0, 2, 4, 1, 3, 5).reshape(b, n * n, 3 * p * p)
        x = patches @ eva["patch_embed.proj.weight"].flatten(1).T + eva["patch_embed.proj.bias"]
        x = torch.cat([eva["cls_token"].expand(b, -1, -1), x], dim=1) + self._table(n)  # (B, 1 + P, D)
        blocks = size.num_blocks + {"last block used": 1, "one block fewer": -1}.get(self.wrong, 0)
        eps = 1e-5 if self.wrong == "block eps 1e-5" else 1e-6
        tanh = self.wrong == "tanh GELU in the ViT"
        for i in range(blocks):
            h = norm(x, eva, f"blocks.{i}.norm1", eps)
            q, k, v = (h @ eva[f"blocks.{i}.attn.qkv.weight"].T + self._qkv_bias(i)).chunk(3, dim=-1)
            x = x + linear(attend(q, k, v, size.num_heads), eva, f"blocks.{i}.attn.proj")
            h = gelu(linear(norm(x, eva, f"blocks.{i}.norm2", eps), eva, f"blocks.{i}.mlp.fc1"), tanh)
            x = x + linear(h, eva, f"blocks.{i}.mlp.fc2")
        return x

    def bridge(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, 1 + P, D) after ``ln_vision`` -> (B, tokens, inputs of llama_proj)."""
        if self.variant.qformer is not None:
            return self._qformer(tokens)
        patches = tokens[:, :-1] if self.wrong == "last token dropped instead of CLS" else tokens[:, 1:]
        b, num, width = patches.shape
        if self.wrong == "2 x 2 blocks joined":
            n = math.isqrt(num)
            blocks = patches.reshape(b, n // 2, 2, n // 2, 2, width).permute(0, 1, 3, 2, 4, 5)
            return blocks.reshape(b, num // 4, 4 * width)
        return torch.stack([torch.cat(four.unbind(1), dim=-1) for four in patches.split(4, dim=1)], dim=1)

    def _qkv_bias(self, i: int) -> torch.Tensor:
        """The keys have no bias. (One would change nothing: it adds the same to all logits of a query.)"""
        q, v = (self.eva[f"blocks.{i}.attn.{name}_bias"] for name in "qv")
        none = torch.zeros_like(q)
        return torch.cat(
            {
                "q and v bias swapped": [v, none, q],
                "v bias on k": [q, v, none],
                "attention biases dropped": [none, none, none],
            }.get(self.wrong, [q, none, v])
        )

    def _table(self, n: int) -> torch.Tensor:
        table, old = self.eva["pos_embed"], self.variant.vision.table
        if n == old:
            return table
        grid = table[0, 1:].reshape(old, old, -1)
        modes = {
            "bilinear table": {"mode": "bilinear"},
            "table with align_corners": {"mode": "bicubic", "align_corners": True},
            "table with antialias": {"mode": "bicubic", "antialias": True},
        }
        if self.wrong in modes:
            resized = F.interpolate(grid.permute(2, 0, 1)[None], size=(n, n), **modes[self.wrong])[0].permute(1, 2, 0)
        else:
            weights = bicubic_weights(old, n)
            resized = torch.einsum("yi,xj,ijd->yxd", weights, weights, grid)
        return torch.cat([table[:, :1], resized.reshape(1, n * n, -1)], dim=1)

    def _ln_vision(self, tokens: torch.Tensor) -> torch.Tensor:
        eps = 1e-6 if self.wrong == "ln_vision eps 1e-6" else 1e-5
        if "ln_vision.weight" in self.own and self.wrong != "own ln_vision ignored":
            return norm(tokens, self.own, "ln_vision", eps)
        if self.variant.qformer is not None or self.wrong == "BLIP-2's ln_vision used":
            return norm(tokens, self.blip2, "ln_vision", eps)
        return standardise(tokens, eps)

    def _qformer(self, tokens: torch.Tensor) -> torch.Tensor:
        size, blip2, bert = self.variant.qformer, self.blip2, "Qformer.bert."
        assert size is not None
        eps = 1e-5 if self.wrong == "Q-Former eps 1e-5" else 1e-12
        tanh = self.wrong == "tanh GELU in the Q-Former"
        branch = "" if self.wrong == "text branch instead of query branch" else "_query"
        if self.wrong == "CLS kept from the Q-Former":
            tokens = tokens[:, 1:]

        def attention(x: torch.Tensor, source: torch.Tensor, name: str) -> torch.Tensor:
            q, k, v = (
                linear(s, blip2, f"{name}.self.{part}")
                for s, part in ((x, "query"), (source, "key"), (source, "value"))
            )
            mixed = linear(attend(q, k, v, size.num_heads), blip2, f"{name}.output.dense")
            return norm(mixed + x, blip2, f"{name}.output.LayerNorm", eps)

        x = blip2["query_tokens"].expand(len(tokens), -1, -1)  # (B, Q, W)
        if self.wrong != "queries not normalised":
            x = norm(x, blip2, f"{bert}embeddings.LayerNorm", eps)
        for i in range(size.num_layers):
            layer = f"{bert}encoder.layer.{i}."
            x = attention(x, x, layer + "attention")
            if self.wrong == "cross-attention on odd layers":
                if i % 2 == 1:
                    x = attention(x, tokens, f"{bert}encoder.layer.{i - 1}.crossattention")
            elif i % 2 == 0:
                x = attention(x, tokens, layer + "crossattention")
            h = gelu(linear(x, blip2, f"{layer}intermediate{branch}.dense"), tanh)
            h = linear(h, blip2, f"{layer}output{branch}.dense")
            x = norm(h + x, blip2, f"{layer}output{branch}.LayerNorm", eps)
        return x


# ------------------------------------------------------------------ formulas


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float64 (B, 3, S, S): to [0, 1], then CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, STD))
    return ((pictures.double() / 255 - mean) / std).permute(0, 3, 1, 2)


def standardise(x: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def norm(x: torch.Tensor, tensors: Mapping[str, torch.Tensor], name: str, eps: float) -> torch.Tensor:
    return standardise(x, eps) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def linear(x: torch.Tensor, tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def gelu(x: torch.Tensor, tanh: bool) -> torch.Tensor:
    """x * Phi(x), or its approximation by tanh."""
    if tanh:
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, Q, D), (B, K, D), (B, K, D) -> (B, Q, D): softmax(q k' / sqrt(d)) v in each head of size d = D / heads."""
    d = q.shape[-1] // num_heads
    outputs = []
    for head in range(num_heads):
        part = slice(head * d, (head + 1) * d)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)  # (B, Q, K)
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        outputs.append(weights / weights.sum(-1, keepdim=True) @ v[..., part])
    return torch.cat(outputs, dim=-1)


def bicubic_weights(old: int, new: int) -> torch.Tensor:
    """(new, old) matrix of one axis: pixel centres at (i + 0.5) / size, the border pixel repeated outside."""

    def kernel(x: float) -> float:
        x, a = abs(x), KEYS_A
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        x = (i + 0.5) * old / new - 0.5
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
            weights[i, min(max(j, 0), old - 1)] += kernel(x - j)
    return weights


# ------------------------------------------------------------------ data

_INTO_THE_STREAM = re.compile(
    r"cls_token|pos_embed|patch_embed\..*|blocks\.\d+\.(attn\.proj|mlp\.fc2)\..*|query_tokens"
)
_UPDATES = re.compile(r"blocks\.\d+\.(attn\.proj|mlp\.fc2)\..*")


def quiet(files: Files, scale: float = 0.02) -> dict[str, dict[str, torch.Tensor]]:
    """The same with a residual stream (and queries) of small variance, where the eps of a layer norm shows.

    What is between the norms keeps its size, and so do the image tokens.
    """
    return _scaled(files, _INTO_THE_STREAM, scale)


def small_steps(files: Files, scale: float = 0.1) -> dict[str, dict[str, torch.Tensor]]:
    """The same with blocks that change the residual stream little, as trained ones do."""
    return _scaled(files, _UPDATES, scale)


def with_own_norm(files: Files, variant: Variant, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """The same with an ``ln_vision`` in the checkpoint."""
    draw, width = torch.Generator().manual_seed(seed), variant.vision.width
    values = {k: torch.randn(width, generator=draw) for k in ("ln_vision.weight", "ln_vision.bias")}
    own = variant.checkpoint.file
    return {name: dict(tensors) | (values if name == own else {}) for name, tensors in files.items()}


def _scaled(files: Files, names: re.Pattern[str], scale: float) -> dict[str, dict[str, torch.Tensor]]:
    return {f: {k: v * scale if names.fullmatch(k) else v for k, v in t.items()} for f, t in files.items()}


def save_files(folder: Path, files: Files) -> None:
    """Write files in their published layout: EVA's flat, the others nested beside the trainer's state."""
    for name, tensors in files.items():
        content = dict(tensors)
        state = {"optimizer": {"state": {}}, "config": {"run": {"seed": 42}}, "scaler": {"scale": 2.0}, "epoch": 4}
        torch.save(content if name == EVA.file else {"model": content} | state, folder / name)


def pictures_of(variant: Variant, num: int = 3, seed: int = 0) -> torch.Tensor:
    """uint8 (num, S, S, 3): noise of random strength around a random colour."""
    draw = torch.Generator().manual_seed(seed)
    colour = torch.rand((num, 1, 1, 3), generator=draw) * 255
    strength = torch.rand((num, 1, 1, 1), generator=draw) * 200
    noise = torch.rand((num, variant.image_size, variant.image_size, 3), generator=draw) - 0.5
    return (colour + strength * noise).clamp(0, 255).to(torch.uint8)


def original_shapes(variant: Variant) -> dict[str, dict[str, tuple[int, ...]]]:
    """What is needed of the published files: file -> original name -> shape, with EVA's unused last block."""
    size, qformer = variant.vision, variant.qformer
    d, m = size.width, size.mlp

    def affine(name: str, rows: int, columns: int | None = None) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows,) if columns is None else (rows, columns), f"{name}.bias": (rows,)}

    eva: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 1 + size.table**2, d),
        "patch_embed.proj.weight": (d, 3, size.patch, size.patch),
        "patch_embed.proj.bias": (d,),
    }
    for i in range(size.num_blocks + 1):
        at = f"blocks.{i}."
        eva |= {at + "attn.q_bias": (d,), at + "attn.v_bias": (d,), at + "attn.qkv.weight": (3 * d, d)}
        eva |= affine(at + "norm1", d) | affine(at + "norm2", d) | affine(at + "attn.proj", d, d)
        eva |= affine(at + "mlp.fc1", m, d) | affine(at + "mlp.fc2", d, m)
    blip2: dict[str, tuple[int, ...]] = {}
    if qformer is not None:
        w = qformer.width
        blip2 = affine("ln_vision", d) | affine("Qformer.bert.embeddings.LayerNorm", w)
        blip2["query_tokens"] = (1, qformer.num_queries, w)
        for i in range(qformer.num_layers):
            at = f"Qformer.bert.encoder.layer.{i}."
            for kind, source in (("attention", w), ("crossattention", d))[: 1 + (i % 2 == 0)]:
                blip2 |= affine(f"{at}{kind}.self.query", w, w) | affine(f"{at}{kind}.self.key", w, source)
                blip2 |= affine(f"{at}{kind}.self.value", w, source)
                blip2 |= affine(f"{at}{kind}.output.dense", w, w) | affine(f"{at}{kind}.output.LayerNorm", w)
            blip2 |= affine(f"{at}intermediate_query.dense", qformer.mlp, w)
            blip2 |= affine(f"{at}output_query.dense", w, qformer.mlp) | affine(f"{at}output_query.LayerNorm", w)
    own = affine("llama_proj", variant.llm_size.width, variant.bridge_width)
    return {EVA.file: eva, BLIP2.file: blip2, variant.checkpoint.file: own}
