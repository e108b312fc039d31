"""Sixty damaged videos, always the same; thousands more with ``make soak``."""

from __future__ import annotations

from pathlib import Path

from tests.extract.fuzz_damage import DAMAGES, make_case
from tests.extract.fuzz_reading import read_all, wrongs
from tests.extract.fuzz_seeds import real, rendered

SEED, CASES = 7, 60


def test_a_damaged_video_is_complete_with_the_right_frames_or_an_error(tmp_path: Path) -> None:
    seeds = [*rendered(tmp_path / "seeds"), *real()]
    cases = [make_case(SEED, number, seeds, tmp_path) for number in range(CASES)]
    assert {case.damage for case in cases} == set(DAMAGES)
    outcomes = list(read_all(case.path for case in cases))
    assert [line for case, outcome in zip(cases, outcomes, strict=True) for line in wrongs(case, outcome)] == []
    assert 10 < sum(outcome.error is None for outcome in outcomes) < 50  # some damage is none, most is found


def test_undamaged_videos_are_complete(tmp_path: Path) -> None:
    seeds = rendered(tmp_path)
    outcomes = list(read_all(tmp_path / seed.name for seed in seeds))
    assert [(outcome.frames, outcome.plain, outcome.same) for outcome in outcomes] == [
        (seed.frames, seed.frames, True) for seed in seeds
    ]


def test_the_reader_survives_what_kills_its_process(tmp_path: Path) -> None:
    """Else a decoder that crashes or hangs would pass for an error of the video."""
    good = tmp_path / rendered(tmp_path)[0].name
    fake = "import sys; sys.stdin.readline(); print('{}', flush=True); sys.stdin.readline(); raise SystemExit(3)"
    first, second = read_all([good, good], command=("-c", fake))
    assert first.died == second.died == "ended with 3"
