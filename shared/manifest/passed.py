"""What is told of the files and folders that a scan does not take: nothing is left out without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import PurePosixPath

from shared.manifest.table import Problems

FOLLOW = 'links = "follow" in the manifest, or --follow-links, follows'
LINK_OUT = "links that lead out of the root"
GONE_THROUGH = "links to folders that are gone through at their own place"
SAME_VIDEO = "links to videos that are taken at another place, so that none counts twice"
NO_ID = "videos whose names cannot be ids"
_ADVICE = {LINK_OUT: f"; {FOLLOW} them", NO_ID: "; rename them, or list them in a table with a column `id`"}
MAX_KINDS, MAX_PATHS = 8, 5


class Passed:
    """Collects what is passed over, and why."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._first = ""
        self._reasons: dict[str, dict[str, str]] = {}  # reason -> path -> more words

    def by_name(self, path: str, hidden: bool = False, count: int = 1) -> None:
        """Files whose names are not those of videos."""
        self._kinds["hidden" if hidden else PurePosixPath(path).suffix.lower() or "without an ending"] += count
        self._first = self._first or path

    def because(self, path: str, reason: str, words: str = "") -> None:
        """One file or folder, for one of the reasons above, or one in words; with ``words`` of its own."""
        self._reasons.setdefault(reason, {})[path] = words

    def tell(self, problems: Problems, cached: Collection[str]) -> None:
        """Note it all, a line for each reason. A link to what is cached is no news to those who only need the cache."""
        if total := self._kinds.total():
            most = sorted(self._kinds.items(), key=lambda item: (-item[1], item[0]))
            kinds = [f"{count} {kind}" for kind, count in most[:MAX_KINDS]]
            if rest := sum(count for _, count in most[MAX_KINDS:]):
                kinds.append(f"{rest} others")
            what = "file that is no video by its name" if total == 1 else "files that are no videos by their names"
            problems.note(f"passed over {total} {what}: {', '.join(kinds)} (first: {self._first})")
        links = self._reasons.get(LINK_OUT, {})
        known = {place for path in cached if links for place in (path, *map(str, PurePosixPath(path).parents))}
        for path in known & links.keys():
            del links[path]
        for reason, paths in self._reasons.items():
            if paths:
                some = [f"{path}: {words}" if words else path for path, words in paths.items()]
                more = "; ..." * (len(some) > MAX_PATHS)
                told = "; ".join(some[:MAX_PATHS]) + more
                problems.note(f"passed over {reason}: {len(paths)} ({told}){_ADVICE.get(reason, '')}")
