"""The language half: a Llama folder as published, MiniGPT-v2's LoRA merged in, weights optionally quantised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from extract.encoders.minigpt.checkpoint import CheckpointError, reason
from extract.encoders.minigpt.variants import VARIANTS, Variant
from extract.encoders.quiet import quiet

BITS: Mapping[str, int] = {"int8": 8, "int4": 4}
Lora = Mapping[tuple[int, str, str], torch.Tensor]


def load_llm(
    folder: Path, variant: Variant, lora: Lora, *, device: str, dtype: torch.dtype, quantize: str | None
) -> LlamaForCausalLM:
    """Read the language model.

    Args:
        folder: transformers' format: ``config.json`` and ``.safetensors`` or ``.bin`` shards (read as plain tensors).
        lora: see ``checkpoint.lora_tensors``; empty for variants without.
        quantize: "int8" or "int4" (NF4) through bitsandbytes.

    Raises:
        CheckpointError: no such folder, another size or architecture, missing weights.
        ValueError: unknown ``quantize``, or bitsandbytes is not installed.
    """
    if quantize is not None:
        check_quantize(quantize)
    check_folder(folder, variant)
    try:
        with quiet():
            loaded: Any = LlamaForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are in the report, and refused below by name
                output_loading_info=True,
            )
    except Exception as error:  # damage comes to light as anything, see ``read_file``
        raise CheckpointError(f"the language model in {folder} cannot be read: {reason(error)}") from error
    llm, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors of the language model: {', '.join(missing[:4])}")
    if report["mismatched_keys"]:
        wrong = [
            f"{k} {tuple(found)} instead of {tuple(shape)}" for k, found, shape in sorted(report["mismatched_keys"])
        ]
        raise CheckpointError(f"{folder}: {len(wrong)} tensors have another shape: {', '.join(wrong[:4])}")
    if variant.lora_scale is not None:
        merge_lora(llm, lora, variant.lora_scale)
    if quantize is not None:
        quantize_linear(llm, quantize, dtype)
    return llm.requires_grad_(False).eval().to(device)


def check_folder(folder: Path, variant: Variant) -> None:
    """Refuse a folder that is not the variant's language model.

    Raises:
        CheckpointError: not there, no Llama, or of another size, with the variant that it fits.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"no language model in {folder}: expected config.json, weights and tokenizer there")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is no model configuration: {reason(error)}") from error
    if not isinstance(config, LlamaConfig):
        raise CheckpointError(f"{folder} holds a {config.model_type} model; {variant.name} needs {variant.llm.file}")
    # The vocabulary is not compared: some copies of Vicuna have a padding token more.
    size = (config.hidden_size, config.num_hidden_layers, config.intermediate_size)
    sizes = {v.name: (v.llm_size.width, v.llm_size.num_layers, v.llm_size.mlp) for v in (*VARIANTS.values(), variant)}
    if size != sizes[variant.name]:
        fits = [name for name, published in sizes.items() if published == size]
        raise CheckpointError(
            f"{folder} is not the language model of {variant.name}: expected width, layers and MLP width "
            f"{sizes[variant.name]}, found {size}. "
            + (f"It fits --captioner {' or '.join(fits)}." if fits else "It fits no variant known here.")
        )


def merge_lora(llm: LlamaForCausalLM, lora: Lora, scale: float) -> None:
    """W += scale * B @ A in float32 for the q and v projections of every layer, in place.

    Raises:
        CheckpointError: a layer's matrices are missing, or of another shape.
    """
    for i, layer in enumerate(llm.model.layers):
        for name in ("q", "v"):
            a, b = (lora.get((i, name, part)) for part in "AB")
            weight = getattr(layer.self_attn, f"{name}_proj").weight
            if a is None or b is None:
                lacks = "A" if a is None else "B"
                raise CheckpointError(f"the checkpoint lacks layers.{i}.self_attn.{name}_proj.lora_{lacks}")
            if (b.shape[0], a.shape[1]) != tuple(weight.shape) or a.shape[0] != b.shape[1]:
                raise CheckpointError(
                    f"layers.{i}.self_attn.{name}_proj: LoRA {tuple(b.shape)} x {tuple(a.shape)} does not fit the "
                    f"weight {tuple(weight.shape)}"
                )
            weight.data = (weight.data.float() + scale * (b.float() @ a.float())).to(weight.dtype)


def check_quantize(quantize: str) -> None:
    """Refuse unknown quantisation, or one whose library is missing.

    Raises:
        ValueError: with what to do.
    """
    if quantize not in BITS:
        raise ValueError(f"--caption-quantize takes {' or '.join(BITS)}, found {quantize!r}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError(f"--caption-quantize needs bitsandbytes: pip install 'crossgru[quantize]' ({error})") from None


def quantize_linear(llm: nn.Module, quantize: str, dtype: torch.dtype) -> None:
    """Replace every linear layer but the output by bitsandbytes' (LLM.int8() or NF4), in place.

    Done after the LoRA merge, which quantised weights would not allow; the weights are packed when they move to the
    device.
    """
    import bitsandbytes as bnb

    for path, module in list(llm.named_modules()):
        if not isinstance(module, nn.Linear) or path == "lm_head":
            continue
        shape, data = (module.in_features, module.out_features), module.weight.data
        layer: nn.Module
        if BITS[quantize] == 4:
            layer = bnb.nn.Linear4bit(*shape, bias=False, compute_dtype=dtype, quant_type="nf4")
            layer.weight = bnb.nn.Params4bit(data, requires_grad=False, quant_type="nf4")
        else:
            layer = bnb.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False, threshold=6.0)
            layer.weight = bnb.nn.Int8Params(data, requires_grad=False, has_fp16_weights=False)
        parent, _, name = path.rpartition(".")
        setattr(llm.get_submodule(parent), name, layer)
