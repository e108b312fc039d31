"""Which frames belong to which window: pure index arithmetic, numpy only.

Frame indices are 0-based and count frames in decode order. Sample k of n in the window that starts at s is

    centers    s + floor((2k + 1) * size / (2n))     the centre of each of n equal parts (default)
    endpoints  s + round(k * (size - 1) / (n - 1))   first and last frame included, halves round up

so with size 64 the 16-frame streams read s+2, s+6, ... s+62 and the 4-frame stream s+8, s+24, s+40, s+56: windows whose
stride is a multiple of 4 (16) share their frames, and frozen features cost per frame instead of per window.

Axes: F frames of a video, N windows, T samples in a window, U unique frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

SAMPLINGS = ("centers", "endpoints")
DEFAULT_SAMPLES = MappingProxyType({"video": 16, "image": 16, "text": 4})


@dataclass(frozen=True)
class WindowSpec:
    """How a video is cut into windows and which frames of a window each stream reads.

    Attributes:
        size: frames in a window, >= 1.
        stride: frames between window starts, >= 1.
        samples: stream name -> T, samples per window, 1 <= T <= size.
        sampling: "centers" or "endpoints", see the module docstring.
    """

    size: int = 64
    stride: int = 16
    samples: Mapping[str, int] = field(default_factory=lambda: DEFAULT_SAMPLES)
    sampling: str = "centers"

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", MappingProxyType(dict(self.samples)))
        for name in ("size", "stride"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"window {name} must be a whole number of at least 1, found {value!r}")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"window sampling must be one of {', '.join(SAMPLINGS)}, found {self.sampling!r}")
        if not self.samples:
            raise ValueError("a window needs at least one stream in `samples`")
        for stream, count in self.samples.items():
            if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= self.size:
                raise ValueError(
                    f"samples of stream {stream!r} must be 1 to {self.size} (window size), found {count!r}"
                )

    def __hash__(self) -> int:
        return hash((self.size, self.stride, tuple(sorted(self.samples.items())), self.sampling))

    def offsets(self, stream: str) -> np.ndarray:
        """Frame offsets of one stream inside a window: int64 (T,), ascending, in [0, size)."""
        count = self.samples[stream]
        k = np.arange(count, dtype=np.int64)
        if self.sampling == "centers":
            return (2 * k + 1) * self.size // (2 * count)
        if count == 1:
            return np.zeros(1, dtype=np.int64)
        return (2 * k * (self.size - 1) + (count - 1)) // (2 * (count - 1))  # round half up, in integers

    def starts(self, num_frames: int) -> np.ndarray:
        """Window starts of a video of F frames: int64 (N,), ascending, without repeats.

        The grid 0, stride, 2 * stride, ... as long as the window fits, then one more window at F - size when the grid
        leaves a tail uncovered. A video shorter than a window has the single start 0.

        Raises:
            ValueError: a video of no frames has no windows.
        """
        if num_frames < 1:
            raise ValueError(f"a video needs at least one frame to have windows, found {num_frames}")
        if num_frames <= self.size:
            return np.zeros(1, dtype=np.int64)
        last = num_frames - self.size
        grid = np.arange(0, last + 1, self.stride, dtype=np.int64)
        return grid if grid[-1] == last else np.append(grid, last)

    def plan(self, num_frames: int) -> WindowPlan:
        """The complete plan of a video of F frames."""
        starts = self.starts(num_frames)
        frames, unique, gather = {}, {}, {}
        for stream in self.samples:
            index = np.minimum(starts[:, None] + self.offsets(stream)[None, :], num_frames - 1)  # (N, T)
            frames[stream] = index
            needed = np.zeros(num_frames, dtype=bool)  # (F,); np.unique would sort
            needed[index] = True
            unique[stream] = np.flatnonzero(needed)  # (U,)
            gather[stream] = (np.cumsum(needed) - 1)[index]  # (N, T)
        return WindowPlan(self, num_frames, starts, frames, unique, gather)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` reads them back."""
        return {
            "size": self.size,
            "stride": self.stride,
            "samples": dict(sorted(self.samples.items())),
            "sampling": self.sampling,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WindowSpec:
        """Inverse of ``to_dict``; unknown keys are errors."""
        unknown = sorted(set(values) - {"size", "stride", "samples", "sampling"})
        if unknown:
            raise ValueError(f"unknown window settings: {', '.join(unknown)}")
        return cls(**values)


@dataclass(frozen=True)
class WindowPlan:
    """All windows of one video.

    Attributes:
        spec: the specification the plan was made from.
        num_frames: F.
        starts: int64 (N,), first frame of each window.
        frames: stream -> int64 (N, T), the frame index of every sample.
        unique: stream -> int64 (U,), the distinct frames, ascending.
        gather: stream -> int64 (N, T), rows of ``unique``: ``unique[gather] == frames``.
    """

    spec: WindowSpec
    num_frames: int
    starts: np.ndarray
    frames: Mapping[str, np.ndarray]
    unique: Mapping[str, np.ndarray]
    gather: Mapping[str, np.ndarray]

    @property
    def stops(self) -> np.ndarray:
        """One past the last real frame of each window: int64 (N,)."""
        return np.minimum(self.starts + self.spec.size, self.num_frames)

    @property
    def padded(self) -> np.ndarray:
        """bool (N,): True for the window of a video shorter than the window, whose indices are clamped to F - 1."""
        return self.starts + self.spec.size > self.num_frames

    def __len__(self) -> int:
        return len(self.starts)
