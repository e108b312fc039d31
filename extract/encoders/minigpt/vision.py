"""The vision half: picture -> the vectors that the language model reads as the image.

EVA-CLIP-g without its last block, layer norm, then the Q-Former's 32 queries or a concatenation of neighbouring patch
tokens, then a linear projection. Built from transformers' modules with these departures, which the reference needs:

* the norm after the ViT (``ln_vision``) has eps 1e-5, the norms inside it 1e-6;
* without a Q-Former no published file holds ``ln_vision``: weight 1, bias 0, and never BLIP-2's;
* the position table is resized by bicubic interpolation in float32 (align_corners False, no antialias);
* in 16 bit only the matrices are 16 bit: norms, position table, class token and the residual stream stay float32.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

from extract.encoders.minigpt.checkpoint import (
    CheckpointError,
    Tensors,
    bridge_tensors,
    check_shapes,
    original_name,
    read_blip2_folder,
    read_file,
    rename_eva,
    rename_qformer,
    select,
)
from extract.encoders.minigpt.variants import Variant, find_variant

LN_VISION_EPS = 1e-5
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class MiniGptVision(nn.Module):
    """ViT, bridge and projection of one variant.

    Attributes:
        variant: which.
        vit, qformer, query_tokens, llama_proj: the parts; ``qformer`` and ``query_tokens`` are None where patch tokens
            are concatenated.
    """

    def __init__(self, variant: Variant) -> None:
        """Uninitialised weights (on the device of the context, so ``with torch.device("meta")`` costs nothing)."""
        super().__init__()
        size, qformer = variant.vision, variant.qformer
        self.variant = variant
        self.vit = Blip2VisionModel(
            Blip2VisionConfig(
                hidden_size=size.width,
                intermediate_size=size.mlp,
                num_hidden_layers=size.num_blocks,
                num_attention_heads=size.num_heads,
                image_size=variant.image_size,
                patch_size=size.patch,
                attn_implementation="sdpa",  # type: ignore[call-arg]
            )
        )
        self.vit.post_layernorm.eps = LN_VISION_EPS
        self.qformer: Blip2QFormerModel | None = None
        self.query_tokens: nn.Parameter | None = None
        if qformer is not None:
            self.qformer = Blip2QFormerModel(
                Blip2QFormerConfig(
                    hidden_size=qformer.width,
                    num_hidden_layers=qformer.num_layers,
                    num_attention_heads=qformer.num_heads,
                    intermediate_size=qformer.mlp,
                    encoder_hidden_size=size.width,
                    cross_attention_frequency=2,
                    use_qformer_text_input=False,
                    attn_implementation="sdpa",  # type: ignore[call-arg]
                )
            )
            self.query_tokens = nn.Parameter(torch.empty(1, qformer.num_queries, qformer.width))
        self.llama_proj = nn.Linear(variant.bridge_width, variant.llm_size.width)
        self.requires_grad_(False).eval()

    @classmethod
    def from_original(
        cls, eva: Path | str, blip2: Path | str | None, checkpoint: Path | str, variant: Variant | str
    ) -> MiniGptVision:
        """Load the published files.

        Args:
            eva: ``eva_vit_g.pth``, or a folder with transformers' BLIP-2 model (its ``vision_model.*``).
            blip2: ``blip2_pretrained_flant5xxl.pth``, or such a folder (``qformer.*``, ``query_tokens``); not used by
                variants without a Q-Former.
            checkpoint: the MiniGPT file with ``llama_proj``.
            variant: name or sizes.

        Raises:
            CheckpointError: a file is missing, broken, incomplete, or of another variant.
        """
        variant = find_variant(variant) if isinstance(variant, str) else variant
        eva, checkpoint = Path(eva), Path(checkpoint)
        if variant.qformer is not None and blip2 is None:
            raise CheckpointError(f"{variant.name} has a Q-Former: its BLIP-2 file is needed")
        with torch.device("meta"):
            model = cls(variant)
        bridge = bridge_tensors(read_file(checkpoint), variant, checkpoint)
        state = _vit_state(eva, variant)
        norm = {k.replace("ln_vision.", "vit.post_layernorm."): v for k, v in bridge.items() if "ln_vision" in k}
        if variant.qformer is not None:
            assert blip2 is not None
            qformer = _qformer_state(Path(blip2))
            norm = {k: v for k, v in qformer.items() if k.startswith("vit.")} | norm
            state |= {k: v for k, v in qformer.items() if not k.startswith("vit.")}
        elif not norm:
            width = variant.vision.width
            norm = {"vit.post_layernorm.weight": torch.ones(width), "vit.post_layernorm.bias": torch.zeros(width)}
        state |= norm | {k: v for k, v in bridge.items() if k.startswith("llama_proj.")}
        expected = _shapes(variant)
        where = f"{variant.name} from {', '.join(Path(p).name for p in (eva, blip2, checkpoint) if p is not None)}"
        shown = partial(_shown, eva, None if blip2 is None else Path(blip2))
        model.load_state_dict(select(state, expected, where, shown), assign=True)
        return model.requires_grad_(False).eval()

    def place(self, device: str, dtype: torch.dtype) -> MiniGptVision:
        """Move to a device; with a 16-bit dtype the matrices of linear layers become 16 bit, nothing else.

        The patch convolution stays float32 because transformers casts class token and position table to its type, and
        with them the residual stream; autocast runs it in 16 bit all the same.
        """
        if dtype != torch.float32:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    module.to(dtype)
        return self.to(device)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float32 (B, 3, S, S) -> image tokens (B, num_image_tokens, width of the language model)."""
        dtype = self.llama_proj.weight.dtype
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            tokens = self.vit(pixel_values=images).last_hidden_state  # (B, 1 + P, D), all of them, CLS first
            if self.qformer is not None:
                assert self.query_tokens is not None
                queries = self.query_tokens.expand(len(images), -1, -1)  # (B, Q, 768)
                joined = self.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
            else:
                patches = tokens[:, 1:]  # (B, P, D) in raster order: neighbours in a row are joined
                joined = patches.reshape(len(patches), -1, self.variant.bridge_width)  # (B, P / 4, 4 * D)
            return self.llama_proj(joined)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 (B, S, S, 3) on the model's device -> image tokens; scaling and normalisation as the reference."""
        mean, std = (torch.tensor(v, device=pictures.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        return self((pictures.permute(0, 3, 1, 2).float().div(255) - mean) / std)


def check_vision(source: Path, variant: Variant) -> None:
    """Refuse a source of the ViT that ``from_original`` would, by names and shapes; see ``check_shapes``."""
    expected = {k: s for k, s in _shapes(variant).items() if k.startswith("vit.") and ".post_layernorm." not in k}
    check_shapes(_vit_state(source, variant), expected, source.name, partial(_shown, source, None))


def check_qformer(source: Path, variant: Variant) -> None:
    """The same for the source of the Q-Former, its queries and the norm behind the ViT."""
    vit_or_bridge = ("vit.embeddings.", "vit.encoder.", "llama_proj.")
    expected = {k: s for k, s in _shapes(variant).items() if not k.startswith(vit_or_bridge)}
    check_shapes(_qformer_state(source), expected, source.name, partial(_shown, None, source))


def _shown(eva: Path | None, blip2: Path | None, name: str) -> str:
    """A tensor's name in the file that it comes from; folders of transformers have the model's own names."""
    source = eva if name.startswith("vit.") and ".post_layernorm." not in name else blip2
    return name if source is not None and source.is_dir() else original_name(name)


def _shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in MiniGptVision(variant).state_dict().items()}


def resize_table(table: torch.Tensor, side: int) -> torch.Tensor:
    """Position table (1, 1 + n * n, D) -> (1, 1 + side * side, D): bicubic on the grid, the CLS entry kept."""
    old = round((table.shape[1] - 1) ** 0.5)
    if old == side:
        return table
    if old * old != table.shape[1] - 1:
        raise CheckpointError(f"the position table has {table.shape[1]} rows; expected 1 + a square number")
    grid = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, D, n, n)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _vit_state(source: Path, variant: Variant) -> dict[str, torch.Tensor]:
    """``vit.*`` of either format, without the norm behind it, the position table at the variant's size."""
    tensors: Tensors
    if source.is_dir():
        prefix = "vision_model."
        tensors = {k.removeprefix(prefix): v for k, v in read_blip2_folder(source).items() if k.startswith(prefix)}
        tensors = {k: v for k, v in tensors.items() if not k.startswith("post_layernorm.")}
    else:
        tensors = rename_eva(read_file(source), variant.vision.num_blocks)
    state = {f"vit.{k}": v for k, v in tensors.items()}
    table = "vit.embeddings.position_embedding"
    if table in state:
        state[table] = resize_table(state[table], variant.image_size // variant.vision.patch)
    return state


def _qformer_state(source: Path) -> dict[str, torch.Tensor]:
    """``qformer.*``, ``query_tokens`` and the norm behind the ViT of either format."""
    if source.is_dir():
        tensors = read_blip2_folder(source)
        state = {k: v for k, v in tensors.items() if k.startswith("qformer.")}
        norms = {f"vit.{k.removeprefix('vision_model.')}": v for k, v in tensors.items() if ".post_layernorm." in k}
    else:
        tensors = read_file(source)
        state = {f"qformer.{k}": v for k, v in rename_qformer(tensors).items()}
        norms = {
            f"vit.post_layernorm.{k}": tensors[f"ln_vision.{k}"]
            for k in ("weight", "bias")
            if f"ln_vision.{k}" in tensors
        }
    return state | norms | {k: v for k, v in tensors.items() if k == "query_tokens"}
