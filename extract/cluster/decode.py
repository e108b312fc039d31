"""Decoding by tasks on any CPU of the cluster, for the encoder process that asked.

A task does what a local run does: a decoder process reads the video (extract/decode/decoders.py), so that one which
crashes or hangs costs that video and no more. Events come back in blocks of a few megabytes, of which only some may be
under way. A task that is lost with its node is begun again, and what was handed out already is left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from extract.child_process import usual_memory
from extract.decode.ahead import ByteQueue, Decoders
from extract.decode.child import PreparingHalf
from extract.decode.events import Event, Failed, Finished, Job, Opened
from extract.decode.fetching import Copies
from extract.decode.one_video import CHANGED
from extract.decode.preparing import num_cores
from extract.decode.sampling import Item
from extract.video import UnreadableFile
from shared.windows import WindowSpec

BLOCK_BYTES = 4 * 2**20
BLOCKS_AHEAD = 4  # under way per video
TRIES = 3  # a video is not to blame for its node
TASK: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}  # what is lost is begun again here
LOOK_S = 0.25  # how often a waiting thread looks whether it is still wanted
GIVE_WAY_S = 2.0  # how long the video that is waited for may wait for a CPU

Block = tuple[list[Event], float]  # the seconds of a whole video come with its last block

# Of this worker process, kept for the next tasks.
_own: Decoders | None = None
_copies = Copies()


def decode_blocks(
    job: Job, window: Mapping[str, Any], halves: Mapping[str, PreparingHalf], timeout_s: float
) -> Iterator[Block]:
    """All events of a video, in blocks; with the last one the seconds that decoding took."""
    decoders, events, seconds = _decoders(timeout_s), ByteQueue(2 * BLOCK_BYTES), list[float]()

    def read() -> None:
        with events.filled(), _copies.of(job, events.check) as here:
            seconds.append(decoders.decode(0, here, WindowSpec.from_dict(window), halves, events.put, events.check))

    reader = threading.Thread(target=read, name="decode")
    reader.start()
    try:
        block, size = list[Event](), 0
        for event in events.until_end():
            block.append(event)
            size += event.nbytes
            if size >= BLOCK_BYTES:
                yield block, 0.0
                block, size = [], 0
        reader.join()
        yield block, sum(seconds)
    finally:  # also when nobody wants the rest
        events.close()
        reader.join()
        _copies.close()


def get_ready(timeout_s: float) -> None:
    """Start what decoding needs, while the encoders are loaded."""
    _decoders(timeout_s).start()


def _decoders(timeout_s: float) -> Decoders:
    global _own
    if _own is None:
        _own = Decoders(1, timeout_s, usual_memory(num_cores()))  # shared with the other such tasks of this node
    return _own


# Under names of their own: what a decorator had replaced would be sent by value, with copies of all of the above.
GetReady: Any = ray.remote(**TASK)(get_ready)
DecodeBlocks: Any = ray.remote(
    **TASK | {"num_returns": "streaming", "_generator_backpressure_num_objects": BLOCKS_AHEAD}
)(decode_blocks)


class TaskDecoders:
    """Has videos decoded by tasks; takes the place of ``extract.decode.decoders.Decoders``.

    Args:
        timeout_s: the longest that a decoder may be silent.
    """

    fetches = True  # a task may run where this process's copies are not

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._first = 0
        self._lock = threading.Lock()
        self._live: dict[int, Any] = {}  # number of a video -> its stream of blocks
        self._gave_way: set[int] = set()

    def wait_for(self, number: int) -> None:
        """The run now waits for this video."""
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
        """As ``Decoders.decode``."""
        halves = {stream: encoders[stream] for stream in job.streams}
        handing, tries, why, spent = _HandingOut(put), 0, "", 0.0
        while tries < TRIES:
            stream = DecodeBlocks.remote(job, spec.to_dict(), halves, self._timeout_s)
            handing.begin()
            with self._lock:
                self._live[number] = stream
            try:
                # To the very end, also after the last event: to end a task in that moment ends its process.
                for events, seconds in self._blocks(number, stream, lambda: None if handing.ended else check()):
                    spent += seconds
                    handing.take(events)
                    if handing.changed:
                        ray.cancel(stream)
                        return spent
                if handing.ended:
                    return spent
                why = "it ended too early"
            except RayError as lost:
                if handing.ended:
                    return spent
                if isinstance(lost, RayTaskError) and not isinstance(lost.cause, RayError):
                    raise lost.cause from None  # of our own code, on the other side: it says what it means
                check()
                if number in self._gave_way:
                    self._wait_for_turn(number, check)
                    continue
                why = str(lost).strip().partition("\n")[0]
            except BaseException:
                ray.cancel(stream)
                raise
            finally:
                with self._lock:
                    del self._live[number]
            tries += 1
        put(Failed("decode", "DecoderDied", f"the task that decoded it was lost {TRIES} times: {why}"))
        return 0.0

    def stop(self) -> None:
        """End what is being decoded; whoever waits for it finds out by ``check``."""
        with self._lock:
            for stream in self._live.values():
                ray.cancel(stream)
        self._first = 0
        self._gave_way.clear()

    def close(self) -> None:
        """As ``stop``."""
        self.stop()

    def _blocks(self, number: int, stream: Any, check: Callable[[], None]) -> Iterator[Block]:
        started = time.monotonic()
        came = False
        while True:
            check()
            ready, _ = ray.wait([stream], timeout=LOOK_S)
            if ready:
                try:
                    reference = next(stream)
                except StopIteration:
                    return
                came = True
                yield ray.get(reference)
            elif not came and number <= self._first and time.monotonic() - started > GIVE_WAY_S:
                self._make_room(number)
                started = time.monotonic()

    def _make_room(self, number: int) -> None:
        """End the decoding of later videos: full of what nobody asks for yet, they may hold the CPU that this one
        waits for, and then both would wait for ever. They begin again when it is their turn."""
        with self._lock:
            for later, stream in self._live.items():
                if later > number:
                    self._gave_way.add(later)
                    ray.cancel(stream)

    def _wait_for_turn(self, number: int, check: Callable[[], None]) -> None:
        while self._first < number:
            check()
            time.sleep(LOOK_S)
        self._gave_way.discard(number)


class _HandingOut:
    """Passes the events of one video on, each once, however often the video has to be begun.

    What was handed out must be of the file that is read now, as in extract/decode/decoders.py: a task that is begun
    again may find another one in its place.

    Attributes:
        ended: the last event of the video was passed on.
        changed: that was the end because of another file, and the rest is not wanted.
    """

    def __init__(self, put: Callable[[Event], None]) -> None:
        self._put, self._given, self._count = put, 0, 0
        self._sha256: Any = None
        self.ended = self.changed = False

    def begin(self) -> None:
        self._count = 0

    def take(self, events: Sequence[Event]) -> None:
        """Pass a block on, up to the last event of the video."""
        for event in events:
            if self.ended:
                return
            self._count += 1
            event = self._checked(event)
            self.ended = isinstance(event, Finished | Failed)
            if self.ended or self._count > self._given:
                self._given = self._count
                self._put(_kept(event))

    def _checked(self, event: Event) -> Event:
        """The event, or the end of a video that is another one by now."""
        another = False
        if isinstance(event, Opened):
            sha256 = event.source.get("sha256")
            another = self.changed = self._given > 0 and sha256 != self._sha256
            self._sha256 = sha256
        elif isinstance(event, Finished):
            another = self._count <= self._given or event.info.source.get("sha256") != self._sha256
        return Failed("decode", UnreadableFile.__name__, CHANGED) if another else event


def _kept(event: Event) -> Event:
    """With pixels of its own: those of a block lie in Ray's store, which they would fill."""
    return replace(event, pixels=np.array(event.pixels)) if isinstance(event, Item) else event
