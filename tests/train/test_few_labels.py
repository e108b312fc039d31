"""Few labels, odd labels: what is possible runs, what is not is refused in words; a score is never NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.cache import FeatureCache
from tests.train.test_cli import QUICK, call


def run(folder: Path, cache: FeatureCache, clips: Sequence[Any], label: Callable[[int, Any], str], *more: str) -> Any:
    folder.mkdir(exist_ok=True)
    rows = []
    for number, clip in enumerate(clips):
        (folder / f"{clip.id}.mp4").write_bytes(b"")
        rows.append(f"{clip.id}.mp4,{clip.id},{clip.group},{label(number, clip)}")
    header = "path,id,group," + ",".join(f"x{n}" for n in range(rows[0].count(",") - 2))
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    places = ["--cache", cache.url, "--runs", folder / "runs", "--no-baselines"]
    names = ",".join(name for name in header.split(",") if name.startswith("x"))
    return call("cv", folder / "t.csv", "--task", names, *places, *QUICK, *more)


def check_numbers(value: Any) -> None:
    if isinstance(value, dict):
        for one in value.values():
            check_numbers(one)
    elif isinstance(value, list):
        for one in value:
            check_numbers(one)
    elif isinstance(value, float):
        assert math.isfinite(value)


LABELS: dict[str, Callable[[int, Any], str]] = {
    "a class of one group": lambda n, clip: "rare" if clip.group == "scene3" else ("a", "b")[n % 2],
    "a class of one video": lambda n, clip: "rare" if n == 0 else ("a", "b")[n % 2],
    "one column is always 0": lambda n, clip: f"{n % 2},0",
    "one column is nearly always 0": lambda n, clip: f"{n % 2},{int(n == 0)}",
    "both columns are one": lambda n, clip: f"{n % 2},{n % 2}",
    "a rating of few": lambda n, clip: str([0, 10][n % 2] + 0.5),
    "one rating is another one": lambda n, clip: "7.5" if n else "1.5",
    "most are not annotated": lambda n, clip: ("a", "b")[n % 2] if n < 12 else "",
}


@pytest.mark.parametrize("name", LABELS)
def test_odd_labels_run_with_what_is_possible(name: str, clips: list[Any], cache: FeatureCache, tmp_path: Path) -> None:
    result = run(tmp_path / "data", cache, clips, LABELS[name])
    assert result.exit_code == 0, result.output
    assert "nan" not in result.output.replace("nan of", "")
    (folder,) = (tmp_path / "data/runs").iterdir()
    check_numbers(json.loads((folder / "metrics.json").read_text()))


@pytest.mark.parametrize(("videos", "folds"), [(12, 5), (6, 3), (4, 2)])
def test_few_videos(videos: int, folds: int, clips: list[Any], cache: FeatureCache, tmp_path: Path) -> None:
    result = run(tmp_path / "d", cache, clips[:videos], lambda n, clip: ("a", "b")[n % 2], "--num-folds", str(folds))
    groups = len({clip.group for clip in clips[:videos]})
    assert (result.exit_code == 0) == (groups >= max(folds, 3)), result.output
    if result.exit_code:
        assert str(groups) in result.output
        assert "group" in result.output


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda n, clip: "a", "there is nothing to tell apart"),
        (lambda n, clip: "", "is empty: there is nothing to learn"),
        (lambda n, clip: "2.5", "there is nothing to learn"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    label: Callable[[int, Any], str], message: str, clips: list[Any], cache: FeatureCache, tmp_path: Path
) -> None:
    result = run(tmp_path / "d", cache, clips, label)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "d/runs").exists()
