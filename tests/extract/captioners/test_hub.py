"""Hub captioners say what their models say when used directly, always greedily, and refuse what they cannot load."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2LMHeadModel,
)
from typer.testing import Result

from extract.config import CaptionerConfig
from extract.encoders.captioners import build_captioner, check_captioner
from extract.encoders.captioners.hub import PROMPT, HubCaptioner
from extract.encoders.captioners.hub_files import choose_dtype
from extract.video import open_video
from shared.cache import FeatureCache
from tests.extract.captioners.tiny_hub import FAMILIES, SIZE, WORDS, make_tokenizer, save
from tests.extract.support import write_video

NAME = "hf-hub:tiny/model"
SHAPES = [(90, 160), (160, 90), (5, 7), (448, 448), (32, 32)]  # H, W
BLIPS = [name for name in FAMILIES if "blip" in name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    for name, write in FAMILIES.items():
        write(root / name)
    return {name: root / name for name in FAMILIES}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of BLIP-2 to spoil."""
    return shutil.copytree(folders["blip2-opt"], tmp_path / "model")


def make(weights: Path, **options: Any) -> HubCaptioner:
    usual: dict[str, Any] = {"name": NAME, "weights": str(weights), "max_new_tokens": 8, "batch_size": 4}
    return HubCaptioner(CaptionerConfig(**usual | options))


