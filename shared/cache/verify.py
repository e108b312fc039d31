"""Verification of a cache: everything is read again and compared with what was noted when it was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from shared.cache.arrays import AXES, FILL, STRING_ARRAYS, checksum, open_array, read_array
from shared.cache.nodes import (
    Attrs,
    CacheError,
    Damaged,
    child_groups,
    get_groups,
    headless_groups,
    raw_metadata,
)
from shared.cache.seals import SEAL, sealed, stream_seal
from shared.recipe import fingerprint

REDO = "it will be redone by the next extract run"
ARRAYS = {"window": {"features"}, "timeline": {"features", "frames"}}
MARKS = {"kind", "recipe", "fingerprint", "checksums", "complete", SEAL}
UNSEALED = {"format", "format_version", "dataset", "window", "made_with"}  # what a root had before there were seals
DTYPES = {"features": "float16", "pts": "float64", "frames": "int32"}  # others are strings


def verify_root(store: Store) -> list[str]:
    """What changed in the metadata of the cache itself; one line per problem."""
    problems = []
    root, videos = get_groups(store, ["", "videos"])
    if not isinstance(videos, dict):
        problems.append("videos: damaged metadata (zarr.json is not that of a Zarr group)")
    if not isinstance(root, dict):
        problems.append("the cache itself: damaged metadata (zarr.json is not that of a Zarr group)")
    elif sealed(root)[SEAL] != root.get(SEAL) and (SEAL in root or root.keys() - UNSEALED):
        problems.append(
            "the cache itself: its attributes (data set, windows, preset) changed since they were written; put its "
            "zarr.json back from a copy, or extract into a new cache"
        )
    return problems


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


def damaged_part(video_id: str, problem: str) -> str:
    """What of a video a line of ``verify_video`` is about: a stream, "pts", or "" for the video as a whole."""
    return problem.removeprefix(video_id).partition(":")[0].removeprefix("/").partition("/")[0]


def _verify_info(videos: zarr.Group, video_id: str, info: Attrs) -> list[str]:
    where, checks = f"{video_id}/pts", info.get("checksums")
    if not isinstance(checks, dict):
        return [f"{video_id}: damaged metadata (no checksums)"]
    values, problems = _verify_array(videos, where, checks)
    if unknown := checks.keys() - {"pts", "attributes"}:
        problems.append(f"{video_id}: damaged metadata (checksums of {', '.join(sorted(unknown))})")
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
    if unknown := marks.keys() - MARKS:
        problems.append(f"{where}: damaged metadata (it says {', '.join(sorted(unknown))})")
    if fingerprint(recipe) != marks.get("fingerprint"):
        problems.append(f"{where}: the recipe does not match its fingerprint")
    if checks.keys() - set(STRING_ARRAYS) != wanted:
        problems.append(f"{where}: a {marks['kind']} stream has no arrays {', '.join(sorted(checks))}")
    rows, shape = {}, None
    for name in sorted(checks.keys() & {"features", "frames", *STRING_ARRAYS}):
        values, found = _verify_array(videos, f"{where}/{name}", checks)
        problems += found
        if values is not None:
            rows[name] = len(values)
            shape = values.shape if name == "features" else shape
    if len(set(rows.values())) > 1:
        problems.append(f"{where}: rows differ: {', '.join(f'{n} has {c}' for n, c in rows.items())}")
    if not problems and SEAL in marks and shape and stream_seal(where, marks, shape) != marks[SEAL]:
        problems.append(
            f"{where}: not what was written here (moved or renamed from another place, or its metadata were changed)"
        )
    return problems


def _verify_array(videos: zarr.Group, where: str, checks: Mapping[str, Any]) -> tuple[np.ndarray | None, list[str]]:
    try:
        values = read_array(videos, where, where)
    except CacheError as error:
        return None, [str(error)]
    name = where.rpartition("/")[2]
    if checksum(values) != checks.get(name):
        return values, [f"{where}: sha256 differs from the one stored when it was written"]
    return values, _verify_layout(videos, where, name)


def _verify_layout(videos: zarr.Group, where: str, name: str) -> list[str]:
    """Metadata that reading does not need as long as no chunk is lost, or not in this version."""
    try:
        array = open_array(videos, where, where)
    except CacheError as error:
        return [str(error)]
    fill, wanted = array.fill_value, FILL[name]
    document = json.loads(json.dumps(array.metadata.to_dict()))
    axes = document.get("dimension_names")
    same = fill == wanted or (isinstance(wanted, float) and np.isnan(wanted) and np.isnan(fill))
    known = axes is None or tuple(axes) == (("frame",) if name == "pts" else AXES.get(array.ndim))
    if not (same and known) or str(array.dtype) != DTYPES.get(name, str(array.dtype)) or array.attrs:
        return [f"{where}: damaged metadata (fill value, dtype, names of axes or attributes)"]
    # zarr passes over some words that it does not know.
    raw = json.loads(raw_metadata(videos.store, f"{videos.path}/{where}") or b"null")
    if not _holds(document, raw):
        return [f"{where}: damaged metadata (zarr.json has what zarr does not write)"]
    return []


def _holds(whole: Any, part: Any) -> bool:
    """Whether JSON has everything that other JSON has."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _holds(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(_holds, whole, part))
    return bool(whole == part)


def attributes_digest(info: Mapping[str, Any]) -> str:
    """Checksum of what is stored of a video beside its arrays."""
    return fingerprint({key: value for key, value in info.items() if key != "checksums"})
