"""The language half: LoRA merged as it would be applied, folders of any format, other folders refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, LlamaForCausalLM

from extract.encoders.minigpt.checkpoint import CheckpointError, lora_tensors
from extract.encoders.minigpt.llm import check_quantize, load_llm, merge_lora
from extract.encoders.minigpt.tiny import original_state, write_llm
from extract.encoders.minigpt.variants import VARIANTS, Variant, find_variant

V2, PLAIN = find_variant("minigpt-v2-tiny"), find_variant("minigpt4-tiny")
SCALE = 0.25  # alpha 16 / r 64
Lora = dict[tuple[int, str, str], torch.Tensor]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    write_llm(folder, V2)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(written, tmp_path / "llm")


@pytest.fixture
def lora() -> Lora:
    return lora_tensors(original_state(V2)[V2.checkpoint.file])


def load(folder: Path, variant: Variant = PLAIN, lora: Lora | None = None, **options: Any) -> LlamaForCausalLM:
    usual: dict[str, Any] = {"device": "cpu", "dtype": torch.float32, "quantize": None}
    return load_llm(folder, variant, lora or {}, **usual | options)


def inputs() -> torch.Tensor:
    """Embeddings (2, 9, 64), as images and words arrive."""
    return torch.randn((2, 9, 64), generator=torch.Generator().manual_seed(0))


def logits(llm: LlamaForCausalLM) -> torch.Tensor:
    with torch.inference_mode():
        return llm(inputs_embeds=inputs().to(llm.model.embed_tokens.weight.dtype)).logits


def assert_same(found: LlamaForCausalLM, expected: LlamaForCausalLM) -> None:
    a, b = found.state_dict(), expected.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# ------------------------------------------------------------------ LoRA


def beside(llm: LlamaForCausalLM, lora: Lora, scale: float = SCALE) -> LlamaForCausalLM:
    """A float64 copy with x -> W x + scale * B (A x), unmerged."""
    llm = copy.deepcopy(llm).double()
    for i, name in {key[:2] for key in lora}:
        a, b = (lora[i, name, part].double() for part in "AB")

        def add(_module: Any, args: Any, out: torch.Tensor, a: torch.Tensor = a, b: torch.Tensor = b) -> torch.Tensor:
            return out + scale * (args[0] @ a.T @ b.T)

        getattr(llm.model.layers[i].self_attn, f"{name}_proj").register_forward_hook(add)
    return llm


def test_merged_equals_unmerged(written: Path, lora: Lora) -> None:
    base, merged = load(written), load(written, V2, lora)
    assert len(lora) == 3 * 2 * 2
    expected = logits(beside(base, lora))
    assert expected.dtype == torch.float64
    found = logits(merged)
    assert (found - expected).abs().max() < 2e-5
    swapped = {(i, {"q": "v", "v": "q"}[name], part): m for (i, name, part), m in lora.items()}
    for wrong in (logits(base), logits(beside(base, lora, 1.0)), logits(beside(base, swapped))):
        assert (wrong - expected).abs().max() > 1e-2

    before, after = base.state_dict(), merged.state_dict()
    changed = {f"model.layers.{i}.self_attn.{n}_proj.weight": (i, n) for i in range(3) for n in "qv"}
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(changed)
    for name, key in changed.items():
        delta = SCALE * lora[*key, "B"].double() @ lora[*key, "A"].double()
        assert (after[name].double() - before[name].double() - delta).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_are_merged_in_float32(written: Path, lora: Lora, dtype: torch.dtype) -> None:
    base, merged = load(written, dtype=dtype).state_dict(), load(written, V2, lora, dtype=dtype).state_dict()
    for i in range(3):
        for n in "qv":
            name = f"model.layers.{i}.self_attn.{n}_proj.weight"
            exact = base[name].double() + SCALE * lora[i, n, "B"].double() @ lora[i, n, "A"].double()
            assert merged[name].dtype == dtype
            # Rounded once: at most half a step of the type, and a trifle for float32.
            step = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).smallest_normal)
            assert ((merged[name].double() - exact).abs() <= 0.501 * step + 1e-7).all()


def test_half_precision_lora_is_merged_in_float32(written: Path, lora: Lora) -> None:
    half = {key: matrix.half() for key, matrix in lora.items()}
    assert_same(load(written, V2, half), load(written, V2, {key: matrix.float() for key, matrix in half.items()}))


@pytest.mark.parametrize("key", [(0, "q", "A"), (1, "v", "B"), (2, "v", "A")])
def test_missing_lora_is_named(written: Path, lora: Lora, key: tuple[int, str, str]) -> None:
    del lora[key]
    with pytest.raises(CheckpointError, match=r"lacks layers\.{}\.self_attn\.{}_proj\.lora_{}$".format(*key)):
        load(written, V2, lora)


@pytest.mark.parametrize(("part", "shape"), [("A", (4, 63)), ("B", (65, 4)), ("A", (3, 64))])
def test_lora_of_another_shape_is_refused(written: Path, lora: Lora, part: str, shape: tuple[int, int]) -> None:
    lora[1, "q", part] = torch.zeros(shape)
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.self_attn\.q_proj: LoRA .* does not fit the weight \(64, 64\)"
    ):
        load(written, V2, lora)


def test_a_merge_happens_once(written: Path, lora: Lora) -> None:
    once, twice = load(written, V2, lora), load(written, V2, lora)
    merge_lora(twice, lora, SCALE)
    assert_same(load(written, V2, lora), once)
    assert not torch.equal(logits(once), logits(twice))


# ------------------------------------------------------------------ formats


def test_a_folder_is_read_as_transformers_reads_it(written: Path) -> None:
    llm = load(written)
    assert_same(llm, LlamaForCausalLM.from_pretrained(written, dtype=torch.float32))
    assert not llm.training
    assert not any(p.requires_grad for p in llm.parameters())
    assert {p.dtype for p in load(written, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def to_bin(folder: Path, num_shards: int) -> None:
    """The weights as ``pytorch_model.bin``, or its shards with their index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if num_shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = sorted(state)
    files = {name: f"pytorch_model-{1 + i % num_shards:05}-of-{num_shards:05}.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {"total_size": sum(v.nbytes for v in state.values())}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_bin_files_give_the_same_model(written: Path, folder: Path, lora: Lora, num_shards: int) -> None:
    to_bin(folder, num_shards)
    assert not list(folder.glob("*.safetensors"))
    assert_same(load(folder, V2, lora), load(written, V2, lora))


def test_rotary_buffers_of_old_files_are_ignored(written: Path, folder: Path) -> None:
    to_bin(folder, 1)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(3)}
    torch.save(state, folder / "pytorch_model.bin")
    assert_same(load(folder), load(written))


