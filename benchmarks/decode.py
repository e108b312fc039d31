"""Decoders side by side on the same files: frames per second, and whether counts, times and pixels are equal.

The reference is what extract/video/reading.py does: PyAV, one thread, from the first frame to the last. Against it:
PyAV's other thread types with two threads, and torchcodec where it can be imported (the project does not depend on it;
it loads the FFmpeg it finds, and on a machine without one it can be given PyAV's own, see NOTES.md).

    python benchmarks/decode.py                       # ../shared/videos beside the checkout, and two rendered files
    python benchmarks/decode.py --videos FOLDER --json out.json

Speed is measured twice: every frame to RGB, and only every fourth frame (what stride 16 needs of a long video).
A broken file counts as equal if both decoders refuse it after the same number of frames. Frame threads are not tried on
broken files: PyAV 18.1 then never returns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import av
import numpy as np
from extract_pipeline import SHARED_VIDEOS, SIZES, SUFFIXES, render

from extract.video import VideoError, open_video

Frames = Iterator[tuple[float, Callable[[], np.ndarray]]]  # time in s, RGB (H, W, 3) on demand
EVERY = 4


def pyav(path: Path, thread_type: str, count: int) -> Frames:
    """extract/video/reading.py with another thread type."""
    with open_video(path) as video:
        assert video.codec is not None
        video.codec.thread_type, video.codec.thread_count = thread_type, count  # nothing has been decoded yet
        for frame in video.frames:
            yield frame.pts_s, frame.rgb


def torchcodec(path: Path, threads: int) -> Frames:
    """torchcodec in exact mode, frame after frame; it converts every frame that it hands out."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact")
    for index in range(len(decoder)):
        frame = decoder.get_frame_at(index)
        yield frame.pts_seconds, frame.data.numpy


def torchcodec_sampled(path: Path, threads: int, limit: int) -> int:
    """Every fourth frame, 64 frames of the video per call; returns how many frames were passed."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact")
    count = min(len(decoder), limit)
    for first in range(0, count, 64):
        decoder.get_frames_at(list(range(first, min(first + 64, count), EVERY)))
    return count


def modes() -> dict[str, Callable[[Path], Frames]]:
    """Name -> how to read a file. The first one is the reference."""
    found: dict[str, Callable[[Path], Frames]] = {
        "pyav none 1": lambda path: pyav(path, "NONE", 1),
        "pyav slice 2": lambda path: pyav(path, "SLICE", 2),
        "pyav frame 2": lambda path: pyav(path, "FRAME", 2),
        "pyav auto 2": lambda path: pyav(path, "AUTO", 2),
    }
    if why_no_torchcodec() is None:
        found["torchcodec 1"] = lambda path: torchcodec(path, 1)
        found["torchcodec 2"] = lambda path: torchcodec(path, 2)
    return found


def why_no_torchcodec() -> str | None:
    """None if it works; else the first line of what it says."""
    try:
        from torchcodec.decoders import VideoDecoder

        with tempfile.TemporaryDirectory() as folder:
            VideoDecoder(str(render(Path(folder) / "probe.mp4", 2, (64, 48))))
    except Exception as error:  # it raises several classes when FFmpeg is not found
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


@dataclass
class Difference:
    """How a decoder's frames differ from the reference's.

    Attributes:
        count: "150", or "150 != 151", with "!" where decoding broke off.
        pts_s: largest difference of a frame's time, in seconds.
        same: share of values (of compared frames) that are equal.
        most: largest difference of a value.
    """

    count: str
    pts_s: float
    same: float
    most: int

    @property
    def exact(self) -> bool:
        """Nothing differs; times may differ by rounding."""
        return "=" not in self.count and self.pts_s < 1e-6 and self.most == 0


def compare(reference: Frames, other: Frames, limit: int) -> Difference:
    """Both decoders side by side; memory holds one frame of each. Broken files end where they break."""
    counts, broken, pts_s, equal, values, most = [0, 0], [False, False], 0.0, 0, 0, 0
    pairs = zip_longest(_until_broken(reference, broken, 0), _until_broken(other, broken, 1))
    for left, right in islice(pairs, limit):
        counts = [counts[0] + (left is not None), counts[1] + (right is not None)]
        if left is None or right is None:
            continue
        pts_s = max(pts_s, abs(left[0] - right[0]))
        a, b = left[1](), right[1]()
        if a.shape != b.shape:
            return Difference(f"{counts[0]} (shape {a.shape} != {b.shape})", pts_s, 0.0, 255)
        if not np.array_equal(a, b):
            gap = np.abs(a.astype(np.int16) - b)
            most, equal = max(most, int(gap.max())), equal - int((gap > 0).sum())
        equal, values = equal + a.size, values + a.size
    words = [f"{n}{'!' * b}" for n, b in zip(counts, broken, strict=True)]
    return Difference(words[0] if words[0] == words[1] else " != ".join(words), pts_s, equal / max(1, values), most)


def _until_broken(frames: Frames, broken: list[bool], which: int) -> Frames:
    try:
        yield from frames
    except (VideoError, RuntimeError, ValueError, IndexError):  # the last three are torchcodec's
        broken[which] = True


def rate(read: Callable[[Path], Frames], path: Path, limit: int, every: int) -> float:
    """Frames per second of the file, with every ``every``-th converted to RGB; 0 if there are none."""
    started, count = time.perf_counter(), 0
    for _, rgb in islice(_until_broken(read(path), [False], 0), limit):
        if count % every == 0:
            rgb()
        count += 1
    return count / (time.perf_counter() - started)


def breaks(path: Path, limit: int) -> bool:
    """Whether the reference refuses one of the file's first frames."""
    broken = [False]
    for _ in islice(_until_broken(pyav(path, "NONE", 1), broken, 0), limit):
        pass
    return broken[0]


