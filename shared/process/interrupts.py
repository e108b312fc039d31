"""SIGINT (Ctrl-C) and SIGTERM (a scheduler's way to end a job): one line that says how to go on, and status 130.

Both raise ``KeyboardInterrupt`` in what the main thread does, so that files, locks and processes are cleaned up. But
such an error gets lost: Python prints and ignores it in finalisers and callbacks of the garbage collector (JAX has one,
and loading encoders collects often), libraries make another error of it, click makes status 1 of it, and one that comes
after the command ends the process as Python ends it, by a signal. So it is noted what was heard, and this decides.

A second signal within ``SAME_S`` seconds is the first once more (``timeout`` and Ctrl-C under a wrapper send two); a
later one does not wait for the clean-up: the process is left at once, with the same line and status.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from shared.names import printable

INTERRUPTED = 130  # the exit status
GO_ON = "What is complete stays complete; run the same command again to go on."
SAME_S = 1.0
AGAIN_S = 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """What was heard, and what is said about it.

    Args:
        whole_process: until the process ends, which may then be left at once; else as long as a command runs that is
            called from a program of its own.
    """

    def __init__(self, *, whole_process: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.at_work, self.go_on = True, GO_ON
        self._heard_s: float | None = None
        self._told = self._lost = False
        self._whole_process, self._clock = whole_process, clock
        self._before: list[tuple[int, Any]] = []
        self._unraisable = sys.unraisablehook

    @property
    def heard(self) -> bool:
        return self._heard_s is not None

    def start(self) -> None:
        """Listen. Signals that whoever started this process has it ignore (a shell's background jobs) stay ignored."""
        sys.unraisablehook = self._ignored
        for number in SIGNALS:
            if (before := signal.getsignal(number)) != signal.SIG_IGN:
                self._before.append((number, before))
                signal.signal(number, self._hear)

    def stop(self) -> None:
        """Leave everything as it was."""
        for number, before in self._before:
            signal.signal(number, before)
        sys.unraisablehook = self._unraisable

    def note(self) -> None:
        if self._heard_s is None:
            self._heard_s = self._clock()

    def tell(self) -> None:
        """The one line, once."""
        if not self._told:
            self._told = True
            with suppress(OSError, RuntimeError, ValueError):  # nobody reads it; it is being written; it is closed
                print(f"interrupted. {printable(self.go_on)}", file=sys.stderr, flush=True)

    def leave(self) -> None:
        """End the process now; what it started with multiprocessing would wait for it for ever."""
        self.tell()
        _end_children()
        with suppress(Exception):
            sys.stdout.flush()
            if sys.stderr.isatty():
                print("\x1b[?25h", end="", file=sys.stderr, flush=True)  # the cursor, which bars hide
        os._exit(INTERRUPTED)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, self._lost = self._lost, False
        if self._heard_s is None:
            self.note()
            _end_children()
        elif not again and self._clock() < self._heard_s + SAME_S:
            return
        elif not again and self._whole_process:
            self.leave()
        if self.at_work:  # else all is done but the leaving, which ends as it should
            raise KeyboardInterrupt

    def _ignored(self, unraisable: Any) -> None:
        """Hook of errors that Python ignores: an interrupt among them comes again, but not in here."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._unraisable(unraisable)
            return
        self.note()
        self._lost = self.at_work
        with suppress(RuntimeError):  # Python ends, and starts no threads any more
            timer = threading.Timer(AGAIN_S, self._raise_again)
            timer.daemon = True
            timer.start()

    def _raise_again(self) -> None:
        """A signal to the main thread, which may be waiting for something."""
        if self._lost and self.at_work:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


_current: Interrupts | None = None


def listen() -> None:
    """From now until the process ends. To be called before anything large is imported."""
    global _current
    if _current is not None:
        return
    _current = heard = Interrupts(whole_process=True)
    usual = sys.excepthook

    def unhandled(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            heard.note()
        if not heard.heard:
            usual(kind, error, trace)

    def end() -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # Python would put the default back: the status is decided
        if heard.heard:
            heard.leave()

    sys.excepthook = unhandled
    atexit.register(end)  # before all others are, so it is called after them
    heard.start()


def until_interrupted(command: Callable[[], int]) -> int:
    """The status that a command returns, or, having said how to go on, 130 if it was interrupted.

    Its errors pass; those that come after an interrupt come of it.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():  # no signal comes here
        return command()
    outer = _current
    _current = heard = outer or Interrupts(whole_process=False)
    try:
        if outer is None:
            heard.start()
        status = command()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            heard.note()
        if not heard.heard:
            raise
    finally:
        heard.at_work = False
        if outer is None:
            heard.stop()
        _current = outer
    if not heard.heard:
        return status
    heard.tell()
    return INTERRUPTED


def say_how_to_go_on(words: str) -> None:
    """What the line says from now on if this command is interrupted."""
    if _current is not None:
        _current.go_on = words


def leave_to_parent() -> None:
    """In a process that another one started and ends: Ctrl-C, which a terminal sends to both, is for that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_children() -> None:
    """End what multiprocessing started: an executor would wait for its work, and work on."""
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.terminate()
