"""Generation in slots says what ``generate`` says frame by frame, whatever shares the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from extract.encoders.minigpt import tiny
from extract.encoders.minigpt.decoding import Chooser, Decoding, decoding_of, frame_digest
from extract.encoders.minigpt.generation import SlotGenerator
from extract.encoders.minigpt.llm import load_llm
from extract.encoders.minigpt.prompt import Prompt, conversation, load_tokenizer, stop_sequences, tokenize
from extract.encoders.minigpt.variants import find_variant

VARIANT = find_variant("minigpt4-tiny")
TOKENS, WIDTH = VARIANT.num_image_tokens, VARIANT.llm_size.width


class EndsWith(StoppingCriteria):
    def __init__(self, stops: list[tuple[int, ...]]) -> None:
        self.stops = stops

    def __call__(self, input_ids, scores, **kwargs):
        tokens = input_ids[0].tolist()
        return torch.tensor([any(tuple(tokens[-len(s) :]) == s for s in self.stops)])


class Model:
    """A toy language model with its prompt, and images of random vectors."""

    def __init__(self, folder: Path) -> None:
        tiny.write_llm(folder, VARIANT, seed=3)
        self.llm = load_llm(folder, VARIANT, {}, device="cpu", dtype=torch.float32, quantize=None)
        tokenizer = load_tokenizer(folder)
        self.prompt = tokenize(tokenizer, conversation(VARIANT, None))
        # Besides the end of text two tokens that a random model comes by: rows then stop at many lengths.
        self.stops = [*stop_sequences(tokenizer, VARIANT), (300,), (301, 302)]
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(24, TOKENS, WIDTH, generator=generator)
        self.digests = [frame_digest(image.numpy()) for image in self.images]

    def slots(self, decoding: Decoding, num_slots: int = 5) -> SlotGenerator:
        return SlotGenerator(self.llm, self.prompt, TOKENS, decoding, self.stops, num_slots=num_slots)

    def one_by_one(self, decoding: Decoding, images: torch.Tensor) -> list[list[int]]:
        """transformers' own greedy generation."""
        embed, answers = self.llm.get_input_embeddings(), []
        for image in images:
            parts = [embed(torch.tensor([self.prompt.before])), image[None], embed(torch.tensor([self.prompt.after]))]
            embeddings = torch.cat(parts, dim=1)
            with torch.inference_mode():
                tokens = self.llm.generate(
                    inputs_embeds=embeddings,
                    attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
                    do_sample=False,
                    max_new_tokens=decoding.max_new_tokens,
                    min_new_tokens=decoding.min_new_tokens,
                    logits_processor=_penalty(decoding.repetition_penalty),
                    stopping_criteria=[EndsWith(self.stops)],
                    pad_token_id=0,
                )
            answers.append(tokens[0].tolist())
        return answers


def _penalty(value: float) -> LogitsProcessorList:
    """As a processor of our own, because transformers warns when ``repetition_penalty`` meets embeddings."""
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(value)] if value != 1.0 else [])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tmp_path_factory.mktemp("llm"))


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("num_slots", [1, 5, 32])
def test_equal_to_generate_frame_by_frame(model: Model, num_slots: int, penalty: float) -> None:
    decoding = Decoding(max_new_tokens=40, repetition_penalty=penalty)
    slots = model.slots(decoding, num_slots)
    found = slots.generate(model.images, model.digests)
    assert found == model.one_by_one(decoding, model.images)
    lengths = {len(tokens) for tokens in found}
    assert len(lengths) > 3
    assert 40 in lengths, "some reach the limit"
    assert min(lengths) < 20, "and some stop early"
    assert (slots.counts.frames, slots.counts.tokens) == (24, sum(map(len, found)))
    assert slots.counts.cut == sum(len(t) == 40 and t[-1] not in (2, 300) for t in found)


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_a_caption_depends_on_its_frame_alone(model: Model, mode: str) -> None:
    decoding = decoding_of(mode, max_new_tokens=30, seed=1)
    whole = model.slots(decoding).generate(model.images, model.digests)
    assert len(set(map(tuple, whole))) > 12
    order = np.random.default_rng(0).permutation(len(whole)).tolist()
    slots = model.slots(decoding)
    shuffled = slots.generate(model.images[order], [model.digests[i] for i in order])
    assert shuffled == [whole[i] for i in order]
    # The same generator again, alone and in other company: nothing is left of earlier frames.
    assert slots.generate(model.images[3:4], model.digests[3:4]) == whole[3:4]
    assert slots.generate(model.images[2:9], model.digests[2:9]) == whole[2:9]


