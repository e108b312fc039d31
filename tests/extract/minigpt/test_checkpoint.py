"""Files in any of their layouts give the same model; files that are not what is needed are refused by name."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

from extract.encoders.minigpt.checkpoint import (
    CheckpointError,
    blip2_shards,
    bridge_tensors,
    lora_tensors,
    read_file,
    rename_eva,
)
from extract.encoders.minigpt.tiny import original_state
from extract.encoders.minigpt.variants import BLIP2, EVA, VARIANTS, Variant
from extract.encoders.minigpt.vision import MiniGptVision
from extract.encoders.quiet import quiet as without_bars
from tests.extract.minigpt.reference import TOYS, original_shapes, save_files, with_own_norm

VICUNA, LLAMA2, V2 = (TOYS[name] for name in ("minigpt4-vicuna-7b", "minigpt4-llama2", "minigpt-v2"))
OWN = VICUNA.checkpoint.file
Weights = dict[str, dict[str, torch.Tensor]]


@pytest.fixture
def files() -> Weights:
    return original_state(VICUNA)


def load(folder: Path, variant: Variant = VICUNA) -> MiniGptVision:
    return MiniGptVision.from_original(
        folder / EVA.file, folder / BLIP2.file, folder / variant.checkpoint.file, variant
    )


def save_and_load(folder: Path, files: Weights, variant: Variant = VICUNA) -> MiniGptVision:
    save_files(folder, files)
    return load(folder, variant)


def assert_same(found: MiniGptVision, expected: MiniGptVision) -> None:
    a, b = found.state_dict(), expected.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# ------------------------------------------------------------------ layouts


@pytest.mark.parametrize("variant", [VICUNA, V2], ids=lambda v: v.name)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_layout_gives_the_same_model(variant: Variant, nested: bool, zipped: bool, tmp_path: Path) -> None:
    files = original_state(variant)
    expected = save_and_load(tmp_path, files, variant)
    for name, tensors in files.items():
        content = {"model": tensors, "epoch": 4, "config": {"a": [1]}} if nested else tensors
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_same(load(tmp_path, variant), expected)


def test_what_is_not_needed_is_ignored(files: Weights, tmp_path: Path) -> None:
    expected = save_and_load(tmp_path, files)
    needed = original_shapes(VICUNA)
    least = {f: {k: v for k, v in tensors.items() if k in needed[f]} for f, tensors in files.items()}
    least[EVA.file] = {k: v for k, v in least[EVA.file].items() if not k.startswith("blocks.3.")}
    assert sum(map(len, least.values())) < sum(map(len, files.values())) - 40
    assert_same(save_and_load(tmp_path, least), expected)

    more: dict[str, dict[str, Any]] = {f: dict(tensors) for f, tensors in files.items()}
    more[EVA.file] |= {"head.weight": torch.ones(3), "note": "text", "blocks.39.attn.q_bias": torch.ones(1)}
    more[BLIP2.file] |= {"Qformer.cls.predictions.bias": torch.ones(2), "t5_model.shared.weight": torch.ones(2, 2)}
    more[OWN] |= {"query_tokens": torch.ones(1), "visual_encoder.cls_token": torch.ones(1), "step": 7}
    assert_same(save_and_load(tmp_path, more), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_files_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    half = {f: {k: v.to(dtype) for k, v in t.items()} for f, t in original_state(V2).items()}
    model = save_and_load(tmp_path, half, V2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same(model, save_and_load(tmp_path, {f: {k: v.float() for k, v in t.items()} for f, t in half.items()}, V2))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_loaded_model_does_not_change_with_its_files(zipped: bool, files: Weights, tmp_path: Path) -> None:
    for name, tensors in files.items():
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=zipped)
    model = load(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in files:
        size = (tmp_path / name).stat().st_size
        with (tmp_path / name).open("r+b") as file:  # in place, as a second download would
            file.write(bytes(size))
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []


@pytest.mark.parametrize("variant", [VICUNA, LLAMA2], ids=lambda v: v.name)
def test_ln_vision_comes_from_the_checkpoint_if_it_is_there(variant: Variant, tmp_path: Path) -> None:
    files = original_state(variant)
    norm = save_and_load(tmp_path, files, variant).vit.post_layernorm
    if variant.qformer is None:
        assert torch.equal(norm.weight, torch.ones(48))
        assert torch.equal(norm.bias, torch.zeros(48))
    else:
        assert torch.equal(norm.weight, files[BLIP2.file]["ln_vision.weight"])
        assert torch.equal(norm.bias, files[BLIP2.file]["ln_vision.bias"])
    own = with_own_norm(files, variant)
    norm = save_and_load(tmp_path, own, variant).vit.post_layernorm
    assert torch.equal(norm.weight, own[variant.checkpoint.file]["ln_vision.weight"])
    assert torch.equal(norm.bias, own[variant.checkpoint.file]["ln_vision.bias"])


# ------------------------------------------------------------------ incomplete


def test_every_needed_tensor_is_missed(files: Weights, tmp_path: Path) -> None:
    """One name of each kind: numbers in names set aside."""
    save_files(tmp_path, files)
    kinds = {
        (file, re.sub(r"\.\d+\.", ".#.", name)): name
        for file, shapes in original_shapes(VICUNA).items()
        for name in shapes
        if not name.startswith("blocks.3.")  # the file's last block
    }
    assert len(kinds) == 4 + 13 + 5 + 26 + 2
    for (file, _), name in kinds.items():
        torch.save({k: v for k, v in files[file].items() if k != name}, tmp_path / file)
        told = re.escape(re.sub(r"\.[qv]_bias", ".q_bias or v_bias", name))
        with pytest.raises(CheckpointError, match=f"(needed tensors are missing: |has no ){told}"):
            load(tmp_path)
        torch.save(files[file], tmp_path / file)
    load(tmp_path)


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        (EVA.file, "blocks.1.mlp.fc1.weight", "1 of .* missing: blocks.1.mlp.fc1.weight$"),
        (EVA.file, "blocks.2.attn.q_bias", "missing: blocks.2.attn.q_bias or v_bias$"),
        (EVA.file, "pos_embed", "missing: pos_embed$"),
        (BLIP2.file, "query_tokens", "missing: query_tokens$"),
        (BLIP2.file, "ln_vision.bias", "missing: ln_vision.bias$"),
        (
            BLIP2.file,
            "Qformer.bert.encoder.layer.2.crossattention.self.key.weight",
            "missing: Qformer.bert.encoder.layer.2.crossattention.self.key.weight$",
        ),
        (OWN, "llama_proj.weight", f"{OWN} has no llama_proj.weight"),
        (OWN, "llama_proj.bias", f"{OWN} has no llama_proj.bias"),
    ],
)
def test_missing_tensors_are_named(files: Weights, file: str, name: str, message: str, tmp_path: Path) -> None:
    del files[file][name]
    with pytest.raises(CheckpointError, match=message):
        save_and_load(tmp_path, files)


def test_many_missing_tensors_are_counted(files: Weights, tmp_path: Path) -> None:
    files[EVA.file] = {k: v for k, v in files[EVA.file].items() if ".norm" not in k}
    with pytest.raises(CheckpointError, match=r"12 of \d+ needed tensors are missing: .* and 8 more$") as error:
        save_and_load(tmp_path, files)
    assert all(name in str(error.value) for name in (VICUNA.name, EVA.file, BLIP2.file, OWN))


@pytest.mark.parametrize(
    ("file", "name", "shape", "message"),
    [
        (EVA.file, "blocks.1.mlp.fc1.weight", (95, 48), r"mlp.fc1.weight \(95, 48\) instead of \(96, 48\)"),
        (EVA.file, "patch_embed.proj.weight", (48, 3, 16, 16), r"\(48, 3, 16, 16\) instead of \(48, 3, 14, 14\)"),
        (EVA.file, "pos_embed", (1, 31, 48), "position table has 31 rows; expected 1 [+] a square number"),
        (EVA.file, "pos_embed", (1, 26, 40), r"pos_embed \(1, 17, 40\) instead of \(1, 17, 48\)"),
        (BLIP2.file, "query_tokens", (1, 9, 32), r"query_tokens \(1, 9, 32\) instead of \(1, 8, 32\)"),
        (BLIP2.file, "ln_vision.weight", (47,), r"ln_vision.weight \(47,\) instead of \(48,\)"),
        (OWN, "llama_proj.bias", (23,), r"llama_proj.bias \(23,\) instead of \(24,\)"),
        (OWN, "llama_proj.weight", (25, 32), r"expected .* \(24, 32\).*found \(25, 32\).*fits no variant known here"),
    ],
)
def test_wrong_shapes_are_named(
    files: Weights, file: str, name: str, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    files[file][name] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=message):
        save_and_load(tmp_path, files)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("file", "name", "named"),
    [
        (EVA.file, "blocks.0.norm1.weight", "blocks.0.norm1.weight"),
        (BLIP2.file, "query_tokens", "query_tokens"),
        (OWN, "llama_proj.weight", "llama_proj.weight"),
    ],
)
def test_values_that_are_not_finite_are_refused(
    files: Weights, file: str, name: str, named: str, value: float, tmp_path: Path
) -> None:
    files[file][name].view(-1)[1] = value
    with pytest.raises(CheckpointError, match=f"not finite in {named}$"):
        save_and_load(tmp_path, files)


def test_half_an_attention_bias_is_no_bias(files: Weights) -> None:
    del files[EVA.file]["blocks.1.attn.v_bias"]
    renamed = rename_eva(files[EVA.file], 3)
    assert "encoder.layers.1.self_attn.qkv.bias" not in renamed
    assert renamed["encoder.layers.0.self_attn.qkv.bias"][48:96].eq(0).all()


# ------------------------------------------------------------------ another variant's


def own_file(variant: Variant) -> dict[str, torch.Tensor]:
    """The checkpoint of a published variant at its real size."""
    rows, columns = variant.llm_size.width, variant.bridge_width
    tensors = {"llama_proj.weight": torch.zeros(rows, columns), "llama_proj.bias": torch.zeros(rows)}
    if variant.lora_scale is not None:
        prefix = "llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_"
        tensors |= {f"{prefix}{part}.default.weight": torch.zeros(1) for part in "AB"}
    return tensors


@pytest.mark.parametrize("asked", TOYS)
@pytest.mark.parametrize("given", TOYS)
def test_another_variants_checkpoint_is_refused_with_the_one_that_fits(asked: str, given: str) -> None:
    with torch.device("meta"):
        tensors = own_file(VARIANTS[given])
    if asked == given:
        assert bridge_tensors(tensors, VARIANTS[asked], Path("x.pth")).keys() == {
            "llama_proj.weight",
            "llama_proj.bias",
        }
        return
    with pytest.raises(CheckpointError, match=rf"x.pth is not of {asked}: .*It fits --captioner {given}\.$"):
        bridge_tensors(tensors, VARIANTS[asked], Path("x.pth"))


def test_another_variants_checkpoint_is_refused_before_the_large_files(tmp_path: Path) -> None:
    torch.save({"model": own_file(VARIANTS["minigpt4-vicuna-13b"])}, tmp_path / "own.pth")
    message = (
        r"own.pth is not of minigpt4-vicuna-7b: expected llama_proj.weight \(4096, 768\) without LoRA weights, found "
        r"\(5120, 768\) without them. It fits --captioner minigpt4-vicuna-13b.$"
    )
    with pytest.raises(CheckpointError, match=message):
        MiniGptVision.from_original("none.pth", "none.pth", tmp_path / "own.pth", "minigpt4-vicuna-7b")


def test_a_qformer_needs_its_file(files: Weights, tmp_path: Path) -> None:
    save_files(tmp_path, files)
    with pytest.raises(CheckpointError, match="has a Q-Former: its BLIP-2 file is needed"):
        MiniGptVision.from_original(tmp_path / EVA.file, None, tmp_path / OWN, VICUNA)


def test_unknown_variants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="minigpt4-vicuna-7b"):
        MiniGptVision.from_original(tmp_path, tmp_path, tmp_path, "minigpt4-vicuna-7bb")


@pytest.mark.parametrize("prefix", ["llama_model.base_model.model.model.", "base_model.model.model.", "model."])
@pytest.mark.parametrize("suffix", [".default.weight", ".weight"])
def test_lora_is_found_by_its_names(prefix: str, suffix: str) -> None:
    matrices = {(i, n, p): torch.zeros(1) for i in (0, 31) for n in "qv" for p in "AB"}
    named = {f"{prefix}layers.{i}.self_attn.{n}_proj.lora_{p}{suffix}": m for (i, n, p), m in matrices.items()}
    found = lora_tensors(named | {"llama_proj.weight": torch.zeros(1)})
    assert found.keys() == matrices.keys()
    assert all(found[key] is matrices[key] for key in matrices)


@pytest.mark.parametrize("name", ["layers.0.self_attn.k_proj", "layers.0.mlp.up_proj", "lm_head"])
def test_lora_of_other_matrices_is_refused(name: str) -> None:
    key = f"llama_model.base_model.model.model.{name}.lora_A.default.weight"
    with pytest.raises(CheckpointError, match=f"q_proj and v_proj only, found {key}"):
        lora_tensors({key: torch.zeros(1)})


# ------------------------------------------------------------------ unreadable


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_off_files_are_refused(zipped: bool, files: Weights, tmp_path: Path) -> None:
    path = tmp_path / OWN
    torch.save({"model": files[OWN]}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    assert read_file(path).keys() == files[OWN].keys()
    for size in range(0, len(whole), len(whole) // 97):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"{OWN} cannot be read as a torch checkpoint of plain tensors"):
            read_file(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>",
        b"PK\x03\x04 no archive",
        b"\x80\x04.",
    ],
)
@pytest.mark.parametrize("file", [EVA.file, BLIP2.file, OWN])
def test_other_files_are_refused(content: bytes, file: str, files: Weights, tmp_path: Path) -> None:
    save_files(tmp_path, files)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file} cannot be read as a torch checkpoint"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", [[1, 2], torch.ones(3), {"a": 1}, {"model": {"a": "text"}}, {"model": torch.ones(2)}]
)
def test_other_contents_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth holds no tensors by name; expected a state dict"):
        read_file(tmp_path / "x.pth")


class Command:
    """Unpickling this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("file", [EVA.file, OWN])
