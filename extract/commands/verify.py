"""``extract verify``: everything of a cache is read again, and what is damaged is named with the way to mend it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from extract.commands.parts import err, explained, load, out
from extract.faults.ledger import FailureLedger
from extract.jobs.planning import DAMAGED, NEXT, TEXT
from extract.sharing.locks import open_claims
from shared.cache import CacheError, FeatureCache
from shared.cache.verify import REDO, damaged_part
from shared.datasets import cache_of

THREADS = 4  # reading waits for the disk or the store, and sha256 lets other threads run
AHEAD = 4 * THREADS
SHOWN = 5


@dataclass(frozen=True)
class Look:
    """One video: its problems, and what made its complete streams (name -> fingerprint)."""

    video: str
    problems: list[str]
    streams: Mapping[str, str]
    from_file: bool = False  # whether its captions are those of a file

    @property
    def redecode(self) -> bool:
        """Whether what belongs to all streams is damaged."""
        parts = {damaged_part(self.video, line) for line in self.problems if REDO not in line}
        return not parts.isdisjoint({"", "pts"})

    @property
    def damaged(self) -> set[str]:
        """The streams that have to be replaced."""
        parts = {damaged_part(self.video, line) for line in self.problems if REDO not in line}
        return (parts | self.streams.keys() if self.redecode else parts) - {"", "pts", NEXT}


@explained
def verify(dataset: str, *, cache: str | None, root: str | None = None, follow_links: bool = False) -> int:
    """0 if all is well, 1 if something is damaged. One bad place does not keep the others from being looked at."""
    from extract.show.progress import StepDisplay

    url = cache_of(dataset, cache)
    store = FeatureCache.open(url)
    ids = store.group_ids()
    problems = store.verify_root()
    for line in problems:
        out.print(line)
    looks: list[Look] = []
    with StepDisplay(err, "verifying", "videos") as display:
        for look in _verified(store, ids):
            for line in look.problems:
                out.print(line)
            problems += look.problems
            looks.append(look)
            display.reached(len(looks), len(ids))
    lost = _lost(url, store, looks)
    for stream, videos in lost.items():
        problems.append(f"{_videos(len(videos))} no stream {stream}, which most others have: {_some(videos)}")
        out.print(problems[-1])
    verdict = f"{len(problems)} problems" if problems else "every checksum holds"
    streams = sum(len(look.streams) for look in looks)
    out.print(f"{url}: {len(ids)} videos, {streams} complete streams, {verdict}")
    damaged = [look for look in looks if look.problems]
    for line in [
        *_notes(dataset, root, follow_links, url, store, looks),
        *_at_work(url, store, damaged),
        *_advice(dataset, root, follow_links, url, cache, store, damaged, lost),
    ]:
        out.print(line)
    return 1 if problems else 0


def _verified(store: FeatureCache, ids: Sequence[str]) -> Iterator[Look]:
    """Every video, in order."""

    def look(video: str) -> Look:
        try:
            problems, found = store.verify(video), store.found_marks(video)
        except CacheError as error:  # a folder whose name is none that this project gives
            return Look(video, [f"{video}: {error}"], {})
        recipe = found.get(TEXT, {}).get("recipe")
        captioner = recipe.get("captioner") if isinstance(recipe, dict) else None
        from_file = isinstance(captioner, dict) and captioner.get("captioner") == "file"
        return Look(video, problems, {name: str(m.get("fingerprint")) for name, m in found.items()}, from_file)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        rest = iter(ids)
        running = [pool.submit(look, video) for video in islice(rest, AHEAD)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(look, video) for video in islice(rest, 1)]


def _lost(url: str, store: FeatureCache, looks: Sequence[Look]) -> dict[str, list[str]]:
    """Stream -> videos without it, where most have it. What failed, is unfinished or was told already is not lost."""
    counts = Counter(stream for look in looks for stream in look.streams)
    usual = [stream for stream in store.window.samples if 2 * counts[stream] > len(looks)]
    short = [look for look in looks if not look.problems and not look.streams.keys() >= set(usual)]
    failed: Collection[str] = FailureLedger(url).failures() if short else ()
    lost = {s: [look.video for look in short if s not in look.streams and look.video not in failed] for s in usual}
    return {stream: videos for stream, videos in lost.items() if videos}


def _notes(
    dataset: str, root: str | None, follow_links: bool, url: str, store: FeatureCache, looks: Sequence[Look]
) -> Iterator[str]:
    """What is no damage of the cache, but keeps it from being all that it should be."""
    if dataset != url and (absent := _absent(dataset, root, follow_links, url, store, {look.video for look in looks})):
        yield f"not extracted yet, or lost whole: {len(absent[0])} of {absent[1]} videos of the data set"
        yield f"  {_some(absent[0])}"
    for stream in store.window.samples:
        ways = {look.streams[stream] for look in looks if stream in look.streams and not look.problems}
        if len(ways) > 1:
            yield f"stream {stream} was made in {len(ways)} ways, which training refuses: see extract status"


def _absent(
    dataset: str, root: str | None, follow_links: bool, url: str, store: FeatureCache, there: set[str]
) -> tuple[list[str], int] | None:
    """Videos that the cache has not and the ledger does not know, and how many the data set has; None if it is all, or
    if the data set is not at hand, which a cache does not need."""
    try:
        manifest = load(dataset, root, render=False, cached=store.paths().values(), follow_links=follow_links)
        failed = FailureLedger(url).failures()
    except (ValueError, OSError, ImportError) as error:
        err.print(f"note: the data set is not at hand, so it is not known whether videos are missing ({error})")
        return None
    absent = [video.id for video in manifest.videos if video.id not in there and video.id not in failed]
    return (absent, len(manifest.videos)) if absent else None


def _at_work(url: str, store: FeatureCache, damaged: Sequence[Look]) -> Iterator[str]:
    """Who is writing what was found to be unfinished."""
    unfinished = [look.video for look in damaged if any("unfinished" in line for line in look.problems)]
    if not unfinished:
        return
    claims = open_claims(url)
    held = {v: str(holder) for v in unfinished if (holder := claims.holder(v, store.window.samples)) is not None}
    if held:
        whom = ", ".join(sorted(set(held.values())))
        yield f"A run is at work on {len(held)} of the unfinished videos ({whom}): they are no damage."


def _advice(
    dataset: str,
    root: str | None,
    follow_links: bool,
    url: str,
    cache: str | None,
    store: FeatureCache,
    damaged: Sequence[Look],
    lost: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """The commands that mend what was found. None of them replaces what is whole."""
    if not damaged and not lost:
        return
    name = "DATASET" if dataset == url else shlex.quote(dataset)
    place = f" --cache {shlex.quote(url)}" if dataset == url or cache is not None else ""
    at = f" --root {shlex.quote(root)}" if root is not None else ""
    at += " --follow-links" if follow_links else ""
    run = f"python -m extract run {name}{place}{at} --like {shlex.quote(url)}"

    def some(names: Collection[str]) -> str:
        found = [stream for stream in store.window.samples if stream in names and stream not in store.imported]
        return f" --streams {','.join(found)}" if found else ""

    facts = [look.video for look in damaged if look.from_file and look.redecode]
    edited = [look.video for look in damaged if look.from_file and TEXT in look.damaged and not look.redecode]
    broken = [look for look in damaged if any(REDO not in line for line in look.problems)]
    # Text of a captions file cannot be extracted: a run would put other captions there, if it was allowed to.
    ours = [look for look in broken if look.video not in facts]
    names = {s for look in ours for s in look.damaged if s != TEXT or not look.from_file}
    if names or any(not look.streams and not look.damaged for look in ours):
        yield f"Extract again what is damaged, and nothing else: {run}{some(names)} --overwrite {DAMAGED}"
    if facts:
        yield (
            f"The facts of {len(facts)} videos are damaged whose captions came from a file ({_some(facts)}). Keep that "
            "file, remove their folders below videos/ by hand, extract their other streams (run --streams ...), and "
            "put the captions back: recaption --from FILE"
        )
    if edited:
        yield (
            f"Captions of a file are damaged in {len(edited)} videos ({_some(edited)}). The file that they came from, "
            f"or a changed one, mends them: python -m extract recaption {name}{place} --from FILE"
        )
    if lost or len(broken) < len(damaged) or any(REDO in line for look in broken for line in look.problems):
        unfinished = {damaged_part(look.video, ln) for look in damaged for ln in look.problems if REDO in ln}
        yield f"Extract what is missing: {run}{'' if '' in unfinished else some(unfinished | lost.keys())}"
    if damaged:
        yield "Videos that the data set no longer has stay as they are: remove their folders below videos/ by hand."


def _videos(count: int) -> str:
    return "1 video has" if count == 1 else f"{count} videos have"


def _some(videos: Sequence[str]) -> str:
    return ", ".join(videos[:SHOWN]) + " ..." * (len(videos) > SHOWN)


__all__ = ["verify"]