def pictures(num: int = 6) -> list[np.ndarray]:
    """uint8 frames of different shapes and contents."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)) for _ in range(num)]
    return [np.asarray(c.resize(SHAPES[i % len(SHAPES)][::-1], Image.Resampling.NEAREST)) for i, c in enumerate(coarse)]


def ask(captioner: HubCaptioner, frames: list[np.ndarray]) -> list[str]:
    return captioner.caption(np.stack([captioner.prepare(frame) for frame in frames])[:, None])


def ask_directly(folder: Path, image: Image.Image, prompt: str, **options: Any) -> str:
    """The model as its documentation uses it, one picture at a time."""
    processor = AutoProcessor.from_pretrained(folder)
    if not processor.chat_template:  # of the two paths that round differently, the one that is ours
        processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    if processor.chat_template:
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    else:
        inputs = processor(images=image, text=prompt or None, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=8, **options)
    spoken = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    # In this vocabulary one word is one token, so the question can be taken off the words.
    asked = (
        processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True) if "input_ids" in inputs else ""
    )
    return spoken.removeprefix(asked.strip()).strip()


# ------------------------------------------------------------------------------------------------ parity


@pytest.mark.parametrize("name", BLIPS)
def test_captions_equal_the_models_own(folders: dict[str, Path], name: str) -> None:
    prompt = PROMPT if name == "instructblip" else ""
    own = [ask_directly(folders[name], Image.fromarray(frame), prompt) for frame in pictures()]
    assert ask(make(folders[name]), pictures()) == own
    assert len(set(own)) > 1


@pytest.mark.parametrize("name", ["blip2-opt", "blip2-t5", "instructblip", "qwen3-vl"])
def test_a_question_is_asked_and_not_repeated(folders: dict[str, Path], name: str) -> None:
    captioner = make(folders[name], prompt="what do you see?")
    frames = [captioner.prepare(frame) for frame in pictures()]
    own = [ask_directly(folders[name], Image.fromarray(frame), "what do you see?") for frame in frames]
    found = ask(captioner, frames)
    assert found == own
    assert not any("what do you see?" in caption for caption in found)
    assert found != ask(make(folders[name]), frames)


def test_letterboxed_pictures_are_captioned_as_the_model_does(folders: dict[str, Path]) -> None:
    """Qwen: the model's own path on our square pictures, its own resize included; a fitting one is not changed."""
    captioner = make(folders["qwen3-vl"])
    frames = pictures()
    prepared = [captioner.prepare(frame) for frame in frames]
    own = [ask_directly(folders["qwen3-vl"], Image.fromarray(frame), PROMPT) for frame in prepared]
    assert ask(captioner, frames) == own
    np.testing.assert_array_equal(prepared[3], frames[3])
    inputs = captioner._inputs(np.stack(prepared))
    assert inputs["image_grid_thw"].tolist() == [[1, 448 // 16, 448 // 16]] * len(frames)
    assert inputs["attention_mask"].all()


def test_a_letterbox_keeps_the_proportions(folders: dict[str, Path]) -> None:
    captioner = make(folders["qwen3-vl"])
    for height, width in [(90, 160), (1, 900), (7, 3)]:
        bright = captioner.prepare(np.full((height, width, 3), 255, np.uint8)).min(axis=2) > 200
        rows, columns = np.nonzero(bright.any(axis=1))[0], np.nonzero(bright.any(axis=0))[0]
        scale = 448 / max(height, width)
        assert len(rows) == max(1, round(height * scale))
        assert len(columns) == max(1, round(width * scale))
        assert abs((rows[0] + rows[-1]) - 447) <= 1
        assert abs((columns[0] + columns[-1]) - 447) <= 1


@pytest.mark.parametrize("name", BLIPS)
def test_pixels_equal_the_processors_own(folders: dict[str, Path], name: str) -> None:
    """To the bit with its PIL path, within one level of 255 with its torchvision path, which rounds otherwise."""
    captioner = make(folders[name])
    rng = np.random.default_rng(1)
    for height, width in [*SHAPES, (200, 300)]:
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        ours = captioner._inputs(captioner.prepare(frame)[None])["pixel_values"]
        assert ours.shape == (1, 3, SIZE, SIZE)
        for backend, levels in (("pil", 1e-3), ("torchvision", 1.001)):
            processor = AutoProcessor.from_pretrained(folders[name], backend=backend).image_processor
            theirs = processor(images=Image.fromarray(frame), return_tensors="pt")["pixel_values"]
            step = 1 / 255 / torch.tensor(processor.image_std).view(3, 1, 1)
            assert ((ours - theirs).abs() / step).max() <= levels


# ------------------------------------------------------------------------------------------------ generation


@pytest.mark.parametrize("name", ["blip2-opt", "qwen3-vl"])
def test_greedy_whatever_the_generation_config_says(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(folders[name], tmp_path / "model")
    file = folder / "generation_config.json"
    wild = {"do_sample": True, "temperature": 5.0, "top_k": 3, "num_beams": 3, "num_return_sequences": 2}
    file.write_text(json.dumps(json.loads(file.read_text()) | wild))
    assert ask(make(folder), pictures()) == ask(make(folders[name]), pictures())
    assert make(folder).recipe() == make(folders[name]).recipe()


def test_other_generation_settings_are_the_models_own_and_in_the_recipe(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["qwen3-vl"], tmp_path / "model")
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 5.0}))
    penalised, usual = make(folder), make(folders["qwen3-vl"])
    assert penalised.recipe()["generation"]["repetition_penalty"] == 5.0
    assert penalised.recipe() != usual.recipe()
    assert ask(penalised, pictures()) != ask(usual, pictures())


def test_captions_end_at_the_limit(folders: dict[str, Path]) -> None:
    for name in FAMILIES:
        lengths = [len(caption.split()) for caption in ask(make(folders[name], max_new_tokens=3), pictures())]
        assert max(lengths) <= 3
        assert all(set(caption.split()) <= set(WORDS) for caption in ask(make(folders[name]), pictures()))


