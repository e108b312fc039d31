"""Trains the whole miniature from nothing and packs its weights: `make miniature`.

Pictures are rendered first; then VideoPrism trains in a process of its own beside CLIP and MiniGPT, one core each.
Every random number comes from one seed. ``weights/training.log`` and ``weights/SHA256SUMS`` say what was made.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.process.interrupts import leave_to_parent, listen

if TYPE_CHECKING:
    from extract.miniature.keeping import Keeper

SEED = 0
NUM_STILLS, NUM_CLIPS = 30_000, 6_000
STEPS = {"videoprism": 4000, "clip": 2400, "minigpt": 2800}
WEIGHTS = Path(__file__).parent / "weights"


def make(folder: Path, weights: Path) -> None:
    """Render into ``folder``, train there, pack into ``weights``; an interrupted call is gone on with."""
    from extract.miniature.dataset import load_pictures

    start = time.monotonic()
    (folder / "files").mkdir(parents=True, exist_ok=True)
    lines = Lines()
    for clip, num in ((False, NUM_STILLS), (True, NUM_CLIPS)):
        load_pictures(folder, "train", num, clip=clip, workers=2)
        lines(f"rendered {num} {'clips' if clip else 'pictures'}, {time.monotonic() - start:.0f} s")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), initializer=_one_core) as pool:
        running = [pool.submit(train, folder, ["videoprism"]), pool.submit(train, folder, ["clip", "minigpt"])]
        for done in running:
            lines.extend(done.result())
    pack(folder / "files", weights)
    lines(f"all done, {time.monotonic() - start:.0f} s")
    (weights / "training.log").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(folder: Path, names: list[str], limit_s: float | None = None) -> list[str]:
    """Train some of ``STEPS`` and write their files; returns the lines of the log.

    Raises:
        Paused: after ``limit_s`` seconds; the same call goes on.
    """
    from extract.miniature.keeping import Keeper

    lines = Lines()
    for name in names:
        keeper = Keeper(name, folder / f"{name}.state", lines, limit_s)
        {"videoprism": _train_videoprism, "clip": _train_clip, "minigpt": _train_minigpt}[name](folder, keeper)
    return lines


def _train_videoprism(folder: Path, keeper: Keeper) -> None:
    from extract.encoders.videoprism_checkpoint import ARCHITECTURES
    from extract.miniature.dataset import load_pictures
    from extract.miniature.train_videoprism import train_videoprism

    clips = load_pictures(folder, "train", NUM_CLIPS, clip=True)
    params = train_videoprism(clips, STEPS["videoprism"], SEED, keeper)
    with open(folder / "files" / ARCHITECTURES["mini"].filename, "wb") as file:
        np.savez(file, allow_pickle=False, **{k: v.astype(np.float16) for k, v in params.items()})


def _train_clip(folder: Path, keeper: Keeper) -> None:
    from extract.encoders.clip import MINI_FILE
    from extract.miniature.dataset import load_pictures
    from extract.miniature.train_clip import save_state, train_clip

    pictures = load_pictures(folder, "train", NUM_STILLS, clip=False)
    save_state(train_clip(pictures, STEPS["clip"], SEED, keeper), folder / "files" / MINI_FILE)


def _train_minigpt(folder: Path, keeper: Keeper) -> None:
    from extract.miniature.dataset import load_pictures
    from extract.miniature.train_minigpt import train_minigpt

    pictures = load_pictures(folder, "train", NUM_STILLS, clip=False)
    train_minigpt(pictures, folder / "files", STEPS["minigpt"], SEED, keeper)


class Lines(list[str]):
    """A log that is also printed."""

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.append(line)


def _one_core() -> None:
    import torch

    leave_to_parent()
    torch.set_num_threads(1)


def pack(files: Path, weights: Path) -> None:
    """The archive, byte for byte the same for the same files, and the sha256 of everything in it."""
    weights.mkdir(exist_ok=True)
    paths = sorted(path for path in files.rglob("*") if path.is_file())
    with zipfile.ZipFile(weights / "miniature.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in paths:
            archive.writestr(
                zipfile.ZipInfo(path.relative_to(files).as_posix()), path.read_bytes(), zipfile.ZIP_DEFLATED, 9
            )
    sums = {path.relative_to(files).as_posix(): path for path in paths} | {"miniature.zip": weights / "miniature.zip"}
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}" for name, path in sums.items()]
    (weights / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="utf-8")


def sources_digest() -> str:
    """sha256 over the code of this package: pictures and half-trained weights of other code are not gone on with."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\x00" + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """`python -m extract.miniature.make`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/miniature"), help="for pictures and files in the making"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    make(given.folder / sources_digest()[:12], given.weights)


if __name__ == "__main__":
    listen()
    main()
