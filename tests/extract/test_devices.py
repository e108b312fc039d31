"""The device that was asked for is the one that is used, or the run ends before any weights are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import torch
from typer.testing import Result

from extract.config import PRESETS
from extract.encoders import devices
from extract.encoders.devices import DeviceError, choose_device
from tests.extract.support import write_video

ALL = ("video", "image", "text")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with or without a GPU, and what each library says of it."""
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)

    def pretend(*, gpu: bool, jax_sees: bool, torch_sees: bool, plugin: bool = True, cuda: str | None = "13.0") -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if jax_sees else "cpu")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_sees)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(devices, "find_spec", lambda name: SimpleNamespace() if plugin else None)
        monkeypatch.setattr(devices, "has_gpu", lambda: gpu)
        monkeypatch.setattr("shared.process.devices.has_gpu", lambda: gpu)

    return pretend


def refused(device: str, streams: tuple[str, ...] = ALL, trained: tuple[str, ...] = ALL) -> str:
    with pytest.raises(DeviceError) as caught:
        choose_device(device, streams, trained)
    return str(caught.value)


def test_all_is_well_with_two_libraries_on_the_gpu_and_without_any(machine: Callable[..., None]) -> None:
    machine(gpu=True, jax_sees=True, torch_sees=True)
    choose_device("auto", ALL, ALL)
    choose_device("gpu", ALL, ALL)
    machine(gpu=False, jax_sees=False, torch_sees=False)
    choose_device("auto", ALL, ALL)


def test_jax_without_its_plugin_beside_a_gpu(machine: Callable[..., None]) -> None:
    machine(gpu=True, jax_sees=False, torch_sees=True, plugin=False)
    for device, words in (
        ("auto", "this machine has a GPU, but JAX sees none"),
        ("gpu", "--device gpu, but JAX sees none"),
    ):
        message = refused(device)
        assert message.startswith(words)
        assert "JAX (stream video): it is installed without CUDA: pip install -e '.[gpu]'" in message
        assert "--device cpu" in message
    choose_device("auto", ("image", "text"), ALL)  # none of them needs JAX
    choose_device("gpu", ("image", "text"), ALL)
    choose_device("auto", ALL, ())  # toys, and nobody asked for a GPU
    assert "JAX sees none" in refused("gpu", ALL, ())


def test_torch_without_cuda_beside_a_gpu(machine: Callable[..., None]) -> None:
    machine(gpu=True, jax_sees=True, torch_sees=False, cuda=None)
    for device in ("auto", "gpu"):
        assert "torch (stream image, text): it is a build without CUDA" in refused(device)
    choose_device("gpu", ("video",), ALL)


def test_a_gpu_that_neither_sees(machine: Callable[..., None]) -> None:
    machine(gpu=True, jax_sees=False, torch_sees=False)
    message = refused("auto")
    assert "JAX and torch see none" in message
    assert "import jax; jax.devices('gpu')" in message
    assert "import torch; torch.cuda.init()" in message


def test_no_gpu_though_one_was_asked_for(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu=False, jax_sees=False, torch_sees=False)
    assert refused("gpu").count("nvidia-smi would list one") == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' hides every GPU" in refused("gpu")


def test_who_hides_the_gpu_has_asked_for_the_cpu(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu=True, jax_sees=False, torch_sees=False)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        choose_device("auto", ALL, ALL)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine(gpu=True, jax_sees=False, torch_sees=True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    choose_device("auto", ALL, ALL)
    assert "JAX_PLATFORMS=cpu is set: unset it" in refused("gpu")


def test_the_cpu_hides_the_gpu_from_both(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    machine(gpu=True, jax_sees=True, torch_sees=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("JAX_PLATFORMS", "")
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: asked.append((name, value)))
    choose_device("cpu", ALL, ALL)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"]) == ("", "cpu")
    assert asked == [("jax_platforms", "cpu")]


def test_a_platform_that_jax_cannot_start_is_no_gpu(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(gpu=True, jax_sees=True, torch_sees=True)

    def fails() -> str:
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "default_backend", fails)
    assert "JAX sees none" in refused("gpu")


def test_unknown_device() -> None:
    with pytest.raises(ValueError, match=r"--device: unknown device 'gpus'; did you mean 'gpu'\?"):
        choose_device("gpus", ALL, ALL)


def test_presets_say_what_is_trained() -> None:
    assert PRESETS["tiny"].trained == ()
    assert set(PRESETS["base"].trained) == set(ALL)


def test_the_command_line_stops_before_weights_are_read(
    cli: Callable[..., Result], machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(gpu=False, jax_sees=False, torch_sees=False)
    Path("clips").mkdir()
    write_video(Path("clips/0.mp4"), 5)
    monkeypatch.setattr("extract.encoders.build_encoders", None)
    result = cli("run", "clips", "--preset", "tiny", "--device", "gpu")
    assert result.exit_code == 2, result.output
    assert "error: --device gpu, but JAX and torch see none:" in result.output
    assert not Path("caches").exists()
