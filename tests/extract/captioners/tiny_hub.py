"""Image-text models of toy size in the file formats of the hub: what ``HubCaptioner`` loads, made in milliseconds.

The weights are random and louder than a training would start from; with the usual 0.02 every picture would get the same
caption.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.utils import logging

SPOKEN = (
    "a red blue green man woman dog cat bird horse runs sits sleeps jumps walks on the grass street table bright dark "
    "large small near far left right one two three light shape and is in of with at by user assistant describe "
    "this image detail. short what do you see?"
)
WORDS = SPOKEN.split()
SIZE = 32  # pixels per side, of the models with a fixed size
NUM_QUERIES = 4
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ part['text'] }} "
    "{% endif %}{% endfor %}<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def write_blip(folder: Path, seed: int = 0) -> None:
    """BLIP: the text decoder looks at the picture by cross-attention."""
    tokenizer = make_tokenizer("[DEC]")
    text = VISION | {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 64,
        "projection_dim": 16,
        "pad_token_id": 0,
        "sep_token_id": 1,
        "eos_token_id": 1,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
    }
    vision = VISION | {"image_size": SIZE, "patch_size": 8, "projection_dim": 16}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    processor = BlipProcessor(BlipImageProcessor(size={"height": SIZE, "width": SIZE}), tokenizer)
    save(folder, _random(lambda: BlipForConditionalGeneration(config), seed), processor)


def write_blip2_opt(folder: Path, seed: int = 0) -> None:
    """BLIP-2 whose language model is a decoder (OPT)."""
    _write_blip(folder, seed, Blip2Config, Blip2ForConditionalGeneration, _opt)


def write_blip2_t5(folder: Path, seed: int = 0) -> None:
    """BLIP-2 whose language model has an encoder and a decoder (T5)."""
    _write_blip(folder, seed, Blip2Config, Blip2ForConditionalGeneration, _t5)


def write_instructblip(folder: Path, seed: int = 0) -> None:
    """InstructBLIP: the Q-Former reads the prompt too."""
    _write_blip(folder, seed, InstructBlipConfig, InstructBlipForConditionalGeneration, _opt)


def write_qwen(folder: Path, seed: int = 0) -> None:
    """Qwen3-VL: a chat template and pictures of any size."""
    tokenizer = make_tokenizer(*QWEN_TOKENS)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in QWEN_TOKENS}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    pixels = {"size": {"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024}, "patch_size": 16}
    mean_std = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**pixels, **mean_std),
        tokenizer,
        Qwen3VLVideoProcessor(**mean_std),
        chat_template=CHAT_TEMPLATE,
    )
    save(folder, _random(lambda: Qwen3VLForConditionalGeneration(config), seed), processor)


FAMILIES: dict[str, Callable[..., None]] = {
    "blip": write_blip,
    "blip2-opt": write_blip2_opt,
    "blip2-t5": write_blip2_t5,
    "instructblip": write_instructblip,
    "qwen3-vl": write_qwen,
}


def make_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """One token per word of ``WORDS``."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=list(special),
    )


def save(folder: Path, model: Any, processor: Any) -> None:
    """Both in the form in which the hub has them."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if shown:
        logging.enable_progress_bar()


def _write_blip(folder: Path, seed: int, config_class: Any, model_class: Any, text: Callable[[int], Any]) -> None:
    tokenizer = make_tokenizer("<image>")
    num_tokens = len(tokenizer)
    config = config_class(
        vision_config=VISION | {"image_size": SIZE, "patch_size": 8},
        qformer_config=VISION | {"num_hidden_layers": 2, "vocab_size": num_tokens, "encoder_hidden_size": 16},
        text_config=text(num_tokens),
        num_query_tokens=NUM_QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    pictures = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    if model_class is Blip2ForConditionalGeneration:
        processor: Any = Blip2Processor(pictures, tokenizer, num_query_tokens=NUM_QUERIES)
    else:
        processor = InstructBlipProcessor(pictures, tokenizer, make_tokenizer("<image>"), num_query_tokens=NUM_QUERIES)
    save(folder, _random(lambda: model_class(config), seed), processor)


def _opt(num_tokens: int) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "vocab_size": num_tokens,
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }


def _t5(num_tokens: int) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "vocab_size": num_tokens,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _random(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """The model with every matrix redrawn with unit gain, and queries and embeddings of unit size."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = build().eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                loud = "query_tokens" in name or "embed" in name or "shared" in name
                parameter.normal_(std=1.0 if loud else 1.5 * parameter[0].numel() ** -0.5)
    return model
