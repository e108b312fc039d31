"""From decoded frames to full batches: which frames are needed, and where they go.

Three parts, all plain bookkeeping without a model:
  * ``sample_video``    frames in decode order -> the items and windows of WindowSpec.plan, while F is still unknown;
  * ``TimelinePacker``  items of many videos -> full batches of a timeline encoder;
  * ``WindowPacker``    items and windows of many videos -> full batches of both stages of a window encoder. A frame is
    encoded once; it keeps its slot in the encoder's pool as long as a window may still need it.

Blocks are packed across videos and have fixed shapes; only the last batch of a run is padded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from extract.encoders.contract import Rows, TimelineEncoder, WindowEncoder
from extract.video import DecodedFrame
from shared.windows import WindowSpec


@dataclass(frozen=True)
class Item:
    """One prepared input of one stream: uint8 (C, h, w, 3) for a timeline stream, (h, w, 3) for a window stream."""

    stream: str
    frame: int
    pixels: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes that the item holds while it waits."""
        return self.pixels.nbytes


@dataclass(frozen=True)
class Window:
    """A window of a window stream: all its items have been emitted before it."""

    stream: str
    start: int
    frames: np.ndarray  # int64 (T,)
    nbytes: int = 0


def sample_video(
    frames: Iterable[DecodedFrame],
    spec: WindowSpec,
    encoders: Mapping[str, TimelineEncoder | WindowEncoder],
    on_frame: Callable[[DecodedFrame], None] = lambda frame: None,
) -> Iterator[Item | Window]:
    """Emit exactly the items and windows of ``spec.plan(F)`` without knowing F in advance.

    A window exists only once its last frame has been decoded, and the tail window is known only at the end of the
    video, so the last ``size`` frames are kept undecoded-to-RGB. Memory does not depend on F.

    Args:
        frames: decoded frames in order.
        spec: the windows; it must sample every stream of ``encoders``.
        encoders: stream -> encoder whose ``prepare`` half makes the items.
        on_frame: called for every decoded frame.
    """
    lookback = max((-min(getattr(e, "context", (0,))) for e in encoders.values()), default=0)
    sampler = _Sampler(spec, encoders, lookback)
    next_start, count = 0, 0
    for frame in frames:
        on_frame(frame)
        sampler.hold(frame)
        count += 1
        if count >= next_start + spec.size:
            yield from sampler.window(next_start, count)
            next_start += spec.stride
    for start in spec.starts(count) if count else ():
        if start > sampler.last_start:
            yield from sampler.window(int(start), count)


class _Sampler:
    """The last frames of a video, and what has already been emitted of them."""

    def __init__(
        self, spec: WindowSpec, encoders: Mapping[str, TimelineEncoder | WindowEncoder], lookback: int
    ) -> None:
        self._encoders, self._lookback = encoders, lookback
        self._offsets = {stream: spec.offsets(stream) for stream in encoders}
        self._held: deque[DecodedFrame] = deque(maxlen=spec.size + lookback)
        self._emitted_tail: dict[str, set[int]] = {stream: set() for stream in encoders}
        self.last_start = -1

    def hold(self, frame: DecodedFrame) -> None:
        self._held.append(frame)

    def window(self, start: int, num_frames: int) -> Iterator[Item | Window]:
        """Emit the new items of the window at ``start``, in frame order, then its window events."""
        self.last_start = start
        wanted = {s: np.minimum(start + o, num_frames - 1) for s, o in self._offsets.items()}
        new = {s: sorted({int(f) for f in w} - self._emitted_tail[s]) for s, w in wanted.items()}
        converted = _Converted(self._held, self._lookback)
        for frame in sorted({f for fs in new.values() for f in fs}):
            for stream, encoder in self._encoders.items():
                if frame in new[stream]:
                    yield Item(stream, frame, converted.item(encoder, frame))
        for stream, encoder in self._encoders.items():
            seen = self._emitted_tail[stream] | set(new[stream])
            self._emitted_tail[stream] = {f for f in seen if f >= start}  # later windows start later
            if encoder.kind == "window":
                yield Window(stream, start, wanted[stream])


class _Converted:
    """Frames of one window as RGB: converted once, whoever needs them, and dropped when none can need them again."""

    def __init__(self, held: deque[DecodedFrame], lookback: int) -> None:
        self._held, self._lookback = held, lookback
        self._rgb: dict[int, np.ndarray] = {}

    def item(self, encoder: TimelineEncoder | WindowEncoder, frame: int) -> np.ndarray:
        """The prepared input of one stream; ``frame`` never decreases from call to call."""
        for old in [f for f in self._rgb if f < frame - self._lookback]:
            del self._rgb[old]
        if encoder.kind == "window":
            return self._prepare(encoder, frame)  # (h, w, 3)
        context = encoder.context  # type: ignore[union-attr]
        return np.stack([self._prepare(encoder, max(0, frame + o)) for o in context])  # (C, h, w, 3)

    def _prepare(self, encoder: TimelineEncoder | WindowEncoder, frame: int) -> np.ndarray:
        if frame not in self._rgb:
            self._rgb[frame] = self._held[frame - self._held[0].index].rgb()
        return encoder.prepare(self._rgb[frame])


# ------------------------------------------------------------------ batches

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
