"""AdamW by rows is torch's AdamW of each row, in both of its forms, and a row that does not count stays as it is."""

import pytest
import torch
from torch import Tensor

from train.fit.adamw import StackedAdamW

RATES, DECAYS = (1e-2, 3e-4, 1e-1), (1e-2, 0.0, 0.3)


def gradients(steps: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-6, 2, 40, dtype=torch.float64)  # tiny gradients and large ones
    return (torch.randn(steps, 3, 40, generator=generator, dtype=torch.float64) * sizes).to(dtype)


def start(dtype: torch.dtype) -> StackedAdamW:
    weights = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    return StackedAdamW.start(weights, RATES, DECAYS)


@pytest.mark.parametrize("form", ["step", "step_written_out"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_every_row_is_an_optimiser_of_its_own(form: str, dtype: torch.dtype, tolerance: float) -> None:
    stacked, rows = start(dtype), [torch.nn.Parameter(row.clone()) for row in start(dtype).weights]
    own = [
        torch.optim.AdamW([row], lr=rate, weight_decay=decay)
        for row, rate, decay in zip(rows, RATES, DECAYS, strict=True)
    ]
    for k, gradient in enumerate(gradients(50, dtype)):
        active = torch.tensor([True, k % 3 > 0, k < 20])
        getattr(stacked, form)(gradient, active)
        for row, optimizer, part, on in zip(rows, own, gradient, active, strict=True):
            row.grad = part.clone()
            if on:
                optimizer.step()
    torch.testing.assert_close(stacked.weights, torch.stack([r.detach() for r in rows]), atol=tolerance, rtol=tolerance)
    assert stacked.steps.tolist() == [50, 33, 20]


@pytest.mark.parametrize("form", ["step", "step_written_out"])
def test_what_is_not_active_does_not_change_by_a_bit_whatever_its_gradient(form: str) -> None:
    stacked = start(torch.float32)
    for gradient in gradients(3, torch.float32):
        stacked.step(gradient, torch.ones(3, dtype=torch.bool))
    before = stacked.kept([0, 1, 2])
    gradient = gradients(1, torch.float32)[0]
    gradient[1] = torch.inf
    gradient[2] = torch.nan
    getattr(stacked, form)(gradient, torch.tensor([True, False, False]))
    for name in ("weights", "mean", "square", "steps"):
        old, new = getattr(before, name), getattr(stacked, name)
        assert torch.equal(old[1:], new[1:]), name
        assert not torch.equal(old[0], new[0]), name


def test_some_rows_share_memory_or_do_not() -> None:
    stacked = start(torch.float32)
    stacked.rows(slice(1, 2)).step(torch.ones(1, 40), torch.ones(1, dtype=torch.bool))
    assert stacked.steps.tolist() == [0, 1, 0]
    stacked.kept([1, 2]).step(torch.ones(2, 40), torch.ones(2, dtype=torch.bool))
    assert stacked.steps.tolist() == [0, 1, 0]
