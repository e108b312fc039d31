"""``extract status``: what is complete, what failed and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from extract.commands.parts import explained, load, note, out
from extract.faults.ledger import Failure, FailureLedger
from shared.cache import FeatureCache
from shared.datasets import cache_of, is_cache
from shared.manifest import Manifest, Video


@explained
def status(dataset: str, *, cache: str | None, root: str | None, follow_links: bool = False) -> int:
    """``extract status``: 0 if everything is complete, else 1."""
    from extract.show.status import print_status

    url = cache_of(dataset, cache)
    store = FeatureCache.open(url)
    failures = FailureLedger(url).failures()
    if is_cache(dataset):
        note("counted are the videos that the cache has; give the data set to count those that it lacks")
        return print_status(out, _of_cache(store, failures), store, failures)
    manifest = load(dataset, root, render=False, cached=store.paths().values(), follow_links=follow_links)
    return print_status(out, manifest, store, failures)


def _of_cache(store: FeatureCache, failures: Mapping[str, Failure]) -> Manifest:
    """What is known of the data set without it: videos that are complete, were begun, or have failed."""
    paths = dict.fromkeys(store.folder_ids(), "") | {v: failure.path for v, failure in failures.items()} | store.paths()
    videos = tuple(Video(name, path or name, name) for name, path in sorted(paths.items()))
    return Manifest(store.dataset, Path(), videos, {}, store.url)
