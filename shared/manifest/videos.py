"""The [videos] of a manifest: which they are, their ids, groups and splits."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.labels.columns import first_spelling, whole_number
from shared.manifest.files import match_remote, match_videos
from shared.manifest.passed import FOLLOW, NO_ID, Passed
from shared.manifest.table import Problems, Segments, read_table
from shared.manifest.types import Video
from shared.names import Root, name_key, name_problem, video_id
from shared.videos.remote import RemoteRoot


def check_videos(raw: Any, paths: list[str] | None, problems: Problems) -> None:
    """What can be said of [videos] without looking at the data."""
    where = "[videos]"
    if not isinstance(raw, Mapping):
        problems.add(where, "missing; say which videos: [videos] with `glob` or `table`")
        return
    problems.unknown_keys(where, raw, {"glob", "table", "columns", "id", "group", "split", "unit"})
    if raw.get("id", "path") not in ("path", "stem"):
        problems.add(f"{where} id", f'expected "path" or "stem", found {raw["id"]!r}')
    _compile(raw.get("group"), f"{where} group", problems)
    split = raw.get("split", {})
    patterns = split.values() if isinstance(split, Mapping) else [None]
    if not all(isinstance(p, str) and p for p in patterns) or not set(split) <= {"train", "val", "test"}:
        problems.add(f"{where} split", f"expected patterns for train, val or test, found {split!r}")
    if paths is None and ("glob" in raw) + ("table" in raw) != 1:
        problems.add(where, "give exactly one of `glob` and `table`")
    if raw.get("unit", "frames") not in ("frames", "s"):
        problems.add(f"{where} unit", f'expected "frames" or "s" (of start and end), found {raw["unit"]!r}')
    if "columns" in raw and "table" not in raw:
        problems.add(f"{where} columns", "names columns of a `table`, and there is none")


def read_videos(
    raw: Any,
    root: Path,
    remote: RemoteRoot | None,
    source: Path,
    paths: list[str] | None,
    cached: frozenset[str],
    follow_links: bool,
    problems: Problems,
) -> tuple[list[Video], Segments | None]:
    """The videos, and the rows of their table; None for the rows where [videos] could not be read."""
    if problems.lines and (not isinstance(raw, Mapping) or (paths is None and ("glob" in raw) + ("table" in raw) != 1)):
        return [], None
    id_rule = "stem" if raw.get("id") == "stem" else "path"
    group_rule = _compile(raw.get("group"), "", Problems())
    split = raw.get("split") if isinstance(raw.get("split"), Mapping) else {}
    split = {part: pattern for part, pattern in split.items() if isinstance(pattern, str) and pattern}
    segments: Segments | None = Segments()
    below, passed = Root(None if remote else root, follow_links), Passed()
    if "table" in raw:
        unit = str(raw.get("unit", ""))
        rows, segments = read_table(str(raw["table"]), raw.get("columns", {}), root, source, id_rule, problems, unit)
    else:
        scanned = id_rule if paths is None else None
        if paths is None:
            patterns = raw["glob"]
            match = match_remote(patterns, remote, problems, passed) if remote else None
            found = match_videos(patterns, below, problems, passed) if match is None else match
            paths = [*sorted(cached), *sorted(set(found).difference(cached))]  # what is cached keeps its id
        rows = [{"path": p, "id": video_id(p, id_rule), "where": f"[videos] {p}", "scanned": scanned} for p in paths]
    videos = _videos_from_rows(rows, below, None if remote else root, group_rule, split, cached, problems, passed)
    passed.tell(problems, cached)
    return videos, segments


def _videos_from_rows(
    rows: list[dict[str, Any]],
    below: Root,
    root: Path | None,
    group_rule: re.Pattern[str] | None,
    split: Mapping[str, str],
    cached: frozenset[str],
    problems: Problems,
    passed: Passed,
) -> list[Video]:
    """``root`` None: on an object store, which has no links, and where only a run finds out what is missing."""
    videos: list[Video] = []
    seen: dict[str, str] = {}
    by_name, base = Root(None), str(root)
    lost: list[tuple[str, str]] = []
    groups: dict[str, str] = {}  # spelling -> the first that looks like it

    def refuse(row: dict[str, Any], what: str, advice: str = "", stops: bool = False) -> None:
        """A row of a table is a mistake; one odd name in a folder of thousands does not stop the others."""
        if row.get("scanned") and not stops:
            passed.because(row["path"], NO_ID, what)
        else:
            problems.add(row["where"], what + advice)

    for row in rows:
        path, name, where = row["path"], row["id"], row["where"]
        vetted = root is not None and row.get("scanned") and path not in cached  # it was found below the root
        # Nobody opens what is cached, wherever a link in its way leads.
        if not (vetted or (by_name if path in cached else below).holds(path)):
            out = f"a link out of it; {FOLLOW} it" if by_name.holds(path) else "absolute, '..', or '~'"
            refuse(row, f"path {path!r} leaves the root ({out})", stops=path in cached)
            continue
        # Path.exists raises if the path is too long.
        # A link that leads nowhere is there: its place may not be mounted, and the ledger will say so.
        if root and path not in cached and not os.path.lexists(f"{base}/{path}"):
            lost.append((where, path))
            continue
        if odd := name_problem(name):
            refuse(row, odd, "; rename it, or list it in a table with a column `id`")
            continue
        if (key := name_key(name)) in seen:
            what = f"id {name!r} is taken by {seen[key]!r} (letter case and the form of accents do not count)"
            advice = '; give the rows an `id` column, or id = "path"'
            refuse(row, what, advice, stops=row.get("scanned") == "stem")  # a mistake of the manifest, not of a file
            continue
        seen[key] = path
        group = row.get("group") or _group_of(name, group_rule)
        if group != name:
            group = first_spelling(groups, group)
        parts = [s for s, pattern in split.items() if fnmatch.fnmatchcase(path, pattern)]  # * crosses folders
        if len(parts) > 1:
            problems.add(where, f"the split patterns of {' and '.join(parts)} both match {path!r}")
        part = row.get("split") or (parts[0] if parts else None)
        lengths = (row.get("frames"), row.get("duration"))
        videos.append(Video(name, path, group, part, row.get("fold"), row.get("fps"), *lengths))
    if len(lost) == len(rows) > 1:  # a wrong root, and not so many wrong paths
        problems.add(
            lost[0][0],
            f"none of the {len(rows)} videos is below {root} (the first: {lost[0][1]!r}); --root says where they are",
        )
        return []
    for where, path in lost:
        problems.add(where, f"no file or folder {path!r} below {root}")
    _tell_alike(dict.fromkeys(groups.values()), problems)
    return sorted(videos, key=lambda v: v.id)


def _tell_alike(groups: Iterable[str], problems: Problems) -> None:
    """A note on groups that are two, but may be meant as one: Park and park, 1 and 1.0."""
    alike: dict[str, list[str]] = {}
    for group in groups:
        number = whole_number(group)
        alike.setdefault(group.casefold() if number is None else str(number), []).append(group)
    if several := [" and ".join(map(repr, found)) for found in alike.values() if len(found) > 1]:
        shown = "; ".join(several[:5]) + (" ..." if len(several) > 5 else "")
        problems.note(
            f"groups that differ in spelling only are different groups: {shown}; write them alike if they are one"
        )


def _compile(pattern: Any, where: str, problems: Problems) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(str(pattern))
    except re.error as error:
        problems.add(where, f"not a regular expression: {error}")
        return None


def _group_of(name: str, rule: re.Pattern[str] | None) -> str:
    match = rule.search(name) if rule else None
    if match is None:
        return name
    return (match.group(1) if match.re.groups else None) or match.group(0) or name
