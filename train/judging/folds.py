"""Which tracks test which fold. The unit is the group: parts of one recording and left/right twins never part.

A split is one integer per track: f >= 0 "is tested in fold f and trains every other fold", `ALWAYS_TRAIN` or `UNUSED`.
`SCATTERED` marks the tracks of the one kind of folds that breaks the rule: random windows, which exist to be audited.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from shared.names import unknown_name

ALWAYS_TRAIN = -1
UNUSED = -2
SCATTERED = -3  # its windows lie in all folds
_SPLIT_NAMES = {"train": ALWAYS_TRAIN, "val": 0, "validation": 0, "test": UNUSED}
DEAL_FROM = 20_000  # groups; up to there folds are scikit-learn's
TESTED_SPLITS = tuple(name for name, fold in _SPLIT_NAMES.items() if fold >= 0)


class FoldError(ValueError):
    """Tracks that cannot be split as asked."""


def check_groups(
    fold_ids: Sequence[int] | np.ndarray, groups: Sequence[str], names: Sequence[str] | None = None
) -> None:
    """Raise where a group lies in two folds. Unused tracks count for nothing.

    Args:
        names: what folds 0, 1, ... are called in the message.

    Raises:
        FoldError: Names the first such group and its folds.
    """
    seen: dict[str, int] = {}
    for fold, group in zip(fold_ids, groups, strict=True):
        if fold != UNUSED and seen.setdefault(group, int(fold)) != fold:
            one, other = (names[f] if names else f for f in (seen[group], int(fold)))
            raise FoldError(f"group {group!r} lies in two parts ({one} and {other}): its tracks must stay together")


def quantile_strata(values: np.ndarray, num_bins: int = 2) -> np.ndarray:
    """Strata from what each track is like, so that every fold gets its share of calm and of violent tracks.

    Args:
        values: (n,) or (n, K) float, per track the mean label (regression) or the share of the positive class.
            NaN (a track without a valid label) counts as the median.
        num_bins: Quantile bins per column; K columns give up to num_bins ** K strata.

    Returns:
        (n,) int64 stratum of each track.
    """
    values = np.asarray(values, np.float64).reshape(len(values), -1)  # (n, K)
    strata = np.zeros(len(values), np.int64)
    for column in values.T:
        known = column[np.isfinite(column)]
        if not len(known):
            continue
        filled = np.where(np.isfinite(column), column, np.median(known))
        edges = np.unique(np.quantile(known, np.arange(1, num_bins) / num_bins))
        strata = strata * num_bins + np.searchsorted(edges, filled, side="left")
    return strata


def _merge_rare(strata: np.ndarray, smallest: int) -> np.ndarray:
    """Join neighbouring strata until each has `smallest` tracks: fewer cannot be spread over that many folds."""
    names, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    merged, current, size = np.zeros(len(names), np.int64), 0, 0
    for i, count in enumerate(counts):
        merged[i] = current
        size += int(count)
        if size >= smallest:
            current, size = current + 1, 0
    if size and current:
        merged[merged == current] = current - 1  # the rest joins the last full one
    return merged[codes]


def group_folds(
    groups: Sequence[str], strata: Sequence[int] | np.ndarray | None = None, num_folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Cross-validation folds by group, stratified as far as groups allow: scikit-learn's StratifiedGroupKFold, or
    beyond ``DEAL_FROM`` groups, where that takes too long, dealt out like cards.

    Args:
        groups: (n_tracks,) group of each track.
        strata: (n_tracks,) stratum of each track, for example from `quantile_strata`; None: all alike.
        num_folds: Number of folds, 2 or more. Every fold gets at least one group.
        seed: Another seed gives other folds; the same seed the same folds.

    Returns:
        (n_tracks,) int64 in 0..num_folds-1; no group lies in two folds.

    Raises:
        FoldError: Fewer than 2 folds, or fewer groups than folds.
    """
    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if num_folds < 2:
        raise FoldError(f"cross-validation needs 2 folds or more, not {num_folds}")
    if len(names) < num_folds:
        shown = ", ".join(names[:8])
        raise FoldError(f"{num_folds} folds need at least {num_folds} groups, found {len(names)}: {shown}")
    strata = np.zeros(len(codes), np.int64) if strata is None else np.asarray(strata)
    if len(strata) != len(codes):
        raise FoldError(f"{len(strata)} strata for {len(codes)} tracks")
    strata = _merge_rare(strata, num_folds)
    if len(names) > DEAL_FROM:
        folds = _deal(codes, strata, num_folds, seed)
        check_groups(folds, groups)
        return folds
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds = np.full(len(codes), -1, np.int64)
    with warnings.catch_warnings():
        # A large group may hold most of a stratum; then balance is impossible, which is no news to the user.
        warnings.filterwarnings("ignore", message="The least populated class")
        for fold, (_, tested) in enumerate(splitter.split(codes, strata, codes)):
            folds[tested] = fold
    _fill_empty_folds(folds, codes, num_folds)
    check_groups(folds, groups)
    return folds


