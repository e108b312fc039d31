"""Preparations that do to a decoder process what a hostile video would; numpy and PIL only, processes import it."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Hostile:
    """Frames at 8 x 8 pixels, but for those of one width: these get what ``act`` says.

    Attributes:
        mark: a file that is locked for as long as the process lives that acted.
    """

    act: str
    width: int = 96
    mark: str = ""

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        if frame.shape[1] == self.width and not (self.act == "hang once" and Path(f"{self.mark}.acts").exists()):
            if self.mark:
                handle = os.open(self.mark, os.O_RDWR)
                fcntl.flock(handle, fcntl.LOCK_EX)
                Path(f"{self.mark}.acts").touch()
            self._act()
        return np.asarray(Image.fromarray(frame).resize((8, 8)))

    def _act(self) -> None:
        match self.act:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "abort":
                os.write(2, b"free(): invalid pointer\n")
                os.abort()
            case "exit":
                os._exit(3)
            case "hang" | "hang once":
                time.sleep(3600)
            case "allocate":
                kept = [np.ones(2**22) for _ in range(2**10)]  # 32 GiB, written to
                raise AssertionError(f"{len(kept)} pieces fit")
            case "raise":
                raise ZeroDivisionError("nothing to divide")
            case "chatter":
                os.write(1, b"on the terminal\n")
                with suppress(OSError):  # its last words are bounded
                    os.write(2, b"on the terminal\n" * 100_000)
