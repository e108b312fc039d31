"""The life of a video in a run, as a state machine: every sequence of steps is tried."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.decode.events import Job
from extract.flow.life import ENDS, NEXT, Life, State, Step
from extract.sharing.claims import ClaimLost
from shared.cache import CacheError, VideoInfo

JOB = Job("v", "v.mp4", Path("v.mp4"), None, ("image",))
INFO = VideoInfo({}, 25.0, 2, 8, 8, 0, "fake", np.arange(2.0))
LETTERS = {Step.OPENED: "o", Step.READ: "r", Step.WHOLE: "w", Step.MARKED: "m", Step.BROKE: "b", Step.TAKEN: "t"}
# Everything that may happen to a video, from its claim on, in the order in which it happens.
LIVES = re.compile(r"(o(r(w(m|t|b)?|b)?|b)?|b)?")


class Rows:
    """What ``Life`` sees of an Assembly."""

    def __init__(self) -> None:
        self.error: CacheError | None = None
        self.is_whole = self.written = False
        self.closed: list[VideoInfo] = []

    def close(self, info: VideoInfo) -> None:
        self.closed.append(info)


def life() -> tuple[Life, Rows]:
    rows: Any = Rows()
    return Life(JOB, rows), rows


@pytest.mark.parametrize("length", range(7))
def test_no_other_lives_than_these(length: int) -> None:
    for steps in product(Step, repeat=length):
        one, _ = life()
        try:
            for step in steps:
                one.step(step)
            went = True
        except RuntimeError:
            went = False
        assert went == bool(LIVES.fullmatch("".join(LETTERS[s] for s in steps))), steps


def test_every_state_is_reached_and_every_life_can_end() -> None:
    assert set(NEXT.values()) == set(State) - {State.CLAIMED}
    assert {state for state, _ in NEXT} == set(State) - ENDS
    assert all(NEXT[state, Step.BROKE] is State.FAILED for state in State if state not in ENDS)


def test_a_mistake_of_the_program_is_told_in_words() -> None:
    one, _ = life()
    with pytest.raises(RuntimeError, match="v: 'its markers are on disk' cannot happen to one that is 'claimed'"):
        one.step(Step.MARKED)


@pytest.mark.parametrize("rows_first", [True, False])
def test_it_is_written_once_when_it_is_read_and_every_row_has_come(rows_first: bool) -> None:
    one, rows = life()
    one.step(Step.OPENED)
    if rows_first:
        rows.is_whole = True
        one.came()
        assert (one.state, rows.closed) == (State.DECODING, [])
    one.read(INFO)
    rows.is_whole = True
    one.came()
    one.came()
    assert (one.state, rows.closed) == (State.WRITING, [INFO])
    assert one.look() is State.WRITING
    rows.written = True
    assert one.look() is State.COMPLETE is one.look()


def test_what_the_writer_reports() -> None:
    one, rows = life()
    one.step(Step.OPENED)
    one.read(INFO)
    assert one.look() is State.WAITING
    rows.error = CacheError("not finite")
    assert one.look() is State.FAILED
    assert one.failure is not None
    assert (one.failure.stage, one.failure.error, one.failure.message) == ("write", "CacheError", "not finite")

    one, rows = life()
    one.step(Step.OPENED)
    rows.is_whole = True
    one.read(INFO)
    rows.error = ClaimLost("v: another run has taken it over")
    assert one.look() is State.LOST
    assert one.failure is None
