"""What has to stand beside a score: the same video on both sides of a fold, and labels that leave no choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.cache.facts import VideoFacts
from train.data.labels import Track
from train.judging.folds import ALWAYS_TRAIN, UNUSED
from train.tasks import Task

SHOWN = 5


def cautions(
    task: Task, tracks: Sequence[Track], folds: Sequence[int] | np.ndarray, facts: Mapping[str, VideoFacts]
) -> list[str]:
    """Sentences for those who read a score.

    Args:
        task: what is predicted.
        tracks: with labels.
        folds: of each track, as in train/judging/folds.py.
        facts: of the cached videos.
    """
    used = [track for track, fold in zip(tracks, folds, strict=True) if fold != UNUSED]
    folds, ranges = np.asarray(folds), label_ranges(task, tracks)
    return [
        *label_words(task, ranges[(folds != UNUSED) & (folds != ALWAYS_TRAIN)]),
        *fold_words(task, ranges, folds),
        *copy_words(used, find_copies(used, facts)),
    ]


# ------------------------------------------------------------------ copies


def find_copies(tracks: Sequence[Track], facts: Mapping[str, VideoFacts]) -> list[list[str]]:
    """Videos of equal bytes that lie in different groups: a list of ids for each content."""
    groups = {track.video_id: track.group for track in tracks}
    same: dict[str, list[str]] = {}
    for video_id in sorted(groups.keys() & facts.keys()):
        if sha256 := facts[video_id].sha256:
            same.setdefault(sha256, []).append(video_id)
    return [ids for ids in same.values() if len({groups[v] for v in ids}) > 1]


def copy_words(tracks: Sequence[Track], copies: Sequence[Sequence[str]]) -> list[str]:
    """What ``find_copies`` found, in a sentence."""
    if not copies:
        return []
    groups = {track.video_id: track.group for track in tracks}
    labels: dict[str, list[np.ndarray]] = {}
    for track in sorted(tracks, key=lambda t: t.name):
        labels.setdefault(track.video_id, []).append(track.labels)
    told = []
    for ids in copies[:SHOWN]:
        first, *others = [labels[v] for v in ids]
        alike = all(len(o) == len(first) and all(map(_equal, first, o)) for o in others)
        names = " = ".join(f"{v} (group {groups[v]})" for v in ids)
        told.append(names if alike else f"{names}, with different labels")
    count = sum(map(len, copies))
    return [
        f"{count} videos are byte-identical to a video of another group: {'; '.join(told)}"
        f"{' ...' if len(copies) > SHOWN else ''}. They leak between folds: give them one group, or remove one"
    ]


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=True)


# ------------------------------------------------------------------ labels


def label_words(task: Task, ranges: np.ndarray) -> list[str]:
    """Sentences on classes or values among which the labels of tested tracks leave no choice; from ``label_ranges``."""
    names, still, never = _unvaried(task, ranges)
    if not still.any():
        return []
    if task.class_names:
        if (~never).sum() == 1:
            k = int(np.argmin(never))
            return [f"only class {k} ({names[k]}) occurs in the tested labels: this score says nothing"]
        return [f"no tested label is {_listed(names, never)}: F1 0, whatever is predicted, which counts in the mean"]
    much = "this score says nothing" if still.all() else "its score says nothing, and it counts in the mean"
    return [f"the same in every tested label: {_listed(names, still)}; {much}"]


def fold_words(task: Task, ranges: np.ndarray, folds: np.ndarray) -> list[str]:
    """The same of single folds, as far as the others do not lack it: what is tested, and what is learned from."""
    used, tested = folds != UNUSED, (folds != UNUSED) & (folds != ALWAYS_TRAIN)
    homes = sorted({int(fold) for fold in folds if fold >= 0})
    names, everywhere, _ = _unvaried(task, ranges[tested])
    told = []
    for verb, parts in (
        ("tests on", {fold: folds == fold for fold in homes}),
        ("learns from", {fold: used & (folds != fold) for fold in homes}),
    ):
        lost = {fold: _unvaried(task, ranges[part])[1] & ~everywhere for fold, part in parts.items()}
        if short := [fold for fold, lacks in lost.items() if lacks.any()]:
            what = "" if task.class_names else "a change of "
            lacks = _listed(names, np.any([lost[fold] for fold in short], axis=0)).replace(", ", " or ")
            each = "fold" if len(short) == 1 else "each of the folds"
            which = ", ".join(str(fold + 1) for fold in short)
            told.append(f"{each} {which} {verb} labels without {what}{lacks}: its score says little")
    return told


def label_ranges(task: Task, tracks: Sequence[Track]) -> np.ndarray:
    """(tracks, V, 2): smallest and largest value of each output, or of "is it this class" of each class."""
    num = len(task.class_names or task.label_names)
    found = np.empty((len(tracks), num, 2))
    for row, track in zip(found, tracks, strict=True):
        values = track.labels[np.isfinite(track.labels).all(axis=1)]  # (n, K)
        if task.class_names:
            values = (values[:, :1] == np.arange(num)).astype(np.float32)  # (n, V)
        row[:, 0] = values.min(axis=0, initial=np.inf)
        row[:, 1] = values.max(axis=0, initial=-np.inf)
    return found


def _unvaried(task: Task, ranges: np.ndarray) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
    """Names (V,), which never vary (of classes: never occur), which never occur."""
    low, high = ranges[..., 0].min(axis=0, initial=np.inf), ranges[..., 1].max(axis=0, initial=-np.inf)  # (V,) each
    never = high <= 0
    return task.class_names or task.label_names, never if task.class_names else low >= high, never


def _listed(names: Sequence[str], which: np.ndarray) -> str:
    return ", ".join(name for name, wanted in zip(names, which, strict=True) if wanted)
