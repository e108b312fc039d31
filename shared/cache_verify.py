"""Verification of a cache: everything is read again and compared with what was noted when it was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr

from shared.cache_arrays import STRING_ARRAYS, checksum, read_array
from shared.cache_nodes import Attrs, CacheError, Damaged, child_groups, get_groups, headless_groups
from shared.recipe import fingerprint

REDO = "it will be redone by the next extract run"
ARRAYS = {"window": {"features"}, "timeline": {"features", "frames"}}


def verify_video(videos: zarr.Group, video_id: str) -> list[str]:
    """Recompute every checksum of a video; one line per problem, empty if all is well. Damage never raises."""
    path = f"{videos.path}/{video_id}"
    (node,) = get_groups(videos.store, [path])
    if isinstance(node, Damaged):
        return [str(node)]
    if node is None or "num_frames" not in node:
        return [f"{video_id}: unfinished video group ({REDO})"]
    problems = _verify_info(videos, video_id, node)
    (streams,) = child_groups(videos.store, [path], skip=["pts"])
    for name, marks in streams.items():
        problems += _verify_stream(videos, f"{video_id}/{name}", marks)
    for name in headless_groups(videos.store, path, [*streams, "pts"]):
        problems.append(f"{video_id}/{name}: its metadata (zarr.json) is missing ({REDO})")
    return problems


def _verify_info(videos: zarr.Group, video_id: str, info: Attrs) -> list[str]:
    where, checks = f"{video_id}/pts", info.get("checksums")
    if not isinstance(checks, dict):
        return [f"{video_id}: damaged metadata (no checksums)"]
    values, problems = _verify_array(videos, where, checks)
    if "attributes" in checks and attributes_digest(info) != checks["attributes"]:
        problems.append(f"{video_id}: the facts of the video (source, fps, ...) changed since they were written")
    if values is not None and len(values) != info["num_frames"]:
        problems.append(f"{where}: {len(values)} rows for {info['num_frames']} frames")
    return problems


def _verify_stream(videos: zarr.Group, where: str, marks: Attrs | Damaged) -> list[str]:
    if isinstance(marks, Damaged):
        return [str(marks)]
    if marks.get("complete") is not True:
        return [f"{where}: unfinished stream ({REDO})"]
    recipe, checks = marks.get("recipe"), marks.get("checksums")
    wanted = ARRAYS.get(str(marks.get("kind")))
    if wanted is None or not isinstance(recipe, dict) or not isinstance(checks, dict):
        return [f"{where}: damaged metadata (kind, recipe or checksums)"]
    problems = []
    if fingerprint(recipe) != marks.get("fingerprint"):
        problems.append(f"{where}: the recipe does not match its fingerprint")
    if checks.keys() - set(STRING_ARRAYS) != wanted:
        problems.append(f"{where}: a {marks['kind']} stream has no arrays {', '.join(sorted(checks))}")
    rows = {}
    for name in sorted(checks.keys() & {"features", "frames", *STRING_ARRAYS}):
        values, found = _verify_array(videos, f"{where}/{name}", checks)
        problems += found
        if values is not None:
            rows[name] = len(values)
    if len(set(rows.values())) > 1:
        problems.append(f"{where}: rows differ: {', '.join(f'{n} has {c}' for n, c in rows.items())}")
    return problems


def _verify_array(videos: zarr.Group, where: str, checks: Mapping[str, Any]) -> tuple[np.ndarray | None, list[str]]:
    try:
        values = read_array(videos, where, where)
    except CacheError as error:
        return None, [str(error)]
    if checksum(values) != checks.get(where.rpartition("/")[2]):
        return values, [f"{where}: sha256 differs from the one stored when it was written"]
    return values, []


def attributes_digest(info: Mapping[str, Any]) -> str:
    """Checksum of what is stored of a video beside its arrays."""
    return fingerprint({key: value for key, value in info.items() if key != "checksums"})