# ------------------------------------------------------------------ refusals


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("asked", ["minigpt4-vicuna-7b", "minigpt4-vicuna-13b", "minigpt4-llama2", "minigpt-v2"])
@pytest.mark.parametrize("given", ["minigpt4-vicuna-7b", "minigpt4-vicuna-13b", "minigpt4-tiny"])
def test_another_size_is_refused_with_the_variants_that_fit(folder: Path, asked: str, given: str) -> None:
    size, other = VARIANTS[asked].llm_size, VARIANTS[given].llm_size
    configure(
        folder, hidden_size=other.width, num_hidden_layers=other.num_layers, intermediate_size=other.mlp, head_dim=None
    )
    (folder / "model.safetensors").unlink()
    if size == other:
        with pytest.raises(CheckpointError, match=r"cannot be read: .*no file named model.safetensors"):
            load(folder, VARIANTS[asked])
        return
    expected, found = (rf"\({s.width}, {s.num_layers}, {s.mlp}\)" for s in (size, other))
    fitting = " or ".join(v.name for v in VARIANTS.values() if v.llm_size == other)
    message = f"not the language model of {asked}: .*{expected}, found {found}. It fits --captioner {fitting}.$"
    with pytest.raises(CheckpointError, match=message):
        load(folder, VARIANTS[asked])


def test_a_later_llama_of_the_same_width_is_refused(folder: Path) -> None:
    """Llama 3 8B has the width and the layers of Llama 2 7B."""
    configure(folder, hidden_size=4096, num_hidden_layers=32, intermediate_size=14336, num_key_value_heads=8)
    with pytest.raises(CheckpointError, match=r"14336.* It fits no variant known here"):
        load(folder, VARIANTS["minigpt4-llama2"])


def test_another_architecture_is_refused(folder: Path) -> None:
    GPT2Config(n_embd=64, n_layer=3).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"llm holds a gpt2 model; minigpt4-tiny needs llama-tiny$"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"model_type": "nonsense"}'])
