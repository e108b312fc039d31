"""The vision half equals the formulas, and each of the mistakes that a port can make would be noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from extract.encoders.minigpt.captioner import MiniGptCaptioner
from extract.encoders.minigpt.checkpoint import rename_eva, rename_qformer
from extract.encoders.minigpt.tiny import original_state
from extract.encoders.minigpt.variants import BLIP2, EVA, VARIANTS, Variant
from extract.encoders.minigpt.vision import MiniGptVision, resize_table
from tests.extract.minigpt.reference import (
    CONCAT,
    MEAN,
    QFORMER,
    STD,
    TOYS,
    WRONG,
    Files,
    Reference,
    normalise,
    original_shapes,
    pictures_of,
    quiet,
    save_files,
    small_steps,
    with_own_norm,
)

TOLERANCE = 2e-5  # largest difference of image tokens of unit variance, float32 against float64
PUBLISHED = tuple(TOYS)
KINDS: dict[str, Callable[[Files, Variant], Files]] = {
    "as drawn": lambda files, variant: files,
    "quiet": lambda files, variant: quiet(files),
    "own norm": lambda files, variant: with_own_norm(quiet(files), variant),
}


@dataclass(frozen=True)
class Case:
    """A toy: its weights by original name, the model that loaded them, pictures, and what both say about them."""

    variant: Variant
    files: Files
    model: MiniGptVision
    pictures: torch.Tensor
    found: torch.Tensor
    right: torch.Tensor


Cases = Callable[..., Case]


def load(folder: Path, files: Files, variant: Variant) -> MiniGptVision:
    save_files(folder, files)
    return MiniGptVision.from_original(
        folder / EVA.file, folder / BLIP2.file, folder / variant.checkpoint.file, variant
    )


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).square().mean().sqrt().item()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    @cache
    def make(name: str, kind: str = "quiet", seed: int = 0) -> Case:
        variant = TOYS[name]
        files = KINDS[kind](original_state(variant, seed), variant)
        model = load(tmp_path_factory.mktemp("files"), files, variant)
        pictures = pictures_of(variant, seed=seed)
        return Case(
            variant, files, model, pictures, model.encode(pictures), Reference(files, variant).image_tokens(pictures)
        )

    return make


# ------------------------------------------------------------------ right


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_image_tokens_equal_the_formulas(case: Cases, name: str, kind: str, seed: int) -> None:
    toy = case(name, kind, seed)
    variant = toy.variant
    assert toy.found.shape == (len(toy.pictures), variant.num_image_tokens, variant.llm_size.width)
    assert toy.found.dtype == torch.float32
    assert 0.5 < toy.right.std() < 2  # the tolerance is an absolute one
    assert difference(toy.right[0], toy.right[1]) > 0.1
    assert difference(toy.found, toy.right) <= TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_pictures_do_not_depend_on_their_batch(case: Cases, name: str) -> None:
    toy = case(name)
    alone = torch.cat([toy.model.encode(picture[None]) for picture in toy.pictures])
    assert difference(alone, toy.found) <= TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_eager_attention_agrees(case: Cases, name: str) -> None:
    toy = case(name)
    eager = copy.deepcopy(toy.model)
    for part in (eager.vit, eager.qformer):
        if part is not None:
            assert part.config._attn_implementation == "sdpa"
            part.set_attn_implementation("eager")
            assert part.config._attn_implementation == "eager"
    found = eager.encode(toy.pictures)
    assert difference(found, toy.found) <= TOLERANCE
    assert difference(found, toy.right) <= TOLERANCE


# ------------------------------------------------------------------ wrong


@pytest.mark.parametrize(("wrong", "name"), [(wrong, name) for wrong, names in WRONG.items() for name in names])
def test_a_mistake_would_be_noticed(case: Cases, wrong: str, name: str) -> None:
    toy = case(name, "own norm" if wrong == "own ln_vision ignored" else "quiet")
    mistaken = Reference(toy.files, toy.variant, wrong).image_tokens(toy.pictures)
    assert difference(mistaken, toy.right) > 5 * TOLERANCE
    assert difference(mistaken, toy.found) > 4 * TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_eps_of_norms_is_theirs(name: str) -> None:
    with torch.device("meta"):
        model = MiniGptVision(TOYS[name])
    eps = {path: m.eps for path, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    assert eps.pop("vit.post_layernorm") == 1e-5
    assert {value for path, value in eps.items() if path.startswith("vit.")} == {1e-6}
    assert {value for path, value in eps.items() if path.startswith("qformer.")} == (
        {1e-12} if name in QFORMER else set()
    )


@pytest.mark.parametrize("name", CONCAT)
def test_blip2_file_is_not_touched_without_a_qformer(case: Cases, name: str, tmp_path: Path) -> None:
    toy = case(name)
    save_files(tmp_path, {k: v for k, v in toy.files.items() if k != BLIP2.file})
    (tmp_path / BLIP2.file).write_text("no checkpoint")
    for blip2 in (tmp_path / BLIP2.file, None):
        model = MiniGptVision.from_original(
            tmp_path / EVA.file, blip2, tmp_path / toy.variant.checkpoint.file, toy.variant
        )
        assert torch.equal(model.encode(toy.pictures), toy.found)


# ------------------------------------------------------------------ position table


@pytest.mark.parametrize(("old", "new"), [(4, 8), (16, 32), (5, 7), (8, 4)])
def test_table_is_resized_as_by_hand(old: int, new: int) -> None:
    variant = replace(TOYS["minigpt-v2"], vision=replace(TOYS["minigpt-v2"].vision, table=old))
    files = original_state(variant)
    expected = Reference(files, variant)._table(new)
    resized = resize_table(files[EVA.file]["pos_embed"], new)
    assert resized.shape == (1, 1 + new**2, variant.vision.width)
    assert torch.equal(resized[:, 0], files[EVA.file]["pos_embed"][:, 0])
    assert difference(resized, expected) <= 5e-6  # float32 positions of the pixels


def test_table_of_half_precision_is_resized_in_float32() -> None:
    table = torch.randn((1, 17, 8), generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(resize_table(table, 8), resize_table(table.float(), 8))
    assert resize_table(table, 8).dtype == torch.float32


# ------------------------------------------------------------------ 16 bit


@pytest.mark.parametrize("name", ["minigpt4-vicuna-7b", "minigpt-v2"])
def test_16_bit_keeps_the_residual_stream(name: str, tmp_path: Path) -> None:
    variant = replace(TOYS[name], vision=replace(TOYS[name].vision, num_blocks=24))  # rounding adds up over blocks
    files = small_steps(original_state(variant))
    model, pictures, reference = load(tmp_path, files, variant), pictures_of(variant), Reference(files, variant)
    plain = copy.deepcopy(model).to(torch.bfloat16)
    model.place("cpu", torch.bfloat16)

    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert {m.weight.dtype for m in linear} == {torch.bfloat16}
    inside = {id(p) for m in linear for p in m.parameters()}
    others = {path: p for path, p in model.named_parameters() if id(p) not in inside}
    assert {"vit.embeddings.position_embedding", "vit.embeddings.class_embedding"} < set(others)
    assert {p.dtype for p in others.values()} == {torch.float32}

    streams: list[torch.dtype] = []
    tokens: list[torch.Tensor] = []
    for module in (model.vit.embeddings, *model.vit.encoder.layers):
        module.register_forward_hook(
            lambda _m, _a, out: streams.append((out[0] if isinstance(out, tuple) else out).dtype)
        )
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_hook(lambda _m, args, out: streams.extend([args[0].dtype, out.dtype]))
    model.vit.register_forward_hook(lambda _m, _a, out: tokens.append(out.last_hidden_state))
    found = model.encode(pictures)
    assert set(streams) == {torch.float32}
    assert found.dtype == torch.bfloat16

    right = reference._ln_vision(reference.vit(normalise(pictures)))
    plain_tokens = plain.vit(pixel_values=normalise(pictures).bfloat16()).last_hidden_state
    assert rms(tokens[0], right) < rms(plain_tokens, right) / 2  # about a quarter
    expected = reference.image_tokens(pictures)
    assert rms(found, expected) < rms(_without_autocast(plain, plain_tokens), expected)
    assert rms(found, expected) < 0.02


def _without_autocast(model: MiniGptVision, tokens: torch.Tensor) -> torch.Tensor:
    """The bridge of a model that was cast as a whole."""
    if model.qformer is None:
        return model.llama_proj(tokens[:, 1:].reshape(len(tokens), -1, model.variant.bridge_width))
    assert model.query_tokens is not None
    queries = model.query_tokens.expand(len(tokens), -1, -1)
    return model.llama_proj(model.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state)


def test_float32_placement_changes_nothing(case: Cases) -> None:
    toy = case("minigpt4-vicuna-7b")
    model = copy.deepcopy(toy.model).place("cpu", torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.encode(toy.pictures), toy.found)


# ------------------------------------------------------------------ pictures


def test_pictures_are_normalised_as_by_torchvision(case: Cases) -> None:
    toy = case("minigpt4-vicuna-7b")
    pixels: list[torch.Tensor] = []
    handle = toy.model.register_forward_pre_hook(lambda _m, args: pixels.append(args[0]))
    toy.model.encode(toy.pictures)
    handle.remove()
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    expected = torch.stack([usual(Image.fromarray(picture.numpy())) for picture in toy.pictures])
    torch.testing.assert_close(pixels[0], expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (5, 7), (224, 224), (720, 1280)])
@pytest.mark.parametrize("size", [224, 448])
def test_pictures_are_resized_as_by_torchvision(shape: tuple[int, int], size: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    captioner = MiniGptCaptioner.__new__(MiniGptCaptioner)
    captioner.variant = SimpleNamespace(image_size=size)  # type: ignore[assignment]
    found = captioner.prepare(frame)
    resize = transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.asarray(resize(Image.fromarray(frame))))


# ------------------------------------------------------------------ full size


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_files_fill_the_full_size_model(name: str) -> None:
    variant = VARIANTS[name]
    with torch.device("meta"):
        model = MiniGptVision(variant)
        files = {f: {k: torch.empty(s) for k, s in shapes.items()} for f, shapes in original_shapes(variant).items()}
    eva = rename_eva(files[EVA.file], variant.vision.num_blocks)
    table = "embeddings.position_embedding"
    eva[table] = resize_table(eva[table], variant.image_size // variant.vision.patch)
    found = {f"vit.{k}": v for k, v in eva.items()}
    qformer = rename_qformer(files[BLIP2.file])
    found |= {f"qformer.{k}": v for k, v in qformer.items()}
    found |= {k: v for k, v in files[variant.checkpoint.file].items() if k.startswith("llama_proj.")}
    found |= {k: v for k, v in files[BLIP2.file].items() if k == "query_tokens"}
    norms = {f"vit.post_layernorm.{k}": torch.empty(1408, device="meta") for k in ("weight", "bias")}
    expected = {k: v.shape for k, v in model.state_dict().items()}
    assert {k: v.shape for k, v in (found | norms).items()} == expected

    assert len(files[EVA.file]) == 511 + 13  # 39 blocks are used, the file has 40
    assert len(eva) == 472
    assert round(sum(v.numel() for v in eva.values()) / 1e5) == (9859 if variant.image_size == 224 else 9870)
    if name in QFORMER:
        assert len(qformer) == 254
        assert model.qformer is not None
        assert round(sum(p.numel() for p in model.qformer.parameters()) / 1e5) == 1051
        assert model.query_tokens is not None
        assert model.query_tokens.shape == (1, 32, 768)
    else:
        assert model.qformer is model.query_tokens is None
    inputs, outputs, tokens = {
        "minigpt4-vicuna-7b": (768, 4096, 32),
        "minigpt4-vicuna-13b": (768, 5120, 32),
        "minigpt4-llama2": (5632, 4096, 64),
        "minigpt-v2": (5632, 4096, 256),
    }[name]
    assert model.llama_proj.weight.shape == (outputs, inputs)
    assert variant.num_image_tokens == tokens


@pytest.mark.parametrize("name", PUBLISHED)
def test_toy_files_hold_what_the_published_ones_do(name: str) -> None:
    files = original_state(TOYS[name])
    for file, shapes in original_shapes(TOYS[name]).items():
        assert shapes.items() <= {k: tuple(v.shape) for k, v in files[file].items()}.items()
    assert set(files[EVA.file]) == set(original_shapes(TOYS[name])[EVA.file])
