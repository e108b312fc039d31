"""``extract index``: the index that spares large caches a look at every video."""

from __future__ import annotations

from extract.commands.parts import explained, out
from shared.cache import FeatureCache
from shared.datasets import cache_of


@explained
def index(dataset: str, *, cache: str | None, rebuild: bool) -> int:
    """Bring the index up to date in one file, or make it anew; 0, or 1 if a video's metadata are damaged."""
    store = FeatureCache.open(cache_of(dataset, cache))
    facts = store.write_index(rebuild=rebuild)
    streams = sum(len(one.streams) for one in facts.videos.values())
    size = sum(store.index.signature().values())
    out.print(f"{store.index.folder.url}: {len(facts.videos)} videos, {streams} complete streams, {size / 1e6:.1f} MB")
    for damaged in facts.damaged.values():
        out.print(str(damaged))
    return 1 if facts.damaged else 0


__all__ = ["index"]
