"""Features that were made elsewhere -> a stream of a cache. Everything is checked before anything is written.

Axes: F frames of a video, N windows, T samples in a window, U rows, D feature size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from extract.interchange.external_facts import (
    FrameRule,
    declared_frames,
    match_videos,
    nearest_distance,
    nearest_rows,
    window_gaps,
)
from extract.interchange.external_files import BLOCK_BYTES, ExternalRows
from extract.interchange.external_times import Facts
from extract.interchange.hdf5_layout import FeatureFileError, refuse
from extract.interchange.writing import import_claims, whole_streams
from extract.sharing.claims import Claims
from shared.cache import CacheError, FeatureCache, RecipeMismatch, VideoInfo
from shared.cache.arrays import StreamWriter
from shared.manifest import Video
from shared.recipe import Recipe
from shared.windows import WindowSpec


@dataclass(frozen=True)
class Declared:
    """What the user says of the features.

    Attributes:
        stream: how the cache calls them.
        rule: which frames the rows are of; None: the files say it, or the rows are windows.
        nearest: give every frame that a window samples the row that is nearest in time.
        samples: T, samples per window; None: of the cache, of the arrays, or 16.
        name: what made them; part of the recipe.
        notes: anything else that is part of the recipe.
    """

    stream: str
    rule: FrameRule | None = None
    nearest: bool = False
    samples: int | None = None
    name: str = ""
    notes: Mapping[str, str] | None = None

    def recipe(self, digest: str) -> dict[str, Any]:
        """The recipe of the stream; ``digest`` is the sha256 of the files."""
        facts = {"frames": self.rule.text if self.rule else "file", "nearest": self.nearest, "sha256": digest}
        return {"encoder": "external", "name": self.name or self.stream, "notes": dict(self.notes or {}), **facts}


@dataclass(frozen=True)
class ImportJob:
    """One video that is to be imported.

    Attributes:
        frames: int64 (U,) of the stored rows, or None for windows.
        source_rows: int64 (U,), the row of the file that each stored row is, or None: all of them in order.
        gaps: how many of the frames that the windows sample have no row.
        distance: by how many frames, at most, a row was moved by --nearest.
    """

    video: str
    rows: ExternalRows
    info: VideoInfo
    frames: np.ndarray | None
    source_rows: np.ndarray | None
    gaps: int
    distance: int = 0

    @property
    def num_rows(self) -> int:
        """Rows that are stored."""
        return self.rows.shape[0] if self.frames is None else len(self.frames)


def window_with(window: WindowSpec, declared: Declared, found: Sequence[ExternalRows]) -> WindowSpec:
    """The window with samples of the stream.

    Raises:
        ValueError: other samples than the cache has.
    """
    stream, samples = declared.stream, declared.samples
    if declared.rule is not None and declared.rule.text == "centers":
        samples = samples or 1
        if samples != 1:
            raise ValueError("--frames centers means one sample per window; leave --samples away")
    has = window.samples.get(stream)
    if has is not None and samples not in (None, has):
        raise ValueError(f"--samples {samples}: the cache has {has} samples per window of stream {stream!r}")
    of_arrays = found[0].shape[1] if len(found[0].shape) == 3 else None
    return replace(window, samples={**window.samples, stream: has or samples or of_arrays or min(16, window.size)})


def plan_import(
    found: Mapping[str, ExternalRows],
    videos: Sequence[Video] | None,
    window: WindowSpec,
    declared: Declared,
    facts: Facts,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ImportJob]:
    """Check names, shapes, frames and values of all videos; every problem is reported at once.

    Raises:
        FeatureFileError: lists the problems.
    """
    matched, problems = match_videos(found, videos)
    jobs = []
    first = next(iter(found.values()))
    for number, (name, video) in enumerate(matched.items(), 1):
        rows = found[name]
        try:
            if (len(rows.shape), rows.shape[-1]) != (len(first.shape), first.shape[-1]):
                raise FeatureFileError(f"{rows.where}: shape {rows.shape} does not fit {first.shape} of {first.where}")
            jobs.append(_plan_video(rows, video, window, declared, facts))
            check_values(rows)
        except (FeatureFileError, CacheError) as error:
            problems.append(str(error))
        progress(number, len(matched))
    refuse(problems)
    return jobs


def _plan_video(rows: ExternalRows, video: Video, window: WindowSpec, declared: Declared, facts: Facts) -> ImportJob:
    info = facts.info(video.id, video.path, rows, declared.rule)
    plan = window.plan(info.num_frames)
    frames, wanted = declared_frames(rows, declared.rule, plan, declared.stream), plan.unique[declared.stream]
    if frames is None or not declared.nearest:
        return ImportJob(video.id, rows, info, frames, None, window_gaps(frames, wanted))
    distance = nearest_distance(rows, declared.rule, frames, wanted)
    return ImportJob(video.id, rows, info, wanted, nearest_rows(frames, wanted), 0, distance)


def check_values(rows: ExternalRows) -> None:
    """Refuse values that float16 cannot hold.

    Raises:
        FeatureFileError: a NaN, an infinity, or a value that is too large, or so small that a whole row becomes zero.
    """
    for first, block in rows.blocks():
        with np.errstate(over="ignore", under="ignore"):
            stored = block.astype(np.float16)
        axes = tuple(range(1, block.ndim))
        lost = np.asarray(~np.isfinite(stored).all(axis=axes))
        gone = np.asarray(~(stored != 0).any(axis=axes) & (block != 0).any(axis=axes))
        if not (lost | gone).any():
            continue
        row = int(np.argmax(lost | gone))
        values = np.abs(block[row].astype(np.float64))
        if not np.isfinite(values).all():
            raise FeatureFileError(f"{rows.where}: row {first + row} holds a NaN or an infinity; mend it at its source")
        why = "too large for float16 (65504 at most)" if lost[row] else "too small for float16: the row would be zero"
        raise FeatureFileError(
            f"{rows.where}: the largest value of row {first + row} is {values.max():.4g}, {why}; scale it"
        )


def check_replacing(
    cache: FeatureCache, jobs: Sequence[ImportJob], stream: str, recipe: Recipe, replaced: bool
) -> None:
    """Refuse to replace streams of another recipe that are there, unless that was asked for.

    Raises:
        RecipeMismatch: says how the recipes differ.
        CacheError: metadata are damaged.
    """
    for job in jobs if not replaced else ():
        cache.has(job.video, stream, recipe)


def write_import(
    cache: FeatureCache,
    jobs: Sequence[ImportJob],
    stream: str,
    recipe: Recipe,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Store what is not stored yet; the ids of the videos that were written. Safe to interrupt and to repeat.

    Raises:
        CacheError: a video of the cache was made from another file.
        OSError: the cache cannot be written.
    """
    written = []
    with import_claims(cache) as claims:
        for number, job in enumerate(jobs, 1):
            if not _is_there(cache, job.video, stream, recipe):
                _write_video(cache, claims, job, stream, recipe)
                written.append(job.video)
            progress(number, len(jobs))
    return written


def _is_there(cache: FeatureCache, video: str, stream: str, recipe: Recipe) -> bool:
    try:
        return cache.has(video, stream, recipe)
    except RecipeMismatch:  # to be replaced, or check_replacing would have refused it
        return False


def _write_video(cache: FeatureCache, claims: Claims, job: ImportJob, stream: str, recipe: Recipe) -> None:
    info = job.info if cache.info(job.video) is None else None
    kind = "window" if job.frames is None else "timeline"
    with whole_streams(cache, claims, job.video, info, {stream: (kind, recipe)}) as writers:
        _append_rows(writers[stream], job)
        writers[stream].finish()


def _append_rows(writer: StreamWriter, job: ImportJob) -> None:
    if job.frames is None:
        for _, block in job.rows.blocks():
            writer.append(block)
        return
    source = np.arange(job.num_rows) if job.source_rows is None else job.source_rows
    step = max(1, BLOCK_BYTES // (8 * job.rows.shape[-1]))
    for first in range(0, job.num_rows, step):
        part = source[first : first + step]
        block = job.rows.read(int(part[0]), int(part[-1]) + 1)[part - part[0]]
        writer.append(block, job.frames[first : first + step])
