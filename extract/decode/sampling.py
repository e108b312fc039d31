"""Which frames of a video are needed: frames in decode order -> the items and windows of WindowSpec.plan.

Plain bookkeeping, while the number of frames is still unknown. What is sampled comes out as drafts: converting to RGB
and resizing costs several times what decoding costs, and is left to whoever has time (extract/decode/preparing.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from extract.encoders.contract import TimelineEncoder, WindowEncoder
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


@dataclass(frozen=True)
class Draft:
    """One sampled frame of a video and what each stream wants of it, not prepared yet; any thread may prepare it."""

    frame: int
    parts: tuple[tuple[str, Callable[[], np.ndarray]], ...]

    def items(self) -> list[Item]:
        """Convert and resize; raises whatever the encoders' ``prepare`` raises."""
        return [Item(stream, self.frame, prepare()) for stream, prepare in self.parts]


def sample_video(
    frames: Iterable[DecodedFrame],
    spec: WindowSpec,
    encoders: Mapping[str, TimelineEncoder | WindowEncoder],
    on_frame: Callable[[DecodedFrame], None] = lambda frame: None,
) -> Iterator[Item | Window]:
    """``draft_video`` with every item prepared at once, by the thread that asks for it."""
    for event in draft_video(frames, spec, encoders, on_frame):
        if isinstance(event, Draft):
            yield from event.items()
        else:
            yield event


def draft_video(
    frames: Iterable[DecodedFrame],
    spec: WindowSpec,
    encoders: Mapping[str, TimelineEncoder | WindowEncoder],
    on_frame: Callable[[DecodedFrame], None] = lambda frame: None,
) -> Iterator[Draft | Window]:
    """Emit exactly the items and windows of ``spec.plan(F)`` without knowing F in advance.

    A window exists only once its last frame has been decoded, and the tail window is known only at the end of the
    video, so the last ``size`` frames are kept undecoded-to-RGB. Memory does not depend on F. The first window exists
    for any F: its frames are emitted as they come, so that the encoders need not wait for the last of them.

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
        if next_start == 0:
            yield from sampler.frame_of_first_window(frame.index)
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
        self._pictures: dict[int, _Picture] = {}
        self.last_start = -1

    def hold(self, frame: DecodedFrame) -> None:
        self._held.append(frame)

    def frame_of_first_window(self, frame: int) -> Iterator[Draft]:
        """Emit the newest frame if the window at 0 samples it."""
        wanted = {s: {frame} - self._emitted_tail[s] for s, o in self._offsets.items() if frame in o}
        if any(wanted.values()):
            yield from self._drafts({s: wanted.get(s, set()) for s in self._offsets})

    def window(self, start: int, num_frames: int) -> Iterator[Draft | Window]:
        """Emit the new items of the window at ``start``, in frame order, then its window events."""
        self.last_start = start
        wanted = {s: np.minimum(start + o, num_frames - 1) for s, o in self._offsets.items()}
        yield from self._drafts({s: {int(f) for f in w} - self._emitted_tail[s] for s, w in wanted.items()})
        self._pictures.clear()  # the tail window goes back in time
        for stream, encoder in self._encoders.items():
            # Later windows start later.
            self._emitted_tail[stream] = {f for f in self._emitted_tail[stream] if f >= start}
            if encoder.kind == "window":
                yield Window(stream, start, wanted[stream])

    def _drafts(self, new: Mapping[str, set[int]]) -> Iterator[Draft]:
        for frame in sorted(set().union(*new.values())):
            for old in [f for f in self._pictures if f < frame - self._lookback]:
                del self._pictures[old]  # whoever still has to prepare it keeps it
            streams = [s for s in self._encoders if frame in new[s]]
            for stream in streams:
                self._emitted_tail[stream].add(frame)
            yield Draft(frame, tuple((s, self._preparation(self._encoders[s], frame)) for s in streams))

    def _preparation(self, encoder: TimelineEncoder | WindowEncoder, frame: int) -> Callable[[], np.ndarray]:
        """What makes the input of one stream: uint8 (h, w, 3), or (C, h, w, 3) for a timeline stream."""
        if encoder.kind == "window":
            picture = self._picture(frame)
            return lambda: encoder.prepare(picture.rgb())
        pictures = [self._picture(max(0, frame + o)) for o in encoder.context]  # type: ignore[union-attr]
        return lambda: np.stack([encoder.prepare(p.rgb()) for p in pictures])

    def _picture(self, frame: int) -> _Picture:
        if frame not in self._pictures:
            self._pictures[frame] = _Picture(self._held[frame - self._held[0].index])
        return self._pictures[frame]


class _Picture:
    """A frame as RGB: converted once, whichever thread needs it first, and gone with the last draft that needs it."""

    def __init__(self, frame: DecodedFrame) -> None:
        self._frame: DecodedFrame | None = frame
        self._rgb: np.ndarray | None = None
        self._lock = threading.Lock()

    def rgb(self) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        with self._lock:
            if self._rgb is None:
                assert self._frame is not None
                self._rgb = self._frame.rgb()
                self._frame = None  # its native pixels are half as large again
            return self._rgb
