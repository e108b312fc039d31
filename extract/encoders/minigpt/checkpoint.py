"""Original MiniGPT-4 and LAVIS files -> tensors under transformers' names, each needed one present and of its shape.

The files hold more than is needed (optimizer state, a 40th block, text branches, position ids, rotary buffers); that is
ignored. A needed tensor that is missing or of another shape is an error with its name.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from extract.encoders.minigpt.variants import BLIP2_REPO, VARIANTS, Variant

Tensors = Mapping[str, torch.Tensor]
_LORA = re.compile(
    r"(?:llama_model\.)?(?:base_model\.model\.)?(?:model\.)?layers\.(\d+)\.self_attn\.([qv])_proj"
    r"\.lora_([AB])\.(?:default\.)?weight"
)
_HUB_PREFIXES = ("vision_model.", "qformer.", "query_tokens")


# Original name -> transformers' name.
_EVA_NAMES = {
    "cls_token": "embeddings.class_embedding",  # nosec B105: a tensor's name
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
}
_BLOCK_NAMES = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class CheckpointError(ValueError):
    """A checkpoint file is not what the variant needs."""


# ------------------------------------------------------------------ reading


def read_file(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of an original ``.pth`` file by their original names; {"model": ...} is unwrapped. Nothing is executed.

    Raises:
        CheckpointError: no such file, not a torch checkpoint, cut off, or holding objects instead of tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}; `python -m extract doctor --captioner ...` says where it is published")
    try:
        # The format before torch 1.6 is no zip archive and cannot be mapped.
        content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # damage comes to light as anything from an IndexError to a failed assertion
        raise CheckpointError(
            f"{path} cannot be read as a torch checkpoint of plain tensors (cut off, or not the published file?): "
            f"{reason(error)}"
        ) from error
    tensors = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(tensors, Mapping) or not any(isinstance(v, torch.Tensor) for v in tensors.values()):
        raise CheckpointError(f"{path} holds no tensors by name; expected a state dict, or one under the key 'model'")
    return {str(k): v for k, v in tensors.items() if isinstance(v, torch.Tensor)}


def reason(error: Exception) -> str:
    """What an error of ``torch.load`` says in short, without its advice to execute what is in the file."""
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip() and "weights_only" not in line]
    return lines[0].partition(". ")[0] if lines else type(error).__name__


def read_blip2_folder(folder: Path) -> dict[str, torch.Tensor]:
    """Vision model, Q-Former and query tokens of a transformers BLIP-2 folder, by transformers' names.

    Only the needed tensors are read out of the (tens of gigabytes of) safetensors shards.

    Raises:
        CheckpointError: no safetensors in the folder.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, torch.Tensor] = {}
    for shard in blip2_shards(folder):
        try:
            with safe_open(shard, framework="pt") as file:
                keys = [k for k in file.keys() if k.removeprefix("model.").startswith(_HUB_PREFIXES)]  # noqa: SIM118
                tensors |= {k.removeprefix("model."): file.get_tensor(k) for k in keys}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{shard} cannot be read as safetensors: {error}") from error
    return tensors


def blip2_shards(folder: Path) -> list[Path]:
    """The safetensors files of a transformers BLIP-2 folder that hold its vision half, by its index.

    Raises:
        CheckpointError: no safetensors in the folder, or an index that cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    shards = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        try:
            weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            held = {file for key, file in weight_map.items() if key.removeprefix("model.").startswith(_HUB_PREFIXES)}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise CheckpointError(f"{index} cannot be read: {error!r}") from error
        shards = [folder / file for file in sorted(held)]
    if not shards:
        raise CheckpointError(f"{folder} has no .safetensors file; expected a download of {BLIP2_REPO}")
    return shards


# ------------------------------------------------------------------ naming


def rename_eva(tensors: Tensors, num_blocks: int) -> dict[str, torch.Tensor]:
    """EVA's names -> Blip2VisionModel's, without ``post_layernorm``; blocks from ``num_blocks`` on are left out.

    The attention has a bias for q and v and none for k: ``qkv.bias`` = [q_bias, 0, v_bias].
    """
    renamed = {new: tensors[old] for old, new in _EVA_NAMES.items() if old in tensors}
    for i in range(num_blocks):
        for old, new in _BLOCK_NAMES.items():
            for kind in ("weight", "bias"):
                key = f"blocks.{i}.{old}.{kind}"
                if key in tensors:
                    renamed[f"encoder.layers.{i}.{new}.{kind}"] = tensors[key]
        q, v = (tensors.get(f"blocks.{i}.attn.{n}_bias") for n in "qv")
        if q is not None and v is not None:
            renamed[f"encoder.layers.{i}.self_attn.qkv.bias"] = torch.cat([q, torch.zeros_like(v), v])
    return renamed


def rename_qformer(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The BLIP-2 file's Q-Former names -> Blip2QFormerModel's; the text branch is left out."""
    renamed = {}
    for key, value in tensors.items():
        name = key.removeprefix("Qformer.bert.")
        if name == key:
            continue
        if name.startswith("embeddings.LayerNorm."):
            renamed[name.replace("embeddings.LayerNorm.", "layernorm.")] = value
        elif re.match(r"encoder\.layer\.\d+\.(attention|crossattention|intermediate_query|output_query)\.", name):
            renamed[name.replace("attention.self.", "attention.attention.")] = value
    return renamed


