"""Whoever is told what a run does: the command line, which shows it, and what is kept of it on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extract.decode.events import Job
    from extract.faults.ledger import Failure


class Watcher:
    """Is told what happens; the command line shows it. Does nothing by itself."""

    def opened(self, job: Job, promised_frames: int) -> None:
        """A video was opened; 0 frames promised if the container does not say."""

    def reached(self, job: Job, frame: int) -> None:
        """An item of this frame went to an encoder."""

    def ended(self, job: Job, failure: Failure | None) -> None:
        """A video is complete in the cache, or has failed; in another run, if it was never opened in this one."""

    def waits(self, jobs: Sequence[Job], holder: str) -> None:
        """Nothing is left but these, on which other runs are at work; ``holder`` has the first, if that is known."""
