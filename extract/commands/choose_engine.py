"""Which engine does the work of a run, by the words of the command line."""

from __future__ import annotations

from collections.abc import Callable

from extract.flow.engines import Engine, LocalEngine
from extract.flow.loading import Choice
from shared.cache import FeatureCache
from shared.names import unknown_name

ENGINES = ("local", "ray")


def check_engine(engine: str, address: str | None, actors: int | None) -> None:
    """Refuse options that do not go together.

    Raises:
        ValueError: says which.
    """
    if engine not in ENGINES:
        raise ValueError(f"--engine: {unknown_name('engine', engine, ENGINES)}")
    if engine == "local" and (address is not None or actors is not None):
        raise ValueError("--address and --actors are for a cluster: add --engine ray")
    if address is not None and not address.strip():
        raise ValueError(
            "--address is empty: give that of a Ray cluster (auto, HOST:PORT, ray://HOST:PORT); without --address one "
            "is started on this machine for the run"
        )


def open_engine(
    engine: str,
    choice: Choice,
    cache: FeatureCache,
    address: str | None,
    actors: int | None,
    workers: int,
    timeout_s: float,
    note: Callable[[str], None],
) -> Engine:
    """The engine, not entered yet.

    Raises:
        ValueError: Ray is not installed.
    """
    if engine == "local":
        return LocalEngine(choice, workers, timeout_s, note)
    try:
        from extract.cluster.engine import RayEngine
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError("--engine ray needs Ray, which is not installed: pip install 'crossgru[ray]'") from None
    return RayEngine(choice, cache, address=address, actors=actors, workers=workers, timeout_s=timeout_s, note=note)
