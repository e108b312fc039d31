"""MiniGPT as a captioner: files, recipe, errors, the doctor, the language half on a server, and a whole run."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from extract.__main__ import app
from extract.config import CaptionerConfig, find_preset
from extract.encoders.captioners import build_captioner, check_captioner
from extract.encoders.minigpt import files, memory, tiny
from extract.encoders.minigpt.captioner import MiniGptCaptioner
from extract.encoders.minigpt.generation import SlotGenerator
from extract.encoders.minigpt.llm import load_llm
from extract.encoders.minigpt.prompt import cut_answer, decode, load_tokenizer, stop_sequences
from extract.encoders.minigpt.variants import VARIANTS, find_variant
from shared.cache import FeatureCache
from tests.extract.support import write_video

VARIANT = find_variant("minigpt4-tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    tiny.write_files(path, VARIANT)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing of the user's own caches."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def config(folder: Path | None, **options) -> CaptionerConfig:
    usual = {"max_new_tokens": 12, "batch_size": 4, "weights": None if folder is None else str(folder)}
    return CaptionerConfig("minigpt4-tiny", **{**usual, **options})


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    return coarse.repeat(20, 1).repeat(20, 2)


def items_of(captioner: MiniGptCaptioner, frames: np.ndarray) -> np.ndarray:
    return np.stack([captioner.prepare(frame)[None] for frame in frames])


def test_captions_are_the_parts_put_together(folder: Path, frames: np.ndarray) -> None:
    captioner = MiniGptCaptioner(config(folder))
    found = captioner.caption(items_of(captioner, frames))
    assert isinstance(captioner.generator, SlotGenerator)
    assert captioner.generator.counts.frames == 7
    llm = load_llm(folder / "llama-tiny", VARIANT, {}, device="cpu", dtype=torch.float32, quantize=None)
    tokenizer, embed = load_tokenizer(folder / "llama-tiny"), llm.get_input_embeddings()
    prompt, stops = captioner.prompt, stop_sequences(load_tokenizer(folder / "llama-tiny"), VARIANT)
    for frame, caption in zip(frames, found, strict=True):
        with torch.inference_mode():
            image = captioner.vision.encode(torch.tensor(captioner.prepare(frame))[None])
            parts = [embed(torch.tensor([prompt.before])), image, embed(torch.tensor([prompt.after]))]
            kwargs = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 1, "pad_token_id": 0}
            embeddings = torch.cat(parts, dim=1)
            mask = torch.ones(embeddings.shape[:2], dtype=torch.int64)
            tokens = llm.generate(inputs_embeds=embeddings, attention_mask=mask, **kwargs)[0].tolist()
        ends = [i for i in range(len(tokens)) for s in stops if tuple(tokens[i + 1 - len(s) : i + 1]) == s]
        assert cut_answer(decode(tokenizer, tokens[: min(ends, default=len(tokens)) + 1])) == caption


def test_equal_frames_are_captioned_once(folder: Path, frames: np.ndarray) -> None:
    captioner = MiniGptCaptioner(config(folder))
    assert isinstance(captioner.generator, SlotGenerator)
    items = items_of(captioner, frames[[0, 1, 0, 0, 1]])
    captions = captioner.caption(items)
    assert captioner.generator.counts.frames == 2
    assert captions[0] == captions[2] == captions[3] != captions[1] == captions[4]


def test_what_determines_the_words_is_in_the_recipe(folder: Path, copy: Path) -> None:
    recipe = MiniGptCaptioner(config(folder)).recipe()
    assert recipe["captioner"] == "minigpt4-tiny"
    assert set(recipe["weights"]) == {
        "vision",
        "Q-Former",
        "projection",
        "language model",
        "its settings and tokenizer",
    }
    assert all(len(digest) == 64 for role in recipe["weights"].values() for digest in role)
    assert len(recipe["weights"]["its settings and tokenizer"]) == 3  # config.json and the tokenizer's two
    assert recipe["prompt"].endswith("Describe this image in detail.###Assistant: ")
    assert MiniGptCaptioner(config(copy)).recipe() == recipe, "the place of the files does not matter"
    for changes in ({"prompt": "What happens?"}, {"decoding": "sample"}, {"max_new_tokens": 13}, {"dtype": "bfloat16"}):
        assert MiniGptCaptioner(config(folder, **changes)).recipe() != recipe, changes
    state = torch.load(copy / "minigpt4_tiny.pth", weights_only=True)
    state["model"]["llama_proj.bias"][0] += 1
    torch.save(state, copy / "minigpt4_tiny.pth")
    changed = MiniGptCaptioner(config(copy)).recipe()
    assert changed["weights"]["projection"] != recipe["weights"]["projection"]
    assert changed["weights"]["vision"] == recipe["weights"]["vision"]


def test_settings_of_the_language_model_are_in_the_recipe(folder: Path, copy: Path) -> None:
    """Another rope or norm in config.json writes other words with the same weights."""
    settings = json.loads((copy / "llama-tiny" / "config.json").read_text())
    (copy / "llama-tiny" / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 0.5}))
    assert MiniGptCaptioner(config(copy)).recipe() != MiniGptCaptioner(config(folder)).recipe()


def test_names_of_files_are_not(folder: Path, copy: Path) -> None:
    shutil.move(copy / "llama-tiny" / "model.safetensors", copy / "llama-tiny" / "renamed.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(_keys(copy / "llama-tiny"), "renamed.safetensors")}
    (copy / "llama-tiny" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert MiniGptCaptioner(config(copy)).recipe() == MiniGptCaptioner(config(folder)).recipe()


def _keys(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "renamed.safetensors", framework="pt") as file:
        return list(file.keys())


@pytest.mark.parametrize("prompt", ["<ImageHere>", "look <ImageHere>", "<ImageHere> what"])
def test_a_whole_conversation_as_prompt(folder: Path, frames: np.ndarray, prompt: str) -> None:
    captioner = MiniGptCaptioner(config(folder, prompt=prompt))
    assert len(captioner.caption(items_of(captioner, frames[:3]))) == 3
    assert captioner.recipe()["prompt"] == prompt


def test_toys_are_made_once_and_are_untrained(tmp_path: Path) -> None:
    captioner = MiniGptCaptioner(config(None))
    assert captioner.trained is False
    made = tmp_path / "cache" / "crossgru" / f"minigpt4-tiny-v{tiny.VERSION}"
    times = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    assert len(times) >= 6
    assert MiniGptCaptioner(config(None)).recipe() == captioner.recipe()
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == times
    shutil.rmtree(made)
    assert MiniGptCaptioner(config(None)).recipe() == captioner.recipe(), "the same toy is drawn again"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("minigpt4-tiny", {"decoding": "beam"}, "greedy or sample, found 'beam'"),
        ("minigpt4-tiny", {"dtype": "float8"}, "float32, float16, bfloat16, found 'float8'"),
        ("minigpt4-tiny", {"prompt": " "}, "the caption prompt is empty"),
        ("minigpt4-tiny", {"quantize": "int2"}, "int8 or int4, found 'int2'"),
        ("minigpt4-tiny", {"weights": "nowhere"}, "no folder nowhere"),
        ("minigpt-v2", {}, "minigptv2_checkpoint.pth, published at https://drive.google.com/"),
        ("minigpt-v2-tiny", {"server": "http://127.0.0.1:1/v1"}, "minigpt-v2-tiny does not go with --caption-server"),
        ("minigpt4-llama2", {}, "pretrained_minigpt4_llama2_7b.pth, published at"),
        ("minigpt4-tiny", {"seed": 3}, "--caption-decoding sample"),
        ("minigpt4-tiny", {"server_model": "x"}, "give --caption-server with it"),
        ("offline", {"prompt": "hi", "quantize": "int4"}, "takes no --caption-prompt, --caption-quantize"),
        ("hf-hub:a/b", {"server": "http://h/v1"}, "captioner 'hf-hub:a/b' takes no --caption-server"),
    ],
)
def test_told_before_anything_is_loaded(name: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_captioner(CaptionerConfig(name, **options))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("file", "role"),
    [
        ("eva_vit_g.pth", "vision"),
        ("blip2_pretrained_flant5xxl.pth", "Q-Former"),
        ("minigpt4_tiny.pth", "projection"),
        ("llama-tiny", "language model"),
    ],
)
def test_missing_files_are_named(copy: Path, file: str, role: str) -> None:
    path = copy / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError) as refused:
        build_captioner(config(copy))
    assert f"{role}: {file}" in str(refused.value)
    assert "--caption-weights" in str(refused.value)


def test_hub_folder_stands_in_for_the_original_files(copy: Path, frames: np.ndarray) -> None:
    """The files of the hub's BLIP-2 in the weights folder, in transformers' names, give the same captions."""
    from safetensors.torch import save_file

    captioner = MiniGptCaptioner(config(copy))
    expected = captioner.caption(items_of(captioner, frames))
    vision = captioner.vision
    assert vision.qformer is not None
    assert vision.query_tokens is not None
    hub = {f"vision_model.{k}": v for k, v in vision.vit.state_dict().items()}
    hub |= {f"qformer.{k}": v for k, v in vision.qformer.state_dict().items()}
    (copy / files.BLIP2_FOLDER).mkdir()
    save_file(
        {**{k: v.clone() for k, v in hub.items()}, "query_tokens": vision.query_tokens.clone()},
        copy / files.BLIP2_FOLDER / "model.safetensors",
    )
    (copy / "eva_vit_g.pth").unlink()
    (copy / "blip2_pretrained_flant5xxl.pth").unlink()
    other = MiniGptCaptioner(config(copy))
    assert other.caption(items_of(other, frames)) == expected
    assert other.recipe()["weights"]["vision"] != captioner.recipe()["weights"]["vision"]


def test_a_machine_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}[name])
    with pytest.raises(ValueError, match=r"made for a GPU.*4 GB are there.*--captioner offline"):
        check_captioner(CaptionerConfig("minigpt4-vicuna-7b"))


def test_a_full_gpu_gives_advice(folder: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = MiniGptCaptioner(config(folder))

    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(captioner.generator, "generate", full)
    with pytest.raises(ValueError, match=r"--caption-batch.*--caption-quantize.*Tried to allocate 2 GiB"):
        captioner.caption(items_of(captioner, frames[:1]))


# ------------------------------------------------------------------ doctor


def run_doctor(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *words])
    return result.exit_code, result.output


def test_doctor_on_a_full_folder(folder: Path) -> None:
    status, text = run_doctor("--captioner", "minigpt4-tiny", "--caption-weights", str(folder))
    assert status == 0
    assert text.count("found") == 4


def test_doctor_names_what_is_missing(copy: Path) -> None:
    (copy / "eva_vit_g.pth").unlink()
    status, text = run_doctor("--captioner", "minigpt4-vicuna-7b", "--caption-weights", str(copy))
    assert status == 1
    for line in (
        "eva_vit_g.pth is published at https://storage.googleapis.com/",
        "prerained_minigpt4_7b.pth is published at https://drive.google.com/",
        "vicuna-7b is published at https://huggingface.co/Vision-CAIR/vicuna-7b",
        "GPU memory, float16: about 2",
        "GPU memory, --caption-quantize int4: about 1",
    ):
        assert line in text


def test_doctor_looks_into_what_is_there(copy: Path) -> None:
    """A 13B projection under the 7B's name, and the toy as its language model."""
    shutil.move(copy / "llama-tiny", copy / "vicuna-7b")
    wrong = {"llama_proj.weight": torch.zeros(5120, 768), "llama_proj.bias": torch.zeros(5120)}
    torch.save({"model": wrong}, copy / "prerained_minigpt4_7b.pth")
    status, text = run_doctor("--captioner", "minigpt4-vicuna-7b", "--caption-weights", str(copy))
    assert status == 1
    assert text.count("NOT USABLE") == 4, "the toy's vision half is of another size, too"
    assert "It fits --captioner minigpt4-vicuna-13b." in text
    assert "(4096, 32, 11008), found (64, 3, 128)" in text


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("eva_vit_g.pth", "vision: "),
        ("blip2_pretrained_flant5xxl.pth", "Q-Former: "),
        ("minigpt4_tiny.pth", "projection: "),
        ("llama-tiny/model.safetensors", "language model: "),
        ("llama-tiny/config.json", "language model: "),
        ("llama-tiny/tokenizer.model", "language model: the tokenizer"),
    ],
)
def test_doctor_sees_what_was_cut_off(copy: Path, file: str, words: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    status, text = run_doctor("--captioner", "minigpt4-tiny", "--caption-weights", str(copy))
    assert status == 1
    assert text.count("NOT USABLE") == 1
    assert words in text


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("llama-tiny/model.safetensors", "has no weights"),
        ("llama-tiny/tokenizer.model", "neither tokenizer.model nor tokenizer.json"),
    ],
)
def test_doctor_sees_what_was_forgotten(copy: Path, file: str, words: str) -> None:
    (copy / file).unlink()
    status, text = run_doctor("--captioner", "minigpt4-tiny", "--caption-weights", str(copy))
    assert status == 1
    assert words in text


