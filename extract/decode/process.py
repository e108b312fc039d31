"""One decoder process, seen from the run: started, asked, listened to, ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from extract.child_process import ChildProcess, ChildStartError
from extract.decode.turns import Turns
from extract.decode.wire import Message, receive


class DecoderStartError(ChildStartError):
    """Decoder processes do not start; no video is to blame."""


class DecoderProcess(ChildProcess):
    """A ``ChildProcess`` that runs extract/decode/child.py.

    Args:
        row: of ``turns``, a table of ``rows`` processes.

    Attributes:
        videos: that it was asked to read.

    Raises:
        DecoderStartError: the system starts no more processes.
    """

    who, doing = "decoder", "decoding"
    start_error = DecoderStartError

    def __init__(self, turns: Turns, row: int, rows: int) -> None:
        super().__init__("extract.decode.child", [turns.fileno()], [row, rows])
        self.row = row
        self.videos = 0

    def read(
        self, work: bytes, timeout_s: float, check: Callable[[], None], wanted: Callable[[], bool]
    ) -> Iterator[Message]:
        """What the process says about a video.

        Args:
            wanted: whether its silence counts.

        Raises:
            Lost: it dies or hangs.
            DecoderStartError: it never came up.
        """
        self.videos += 1
        self.come_up(timeout_s, check)
        self.send(work)
        while True:
            yield self.listen(receive, timeout_s, check, wanted)

    def come_up(self, timeout_s: float, check: Callable[[], None]) -> None:
        """Wait until the process can work; raises as ``read``."""
        self.wait_for_start(receive, timeout_s, check)
