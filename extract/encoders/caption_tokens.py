"""Captions as token rows of CLIP's text tower: how long they are, and the long ones cut into several rows.

open_clip has two kinds of tokenizers, its own BPE and wrappers around those of transformers; anything else is only
truncated, by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer, basic_clean, canonicalize_text


def count_tokens(tokenizer: Any, captions: Sequence[str]) -> list[int] | None:
    """Tokens of every caption before anything is cut, start and end tokens included; None if it cannot be known."""
    if isinstance(tokenizer, SimpleTokenizer):
        return [len(tokenizer.encode(caption)) + 2 for caption in captions]
    if (clean := _cleaner(tokenizer)) is None or not captions:
        return [] if clean is not None else None
    # verbose=False: a warning for every long caption would say nothing that the count does not.
    return [len(ids) for ids in tokenizer.tokenizer([clean(c) for c in captions], verbose=False).input_ids]


def chunk_captions(tokenizer: Any, captions: Sequence[str]) -> tuple[torch.Tensor, list[int]]:
    """Every caption as one or more full rows of tokens, each with its own start and end tokens.

    A chunk holds as many tokens as the tower has room for (context_length - 2 for CLIP's BPE) and may end inside a
    word. The first row of a caption that fits is what the tokenizer itself makes of it.

    Args:
        tokenizer: one that ``check_chunks`` does not refuse.
        captions: B sentences, at least one.

    Returns:
        int64 (R, context_length), the rows of all captions in order, and the number of rows of each caption.
    """
    rows = _bpe_rows(tokenizer, captions) if isinstance(tokenizer, SimpleTokenizer) else _hf_rows(tokenizer, captions)
    return torch.cat(rows), [len(part) for part in rows]


def check_chunks(tokenizer: Any) -> None:
    """Refuse tokenizers whose rows cannot be cut into chunks that the tower was trained to read.

    Raises:
        ValueError: says what stands in the way and what to use instead.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        problem = "shortens captions by a rule of its own (reduction mask)" if tokenizer.reduction_fn else None
    elif _cleaner(tokenizer) is None:
        problem = f"({type(tokenizer).__name__}) is of no kind that is known here"
    elif not tokenizer.tokenizer.is_fast:
        problem = (
            f"({type(tokenizer.tokenizer).__name__}) is not one of the tokenizers library, which can cut in chunks"
        )
    else:
        problem = "puts a class token at the end of the context" if getattr(tokenizer, "tokenizer_mode", "") else None
    if problem:
        raise ValueError(f"--long-captions chunk-mean: this CLIP model's tokenizer {problem}; use truncate")


def _bpe_rows(tokenizer: SimpleTokenizer, captions: Sequence[str]) -> list[torch.Tensor]:
    length, rows = int(tokenizer.context_length or 77), []
    for caption in captions:
        ids = tokenizer.encode(caption)
        starts = range(0, max(1, len(ids)), length - 2)  # an empty caption is one row, too
        part = torch.zeros(len(starts), length, dtype=torch.long)
        for row, start in zip(part, starts, strict=True):
            chunk = [tokenizer.sot_token_id, *ids[start : start + length - 2], tokenizer.eot_token_id]
            row[: len(chunk)] = torch.tensor(chunk)
        rows.append(part)
    return rows


def _hf_rows(tokenizer: Any, captions: Sequence[str]) -> list[torch.Tensor]:
    clean, rows = _cleaner(tokenizer), []
    assert clean is not None
    for caption in captions:
        # The wrappers' own call, except that what overflows is kept: it comes as further rows of the same form.
        ids = tokenizer.tokenizer(
            [clean(caption)],
            return_tensors="pt",
            max_length=tokenizer.context_length,
            padding="max_length",
            truncation=True,
            return_overflowing_tokens=True,
        ).input_ids
        if getattr(tokenizer, "strip_sep_token", False):
            ids = torch.where(ids == tokenizer.tokenizer.sep_token_id, torch.zeros_like(ids), ids)
        rows.append(ids)
    return rows


def _cleaner(tokenizer: Any) -> Any:
    """What a wrapper does to a text before it hands it on, or None if it is no wrapper that is known."""
    if isinstance(tokenizer, SigLipTokenizer):
        return lambda text: canonicalize_text(basic_clean(text))
    return tokenizer.clean_fn if isinstance(tokenizer, HFTokenizer) else None
