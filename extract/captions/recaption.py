"""Other captions for a cache, without its videos: the text streams are encoded again from a file.

A video's stream is replaced in four steps, so that a reader finds the old stream, none, or the new one, and what only
the old one holds (its pictures) is never lost, wherever the process is killed:

    1. write the new stream whole beside the old one, as "text-next"      2. remove "text"
    3. write "text" from the same rows                                    4. remove "text-next"

Whoever comes next finishes what was begun (``_settle``). A video is claimed meanwhile, as in a run
(extract/sharing/shared_jobs.py), and the cache as a whole, since two files at once would leave videos of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from extract.captions.files import EDIT, SHOWN, CaptionFileError, Captions
from extract.jobs.planning import NEXT, TEXT
from extract.sharing.locks import open_claims
from shared.cache import CacheError, FeatureCache, StreamData
from shared.recipe import Recipe, fingerprint

WHOLE = "__recaption"  # claimed in the place of a video; no video can be called so


class Tower(Protocol):
    """What turns captions into features: extract.encoders.text.CaptionTower."""

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """B sentences -> float32 (B, D)."""
        ...

    def recipe(self, captioner: Mapping[str, Any]) -> dict[str, Any]:
        """Recipe of a text stream."""
        ...


@dataclass
class Recaptioned:
    """What was done.

    Attributes:
        done, skipped: ids of videos whose text was replaced now, and was that of the file before.
        unreadable: ids of videos, among those done, whose old text was damaged: their pictures are gone.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def recipe_of(captions: Captions, tower: Tower) -> dict[str, Any]:
    """Recipe of text streams made from a file: its content stands for the captioner."""
    return tower.recipe({"captioner": "file", "sha256": captions.sha256()})


def captioned_frames(cache: FeatureCache) -> dict[str, np.ndarray]:
    """Video id -> int64 (U,), the frames whose text the windows need: of every video that has any features.

    Raises:
        CacheError: the cache is damaged, or its windows have no text.
    """
    window, found = cache.window, {}
    if TEXT not in window.samples:
        raise CacheError(f"the windows of {cache.url} have no stream {TEXT!r}; they have {', '.join(window.samples)}")
    for video in cache.video_ids():
        info = cache.info(video)
        assert info is not None  # a video with a complete stream was decoded to its end
        found[video] = window.plan(info.num_frames).unique[TEXT]
    return found


def check_captions(url: str, frames: Mapping[str, np.ndarray], captions: Captions) -> None:
    """Refuse a file that does not have exactly one caption for every frame of ``captioned_frames``.

    Raises:
        CaptionFileError: what is missing, too much or there twice; all kinds at once, the first few of each.
    """
    missing: list[tuple[str, int]] = []
    extra: list[tuple[str, int]] = []
    for video in frames.keys() & captions.videos.keys():
        wanted, found = frames[video].tolist(), captions.videos[video].keys()
        missing += [(video, f) for f in wanted if f not in found]
        extra += [(video, f) for f in sorted(found - set(wanted))]
    absent = sorted(frames.keys() - captions.videos.keys())
    absent = [f"{v} (frames {_some(frames[v].tolist())})" for v in absent[:SHOWN]] + absent[SHOWN:]
    unknown = sorted(captions.videos.keys() - frames.keys())
    problems = [
        f"{len(found)} {what}: {_some(found)}"
        for what, found in (
            ("videos of the cache have no captions", absent),
            ("videos are not in the cache", unknown),
            ("rows are missing", _places(sorted(missing))),
            ("rows are of frames that the cache does not caption", _places(sorted(extra))),
            ("rows are there twice", _places(captions.repeated)),
        )
        if found
    ]
    if problems:
        lines = "\n  ".join(problems)
        raise CaptionFileError(
            f"{captions.place} does not fit {url}, nothing was changed:\n  {lines}\n"
            f"It takes one row for every captioned frame of every video, since features of two origins must not be "
            f"trained on together. {EDIT}"
        )


