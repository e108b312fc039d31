"""One video on its way through a run: which state it is in, and what may happen to it next.

    claimed --> decoding --> waiting for rows --> writing --> complete
       |           |               |                |-------> lost: another run has taken it over
       `-----------`---------------`----------------`-------> failed

Everything else that could happen to a video is a mistake of this program, and raises.
"""

from __future__ import annotations

from enum import Enum

from extract.decode.events import Job
from extract.faults.ledger import Failure
from extract.flow.assemble import Assembly
from extract.sharing.claims import ClaimLost
from shared.cache import VideoInfo


class State(Enum):
    """Where a video is; the last three are ends."""

    CLAIMED = "claimed"
    DECODING = "decoding"
    WAITING = "waiting for rows"  # read to its end; batches that have its last rows are not full yet
    WRITING = "writing"  # every row has come; what is left is to write, the markers last
    COMPLETE = "complete"
    FAILED = "failed"
    LOST = "lost"


class Step(Enum):
    """What happens to a video."""

    OPENED = "opened"
    READ = "read to its end"
    WHOLE = "the last row came"
    MARKED = "its markers are on disk"
    BROKE = "broke"
    TAKEN = "taken over by another run"


ENDS = frozenset({State.COMPLETE, State.FAILED, State.LOST})
NEXT = {
    (State.CLAIMED, Step.OPENED): State.DECODING,
    (State.DECODING, Step.READ): State.WAITING,
    (State.WAITING, Step.WHOLE): State.WRITING,
    (State.WRITING, Step.MARKED): State.COMPLETE,
    (State.WRITING, Step.TAKEN): State.LOST,
    **{(state, Step.BROKE): State.FAILED for state in State if state not in ENDS},
}


class Life:
    """A video of this run.

    Attributes:
        rows: what of it has come from the encoders.
        info: once it was read to its end.
        failure: why it failed.
    """

    def __init__(self, job: Job, rows: Assembly) -> None:
        self.job, self.rows, self.state = job, rows, State.CLAIMED
        self.info: VideoInfo | None = None
        self.failure: Failure | None = None

    def step(self, step: Step) -> None:
        """Go on to the next state.

        Raises:
            RuntimeError: this cannot happen to a video in its state.
        """
        if (self.state, step) not in NEXT:
            raise RuntimeError(f"{self.job.video}: {step.value!r} cannot happen to one that is {self.state.value!r}")
        self.state = NEXT[self.state, step]

    def read(self, info: VideoInfo) -> None:
        """It was read to its end; no more rows will be announced."""
        self.info = info
        self.step(Step.READ)
        self.came()

    def came(self) -> None:
        """Rows came: if they were the last ones, they are written, and the markers after them."""
        if self.state is State.WAITING and self.rows.is_whole:
            assert self.info is not None
            self.step(Step.WHOLE)
            self.rows.close(self.info)

    def broke(self, stage: str, error: str, message: str) -> None:
        """It cannot be used."""
        self.failure = Failure(self.job.video, self.job.path, stage, error, message)
        self.step(Step.BROKE)

    def look(self) -> State:
        """The state, by what the thread that writes has done meanwhile."""
        error = self.rows.error
        if self.state in ENDS:
            return self.state
        if isinstance(error, ClaimLost):
            self.step(Step.TAKEN)
        elif error is not None:
            self.broke("write", type(error).__name__, str(error))
        elif self.rows.written:
            self.step(Step.MARKED)
        return self.state
