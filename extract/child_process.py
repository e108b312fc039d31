"""A process that reads what may be hostile, seen from the one that started it: listened to, bounded, ended.

What is sent either way is bytes with their number before them. The standard library alone, so that a child that needs
little else comes up fast.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

GIB = 2**30
MIN_MEMORY_BYTES = 4 * GIB
MAX_LOG_BYTES = 2**20
START_S = 60.0  # for a new process to come up, on a busy machine
BUFFER_BYTES = 2**20
PATIENCE_S = 5.0  # for the system to end one
LOOK_S = 0.25  # how often a waiting thread looks whether it is still wanted
LENGTH = struct.Struct("!I")
SETUP_FAILED = 78  # exit status of a process that could not even begin its first work
ALARM = -signal.SIGALRM if os.name == "posix" else None
OUTSIDE = (signal.SIGKILL, signal.SIGTERM) if os.name == "posix" else ()
NO_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Received = TypeVar("Received")


class ChildStartError(OSError):
    """Such processes do not start; no file is to blame."""


class Lost(Exception):
    """The process was given up in the middle of its work; the message has a place for how far it got.

    Attributes:
        error: "DecoderHung", "DecoderDied", "DecoderKilled" of a decoder, or "UnreadableFile" where another file took
            its place.
        killed: it ended by a signal that others send; it need not have been the file's fault.
    """

    def __init__(self, error: str, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.error, self.killed = error, killed


class ChildProcess:
    """One process and our end of its socket.

    Args:
        module: its ``main`` is called with the number of the socket, then ``handles``, then ``numbers``.
        handles: open files that it inherits.

    Attributes:
        who, doing: how messages call it and its work.
        start_error: raised where it does not come up.

    Raises:
        ChildStartError: the system starts no more processes.
    """

    who, doing = "reader", "reading"
    start_error: type[ChildStartError] = ChildStartError
    _ready = False

    def __init__(self, module: str, handles: Sequence[int] = (), numbers: Sequence[float] = ()) -> None:
        ours = None
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._start(theirs, module, handles, numbers)
        except OSError as error:
            if ours is not None:
                ours.close()
            raise self.start_error(
                f"{self.doing} does not start: the system gave no new process or file for it "
                f"({error.strerror or error}). End other programs, or raise the bounds of this user (ulimit -u, "
                "ulimit -n) or of the container; then run again: what is complete stays"
            ) from error
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        ours.settimeout(LOOK_S)
        self._link = ours

    def _start(self, theirs: socket.socket, module: str, handles: Sequence[int], numbers: Sequence[float]) -> None:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)  # pictures; the system has its own bound
        path = [os.path.abspath(p) for p in sys.path if isinstance(p, str)]
        given = ", ".join(map(str, (theirs.fileno(), *handles, *numbers)))
        start = f"import sys; sys.path[:] = {path!r}; from {module} import main; main({given})"
        # The terminal is not for what libraries have to say.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                pass_fds=[theirs.fileno(), *handles],
                env=os.environ | NO_THREADS,
                process_group=0,  # Ctrl-C is for this process, which ends the other
            )
        except OSError:
            self._log.close()
            raise

    def send(self, data: bytes) -> None:
        """Give it something to do; raises as ``listen``."""
        try:
            send_bytes(self._link, data)
        except OSError:
            raise self._death() from None

    def listen(
        self,
        receive: Callable[[socket.socket, Callable[[], None]], Received],
        timeout_s: float,
        check: Callable[[], None] = lambda: None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Received:
        """What comes from it.

        Args:
            receive: takes it from the socket, and calls its second argument whenever it waited in vain for a moment.
            check: called as often; may raise to wait no longer.
            wanted: whether the silence counts.

        Raises:
            Lost: it dies or hangs, or sends nonsense.
            ChildStartError: it could not set itself up.
        """
        waited_s = 0.0
        hung = self._lost("Hung", f"no sign of life from the {self.who} for {timeout_s:g} s{{}}; it was ended")

        def waiting() -> None:
            nonlocal waited_s
            check()
            # Not by the clock: after Ctrl-Z, or on a machine that slept, that would be long ago.
            waited_s += LOOK_S if wanted() else 0
            if waited_s >= timeout_s:
                raise hung

        try:
            return receive(self._link, waiting)
        except (EOFError, OSError):
            lost = self._death()
            # Its own alarm clock, where this process got so little time that it did not look for twice as long.
            raise hung if self.process.returncode == ALARM else lost from None
        except ValueError as error:
            raise self._lost("Died", f"the {self.who} process sent nonsense{{}}: {str(error)[:500]}") from None

    def wait_for_start(
        self,
        receive: Callable[[socket.socket, Callable[[], None]], object],
        timeout_s: float,
        check: Callable[[], None],
    ) -> None:
        """Wait for the first thing that it says; raises as ``listen``, ``Lost`` only if it was killed from outside."""
        if self._ready:
            return
        try:
            self.listen(receive, max(timeout_s, START_S), check)
        except Lost as lost:
            if lost.killed:
                raise
            raise self.start_error(f"{self.doing} does not start: {str(lost).replace('{}', '')}") from None
        self._ready = True

    def _lost(self, how: str, message: str, killed: bool = False) -> Lost:
        return Lost(f"{self.who.capitalize()}{how}", message, killed)

    def _death(self) -> Lost:
        """Why nothing comes any more."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            return self._lost("Hung", f"the {self.who} process went silent{{}}; it was ended")
        if status == SETUP_FAILED:
            raise self.start_error(f"{self.doing} does not start{self._last_words()}")
        number = -status
        names = {s.value: s.name for s in signal.Signals}
        how = f"signal {number} ({names.get(number, 'unknown')})" if number > 0 else f"status {status}"
        words = self._last_words()
        killed = number in OUTSIDE
        return self._lost(
            "Killed" if killed else "Died", f"the {self.who} process ended with {how}{{}}{words}", killed=killed
        )

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


