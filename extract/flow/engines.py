"""Who does the work of a run: this process and its decoders, or the processes of a cluster (extract/cluster/)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from extract.decode.ahead import Decoders
from extract.decode.events import Job
from extract.faults.ledger import FailureLedger
from extract.flow.loading import Choice, caption_counts, load_encoders
from extract.flow.pipeline import run
from extract.jobs.summary import Summary
from extract.watcher import Watcher
from shared.cache import FeatureCache
from shared.recipe import Recipe


@dataclass(frozen=True)
class Loaded:
    """Encoders, as far as a plan has to know them.

    Attributes:
        recipes: stream -> recipe.
        untrained: streams with random weights.
        on_cpu: streams that run on a CPU, of those with real weights.
    """

    recipes: Mapping[str, Recipe]
    untrained: tuple[str, ...]
    on_cpu: tuple[str, ...]


def described(encoders: Mapping[str, object]) -> Loaded:
    """What these encoders are."""
    trained = {stream: bool(getattr(encoder, "trained", False)) for stream, encoder in encoders.items()}
    slow = [s for s, e in encoders.items() if trained[s] and getattr(e, "device", "cpu") == "cpu" and s != "text"]
    recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}  # type: ignore[attr-defined]
    return Loaded(recipes, tuple(sorted(s for s in trained if not trained[s])), tuple(slow))


class Engine(Protocol):
    """A context manager; ``load`` first, then ``run`` as often as wanted. An engine is closed with its context."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def load(self) -> Loaded:
        """Load the encoders; raises what ``load_encoders`` does."""
        ...

    def run(
        self, jobs: Sequence[Job], cache: FeatureCache, ledger: FailureLedger, summary: Summary, watcher: Watcher
    ) -> Summary:
        """As ``extract.flow.pipeline.run``."""
        ...


class LocalEngine:
    """Encoders in this process, decoders in processes beside it."""

    def __init__(self, choice: Choice, workers: int, timeout_s: float, note: Callable[[str], None]) -> None:
        self._choice, self._workers, self._timeout_s, self._note = choice, workers, timeout_s, note

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def load(self) -> Loaded:
        """Load the encoders into this process."""
        self._encoders = load_encoders(self._choice, self._note)
        return described(self._encoders)

    def run(
        self, jobs: Sequence[Job], cache: FeatureCache, ledger: FailureLedger, summary: Summary, watcher: Watcher
    ) -> Summary:
        """One pipeline over all jobs."""
        summary.captions = caption_counts(self._encoders)
        with Decoders(self._workers, self._timeout_s) as decoders:
            return run(
                jobs, cache, self._encoders, ledger, summary, workers=self._workers, decoders=decoders, watcher=watcher
            )