def test_rows_that_stop_give_their_slot_away(model: Model) -> None:
    decoding = Decoding(max_new_tokens=60)
    slots = model.slots(decoding, num_slots=4)
    lengths = [len(tokens) for tokens in slots.generate(model.images, model.digests)]
    in_turns = sum(max(lengths[i : i + 4]) for i in range(0, len(lengths), 4))
    assert slots.counts.steps < 0.8 * in_turns


def test_the_text_before_the_image_is_computed_once(model: Model) -> None:
    lengths = []
    handle = model.llm.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    try:
        slots = model.slots(Decoding(max_new_tokens=3), num_slots=4)
        slots.generate(model.images[:6], model.digests[:6])
    finally:
        handle.remove()
    before, behind = len(model.prompt.before), TOKENS + len(model.prompt.after)
    assert lengths.count((1, before)) == 1
    assert set(lengths) == {(1, before), (1, behind), (5, 1)}, "fixed shapes, whatever the frames"
    assert lengths.count((1, behind)) == 6


def test_seeds_differ_and_repeat(model: Model) -> None:
    first, again, other = (
        model.slots(decoding_of("sample", max_new_tokens=20, seed=seed)).generate(model.images[:4], model.digests[:4])
        for seed in (0, 0, 1)
    )
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    swapped = model.slots(decoding_of("sample", max_new_tokens=20, seed=0))
    assert swapped.generate(model.images[:1], model.digests[1:2]) != first[:1], "the frame is part of the seed"


def test_a_prompt_that_does_not_fit(model: Model) -> None:
    with pytest.raises(ValueError, match=r"exceed the language model's 2048 positions.*--caption-tokens"):
        model.slots(Decoding(max_new_tokens=2000))


def test_values_that_are_not_finite_write_no_caption(tmp_path: Path) -> None:
    broken = Model(tmp_path)
    broken.llm.model.layers[1].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"not finite in float32.*--dtype"):
        broken.slots(Decoding(max_new_tokens=3)).generate(broken.images[:2], broken.digests[:2])


def test_left_padding_would_break_the_penalty(model: Model) -> None:
    """Why all prompts have one length: in a left-padded batch of transformers the penalty skips the first tokens."""
    short, image = Prompt("", (1, 20, 21), (30,)), model.images
    embed = model.llm.get_input_embeddings()
    before, after = (embed(torch.tensor([ids])).expand(len(image), -1, -1) for ids in (short.before, short.after))
    embeddings = torch.cat([before, image, after], dim=1)
    own = SlotGenerator(
        model.llm, short, TOKENS, Decoding(max_new_tokens=12, repetition_penalty=1.5), [(2,)], num_slots=8
    ).generate(image, model.digests)

    def generate(num_padding: int) -> list[list[int]]:
        padded = torch.cat([torch.zeros(len(image), num_padding, WIDTH), embeddings], dim=1)
        mask = torch.ones(padded.shape[:2], dtype=torch.int64)
        mask[:, :num_padding] = 0
        with torch.inference_mode(), pytest.warns(UserWarning, match="repetition"):
            tokens = model.llm.generate(
                inputs_embeds=padded,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=12,
                min_new_tokens=1,
                repetition_penalty=1.5,
                pad_token_id=2,
            )
        return [row[: row.index(2) + 1] if 2 in row else row for row in tokens.tolist()]

    assert own == generate(0)
    assert own != generate(6)


# ------------------------------------------------------------------ choosing