def test_batches_have_one_shape_and_no_item_twice(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = make(folders["blip2-opt"])
    sizes: list[int] = []
    generate = captioner._generate
    monkeypatch.setattr(captioner, "_generate", lambda rows: sizes.append(len(rows)) or generate(rows))
    frames = [captioner.prepare(frame) for frame in pictures()]
    ask(captioner, [frames[0]] * 9)
    assert sizes == [4]
    ask(captioner, [*frames, *frames])  # six distinct ones
    assert sizes == [4, 4, 4]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_dtypes(folders: dict[str, Path], name: str, dtype: str) -> None:
    captioner = make(folders[name], dtype=dtype)
    assert captioner.recipe()["dtype"] == dtype
    assert captioner.recipe() != make(folders[name]).recipe()
    assert len(set(ask(captioner, pictures()))) > 1


@pytest.mark.parametrize(
    ("text", "saved", "bf16", "expected"),
    [
        ("opt", None, True, torch.float16),
        ("t5", None, True, torch.bfloat16),
        ("qwen3_vl_text", torch.bfloat16, True, torch.bfloat16),
        ("qwen3_vl_text", torch.bfloat16, False, torch.float32),
    ],
)
def test_dtype_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, text: str, saved: torch.dtype | None, bf16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    inner = SimpleNamespace(dtype=None, model_type=text)
    config = SimpleNamespace(dtype=saved, get_text_config=lambda: inner)
    assert choose_dtype("auto", "cuda", config) == expected
    assert choose_dtype("auto", "cpu", config) == torch.float32


def test_nothing_scrolls(folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noisy = shutil.copytree(folders["qwen3-vl"], tmp_path / "model")
    settings = json.loads((noisy / "generation_config.json").read_text()) | {"do_sample": True, "temperature": 0.3}
    (noisy / "generation_config.json").write_text(json.dumps(settings | {"max_length": 20}))
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    try:
        for folder in (*folders.values(), noisy):
            ask(make(folder), pictures(1))
        assert seen == []
        assert capfd.readouterr() == ("", "")
        ask_directly(noisy, Image.fromarray(pictures()[3]), PROMPT)
        assert seen != []  # there is something to keep quiet
    finally:
        logging.getLogger("transformers").removeHandler(handler)


def test_the_recipe(folders: dict[str, Path]) -> None:
    recipe = make(folders["instructblip"]).recipe()
    assert {k: recipe[k] for k in ("captioner", "architecture", "prompt", "decoding", "max_new_tokens", "size")} == {
        "captioner": NAME,
        "architecture": "InstructBlipForConditionalGeneration",
        "prompt": PROMPT,
        "decoding": "greedy",
        "max_new_tokens": 8,
        "size": [SIZE, SIZE],
    }
    assert recipe["resize"] == "pillow bicubic, squash"
    assert (recipe["dtype"], recipe["generation"]["eos_token_id"]) == ("float32", 1)
    assert make(folders["qwen3-vl"]).recipe()["resize"] == "pillow bicubic, black letterbox"
    assert make(folders["blip2-opt"]).recipe()["prompt"] == ""


def test_a_run_caches_the_captions(cli: Callable[..., Result], folders: dict[str, Path]) -> None:
    video = write_video(Path("a.mp4"), 20)
    asked = ("run", video, "--preset", "tiny", "--streams", "text", "--caption-weights", folders["blip2-opt"])
    done = cli(*asked, "--captioner", NAME, "--caption-tokens", 8, "--caption-batch", 4, "--cache", "c.zarr")
    assert done.exit_code == 0, done.output
    data = FeatureCache.open("c.zarr").read("a.mp4", "text")
    with open_video(video) as opened:
        frames = [frame.rgb() for frame in opened.frames]
    assert data.captions == ask(make(folders["blip2-opt"]), [frames[i] for i in data.frames])


# ------------------------------------------------------------------------------------------------ names and downloads


@pytest.mark.parametrize(
    "name", ["hf-hub:foo", "hf-hub:", "hf-hub:/foo", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:a b/c"]
)
def test_names_of_another_form(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION, found 'hf-hub:"):
        check_captioner(CaptionerConfig(name))


def test_names() -> None:
    check_captioner(CaptionerConfig("hf-hub:Salesforce/blip2-opt-2.7b"))
    check_captioner(CaptionerConfig("hf-hub:Salesforce/blip2-opt-2.7b@refs/pr/3"))
    with pytest.raises(
        ValueError, match=r"unknown captioner 'of-line'.*'offline'.*known: hf-hub:OWNER/NAME, .*offline"
    ):
        check_captioner(CaptionerConfig("of-line"))


def test_a_downloaded_model_is_found_without_a_network(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    repository = tmp_path / "models--tiny--model"
    shutil.copytree(folders["blip2-opt"], repository / "snapshots" / commit)
    for ref in ("main", "v2"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    usual = make(folders["blip2-opt"])
    for name in (NAME, f"{NAME}@v2", f"{NAME}@{commit}"):
        captioner = build_captioner(CaptionerConfig(name, max_new_tokens=8, batch_size=4))
        assert captioner.recipe() == usual.recipe() | {"captioner": name, "commit": commit}
    with pytest.raises(ValueError, match=r"tiny/model could not be downloaded .*--caption-weights"):
        build_captioner(CaptionerConfig(f"{NAME}@v3"))
    with pytest.raises(ValueError, match=r"tiny/other could not be downloaded .*--caption-weights"):
        build_captioner(CaptionerConfig("hf-hub:tiny/other"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError, "tiny/model is gated: accept its terms .*hf auth login"),
        (errors.RepositoryNotFoundError, "no model 'tiny/model' on the hub: check the spelling"),
        (errors.RevisionNotFoundError, "has no revision 'v9': give a branch"),
        (errors.LocalEntryNotFoundError, r"could not be downloaded \(told\). .*--caption-weights"),
    ],
)
def test_failed_downloads(monkeypatch: pytest.MonkeyPatch, error: Any, message: str) -> None:
    def fail(*words: Any, **options: Any) -> str:
        raise (
            error("told", response=SimpleNamespace(headers={}, request=None))
            if "Repo" in str(error) or "Rev" in str(error)
            else error("told")
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=message):
        HubCaptioner(CaptionerConfig(f"{NAME}@v9"))


def test_only_settings_and_safetensors_are_downloaded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **o: asked.update(o, name=name) or str(folder)
    )
    HubCaptioner(CaptionerConfig(NAME))
    assert (asked["name"], asked["revision"]) == ("tiny/model", None)
    files = ["config.json", "model-1-of-2.safetensors", "pytorch_model.bin", "modeling.py", "onnx/model.safetensors"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == files[:2]


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoding": "sample"}, "writes greedily, found decoding 'sample'.*captioner server"),
        ({"quantize": "int8"}, "cannot be quantized, found 'int8'"),
        ({"batch_size": 0}, "must be at least 1, found 0 and"),
        ({"max_new_tokens": 0}, "must be at least 1, found 4 and 0"),
        ({"dtype": "float8"}, "must be auto, float32, float16, bfloat16, found 'float8'"),
    ],
)
def test_refused_options(folders: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(folders["blip2-opt"], **options)


def test_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing is not a folder: expected one with config.json and \*.safetensors"):
        make(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"has no config.json of a model"):
        make(tmp_path)


def _gpt2(folder: Path) -> None:
    tokenizer = make_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    save(folder, GPT2LMHeadModel(config), tokenizer)


def _clip(folder: Path) -> None:
    config = CLIPTextConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1)
    save(folder, CLIPTextModel(config), make_tokenizer())


@pytest.mark.parametrize(("write", "kind"), [(_gpt2, "gpt2"), (_clip, "clip_text_model")])
def test_models_that_write_nothing_about_pictures(tmp_path: Path, write: Callable[[Path], None], kind: str) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=f"holds a {kind} model, which does not write texts about pictures: take an"):
        make(tmp_path)


def test_pickled_weights_are_not_loaded(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no \*.safetensors, and pickled weights .* are not loaded"):
        make(folder)


def test_missing_weights_are_not_invented(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["language_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights of Blip2For\w+ are missing, language_projection.weight first"):
        make(folder)


def test_broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match="the weights could not be loaded"):
        make(folder)


def test_a_missing_processor(folder: Path) -> None:
    for file in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match="processor"):
        make(folder)


def test_code_of_a_repository_is_not_run(folder: Path) -> None:
    marker = folder / "was_run"
    (folder / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="knows without running the repository's own code"):
        make(folder)
    assert not marker.exists()


def test_a_question_that_the_processor_cannot_take(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["qwen3-vl"], tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(ValueError, match=r"does not take a picture with the question .*--caption-prompt"):
        make(folder)
