"""Label Studio (JSON export): timeline labels and object tracks in frames, segments in seconds, choices of a video.

The column is the name of the control (`from_name`). Frames are counted from 1 in the file and from 0 here. An object is
there from a keyframe that is enabled to the next that is not, with that one. All annotators count; cancelled
annotations do not. Predictions count only in a task without the key `annotations`, as we write it. Results that label
no time (rectangles of pictures, texts) and regions without a label are passed over; a file that has only the former is
an error.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from shared.labels.tools.json_tree import a_list, a_text, an_object, read_json
from shared.labels.tools.types import Found, Mark, Place, ToolFile, media_names

_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")
_MEDIA_KEYS = ("video", "video_url", "url", "audio")
_TASK_KEYS = ("annotations", "completions", "predictions")
_SAME_FPS = 1e-3  # relative


def read(path: Path) -> list[ToolFile]:
    """One entry per task.

    Raises:
        LabelError: Not the format (JSON-MIN is another one), two rates in one task, or only results without a time.
    """
    whole = read_json(path)
    found, passed = [], set[str]()
    for i, value in enumerate(whole if isinstance(whole, list) else [whole]):
        place = Place(path, None, f"task {i + 1}")
        task = an_object(place, value, "a task")
        key = next((k for k in _TASK_KEYS if k in task), None)
        if key is None or "data" not in task:
            raise place.error("a task with 'data' and 'annotations' (export as JSON, not JSON-MIN)", list(task)[:8])
        found.append(_read_task(place, task, key, passed))
    if passed and not any(file.marks for file in found):
        kinds = ", ".join(sorted(passed))[:120]
        raise Place(path).error("results with a time (timelinelabels, labels, videorectangle, choices)", Found(kinds))
    return found


def _read_task(place: Place, task: dict[str, Any], key: str, passed: set[str]) -> ToolFile:
    marks: list[Mark] = []
    rates: list[float] = []
    for value in a_list(place, task[key] or [], repr(key)):
        annotation = an_object(place, value, "an annotation")
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        for result in a_list(place, annotation.get("result", []), "'result'"):
            item = an_object(place, result, "a result")
            name, kind = item.get("id"), item.get("type")
            here = Place(place.file, None, f"{place.what}, result {name[:40] if isinstance(name, str) else '?'}")
            new = _marks(here, item)
            if new is None:
                passed.add(kind[:40] if isinstance(kind, str) else "no type")
            marks += new or []
            rates += _rate(here, item.get("value"))
    if rates and max(rates) > min(rates) * (1 + _SAME_FPS):
        raise place.error("one frame rate per task (framesCount / duration)", sorted({min(rates), max(rates)}))
    return ToolFile(_media(place, task["data"]), rates[0] if rates else None, tuple(marks))


def _media(place: Place, value: object) -> tuple[str, ...]:
    """Names of the video, those without the prefix of an upload last."""
    data = an_object(place, value, "'data'")
    written = [data[k] for k in _MEDIA_KEYS if isinstance(data.get(k), str)] or [
        text for text in data.values() if isinstance(text, str) and re.search(r"\.\w{2,4}$", text)
    ]
    names = media_names(*written[:1])
    bare = [match[1] for n in names if "/" not in n and (match := _UPLOAD.fullmatch(n))]
    if written and written[0].startswith("/data/upload/"):  # an address of the server, and no path of the video
        names = tuple(name for name in names if "/" not in name)
    return (*names, *bare)


def _rate(place: Place, value: object) -> list[float]:
    """The rate that a result states, if it does."""
    if not isinstance(value, dict) or not value.get("framesCount") or not value.get("duration"):
        return []
    frames, duration_s = (
        place.frame(value["framesCount"], "framesCount", 1),
        place.number(value["duration"], "duration"),
    )
    if not (duration_s > 0 and math.isfinite(frames / duration_s) and 1e-3 <= frames / duration_s <= 1e5):
        raise place.error("a duration that gives a frame rate with framesCount", duration_s)
    return [frames / duration_s]


def _marks(place: Place, item: dict[str, Any]) -> list[Mark] | None:
    """The marks of one result, or None if it labels no time."""
    kind = item.get("type")
    if kind not in ("timelinelabels", "labels", "paragraphlabels", "videorectangle", "choices"):
        return None
    value = an_object(place, item.get("value"), "'value'")
    column = a_text(place, item.get("from_name", ""), "'from_name'")
    labels = a_list(place, next((value[k] for k in (kind, "labels") if k in value), []), "the labels")
    words = [a_text(place, label, "a label") for label in labels]
    if "sequence" in value or "ranges" in value:
        spans = _presence(place, value) if "sequence" in value else _ranges(place, value["ranges"])
        return [place.frames(a, b, column, word) for a, b in spans for word in words]
    if "start" in value:
        if "startOffset" in value or "globalOffsets" in value or ("text" in value and "channel" not in value):
            return None  # characters of a text
        start_s = place.number(value["start"], "'start' (seconds)")
        end_s = place.number(value.get("end"), "'end' (seconds)")
        return [place.span(start_s, end_s, column, word) for word in words]
    if kind == "choices":
        return [place.span(0.0, None, column, word) for word in words]
    return None


def _ranges(place: Place, value: object) -> list[tuple[int, int | None]]:
    """Ranges from 1 with their last frame -> from 0 without."""
    spans: list[tuple[int, int | None]] = []
    for entry in a_list(place, value, "'ranges'"):
        limits = an_object(place, entry, "a range")
        start = place.frame(limits.get("start"), "'start' (a frame)", 1)
        spans.append((start - 1, place.frame(limits.get("end"), "'end' (a frame)", start)))
    return spans


def _presence(place: Place, value: dict[str, Any]) -> list[tuple[int, int | None]]:
    """Spans of frames (from 0) in which an object is there."""
    frames: dict[int, bool] = {}
    for entry in a_list(place, value["sequence"], "'sequence'"):
        key = an_object(place, entry, "a keyframe")
        frames[place.frame(key.get("frame"), "'frame'", 1)] = bool(key.get("enabled", True))
    spans: list[tuple[int, int | None]] = []
    since: int | None = None
    for frame, enabled in sorted(frames.items()):
        since = frame if since is None else since
        if not enabled:
            spans.append((since - 1, frame))
            since = None
    if since is not None:
        count = value.get("framesCount")
        spans.append((since - 1, place.frame(count, "framesCount", max(frames)) if count else None))
    return spans
