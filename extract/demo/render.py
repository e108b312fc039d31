"""Renders the demo data set: small mp4 videos with frame labels in the official file formats of DVD and Aff-Wild2.

Layout under the root, so that the parsers of the real data sets read it:

    videos/<id>.mp4                                             id: four digits, sparse, in random order
    videos.csv                                                  path,id,group
    dvd/{Training,Validation}/annotations/<id>.csv              Frame_Number (1-based),Label
    affwild2/VA_Estimation_Challenge/{Train_Set,Validation_Set}/<id>.txt    valence,arousal; a row per frame
    demo.json                                                   version and arguments of the rendering

What the videos show and what the labels mean is in ``demo_story``.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from extract.demo.story import Story, tell_story
from extract.miniature.scenes import render_frames
from shared.process.interrupts import leave_to_parent
from shared.process.whole_file import whole_file, whole_path

FORMAT = "crossgru-demo"
VERSION = 3  # raise it whenever a pixel or a label changes
MAX_ID = 1999
INVALID_VA = "-5,-5"  # the official mark of a frame without valence and arousal
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoVideo:
    """One video of the data set: its story and where its files go.

    Attributes:
        video_id: four digits.
        group: name of the scene, the unit of honest folds.
        validation: True if the scene belongs to the official validation split.
        story: labels and look.
    """

    video_id: str
    group: str
    validation: bool
    story: Story

    @property
    def video_path(self) -> str:
        return f"videos/{self.video_id}.mp4"

    @property
    def violence_path(self) -> str:
        return f"dvd/{'Validation' if self.validation else 'Training'}/annotations/{self.video_id}.csv"

    @property
    def va_path(self) -> str:
        split = "Validation_Set" if self.validation else "Train_Set"
        return f"affwild2/VA_Estimation_Challenge/{split}/{self.video_id}.txt"

    def is_rendered(self, root: Path) -> bool:
        return all((root / path).is_file() for path in (self.video_path, self.violence_path, self.va_path))


def plan_demo(
    *, num_scenes: int = 12, videos_per_scene: int = 4, seed: int = 0, frames: tuple[int, int] = (320, 720)
) -> list[DemoVideo]:
    """All videos of a demo data set with their labels, in order of id; draws no pixel and takes milliseconds.

    Args:
        num_scenes: number of groups, at least 2; the last quarter of them is the validation split.
        videos_per_scene: videos in each group.
        seed: of everything.
        frames: least and largest number of frames of a video.
    """
    if num_scenes < 2 or videos_per_scene < 1 or num_scenes * videos_per_scene > MAX_ID:
        raise ValueError(
            f"expected at least 2 scenes and at most {MAX_ID} videos, found {num_scenes} x {videos_per_scene}"
        )
    if not 4 <= frames[0] <= frames[1]:
        raise ValueError(f"expected frames as (least, largest) with least >= 4, found {frames}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2**32 - 1]))
    numbers = iter(rng.choice(np.arange(1, MAX_ID + 1), num_scenes * videos_per_scene, replace=False))
    first_validation = num_scenes - max(1, num_scenes // 4)
    videos = [
        DemoVideo(f"{next(numbers):04d}", f"scene{scene:02d}", scene >= first_validation, story)
        for scene in range(num_scenes)
        for story in (tell_story(seed, scene, index, frames) for index in range(videos_per_scene))
    ]
    return sorted(videos, key=lambda video: video.video_id)


def render_demo(
    root: Path,
    *,
    num_scenes: int = 12,
    videos_per_scene: int = 4,
    seed: int = 0,
    frames: tuple[int, int] = (320, 720),
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Renders the demo data set, or what is missing of it.

    Every video depends on (seed, scene, index) alone, so neither the number of workers nor an interruption changes
    it. Files appear under their names only when they are whole.

    Args:
        root: folder to write to; created if missing.
        num_scenes, videos_per_scene, seed, frames: see ``plan_demo``.
        workers: processes; 1 renders in this one.
        progress: called with (videos done, videos in all) at the start and after each video.

    Raises:
        FileExistsError: the folder holds something that this function did not write.
    """
    videos = plan_demo(num_scenes=num_scenes, videos_per_scene=videos_per_scene, seed=seed, frames=frames)
    marker = {
        "format": FORMAT,
        "version": VERSION,
        "num_scenes": num_scenes,
        "videos_per_scene": videos_per_scene,
        "seed": seed,
        "frames": list(frames),
        "ids": [video.video_id for video in videos],
    }
    _claim(root, marker)
    missing = [video for video in videos if not video.is_rendered(root)]
    done = len(videos) - len(missing)
    if progress:
        progress(done, len(videos))
    for _ in _render_all(root, missing, workers):
        done += 1
        if progress:
            progress(done, len(videos))
    rows = [f"{video.video_path},{video.video_id},{video.group}" for video in videos]
    _write_text(root / "videos.csv", "\n".join(["path,id,group", *rows]) + "\n")


