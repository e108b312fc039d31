"""Out of memory: a batch that does not fit runs in halves from then on, once.

The pipeline's batches keep their size, so that what is packed together never depends on the device. Only inside an
encoder a batch may be cut into two calls of the model. A second failure is an error that says what to do.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class DeviceFull(ValueError):
    """The device has too little memory, also for half a batch."""


class InParts:
    """Runs the batches of one model, whole or, after the device ran out of memory, in halves.

    Attributes:
        what: names the model and its rows in messages, e.g. "stream video, frames".
        halved: batches run in halves.
        advice: what helps if halves do not fit either.
    """

    def __init__(self, what: str, advice: str | None = None) -> None:
        self.what = what
        self.advice = advice or "give the encoders less to do at once (a smaller --gpu-memory)"
        self.halved = False

    def size(self, num_rows: int) -> int:
        """Rows per call of the model for a batch of ``num_rows``."""
        return -(-num_rows // 2) if self.halved else num_rows

    def run(self, num_rows: int, compute: Callable[[np.ndarray, int], Result]) -> list[Result]:
        """Compute a batch, in one call or two.

        Args:
            num_rows: B.
            compute: is given int64 (p,) rows of the batch, of which the first ``count`` are new; the others fill the
                last part up, so that every part of a batch has one shape. It may be called again for the same rows.

        Raises:
            DeviceFull: out of memory, and the batch cannot be halved any more.
        """
        return self.attempt(num_rows, lambda: [compute(rows, count) for rows, count in self._parts(num_rows)])

    def attempt(self, num_rows: int, work: Callable[[], Result]) -> Result:
        """``work`` for ``num_rows`` at once; after an out-of-memory once more, when ``halved`` is set.

        Raises:
            DeviceFull: see ``run``.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(num_rows, error)
            # Not inside the handler: there the error still holds what the failed call had allocated.
            release_memory()

    def _halve(self, num_rows: int, error: Exception) -> None:
        if self.halved or num_rows < 2:
            now = f"{self.size(num_rows)} at once"
            raise DeviceFull(
                f"{self.what}: the device is out of memory with {now}{' after halving' if self.halved else ''}. Free "
                f"its memory, run the streams one by one (--streams), or {self.advice}. {first_line(error)}"
            ) from error
        log.warning(
            "%s: the device is out of memory with %d at once; going on with %d at once (%s)",
            *(self.what, num_rows, -(-num_rows // 2), first_line(error)),
        )
        self.halved = True

    def _parts(self, num_rows: int) -> Iterator[tuple[np.ndarray, int]]:
        size = self.size(num_rows)
        for start in range(0, num_rows, size):
            rows = np.minimum(np.arange(start, start + size), num_rows - 1)
            yield rows, min(size, num_rows - start)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or jax says that the device's memory is used up. Neither is imported for the question."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")  # type: tuple[Any, Any]
    if torch is not None and isinstance(error, RuntimeError):
        # Libraries below torch's allocator (CUDA itself, cuBLAS) fail in words only.
        words = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
        if isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words):
            return True
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def release_memory() -> None:
    """Give back what is no longer used, also what torch keeps for later: the other library may be the one in need."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """What the library says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
