"""From counts and speeds to hours: what an extraction will take, and between which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from extract.costs.calibrate import Calibration, Rate
from extract.costs.cost import Work

Bound = Literal["seconds", "low", "high"]


@dataclass(frozen=True)
class Stage:
    """One stage's share: ``units`` of ``rate.unit``."""

    units: float
    rate: Rate

    def seconds(self, bound: Bound = "seconds") -> float:
        """Busy seconds; 0 where nothing was timed."""
        return self.units * getattr(self.rate, bound) if self.rate.seconds is not None else 0.0


@dataclass(frozen=True)
class Estimate:
    """Wall time of a run.

    Attributes:
        stages: name -> its share.
        seconds, low, high: of the whole run, by the median, the fastest and the slowest of what was timed.
        slowest: which of "reading", "encoding" and "writing" takes longest by itself.
        missing: stage -> why it is not in the sum.
    """

    stages: Mapping[str, Stage]
    seconds: float
    low: float
    high: float
    slowest: str
    missing: Mapping[str, str]


def estimate(work: Work, found: Calibration, *, workers: int, cores: int) -> Estimate:
    """Reading, encoding and writing overlap, so a run takes as long as the slowest of them. The encoders run one after
    another. On a CPU all of them share the cores, and their sum over all cores is what a run takes at least."""
    units = {
        "decode": work.frames,
        "prepare": work.sampled,
        "hash": work.read_bytes,
        "video, frames": work.unique.get("video", 0),
        "video, windows": work.windows if "video" in work.unique else 0,
        "image": work.unique.get("image", 0),
        "captions": work.unique.get("text", 0),
        "text": work.unique.get("text", 0),
        "write": len(work.videos),
    }
    stages = {name: Stage(units[name], rate) for name, rate in found.rates.items()}
    walls: dict[Bound, dict[str, float]] = {
        bound: _walls(stages, bound, workers=max(1, min(workers, len(work.videos))), cores=cores)
        for bound in ("seconds", "low", "high")
    }
    parts = {name: seconds for name, seconds in walls["seconds"].items() if name != "cores"}
    return Estimate(
        stages,
        seconds=max(walls["seconds"].values()),
        low=max(walls["low"].values()),
        high=max(walls["high"].values()),
        slowest=max(parts, key=lambda name: parts[name]),
        missing={n: s.rate.reason for n, s in stages.items() if s.rate.seconds is None and s.units},
    )


def _walls(stages: Mapping[str, Stage], bound: Bound, *, workers: int, cores: int) -> dict[str, float]:
    """Wall seconds of what runs side by side, each by itself; "cores": everything by its processor time."""
    busy = {name: stage.seconds(bound) for name, stage in stages.items()}
    read = busy.get("decode", 0.0) + busy.get("hash", 0.0)  # by a worker; resizing is spread over all cores
    resize, write = busy.get("prepare", 0.0), busy.get("write", 0.0)
    encoders = [name for name in stages if name not in ("decode", "hash", "prepare", "write")]
    processor = read + resize + write + sum(busy[name] * stages[name].rate.cores for name in encoders)
    return {
        "reading": max(read / workers, (read + resize) / cores),
        "encoding": sum(busy[name] for name in encoders),
        "writing": write,
        "cores": processor / cores,
    }
