"""Damaged videos by the thousand, through the decoder alone and through whole runs of ``extract``."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from extract.faults.ledger import FailureLedger
from shared.cache import FeatureCache
from tests.extract.fuzz_damage import Case, make_case
from tests.extract.fuzz_reading import REPO, Outcome, read_all, wrongs
from tests.extract.fuzz_seeds import real, rendered
from tests.soak.conftest import Soak

pytestmark = pytest.mark.soak
BATCH = 200  # cases on disk at once


def test_damaged_videos_are_complete_with_the_right_frames_or_an_error(soak: Soak, tmp_path: Path) -> None:
    seeds = [*rendered(tmp_path / "seeds"), *real()]
    outcomes, slowest, found = Counter[str](), 0.0, []
    total = soak.cases(3000)
    for start in range(0, total, BATCH):
        cases = [make_case(soak.seed, n, seeds, tmp_path) for n in range(start, min(start + BATCH, total))]
        for case, outcome in zip(cases, read_all(case.path for case in cases), strict=True):
            outcomes[_kind(case, outcome)] += 1
            slowest = max(slowest, outcome.seconds)
            found += wrongs(case, outcome)
            case.path.unlink()
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    soak.note(f"fuzz: {total} damaged videos of {len(seeds)}: {counts}; slowest {slowest:.1f} s (read twice)")
    assert found == []


def test_a_run_over_damaged_videos_ends_with_every_one_complete_or_in_the_ledger(soak: Soak, tmp_path: Path) -> None:
    seeds = rendered(tmp_path / "seeds")
    root = tmp_path / "data"
    root.mkdir()
    cases = [make_case(soak.seed + 1, number, seeds, root) for number in range(soak.cases(100))]
    with (root / "all.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "id"), *((case.path.name, case.path.stem) for case in cases)])
    cache = str(tmp_path / "x.zarr")
    command = ["run", str(root / "all.csv"), "--preset", "tiny", "--streams", "image", "--cache", cache]
    done = subprocess.run(
        [sys.executable, "-m", "extract", *command], cwd=REPO, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1, done.stderr[-2000:]
    store, failures = FeatureCache.open(cache), FailureLedger(cache).failures()
    outcomes = list(read_all(case.path for case in cases))
    for case, outcome in zip(cases, outcomes, strict=True):
        name, info = case.path.stem, store.info(case.path.stem)
        assert (name in failures) != ("image" in store.streams(name)), case
        assert (name in failures) == (outcome.error is not None), (case, outcome, failures.get(name))
        if name in failures:
            assert failures[name].message
        else:
            assert info is not None
            assert info.num_frames == outcome.frames, case
            assert store.verify(name) == []
    assert store.group_ids() == store.video_ids()
    soak.note(f"fuzz: a run over {len(cases)} damaged videos: {len(failures)} in the ledger, the rest complete")


def _kind(case: Case, outcome: Outcome) -> str:
    if outcome.error is not None:
        return "refused"
    return "whole" if outcome.frames == case.seed.frames else "of other length"
