"""What is done again and what is not: videos that failed, and videos that another version of the decoder read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from extract.faults.ledger import Failure
from extract.video import VideoError, look_at, source_stamp
from shared.cache import FeatureCache, RecipeMismatch
from shared.cache.facts import VideoFacts
from shared.recipe import diff_recipes
from shared.videos.remote import Source

DECODERS = {"pyav": "av", "pillow": "pillow"}  # as noted with a video -> its package
NAMED = 5  # videos in the message that ends a run
LOOKED_AT = 64  # complete videos, at least, whose decoder a run compares with its own


def passed_over(failure: Failure, file: Source) -> bool:
    """Whether a run leaves a video that failed as it is: see "Who is tried again" in extract/faults/ledger.py."""
    return failure.quarantined and failure.is_of(_stamp(file))


def failed_again(before: Failure | None, now: Failure, file: Source) -> Failure:
    """A failure of this run, counted on from an earlier one of the same file."""
    stamp = _stamp(file)
    attempts = before.attempts + 1 if before is not None and before.is_of(stamp) else 1
    return replace(now, attempts=attempts, file=stamp)


def _stamp(file: Source) -> dict[str, Any]:
    try:
        return source_stamp(file)
    except VideoError:
        return {}


class DecoderCheck:
    """Compares how the cached videos were read with how they would be read now.

    Another version of the decoder may give other pixels, or count other frames. It is noted with every video and not in
    the recipes, which do not depend on the video's kind. To look at all of them would cost a run that only resumes too
    much, so it looks at some, spread over those that are there, and at every video to which it would add a stream.

    Nor did the first versions of this project show every video as a viewer does (``VideoInfo.shown``). Of what they
    read, every source is looked at, up to its first frame; most of them are shown now as they were then, and stay.

    Args:
        cache: open for writing.
        complete: ids of the videos of the manifest that were decoded before.
        overwrite: streams that are to be replaced. Where they are all that a video has, it is decoded again.
    """

    def __init__(self, cache: FeatureCache, complete: Sequence[str], overwrite: Collection[str]) -> None:
        self._cache, self._overwrite = cache, frozenset(overwrite)
        self._chosen = frozenset(complete[:: max(1, len(complete) // LOOKED_AT)])
        self._found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # video id -> how it was read, then and now
        self._seen: set[str] = set()  # videos whose source was looked at

    def differs(self, video_id: str, file: Source, known: VideoFacts | None) -> bool:
        """Whether the next video was read in another way and is to be decoded anew for all of its streams."""
        if self._overwrite or video_id in self._chosen:
            self._look(video_id)
        self._look_at_source(video_id, file, known)
        if video_id not in self._found:
            return False
        names = self._cache.streams(video_id).keys() & self._cache.window.samples.keys()
        if names - self._overwrite:
            return False
        del self._found[video_id]
        return file.exists()  # what can no longer be decoded stays

    def mixes(self, video_id: str, file: Source, known: VideoFacts | None, changed: bool) -> None:
        """Look at a video that a stream would be added to."""
        if changed:
            return
        if not self._overwrite and video_id not in self._chosen:
            self._look(video_id)
        self._look_at_source(video_id, file, known)

    def refuse(self) -> None:
        """End the run if videos that stay were read in another way.

        Raises:
            RecipeMismatch: with the difference and the ways out.
        """
        if not self._found:
            return
        video, (was, now) = next(iter(self._found.items()))
        lines = "\n  ".join(diff_recipes(was, now))
        names = ", ".join(list(self._found)[:NAMED]) + " ..." * (len(self._found) > NAMED)
        back = ""
        if "decoder" in was:
            name, number = was["decoder"].split(" ")
            back = f" Or go back to the version that made the cache: pip install {DECODERS[name]}=={number}"
        raise RecipeMismatch(
            f"videos of {self._cache.url} (first seen on video {video!r}) were decoded by another version:\n  {lines}\n"
            f"It may give other pixels and other frame counts. Found so far: {len(self._found)} ({names}). Either keep "
            f"both: give another cache (--cache NEW.zarr); or decode again: --overwrite all.{back}"
        )

    def _look(self, video_id: str) -> None:
        name, number = self._decoder(video_id)
        if name in DECODERS and number != (now := version(DECODERS[name])):
            self._found[video_id] = {"decoder": f"{name} {number}"}, {"decoder": f"{name} {now}"}

    def _look_at_source(self, video_id: str, file: Source, known: VideoFacts | None) -> None:
        """Of a video whose ``shown`` was not noted."""
        if known is None or known.shown is not None or video_id in self._seen:
            return
        self._seen.add(video_id)
        shown, first_s = look_at(file)
        was, now = {}, {"shown": shown} if shown else {}  # type: dict[str, Any], dict[str, Any]
        if first_s is not None and (info := self._cache.info(video_id)) is not None and info.pts[0] != first_s:
            was, now = {"first frame, in seconds": float(info.pts[0])}, {**now, "first frame, in seconds": first_s}
        if now and self._decoder(video_id)[0] in DECODERS:
            self._found.setdefault(video_id, (was, now))

    def _decoder(self, video_id: str) -> tuple[str, str]:
        """Name and version; the codec is the file's."""
        name, number = (*self._cache.decoder(video_id).split(" "), "", "")[:2]
        return name, number
