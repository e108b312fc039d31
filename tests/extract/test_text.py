"""Long captions: cut in chunks with every tokenizer of open_clip, alone or beside others, and counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

from extract.config import CaptionerConfig, ClipConfig, find_preset, with_options
from extract.encoders import build_encoder
from extract.encoders.caption_tokens import check_chunks, chunk_captions, count_tokens
from extract.encoders.captioners import build_captioner
from extract.encoders.clip import ClipModel
from extract.encoders.text import CaptionTower, TextEncoder

SHORT = ["a red car", "", "two men fight in the street, at night; one falls", "ünïcode ✓ 街"]
LONG = " ".join(f"word{n}" for n in range(120))


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    return ClipModel(ClipConfig("tiny", weights=None, seed=0, batch_size=4))


def encode_by_hand(clip: ClipModel, caption: str) -> np.ndarray:
    """The definition: start + 75 tokens + end, zeros behind, one chunk after the other; their mean."""
    bpe, features = SimpleTokenizer(), []
    ids = bpe.encode(caption)
    for start in range(0, len(ids), 75):
        chunk = [49406, *ids[start : start + 75], 49407]
        tokens = torch.tensor([chunk + [0] * (77 - len(chunk))])
        with torch.inference_mode():
            features.append(clip.model.encode_text(tokens).numpy()[0])  # type: ignore[operator]
    return np.mean(features, axis=0)


# ------------------------------------------------------------------------------------------------ features


def test_a_caption_of_one_chunk_is_what_truncation_gives(clip: ClipModel) -> None:
    cut, chunks = CaptionTower(clip), CaptionTower(clip, "chunk-mean")
    np.testing.assert_array_equal(chunks.encode(SHORT), cut.encode(SHORT))
    full = " ".join(["word"] * 75)
    assert cut.num_tokens([full]) == [77]
    np.testing.assert_array_equal(chunks.encode([full]), cut.encode([full]))
    assert not np.array_equal(chunks.encode([full + " word"]), cut.encode([full + " word"]))


def test_chunk_mean_is_the_mean_of_the_chunks(clip: ClipModel) -> None:
    found = CaptionTower(clip, "chunk-mean").encode([LONG, "a man", LONG + " end"])
    assert len(SimpleTokenizer().encode(LONG)) > 2 * 75
    for row, caption in zip(found, [LONG, "a man", LONG + " end"], strict=True):
        np.testing.assert_allclose(row, encode_by_hand(clip, caption), rtol=0, atol=1e-5)
    assert not np.allclose(found[0], found[2], atol=1e-4)  # the last word counts; truncation would lose it
    assert np.array_equal(*CaptionTower(clip).encode([LONG, LONG + " end"]))


@pytest.mark.parametrize("long_captions", ["truncate", "chunk-mean"])
def test_a_feature_does_not_depend_on_its_neighbours(clip: ClipModel, long_captions: str) -> None:
    tower = CaptionTower(clip, long_captions)
    captions = [LONG, *SHORT, LONG[:600], LONG[40:]]  # rows of different numbers of chunks, several batches of 4
    together = tower.encode(captions)
    assert together.shape == (len(captions), 64)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(tower.encode(captions[::-1]), together[::-1])
    for caption, row in zip(captions, together, strict=True):
        np.testing.assert_array_equal(tower.encode([caption])[0], row)
    assert tower.encode([]).shape == (0, 64)


def test_the_tower_sees_batches_of_one_shape(clip: ClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, run = [], clip.run
    monkeypatch.setattr(clip, "run", lambda method, batch: shapes.append(tuple(batch.shape)) or run(method, batch))
    for captions in ([LONG] * 3, ["a"], SHORT + SHORT[:1]):
        CaptionTower(clip, "chunk-mean").encode(captions)
        CaptionTower(clip).encode(captions)
    assert set(shapes) == {(4, 77)}


# ------------------------------------------------------------------------------------------------ options and recipe


def test_the_choice_is_in_the_recipe(clip: ClipModel) -> None:
    captioner = build_captioner(CaptionerConfig())
    cut, chunks = (TextEncoder(captioner, clip, long_captions=c).recipe() for c in ("truncate", "chunk-mean"))
    assert cut.pop("long_captions") == "truncate"
    assert chunks.pop("long_captions") == "chunk-mean of features that are not normalised"
    assert cut == chunks
    assert cut["captioner"] == captioner.recipe()
    preset = with_options(find_preset("tiny"), long_captions="chunk-mean")
    text: Any = build_encoder("text", preset)
    assert text.tower.long_captions == "chunk-mean"


def test_another_choice_is_refused(clip: ClipModel) -> None:
    for make in (
        lambda: with_options(find_preset("base"), long_captions="mean"),
        lambda: CaptionTower(clip, "mean"),
    ):
        with pytest.raises(ValueError, match="--long-captions takes truncate or chunk-mean, found 'mean'"):
            make()


# ------------------------------------------------------------------------------------------------ other tokenizers


def small_hf(folder: Path, **options: Any) -> HFTokenizer:
    """A tokenizer of whole words in the format of transformers, with the class and end tokens of BERT."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=plain, **names).save_pretrained(folder)
    return HFTokenizer(str(folder), context_length=5, **options)


