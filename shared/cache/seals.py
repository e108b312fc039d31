"""Digests over metadata: what checksums of arrays do not tell.

A stream's seal covers which video's stream it is, so that groups which were swapped, renamed or copied over one another
are found, and the shape, kind, recipe and checksums beside it. The cache's own covers data set, windows and all else
that its root notes. Caches of earlier versions have none and stay valid: there is nothing to hold them against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.recipe import fingerprint

SEAL = "seal"


def stream_seal(where: str, marks: Mapping[str, Any], shape: Sequence[int]) -> str:
    """Digest of a stream's marks.

    Args:
        where: "<video_id>/<stream>".
        marks: kind, recipe and checksums; others are not looked at.
        shape: of its features.
    """
    covered = {key: marks[key] for key in ("kind", "recipe", "checksums")}
    return fingerprint({"where": where, "shape": [int(n) for n in shape], **covered})


def video_seal(video_id: str, checks: Mapping[str, str]) -> str:
    """Digest of what is noted of a video in a file that leaves the cache.

    Args:
        checks: checksums of its times (``pts``) and of its facts (``attributes``).
    """
    return fingerprint({"where": video_id, "checksums": dict(checks)})


def sealed(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a cache's root with a seal over them, in the place of an older one."""
    bare = {key: value for key, value in attrs.items() if key != SEAL}
    return {**bare, SEAL: fingerprint(bare)}
