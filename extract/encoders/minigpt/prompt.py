"""From a question to what the language model reads, and from its answer to a caption.

The reference splits the conversation at ``<ImageHere>``, tokenises each part by itself with the beginning-of-text token
on the first part only, and joins [embeddings(part 0), image tokens, embeddings(part 1)]. Its tokenizer is the slow
LlamaTokenizer of transformers 4.30 ("legacy": a space is put before the text after every special token).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.encoders.minigpt.variants import IMAGE, Variant

if TYPE_CHECKING:
    from transformers import LlamaTokenizer


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the image: ``before`` opens with the beginning-of-text token."""

    text: str
    before: tuple[int, ...]
    after: tuple[int, ...]


def conversation(variant: Variant, question: str | None) -> str:
    """The text that is asked of one image, with ``<ImageHere>`` where the image goes.

    Args:
        question: None for the variant's own; a text that contains ``<ImageHere>`` is taken as the whole conversation.

    Raises:
        ValueError: empty question, or more than one image.
    """
    text = variant.question if question is None else question
    if not text.strip():
        raise ValueError("the caption prompt is empty; leave --caption-prompt out for the captioner's own question")
    text = text if IMAGE in text else variant.template.replace("{question}", text)
    if text.count(IMAGE) != 1:
        raise ValueError(f"a caption prompt holds {IMAGE} once, found {text.count(IMAGE)} times: {text!r}")
    return text


def load_tokenizer(folder: Path) -> LlamaTokenizer:
    """The Llama tokenizer of a model folder (``tokenizer.model`` or ``tokenizer.json``), legacy behaviour.

    Raises:
        ValueError: the folder has no tokenizer that can be read.
    """
    from transformers import LlamaTokenizer

    # tokenizer.model decides where both are there: it is the original, and its conversion obeys ``legacy``.
    names = ("tokenizer.model", "tokenizer.json")
    if not any((folder / name).is_file() for name in names):
        raise ValueError(f"{folder} has neither {' nor '.join(names)}; the language model's folder must be complete")
    try:
        return LlamaTokenizer.from_pretrained(  # nosec B615: a local folder
            str(folder), legacy=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of several libraries, some of which advise to install something else
        raise ValueError(
            f"the tokenizer in {folder} cannot be read ({type(error).__name__}); expected LLaMA's tokenizer.model or "
            "tokenizer.json as published"
        ) from error


def tokenize(tokenizer: Any, text: str) -> Prompt:
    """Token ids of both parts of a conversation."""
    before, after = text.split(IMAGE)
    ids = [tokenizer(part, add_special_tokens=False).input_ids for part in (before, after)]
    return Prompt(text, (tokenizer.bos_token_id, *ids[0]), tuple(ids[1]))


def stop_sequences(tokenizer: Any, variant: Variant) -> list[tuple[int, ...]]:
    """Token sequences that end an answer, the end-of-text token among them.

    In LLaMA's vocabulary the ones of Vicuna are (835,) and (2277, 29937). A sequence whose tokens the vocabulary does
    not have cannot occur.
    """
    vocabulary = tokenizer.get_vocab()
    known = [tuple(vocabulary[t] for t in stop) for stop in variant.stops if all(t in vocabulary for t in stop)]
    return [(tokenizer.eos_token_id,), *known]


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """Generated token ids -> text."""
    return tokenizer.decode(tokens, skip_special_tokens=True)


def cut_answer(text: str) -> str:
    """Generated text -> caption, cut as the reference cuts it."""
    return text.split("###")[0].split("Assistant:")[-1].strip()