def test_doctor_refuses_a_folder_that_is_not_there() -> None:
    status, text = run_doctor("--captioner", "minigpt4-vicuna-7b", "--caption-weights", "nowhere")
    assert status == 2
    assert "no folder nowhere" in text


def test_doctor_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("asked the network"))
    status, text = run_doctor("--captioner", "minigpt4-vicuna-7b")
    assert status == 1
    assert "a run downloads it from Vision-CAIR/vicuna-7b" in text
    status, text = run_doctor("--captioner", "hf-hub:Salesforce/blip2-opt-2.7b")
    assert status == 1
    assert "not downloaded; a run downloads it from https://huggingface.co/Salesforce/blip2-opt-2.7b" in text
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(3_000_000))
    status, text = run_doctor("--captioner", "hf-hub:a/b", "--caption-weights", str(tmp_path / "model"))
    assert status == 0
    assert "1 weight files, 3.0 MB" in text


def test_doctor_asks_the_server_of_the_language_half(folder: Path, vllm: str) -> None:
    words = ("--captioner", "minigpt4-tiny", "--caption-weights", str(folder), "--caption-server")
    status, text = run_doctor(*words, vllm)
    assert status == 0
    assert "language half: vicuna, served at http://127.0.0.1:" in text
    assert run_doctor(*words, "http://127.0.0.1:9/v1")[0] == 2