def _claim(root: Path, marker: dict[str, Any]) -> None:
    """Makes ``root`` the folder of the data set that ``marker`` describes; removes a different demo set."""
    path = root / "demo.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found == marker:
            return
        if found.get("format") != FORMAT:
            raise FileExistsError(f"{path} was not written by the demo; choose another folder")
        log.warning("%s holds a demo data set of another version or size; rendering it anew", root)
        _remove_videos(root, found.get("ids", []))
    elif any((root / name).exists() for name in ("videos", "videos.csv", "dvd", "affwild2")):
        raise FileExistsError(f"{root} holds files but no demo.json; choose an empty folder for the demo data set")
    root.mkdir(parents=True, exist_ok=True)
    _write_text(path, json.dumps(marker, indent=1) + "\n")


def _remove_videos(root: Path, ids: list[str]) -> None:
    """Deletes the files of earlier videos, and only those."""
    for video_id in ids:
        if not (isinstance(video_id, str) and len(video_id) == 4 and video_id.isdecimal()):
            raise FileExistsError(f"{root / 'demo.json'} lists a strange id {video_id!r}; choose another folder")
        for pattern in ("videos/{}.mp4*", "dvd/*/annotations/{}.csv*", "affwild2/*/*/{}.txt*"):
            for path in root.glob(pattern.format(video_id)):
                path.unlink()
    (root / "videos.csv").unlink(missing_ok=True)


def _render_all(root: Path, videos: list[DemoVideo], workers: int) -> Iterator[None]:
    """Renders ``videos`` and yields after each, in any order."""
    if workers <= 1 or len(videos) <= 1:
        for video in videos:
            render_video(root, video)
            yield
        return
    # Spawned, not forked: the caller may hold threads (progress bars, JAX) that a fork would break.
    context = multiprocessing.get_context("spawn")
    num = min(workers, len(videos))
    with ProcessPoolExecutor(num, mp_context=context, initializer=leave_to_parent) as pool:
        try:
            # Longest first, so that no worker is left alone with a long video at the end.
            order = sorted(videos, key=lambda video: -video.story.num_frames)
            for future in as_completed([pool.submit(render_video, root, video) for video in order]):
                future.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def render_video(root: Path, video: DemoVideo) -> None:
    """Writes both label files and then the mp4 of one video; the mp4 comes last and says that the labels are there."""
    story = video.story
    _write_text(root / video.violence_path, format_violence(story))
    _write_text(root / video.va_path, format_va(story))
    path = root / video.video_path
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_path(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=story.fps)
        stream.width, stream.height, stream.pix_fmt = story.width, story.height, "yuv420p"
        # A target rate drawn at random, not a constant quality: the size of a file must not tell how much moves.
        stream.bit_rate = story.bit_rate
        # Without "mbtree=0" the bits of the same frames differ from run to run, even on one thread.
        stream.options = {"preset": "veryfast", "threads": "1", "mbtree": "0"}
        for pixels in render_frames(story.script):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def format_violence(story: Story) -> str:
    """DVD annotation: a row per labelled frame with its 1-based number; frames without a label are absent."""
    numbers = np.flatnonzero(story.violence_valid)
    return "\n".join(["Frame_Number,Label", *(f"{t + 1},{story.violence[t]}" for t in numbers)]) + "\n"


def format_va(story: Story) -> str:
    """Aff-Wild2 annotation: row i after the header is frame i (1-based); a frame without a label is ``-5,-5``."""
    rows = [
        f"{valence:.3f},{arousal:.3f}" if valid else INVALID_VA
        for valence, arousal, valid in zip(story.valence, story.arousal, story.va_valid, strict=True)
    ]
    return "\n".join(["valence,arousal", *rows]) + "\n"


def _write_text(path: Path, text: str) -> None:
    """Writes a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))
