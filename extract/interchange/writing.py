"""Streams that are imported: nobody else writes them meanwhile, and each is there whole or not at all.

One import has one set of claims, and a video's streams are begun together: on an object store every sign of life, and
every line of the index beside the cache, is a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from extract.sharing.claims import Claims
from extract.sharing.locks import open_claims
from shared.cache import CacheError, FeatureCache, VideoInfo
from shared.cache.arrays import StreamWriter
from shared.recipe import Recipe


@contextmanager
def import_claims(cache: FeatureCache) -> Iterator[Claims]:
    """The claims of one import; all are given back in the end."""
    claims = open_claims(cache.url)
    try:
        yield claims
    finally:
        claims.close()


@contextmanager
def whole_streams(
    cache: FeatureCache,
    claims: Claims,
    video: str,
    info: VideoInfo | None,
    streams: Mapping[str, tuple[str, Recipe]],
) -> Iterator[dict[str, StreamWriter]]:
    """Writers for streams of a video, each to be finished by the caller; of those that are not, nothing is left.

    Args:
        info: facts of the video, to be stored first; None: the cache has them.
        streams: name -> kind and recipe.

    Raises:
        CacheError: another process is writing one of these streams, or the video was made from another file.
    """
    if not claims.take(video, streams):
        held = [(s, holder) for s in streams if (holder := claims.holder(video, [s])) is not None]
        stream, who = held[0] if held else (next(iter(streams)), "another process")
        raise CacheError(
            f"{cache.url}: {who} is at work on stream {stream!r} of video {video!r}; let it end, then repeat the "
            "command"
        )
    try:
        if info is not None:
            cache.write_info(video, info)
        try:
            # All of them before any is finished: then the index is told once that the video changes, and once how.
            yield {name: cache.writer(video, name, kind=kind, recipe=made) for name, (kind, made) in streams.items()}
        except BaseException:
            with suppress(Exception):  # what went wrong must not give way to a store that cannot be cleaned up
                cache.abandon(video, streams)
            raise
    finally:
        claims.give(video)