def _choose(decoding: Decoding, logits: torch.Tensor, seen: list[list[int]], position: int = 0) -> torch.Tensor:
    rows = torch.arange(len(logits))
    chooser = Chooser(decoding, len(logits), logits.shape[1], 2, "cpu")
    chooser.reset(rows, [bytes([i]) for i in range(len(logits))])
    for row, tokens in enumerate(seen):
        chooser.seen[row, tokens] = True
    return chooser.choose(logits, rows, torch.full((len(logits),), position))


def test_sampling_follows_transformers_distribution() -> None:
    """Frequencies over many frames against the probabilities of transformers' own processors."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 80, generator=draw) * 2
    seen = [5, 7, 70, 11]
    decoding = Decoding("sample", 4, repetition_penalty=1.5, top_p=0.9, top_k=50)
    scores = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([seen]), logits.clone())
    for warp in (TopKLogitsWarper(50), TopPLogitsWarper(0.9)):
        scores = warp(None, scores)
    expected = scores.softmax(dim=1)[0].numpy()
    num = 40_000
    rows = torch.arange(num)
    chooser = Chooser(decoding, num, 80, 2, "cpu")
    chooser.reset(rows, [i.to_bytes(4, "big") for i in range(num)])
    chooser.seen[:, seen] = True
    tokens = chooser.choose(logits.expand(num, -1), rows, torch.ones(num, dtype=torch.int64))
    frequency = np.bincount(tokens.numpy(), minlength=80) / num
    assert (frequency[expected == 0] == 0).all()
    assert np.abs(frequency - expected).max() < 5 * (0.25 / num) ** 0.5


def test_the_penalty_is_transformers() -> None:
    draw = torch.Generator().manual_seed(1)
    logits, seen = torch.randn(6, 30, generator=draw), [[i, i + 3, 2 * i] for i in range(6)]
    for row in range(6):
        expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seen[row]]), logits[row : row + 1].clone())
        found = _choose(Decoding(repetition_penalty=1.7, min_new_tokens=0), logits, seen)
        assert found[row] == expected.argmax()


def test_the_end_may_not_come_first() -> None:
    logits = torch.zeros(1, 10)
    logits[0, 2], logits[0, 4] = 9.0, 5.0
    assert _choose(Decoding(), logits, [[]], position=0).item() == 4
    assert _choose(Decoding(), logits, [[]], position=1).item() == 2
    scores = MinNewTokensLengthLogitsProcessor(0, 1, 2)(torch.empty(1, 0, dtype=torch.int64), logits.clone())
    assert scores.argmax() == 4, "as transformers"


def test_random_numbers_are_the_frames_own() -> None:
    """Equal pictures draw equal numbers; the neighbour and the row do not matter."""
    logits = torch.zeros(3, 1000)
    chooser = Chooser(Decoding("sample", 4), 3, 1000, 2, "cpu")
    rows = torch.arange(3)
    chooser.reset(rows, [b"a", b"b", b"a"])
    tokens = chooser.choose(logits, rows, torch.ones(3, dtype=torch.int64)).tolist()
    assert tokens[0] == tokens[2] != tokens[1]


def test_unknown_decoding_is_refused() -> None:
    with pytest.raises(ValueError, match="greedy or sample, found 'beam'"):
        decoding_of("beam", max_new_tokens=None, seed=0)


def test_the_recipe_says_what_determines_the_words() -> None:
    assert decoding_of("sample", max_new_tokens=None, seed=4).recipe() == {
        "mode": "sample",
        "max_new_tokens": 300,
        "min_new_tokens": 1,
        "repetition_penalty": 1.05,
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 50,
        "seed": 4,
    }
    assert decoding_of("greedy", max_new_tokens=9, seed=4).recipe() == {
        "mode": "greedy",
        "max_new_tokens": 9,
        "min_new_tokens": 1,
        "repetition_penalty": 1.0,
    }


def test_the_model_is_llama(model: Model) -> None:
    assert isinstance(model.llm, LlamaForCausalLM)