def test_a_broken_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config.json is no model configuration: "):
        load(folder)


def test_no_folder_is_said(tmp_path: Path, folder: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(
            CheckpointError, match=r"no language model in .*: expected config.json, weights and tokenizer"
        ):
            load(place)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read: .*no file named model.safetensors"):
        load(folder)


def test_missing_tensors_are_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"], state["model.norm.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lacks 2 tensors .*: model.layers.1.mlp.up_proj.weight, model.norm.weight$"
    ):
        load(folder)


def test_tensors_of_another_shape_are_named(folder: Path) -> None:
    configure(folder, vocab_size=500)
    with pytest.raises(CheckpointError, match=r"2 tensors have .* lm_head.weight \(512, 64\) instead of \(500, 64\)"):
        load(folder)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"<html>no such file</html>", lambda b: b""])
def test_broken_weights_are_refused(folder: Path, binary: bool, spoil: Callable[[bytes], bytes]) -> None:
    if binary:
        to_bin(folder, 1)
    path = folder / ("pytorch_model.bin" if binary else "model.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"the language model in .* cannot be read: \w"):
        load(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    to_bin(folder, 3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00003.bin"):
        load(folder)


def test_nothing_in_a_bin_file_is_executed(folder: Path, tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch '{tmp_path / 'executed'}'",)

    to_bin(folder, 1)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"extra": Command()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)
    assert not (tmp_path / "executed").exists()


# ------------------------------------------------------------------ quantisation


def test_unknown_quantisation_is_refused(written: Path) -> None:
    with pytest.raises(ValueError, match="--caption-quantize takes int8 or int4, found 'int3'"):
        load(written, quantize="int3")


@pytest.mark.parametrize(("quantize", "library"), [("int8", "torchao"), ("int4", "bitsandbytes")])
def test_a_missing_library_is_said_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # importing it fails
    with pytest.raises(ValueError, match=rf"needs {library}: pip install 'crossgru\[quantize\]'"):
        load(tmp_path / "none", quantize=quantize)


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize(("quantize", "library", "error"), [("int8", "torchao", 0.02), ("int4", "bitsandbytes", 0.15)])
def test_quantised_models_say_about_the_same(
    written: Path, lora: Lora, quantize: str, library: str, error: float
) -> None:
    pytest.importorskip(library)
    check_quantize(quantize)
    lora = {key: 2 * matrix for key, matrix in lora.items()}  # what is lost without it is then more than the rounding
    exact, llm = load(written, V2, lora), load(written, V2, lora, quantize=quantize)
    packed = [
        name
        for name, m in llm.named_modules()
        if isinstance(m, torch.nn.Linear) and (type(m.weight.data) is not torch.Tensor or m.weight.dtype == torch.uint8)
    ]
    assert len(packed) == 3 * 7
    assert "lm_head" not in packed
    assert torch.equal(llm.model.embed_tokens.weight, exact.model.embed_tokens.weight)
    # One layer with LoRA in it; the logits of a random model depend on every rounding.
    x = inputs()
    expected = exact.model.layers[1].self_attn.q_proj(x)
    found = llm.model.layers[1].self_attn.q_proj(x)
    relative = ((found - expected).norm() / expected.norm()).item()
    without = load(written).model.layers[1].self_attn.q_proj(x)
    assert 0 < relative < error < ((without - expected).norm() / expected.norm()).item()
    assert logits(llm).isfinite().all()
    cosine = torch.nn.functional.cosine_similarity(logits(llm).flatten(), logits(exact).flatten(), dim=0)
    assert cosine > 0.8


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize(("quantize", "library"), [("int8", "torchao"), ("int4", "bitsandbytes")])
def test_a_quantised_row_does_not_depend_on_its_neighbours(written: Path, quantize: str, library: str) -> None:
    """LLM.int8() fails this: a large activation in one row changes how all rows are computed."""
    pytest.importorskip(library)
    layer = load(written, quantize=quantize).model.layers[0].mlp.down_proj
    rows = torch.randn(6, layer.in_features, generator=torch.Generator().manual_seed(0))
    louder = torch.cat([rows[:1], 100 * rows[1:]])
    with torch.inference_mode():
        assert torch.equal(layer(rows)[0], layer(louder)[0])
