"""Long tests: every module here carries ``pytestmark = pytest.mark.soak`` and runs with ``make soak`` only.

They draw their cases from a seed: SOAK_SEED=7 repeats a run, without it a new one is drawn (tests/conftest.py), and it
is printed either way. SOAK_CASES=20 makes every test run so many cases instead of its own number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass
class Soak:
    """Seed and number of cases.

    Attributes:
        seed: of all tests of this session.
        note: says something at the end of the session.
    """

    seed: int
    note: Callable[[str], None]

    def rng(self, stream: int = 0) -> np.random.Generator:
        """A generator of its own for each ``stream``, so that one test's draws do not move another's."""
        return np.random.default_rng([self.seed, stream])

    def cases(self, usual: int) -> int:
        """How many cases to run."""
        return int(os.environ.get("SOAK_CASES", usual))


@pytest.fixture
def soak(record_property: Callable[[str, object], None]) -> Soak:
    return Soak(int(os.environ["SOAK_SEED"]), lambda line: record_property("soak", line))
