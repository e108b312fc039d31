"""``extract status``: what is complete, what failed and why."""

from __future__ import annotations

from extract.commands.parts import explained, load, out
from shared.cache import FeatureCache
from shared.datasets import cache_of
from shared.ledger import FailureLedger


@explained
def status(dataset: str, *, cache: str | None, root: str | None) -> int:
    """``extract status``: 0 if everything is complete, else 1."""
    from extract.show.status import print_status

    url = cache_of(dataset, cache)
    store = FeatureCache.open(url)
    manifest = load(dataset, root, render=False, cached=store.paths().values())
    return print_status(out, manifest, store, FailureLedger(url).failures())
