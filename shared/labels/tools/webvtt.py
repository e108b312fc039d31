"""WebVTT (.vtt): every cue is a segment; its text without tags is the value.

The column is the voice with which a cue begins (`<v NAME>`), "" without. Notes, styles, regions, identifiers and the
settings of cues are passed over.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from shared.labels.tools.types import Place, ToolFile, read_text

ARROW = "-->"
_TIME = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]?\d)(?:[.,](\d{1,6}))?"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.ASCII)
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?[ \t]+([^>]*)>")
_TAG = re.compile(r"<[^<>]*>")
_PASSED = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")

Block = list[tuple[int, str]]  # lines with their numbers


def read(path: Path) -> list[ToolFile]:
    """One file is one video, whose name it does not say.

    Raises:
        LabelError: Not the format, or a cue without a time.
    """
    text = read_text(path)
    if not re.match(r"WEBVTT(?:\s|$)", text):
        raise Place(path, 1).error("WEBVTT in the first line", text.partition("\n")[0])
    marks = []
    header, *rest = blocks(text)
    _refuse_arrows(path, header)
    for block in rest:
        if _PASSED.match(block[0][1]) and ARROW not in block[0][1]:
            continue
        place, start_s, end_s, lines = cue(path, block)
        payload = "\n".join(lines)
        voice = _VOICE.match(payload.lstrip())
        marks.append(place.span(start_s, end_s, html.unescape(voice[1]) if voice else "", without_tags(payload)))
    return [ToolFile((), None, tuple(marks))]


def blocks(text: str) -> list[Block]:
    """Groups of lines between empty lines."""
    found: list[Block] = [[]]
    for i, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found[-1].append((i, line))
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def cue(path: Path, block: Block) -> tuple[Place, float, float, list[str]]:
    """Place, begin and end in seconds, and the lines of text of a cue; an identifier may come before its time."""
    at = 0 if ARROW in block[0][1] else 1
    number, line = block[min(at, len(block) - 1)]
    place = Place(path, number)
    match = _TIMING.fullmatch(line)
    if match is None:
        raise place.error("a time such as 00:01:02.500 --> 00:01:04.000", line)
    _refuse_arrows(path, block[at + 1 :])
    times = match.groups()
    return place, _seconds(*times[:4]), _seconds(*times[4:]), [text for _, text in block[at + 1 :]]


def _refuse_arrows(path: Path, lines: Block) -> None:
    for number, line in lines:
        if ARROW in line:
            raise Place(path, number).error("an empty line before a cue", line)


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return float(f"{whole}.{fraction or 0}")


def without_tags(text: str) -> str:
    """The text of a cue without tags, entities as the characters they stand for."""
    return html.unescape(_TAG.sub("", text))
