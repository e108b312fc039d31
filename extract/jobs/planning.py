"""What a run has to do: the jobs of a data set, and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from extract.decode.events import Job
from extract.faults.ledger import FailureLedger
from extract.faults.retrying import DecoderCheck, passed_over
from extract.jobs.summary import Summary
from extract.video import VideoError, read_source, source_stamp
from shared.cache import CacheError, FeatureCache, RecipeMismatch
from shared.manifest import Manifest
from shared.recipe import fingerprint
from shared.videos.remote import Source

DAMAGED = "damaged"  # stands for streams in --overwrite: what is not whole is replaced (repair.py)
TEXT, NEXT = "text", "text-next"  # the latter is what a recaption writes before it replaces a text stream


def plan_jobs(
    manifest: Manifest,
    cache: FeatureCache,
    recipes: Mapping[str, Mapping[str, Any]],
    ledger: FailureLedger,
    *,
    overwrite: Sequence[str] = (),
    retry_failed: bool = False,
    include_truncated: bool = False,
    suspects: Mapping[str, int] | None = None,
) -> tuple[list[Job], Summary]:
    """Which videos still need which streams.

    Raises:
        RecipeMismatch: a complete stream was made by another recipe, or from frames that another version of the decoder
            read, and is not to be overwritten.
        CacheError: files are not the ones that the cache was made from, and not all of their streams are overwritten.
    """
    summary, jobs, strangers = Summary(overwrite=tuple(overwrite)), [], []
    facts, marks = cache.facts(), {stream: fingerprint(recipe) for stream, recipe in recipes.items()}
    failed, complete = ledger.failures(), [video.id for video in manifest.videos if video.id in facts.videos]
    decoders = DecoderCheck(cache, complete, overwrite)
    for video in manifest.videos:
        file, known = manifest.file(video), facts.videos.get(video.id)
        changed = known is not None and has_changed(known.source, file)
        changed = decoders.differs(video.id, file, known) or changed
        if known is not None and not changed:
            if known.truncated is not None:
                summary.truncated[video.path] = known.truncated
            if known.leading:
                summary.leading[video.path] = known.leading
        if changed and (cache.streams(video.id).keys() & cache.window.samples.keys()) - set(overwrite):
            strangers.append(video.path)
            continue
        # What the facts do not say for certain is looked at.
        doubtful = [s for s in recipes if s in overwrite or known is None or known.streams.get(s) != marks[s]]
        again = list(recipes) if changed else doubtful
        missing = tuple(s for s in again if changed or is_missing(cache, video.id, s, recipes[s], s in overwrite))
        cut_off = video.id in failed and failed[video.id].message.startswith("truncated")
        asked = retry_failed or changed or (include_truncated and cut_off)
        if not missing:
            summary.skipped.append(video.id)
        elif video.id in failed and not asked and passed_over(failed[video.id], file):
            summary.failed[video.id] = failed[video.id]
        else:
            decoders.mixes(video.id, file, known, changed)
            if TEXT in missing and known is not None and _of_a_file(facts.recipes.get(known.streams.get(TEXT, ""))):
                summary.recaptioned.append(video.id)
            # A stream that is added to a truncated video follows those that it has.
            allow = include_truncated or video.path in summary.truncated
            jobs.append(Job(video.id, video.path, file, video.fps, missing, changed, allow))
    if strangers:
        some = ", ".join(strangers[:5]) + " ..." * (len(strangers) > 5)
        raise CacheError(
            f"{len(strangers)} of {len(manifest.videos)} videos are not the files that {cache.url} was made from: "
            f"{some}\n"
            "If the cache belongs to another data set of the same name, give a new one: --cache NEW.zarr (CACHE= for "
            "make). If the files were replaced, extract them again: --overwrite all."
        )
    decoders.refuse()
    names = {job.video for job in jobs}
    summary.suspects = {video: count for video, count in (suspects or {}).items() if video in names}
    return sorted(jobs, key=lambda job: job.video in summary.suspects), summary


def drop_replacement(cache: FeatureCache, video_id: str) -> None:
    """Remove what a recaption that was cut short has left of a video whose text was extracted anew."""
    if NEXT in cache.begun(video_id):
        cache.drop(video_id, [NEXT])


def is_missing(
    cache: FeatureCache,
    video_id: str,
    stream: str,
    recipe: Mapping[str, Any],
    overwrite: bool,
    repair: bool = False,
) -> bool:
    """Whether a stream must be extracted. To overwrite is to replace what is of another recipe or damaged; what is
    whole and right stays, so that an interrupted --overwrite goes on where it was. Text that a recaption was about to
    replace is neither. To repair is to replace what is damaged, never what is of another recipe."""
    if not overwrite:
        return not cache.has(video_id, stream, recipe)
    if stream == TEXT and NEXT in cache.begun(video_id):
        return not repair
    try:
        return not cache.has(video_id, stream, recipe) or not cache.is_whole(video_id, stream)
    except RecipeMismatch:
        marks = cache.found_marks(video_id).get(stream, {})
        return not repair or fingerprint(marks.get("recipe", {})) != marks.get("fingerprint")  # a damaged recipe


def _of_a_file(recipe: Mapping[str, Any] | None) -> bool:
    """Whether captions were put there by a recaption."""
    captioner = (recipe or {}).get("captioner")
    return isinstance(captioner, dict) and captioner.get("captioner") == "file"


def has_changed(cached: Mapping[str, Any], file: Source) -> bool:
    """Whether a file, folder or object is another one than the cached streams were decoded from.

    Same size and time (ETag of an object): the same. Another time only (a copy, a checkout): its sha256 decides.
    """
    if not cached or not file.exists():
        return False
    try:
        stamp = source_stamp(file)
        if stamp["bytes"] != cached.get("bytes"):
            return True
        alike = all(cached.get(name) == value for name, value in stamp.items())
        return not alike and read_source(file)["sha256"] != cached.get("sha256")
    except VideoError:
        return False  # decoding will say what is wrong with it