def _deal(codes: np.ndarray, strata: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Folds of very many groups, like cards: sorted by stratum and size, in random order among equals, one by one.

    A group counts for the stratum that most of its tracks have (the first of equals). Of so many groups the folds are
    alike within a few tracks per stratum, without the search that takes scikit-learn 0.1 ms a group.
    """
    num_groups, num_strata = int(codes.max()) + 1, int(strata.max()) + 1
    pairs, counts = np.unique(codes * num_strata + strata, return_counts=True)
    most = np.lexsort((pairs, -counts, pairs // num_strata))  # by group, its largest stratum first
    first = np.unique(pairs[most] // num_strata, return_index=True)[1]
    main = pairs[most][first] % num_strata  # (num_groups,)
    order = np.lexsort((np.random.default_rng(seed).permutation(num_groups), -np.bincount(codes), main))
    home = np.empty(num_groups, np.int64)
    home[order] = np.arange(num_groups) % num_folds
    return home[codes]


def _fill_empty_folds(folds: np.ndarray, codes: np.ndarray, num_folds: int) -> None:
    """Give every empty fold the smallest group of the fold with most groups, in place.

    StratifiedGroupKFold is greedy on balance and may leave a fold without any group when groups are few and uneven.
    """
    sizes = np.bincount(codes)
    home = np.zeros(len(sizes), np.int64)  # fold of each group
    home[codes] = folds
    for fold in range(num_folds):
        if not (home == fold).any():
            donor = np.bincount(home, minlength=num_folds).argmax()
            members = np.flatnonzero(home == donor)
            home[members[sizes[members].argmin()]] = fold
    folds[:] = home[codes]


def random_folds(num_items: int, num_folds: int, seed: int) -> np.ndarray:
    """Folds of equal size at random, whatever belongs together: (num_items,) int64 in 0..num_folds-1."""
    return np.random.default_rng(seed).permutation(num_items) % num_folds


def official_split(splits: Sequence[str | None], groups: Sequence[str] | None = None) -> np.ndarray:
    """The published split as one fold: val is tested, train always trains, test and None are unused.

    Returns:
        (n_tracks,) int64 of 0, ALWAYS_TRAIN and UNUSED.

    Raises:
        FoldError: An unknown split name, no train or no val track, or (where groups are given) a group in both.
    """
    ids = []
    for split in splits:
        if split is not None and split not in _SPLIT_NAMES:
            raise FoldError(unknown_name("split", split, _SPLIT_NAMES))
        ids.append(UNUSED if split is None else _SPLIT_NAMES[split])
    folds = np.array(ids, np.int64)
    for name, code in (("train", ALWAYS_TRAIN), ("val", 0)):
        if not (folds == code).any():
            raise FoldError(f"the official split has no {name} track; name folds in the manifest or use group folds")
    if groups is not None:
        check_groups(folds, groups)
    return folds


def fold_column(folds: Sequence[int | None], groups: Sequence[str]) -> np.ndarray:
    """Folds named in the manifest. Tracks without one are unused.

    Returns:
        (n_tracks,) int64, each fold id 0 or more, or UNUSED.

    Raises:
        FoldError: A negative fold, fewer than two folds, a gap in the numbering, or a group in two folds.
    """
    ids = np.array([UNUSED if fold is None else int(fold) for fold in folds], np.int64)
    named = sorted({int(fold) for fold in folds if fold is not None})
    if len(named) < 2 or named != list(range(len(named))):
        raise FoldError(f"the fold column must name folds 0, 1, ... without gaps, at least two; found {named}")
    check_groups(ids, groups)
    return ids


def inner_validation(
    groups: Sequence[str],
    train: np.ndarray,
    strata: Sequence[int] | np.ndarray | None = None,
    fraction: float = 0.15,
    seed: int = 0,
) -> np.ndarray:
    """Take a validation part out of one fold's training tracks, for early stopping and thresholds.

    The test fold must never choose a checkpoint, so the choice is made on groups that
    are neither tested nor trained on.

    Args:
        groups: (n_tracks,) group of each track.
        train: (n_tracks,) bool, the tracks this fold may train on.
        strata: (n_tracks,) as for `group_folds`.
        fraction: Wanted share of the training tracks, above 0 and at most 0.5; met as nearly as groups allow.
        seed: As for `group_folds`.

    Returns:
        (n_tracks,) bool, part of `train`; the training tracks that are left keep at least one group.

    Raises:
        FoldError: A fraction out of range, or fewer than two training groups.
    """
    if not 0 < fraction <= 0.5:
        raise FoldError(f"the validation fraction must be above 0 and at most 0.5, not {fraction}")
    rows = np.flatnonzero(np.asarray(train, bool))
    part = [groups[int(i)] for i in rows]
    num_groups = len(set(part))
    if num_groups < 2:
        raise FoldError(f"a validation part needs at least 2 training groups, found {num_groups}")
    num_parts = min(max(2, round(1 / fraction)), num_groups)
    inner = group_folds(part, None if strata is None else np.asarray(strata)[rows], num_parts, seed)
    shares = np.bincount(inner, minlength=num_parts) / len(rows)
    chosen = np.zeros(len(groups), bool)
    chosen[rows[inner == int(np.abs(shares - fraction).argmin())]] = True
    return chosen