def test_nothing_in_a_file_is_executed(layout: str, file: str, files: Weights, tmp_path: Path) -> None:
    save_files(tmp_path, files)
    marker = tmp_path / "executed"
    content = {"model": files[file], "extra": Command(f"touch '{marker}'")}
    if layout == "pickle":
        (tmp_path / file).write_bytes(pickle.dumps(Command(f"touch '{marker}'")))
    else:
        torch.save(content, tmp_path / file, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(CheckpointError, match=f"{file} cannot be read") as error:
        load(tmp_path)
    assert "weights_only" not in str(error.value)  # torch advises to switch it off
    assert not marker.exists()
    if layout == "pickle":
        pickle.loads((tmp_path / file).read_bytes())
        assert marker.exists()  # it would have run


@pytest.mark.parametrize("file", [EVA.file, BLIP2.file, OWN])
def test_missing_files_are_named(file: str, files: Weights, tmp_path: Path) -> None:
    save_files(tmp_path, files)
    (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match=rf"no file .*{file}; .*extract doctor"):
        load(tmp_path)


# ------------------------------------------------------------------ the hub's folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of ``original_state(VICUNA)`` as transformers writes a BLIP-2 model, in several shards."""
    folder = tmp_path_factory.mktemp("hub")
    source = save_and_load(tmp_path_factory.mktemp("files"), original_state(VICUNA))
    assert source.qformer is not None
    assert source.query_tokens is not None
    text = OPTConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=16
    )
    blip2 = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=source.vit.config.to_dict(),
            qformer_config=source.qformer.config.to_dict(),
            text_config=text.to_dict(),
            num_query_tokens=8,
        )
    )
    parts = {"vision_model.": source.vit, "qformer.": source.qformer}
    state = {prefix + k: v for prefix, module in parts.items() for k, v in module.state_dict().items()}
    result = blip2.load_state_dict(state | {"query_tokens": source.query_tokens}, strict=False)
    assert result.unexpected_keys == []
    assert {key.split(".")[0] for key in result.missing_keys} == {"language_model", "language_projection"}
    with without_bars():
        blip2.save_pretrained(folder, max_shard_size="60KB")
    return folder


