"""Decoder processes of a run: kept for the next videos, and what the end of one of them means for its video.

A crash or a hang costs the video that was being read. Where a crash may not have been the video's fault (the process
was killed from outside, or had read other videos before), the video is read once more by a new process; decoding
repeats itself, so the events that were handed out already are left out the second time.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from extract.child_process import LOOK_S, START_S, Lost, usual_memory
from extract.decode.child import PreparingHalf, Work
from extract.decode.events import Event, Failed, Finished, Job, Opened, Read, Stopped
from extract.decode.one_video import CHANGED
from extract.decode.process import DecoderProcess, DecoderStartError
from extract.decode.sampling import Item, Window
from extract.decode.turns import Turns
from extract.decode.wire import Alive, Message, Ready, Spent
from extract.video import UnreadableFile
from shared.cache import VideoInfo
from shared.windows import WindowSpec

TIMEOUT_S = 60.0


def portable(encoders: Mapping[str, Any]) -> dict[str, PreparingHalf] | None:
    """The preparing halves of encoders, if all can be sent to another process; see extract/encoders/contract.py."""
    if os.name != "posix" or not sys.executable:
        return None
    halves = {}
    for stream, encoder in encoders.items():
        if (preparation := getattr(encoder, "preparation", None)) is None:
            return None
        halves[stream] = PreparingHalf(encoder.kind, tuple(getattr(encoder, "context", (0,))), preparation)
    try:
        pickled = pickle.dumps(halves)
    except Exception:  # whatever somebody's own class raises: it stays here
        return None
    return None if b"__main__" in pickled else halves  # a script is never imported again


class VideoDecoders(Protocol):
    """What decodes videos outside the process of a run: ``Decoders``, and the tasks of extract/cluster/decode.py.

    Attributes:
        fetches: it copies videos of an object store itself.
    """

    fetches: bool

    def wait_for(self, number: int) -> None: ...

    def decode(
        self,
        number: int,
        job: Job,
        spec: WindowSpec,
        encoders: Mapping[str, PreparingHalf],
        put: Callable[[Event], None],
        check: Callable[[], None],
    ) -> float: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class Decoders:
    """Processes that decode, as many as are asked at once, kept for the next videos.

    Args:
        workers: the most processes at once.
        timeout_s: the longest that a decoder may be silent while it is waited for.
        memory_bytes: that one process may take beyond its own start; by default half of the machine's memory for all
            of them together, but not less than 4 GiB each.
    """

    fetches = False

    def __init__(self, workers: int, timeout_s: float = TIMEOUT_S, memory_bytes: int | None = None) -> None:
        self._timeout_s, self._memory = timeout_s, memory_bytes or usual_memory(workers)
        self._lock = threading.Lock()
        self._turns, self._rows = Turns(workers), list(range(workers))
        self._num_rows, self._first = workers, 0
        self._idle: list[DecoderProcess] = []
        self._all: set[DecoderProcess] = set()
        self._closed = False

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, *, wait: bool = False) -> None:
        """Start all processes now; they come up while the caller does something else, or before this returns.

        Raises:
            DecoderStartError: not one of them starts.
        """
        started: list[DecoderProcess] = []
        for _ in self._rows.copy():
            try:
                started.append(self._take_at_once())
            except DecoderStartError:
                if not started:
                    raise
                break  # the others, perhaps, when they are needed
        for decoder in started:
            if wait:
                decoder.come_up(self._timeout_s, lambda: None)
            self._give_back(decoder)

    def wait_for(self, number: int) -> None:
        """The run now waits for this video: only its silence counts. Others may be waiting for their turn."""
        self._first = number

    def decode(
        self,
        number: int,
        job: Job,
        spec: WindowSpec,
        encoders: Mapping[str, PreparingHalf],
        put: Callable[[Event], None],
        check: Callable[[], None],
    ) -> float:
        """Hand all events of a video to ``put``, the last a ``Finished`` or ``Failed``; returns the seconds it took.

        Args:
            number: of the video; videos are numbered in the order in which they are wanted.
            put: may wait, and may raise to give the video up.
            check: called several times a second; may raise the same.

        Raises:
            DecoderStartError: a process does not come up.
        """
        halves = {stream: encoders[stream] for stream in job.streams}
        assert isinstance(job.file, Path), "a copy of it can be decoded; see extract/decode/fetching.py"
        here = replace(job, file=job.file.absolute())
        work = pickle.dumps(Work(here, spec.to_dict(), halves, number, self._memory, min(1.0, self._timeout_s / 4)))
        handing = _HandingOut(put, job.streams)
        for last_try in (False, True):
            decoder = self._take(check, lambda: number <= self._first)
            try:
                for message in decoder.read(work, self._timeout_s, check, lambda: number <= self._first):
                    if handing.take(message):
                        break
            except Lost as lost:
                self._end(decoder)
                check()  # it may have been ended on purpose
                blameless = lost.killed or (lost.error == "DecoderDied" and decoder.videos > 1)
                if blameless and not last_try:
                    handing.begin_again()
                    continue
                put(Failed("decode", lost.error, str(lost).replace("{}", handing.how_far(), 1)))
            except BaseException:
                self._end(decoder)  # it is in the middle of a video
                raise
            else:
                (self._end if handing.exhausted else self._give_back)(decoder)
            break
        return handing.seconds

    def stop(self) -> None:
        """End the processes that are at work; whoever reads from one of them gets what ``check`` raises."""
        with self._lock:
            for decoder in self._all - set(self._idle):
                decoder.kill()

    def close(self) -> None:
        """End all processes, for good."""
        self.stop()
        with self._lock:
            idle, self._idle = self._idle, []
            self._closed, closed = True, self._closed
            if not self._all and not closed:
                self._turns.close()
        for decoder in idle:
            self._end(decoder)

    def _take(self, check: Callable[[], None], wanted: Callable[[], bool]) -> DecoderProcess:
        """A process; where the system starts no more of them, wait for one of those that are at work."""
        waited_s = 0.0
        while True:
            try:
                return self._take_at_once()
            except DecoderStartError:
                # They may themselves wait for the run, which waits for this video: not for ever.
                if not self._all or waited_s >= START_S:
                    raise
            check()
            time.sleep(LOOK_S)
            waited_s += LOOK_S if wanted() else 0

    def _take_at_once(self) -> DecoderProcess:
        with self._lock:
            while not self._closed:
                if not self._idle:
                    self._idle.append(DecoderProcess(self._turns, self._rows[-1], self._num_rows))
                    self._rows.pop()  # not before there is a process
                decoder = self._idle.pop()
                self._all.add(decoder)
                if decoder.process.poll() is None:
                    return decoder
                decoder.end()  # somebody killed it while it had nothing to do
                self._forget(decoder)
        raise Stopped

    def _give_back(self, decoder: DecoderProcess) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(decoder)
                return
        self._end(decoder)

    def _end(self, decoder: DecoderProcess) -> None:
        decoder.end()
        with self._lock:
            self._forget(decoder)

    def _forget(self, decoder: DecoderProcess) -> None:
        self._all.remove(decoder)
        self._rows.append(decoder.row)
        self._turns.note(decoder.row, 0, 0)
        if self._closed and not self._all:
            self._turns.close()


class _HandingOut:
    """Passes the events of one video on, each once, however often the video has to be begun.

    Attributes:
        seconds: that decoding and resizing took, as far as the processes could tell.
        exhausted: the process should not be used again.
    """

    def __init__(self, put: Callable[[Event], None], streams: Collection[str]) -> None:
        self._put, self._streams = put, streams
        self._given = self._count = self._frames = 0
        self.seconds, self.exhausted = 0.0, False
        self._sha256: Any = None

    def begin_again(self) -> None:
        self._count = self._frames = 0

    def how_far(self) -> str:
        return f" after at least {self._frames} frames" if self._frames else " before its first frame"

    def take(self, message: Message) -> bool:
        """Pass an event on; returns whether it was the last one."""
        match message:
            case Ready():
                return False
            case Alive():
                self._frames = max(self._frames, message.frames)
                return False
            case Spent():
                self.seconds += message.seconds
                self.exhausted = message.exhausted
                return False
            case Failed():
                self._put(message)
                return True
            case Read():
                if self._count < self._given or message.facts["source"]["sha256"] != self._sha256:
                    self._put(Failed("decode", UnreadableFile.__name__, CHANGED))
                else:
                    self._put(finished(message))
                return True
            case Opened():
                sha256 = message.source.get("sha256")
                if self._given and sha256 != self._sha256:  # what was handed out is of another file
                    raise Lost(UnreadableFile.__name__, CHANGED)
                self._sha256 = sha256
        if isinstance(message, Item | Window) and message.stream not in self._streams:
            raise Lost("DecoderDied", "the decoder process sent a stream that nobody asked for")
        if isinstance(message, Item):
            self._frames = max(self._frames, message.frame + 1)
        self._count += 1
        if self._count > self._given:
            self._given = self._count
            self._put(message)
        return False


def finished(read: Read) -> Finished:
    """With the facts as the cache knows them."""
    return Finished(VideoInfo(pts=read.pts, **read.facts))
