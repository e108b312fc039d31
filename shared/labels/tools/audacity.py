"""Audacity label tracks (.txt): start, end and label between tabs, seconds, one label per line.

A label with one time is a point. Lines that begin with a backslash give the pitch of the label above and are passed
over. Numbers may have a decimal comma.
"""

from __future__ import annotations

import re
from pathlib import Path

from shared.labels.tools.types import Mark, Place, ToolFile, read_text

_LINE = re.compile(r"-?[\d.,]+\t-?[\d.,]+(?:\t|$)")


def read(path: Path) -> list[ToolFile]:
    """One file is one video, whose name it does not say.

    Raises:
        LabelError: A line that is not the format.
    """
    marks: list[Mark] = []
    for i, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        place = Place(path, i)
        fields = line.split("\t", 2)
        if len(fields) < 2:
            raise place.error("start, end and label between tabs", line)
        start_s, end_s = (place.number(f.replace(",", "."), "a time (seconds)") for f in fields[:2])
        marks.append(place.span(start_s, end_s, "", fields[2] if len(fields) > 2 else ""))
    return [ToolFile((), None, tuple(marks))]
