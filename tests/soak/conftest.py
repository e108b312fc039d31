"""Long tests: every module here carries ``pytestmark = pytest.mark.soak`` and runs with ``make soak`` only.

They draw their cases from a seed: SOAK_SEED=7 repeats a run, without it a new one is drawn, and it is printed either
way. SOAK_CASES=20 makes every test run so many cases instead of its own number.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field

import numpy as np
import pytest


@dataclass
class Soak:
    """Seed and number of cases; collects what the tests want said at the end.

    Attributes:
        seed: of all tests of this session.
        notes: lines for the end of the session.
    """

    seed: int
    notes: list[str] = field(default_factory=list)

    def rng(self, stream: int = 0) -> np.random.Generator:
        """A generator of its own for each ``stream``, so that one test's draws do not move another's."""
        return np.random.default_rng([self.seed, stream])

    def cases(self, usual: int) -> int:
        """How many cases to run."""
        return int(os.environ.get("SOAK_CASES", usual))

    def note(self, line: str) -> None:
        """Say something at the end of the session."""
        self.notes.append(line)


SOAK = Soak(int(os.environ.get("SOAK_SEED") or secrets.randbelow(2**31)))


@pytest.fixture(scope="session")
def soak() -> Soak:
    return SOAK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SOAK.notes or any("tests/soak" in report.nodeid for report in terminalreporter.getreports("failed")):
        terminalreporter.section(f"soak, repeat with SOAK_SEED={SOAK.seed} make soak")
        for line in SOAK.notes:
            terminalreporter.write_line(line)
