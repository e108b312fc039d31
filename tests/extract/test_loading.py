"""Weights from anywhere: nothing in them is run, and what is downloaded is of a known commit."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from extract.config import CaptionerConfig, ClipConfig
from extract.encoders import clip as clip_module
from extract.encoders.captioners.hub_files import load_model
from extract.encoders.clip import ClipModel
from extract.encoders.minigpt.checkpoint import CheckpointError as MiniGptError
from extract.encoders.minigpt.checkpoint import read_file
from extract.encoders.minigpt.llm import load_llm
from extract.encoders.minigpt.tiny import write_llm
from extract.encoders.minigpt.variants import find_variant
from extract.encoders.revisions import PINNED, revision_of, split_revision
from extract.encoders.videoprism import ARCHITECTURES
from extract.encoders.videoprism_checkpoint import CheckpointError as VideoPrismError
from extract.encoders.videoprism_checkpoint import load_checkpoint


class Evil:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


Write = Callable[[Path, Path], None]


def _torch(file: Path, mark: Path) -> None:
    torch.save({"model": Evil(mark), "state_dict": Evil(mark)}, file)


def _old_torch(file: Path, mark: Path) -> None:
    torch.save({"model": Evil(mark)}, file, _use_new_zipfile_serialization=False)


def _pickle(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Evil(mark)))


WRITERS = pytest.mark.parametrize("write", [_torch, _old_torch, _pickle], ids=["zip", "legacy", "pickle"])


def test_the_trap_works(tmp_path: Path) -> None:
    _pickle(tmp_path / "x", tmp_path / "pwned")
    pickle.loads((tmp_path / "x").read_bytes())
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.pt", _torch),
        ("b.pt", _old_torch),
        ("c.pt", _pickle),
        ("d.bin", _torch),
        ("e.safetensors", _pickle),
        ("f.npz", _pickle),
    ],
)
def test_clip(tmp_path: Path, name: str, write: Write) -> None:
    file, mark = tmp_path / name, tmp_path / "pwned"
    write(file, mark)
    with pytest.raises(ValueError, match=rf"CLIP weights .*{re.escape(name)}.* could not be loaded"):
        ClipModel(ClipConfig("RN50", str(file)))
    assert not mark.exists()


@WRITERS
def test_minigpt(tmp_path: Path, write: Write) -> None:
    file, mark = tmp_path / "prerained_minigpt4_7b.pth", tmp_path / "pwned"
    write(file, mark)
    with pytest.raises(MiniGptError, match="cannot be read as a torch checkpoint of plain tensors"):
        read_file(file)
    assert not mark.exists()


@WRITERS
def test_a_language_model_in_bin_files(tmp_path: Path, write: Write) -> None:
    variant, mark = find_variant("minigpt4-tiny"), tmp_path / "pwned"
    folder = tmp_path / "llm"
    write_llm(folder, variant)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    write(folder / "pytorch_model.bin", mark)
    with pytest.raises(MiniGptError, match="cannot be read"):
        load_llm(folder, variant, {}, device="cpu", dtype=torch.float32, quantize=None)
    assert not mark.exists()


@WRITERS
def test_videoprism(tmp_path: Path, write: Write) -> None:
    file, mark = tmp_path / "base.npz", tmp_path / "pwned"
    write(file, mark)
    with pytest.raises(VideoPrismError, match=r"corrupt or not an npz|lacks"):
        load_checkpoint(file, ARCHITECTURES["tiny"])
    with file.open("wb") as opened:  # a good archive whose array holds objects
        np.savez(opened, **{"params/patch_projection/linear/kernel": np.array([Evil(mark)], object)})
    with pytest.raises(
        VideoPrismError, match=r"patch_projection/linear/kernel' is truncated or corrupt: Object arrays"
    ):
        load_checkpoint(file, ARCHITECTURES["tiny"])
    assert not mark.exists()


def test_a_model_of_the_hub_brings_no_code_and_no_pickle(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'pwned')!r})\nclass E: pass\n")
    (tmp_path / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.E", "AutoModelForImageTextToText": "evil.E"}}'
    )
    with pytest.raises(ValueError, match="without running the repository's own code"):
        load_model(tmp_path, "auto")
    (tmp_path / "config.json").write_text('{"model_type": "blip-2", "auto_map": {"AutoModel": "evil.E"}}')
    _torch(tmp_path / "pytorch_model.bin", tmp_path / "pwned")
    with pytest.raises(ValueError, match=r"pickled weights \(\*.bin\) are not loaded because they can run code"):
        load_model(tmp_path, "auto")
    assert not (tmp_path / "pwned").exists()


# ------------------------------------------------------------------------------------------------ commits


def test_pins_are_whole_commits() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in PINNED.values())
    assert revision_of("nobody/nothing") is None
    name = next(iter(PINNED))
    assert (revision_of(name), revision_of(name, "abc")) == (PINNED[name], "abc")
    assert (split_revision("a/b@c"), split_revision("a/b")) == (("a/b", "c"), ("a/b", ""))


def test_clip_weights_are_downloaded_of_a_known_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tag: the same model and the same preparation as open_clip's own way, but of one commit."""
    torch.manual_seed(0)
    model: Any = open_clip.create_model("RN50-quickgelu", pretrained=None)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    calls = []

    def download(repository: str, file: str | None, *, revision: str | None) -> str:
        calls.append((repository, file, revision))
        if "large" in repository:
            raise FileNotFoundError("offline")
        return str(tmp_path / "open_clip_model.safetensors")

    monkeypatch.setattr(clip_module, "download_pretrained_from_hf", download)
    clip = ClipModel(ClipConfig("RN50-quickgelu", "openai@0123abc"))
    published = open_clip.get_pretrained_cfg("RN50-quickgelu", "openai")
    assert calls == [(published["hf_hub"].rpartition("/")[0], None, "0123abc")]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in clip.model.state_dict().items())
    for key in ("mean", "std", "interpolation", "resize_mode"):
        assert clip.model.visual.preprocess_cfg[key] == published[key]  # type: ignore[union-attr]
    assert clip.recipe()["weights_sha256"] == clip.weights_sha256
    with pytest.raises(ValueError, match="could not be loaded: offline"):
        ClipModel(ClipConfig())  # what the presets base and large take
    assert calls[-1] == (
        "timm/vit_large_patch14_clip_224.openai",
        None,
        PINNED["timm/vit_large_patch14_clip_224.openai"],
    )
    with pytest.raises(ValueError, match="another activation than model 'RN50' has: use --clip-model RN50-quickgelu"):
        ClipModel(ClipConfig("RN50", "openai"))


def test_hub_captioners_take_the_commit_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    from extract.encoders.captioners.hub_files import find_folder

    seen = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **o: seen.append((name, o["revision"])) or str(tmp_path / "c0"),
    )
    assert find_folder(CaptionerConfig("hf-hub:a/b@c0"))[1] == "c0"
    find_folder(CaptionerConfig(f"hf-hub:{next(iter(PINNED))}"))
    assert seen == [("a/b", "c0"), next(iter(PINNED.items()))]
