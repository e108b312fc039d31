"""What is done again and what is not: videos that failed, and videos that another version of the decoder read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from extract.video import VideoError, source_stamp
from shared.cache import FeatureCache, RecipeMismatch
from shared.ledger import Failure
from shared.recipe import diff_recipes
from shared.remote_files import Source

DECODERS = {"pyav": "av", "pillow": "pillow"}  # as noted with a video -> its package
LOOKED_AT = 64  # complete videos, at least, whose decoder a run compares with its own


def passed_over(failure: Failure, file: Source) -> bool:
    """Whether a run leaves a video that failed as it is: see "Who is tried again" in shared/ledger.py."""
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
    """Compares the decoder that read the cached videos with the one that is installed.

    Another version may give other pixels, or count other frames. The decoder is noted with every video and not in the
    recipes, which do not depend on the video's kind. To look at all of them would cost a run that only resumes too
    much, so it looks at some, spread over those that are there, and at every video to which it would add a stream.

    Args:
        cache: open for writing.
        complete: ids of the videos of the manifest that were decoded before.
        overwrite: streams that are to be replaced. Where they are all that a video has, it is decoded again.
    """

    def __init__(self, cache: FeatureCache, complete: Sequence[str], overwrite: Collection[str]) -> None:
        self._cache, self._overwrite = cache, frozenset(overwrite)
        self._chosen = frozenset(complete[:: max(1, len(complete) // LOOKED_AT)])
        self._found: dict[str, tuple[str, str]] = {}  # video id -> decoder then and now

    def differs(self, video_id: str, file: Source) -> bool:
        """Whether the next video was read by another version and is to be decoded anew for all of its streams."""
        if self._overwrite or video_id in self._chosen:
            self._look(video_id)
        if video_id not in self._found:
            return False
        names = self._cache.streams(video_id).keys() & self._cache.window.samples.keys()
        if names - self._overwrite:
            return False
        del self._found[video_id]
        return file.exists()  # what can no longer be decoded stays

    def mixes(self, video_id: str, changed: bool) -> None:
        """Look at a video that a stream would be added to."""
        if not changed and not self._overwrite and video_id not in self._chosen:
            self._look(video_id)

    def refuse(self) -> None:
        """End the run if videos that stay were read by another version.

        Raises:
            RecipeMismatch: with the difference and the ways out.
        """
        if not self._found:
            return
        video, (was, now) = next(iter(self._found.items()))
        name, number = was.split(" ")
        lines = "\n  ".join(diff_recipes({"decoder": was}, {"decoder": now}))
        raise RecipeMismatch(
            f"videos of {self._cache.url} (first seen on video {video!r}) were decoded by another version:\n  {lines}\n"
            "It may give other pixels and other frame counts. Either keep both: give another cache (--cache NEW.zarr); "
            "or decode again: --overwrite all. Or go back to the version that made the cache: "
            f"pip install {DECODERS[name]}=={number}"
        )

    def _look(self, video_id: str) -> None:
        name, number = (*self._cache.decoder(video_id).split(" "), "", "")[:2]  # the codec is the file's
        if name in DECODERS and number != (now := version(DECODERS[name])):
            self._found[video_id] = (f"{name} {number}", f"{name} {now}")
