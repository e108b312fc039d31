"""Faults that are not the videos', among many encoder processes: the driver looks at the failures of all together.

A process that looked at its own share alone would know too little: eight broken files may be all that it was given.
So it waits where the driver says so, and one of them looks at videos that were not tried yet, wherever they are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from extract.decode.events import Job, Stopped
from extract.faults.ledger import Failure, FailureLedger
from extract.faults.systemic import FirstFailures, SystemicFailure, spread

LOOK_S = 0.25  # how often one that waits looks whether it is still wanted
KNOWN = 2  # videos that others have completed, asked about where one process completes none

Process = TypeVar("Process", bound=Hashable)


class Pause(FirstFailures):
    """In an encoder process, for its whole life: it looks at no failure, and waits where it is told to.

    Args:
        stopped: is set when its share is to end.
    """

    def __init__(self, stopped: threading.Event) -> None:
        super().__init__()
        self._stopped, self._changed = stopped, threading.Condition()
        self._held = self._freed = 0

    def hold(self, number: int) -> None:
        """Wait after the next video that ends; this is the driver's so many-th wish."""
        self._held = max(self._held, number)

    def free(self, number: int) -> None:
        """Go on, unless a later wish was to wait: they may come in another order."""
        with self._changed:
            self._freed = max(self._freed, number)
            self._changed.notify_all()

    def add(self, failure: Failure) -> None:
        """The driver hears of it."""

    def works(self) -> None:
        """The driver hears of it."""

    @property
    def alike(self) -> bool:
        """Whether to wait."""
        return self._held > self._freed

    def check(self, later: Sequence[Job]) -> None:
        """Wait.

        Raises:
            Stopped: nobody wants the rest.
        """
        with self._changed:
            while self.alike:
                if self._stopped.is_set():
                    raise Stopped
                self._changed.wait(LOOK_S)


class Doubts(Generic[Process]):
    """In the driver, for a run: the failures of all processes together for as long as nothing has worked anywhere, and
    then those of each that has not completed a video yet, which may be the fault of its node.

    Args:
        worked: whether earlier runs have completed some videos.
    """

    def __init__(self, ledger: FailureLedger, worked: bool) -> None:
        self._ledger, self._known, self._worked = ledger, ledger.failures(), worked
        self._all, self._own = self._new(), dict[Process, FirstFailures]()
        self._done = deque[Job](maxlen=KNOWN)
        self._last: Process | None = None
        self._asked, self._left = self._all, False

    @property
    def of_all(self) -> bool:
        """Whether it is not about one process only."""
        return not self._all.trusted

    def failed(self, process: Process, failure: Failure) -> None:
        """A video has failed in a process."""
        self._last = process
        for first in (self._all, self._of(process)):
            first.add(failure)

    def works(self, process: Process, job: Job) -> None:
        """A process has completed a video."""
        self._done.append(job)
        for first in (self._all, self._of(process)):
            first.works()

    def doubted(self, processes: Sequence[Process]) -> Process | None:
        """Who should be asked about other videos, of these that live; None if no failures look alike."""
        if not self._all.trusted:
            return (self._last if self._last in processes else processes[0]) if self._all.alike else None
        return next((process for process in processes if self._of(process).alike), None)

    def sample(self, process: Process, later: Sequence[Job]) -> list[Job]:
        """The videos that it should be asked about.

        Args:
            later: what has not ended.
        """
        asked = [*self._done, *later]
        self._asked, self._left = self._all if self.of_all else self._of(process), bool(asked)
        return spread(asked) if self._asked.asks else []

    def settle(self, readable: bool, node: str) -> None:
        """The process has answered: whether any of those videos opens on its node.

        Raises:
            SystemicFailure: as ``FirstFailures.check``; these failures are no tries of their videos any more.
        """
        first, whose = self._asked, "" if self._asked is self._all else f" of an encoder process (node {node})"
        if not first.alike:  # meanwhile something works, or fails for another cause
            return
        try:
            first.settle(readable, self._left, whose)
        except SystemicFailure:
            for failure in first.uncounted():
                self._ledger.record(failure)
            raise

    def _of(self, process: Process) -> FirstFailures:
        return self._own.setdefault(process, self._new())

    def _new(self) -> FirstFailures:
        return FirstFailures.after(self._known, self._worked)
