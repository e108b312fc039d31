"""Run folders: what is written comes back; what is damaged, foreign or malicious is refused in words."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.config import TrainConfig
from train.fit.loop import fit
from train.runs.checkpoints import RunError, build_model, load_model, save_model
from train.runs.checks import CONFIG_TYPES
from train.runs.files import read_json, write_json
from train.runs.folder import (
    FORMAT_VERSION,
    RESUME_KEYS,
    Run,
    create_run,
    is_untrained,
    latest_run,
    open_run,
    resume_run,
)
from train.tasks import TASKS

CONFIG = TrainConfig(head="video", head_options={"hidden": 4, "mlp": 4, "dropout": 0.0})
DIMS = {"video": 8, "image": 8, "text": 8}


def facts(task: str = "violence", config: TrainConfig = CONFIG) -> dict:
    values = {key: kind() if kind is not str else "x" for key, kind in CONFIG_TYPES.items()}
    return values | {
        "task": task,
        "train": config.to_dict(),
        "dims": DIMS,
        "recipes": {key: {} for key in DIMS},
        "folds": {"a": 0},
        "window": {"size": 16},
        "permuted": False,
    }


def make_run(root: Path, task: str = "violence", folds: int = 2) -> Run:
    run = create_run(root, f"made-{task}", facts(task))
    for fold in range(folds):
        torch.manual_seed(fold)
        save_model(build_model(TASKS[task], CONFIG, DIMS), run.checkpoint(fold))
    return run


class Evil:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_round_trip(tmp_path: Path) -> None:
    made = make_run(tmp_path, folds=11)
    run = open_run(made.path)
    assert run.config == made.config == json.loads((made.path / "config.json").read_text())
    assert (run.task, run.train_config) == (TASKS["violence"], CONFIG)
    assert {"python", "torch", "numpy"} <= run.config["versions"].keys()
    models = run.load_models()
    for fold, model in enumerate(models):  # fold 10 comes after fold 2
        torch.manual_seed(fold)
        expected = build_model(run.task, CONFIG, DIMS).state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
        assert not model.training
    assert not list(made.path.rglob("*.part*"))


def test_a_run_is_rebuilt_from_its_folder_and_not_from_defaults(tmp_path: Path) -> None:
    config = replace(CONFIG, head_options={"hidden": 6, "mlp": 3, "dropout": 0.5})
    run = create_run(tmp_path, "r", facts(config=config))
    save_model(build_model(run.task, config, DIMS), run.checkpoint(0))
    (model,) = open_run(run.path).load_models()
    assert model.state_dict()["head.grus.video.weight_hh_l0"].shape == (18, 6)


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    assert len({create_run(tmp_path, "r", {}).path for _ in range(3)}) == 3


def test_the_latest_finished_run_of_a_task(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no finished run below .*; train one first"):
        latest_run(tmp_path / "nowhere")
    runs = [make_run(tmp_path, task, 1) for task in ("violence", "violence", "va", "va")]
    for age, run in enumerate(runs[:3]):
        write_json(run.path / "metrics.json", {"value": age})
        os.utime(run.path / "metrics.json", (1000 + age, 1000 + age))
    assert latest_run(tmp_path).path == runs[2].path  # the last one is not finished
    assert latest_run(tmp_path, "violence").path == runs[1].path
    assert latest_run(tmp_path, "violence").metrics == {"value": 1}
    with pytest.raises(RunError, match=r"has no metrics.json: the run has not ended; go on with --resume"):
        _ = runs[3].metrics
    assert latest_run(tmp_path, "va", "x").path == runs[2].path
    with pytest.raises(RunError, match="no finished run of task 'va' trained on 'dvd'"):
        latest_run(tmp_path, "va", "dvd")
    control = create_run(tmp_path, "control", facts() | {"permuted": True})
    write_json(control.path / "metrics.json", {"value": 9})
    assert latest_run(tmp_path, "violence").path == runs[1].path  # a control is never what a user wants to predict with
    (runs[2].path / "metrics.json").unlink()
    with pytest.raises(RunError, match="no finished run of task 'va'"):
        latest_run(tmp_path, "va")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        '"x"',
        "\xff",
        '{"a": ' * 100_000,
        "[" * 100_000,
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": ' + "9" * 5000 + "}",
    ],
    ids=["empty", "cut", "list", "text", "bytes", "deep", "deeper", "nan", "infinity", "digits"],
)
def test_damaged_json(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"config.json is damaged"):
        read_json(file)
    with pytest.raises(RunError, match=r"config.json is damaged"):
        open_run(tmp_path)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        open_run(tmp_path)
    write_json(tmp_path / "config.json", {"format_version": 99})
    with pytest.raises(RunError, match="run format 99, this version reads 1"):
        open_run(tmp_path)
    write_json(tmp_path / "config.json", {"format_version": FORMAT_VERSION, "task": "va"})
    with pytest.raises(RunError, match="it lacks dataset, labels_sha256, cache"):
        open_run(tmp_path)
    with pytest.raises(RunError, match="holds no checkpoint"):
        create_run(tmp_path, "r", facts()).load_models()


def test_damaged_and_foreign_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    file = run.checkpoint(0)
    whole = file.read_bytes()
    for content in (b"", whole[:40], whole[:-7], b"\xff" * 100):
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"fold1.safetensors cannot be read"):
            run.load_models()
    file.unlink()
    with pytest.raises(RunError, match=r"cannot be read"):
        load_model(run.task, CONFIG, DIMS, file)
    for other in (replace(CONFIG, head="text"), replace(CONFIG, head_options={"hidden": 5})):
        save_model(build_model(run.task, other, DIMS), file)
        with pytest.raises(RunError, match="does not fit head 'video'"):
            run.load_models()


def test_a_malicious_pickle_is_refused(tmp_path: Path, problem) -> None:
    p, mark, file = problem("violence"), tmp_path / "pwned", tmp_path / "fold1.state.pt"
    train = p.windows.track % 4 != 0
    for write in (lambda: torch.save({"model": Evil(mark)}, file), lambda: file.write_bytes(pickle.dumps(Evil(mark)))):
        write()
        with pytest.raises(RunError, match=r"is not the state of a fold.*delete it"):
            fit(p.task, CONFIG, p.features, p.windows, train, ~train, state_file=file)
        assert not mark.exists()
    file.write_bytes(pickle.dumps(Evil(mark)))
    pickle.loads(file.read_bytes())
    assert mark.exists()  # it would have worked


def test_damaged_and_foreign_states(tmp_path: Path, problem) -> None:
    p, file = problem("violence"), tmp_path / "fold1.state.pt"
    train, config = p.windows.track % 4 != 0, replace(CONFIG, max_epochs=1)
    fit(p.task, config, p.features, p.windows, train, ~train, state_file=file)
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"nothing"):
        file.write_bytes(content)
        with pytest.raises(RunError, match="delete it to train this fold from its start"):
            fit(p.task, config, p.features, p.windows, train, ~train, state_file=file)
    for other in ({}, [1], {"epoch": 1}):
        torch.save(other, file)
        with pytest.raises(RunError, match="it holds something else"):
            fit(p.task, config, p.features, p.windows, train, ~train, state_file=file)
    file.write_bytes(whole)
    wider = replace(config, head_options={"hidden": 5})
    with pytest.raises(RunError, match="is not the state of a fold"):
        fit(p.task, wider, p.features, p.windows, train, ~train, state_file=file)


@pytest.mark.parametrize("key", RESUME_KEYS)
def test_only_the_same_training_is_resumed(tmp_path: Path, key: str) -> None:
    run = make_run(tmp_path)
    assert resume_run(run.path, facts()).path == run.path
    assert resume_run(run.path, facts() | {"cache": "moved", "notes": ["new"]}).path == run.path
    with pytest.raises(RunError, match=rf"(?s)cannot be resumed.*{key}.*the run has .*, now "):
        resume_run(run.path, facts() | {key: "other"})


def test_untrained_encoders_are_known() -> None:
    assert is_untrained({"weights": "random, seed 0"})
    assert not is_untrained({"weights": "hub:base"})
    assert not is_untrained({})


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
