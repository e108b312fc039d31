"""Toy MiniGPT files: random weights in the formats and under the names of the published ones.

They hold everything that the published files hold beside what is needed (a block too many, text branches, buffers), so
that loading them is loading the real thing, only smaller. Weights are drawn with unit gain, so that different pictures
get different captions; the words mean nothing.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path

import torch

from extract.encoders.minigpt.variants import BLIP2, EVA, Variant
from extract.encoders.packaged import packaged_folder, weights_home
from extract.encoders.quiet import quiet

VERSION = 1
END_GAIN = 1.8  # how much louder the end-of-text token is than others: captions then end at different lengths
_SENTENCES = (
    "The image shows a man and a woman in a room. They are standing near each other and one of them is moving fast.",
    "A small group of people is sitting around a table in a bright kitchen, and a dog is lying on the floor.",
    "Two persons push each other in the street at night while others watch from the other side of the road.",
    "A young man with short dark hair is smiling at the camera; he wears a red shirt and seems happy.",
    "The picture is dark, with a bright light in the background. There are several cars and buildings.",
    "Give the following image: You will be able to see the image once I provide it to you. Please answer my questions.",
    "Describe this image in detail. [INST] please describe this image [/INST] [caption] ###Human: ###Assistant:",
    "a##b##c##d##e##f##g ### h ### i ###Human###Assistant###Human###Assistant###Human###Assistant",
)


def original_state(variant: Variant, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights under the original names: file name -> name -> tensor, float32.

    Files: EVA (one block more than is used), BLIP-2 (with text branch; for variants without Q-Former too, as users have
    it), and the variant's checkpoint (llama_proj, stray buffers, LoRA where the variant has it).
    """
    draw = _Draw(seed)
    size, qformer, llm = variant.vision, variant.qformer, variant.llm_size
    width = size.width
    eva = {"cls_token": draw(1, 1, width), "pos_embed": draw(1, 1 + size.table**2, width, std=0.5)}
    eva |= {
        "patch_embed.proj.weight": draw(width, 3, size.patch, size.patch, fan_in=3 * size.patch**2),
        "patch_embed.proj.bias": draw(width, std=0.1),
    }
    for i in range(size.num_blocks + 1):
        block = f"blocks.{i}."
        eva |= draw.norm(block + "norm1", width) | draw.norm(block + "norm2", width)
        eva |= {block + f"attn.{n}_bias": draw(width, std=0.3) for n in "qv"}
        eva[block + "attn.qkv.weight"] = draw(3 * width, width)
        eva |= draw.linear(block + "attn.proj", width, width)
        eva |= draw.linear(block + "mlp.fc1", size.mlp, width) | draw.linear(block + "mlp.fc2", width, size.mlp)
    blip2 = draw.norm("ln_vision", width)
    if qformer is not None:
        w, bert = qformer.width, "Qformer.bert."
        blip2 |= {"query_tokens": draw(1, qformer.num_queries, w)}
        blip2 |= draw.norm(bert + "embeddings.LayerNorm", w)
        blip2[bert + "embeddings.position_ids"] = torch.arange(8)[None]
        blip2[bert + "embeddings.word_embeddings.weight"] = draw(16, w)
        for i in range(qformer.num_layers):
            layer = f"{bert}encoder.layer.{i}."
            for kind in ("attention", "crossattention")[: 2 if i % 2 == 0 else 1]:
                source = width if kind == "crossattention" else w
                blip2 |= draw.linear(f"{layer}{kind}.self.query", w, w)
                blip2 |= draw.linear(f"{layer}{kind}.self.key", w, source)
                blip2 |= draw.linear(f"{layer}{kind}.self.value", w, source)
                blip2 |= draw.linear(f"{layer}{kind}.output.dense", w, w)
                blip2 |= draw.norm(f"{layer}{kind}.output.LayerNorm", w)
            for suffix in ("", "_query"):  # the text branch, and the one for queries
                blip2 |= draw.linear(f"{layer}intermediate{suffix}.dense", qformer.mlp, w)
                blip2 |= draw.linear(f"{layer}output{suffix}.dense", w, qformer.mlp)
                blip2 |= draw.norm(f"{layer}output{suffix}.LayerNorm", w)
        blip2 |= draw.linear("t5_proj", 8, w)
    checkpoint = draw.linear("llama_proj", llm.width, variant.bridge_width)
    checkpoint["Qformer.bert.embeddings.position_ids"] = torch.arange(8)[None]
    checkpoint["llama_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = draw(4)
    if variant.lora_scale is not None:
        for i in range(llm.num_layers):
            for name in "qv":
                key = f"llama_model.base_model.model.model.layers.{i}.self_attn.{name}_proj.lora_"
                checkpoint |= {
                    f"{key}A.default.weight": draw(4, llm.width),
                    f"{key}B.default.weight": draw(llm.width, 4),
                }
    return {EVA.file: eva, BLIP2.file: blip2, variant.checkpoint.file: checkpoint}


def write_files(folder: Path, variant: Variant, seed: int = 0) -> None:
    """Write all files of a toy into a folder: original ``.pth`` files and a Llama folder with tokenizer.model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in original_state(variant, seed).items():
        # The MiniGPT and BLIP-2 files nest the weights beside the trainer's state; EVA's is flat.
        content = tensors if name == EVA.file else {"model": tensors, "epoch": 4, "optimizer": {"state": {}}}
        torch.save(content, folder / name)
    write_llm(folder / variant.llm.file, variant, seed)


def write_llm(folder: Path, variant: Variant, seed: int = 0) -> None:
    """Write a toy Llama in transformers' format, with a SentencePiece tokenizer trained with LLaMA's options."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size, draw = variant.llm_size, _Draw(seed + 1)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        max_position_embeddings=2048,
    )
    llm = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if "norm" not in name:
                # Loud attention, so that what is in the picture decides the words.
                parameter.copy_(draw(*parameter.shape, gain=2.0 if "_proj" in name else 1.0))
        llm.lm_head.weight[config.eos_token_id] *= END_GAIN
    with quiet():
        llm.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(_tokenizer(size.vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))


def own_folder(variant: Variant) -> str | None:
    """Where the files of a variant are that needs no download: the miniature's, and the toys'; None for others."""
    if variant.packaged:
        return str(packaged_folder())
    return None if variant.trained else str(tiny_folder(variant))


def tiny_folder(variant: Variant) -> Path:
    """The toy's folder, written on first use; a process that is killed while writing leaves no half of it."""
    folder = weights_home() / f"{variant.name}-v{VERSION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            write_files(Path(scratch) / "new", variant)
            try:
                os.replace(Path(scratch) / "new", folder)
            except OSError:
                if not folder.is_dir():  # another process was first
                    raise
    return folder


class _Draw:
    """Seeded random tensors; matrices (out, in) have standard deviation gain / sqrt(in)."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(
        self, *shape: int, std: float | None = None, fan_in: int | None = None, gain: float = 1.0
    ) -> torch.Tensor:
        if std is None:
            std = gain * (fan_in or shape[-1]) ** -0.5 if len(shape) > 1 else 1.0
        return torch.randn(shape, generator=self._generator) * std

    def linear(self, name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": self(rows, columns), f"{name}.bias": self(rows, std=0.1)}

    def norm(self, name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + self(width, std=0.2), f"{name}.bias": self(width, std=0.1)}


def _tokenizer(vocabulary: int) -> bytes:
    """A SentencePiece model with LLaMA's options: BPE, byte fallback, single digits, identity normalisation."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES * 3),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
