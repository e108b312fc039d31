"""How fast this machine is: a few videos decoded, a few batches of every encoder, a few videos written.

The weights are random, of the same architecture: speed does not depend on their values, and nothing is downloaded. How
long captions get does depend on them, so captioners are timed with their own weights or not at all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.config import ExtractConfig
from extract.costs.cost import Length, Work
from extract.decode.sampling import Draft, draft_video
from extract.video import DecodedFrame, VideoError, open_video, read_source
from shared.cache import FeatureCache, VideoInfo
from shared.windows import WindowSpec

if TYPE_CHECKING:
    from extract.encoders.untrained import Parts

BUDGET_S = 20.0  # for what is timed; loading and compiling come first, and are told beside it
VIDEOS = 4  # decoded, spread over the data set
DECODE_S = 1.0  # per video
HASHED_BYTES = 4e6  # of smaller files opening is what takes the time
STAGE_S = 1.5  # per stage of an encoder, then the batch under way is the last
BATCHES = 5  # at most
WRITTEN_VIDEOS = 3


@dataclass(frozen=True)
class Rate:
    """What one stage takes.

    Attributes:
        unit: what is counted: "frame", "window", "caption", "video", "byte".
        seconds: per unit, the median of what was timed, of videos the mean; None if nothing was timed.
        low, high: the fastest and the slowest.
        cores: processor seconds per second.
        timed: how many times.
        reason: why nothing was timed.
    """

    unit: str
    seconds: float | None = None
    low: float = 0.0
    high: float = 0.0
    cores: float = 1.0
    timed: int = 0
    reason: str = ""


@dataclass
class Calibration:
    """Speed of every stage, and what was learned on the way.

    Attributes:
        rates: stage -> speed.
        caption_bytes, thumbnail_bytes: mean of the captions and thumbnails that were made; None if none were.
        setup_s: seconds spent loading and compiling; timed_s: seconds spent timing.
        unreadable: why a video could not be decoded.
    """

    rates: dict[str, Rate] = field(default_factory=dict)
    caption_bytes: float | None = None
    thumbnail_bytes: float | None = None
    setup_s: float = 0.0
    timed_s: float = 0.0
    unreadable: list[str] = field(default_factory=list)


def calibrate(
    config: ExtractConfig,
    streams: Sequence[str],
    lengths: Sequence[Length],
    work: Work,
    tell: Callable[[str], None] = lambda words: None,
) -> Calibration:
    """Time every stage for these streams; ``tell`` is called with what is being timed."""
    found, started = Calibration(), time.perf_counter()
    tell("loading encoders")
    from extract.encoders.untrained import build_parts, preparers  # torch: seconds

    parts = build_parts(config, streams)
    encoders = preparers(parts, streams)
    found.setup_s = time.perf_counter() - started
    started = time.perf_counter()
    tell("decoding")
    wanted = set(work.videos)
    todo = [length for length in lengths if length.video.id in wanted]
    drawn = _decode(config.window, encoders, todo, found)
    stages: dict[str, Callable[[], Rate]] = {}
    if "video" in streams:
        stages |= {
            "video, frames": lambda: _time_frames(parts, drawn.get("video", [])),
            "video, windows": lambda: _time_windows(parts),
        }
    if "image" in streams:
        stages["image"] = lambda: _time_image(config, parts, drawn.get("image", []))
    if "text" in streams:
        stages["captions"] = lambda: _time_captions(config, parts, drawn.get("text", []), found)
        stages["text"] = lambda: _time_text(config, parts)
    for stage, timed in stages.items():
        if time.perf_counter() - started > BUDGET_S:
            found.rates[stage] = Rate("", reason=f"the {BUDGET_S:.0f} seconds for timing were over")
            continue
        tell(stage)
        found.rates[stage] = timed()
    tell("writing")
    if work.videos:
        found.rates["write"] = _time_writing(config, work, parts)
    found.timed_s = time.perf_counter() - started
    return found


# ------------------------------------------------------------------ timing


def _decode(
    spec: WindowSpec, encoders: Mapping[str, Any], todo: Sequence[Length], found: Calibration
) -> dict[str, list[np.ndarray]]:
    """Decode the beginnings of some videos; returns prepared inputs by stream."""
    drawn: dict[str, list[np.ndarray]] = {stream: [] for stream in encoders}
    decode, prepare, weights = [], [], []  # type: list[float], list[float], list[int]
    for index in sorted({int(i) for i in np.linspace(0, len(todo) - 1, VIDEOS).round()}) if todo else ():
        preparing, sampled, seen = 0.0, 0, []  # type: float, int, list[int]
        started = time.perf_counter()
        try:
            with open_video(todo[index].file, todo[index].video.fps) as video:
                frames = _while_time(video.frames, started + DECODE_S)
                for event in draft_video(frames, spec, encoders, partial(_note, seen)):
                    if isinstance(event, Draft):
                        before, sampled = time.perf_counter(), sampled + 1
                        for item in event.items():
                            drawn[item.stream].append(item.pixels)
                        preparing += time.perf_counter() - before
        except VideoError as error:
            found.unreadable.append(f"{todo[index].video.path}: {error}")
            continue
        decode.append((time.perf_counter() - started - preparing) / max(1, len(seen)))
        prepare.append(preparing / max(1, sampled))
        weights.append(todo[index].num_frames)
    for stage, seconds in (("decode", decode), ("prepare", prepare)):
        rate = _rate("frame", seconds, reason="no video could be decoded")
        # Videos differ: each stands for as many frames as it has.
        found.rates[stage] = replace(rate, seconds=float(np.average(seconds, weights=weights))) if seconds else rate
    found.rates["hash"] = _time_hash(todo)
    return drawn


def _note(seen: list[int], frame: DecodedFrame) -> None:
    seen.append(frame.index)


def _while_time(frames: Iterator[Any], end: float) -> Iterator[Any]:
    for frame in frames:
        yield frame
        if time.perf_counter() > end:
            return


def _time_hash(todo: Sequence[Length]) -> Rate:
    """Reading a file for its digest, which every video begins with: a small file, since it is read whole, but not one
    so small that opening it counts as reading."""
    files = [length for length in todo if length.num_bytes and length.file.is_file()]
    if not files:
        return Rate("byte", 0.0)
    files.sort(key=attrgetter("num_bytes"))
    chosen = next((length for length in files if length.num_bytes >= HASHED_BYTES), files[-1])
    started = time.perf_counter()
    try:
        read_source(chosen.file)
    except VideoError as error:
        return Rate("byte", reason=str(error))
    return _rate("byte", [(time.perf_counter() - started) / chosen.num_bytes])


def _time_frames(parts: Parts, drawn: Sequence[np.ndarray]) -> Rate:
    encoder, size = parts.video, parts.video.frame_batch
    frames = _filled(drawn, size, (encoder.image_size, encoder.image_size, 3))
    slots = np.arange(size, dtype=np.int32)

    def encode() -> None:
        encoder.encode_frames(frames, slots)
        encoder.wait()

    seconds, cores = _times(encode, size)
    return _rate("frame", seconds, cores)


def _time_windows(parts: Parts) -> Rate:
    encoder = parts.video
    slots = np.zeros((encoder.window_batch, encoder.num_samples), np.int32)
    seconds, cores = _times(lambda: encoder.encode_windows(slots), encoder.window_batch)
    return _rate("window", seconds, cores)


def _time_image(config: ExtractConfig, parts: Parts, drawn: Sequence[np.ndarray]) -> Rate:
    if parts.clip is None:
        return Rate("frame", reason=parts.reasons["clip"])
    from extract.encoders.clip import ClipImageEncoder

    encoder = ClipImageEncoder(parts.clip)
    shape = (1, *encoder.prepare(np.zeros((64, 64, 3), np.uint8)).shape)
    return _time_rows("frame", lambda n: encoder.encode(_filled(drawn, n, shape)), config.clip.batch_size)


def _time_text(config: ExtractConfig, parts: Parts) -> Rate:
    if parts.clip is None:
        return Rate("caption", reason=parts.reasons["clip"])
    import torch

    length = int(getattr(parts.clip.model, "context_length", 77))
    return _time_rows(
        "caption",
        lambda n: parts.clip.run("encode_text", torch.ones(n, length, dtype=torch.int64)),
        config.clip.batch_size,
    )


def _time_captions(config: ExtractConfig, parts: Parts, drawn: Sequence[np.ndarray], found: Calibration) -> Rate:
    if parts.captioner is None:
        return Rate("caption", reason=parts.reasons["captioner"])
    from extract.encoders.text import thumbnail

    captioner = parts.captioner
    shape = captioner.prepare(np.zeros((64, 64, 3), np.uint8)).shape
    # Different pictures: equal ones are captioned once.
    items = _filled(drawn, captioner.batch_size, (len(captioner.context), *shape))
    captions: list[str] = []
    rate = _time_rows("caption", lambda n: captions.extend(captioner.caption(items[:n])), captioner.batch_size)
    if drawn:
        found.caption_bytes = 4 + float(np.mean([len(c.encode()) for c in captions]))  # Zarr notes every length
        found.thumbnail_bytes = 4 + float(np.mean([len(thumbnail(item[-1])) for item in drawn[:32]]))
    return rate


def _time_rows(unit: str, work: Callable[[int], Any], batch: int) -> Rate:
    """Time a model that takes any number of rows: as many of a batch as there is time for."""
    work(1)
    one = _times(lambda: work(1), 1, most=1)[0][0]
    rows = max(1, min(batch, int(STAGE_S / 2 / one)))
    seconds, cores = _times(lambda: work(rows), rows)
    return _rate(unit, seconds, cores)


def _time_writing(config: ExtractConfig, work: Work, parts: Parts) -> Rate:
    """Write a few videos of mean length into a cache of the machine's temporary folder."""
    count, dim = len(work.videos), 768
    frames = max(1, work.frames // count)
    info = VideoInfo({"path": "x", "bytes": 1, "sha256": "0" * 64}, 30.0, frames, 1, 1, 0, "timing", np.zeros(frames))
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache.create(Path(folder) / "timing.zarr", dataset="timing", window=config.window)

        def write(name: str) -> None:
            cache.write_info(name, info)
            for stream, (rows, videos) in work.rows.items():
                num = rows // max(1, videos)
                window = stream == "video"
                shape = (num, config.window.samples[stream], dim) if window else (num, dim)
                writer = cache.writer(name, stream, kind="window" if window else "timeline", recipe={})
                texts = ["a caption of some words"] * num if stream == "text" else None
                writer.append(np.zeros(shape, np.float32), None if window else np.arange(num), texts)
                writer.finish()

        write("first")
        numbers = iter(range(WRITTEN_VIDEOS))
        seconds, cores = _times(lambda: write(str(next(numbers))), 1, most=WRITTEN_VIDEOS)
    return _rate("video", seconds, cores)


# ------------------------------------------------------------------ parts


def _times(work: Callable[[], Any], units: int, *, most: int = BATCHES) -> tuple[list[float], float]:
    """Seconds per unit of some repetitions, and processor seconds per second."""
    seconds: list[float] = []
    began, processor = time.perf_counter(), time.process_time()
    while len(seconds) < most and (not seconds or time.perf_counter() - began < STAGE_S):
        before = time.perf_counter()
        work()
        seconds.append(max(1e-9, time.perf_counter() - before) / units)
    return seconds, (time.process_time() - processor) / max(1e-9, time.perf_counter() - began)


def _rate(unit: str, seconds: Sequence[float], cores: float = 1.0, reason: str = "") -> Rate:
    if not seconds:
        return Rate(unit, reason=reason)
    return Rate(unit, float(np.median(seconds)), min(seconds), max(seconds), cores, len(seconds))


def _filled(drawn: Sequence[np.ndarray], count: int, shape: tuple[int, ...]) -> np.ndarray:
    """``count`` prepared inputs: those that were decoded, then noise, so that none is repeated."""
    noise = np.random.default_rng(0).integers(0, 256, (max(0, count - len(drawn)), *shape), dtype=np.uint8)
    return np.concatenate([np.stack(drawn[:count]), noise]) if drawn else noise