def recaption(
    cache: FeatureCache,
    frames: Mapping[str, np.ndarray],
    captions: Captions,
    tower: Tower,
    progress: Callable[[int, int], None],
    waits: Callable[[int, str], None] = lambda count, holder: None,
) -> Recaptioned:
    """Replace the text streams of every video of a cache. Safe to interrupt and to repeat.

    Args:
        cache: open for writing.
        frames: of ``captioned_frames``.
        captions: passed ``check_captions``.
        tower: encodes them.
        progress: is told the videos looked at, and of how many.
        waits: is told how many videos are left on which runs are at work, and who has the first.

    Raises:
        CacheError: a feature is not finite or too large for float16, or another recaption is at work.
        OSError: the cache cannot be written.
    """
    recipe, result, claims = recipe_of(captions, tower), Recaptioned(), open_claims(cache.url)
    try:
        if not claims.take(WHOLE, [TEXT]):
            raise CacheError(
                f"another recaption of {cache.url} is at work ({claims.holder(WHOLE, [TEXT]) or 'who is not known'}), "
                "and of two files at once some videos would have the one and some the other: wait until it has ended"
            )
        waiting = list(frames)
        while waiting:
            aside = []
            for video in waiting:
                if not claims.take(video, [TEXT]):
                    aside.append(video)
                    continue
                sentences = [captions.videos[video][f] for f in frames[video].tolist()]
                _recaption(cache, video, frames[video], sentences, tower, recipe, result)
                claims.give(video)
                progress(len(result.done) + len(result.skipped), len(frames))
            waiting = aside
            if waiting:
                waits(len(waiting), str(claims.holder(waiting[0], [TEXT]) or "another run"))
                time.sleep(claims.poll_s)
    finally:
        claims.close()
    return result


def _recaption(
    cache: FeatureCache,
    video: str,
    wanted: np.ndarray,
    sentences: list[str],
    tower: Tower,
    recipe: Recipe,
    result: Recaptioned,
) -> None:
    """Replace the text stream of one video, which this process has claimed."""
    _settle(cache, video, wanted)
    old = _read(cache, video, TEXT, wanted)
    if old is not None and fingerprint(old.recipe) == fingerprint(recipe) and old.captions == sentences:
        result.skipped.append(video)
        return
    if old is None and cache.has(video, TEXT):
        result.unreadable.append(video)
    _replace(cache, video, recipe, Rows(wanted, tower.encode(sentences), sentences, old.thumbnails if old else None))
    result.done.append(video)


class Rows(NamedTuple):
    """All of a text stream: frames int (U,), features float (U, D), U captions, U pictures or None."""

    frames: np.ndarray
    features: np.ndarray
    captions: list[str]
    thumbnails: list[str] | None


def _replace(cache: FeatureCache, video: str, recipe: Recipe, rows: Rows) -> None:
    try:
        _write(cache, video, NEXT, recipe, rows)
    except CacheError:
        cache.drop(video, [NEXT])
        raise
    cache.drop(video, [TEXT])
    _write(cache, video, TEXT, recipe, rows)
    cache.drop(video, [NEXT])


def _settle(cache: FeatureCache, video: str, frames: np.ndarray) -> None:
    """Finish a replacement that was cut short: what was written beside becomes the text if that is gone."""
    beside = _read(cache, video, NEXT, frames)
    if beside is not None and not cache.has(video, TEXT):
        rows = Rows(frames, beside.features, beside.captions or [], beside.thumbnails)
        _write(cache, video, TEXT, beside.recipe, rows)
    cache.drop(video, [NEXT])


def _write(cache: FeatureCache, video: str, stream: str, recipe: Recipe, rows: Rows) -> None:
    writer = cache.writer(video, stream, kind="timeline", recipe=recipe)
    writer.append(rows.features, rows.frames, rows.captions, rows.thumbnails)
    writer.finish()


def _read(cache: FeatureCache, video: str, stream: str, frames: np.ndarray) -> StreamData | None:
    """A stream of these frames, or None if it is not there or damaged."""
    try:
        data = cache.read(video, stream)
    except CacheError:
        return None
    whole = data.frames is not None and data.captions is not None and np.array_equal(data.frames, frames)
    return data if whole else None


def _places(rows: Sequence[tuple[str, int]]) -> list[str]:
    return [f"{video} frame {frame}" for video, frame in rows]


def _some(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:SHOWN])) + ", ..." * (len(items) > SHOWN)
