"""A task's annotations, matched to the videos of a manifest and laid onto their decoded frames."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from shared.labels.annotations import annotation_files, track_to_video
from shared.labels.formats import read_labels
from shared.manifest import TABLE_FORMAT, Manifest, Segment, TaskSource, Video
from shared.process.collecting import no_collection
from train.data.labels import AlignReport, Track, align, count_valid, label_frames
from train.data.own_task import no_task
from train.data.spans import duration_s, refuse_seconds, to_frames
from train.tasks import Task


@dataclass(frozen=True)
class LeftOut:
    """Labelled frames of one track that no head can score; coverage counts them as not covered.

    Attributes:
        track: name of the track.
        split, fold: as in `Track`; they say whether the track would be tested.
        frames: frames with a valid label.
    """

    track: str
    split: str | None
    fold: int | None
    frames: int


@dataclass
class LabelReport:
    """What became of the annotations.

    Attributes:
        aligned: track -> counts of rows against frames.
        without_video: annotation files whose video is not in the manifest.
        without_features: tracks whose video is not in the cache.
        without_streams: cached videos that lack a stream which the heads read.
        without_labels: cached videos that no track annotates.
        left_out: labelled frames of tracks without features, and those past the last decoded frame.
        unknown_length: tracks without features that have a segment without an end; its frames cannot be counted.
        spans: segments that end after their video or overlap another one, each with its row.
        whole: every label is of a whole video, so that a score per video is what is asked for.
        digest: sha256 over the labels used, in order; changes when a label file changes.
    """

    aligned: dict[str, AlignReport] = field(default_factory=dict)
    without_video: list[str] = field(default_factory=list)
    without_features: list[str] = field(default_factory=list)
    without_streams: list[str] = field(default_factory=list)
    without_labels: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    unknown_length: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)
    whole: bool = False
    digest: str = ""

    def lines(self) -> list[str]:
        """Plain sentences for log and report; empty if there is nothing to tell."""
        reports = list(self.aligned.values())
        told = []
        if short := [r.missing for r in reports if r.missing]:
            told.append(f"{len(short)} tracks have fewer label rows than frames ({sum(short)} frames masked)")
        if long := [r.extra for r in reports if r.extra]:
            told.append(f"{len(long)} tracks have more label rows than frames ({sum(long)} rows unused)")
        if masked := sum(r.invalid for r in reports):
            told.append(f"{masked} frames carry an invalid or missing label and are masked")
        if lost := sum(one.frames for one in self.left_out):
            told.append(f"{lost} labelled frames have no features; coverage counts those of tested tracks as missing")
        for names, what in (
            (self.without_video, "annotation files have no video in the manifest"),
            (self.without_features, "annotated videos are not in the cache"),
            (self.without_streams, "cached videos lack a stream and are left out"),
            (self.without_labels, "cached videos have no annotation"),
            (self.unknown_length, "videos that are not in the cache have segments without an end, frames not counted"),
        ):
            if names:
                told.append(f"{len(names)} {what}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
        if self.spans:
            told.append(
                "; ".join(self.spans[:5]) + ("" if len(self.spans) <= 5 else f"; and {len(self.spans) - 5} more")
            )
        return told


@no_collection()
def read_tracks(
    manifest: Manifest,
    task: Task,
    num_frames: Mapping[str, int] | None,
    times: Callable[[str], np.ndarray] | None = None,
) -> tuple[list[Track], LabelReport]:
    """All tracks of a task whose video is cached, with labels aligned to the decoded frames.

    Args:
        manifest: the data set.
        task: which labels.
        num_frames: video id -> F of every cached video. None: every annotated video counts as cached, and as long as
            its annotation; for what needs labels only.
        times: video id -> seconds (F,) at which its frames are shown, if known. Spans in seconds need them, and spans
            in frames that must be meant in seconds are refused by them.

    Returns:
        Tracks sorted by name, ``labels`` (F, K), and what was left out.

    Raises:
        ValueError: the manifest has no labels of this task, none of them meets a cached video, or spans in seconds.
        LabelError: an annotation file is wrong; file and line are named.
    """
    if task.name not in manifest.tasks:
        raise ValueError(no_task(manifest, task.name))
    source, report = manifest.tasks[task.name], LabelReport()
    videos = {video.id: video for video in manifest.videos}
    if source.format == TABLE_FORMAT:
        if num_frames is None:
            raise ValueError("labels from a table do not say how long a video is; extract its features first")
        spans = _by_video(source.segments, masked=source.background is not None)
        if times is not None and not source.in_frames:
            refuse_seconds(spans, num_frames, lambda video_id: duration_s(times(video_id)))
        spans = {v: to_frames(rows, v, num_frames, times, report.spans) for v, rows in spans.items()}
        report.whole = all(row.start == 0 and row.end is None for rows in spans.values() for row in rows)
        tracks = _from_table(spans, videos, num_frames, report, source.background)
    else:
        tracks = _from_files(manifest.root, source, videos, num_frames, report)
    ready = []
    for track in sorted(tracks, key=lambda t: t.name):
        labels, counts = align(
            track.labels, len(track.labels) if num_frames is None else num_frames[track.video_id]
        )  # (F, K)
        report.aligned[track.name] = counts
        if counts.cut:
            report.left_out.append(LeftOut(track.name, track.split, track.fold, counts.cut))
        ready.append(replace(track, labels=labels))
    if not ready:
        raise ValueError(f"no annotation of task {task.name!r} meets a cached video. " + "; ".join(report.lines()))
    report.without_labels = sorted(set(num_frames or ()) - {t.video_id for t in ready})
    report.digest = labels_digest(ready)
    return ready, report


def labels_digest(tracks: Iterable[Track]) -> str:
    """sha256 over the labels of tracks in order of their names."""
    digest = hashlib.sha256()
    for track in sorted(tracks, key=lambda t: t.name):
        digest.update(track.name.encode() + b"\x00" + track.labels.tobytes())
    return digest.hexdigest()


def _from_files(
    root: Path,
    source: TaskSource,
    videos: Mapping[str, Video],
    num_frames: Mapping[str, int] | None,
    report: LabelReport,
) -> list[Track]:
    tracks: list[Track] = []
    seen: dict[str, Path] = {}
    for split, patterns in source.files.items():
        files = annotation_files(root, patterns)
        if not files:
            raise ValueError(f"no annotation file matches {' or '.join(str(root / p) for p in patterns)} ({split})")
        for file in files:
            video_id = track_to_video(file.stem, videos)
            if video_id is None:
                report.without_video.append(file.stem)
                continue
            if file.stem in seen:
                raise ValueError(f"track {file.stem!r} is annotated twice: {seen[file.stem]} and {file}")
            seen[file.stem] = file
            video = videos[video_id]
            labels = read_labels(file, source.format)
            if num_frames is not None and video_id not in num_frames:
                report.without_features.append(file.stem)
                report.left_out.append(LeftOut(file.stem, split, video.fold, count_valid(labels)))
                continue
            tracks.append(Track(file.stem, video_id, video.group, split, video.fold, labels, str(file)))
    return tracks


def _by_video(segments: Iterable[Segment], *, masked: bool) -> dict[str, list[Segment]]:
    """The segments of each video that carry a label; with ``masked`` all, since those without one are no background."""
    by_video: dict[str, list[Segment]] = {}
    for segment in segments:
        if masked or not all(map(math.isnan, segment.values)):
            by_video.setdefault(segment.video_id, []).append(segment)
    return by_video


def _from_table(
    by_video: Mapping[str, Sequence[Segment]],
    videos: Mapping[str, Video],
    num_frames: Mapping[str, int],
    report: LabelReport,
    background: float | None = None,
) -> list[Track]:
    tracks = []
    for video_id, rows in by_video.items():
        if not rows:
            continue
        file, _, _ = rows[0].where.rpartition(":")
        # Without features the length is unknown: 0 keeps the frames of closed segments and none of the others.
        length = num_frames.get(video_id, 0)
        labels = label_frames(
            [r.where.rpartition(":")[2] for r in rows],
            [int(r.start) for r in rows],
            [length if r.end is None else int(r.end) for r in rows],
            [r.end is not None for r in rows],
            np.array([r.values for r in rows], np.float32),  # (rows, K)
            length,
            file,
        )
        video = videos[video_id]
        if background is not None:
            _fill_between(labels, rows, background)
        if video_id not in num_frames:
            report.without_features.append(video_id)
            report.left_out.append(LeftOut(video_id, video.split, video.fold, count_valid(labels)))
            if any(r.end is None or r.in_seconds for r in rows):
                report.unknown_length.append(video_id)
            continue
        tracks.append(Track(video_id, video_id, video.group, video.split, video.fold, labels, file))
    return tracks


def _fill_between(labels: np.ndarray, rows: Sequence[Segment], background: float) -> None:
    """Frames of (F, 1) labels that no segment covers become ``background``."""
    free = np.ones(len(labels), bool)
    for row in rows:
        free[int(row.start) : None if row.end is None else int(row.end)] = False
    labels[free] = background


def permute_labels(tracks: Sequence[Track], seed: int) -> list[Track]:
    """A control: every track gets the labels of a track of another group. What can still be learned is chance.

    Lengths and masks stay: the valid labels of the other track, in order, cut or repeated, fill the labelled frames of
    this one. Each track is the source of exactly one other; tracks without a label stay as they are.

    Args:
        tracks: aligned, as ``read_tracks`` returns them.
        seed: of the permutation.

    Raises:
        ValueError: one group holds more than half of the labelled tracks, so that some would keep their own labels.
    """
    known = [np.isfinite(t.labels).all(axis=1) for t in tracks]  # (F,) each
    rows = [i for i in np.random.default_rng(seed).permutation(len(tracks)) if known[i].any()]
    # Tracks in a circle, groups in one piece each: a turn by the largest group's size takes everyone out of his own.
    place = {g: k for k, g in enumerate(dict.fromkeys(tracks[i].group for i in rows))}
    rows.sort(key=lambda i: place[tracks[i].group])
    group, turn = Counter(tracks[i].group for i in rows).most_common(1)[0] if rows else ("", 0)
    if 2 * turn > len(rows):
        raise ValueError(
            f"labels cannot be permuted across groups: {group!r} holds {turn} of {len(rows)} labelled tracks"
        )
    permuted = list(tracks)
    for k, i in enumerate(rows):
        source = rows[(k + turn) % len(rows)]
        labels = tracks[i].labels.copy()  # (F, K)
        labels[known[i]] = np.resize(tracks[source].labels[known[source]], labels[known[i]].shape)
        permuted[i] = replace(tracks[i], labels=labels)
    return permuted
