"""Training that is killed at any moment, or finds its disk full, ends as if nothing had happened."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shared.cache import FeatureCache
from tests.train.kills import AFTER, BEFORE, HALF, Trainer, differences
from train.runs.files import RunError, write_bytes
from train.runs.folder import open_run
from train.runs.mending import mend_run

QUICK = ("--hidden", "8", "--epochs", "3", "--learning-rate", "0.02", "--batch-size", "16", "--num-folds", "3")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with Trainer(tmp_path_factory.mktemp("log") / "log") as made:
        yield made


@pytest.fixture(scope="module")
def whole(
    trainer: Trainer, manifest: Path, cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SimpleNamespace]:
    """Way -> an uninterrupted run of it, its command, and how many files it wrote."""
    found = {}
    for way in ("together", "one-by-one"):
        folder = tmp_path_factory.mktemp(way)
        words = ["cv", manifest, "--task", "violence", "--cache", cache.url, *QUICK, "--no-baselines"]
        words += ["--folds-at-once", way]
        assert trainer.run(*words, "--runs", folder / "runs", count=folder / "count") == 0, trainer.log.read_text()
        (run,) = (folder / "runs").iterdir()
        found[way] = SimpleNamespace(run=run, words=words, files=int((folder / "count").read_text()))
    return found


@pytest.mark.parametrize("way", ["together", "one-by-one"])
def test_killed_three_times(trainer: Trainer, whole: dict[str, SimpleNamespace], way: str, tmp_path: Path) -> None:
    """In the middle of a file, before it is named, and by a signal at any time; other places in `make soak`."""
    one, runs = whole[way], tmp_path / "runs"
    words, rng = one.words, np.random.default_rng(len(way))
    assert one.files > 12  # config, epochs, weights and histories of three folds, scores, page
    assert trainer.run(*words, "--runs", runs, die_at=(HALF, 1 + int(rng.integers(one.files // 2)))) == -signal.SIGKILL
    (run,) = runs.iterdir()
    assert list(run.rglob("*.part"))
    with pytest.raises(RunError, match="the run has not ended; go on with --resume"):
        _ = open_run(run).metrics
    trainer.log.write_text("")
    assert trainer.run(*words, "--seed", 1, "--resume", run) == 2
    told = trainer.log.read_text()
    assert "train.seed: the run has 0, now 1" in told
    assert "Two ways out: put settings, labels and features back as they were, or train a new run" in told
    for place in (BEFORE, AFTER):
        status = trainer.run(*words, "--resume", run, die_at=(place, int(rng.integers(1, 6))))
        assert status == -signal.SIGKILL, trainer.log.read_text()
    ended = trainer.kill_after(rng.uniform(0.05, 0.5), signal.SIGTERM, *words, "--resume", run)
    assert ended in (0, 130, -signal.SIGTERM), trainer.log.read_text()
    assert trainer.run(*words, "--resume", run) == 0, trainer.log.read_text()
    assert differences(run, one.run) == []


def test_what_is_damaged_is_told_and_done_again(
    trainer: Trainer, whole: dict[str, SimpleNamespace], tmp_path: Path
) -> None:
    """Files as a power cut or a failing disk leaves them, in every folder of a run that goes on."""
    one, run = whole["together"], tmp_path / "run"
    shutil.copytree(one.run, run)
    folder = run / "checkpoints"
    weights = bytearray((folder / "fold1.safetensors").read_bytes())
    weights[-20] ^= 1  # a flipped bit that the format does not notice
    (folder / "fold1.safetensors").write_bytes(weights)
    (folder / "fold2.json").write_text((folder / "fold2.json").read_text()[:100])
    (folder / "fold3.json").unlink()
    state = pickle.dumps({"not": "a state"})
    (folder / "fold3.state.pt").write_bytes(state)
    (run / "metrics.json").write_text('{"value": ')
    (run / "predictions.parquet").write_bytes(b"PAR1")
    (run / "old.part").touch()
    trainer.log.write_text("")
    assert trainer.run(*one.words, "--resume", run) == 0
    told = trainer.log.read_text()
    assert "fold1.safetensors is damaged: it is not what fold1.json beside it names" in told
    assert "checkpoints/fold2.json" in told
    assert "checkpoints/fold3.state.pt is cut off or damaged; its fold starts again" in told
    assert "metrics.json is damaged; it is written again" in told
    assert differences(run, one.run) == []
    assert mend_run(open_run(run)) == []


@pytest.mark.parametrize("cut", [0, 1, 100, 0.3, 0.999])
def test_a_torn_state_is_never_trusted(whole: dict[str, SimpleNamespace], tmp_path: Path, cut: float) -> None:
    import torch

    run = tmp_path / "run"
    shutil.copytree(whole["together"].run, run)
    state = run / "checkpoints" / "fold1.state.pt"
    torch.save({"model": {"w": torch.arange(5000.0)}, "epoch": 3}, state)
    assert mend_run(open_run(run)) == []  # a whole one stays
    assert state.exists()
    data = state.read_bytes()
    state.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    (line,) = mend_run(open_run(run))
    assert "fold1.state.pt is cut off or damaged" in line
    assert not state.exists()
    holed = bytearray(data)  # whole at both ends, zeros in the middle
    holed[len(data) // 2 : len(data) // 2 + 512] = bytes(512)
    state.write_bytes(holed)
    assert zipfile.is_zipfile(state)
    assert len(mend_run(open_run(run))) == 1


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """A limit of the system on the size of files stands for the disk: the error is as real."""
    file = tmp_path / "x.state.pt"
    write_bytes(file, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match=r"File too large: .*x\.state\.pt'$"):
            write_bytes(file, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["x.state.pt"]
    assert file.read_bytes() == b"old"


def test_a_disk_that_fills_up_in_training(
    manifest: Path, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole, trainer: Trainer
) -> None:
    import errno

    from typer.testing import CliRunner

    from train.__main__ import app
    from train.runs import checkpoints

    real, calls = checkpoints.write_bytes, []

    def write(file: Path, data: bytes) -> None:
        calls.append(file)
        if len(calls) > 7:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        real(file, data)

    one = whole["one-by-one"]
    monkeypatch.setattr(checkpoints, "write_bytes", write)
    result = CliRunner().invoke(app, [*map(str, one.words), "--runs", str(tmp_path / "runs")])
    (run,) = (tmp_path / "runs").iterdir()
    assert result.exit_code == 2
    assert f"error: No space left on device: {calls[-1]}" in result.stderr
    assert f"mend this, then: the same command and --resume {run}" in result.stderr
    state = json.loads((run / "checkpoints" / "fold1.json").read_text())
    assert state["history"]
    assert trainer.run(*one.words, "--resume", run) == 0
    assert differences(run, one.run) == []
