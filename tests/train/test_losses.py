"""Losses against closed forms and against torch."""

import math

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from train.fit.losses import LOSSES, bce, ccc, class_weights, cross_entropy, focal, loss_named, mse, mse_ccc
from train.tasks import TASKS, task_named

torch.set_num_threads(1)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4


@pytest.fixture
def classes() -> torch.Tensor:
    return torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0]])
def test_focal_of_gamma_zero_is_cross_entropy(logits, classes, weights) -> None:
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, classes, weight=weights)
    torch.testing.assert_close(focal(logits, classes, gamma=0.0, class_weights=weights), expected)
    torch.testing.assert_close(cross_entropy(logits, classes, class_weights=weights), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_closed_form(logits, classes, gamma: float) -> None:
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    pt = p[np.arange(64), classes.numpy()]
    a = np.array([0.2, 1.0, 3.0])[classes.numpy()]
    each = -((1 - pt) ** gamma) * np.log(pt)
    assert focal(logits, classes, gamma=gamma).item() == pytest.approx(each.mean(), rel=1e-9)
    weighted = focal(logits, classes, gamma=gamma, class_weights=torch.tensor([0.2, 1.0, 3.0])).item()
    assert weighted == pytest.approx((a * each).sum() / a.sum(), rel=1e-6)  # the weights came as float32


def test_focal_by_hand() -> None:
    # p_t = 1/2: (1/2)^2 ln 2
    assert focal(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(0.25 * math.log(2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_stays_finite_on_certain_logits(gamma: float) -> None:
    outputs = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    loss = focal(outputs, torch.tensor([0, 1]), gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert torch.isfinite(outputs.grad).all()


def test_focal_gradient(logits, classes) -> None:
    assert torch.autograd.gradcheck(lambda x: focal(x, classes, gamma=1.5), logits.requires_grad_())


def ccc_numpy(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * ((x - x.mean()) * (y - y.mean())).mean() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def test_ccc_is_one_minus_the_mean_of_both_formulas() -> None:
    rng = np.random.default_rng(0)
    y, t = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    y += 0.7 * t
    expected = 1 - (ccc_numpy(y[:, 0], t[:, 0]) + ccc_numpy(y[:, 1], t[:, 1])) / 2
    assert ccc(torch.tensor(y), torch.tensor(t)).item() == pytest.approx(expected, abs=1e-7)
    assert mse(torch.tensor(y), torch.tensor(t)).item() == pytest.approx(((y - t) ** 2).mean())
    assert mse_ccc(torch.tensor(y), torch.tensor(t)).item() == pytest.approx(expected + ((y - t) ** 2).mean(), abs=1e-7)


def test_ccc_extremes() -> None:
    t = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    assert ccc(t, t).item() == pytest.approx(0.0, abs=1e-6)
    assert ccc(-t + t.mean(0) * 2, t).item() == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 4])
def test_ccc_of_constants_is_one_with_a_finite_gradient(batch: int) -> None:
    outputs = torch.full((batch, 2), 0.3, requires_grad=True)
    loss = ccc(outputs, torch.full((batch, 2), 0.3))
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_is_a_scalar_of_at_least_float32_and_vmaps(name: str) -> None:
    loss = loss_named(name)
    outputs = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(2))
    targets = torch.randint(0, 2, (3, 8)) if name in TASKS["violence"].losses else torch.rand(3, 8, 2)
    single = torch.stack([loss(o, t) for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(vmap(loss)(outputs, targets), single)
    gradients = vmap(grad(loss))(outputs, targets)  # (3, 8, 2)
    assert torch.isfinite(gradients).all()
    assert (gradients.abs().sum((1, 2)) > 0).all()
    assert loss(outputs[0].bfloat16(), targets[0]).dtype == torch.float32
    assert loss(outputs[0], targets[0]).shape == ()


def test_bce_is_the_weighted_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(20, 3, generator=rng).double(), torch.randint(0, 2, (20, 3), generator=rng)
    weights = torch.tensor([[0.6, 1.0, 2.0], [3.0, 1.0, 0.5]]).double()
    p = torch.sigmoid(outputs)
    each = torch.where(targets == 1, -weights[1] * p.log(), -weights[0] * (1 - p).log())
    torch.testing.assert_close(bce(outputs, targets, class_weights=weights), each.mean())
    torch.testing.assert_close(bce(outputs, targets), bce(outputs, targets, class_weights=torch.ones(2, 3)))


def test_class_weights_are_inverse_frequencies() -> None:
    weights = class_weights(TASKS["expr"], torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]))
    torch.testing.assert_close(weights[:4], torch.tensor([8 / 32, 8 / 16, 8 / 8, 8 / 8]))
    assert torch.isfinite(weights).all()  # also of classes that never occur
    units = torch.zeros(10, 12)
    units[0, 0], units[:5, 1] = 1, 1
    weights = class_weights(TASKS["au"], units)  # HSEmotion ABAW-6: total / (2 n_0), total / (2 n_1)
    torch.testing.assert_close(weights[:, :2], torch.tensor([[10 / 18, 1.0], [10 / 2, 1.0]]))


def test_unknown_names_get_the_closest() -> None:
    with pytest.raises(ValueError, match="did you mean 'focal'"):
        loss_named("focall")
    with pytest.raises(ValueError, match="did you mean 'violence'"):
        task_named("violense")


def test_tasks_name_losses_that_exist() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert task.default_loss in task.losses
        assert set(task.losses) <= set(LOSSES)
        assert len(task.class_names) == (task.outputs if task.kind in ("binary", "classes") else 0)
        assert len(task.score_names) == (1 if task.kind == "binary" else task.outputs)