@pytest.fixture
def hub_copy(hub: Path, tmp_path: Path) -> Path:
    return shutil.copytree(hub, tmp_path / "hub")


@pytest.mark.parametrize("eva_from_hub", [True, False])
@pytest.mark.parametrize("blip2_from_hub", [True, False])
def test_the_hubs_folder_gives_the_same_model(
    hub: Path, eva_from_hub: bool, blip2_from_hub: bool, files: Weights, tmp_path: Path
) -> None:
    expected = save_and_load(tmp_path, files)
    model = MiniGptVision.from_original(
        hub if eva_from_hub else tmp_path / EVA.file,
        hub if blip2_from_hub else tmp_path / BLIP2.file,
        tmp_path / OWN,
        VICUNA,
    )
    assert_same(model, expected)


def test_the_hubs_folder_needs_neither_index_nor_prefix(hub_copy: Path, files: Weights, tmp_path: Path) -> None:
    expected = save_and_load(tmp_path, files)
    (hub_copy / "model.safetensors.index.json").unlink()
    for shard in hub_copy.glob("*.safetensors"):
        save_file({f"model.{k}": v for k, v in load_file(shard).items()}, shard, {"format": "pt"})
    assert_same(MiniGptVision.from_original(hub_copy, hub_copy, tmp_path / OWN, VICUNA), expected)


