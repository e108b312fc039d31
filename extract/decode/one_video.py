"""One video from its first byte to its last: hashed, decoded, sampled. Runs in a decoder process or in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from extract.decode.events import Failed, Job, Opened, Read
from extract.decode.sampling import Draft, Item, Window, draft_video
from extract.encoders.contract import TimelineEncoder, WindowEncoder
from extract.video import DecodedFrame, OpenVideo, UnreadableFile, VideoError, open_video, read_source, source_stamp
from shared.windows import WindowSpec

# Frames below this many pixels are resized sooner than handed to another thread.
MIN_POOLED_PIXELS = 320 * 240
# Every frame of a file takes bytes of it; a file that goes on for longer than that never ends.
MIN_ENDLESS_FRAMES = 1000
CHANGED = "the file changed while it was read"
MAX_MESSAGE = 10_000  # characters; a decoder's log of a broken file can be megabytes


def video_events(
    job: Job,
    spec: WindowSpec,
    encoders: Mapping[str, TimelineEncoder | WindowEncoder],
    progress: Callable[[int], None],
) -> Iterator[Opened | Draft | Item | Window | Read]:
    """Everything that a video says, ``Read`` last.

    Args:
        encoders: stream -> encoder, or its ``prepare`` half, for at least the job's streams.
        progress: called with the number of frames so far, often: for every MiB that is hashed and every frame.

    Raises:
        VideoError: the video cannot be used, or (``UnreadableFile``) changed meanwhile.
        Exception: whatever else a hostile file provokes, in the decoder or in ``prepare``.
    """
    assert isinstance(job.file, Path), "a copy of it can be decoded; see extract/decode/fetching.py"
    wanted = {s: encoders[s] for s in job.streams}
    times: list[float] = []

    def note(frame: DecodedFrame) -> None:
        times.append(frame.pts_s)
        progress(len(times))
        if most is not None and len(times) > most:
            raise VideoError(
                "decode", f"{len(times)} frames out of {source['bytes']} bytes: a playlist, or a file that never ends"
            )

    with _unchanged(job.file), open_video(job.file, job.fps, allow_truncated=job.allow_truncated) as video:
        source = read_source(job.file, lambda: progress(0))  # not before it is known to be a video
        most = None if job.file.is_dir() else MIN_ENDLESS_FRAMES + source["bytes"]
        yield Opened(video.promised_frames, source)
        for event in draft_video(video.frames, spec, wanted, note):
            if isinstance(event, Draft) and video.width * video.height < MIN_POOLED_PIXELS:
                yield from event.items()
            else:
                yield event
        read = _read(job, video, times, source)
    yield read


@contextmanager
def _unchanged(file: Path) -> Iterator[None]:
    """What is read meanwhile is one and the same file: not the hash of one and the frames of another.

    Raises:
        UnreadableFile: it was replaced or written to, which may also be what made it look broken.
    """
    before = _stamp(file)
    try:
        yield
    except UnreadableFile:
        raise
    except VideoError as error:
        if _stamp(file) != before:
            raise UnreadableFile("decode", f"{CHANGED} ({error})") from error
        raise
    if _stamp(file) != before:
        raise UnreadableFile("decode", CHANGED)


def _stamp(file: Path) -> dict[str, Any]:
    try:
        return source_stamp(file)
    except VideoError:  # reading it says why
        return {}


def failure(error: Exception) -> Failed:
    """What ``video_events`` raised, in words."""
    stage = error.stage if isinstance(error, VideoError) else "decode"
    return Failed(stage, type(error).__name__, (str(error) or repr(error))[:MAX_MESSAGE])


def _read(job: Job, video: OpenVideo, times: list[float], source: Mapping[str, Any]) -> Read:
    facts = {
        "source": {"path": job.path, **(source if job.origin is None else {**job.origin, "sha256": source["sha256"]})},
        "fps": round(video.fps, 6),
        "num_frames": len(times),
        "width": video.width,
        "height": video.height,
        "rotation": video.rotation,
        "decoder": video.decoder,
        "missing_frames": video.missing_frames,
        "shown": video.shown,
    }
    if video.truncated is not None:
        facts["truncated"] = video.truncated
    if video.leading:
        facts["leading"] = video.leading
    return Read(facts, np.array(times, dtype=np.float64))
