"""Folds over many random groupings: no group crosses, no fold is empty, the test fold chooses nothing."""

import numpy as np
import pytest

from train.judging.folds import (
    ALWAYS_TRAIN,
    UNUSED,
    FoldError,
    check_groups,
    fold_column,
    group_folds,
    inner_validation,
    official_split,
    quantile_strata,
)


def random_case(seed: int) -> tuple[list[str], np.ndarray, int]:
    """Groups of very uneven size, strata unrelated to them, some number of folds."""
    rng = np.random.default_rng(seed)
    num_groups = int(rng.integers(2, 25))
    sizes = rng.geometric(0.4, num_groups)
    groups = rng.permutation(np.repeat([f"g{i}" for i in range(num_groups)], sizes)).tolist()
    return groups, rng.integers(0, rng.integers(1, 6), len(groups)), int(rng.integers(2, min(num_groups, 6) + 1))


@pytest.mark.parametrize("seed", range(80))
def test_no_group_crosses_and_no_fold_is_empty(seed: int) -> None:
    groups, strata, num_folds = random_case(seed)
    folds = group_folds(groups, strata, num_folds, seed)
    assert set(folds.tolist()) == set(range(num_folds))
    for group in set(groups):
        assert len({int(f) for f, g in zip(folds, groups, strict=True) if g == group}) == 1
    np.testing.assert_array_equal(folds, group_folds(groups, strata, num_folds, seed))


def test_as_many_groups_as_folds_gives_one_each() -> None:
    groups = ["a"] * 7 + ["b"] + ["c"] * 2
    assert sorted({g: f for f, g in zip(group_folds(groups, None, 3).tolist(), groups, strict=True)}.values()) == [
        0,
        1,
        2,
    ]


@pytest.mark.parametrize(("sizes", "strata"), [([4, 8, 5, 2], [0, 1, 1, 0]), ([3, 1, 1, 6, 5], [0, 0, 0, 1, 1])])
def test_no_fold_is_empty_where_scikit_learn_leaves_one_so(sizes: list[int], strata: list[int]) -> None:
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes).tolist()
    folds = group_folds(groups, np.repeat(strata, sizes), len(sizes), seed=0)
    assert sorted(np.bincount(folds).tolist()) == sorted(sizes)  # one group each


def test_strata_are_balanced_where_groups_allow() -> None:
    violent = np.arange(100) < 44
    folds = group_folds([str(i) for i in range(100)], violent, 5, seed=3)
    shares = [violent[folds == f].mean() for f in range(5)]
    assert max(shares) - min(shares) <= 0.1
    assert np.bincount(folds).tolist() == [20] * 5


def test_seeds_give_different_folds() -> None:
    groups = [str(i) for i in range(30)]
    assert not np.array_equal(group_folds(groups, None, 5, 0), group_folds(groups, None, 5, 1))


def test_too_few_groups_are_refused_by_name() -> None:
    with pytest.raises(FoldError, match=r"5 folds need at least 5 groups, found 2: left, right"):
        group_folds(["left", "right"] * 10, None, 5)
    with pytest.raises(FoldError, match="2 folds or more"):
        group_folds(["a", "b"], None, 1)
    with pytest.raises(FoldError, match="3 strata for 2 tracks"):
        group_folds(["a", "b"], [0, 0, 1], 2)


def test_quantile_strata() -> None:
    assert quantile_strata(np.array([0.1, 0.9, 0.2, 0.8])).tolist() == [0, 1, 0, 1]
    two = quantile_strata(np.array([[0.1, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.9]]))
    assert len(set(two.tolist())) == 4
    assert quantile_strata(np.array([0.1, np.nan, 0.9, 0.8])).shape == (4,)
    assert set(quantile_strata(np.full(3, np.nan)).tolist()) == {0}
    assert set(quantile_strata(np.zeros(4)).tolist()) == {0}


def test_official_split() -> None:
    folds = official_split(["train", "val", "test", None, "validation"])
    assert folds.tolist() == [ALWAYS_TRAIN, 0, UNUSED, UNUSED, 0]
    with pytest.raises(FoldError, match="did you mean 'train'"):
        official_split(["trian", "val"])
    with pytest.raises(FoldError, match="no val track"):
        official_split(["train", "test"])
    with pytest.raises(FoldError, match="group 'x' lies in two parts"):
        official_split(["train", "val"], ["x", "x"])
    assert official_split(["train", "val", "test"], ["x", "y", "x"]).tolist() == [ALWAYS_TRAIN, 0, UNUSED]


def test_fold_column() -> None:
    assert fold_column([0, 1, None, 1], ["a", "b", "a", "b"]).tolist() == [0, 1, UNUSED, 1]
    with pytest.raises(FoldError, match="group 'a'"):
        fold_column([0, 1], ["a", "a"])
    for gap in ([0, 2], [1, 2], [0, 0], [None, None], [-1, 0]):
        with pytest.raises(FoldError, match="without gaps"):
            fold_column(gap, ["a", "b"])


def test_check_groups_counts_always_train_as_a_part() -> None:
    with pytest.raises(FoldError):
        check_groups([ALWAYS_TRAIN, 0], ["a", "a"])
    check_groups([UNUSED, 0], ["a", "a"])


@pytest.mark.parametrize("seed", range(60))
def test_inner_validation_takes_whole_groups_out_of_training_only(seed: int) -> None:
    groups, strata, num_folds = random_case(seed + 1000)
    folds = group_folds(groups, strata, num_folds, seed)
    train = folds != 0
    if len({g for g, t in zip(groups, train, strict=True) if t}) < 2:
        with pytest.raises(FoldError, match="at least 2 training groups"):
            inner_validation(groups, train, strata, 0.2, seed)
        return
    val = inner_validation(groups, train, strata, 0.2, seed)
    assert val.any()
    assert (train & ~val).any()
    assert not (val & ~train).any()
    parts = [{g for g, m in zip(groups, mask, strict=True) if m} for mask in (val, train & ~val, ~train)]
    assert sum(len(part) for part in parts) == len(set().union(*parts))  # no group in two of them


def test_inner_validation_meets_the_fraction() -> None:
    groups = [str(i) for i in range(200)]
    train = np.arange(200) < 160
    for fraction in (0.1, 0.2, 0.5):
        assert inner_validation(groups, train, None, fraction).sum() == pytest.approx(160 * fraction, abs=2)
    for fraction in (0.0, 0.6):
        with pytest.raises(FoldError, match="fraction"):
            inner_validation(groups, train, None, fraction)


def test_very_many_groups_are_dealt_out_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.judging.folds.DEAL_FROM", 200)
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in rng.integers(0, 1000, 5000)]
    strata = rng.choice(4, 5000, p=[0.6, 0.3, 0.09, 0.01])
    folds = group_folds(groups, strata, 5, seed=1)
    check_groups(folds, groups)
    np.testing.assert_array_equal(folds, group_folds(groups, strata, 5, seed=1))
    assert not np.array_equal(folds, group_folds(groups, strata, 5, seed=2))
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= 0.02 * 5000
    shares = [np.bincount(strata[folds == f], minlength=4) / sizes[f] for f in range(5)]
    assert np.ptp(shares, axis=0).max() < 0.05