def usual_memory(workers: int) -> int:
    """Bytes that each of so many processes may take."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        whole = 0
    return max(MIN_MEMORY_BYTES, whole // (2 * workers))


# ------------------------------------------------------------------ the socket


def send_bytes(link: socket.socket, data: bytes) -> None:
    """Any bytes, their number before them.

    Raises:
        OSError: nobody is there.
    """
    link.sendall(LENGTH.pack(len(data)) + data)


def receive_bytes(
    link: socket.socket, waiting: Callable[[], None] = lambda: None, most: int | None = None
) -> bytearray:
    """What ``send_bytes`` sent; waits for it.

    Args:
        waiting: called whenever the time-out of ``link`` is over; may raise to wait no longer.

    Raises:
        EOFError, OSError: the other side has gone, or cut it off.
        ValueError: more bytes than ``most``.
    """
    prefix = bytearray(LENGTH.size)
    fill(link, memoryview(prefix), waiting)
    (length,) = LENGTH.unpack(prefix)
    if most is not None and length > most:
        raise ValueError(f"not a message: {length} bytes of words")
    data = bytearray(length)
    fill(link, memoryview(data), waiting)
    return data


def fill(link: socket.socket, place: memoryview, waiting: Callable[[], None]) -> None:
    """Receive as many bytes as ``place`` has; see ``receive_bytes``."""
    while place:
        try:
            count = link.recv_into(place)
        except TimeoutError:
            waiting()
            continue
        if not count:
            raise EOFError
        place = place[count:]


# ------------------------------------------------------------------ in the child


def bound_memory(more_bytes: int) -> None:
    """Let the process take so many bytes beyond what it has now, where the system can do that; leave no core files.

    A lying header then ends as a ``MemoryError`` here, and not with the system's choice of a process to kill.
    """
    try:
        import resource
    except ImportError:
        return

    def bound(kind: int, limit: int) -> None:
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)  # as whoever started the run decided
        with suppress(ValueError, OSError):  # without a bound reading works as well
            resource.setrlimit(kind, (limit, limit))

    bound(resource.RLIMIT_CORE, 0)
    bound(resource.RLIMIT_FSIZE, MAX_LOG_BYTES)  # it writes nothing but last words
    if sys.platform.startswith("linux"):  # what macOS calls address space has no relation to memory
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound(resource.RLIMIT_AS, pages * resource.getpagesize() + more_bytes)


def memory_peak() -> int:
    """The most bytes of address space that this process had at once; 0 where the system does not tell."""
    try:
        found = re.search(r"^VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