def test_doctor_of_others(tmp_path: Path) -> None:
    assert run_doctor("--captioner", "offline")[0] == 0
    status, text = run_doctor("--captioner", "minigpt5")
    assert status == 2
    assert "unknown captioner 'minigpt5'" in text


def test_memory_estimate_counts_the_published_sizes() -> None:
    variant = VARIANTS["minigpt4-vicuna-7b"]
    assert memory.num_vision_parameters(variant.vision) == pytest.approx(985.9e6, rel=1e-3)
    assert variant.llm_size.num_parameters == pytest.approx(6.738e9, rel=1e-3)
    assert VARIANTS["minigpt4-vicuna-13b"].llm_size.num_parameters == pytest.approx(13.016e9, rel=1e-3)
    full = memory.memory(variant, num_slots=32, max_new_tokens=300, quantize=None)
    small = memory.memory(variant, num_slots=32, max_new_tokens=300, quantize="int4")
    assert full.llm == pytest.approx(2 * 6.738e9, rel=1e-3)
    assert small.llm < 0.35 * full.llm
    assert small.cache == full.cache == pytest.approx(2 * 2 * 32 * 4096 * (32 + 300 + memory.TEXT_TOKENS) * 33)


# ------------------------------------------------------------------ language half on a server


@pytest.fixture
def vllm(folder: Path) -> Iterator[str]:
    """A server that completes prompt embeddings with the toy language model, as vLLM does with the real one."""
    llm = load_llm(folder / "llama-tiny", VARIANT, {}, device="cpu", dtype=torch.float32, quantize=None)
    tokenizer = load_tokenizer(folder / "llama-tiny")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def reply(self, content: dict) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.reply({"data": [{"id": "vicuna", "root": "Vision-CAIR/vicuna-7b"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/completions"
            assert (body["model"], body["prompt"], body["temperature"], body["min_tokens"]) == ("vicuna", "", 0.0, 1)
            embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
            with lock, torch.inference_mode():
                tokens = llm.generate(
                    inputs_embeds=embeds[None],
                    attention_mask=torch.ones(1, len(embeds), dtype=torch.int64),
                    do_sample=False,
                    min_new_tokens=body["min_tokens"],
                    max_new_tokens=body["max_tokens"],
                    pad_token_id=0,
                )[0].tolist()
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            for stop in body["stop"]:
                text = text.split(stop)[0]
            self.reply({"choices": [{"text": text, "finish_reason": "stop"}]})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_language_half_may_be_served_elsewhere(folder: Path, frames: np.ndarray, vllm: str) -> None:
    here = MiniGptCaptioner(config(folder))
    there = MiniGptCaptioner(config(folder, server=vllm))
    items = items_of(here, frames)
    assert there.caption(items) == here.caption(items)
    assert there.recipe()["model"] == "vicuna"
    assert {k: v for k, v in there.recipe().items() if k not in ("model", "language_model_on")} == here.recipe()


# ------------------------------------------------------------------ a run


def test_a_run_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for number in range(2):
        write_video(tmp_path / "clips" / f"{number}.mp4", num_frames=70)
    assert find_preset("tiny-minigpt").captioner.name == "minigpt4-tiny"
    words = ["run", "clips", "--preset", "tiny-minigpt", "--streams", "text", "--caption-tokens", "8"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "untrained encoders (random weights) for text" in result.output
    cache = FeatureCache.open("caches/clips.zarr")
    for name in cache.video_ids():
        data = cache.read(name, "text")
        assert data.captions is not None
        assert len(data.captions) == len(data.features) > 4
        assert cache.streams(name)["text"]["captioner"]["captioner"] == "minigpt4-tiny"
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    assert "2 already complete" in again.output
    refused = CliRunner().invoke(app, [*words, "--caption-prompt", "Who is there?"])
    assert refused.exit_code == 2
    assert "captioner.prompt" in refused.output
