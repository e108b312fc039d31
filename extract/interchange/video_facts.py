"""Facts of a video as a file tells them: looked at before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NEEDED = {"source", "fps", "num_frames", "width", "height", "rotation", "decoder", "missing_frames"}
MAX_FRAMES = 2**26  # 25 days at 30 frames/s
OPTIONAL = {"truncated", "leading", "shown"}
COUNTS = ("num_frames", "width", "height", "missing_frames")  # a width of 0: features made elsewhere, nobody said it


def facts_problem(facts: Mapping[str, Any]) -> str:
    """What is wrong with the attributes of a video (``VideoInfo.attrs``), or nothing."""
    if lost := NEEDED - facts.keys():
        return f"{', '.join(sorted(lost))} missing"
    if more := facts.keys() - NEEDED - OPTIONAL:
        return f"{', '.join(sorted(more))} unknown"
    for name in COUNTS:
        if not _is_count(facts[name]):
            return f"{name} is {_shown(facts[name])}, expected a whole number from 0"
    fps = facts["fps"]
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not math.isfinite(fps) or fps < 0:
        return f"fps is {_shown(fps)}, expected a number from 0"
    if not _is_count(facts["rotation"]) or facts["rotation"] not in (0, 90, 180, 270):
        return f"rotation is {_shown(facts['rotation'])}, expected 0, 90, 180 or 270"
    if not isinstance(facts["decoder"], str):
        return f"decoder is {_shown(facts['decoder'])}, expected a text"
    if not isinstance(facts["source"], dict):
        return f"source is {_shown(facts['source'])}, expected a table"
    cut = facts.get("truncated", {"decoded": 0, "promised": 0})
    if not isinstance(cut, dict) or cut.keys() != {"decoded", "promised"} or not all(map(_is_count, cut.values())):
        return f"truncated is {_shown(cut)}, expected a table of the numbers decoded and promised"
    if not _is_count(facts.get("leading", 0)):
        return f"leading is {_shown(facts['leading'])}, expected a whole number from 0"
    shown = facts.get("shown", {})
    if not isinstance(shown, dict) or not all(isinstance(value, bool | int | str) for value in shown.values()):
        return f"shown is {_shown(shown)}, expected a table of words, numbers and yes or no"
    return ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