def measure(path: Path, limit: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Mode -> rates (interleaved, median) and difference to the reference."""
    found: dict[str, dict[str, Any]] = {}
    ways = modes()
    reference = ways["pyav none 1"]
    if breaks(path, limit):  # after a damaged frame, PyAV waits for ever for the threads of these two
        ways = {name: read for name, read in ways.items() if name not in ("pyav frame 2", "pyav auto 2")}
    all_rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, read in ways.items():
            every = rate(read, path, limit, 1)
            if name.startswith("torchcodec"):
                sampled = _torchcodec_rate(path, int(name[-1]), limit)
            else:
                sampled = rate(read, path, limit, EVERY)
            all_rates[name].append((every, sampled))
    for name, read in ways.items():
        difference = compare(reference(path), read(path), limit)
        every, sampled = (statistics.median(r) for r in zip(*all_rates[name], strict=True))
        found[name] = {"all": every, "sampled": sampled, "difference": difference}
    return found


def _torchcodec_rate(path: Path, threads: int, limit: int) -> float:
    started = time.perf_counter()
    try:
        count = torchcodec_sampled(path, threads, limit)
    except (RuntimeError, ValueError, IndexError):
        return 0.0
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=SHARED_VIDEOS, help="folder of video files")
    parser.add_argument("--frames", type=int, default=150, help="of each file, at most")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        files = [f for f in sorted(args.videos.rglob("*")) if f.suffix in SUFFIXES] if args.videos.is_dir() else []
        files += [render(Path(folder) / f"rendered_{n}.mp4", args.frames, size) for n, size in SIZES.items()]
        missing = why_no_torchcodec()
        print(f"PyAV {av.__version__}; torchcodec: {missing or 'works'}")
        head = f"{'file':<42}{'decoder':<14}{'all f/s':>9}{'4th f/s':>9}  {'frames':<14}"
        print(f"{head}{'pts s':>8}{'equal':>9}{'most':>5}")
        table: dict[str, dict[str, dict[str, Any]]] = {}
        for path in files:
            table[path.name] = measure(path, args.frames, args.repeats)
            for name, row in table[path.name].items():
                d = row["difference"]
                print(
                    f"{path.name[:41]:<42}{name:<14}{row['all']:>9.0f}{row['sampled']:>9.0f}  {d.count:<14}"
                    f"{d.pts_s:>8.1g}{d.same:>9.2%}{d.most:>5}",
                    flush=True,
                )
    figures = summarise(table)
    for name in list(table.values())[-1]:
        key = name.replace(" ", "_")
        speed = [figures[f"{key}_speedup_{which}"] for which in ("all", "sampled")]
        print(
            f"{name:<14} exact on {figures[f'{key}_exact_files']} of {len(table)}; speed-up over the reference, "
            f"median over files: all {speed[0]:.2f}, every 4th {speed[1]:.2f}"
        )
    if args.json:
        figures["torchcodec"] = missing or "works"
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def summarise(table: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Per mode: files on which it is exact, and the median over files of its speed against the reference."""
    figures: dict[str, Any] = {"files": len(table)}
    for name in list(table.values())[-1]:  # the rendered files come last; broken ones lack some decoders
        key = name.replace(" ", "_")
        rows = [r for r in table.values() if name in r]
        figures[f"{key}_exact_files"] = sum(r[name]["difference"].exact for r in rows)
        for which in ("all", "sampled"):
            ratios = [r[name][which] / r["pyav none 1"][which] for r in rows if r["pyav none 1"][which]]
            figures[f"{key}_speedup_{which}"] = statistics.median(ratios)
    return figures


if __name__ == "__main__":
    main()
