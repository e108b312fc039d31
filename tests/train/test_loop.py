"""The loop learns, stops, keeps the best epoch, and one seed is one result, interrupted or not."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from train.config import TrainConfig
from train.fit.loop import Fit, fit, output_scores, pick_device, predict
from train.tasks import TASKS

CONFIG = TrainConfig(head_options={"hidden": 8, "mlp": 8}, learning_rate=0.01, max_epochs=5, patience=5)


class Stop(Exception):
    """Stands for a power cut."""


def halves(p: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    train = p.windows.track % 4 != 0  # whole videos
    return train, ~train


def run(p: SimpleNamespace, config: TrainConfig = CONFIG, **options) -> Fit:
    return fit(p.task, config, p.features, p.windows, *halves(p), **options)


def weights(done: Fit) -> dict[str, torch.Tensor]:
    return done.model.state_dict()


def without_time(done: Fit) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in done.history]


def assert_same(a: Fit, b: Fit) -> None:
    assert (a.best_epoch, without_time(a)) == (b.best_epoch, without_time(b))
    assert weights(a).keys() == weights(b).keys()
    for key, value in weights(a).items():
        assert torch.equal(value, weights(b)[key]), key


@pytest.mark.parametrize("name", ["violence", "va"])
@pytest.mark.parametrize("head", ["cross_gru", "cross_gru_literal"])
def test_it_learns_what_is_in_the_features(problem, name: str, head: str) -> None:
    p = problem(name)
    done = run(p, replace(CONFIG, head=head))
    assert done.history[-1]["train_loss"] < done.history[0]["train_loss"]
    assert done.history[done.best_epoch]["val_score"] > 0.8
    scores = predict(p.task, done.model, p.features, p.windows)
    assert scores.shape == (len(p.windows), 1 if name == "violence" else 2)
    assert scores.min() >= p.task.label_range[0]
    assert scores.max() <= p.task.label_range[1]


@pytest.mark.parametrize(
    ("name", "loss"), [(n, loss) for n in ("violence", "va") for loss in TASKS[n].losses], ids=lambda v: v
)
def test_every_loss_of_a_task_trains(problem, name: str, loss: str) -> None:
    done = run(problem(name), replace(CONFIG, loss=loss, max_epochs=2))
    assert done.history[1]["train_loss"] < done.history[0]["train_loss"]


def test_a_loss_for_another_task_is_refused(problem) -> None:
    with pytest.raises(ValueError, match="takes the losses focal, cross_entropy, not 'mse'"):
        run(problem("violence"), replace(CONFIG, loss="mse"))
    with pytest.raises(ValueError, match="did you mean 'mse_ccc'"):
        run(problem("va"), replace(CONFIG, loss="mse_cc"))


def test_the_kept_weights_are_those_of_the_best_epoch(problem) -> None:
    p = problem("violence")
    done = run(p, replace(CONFIG, max_epochs=8, learning_rate=0.05))
    scores = [row["val_score"] for row in done.history]
    assert done.best_epoch == int(np.argmax(scores))  # the first of equals
    shorter = run(p, replace(CONFIG, max_epochs=done.best_epoch + 1, learning_rate=0.05))
    for key, value in weights(done).items():
        assert torch.equal(value, weights(shorter)[key]), key


@pytest.mark.parametrize("patience", [1, 2])
def test_it_stops_after_as_many_epochs_without_gain_as_it_has_patience(problem, patience: int) -> None:
    done = run(problem("violence"), replace(CONFIG, max_epochs=40, patience=patience, learning_rate=0.05))
    assert len(done.history) == done.best_epoch + 1 + patience < 40


@pytest.mark.parametrize("name", ["violence", "va"])
def test_one_seed_is_one_result(problem, name: str) -> None:
    p = problem(name)
    first = run(p)
    torch.manual_seed(123)  # what ran before must not matter
    assert_same(first, run(p))
    for other in (run(p, replace(CONFIG, seed=1)), run(p, fold=1)):
        assert any(not torch.equal(v, weights(other)[k]) for k, v in weights(first).items())


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_resumed_is_uninterrupted_bit_for_bit(problem, tmp_path: Path, cut: int) -> None:
    p, file, seen = problem("violence"), tmp_path / "fold1.state.pt", []

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == cut:
            raise Stop

    with pytest.raises(Stop):
        run(p, state_file=file, on_epoch=stop)
    torch.rand(7)  # another place in the random stream
    resumed = run(p, state_file=file, on_epoch=lambda row: seen.append(row["epoch"]))
    assert_same(run(p), resumed)
    assert seen == [1, 2, 3, 4, 5]
    assert not list(tmp_path.glob("*.part"))


def test_a_cut_after_the_best_epoch_keeps_its_weights_and_its_patience(problem, tmp_path: Path) -> None:
    p, config, file = (
        problem("violence"),
        replace(CONFIG, max_epochs=40, patience=2, learning_rate=0.05),
        tmp_path / "s",
    )
    whole = run(p, config)

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == whole.best_epoch + 2:
            raise Stop

    with pytest.raises(Stop):
        run(p, config, state_file=file, on_epoch=stop)
    assert_same(whole, run(p, config, state_file=file))


def test_class_weights_balance_a_rare_class(problem) -> None:
    """Where features say nothing, the best guess is the share of the class; with weights it is one half."""
    p = problem("violence")
    labels = p.windows.labels.copy()
    rare = np.flatnonzero(labels[:, 0] == 1)
    labels[rare[np.arange(len(rare)) % 6 != 0]] = np.nan  # one violent window in six is left
    blind = replace(p.features, banks={s: torch.zeros_like(b) for s, b in p.features.banks.items()})
    q = SimpleNamespace(task=p.task, features=blind, windows=replace(p.windows, labels=labels))
    share = {}
    for weighed in (True, False):
        done = run(q, replace(CONFIG, loss="cross_entropy", class_weights=weighed, max_epochs=1))
        share[weighed] = predict(q.task, done.model, q.features, q.windows).mean()
    assert share[True] == pytest.approx(0.5, abs=0.12)
    assert share[False] < 0.3


def test_masked_windows_are_never_used(problem) -> None:
    p = problem("va")
    labels = p.windows.labels.copy()
    masked = np.random.default_rng(0).random(len(labels)) < 0.3
    results = []
    for value in (np.nan, 0.9):  # whatever stood in a masked window, in either output, trains to the same
        labels[masked] = [np.nan, value]
        results.append(
            run(SimpleNamespace(task=p.task, features=p.features, windows=replace(p.windows, labels=labels)))
        )
    assert_same(*results)
    rows = {s: r.clone() for s, r in p.windows.rows.items()}
    for r in rows.values():
        r[torch.from_numpy(masked)] = 0  # nor do their features reach weights or standardisation
    other = SimpleNamespace(task=p.task, features=p.features, windows=replace(p.windows, labels=labels, rows=rows))
    assert_same(results[0], run(other))


def test_standardisation_knows_training_windows_only(problem) -> None:
    p = problem("violence")
    train, _ = halves(p)
    own = torch.unique(p.windows.rows["image"][torch.from_numpy(np.flatnonzero(train))])
    expected = p.features.banks["image"][own].double()
    scale = run(p, replace(CONFIG, max_epochs=1)).model.standardizers["image"]
    torch.testing.assert_close(scale.mean.double(), expected.mean(0))
    torch.testing.assert_close(scale.std.double(), expected.std(0, correction=0))


def test_nothing_to_learn_from_and_losses_that_explode_are_errors(problem) -> None:
    p = problem("violence")
    train, val = halves(p)
    none = np.zeros_like(train)
    with pytest.raises(ValueError, match="no labelled window to train on"):
        fit(p.task, CONFIG, p.features, p.windows, none, val)
    with pytest.raises(ValueError, match="no labelled window to validate with"):
        fit(p.task, CONFIG, p.features, p.windows, train, none)
    banks = {s: b.clone() for s, b in p.features.banks.items()}
    huge = replace(p.windows, labels=np.full((len(p.windows), 2), 3e38, np.float32))
    with pytest.raises(ValueError, match=r"fold 3: the training loss became (inf|nan) in epoch 1"):
        fit(TASKS["va"], CONFIG, replace(p.features, banks=banks), huge, train, val, fold=2)


def test_output_scores() -> None:
    logits = torch.tensor([[0.0, 0.0], [-200.0, 200.0], [1.0, 0.0]])
    expected = [[0.5], [1.0], [1 / (1 + np.e)]]
    np.testing.assert_allclose(output_scores(TASKS["violence"], logits), expected)
    values = output_scores(TASKS["va"], torch.tensor([[-3.0, 0.25]]))
    assert (values.dtype, values.tolist()) == (np.float64, [[-1.0, 0.25]])


def test_devices() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    with pytest.raises(ValueError, match="did you mean 'cuda'"):
        pick_device("cude")


@pytest.mark.parametrize("name", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        ValueError, match=f"--device {name}, but torch sees no GPU: it is a build without CUDA.*--device cpu"
    ):
        pick_device(name)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES='-1' hides every GPU"):
        pick_device(name)
    assert pick_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device(name) == pick_device("auto") == "cuda"
