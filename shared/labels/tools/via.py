"""VGG Image Annotator 3 (project JSON): attributes of segments [start, end] in seconds.

A segment gives one mark per attribute that has a value; a checkbox gives one per option that is ticked. One time is a
point, no time the whole file. An attribute without a value labels nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.labels.tools.json_tree import a_list, a_text, an_object, read_json
from shared.labels.tools.types import Found, Mark, Place, ToolFile, media_names

_CHECKBOX, _CHOICES = 2, (2, 3, 4, 5)  # checkbox; and with it radio, select and image; 1 is text


def read(path: Path) -> list[ToolFile]:
    """One entry per view that has marks, in the order of the file.

    Raises:
        LabelError: Not the format, a view of several files, or a value that is no option of its attribute.
    """
    place = Place(path)
    project = an_object(place, read_json(path), "the project")
    if "_via_img_metadata" in project:
        raise place.error("a project of VIA 3", Found("one of VIA 2, which knows no segments"))
    tables = {
        name: an_object(place, project.get(name), f"{name!r}") for name in ("file", "view", "metadata", "attribute")
    }
    marks: dict[str, list[Mark]] = {}
    for key, value in tables["metadata"].items():
        here = Place(path, None, f"metadata {key[:40]!r}")
        entry = an_object(here, value, "an entry of metadata")
        view = a_text(here, entry.get("vid"), "'vid'")
        if view not in tables["view"]:
            raise here.error("a 'vid' that is in 'view'", view)
        marks.setdefault(view, []).extend(_marks(here, entry, tables["attribute"]))
    return [
        ToolFile(_media(Place(path, None, f"view {v[:40]!r}"), tables, v), None, tuple(m)) for v, m in marks.items()
    ]


def _media(place: Place, tables: dict[str, dict[str, Any]], view: str) -> tuple[str, ...]:
    """Names of the file that a view shows."""
    files = a_list(place, an_object(place, tables["view"][view], "a view").get("fid_list"), "'fid_list'")
    if len(files) != 1:
        raise place.error("one file per view", Found(f"{len(files)}"))
    file = an_object(place, tables["file"].get(a_text(place, files[0], "a file id")), f"file {files[0]!r:.40}")
    names = (file.get("src"), file.get("fname"))  # the source may be empty, or the video itself as data:
    return media_names(*(n for n in names if isinstance(n, str) and not n.startswith(("data:", "blob:"))))


def _marks(place: Place, entry: dict[str, Any], attributes: dict[str, Any]) -> list[Mark]:
    """The marks of one entry of metadata."""
    times = [place.number(z, "a time in 'z' (seconds)") for z in a_list(place, entry.get("z", []), "'z'")]
    if len(times) > 2:
        raise place.error("at most two times in 'z'", times)
    start_s = times[0] if times else 0.0
    end_s = times[-1] if times else None
    marks = []
    for key, raw in an_object(place, entry.get("av", {}), "'av'").items():
        attribute = an_object(place, attributes.get(key), f"attribute {key[:40]!r}")
        column = a_text(place, attribute.get("aname"), "'aname'")
        values = _values(place, attribute, a_text(place, raw, "a value in 'av'"))
        marks += [place.span(start_s, end_s, column, value) for value in values]
    return marks


def _values(place: Place, attribute: dict[str, Any], raw: str) -> list[str]:
    """The values that a raw text stands for: itself, or the names of options."""
    kind = attribute.get("type")
    if raw.strip() in ("", "_DEFAULT"):
        return []
    if kind not in _CHOICES:
        return [raw]
    options = an_object(place, attribute.get("options"), "'options'")
    chosen = [part.strip() for part in raw.split(",") if part.strip()] if kind == _CHECKBOX else [raw]
    if unknown := [option for option in chosen if option not in options]:
        raise place.error(f"an option of {attribute['aname']!r:.60}", unknown[0])
    return [a_text(place, options[option], "an option") for option in chosen]