def test_chunks_of_a_tokenizer_of_transformers(tmp_path: Path) -> None:
    tokenizer = small_hf(tmp_path)
    check_chunks(tokenizer)
    tokens, counts = chunk_captions(tokenizer, ["a b c d e f g h", "", "  a b "])
    assert counts == [3, 1, 1]
    assert tokens.tolist() == [[2, 4, 5, 6, 3], [2, 7, 8, 9, 3], [2, 10, 11, 3, 0], [2, 3, 0, 0, 0], [2, 4, 5, 3, 0]]
    texts = ["a b c", "", "h"]
    assert torch.equal(chunk_captions(tokenizer, texts)[0], tokenizer(texts))
    assert count_tokens(tokenizer, ["a b c d e f g h", "", "a"]) == [10, 2, 3]
    assert count_tokens(tokenizer, []) == []


def test_chunks_of_a_tokenizer_that_strips_its_end_token(tmp_path: Path) -> None:
    tokenizer = small_hf(tmp_path, strip_sep_token=True)
    tokens, _ = chunk_captions(tokenizer, ["a b c d"])
    assert tokens.tolist() == [[2, 4, 5, 6, 0], [2, 7, 0, 0, 0]]
    assert torch.equal(tokens[:1], tokenizer(["a b c d"]))


def test_siglips_tokenizer_cleans_as_it_does_itself(tmp_path: Path) -> None:
    tokenizer = SigLipTokenizer.__new__(SigLipTokenizer)  # its constructor would download a vocabulary
    tokenizer.tokenizer, tokenizer.context_length = small_hf(tmp_path).tokenizer, 5
    check_chunks(tokenizer)
    texts = ["A, b_c!"]
    assert torch.equal(chunk_captions(tokenizer, texts)[0], tokenizer(texts))
    assert chunk_captions(tokenizer, ["A, b_c! D"])[0].tolist() == [[2, 4, 5, 6, 3], [2, 7, 3, 0, 0]]
    assert count_tokens(tokenizer, ["A, b_c! D"]) == [6]


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    slow = small_hf(tmp_path)
    slow.tokenizer = SimpleNamespace(is_fast=False)
    for tokenizer, words in (
        (SimpleTokenizer(reduction_mask="simple"), "reduction mask"),
        (small_hf(tmp_path, tokenizer_mode="clips"), "class token"),
        (slow, "not one of the tokenizers library"),
        (str.split, "no kind that is known"),
    ):
        with pytest.raises(ValueError, match=rf"chunk-mean: this CLIP model's tokenizer.*{words}.*; use truncate"):
            check_chunks(tokenizer)
    assert count_tokens(str.split, ["a b"]) is None
    clip: Any = SimpleNamespace(tokenizer=str.split)
    with pytest.raises(ValueError, match="use truncate"):
        CaptionTower(clip, "chunk-mean")


def test_the_context_is_the_models(clip: ClipModel) -> None:
    assert CaptionTower(clip).context_length == 77
    short: Any = SimpleNamespace(
        tokenizer=open_clip.SimpleTokenizer(context_length=32), dim=64, config=clip.config, trained=False
    )
    assert CaptionTower(short, "chunk-mean").context_length == 32
    tokens, counts = chunk_captions(short.tokenizer, [" ".join(["word"] * 61)])
    assert (tuple(tokens.shape), counts) == ((3, 32), [3])