def original_name(name: str) -> str:
    """What a tensor of ``MiniGptVision`` is called in the original files; for errors."""
    part, _, rest = name.partition(".")
    if part == "qformer":
        rest = re.sub(r"^layernorm\.", "embeddings.LayerNorm.", rest)
        return f"Qformer.bert.{rest.replace('attention.attention.', 'attention.self.')}"
    if part != "vit":
        return name
    if rest.startswith("post_layernorm."):
        return rest.replace("post_layernorm.", "ln_vision.")
    block = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", rest)
    if block is None:
        return next(old for old, new in _EVA_NAMES.items() if new == rest)
    old = next(old for old, new in _BLOCK_NAMES.items() if new == block[2])
    if (old, block[3]) == ("attn.qkv", "bias"):
        return f"blocks.{block[1]}.attn.q_bias or v_bias"
    return f"blocks.{block[1]}.{old}.{block[3]}"


def bridge_tensors(tensors: Tensors, variant: Variant, file: Path) -> dict[str, torch.Tensor]:
    """``llama_proj`` of a MiniGPT checkpoint, and its ``ln_vision`` if it has one.

    Raises:
        CheckpointError: another variant's file, named with the variant that would fit; or no MiniGPT checkpoint.
    """
    weight = tensors.get("llama_proj.weight")
    if weight is None or "llama_proj.bias" not in tensors:
        missing = "llama_proj.weight" if weight is None else "llama_proj.bias"
        raise CheckpointError(f"{file} has no {missing}; expected the MiniGPT checkpoint {variant.checkpoint.file}")
    expected, has_lora = (variant.llm_size.width, variant.bridge_width), bool(lora_tensors(tensors))
    if tuple(weight.shape) != expected or has_lora != (variant.lora_scale is not None):
        fitting = [
            v.name
            for v in VARIANTS.values()
            if (v.llm_size.width, v.bridge_width, v.lora_scale is not None) == (*weight.shape, has_lora)
        ]
        raise CheckpointError(
            f"{file} is not of {variant.name}: expected llama_proj.weight {expected} "
            f"{'with' if variant.lora_scale is not None else 'without'} LoRA weights, found {tuple(weight.shape)} "
            f"{'with' if has_lora else 'without'} them. "
            + (f"It fits --captioner {' or '.join(fitting)}." if fitting else "It fits no variant known here.")
        )
    return {k: v for k, v in tensors.items() if k.startswith(("llama_proj.", "ln_vision."))}


def lora_tensors(tensors: Tensors) -> dict[tuple[int, str, str], torch.Tensor]:
    """(layer, "q" or "v", "A" or "B") -> LoRA matrix of a MiniGPT-v2 checkpoint.

    Raises:
        CheckpointError: LoRA of other matrices, which no published checkpoint has.
    """
    found = {key: _LORA.fullmatch(key) for key in tensors if ".lora_" in key}
    other = [key for key, match in found.items() if match is None]
    if other:
        raise CheckpointError(f"LoRA weights are known for q_proj and v_proj only, found {_some(other)}")
    return {(int(m[1]), m[2], m[3]): tensors[key] for key, m in found.items() if m}


# ------------------------------------------------------------------ checking


def select(
    tensors: Tensors, expected: Mapping[str, tuple[int, ...]], where: str, shown: Callable[[str], str] = str
) -> dict[str, torch.Tensor]:
    """Exactly the expected tensors, as float32 copies.

    Args:
        expected: name -> shape.
        where: what to call the source in an error; ``shown``: what to call a tensor there.

    Raises:
        CheckpointError: missing names, wrong shapes, or values that are not finite; the first few are named.
    """
    check_shapes(tensors, expected, where, shown)
    # Copies: what stayed mapped would change, or end the process, when its file is written anew.
    values = {name: tensors[name].to(torch.float32, copy=True) for name in expected}
    broken = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(f"{where}: values that are not finite in {_some(map(shown, broken))}")
    return values


def check_shapes(
    tensors: Tensors, expected: Mapping[str, tuple[int, ...]], where: str, shown: Callable[[str], str] = str
) -> None:
    """Refuse what ``select`` would, as far as names and shapes tell; no value is read.

    Raises:
        CheckpointError: missing names or wrong shapes; the first few are named.
    """
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise CheckpointError(
            f"{where}: {len(missing)} of {len(expected)} needed tensors are missing: {_some(map(shown, missing))}"
        )
    wrong = [
        f"{shown(name)} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if tuple(tensors[name].shape) != shape
    ]
    if wrong:
        raise CheckpointError(f"{where}: {len(wrong)} tensors have another shape: {_some(wrong)}")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
