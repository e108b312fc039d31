"""The language half: a Llama folder as published, MiniGPT-v2's LoRA merged in, weights optionally quantised."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from extract.encoders.minigpt.checkpoint import CheckpointError, reason
from extract.encoders.minigpt.variants import VARIANTS, Variant
from extract.encoders.quiet import quiet

QUANTIZERS: Mapping[str, str] = {"int8": "torchao", "int4": "bitsandbytes"}
Lora = Mapping[tuple[int, str, str], torch.Tensor]


def load_llm(
    folder: Path, variant: Variant, lora: Lora, *, device: str, dtype: torch.dtype, quantize: str | None
) -> LlamaForCausalLM:
    """Read the language model.

    Args:
        folder: transformers' format: ``config.json`` and ``.safetensors`` or ``.bin`` shards (read as plain tensors).
        lora: see ``checkpoint.lora_tensors``; empty for variants without.
        quantize: "int8" (torchao, weights only) or "int4" (bitsandbytes, NF4).

    Raises:
        CheckpointError: no such folder, another size or architecture, missing weights.
        ValueError: unknown ``quantize``, or its library is not installed.
    """
    if quantize is not None:
        check_quantize(quantize)
    check_folder(folder, variant)
    try:
        with quiet():
            loaded: Any = LlamaForCausalLM.from_pretrained(  # nosec B615: a local folder
                str(folder),
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,  # .bin shards are pickles: tensors are read, nothing is run
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
        config = AutoConfig.from_pretrained(  # nosec B615: a local folder
            str(folder), local_files_only=True, trust_remote_code=False
        )
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


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are not all there, or cut off; no value is read.

    Raises:
        CheckpointError: with the file.
    """
    shards = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    for index in (*folder.glob("*.safetensors.index.json"), *folder.glob("*.bin.index.json")):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
            raise CheckpointError(f"{index} cannot be read: {error!r}") from error
        if shards and index.name.endswith(f"{shards[0].suffix}.index.json"):
            missing = sorted(named - {shard.name for shard in shards})
            if missing:
                raise CheckpointError(f"{folder} lacks {len(missing)} of {len(named)} weight files: {missing[0]}, ...")
    if not shards:
        raise CheckpointError(f"{folder} has no weights: expected .safetensors or .bin files")
    for shard in shards:
        try:
            if shard.suffix == ".safetensors":
                with safe_open(shard, framework="pt"):  # compares the header with the file's length
                    pass
            elif not zipfile.is_zipfile(shard):
                raise CheckpointError(f"{shard} is cut off, or no file of torch")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{shard} cannot be read as safetensors: {error}") from error


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
    if quantize not in QUANTIZERS:
        raise ValueError(f"--caption-quantize takes {' or '.join(QUANTIZERS)}, found {quantize!r}")
    library = QUANTIZERS[quantize]
    try:
        import_module(library)
    except ImportError as error:
        raise ValueError(
            f"--caption-quantize {quantize} needs {library}: pip install 'crossgru[quantize]' ({error})"
        ) from None


def quantize_linear(llm: nn.Module, quantize: str, dtype: torch.dtype) -> None:
    """Quantise the weights of every linear layer but the output, in place.

    Done after the LoRA merge, which quantised weights would not allow. Weights only: a row's numbers must not depend on
    its batch neighbours, and LLM.int8() (the reference's 8 bit) chooses outlier columns over the whole batch.
    """
    if quantize == "int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(llm, Int8WeightOnlyConfig(), lambda module, path: _is_quantised(module, path))
        return
    import bitsandbytes as bnb

    for path, module in list(llm.named_modules()):
        if not _is_quantised(module, path):
            continue
        assert isinstance(module, nn.Linear)
        layer = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=dtype, quant_type="nf4"
        )
        # Packed when it moves to the device.
        layer.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
        parent, _, name = path.rpartition(".")
        setattr(llm.get_submodule(parent), name, layer)


def _is_quantised(module: nn.Module, path: str) -> bool:
    return isinstance(module, nn.Linear) and path != "lm_head"
