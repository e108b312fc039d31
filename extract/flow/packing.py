"""From the items of many videos to full batches, and where their rows go.

Two packers, both plain bookkeeping without a model:
  * ``TimelinePacker``  items of many videos -> full batches of a timeline encoder;
  * ``WindowPacker``    items and windows of many videos -> full batches of both stages of a window encoder. A frame is
    encoded once; it keeps its slot in the encoder's pool as long as a window may still need it.

Blocks are packed across videos and have fixed shapes; only the last batch of a run is padded. Which frames of a video
are needed says extract/decode/sampling.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from extract.decode.sampling import Item, Window
from extract.encoders.contract import Rows, TimelineEncoder, WindowEncoder

TimelineSink = Callable[[str, np.ndarray, Rows], None]
WindowSink = Callable[[str, np.ndarray], None]


class TimelinePacker:
    """Collects items of any videos into full batches.

    ``sink(video, frames (n,), rows)`` gets n rows of one video, in frame order.
    """

    def __init__(self, encoder: TimelineEncoder, sink: TimelineSink) -> None:
        self._encoder, self._sink = encoder, sink
        self._pending: list[tuple[str, int, np.ndarray]] = []

    def yields_row(self, event: Item | Window) -> bool:
        """Whether the event leads to a row of the sink: each item does."""
        return True

    def add(self, video: str, item: Item) -> None:
        """Take one item; encodes when a batch is full."""
        self._pending.append((video, item.frame, item.pixels))
        if len(self._pending) == self._encoder.batch_size:
            self.flush()

    def flush(self) -> None:
        """Encode what is pending, padding the batch by repetition of its last item."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        size = self._encoder.batch_size
        pixels = [p for _, _, p in pending]
        rows = self._encoder.encode(np.stack(pixels + pixels[-1:] * (size - len(pixels))))
        for video, first, stop in _runs([v for v, _, _ in pending]):
            frames = np.array([f for _, f, _ in pending[first:stop]], dtype=np.int32)
            self._sink(video, frames, rows.part(first, stop))

    def close(self, video: str) -> None:
        """No more items of this video will come; those pending wait for company from the next video."""

    def forget(self, video: str) -> None:
        """Drop pending items of a video that failed."""
        self._pending = [p for p in self._pending if p[0] != video]


@dataclass
class _PendingWindow:
    video: str
    slots: np.ndarray  # int32 (T,)


class WindowPacker:
    """Keeps the frame pool of a window encoder and feeds both of its stages full batches.

    ``sink(video, features (n, T, D))`` gets the windows of one video, in order of their starts.

    Args:
        window_size: frames in a window; so many may have to be kept, because the tail window may start anywhere.

    Raises:
        ValueError: the encoder's pool cannot hold that.
    """

    def __init__(self, encoder: WindowEncoder, sink: WindowSink, window_size: int) -> None:
        least = window_size + encoder.num_samples  # kept for later windows, and new for the next one
        if encoder.num_slots < least:
            raise ValueError(
                f"the {encoder.stream} encoder has {encoder.num_slots} frame slots; windows of {window_size} frames "
                f"with {encoder.num_samples} samples need {least}"
            )
        self._encoder, self._sink = encoder, sink
        self._free = list(range(encoder.num_slots - 1, -1, -1))
        self._slot: dict[tuple[str, int], int] = {}
        self._uses = np.zeros(encoder.num_slots, dtype=np.int32)  # pending windows + 1 while a later one may come
        self._frames: list[tuple[int, np.ndarray]] = []  # slot, pixels: not encoded yet
        self._windows: deque[_PendingWindow] = deque()

    @property
    def num_free(self) -> int:
        """Slots of the pool that no frame holds."""
        return len(self._free)

    def yields_row(self, event: Item | Window) -> bool:
        """Whether the event leads to a row of the sink: each window does."""
        return isinstance(event, Window)

    def add(self, video: str, event: Item | Window) -> None:
        """Take one item or window; encodes when a batch of either stage is full."""
        if isinstance(event, Item):
            slot = self._take_slot()
            self._slot[video, event.frame] = slot
            self._uses[slot] = 1
            self._frames.append((slot, event.pixels))
            if len(self._frames) == self._encoder.frame_batch:
                self._encode_frames()
                self._encode_full_windows()
            return
        slots = np.array([self._slot[video, int(f)] for f in event.frames], dtype=np.int32)  # (T,)
        np.add.at(self._uses, slots, 1)
        self._windows.append(_PendingWindow(video, slots))
        self._release_before(video, event.start)
        self._encode_full_windows()

    def close(self, video: str) -> None:
        """No more windows of this video will come: release what is kept for them."""
        self._release_before(video, None)

    def forget(self, video: str) -> None:
        """Drop pending windows of a video that failed."""
        for window in [w for w in self._windows if w.video == video]:
            self._windows = deque(w for w in self._windows if w is not window)
            self._release(window.slots)
        self.close(video)
        self._frames = [f for f in self._frames if self._uses[f[0]] > 0]  # their slots are free again

    def flush(self) -> None:
        """Encode everything pending, padding the last batches."""
        if self._frames:
            self._encode_frames()
        while self._windows:
            self._encode_windows(min(len(self._windows), self._encoder.window_batch))

    # -------------------------------------------------------------- stages

    def _encode_frames(self) -> None:
        pending, self._frames = self._frames, []
        size, drop = self._encoder.frame_batch, self._encoder.num_slots
        slots = np.full(size, drop, dtype=np.int32)
        slots[: len(pending)] = [s for s, _ in pending]
        pixels = [p for _, p in pending]
        self._encoder.encode_frames(np.stack(pixels + pixels[-1:] * (size - len(pixels))), slots)

    def _encode_full_windows(self) -> None:
        waiting = {s for s, _ in self._frames}
        size = self._encoder.window_batch
        while len(self._windows) >= size and not any(
            waiting.intersection(w.slots.tolist()) for w in list(self._windows)[:size]
        ):
            self._encode_windows(size)

    def _encode_windows(self, count: int) -> None:
        taken = [self._windows.popleft() for _ in range(count)]
        slots = [w.slots for w in taken]
        size = self._encoder.window_batch
        features = self._encoder.encode_windows(np.stack(slots + slots[-1:] * (size - count)))  # (N, T, D)
        for window in taken:
            self._release(window.slots)
        for video, first, stop in _runs([w.video for w in taken]):
            self._sink(video, features[first:stop])

    # -------------------------------------------------------------- slots

    def _take_slot(self) -> int:
        if not self._free:  # every slot is held: run both stages early, which frees those of the pending windows
            self.flush()
        return self._free.pop()

    def _release_before(self, video: str, start: int | None) -> None:
        old = [k for k in self._slot if k[0] == video and (start is None or k[1] < start)]
        self._release(np.array([self._slot.pop(k) for k in old], dtype=np.int32))

    def _release(self, slots: np.ndarray) -> None:
        np.subtract.at(self._uses, slots, 1)
        for slot in np.unique(slots):
            if self._uses[slot] == 0:
                self._free.append(int(slot))


def _runs(names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Maximal runs of equal names: (name, first, stop)."""
    first = 0
    for i in range(1, len(names) + 1):
        if i == len(names) or names[i] != names[first]:
            yield names[first], first, i
            first = i
