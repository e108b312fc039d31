"""SubRip (.srt): every cue is a segment; its text without tags is the value. Hours may be missing."""

from __future__ import annotations

import re
from pathlib import Path

from shared.labels.tools.types import ToolFile, read_text
from shared.labels.tools.webvtt import blocks, cue, without_tags

_POSITION = re.compile(r"\{\\[^{}]*\}")


def read(path: Path) -> list[ToolFile]:
    """One file is one video, whose name it does not say.

    Raises:
        LabelError: A cue without a time.
    """
    marks = []
    for block in blocks(read_text(path)):
        place, start_s, end_s, lines = cue(path, block)
        marks.append(place.span(start_s, end_s, "", without_tags(_POSITION.sub("", "\n".join(lines)))))
    return [ToolFile((), None, tuple(marks))]
