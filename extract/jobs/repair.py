"""What ``run --overwrite damaged`` has to do: streams that are not whole, and nothing else.

A damaged stream is extracted again only where the run would put there what was there: features of another recipe
(edited captions, another --long-captions) stay as they are, and so does what is damaged of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from extract.decode.events import Job
from extract.faults.ledger import FailureLedger
from extract.faults.retrying import DecoderCheck, passed_over
from extract.jobs.planning import DAMAGED, NEXT, TEXT, has_changed
from extract.jobs.summary import Summary
from shared.cache import FeatureCache
from shared.cache.verify import REDO, damaged_part
from shared.manifest import Manifest
from shared.recipe import fingerprint

THREADS = 4  # as in verify
FACTS = {"", "pts"}  # parts of a video that belong to all of its streams


def plan_repair(
    manifest: Manifest,
    cache: FeatureCache,
    recipes: Mapping[str, Mapping[str, Any]],
    ledger: FailureLedger,
    *,
    retry_failed: bool = False,
    include_truncated: bool = False,
    suspects: Mapping[str, int] | None = None,
    **_: Any,
) -> tuple[list[Job], Summary]:
    """As ``plan_jobs``, of what is damaged; what cannot be repaired is in ``Summary.left``. Reads all of the cache.

    Raises:
        RecipeMismatch: another version of the decoder would read the frames.
    """
    summary, jobs = Summary(overwrite=(DAMAGED,)), []
    there = set(cache.group_ids())
    videos = [video for video in manifest.videos if video.id in there]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        found = pool.map(cache.verify, [video.id for video in videos])
        parts = {
            video.id: {damaged_part(video.id, line) for line in lines if REDO not in line}
            for video, lines in zip(videos, found, strict=True)
        }
    facts, failed = cache.facts(), ledger.failures()
    made = {video: _readable(cache, video) for video in parts if parts[video]}
    whole = [one.streams for video, one in facts.videos.items() if video not in made]
    marks = {stream: fingerprint(recipe) for stream, recipe in recipes.items()}
    mixed = {s for streams in [*whole, *made.values()] for s, mark in streams.items() if mark != marks.get(s)}
    decoders = DecoderCheck(cache, (), ())  # looks at videos that streams are added to, and no others
    for video in videos:
        known, file = facts.videos.get(video.id), manifest.file(video)
        if not parts[video.id]:
            summary.skipped.append(video.id)
            continue
        streams, why = _streams(parts[video.id], made[video.id], marks, mixed, NEXT in cache.begun(video.id))
        redecode = not parts[video.id].isdisjoint(FACTS)
        if streams and not redecode and known is not None and has_changed(known.source, file):
            streams, why = (), [*why, "its file is another one than the cache was made from"]
        if why:
            summary.left[video.id] = "; ".join(why)
        if not streams:
            continue
        if video.id in failed and not retry_failed and passed_over(failed[video.id], file):
            summary.failed[video.id] = failed[video.id]
            continue
        decoders.mixes(video.id, file, known, changed=redecode)
        allow = include_truncated or (known is not None and known.truncated is not None)
        jobs.append(Job(video.id, video.path, file, video.fps, streams, False, allow))
    decoders.refuse()
    names = {job.video for job in jobs}
    summary.suspects = {video: count for video, count in (suspects or {}).items() if video in names}
    return sorted(jobs, key=lambda job: job.video in summary.suspects), summary


def _streams(
    parts: set[str], made: Mapping[str, str], marks: Mapping[str, str], mixed: set[str], half: bool
) -> tuple[tuple[str, ...], list[str]]:
    """The streams of a damaged video to extract again, and why others are left.

    Args:
        parts: what is damaged; facts of a video can only be replaced together with all of its streams.
        made: stream -> fingerprint of its recipe, where that can be read.
        marks: stream -> fingerprint of the recipe asked for.
        mixed: streams that some video has of another recipe.
        half: whether a recaption was interrupted here.
    """
    redecode = not parts.isdisjoint(FACTS)
    wanted = sorted((parts | made.keys() if redecode else parts) - FACTS)
    streams, why = [], []
    for stream in wanted:
        state = "damaged" if stream in parts else "of a video whose facts are damaged"
        if stream not in marks:
            why.append(f"{stream} is {state}, and not among the streams of this run")
        elif (half and stream == TEXT) or stream == NEXT:
            why.append(f"{stream} is {state}, and a recaption was interrupted there: repeat that")
        elif made.get(stream, marks[stream]) != marks[stream]:
            why.append(f"{stream} is {state}, and was made by another recipe than this run's")
        elif stream not in made and stream in mixed:
            why.append(f"{stream} is {state}, and other videos have it by another recipe than this run's")
        else:
            streams.append(stream)
    if redecode and not wanted:
        streams = [s for s in marks if s not in mixed]
    return (() if redecode and why else tuple(s for s in marks if s in streams)), why


def _readable(cache: FeatureCache, video: str) -> dict[str, str]:
    """Complete streams of a video whose recipe can be read -> its fingerprint, whatever else is damaged."""
    return {
        stream: marks["fingerprint"]
        for stream, marks in cache.found_marks(video).items()
        if isinstance(marks.get("recipe"), dict) and fingerprint(marks["recipe"]) == marks.get("fingerprint")
    }
