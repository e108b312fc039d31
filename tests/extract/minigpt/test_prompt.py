"""Conversations, tokens and answers: what the model is asked, and how its answer is cut."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sentencepiece

from extract.encoders.minigpt import tiny
from extract.encoders.minigpt.prompt import (
    Prompt,
    conversation,
    cut_answer,
    decode,
    load_tokenizer,
    stop_sequences,
    tokenize,
)
from extract.encoders.minigpt.variants import VARIANTS, find_variant

SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
SPECIAL = re.compile("(<s>|</s>|<unk>)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm")
    tiny.write_llm(path, find_variant("minigpt4-tiny"))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "minigpt4-vicuna-7b",
            SYSTEM + "###Human: <Img><ImageHere></Img> Describe this image in detail.###Assistant: ",
        ),
        (
            "minigpt4-vicuna-13b",
            SYSTEM + "###Human: <Img><ImageHere></Img> Describe this image in detail.###Assistant: ",
        ),
        ("minigpt4-llama2", SYSTEM + "<s>[INST] <Img><ImageHere></Img> Describe this image in detail. [/INST] "),
        ("minigpt-v2", "<s>[INST] <Img><ImageHere></Img> [caption] please describe this image? [/INST]"),
    ],
)
def test_conversation_strings(name: str, text: str) -> None:
    assert conversation(find_variant(name), None) == text


def test_own_questions() -> None:
    variant = find_variant("minigpt-v2")
    assert conversation(variant, "who is {there}?") == "<s>[INST] <Img><ImageHere></Img> who is {there}? [/INST]"
    assert conversation(variant, "look: <ImageHere>!") == "look: <ImageHere>!"
    with pytest.raises(ValueError, match="empty"):
        conversation(variant, "  ")
    with pytest.raises(ValueError, match="once, found 2 times"):
        conversation(variant, "<ImageHere> and <ImageHere>")


@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_are_the_slow_tokenizers(name: str, tokenizer, folder: Path) -> None:
    """The reference's tokenizer is SentencePiece between special tokens, each stretch with a space put before it."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def slow(text: str) -> list[int]:
        ids: list[int] = []
        for part in filter(None, SPECIAL.split(text)):
            ids += [pieces.piece_to_id(part)] if SPECIAL.fullmatch(part) else pieces.encode(part)
        return ids

    text = conversation(find_variant(name), None)
    before, after = text.split("<ImageHere>")
    prompt = tokenize(tokenizer, text)
    assert prompt == Prompt(text, (1, *slow(before)), tuple(slow(after)))
    assert 1 not in prompt.after
    # "<s>" stands in the text of the LLaMA-2 conversations, so their first token comes twice.
    assert prompt.before.count(1) == (2 if "<s>" in text else 1)


def test_legacy_behaviour_decides_the_llama2_prompt(tokenizer, folder: Path) -> None:
    from transformers import LlamaTokenizer

    modern = LlamaTokenizer.from_pretrained(str(folder), legacy=False)
    text = "<s>[INST] <Img>"
    ours, other = (t(text, add_special_tokens=False).input_ids for t in (tokenizer, modern))
    assert ours != other
    assert tokenizer.convert_ids_to_tokens(ours)[1].startswith("▁")
    assert not modern.convert_ids_to_tokens(other)[1].startswith("▁")


def test_segments_are_tokenised_one_by_one(tokenizer) -> None:
    """In one piece the text behind the image would not open with a space."""
    prompt = tokenize(tokenizer, "one <ImageHere>two")
    assert tokenizer.convert_ids_to_tokens(prompt.after)[0].startswith("▁")


def test_stop_sequences(tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    hashes = [(vocabulary["▁###"],), (vocabulary["##"], vocabulary["#"])]
    assert stop_sequences(tokenizer, find_variant("minigpt4-vicuna-7b")) == [(2,), *hashes]
    assert stop_sequences(tokenizer, find_variant("minigpt-v2")) == [(2,)]


def test_stop_sequences_of_vicuna_in_the_llama_vocabulary() -> None:
    class Llama:
        eos_token_id = 2

        def get_vocab(self) -> dict[str, int]:
            return {"▁###": 835, "##": 2277, "#": 29937}

    assert stop_sequences(Llama(), find_variant("minigpt4-vicuna-7b")) == [(2,), (835,), (2277, 29937)]


@pytest.mark.parametrize(
    ("generated", "caption"),
    [
        ("a man in a room.</s>", "a man in a room."),
        ("a man###Human: what", "a man"),
        ("Assistant: a man in a room ###", "a man in a room"),
        ("###", ""),
        ("  two  ", "two"),
    ],
)
def test_answers_are_cut(generated: str, caption: str, tokenizer) -> None:
    assert cut_answer(decode(tokenizer, tokenizer(generated, add_special_tokens=False).input_ids)) == caption


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither tokenizer\.model nor tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(tmp_path)
