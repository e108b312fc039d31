"""Peak memory of an extraction does not grow with the length of the video.

Each measurement is ``python -m extract run`` (preset tiny, all streams) in a process of its own, on a file and on its
first frames, cut without encoding anew. Prints the peak resident set of both and their ratio.

    python benchmarks/memory.py                # the 10,883-frame file of ../shared/videos, about 5 minutes
    python benchmarks/memory.py --file video.mp4 --frames 1000 --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import av
from extract_pipeline import SHARED_VIDEOS, render

LONG = SHARED_VIDEOS / "media3_long_1080p_10883f.mp4"


def cut(source: Path, target: Path, num_frames: int) -> Path:
    """The first packets of the video track, copied."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        track = old.streams.video[0]
        copy = new.add_stream_from_template(track)
        count = 0
        for packet in old.demux(track):
            if packet.dts is None or count == num_frames:
                break
            packet.stream, count = copy, count + 1
            new.mux(packet)
    return target


def peak_mib(file: Path, folder: Path) -> float:
    """Peak resident set of one extraction, in MiB."""
    videos = folder / f"{file.stem}_videos"
    videos.mkdir()
    shutil.copy(file, videos / file.name)
    command = [sys.executable, "-m", "extract", "run", str(videos), "--preset", "tiny"]
    command += ["--cache", str(folder / f"{file.stem}.zarr")]
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    words = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{words}")
    return usage.ru_maxrss / 1024  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a long video; rendered if the default one is not there")
    parser.add_argument("--frames", type=int, default=1000, help="of the short one")
    parser.add_argument("--size", type=int, nargs=2, default=(1920, 1080), help="of a rendered video")
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long = args.file or LONG
        if not long.exists():
            long = render(folder / "long.mp4", 10 * args.frames, tuple(args.size))
        short = cut(long, folder / "short.mp4", args.frames)
        short_mib, long_mib = peak_mib(short, folder), peak_mib(long.resolve(), folder)
    print(f"{'video':<36}{'peak MiB':>10}")
    print(f"{f'first {args.frames} frames':<36}{short_mib:>10.0f}\n{long.name:<36}{long_mib:>10.0f}")
    print(f"ratio {long_mib / short_mib:.3f}")
    if args.json:
        figures = {"memory_ratio": long_mib / short_mib, "short_mib": short_mib, "long_mib": long_mib}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
