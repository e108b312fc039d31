"""One decoder process, seen from the run: started, asked, listened to, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress

from extract.decode.turns import Turns
from extract.decode.wire import SETUP_FAILED, Message, receive, send_bytes

START_S = 60.0  # for a new process to come up, on a busy machine
BUFFER_BYTES = 2**20
PATIENCE_S = 5.0  # for the system to end one
LOOK_S = 0.25  # how often a waiting thread looks whether it is still wanted
OUTSIDE = (signal.SIGKILL, signal.SIGTERM) if os.name == "posix" else ()
NO_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class DecoderStartError(OSError):
    """Decoder processes do not start; no video is to blame."""


class Lost(Exception):
    """The process was given up in the middle of its work; the message has a place for how far it got.

    Attributes:
        error: "DecoderHung", "DecoderDied", "DecoderKilled", or "UnreadableFile" where another file took its place.
        killed: it ended by a signal that others send; it need not have been the video's fault.
    """

    def __init__(self, error: str, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.error, self.killed = error, killed


class DecoderProcess:
    """One process and our end of its socket.

    Args:
        row: of ``turns``, a table of ``rows`` processes.

    Attributes:
        videos: that it was asked to read.

    Raises:
        DecoderStartError: the system starts no more processes.
    """

    def __init__(self, turns: Turns, row: int, rows: int) -> None:
        self.row = row
        ours = None
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._start(theirs, turns, rows)
        except OSError as error:
            if ours is not None:
                ours.close()
            raise DecoderStartError(
                f"decoding does not start: the system gave no new process or file for it ({error.strerror or error}). "
                "End other programs, or raise the bounds of this user (ulimit -u, ulimit -n) or of the container; "
                "then run again: what is complete stays"
            ) from error
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        ours.settimeout(LOOK_S)
        self._link = ours
        self._ready = False
        self.videos = 0

    def _start(self, theirs: socket.socket, turns: Turns, rows: int) -> None:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)  # pictures; the system has its own bound
        path = [os.path.abspath(p) for p in sys.path if isinstance(p, str)]
        numbers = f"{theirs.fileno()}, {turns.fileno()}, {self.row}, {rows}"
        start = f"import sys; sys.path[:] = {path!r}; from extract.decode.child import main; main({numbers})"
        # The terminal is not for what libraries have to say.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                pass_fds=[theirs.fileno(), turns.fileno()],
                env=os.environ | NO_THREADS,
                process_group=0,  # Ctrl-C is for this process, which ends the other
            )
        except OSError:
            self._log.close()
            raise

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
        try:
            send_bytes(self._link, work)
        except OSError:
            raise self._death() from None
        while True:
            yield self._receive(timeout_s, check, wanted)

    def come_up(self, timeout_s: float, check: Callable[[], None]) -> None:
        """Wait until the process can work; raises as ``read``."""
        if self._ready:
            return
        try:
            self._receive(max(timeout_s, START_S), check, lambda: True)
        except Lost as lost:
            if lost.killed:
                raise
            raise DecoderStartError(f"decoding does not start: {str(lost).replace('{}', '')}") from None
        self._ready = True

    def _receive(self, timeout_s: float, check: Callable[[], None], wanted: Callable[[], bool]) -> Message:
        waited_s = 0.0

        def waiting() -> None:
            nonlocal waited_s
            check()
            # Not by the clock: after Ctrl-Z, or on a machine that slept, that would be long ago.
            waited_s += LOOK_S if wanted() else 0
            if waited_s >= timeout_s:
                raise Lost("DecoderHung", f"no sign of life from the decoder for {timeout_s:g} s{{}}; it was ended")

        try:
            return receive(self._link, waiting)
        except (EOFError, OSError):
            raise self._death() from None
        except ValueError as error:
            raise Lost("DecoderDied", f"the decoder process sent nonsense{{}}: {str(error)[:500]}") from None

    def _death(self) -> Lost:
        """Why nothing comes any more."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return Lost("DecoderHung", "the decoder process went silent{}; it was ended")
        if status == SETUP_FAILED:
            raise DecoderStartError(f"decoding does not start{self._last_words()}")
        number = -status
        names = {s.value: s.name for s in signal.Signals}
        how = f"signal {number} ({names.get(number, 'unknown')})" if number > 0 else f"status {status}"
        words = self._last_words()
        killed = number in OUTSIDE
        error = "DecoderKilled" if killed else "DecoderDied"
        return Lost(error, f"the decoder process ended with {how}{{}}{words}", killed=killed)

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def kill(self) -> None:
        """End the process; may be called by any thread."""
        self.process.kill()

    def end(self) -> None:
        """End the process and close what belongs to it; for the thread that reads from it."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):  # asleep in a broken file system; not waited for for ever
            self.process.wait(PATIENCE_S)
        self._link.close()
        self._log.close()
