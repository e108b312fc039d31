"""Every format by its name, and which one a file is in."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from shared.labels.tools.types import Found, Place, ToolFile
from shared.names import unknown_name


class Tool(NamedTuple):
    """Where a format is read, and how its files are known.

    Attributes:
        module: A module of this room with a function `read`, loaded when it is needed.
        endings: Of its files.
        sign: What is found in the text of such a file, and not in those of the formats below with the same ending.
    """

    module: str
    endings: tuple[str, ...]
    sign: str


# A new format is a module and a line here.
TOOLS: Mapping[str, Tool] = MappingProxyType(
    {
        "elan": Tool("elan", (".eaf", ".xml"), r"<ANNOTATION_DOCUMENT"),
        "via": Tool("via", (".json",), r'"(?:vid_list|fid_list|_via_\w{1,40})"\s*:'),
        "labelstudio": Tool("labelstudio", (".json",), r'"(?:annotations|completions|predictions)"\s*:'),
        "cvat": Tool("cvat", (".xml",), r"<annotations[\s>]"),
        "audacity": Tool("audacity", (".txt",), r"\A\s*[+-]?\d[\d.,]*\t[+-]?\d[\d.,]*\s"),
        "webvtt": Tool("webvtt", (".vtt",), r"\AWEBVTT"),
        "srt": Tool("srt", (".srt", ".txt"), r"-->"),
        "boris": Tool("boris", (".csv", ".tsv", ".txt"), r"(?i)behavio"),
    }
)


def read_tool(path: Path, format_name: str | None = None) -> list[ToolFile]:
    """Read a label file of an annotation tool.

    Args:
        path: The file.
        format_name: A name of ``TOOLS``; None: by the ending, and where that is not enough by the content.

    Raises:
        ValueError: No such format or ending; the message carries the closest match.
        LabelError: The file is not what the format demands.
        OSError: It cannot be opened.
    """
    path = Path(path)
    name = format_of(path) if format_name is None else format_name
    if name not in TOOLS:
        raise ValueError(unknown_name("format of an annotation tool", name, TOOLS))
    files: list[ToolFile] = importlib.import_module(f"shared.labels.tools.{TOOLS[name].module}").read(path)
    return files


def format_of(path: Path) -> str:
    """The name of the format that a file is in."""
    ending = path.suffix.lower()
    names = [name for name, tool in TOOLS.items() if ending in tool.endings]
    if not names:
        endings = {known for tool in TOOLS.values() for known in tool.endings}
        hint = unknown_name("ending of a label file", ending, endings)
        raise ValueError(f"{path}: {hint}; or name the format ({', '.join(sorted(TOOLS))})")
    if len(names) == 1:
        return names[0]
    text = path.read_bytes().decode("utf-8-sig", "replace")
    for name in names:
        if re.search(TOOLS[name].sign, text):
            return name
    raise Place(path).error(f"a file of {' or '.join(names)}", Found("something else (name the format if it is one)"))
