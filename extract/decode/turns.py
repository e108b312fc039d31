"""Whose turn it is: decoder processes prepare pictures of the earliest video first, as one pool of threads would.

The encoders take videos in order, so what they will ask for next must not wait for what they will ask for later. Every
process notes in a table in shared memory how many of its pictures wait to be prepared; whoever works on a later video
lets them go first.
"""

from __future__ import annotations

import tempfile
from typing import IO

import numpy as np

LOOK_S = 0.002  # how often a process that waits for its turn looks again


class Turns:
    """The table: a row per process, the number of its video and of the pictures that wait.

    Args:
        rows: how many processes there may be at once.
        file: of a table that another process made.
    """

    def __init__(self, rows: int, file: IO[bytes] | None = None) -> None:
        self._file: IO[bytes] = file or tempfile.TemporaryFile()  # noqa: SIM115 - kept open, other processes get it
        if file is None:
            self._file.truncate(rows * 16)
        self._table = np.memmap(self._file, np.int64, "r+", shape=(rows, 2))

    def fileno(self) -> int:
        """To be handed to another process."""
        return self._file.fileno()

    def note(self, row: int, video: int, waiting: int) -> None:
        """The process of this row has so many pictures of a video waiting."""
        self._table[row] = video, waiting

    def others_first(self, video: int) -> bool:
        """Whether pictures of an earlier video wait."""
        return bool(((self._table[:, 0] < video) & (self._table[:, 1] > 0)).any())

    def close(self) -> None:
        """Give the memory back."""
        del self._table
        self._file.close()
