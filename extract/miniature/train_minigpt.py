"""Trains the miniature's MiniGPT-4 by captioning: picture tower, projection and a small Llama together, from nothing.

The prompt is the published one of the Llama 2 variant. During training the mean patch token also has to tell every
attribute by linear readouts, which are thrown away; it makes the tower learn several times as fast.

Axes: B pictures of a batch, L tokens of a caption, D width.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from extract.encoders.minigpt.checkpoint import original_name
from extract.encoders.minigpt.prompt import conversation, load_tokenizer, tokenize
from extract.encoders.minigpt.variants import EVA, Variant, find_variant
from extract.encoders.minigpt.vision import MiniGptVision
from extract.encoders.quiet import quiet
from extract.miniature.dataset import Pictures
from extract.miniature.keeping import Keeper
from extract.miniature.optimize import Learner, plain_attention
from extract.miniature.sentences import CAPTION, WORDS, attributes, tell, tell_all
from extract.miniature.train_clip import augment

BATCH, PEAK_RATE = 64, 3e-3


def write_tokenizer(folder: Path, variant: Variant) -> None:
    """A SentencePiece tokenizer with LLaMA's options, made of the captions and the prompt."""
    most = max(len(words) for words in WORDS.values())
    values = [{name: i % len(words) for name, words in WORDS.items()} for i in range(most)]
    sentences = [*(tell(CAPTION, v) for v in values), conversation(variant, None)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 4),
        model_writer=model,
        vocab_size=variant.llm_size.vocabulary,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))


class Trainee(nn.Module):
    """The parts that learn, and the prompt around the picture."""

    def __init__(self, variant: Variant, tokenizer: Any) -> None:
        super().__init__()
        size = variant.llm_size
        self.vision = MiniGptVision(variant)
        self.llm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size.vocabulary,
                hidden_size=size.width,
                intermediate_size=size.mlp,
                num_hidden_layers=size.num_layers,
                num_attention_heads=size.num_heads,
                max_position_embeddings=512,
            )
        )
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 1:
                    is_scale = name == "weight"  # only norms have a vector of that name
                    nn.init.constant_(parameter, 1.0 if is_scale else 0.0)
                else:
                    table = isinstance(module, nn.Embedding) or not name.startswith("weight")
                    nn.init.normal_(parameter, std=0.1 if table else parameter[0].numel() ** -0.5)
        # No published file of this variant holds the norm behind the tower: it is 1 and 0 there, and stays so.
        self.vision.requires_grad_(True).vit.post_layernorm.requires_grad_(False)
        self.readouts = nn.ModuleDict({k: nn.Linear(variant.vision.width, len(words)) for k, words in WORDS.items()})
        prompt = tokenize(tokenizer, conversation(variant, None))
        self.before, self.after = torch.tensor([prompt.before]), torch.tensor([prompt.after])

    def forward(self, images: torch.Tensor, tokens: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Loss of captions (B, L), padded with -100, and of the readouts."""
        patches = self.vision.vit(pixel_values=images).last_hidden_state[:, 1:]  # (B, P, D)
        seen = self.vision.llama_proj(patches.reshape(len(patches), -1, self.vision.variant.bridge_width))
        embed = self.llm.model.embed_tokens
        cache = DynamicCache()
        self.llm.model(inputs_embeds=embed(self.before), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(images))  # the text before the picture is the same for all
        spoken = embed(tokens.clamp(min=0))
        inputs = torch.cat([seen, embed(self.after).expand(len(images), -1, -1), spoken[:, :-1]], dim=1)
        hidden = self.llm.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        logits = self.llm.lm_head(hidden[:, -tokens.shape[1] :])  # (B, L, V)
        words = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), ignore_index=-100)
        mean = patches.mean(dim=1)
        named = [F.cross_entropy(readout(mean).float(), values[name]) for name, readout in self.readouts.items()]
        return 4 * words + torch.stack(named).mean()


def train_minigpt(
    pictures: Pictures, folder: Path, steps: int, seed: int, keeper: Keeper, name: str = "minigpt4-mini"
) -> None:
    """Train a variant and write its files, float16 under the original names, into ``folder``.

    Raises:
        Paused: as ``keeper`` says.
    """
    variant = find_variant(name)
    write_tokenizer(folder / variant.llm.file, variant)
    tokenizer = load_tokenizer(folder / variant.llm.file)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Trainee(variant, tokenizer)
    learner = Learner(model, steps, PEAK_RATE)
    known = attributes(pictures.factors)
    answers = _answers(tokenizer, tell_all(CAPTION, known))

    def step(number: int) -> float:
        rows = np.sort(rng.choice(len(pictures.pixels), BATCH, replace=False))
        images = augment(pictures.pixels[rows], rng).bfloat16()
        with plain_attention():
            values = {k: torch.from_numpy(v[rows]) for k, v in known.items()}
            return learner.learn(model(images, answers[rows], values))

    keeper.steps(steps, rng, learner.state, learner.load, step)
    learner.finish()
    write_weights(folder, model)


def _answers(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    """Tokens of the captions with the end-of-text token, padded with -100: int64 (N, L)."""
    seen: dict[str, torch.Tensor] = {}
    for text in captions:
        if text not in seen:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            seen[text] = torch.tensor([*ids, tokenizer.eos_token_id])
    return nn.utils.rnn.pad_sequence([seen[text] for text in captions], batch_first=True, padding_value=-100)


def write_weights(folder: Path, model: Trainee) -> None:
    """EVA's file, the MiniGPT checkpoint and the Llama folder, as they are published, in float16."""
    variant = model.vision.variant
    eva: dict[str, torch.Tensor] = {}
    for name, value in model.vision.vit.state_dict(prefix="vit.").items():
        if ".post_layernorm." in name:
            continue
        key = original_name(name)
        if key.endswith("q_bias or v_bias"):  # there is none for k, which softmax would not notice
            block = key.split(".attn.")[0]
            query, _, mixed = value.chunk(3)
            eva |= {f"{block}.attn.q_bias": query.half(), f"{block}.attn.v_bias": mixed.half()}
        else:
            eva[key] = value.half().clone()
    torch.save(eva, folder / EVA.file)
    bridge = {f"llama_proj.{k}": v.half() for k, v in model.vision.llama_proj.state_dict().items()}
    torch.save({"model": bridge}, folder / variant.checkpoint.file)
    with quiet():
        model.llm.half().save_pretrained(folder / variant.llm.file)