@pytest.mark.parametrize("variant", [LLAMA2, V2], ids=lambda v: v.name)
def test_the_hubs_norm_is_not_used_without_a_qformer(hub: Path, variant: Variant, tmp_path: Path) -> None:
    # Seed 0 draws EVA's weights first: they are those of ``hub``.
    files = original_state(variant)
    expected = save_and_load(tmp_path, files, variant)
    for blip2 in (None, hub):
        model = MiniGptVision.from_original(hub, blip2, tmp_path / variant.checkpoint.file, variant)
        assert torch.equal(model.vit.post_layernorm.weight, torch.ones(48))
        assert torch.equal(model.vit.post_layernorm.bias, torch.zeros(48))
        assert_same(model, expected)
    own = with_own_norm(files, variant)
    expected = save_and_load(tmp_path, own, variant)
    assert_same(MiniGptVision.from_original(hub, None, tmp_path / variant.checkpoint.file, variant), expected)


def test_shards_of_the_language_model_are_not_needed(hub_copy: Path, files: Weights, tmp_path: Path) -> None:
    save_files(tmp_path, files)
    needed = blip2_shards(hub_copy)
    others = set(hub_copy.glob("*.safetensors")) - set(needed)
    assert others
    for shard in others:
        shard.unlink()
    MiniGptVision.from_original(hub_copy, hub_copy, tmp_path / OWN, VICUNA)

    needed[1].unlink()
    with pytest.raises(CheckpointError, match=f"{needed[1].name} cannot be read as safetensors"):
        MiniGptVision.from_original(hub_copy, hub_copy, tmp_path / OWN, VICUNA)


def test_broken_folders_are_refused(hub_copy: Path, files: Weights, tmp_path: Path) -> None:
    save_files(tmp_path, files)

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            MiniGptVision.from_original(hub_copy, hub_copy, tmp_path / OWN, VICUNA)

    shard, index = blip2_shards(hub_copy)[0], hub_copy / "model.safetensors.index.json"
    whole, listed = shard.read_bytes(), index.read_text()
    shard.write_bytes(whole[: len(whole) // 2])
    refused(f"{shard.name} cannot be read as safetensors")
    tensors = load_file(hub_copy / blip2_shards(hub_copy)[1].name)
    save_file(tensors, shard, {"format": "pt"})
    refused("needed tensors are missing: ")
    shard.write_bytes(whole)
    for text in ("{", "[]", "{}", json.dumps({"weight_map": [1]})):
        index.write_text(text)
        refused("index.json cannot be read")
    index.write_text(listed)
    MiniGptVision.from_original(hub_copy, hub_copy, tmp_path / OWN, VICUNA)

    for path in (index, *hub_copy.glob("*.safetensors")):
        path.unlink()
    refused("has no .safetensors file; expected a download of Salesforce/blip2-flan-t5-xxl")
