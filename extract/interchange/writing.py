"""A stream that is imported: nobody else writes it meanwhile, and it is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.cache import CacheError, FeatureCache
from shared.cache.arrays import StreamWriter
from shared.claims import open_claims
from shared.recipe import Recipe


@contextmanager
def whole_stream(cache: FeatureCache, video: str, stream: str, kind: str, recipe: Recipe) -> Iterator[StreamWriter]:
    """A writer that finishes if all goes well; else nothing of the stream is left.

    Raises:
        CacheError: another process is writing the same stream.
    """
    claims = open_claims(cache.url)
    try:
        if not claims.take(video, [stream]):
            holder = claims.holder(video, [stream])
            raise CacheError(
                f"{cache.url}: {holder or 'another process'} is at work on stream {stream!r} of video {video!r}; let "
                "it end, then repeat the command"
            )
        try:
            writer = cache.writer(video, stream, kind=kind, recipe=recipe)
            yield writer
            writer.finish()
        except BaseException:
            cache.abandon(video, [stream])
            raise
    finally:
        claims.close()
