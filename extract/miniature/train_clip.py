"""Trains the miniature's CLIP pair by image-text contrast, from nothing.

Two contrasts, both between pictures and true sentences: every picture against the sentences that name one attribute
alone ("a picture of three figures." against two and four), and a batch of pictures against a batch of sentences, each
of which is right about all pictures that it fits, not only about its own.

Axes: B pictures of a batch, M sentences, L tokens, D feature size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN as OPENAI_MEAN
from open_clip.constants import OPENAI_DATASET_STD as OPENAI_STD
from torch import nn

from extract.encoders.clip import MINI
from extract.miniature.dataset import Pictures
from extract.miniature.keeping import Keeper
from extract.miniature.optimize import Learner, plain_attention
from extract.miniature.sentences import ALONE, CAPTION, FORMS, WORDS, attributes, mentioned, prompts, tell_all

BATCH, PEAK_RATE = 128, 3e-3


class Texts:
    """Tokens of sentences, numbered among the few that occur, in the order of their true numbers."""

    def __init__(self) -> None:
        self._tokenizer = open_clip.SimpleTokenizer()
        every = [ALONE[name] for name in ALONE] + list(FORMS)
        words = [word for values in WORDS.values() for word in values]
        ids = {int(i) for text in [*every, *words] for i in self._tokenizer([text])[0]}
        ids |= {int(i) for text in self._all_sentences() for i in self._tokenizer([text])[0]}
        self.used = torch.tensor(sorted(ids))
        self._seen: dict[str, torch.Tensor] = {}

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """int64 (M, L) into ``used``; cut behind the longest sentence, which causal attention does not notice."""
        for text in texts:
            if text not in self._seen:
                self._seen[text] = torch.searchsorted(self.used, self._tokenizer([text])[0])
        tokens = torch.stack([self._seen[text] for text in texts])
        longest = int((tokens.argmax(dim=1)).max()) + 1
        return tokens[:, :longest]

    @staticmethod
    def _all_sentences() -> list[str]:
        """Sentences in which every word occurs where it can occur."""
        most = max(len(words) for words in WORDS.values())
        values = {name: np.arange(most) % len(words) for name, words in WORDS.items()}
        return [text for form in (*FORMS, *ALONE.values()) for text in tell_all(form, values)]


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's ``encode_text`` on fewer than 77 positions: (M, L) -> unit vectors (M, D)."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length].to(x.dtype)))
    return F.normalize((x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection).float(), dim=-1)


def augment(pixels: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> normalised float32 (B, 3, S, S): mirrored or not, shifted a little, with noise."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    mirrored = torch.from_numpy(rng.random(len(x)) < 0.5)
    x[mirrored] = x[mirrored].flip(-1)
    down, right = rng.integers(-3, 4, 2)
    x = torch.roll(x, (int(down), int(right)), (2, 3))
    x = x * torch.from_numpy(rng.uniform(0.92, 1.08, (len(x), 1, 1, 1)).astype(np.float32))
    x += torch.from_numpy(rng.normal(0, 0.01, (1, *x.shape[1:])).astype(np.float32))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_MEAN, OPENAI_STD))
    return (x - mean) / std


def contrast(
    model: Any, images: torch.Tensor, values: Mapping[str, np.ndarray], texts: Texts, form: str
) -> torch.Tensor:
    """Mean of both contrasts of one batch; ``images``: unit vectors (B, D)."""
    sentences = tell_all(form, values)
    alone = {name: prompts(name) for name in WORDS}
    every = sentences + [text for group in alone.values() for text in group]
    scale = model.logit_scale.float().exp().clamp(max=100)
    logits = scale * images @ encode_text(model, texts(every)).T  # (B, M)
    named = logits[:, len(sentences) :].split([len(group) for group in alone.values()], dim=1)
    single = [F.cross_entropy(part, torch.from_numpy(values[name])) for name, part in zip(alone, named, strict=True)]
    fits = np.logical_and.reduce([values[name][:, None] == values[name] for name in mentioned(form)])
    target = torch.from_numpy(fits / fits.sum(axis=1, keepdims=True)).float()  # symmetric but for the scale
    pair = logits[:, : len(sentences)]
    both = (F.cross_entropy(pair, target) + F.cross_entropy(pair.T, target)) / 2
    return torch.stack(single).mean() + 0.3 * both


def train_clip(pictures: Pictures, steps: int, seed: int, keeper: Keeper) -> dict[str, torch.Tensor]:
    """The trained pair as an open_clip state dict, float32.

    Raises:
        Paused: as ``keeper`` says.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, texts = open_clip.CLIP(**MINI), Texts()
    model.token_embedding = nn.Embedding(len(texts.used), MINI["text_cfg"]["width"])
    nn.init.normal_(model.token_embedding.weight, std=0.1)
    learner = Learner(model, steps, PEAK_RATE)
    known = attributes(pictures.factors)

    def step(number: int) -> float:
        rows = np.sort(rng.choice(len(pictures.pixels), BATCH, replace=False))
        form = FORMS[rng.integers(len(FORMS))] if number % 2 else CAPTION
        with plain_attention():
            images = F.normalize(model.encode_image(augment(pictures.pixels[rows], rng).bfloat16()).float(), dim=-1)
            return learner.learn(contrast(model, images, {k: v[rows] for k, v in known.items()}, texts, form))

    keeper.steps(steps, rng, learner.state, learner.load, step)
    state = learner.finish().state_dict()
    table = torch.zeros(MINI["text_cfg"]["vocab_size"], MINI["text_cfg"]["width"])
    table[texts.used] = state["token_embedding.weight"]
    return state | {"token_embedding.weight": table}


def retrieval(model: Any, pictures: Pictures) -> dict[str, float]:
    """Attribute -> share of pictures whose best sentence among those that name the attribute alone is true."""
    tokenizer, known = open_clip.SimpleTokenizer(), attributes(pictures.factors)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_MEAN, OPENAI_STD))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.ascontiguousarray(pictures.pixels)).permute(0, 3, 1, 2)
        parts = [model.encode_image((p.float() / 255 - mean) / std) for p in pixels.split(256)]
        images = F.normalize(torch.cat(parts), dim=-1)
        found = {}
        for name in WORDS:
            words = F.normalize(model.encode_text(tokenizer(prompts(name))), dim=-1)
            found[name] = float(((images @ words.T).argmax(dim=1).numpy() == known[name]).mean())
    return found


def save_state(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state dict as float16, as open_clip's own files are."""
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
