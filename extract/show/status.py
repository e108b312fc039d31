"""How complete a cache is, in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from rich.console import Console
from rich.table import Table

from extract.captions.recaption import NEXT
from extract.faults.ledger import Failure
from shared.cache import FeatureCache
from shared.cache.types import leading_words, truncated_words
from shared.manifest import Manifest
from shared.recipe import Recipe
from shared.windows import WindowSpec


def print_status(console: Console, manifest: Manifest, cache: FeatureCache, failures: Mapping[str, Failure]) -> int:
    """Completeness per stream and every failed video. Returns 0 if all is complete, else 1."""
    windows = gaps = 0
    untouched, begun = [], []
    alike: dict[tuple[tuple[str, str], ...], list[int]] = {}  # streams with fingerprints -> frames of videos with them
    truncated: dict[str, Mapping[str, int]] = {}
    leading: dict[str, int] = {}
    window, facts = cache.window, cache.facts().check()
    names, recipes = list(window.samples), facts.recipes
    touched = {*names, NEXT}
    for video in manifest.videos:
        known = facts.videos.get(video.id)
        if known is not None and known.streams:
            alike.setdefault(tuple(known.streams.items()), []).append(known.num_frames)
            gaps += known.missing_frames
            if known.truncated is not None:
                truncated[video.path] = known.truncated
            if known.leading:
                leading[video.path] = known.leading
            windows += num_windows(window, known.num_frames)
            if NEXT in known.streams:
                begun.append(video.id)
        if (known is None or known.streams.keys().isdisjoint(touched)) and video.id not in failures:
            untouched.append(video.id)
    done, ways = 0, {}  # type: int, dict[str, Counter[str]]
    for streams, lengths in alike.items():
        own = [(name, mark) for name, mark in streams if name != NEXT]  # that is half a replacement, no stream
        for name, mark in own:
            ways.setdefault(name, Counter())[mark] += len(lengths)
        done += len(lengths) if {name for name, _ in own} >= set(names) else 0
    complete = {name: found.total() for name, found in ways.items()}
    frames, total = sum(map(sum, alike.values())), len(manifest.videos)
    console.print(f"{cache.url}: {done}/{total} videos complete, {frames} frames, {windows} windows")
    table = Table("stream", "complete", "encoder", box=None, pad_edge=False)
    for name in sorted(set(names) | set(complete)):
        made = _encoder([recipes[mark] for mark in ways.get(name, ())])
        table.add_row(name, f"{complete.get(name, 0)}/{total}", made)
    console.print(table)
    texts = list(ways.get("text", ()))
    if len(texts) == 1 and isinstance(captioner := recipes[texts[0]].get("captioner"), dict):
        digest = f" (sha256 {captioner['sha256'][:12]})" if captioner.get("captioner") == "file" else ""
        console.print(f"captions by {captioner.get('captioner')}{digest}")
    if begun:
        some = ", ".join(begun[:5]) + " ..." * (len(begun) > 5)
        console.print(
            f"a recaption was interrupted in {len(begun)} videos ({some}): the same command again finishes it, "
            "and extract run --overwrite text puts text of this cache's own captioner there instead"
        )
    mixed = {name: ", ".join(map(str, found.values())) for name, found in ways.items() if len(found) > 1}
    for name, counts in mixed.items():
        console.print(
            f"stream {name} was made in {len(ways[name])} ways ({counts} videos), which training refuses: repeat the "
            f"command that was interrupted, or extract with --overwrite {name}"
        )
    ids = {video.id for video in manifest.videos}
    gone = [f for v, f in failures.items() if v in ids]
    for failure in gone:
        state = "quarantined" if failure.quarantined else "failed"
        console.print(f"{state}  {failure.path}: {failure.stage}: {failure.message} (attempts: {failure.attempts})")
    if gaps:
        console.print(f"{gaps} of these frames have no picture of their own in their frame folder")
    if truncated:
        console.print(truncated_words(truncated))
    if leading:
        console.print(leading_words(leading))
    if untouched:
        console.print(
            f"not extracted yet: {len(untouched)} ({', '.join(untouched[:5])}{' ...' * (len(untouched) > 5)})"
        )
    return 0 if done == total and not mixed else 1


@lru_cache(maxsize=4096)  # a million videos have few lengths
def num_windows(window: WindowSpec, num_frames: int) -> int:
    """N of a video."""
    return len(window.starts(num_frames))


def _encoder(recipes: Sequence[Recipe]) -> str:
    """What made a stream, in words; of one that was made in several ways, none of them."""
    if len(recipes) > 1:
        return f"made in {len(recipes)} ways"
    return " ".join(str(r[k]) for r in recipes for k in ("encoder", "architecture", "model", "weights") if k in r)
