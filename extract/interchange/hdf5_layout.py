"""The HDF5 file of ``extract export``: the same tree as the cache, as described in docs/interchange.md.

HDF5 attributes hold numbers and texts, the cache's hold any JSON. Numbers, truth values and plain texts stay what they
are; everything else is JSON text. A text that would be taken for JSON is itself written as JSON, so that reading gives
exactly what was written.

Axes: F frames of a video, N windows, T samples in a window, U unique frames, D feature size.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMAT = "crossgru-features"
FORMAT_VERSION = 1
VIDEOS = "videos"
INT64 = 2**63
MAX_SHOWN = 20


class FeatureFileError(ValueError):
    """A file of features is not what was expected; the message says what was found and what to do."""


def refuse(problems: Sequence[str]) -> None:
    """Raise all that is wrong with a file at once; nothing happens if nothing is.

    Raises:
        FeatureFileError: lists the problems.
    """
    if problems:
        more = [f"... and {len(problems) - MAX_SHOWN} more"] * (len(problems) > MAX_SHOWN)
        lines = "\n  ".join([*problems[:MAX_SHOWN], *more])
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise FeatureFileError(f"{count}, nothing was imported:\n  {lines}")


def contents_of(videos: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """How many videos a file has, and how many of them have each stream: what its root says, and its seal covers.

    Args:
        videos: video id -> names of its streams.
    """
    counts = Counter(name for names in videos.values() for name in names)
    return {"videos": len(videos), "streams": dict(sorted(counts.items()))}


def encode_attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as attributes of HDF5."""
    return {name: _encode(value) for name, value in values.items()}


def decode_attributes(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Inverse of ``encode_attributes``, of numbers and texts.

    Raises:
        FeatureFileError: a text that it does not write.
    """
    return {str(name): _decode(values[name], f"{where}, attribute {name!r}") for name in values}


def _encode(value: Any) -> Any:
    if isinstance(value, bool | float) or (isinstance(value, int) and -INT64 <= value < INT64):
        return value
    if isinstance(value, str) and not _looks_like_json(value) and _fits(value):
        return value
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _decode(value: Any, where: str) -> Any:
    if not isinstance(value, str) or not _looks_like_json(value):
        return value
    try:
        return json.loads(value, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise FeatureFileError(f"{where}: expected JSON, found {value[:60]!r}; export it again") from None


def _finite(text: str) -> float:
    """A number; what JSON has no word for, and what is too large for one, could not be written again."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no JSON number")
    return value


def _looks_like_json(text: str) -> bool:
    return text[:1] in ("{", "[", '"') or text == "null" or text.removeprefix("-").isdigit()


def _fits(text: str) -> bool:
    """Whether HDF5 can hold a text: UTF-8 without NUL."""
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
