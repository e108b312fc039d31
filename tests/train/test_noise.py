"""What a fold draws depends on its own seed, and on nothing beside it."""

import numpy as np
import pytest
import torch

from train.config import Augmentation, TrainConfig
from train.fit.fitting import epoch_shares
from train.heads import noise as noise_module
from train.heads.noise import Draws, Noise, Tape, beta_share, count_draws, drawing_from, normal, seed_words, uniform

DRAWS = Draws(100, 50)


def rows(seeds: list[tuple[int, ...]], steps: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    noise = Noise(DRAWS, len(seeds), "cpu")
    noise.seed(seeds)
    drawn = [tuple(part.clone() for part in noise.rows(k)) for k in range(steps)]
    return torch.stack([u for u, _ in drawn], 1), torch.stack([n for _, n in drawn], 1)  # (M, S, n)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_fold_draws_the_same_alone_and_beside_others(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setitem(noise_module.STEPS_AT_ONCE, "cpu", at_once)
    many, alone = rows([(0, 0, 1), (0, 1, 1), (7, 0, 1)]), rows([(0, 1, 1)])
    for a, b in zip(many, alone, strict=True):
        assert torch.equal(a[1], b[0])
        assert len(a.flatten(0, 1).unique(dim=0)) == 15  # folds, seeds and steps all differ
    assert torch.equal(rows([(0, 1, 1)])[0], alone[0])


def test_numbers_are_uniform_and_normal() -> None:
    uniforms, normals = rows([(0, 0, 0), (0, 1, 0)], steps=200)
    assert (uniforms.min() >= 0, uniforms.max() < 1) == (True, True)
    assert uniforms.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (normals.mean().item(), normals.std().item()) == pytest.approx((0, 1), abs=0.02)


def test_a_tape_is_taken_in_order_and_refuses_more_than_it_has() -> None:
    tape = Tape(torch.arange(6.0), torch.arange(4.0), torch.tensor(0.25))
    with drawing_from(tape):
        assert uniform((2, 2), torch.zeros(1)).tolist() == [[0, 1], [2, 3]]
        assert normal((3,), torch.zeros(1)).tolist() == [0, 1, 2]
        assert uniform((2,), torch.zeros(1)).tolist() == [4, 5]
        assert beta_share(0.2, torch.zeros(1)).item() == 0.25
        assert tape.used == Draws(6, 3)
        with pytest.raises(RuntimeError):
            uniform((1,), torch.zeros(1))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(uniform((3,), torch.zeros(1)), expected)  # no tape any more


def test_counting_uses_up_no_random_number() -> None:
    state = torch.get_rng_state()
    assert count_draws(
        lambda: (uniform((3, 4), torch.zeros(1)), normal((5,), torch.zeros(1))), torch.device("cpu")
    ) == (Draws(12, 5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("a", [0.2, 1.5])
def test_shares_of_mixup_are_beta_and_belong_to_their_fold(a: float) -> None:
    config = TrainConfig(augment=Augmentation(mixup=a))
    shares = epoch_shares(config, 0, 0, 20_000)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.03)
    assert torch.equal(epoch_shares(config, 0, 0, 5), epoch_shares(config, 0, 0, 5))
    assert not torch.equal(epoch_shares(config, 1, 0, 5), epoch_shares(config, 0, 0, 5))
    assert epoch_shares(TrainConfig(), 0, 0, 3).tolist() == [1, 1, 1]


def test_seeds_fit_and_differ() -> None:
    words = np.array([seed_words(s, f, e) for s in range(5) for f in range(5) for e in range(5)])
    assert len(np.unique(words)) == words.size
    assert (words >= 0).all()
