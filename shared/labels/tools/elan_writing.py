"""One video's segments as a document of ELAN 3.0: a tier per column."""

from __future__ import annotations

import mimetypes
import re
from pathlib import PurePosixPath
from urllib.parse import quote
from xml.etree import ElementTree

from shared.labels.tools.types import Segment, VideoSegments, one_line, writable

NO_COLUMN = "default"  # ELAN's own name of the tier of a new document
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"


def eaf(video: VideoSegments) -> bytes:
    """The document.

    Raises:
        ValueError: Two segments of one column overlap, which a tier cannot hold.
    """
    tiers: dict[str, list[tuple[int, int, str]]] = {}
    for s in video.segments:
        tiers.setdefault(_text(s.column) or NO_COLUMN, []).append(_spans(s))
    times = sorted({t for spans in tiers.values() for start, end, _ in spans for t in (start, end)})
    slots = {t: f"ts{i}" for i, t in enumerate(times, start=1)}
    root = _head(video, len(video.segments))
    order = ElementTree.SubElement(root, "TIME_ORDER")
    for t, name in slots.items():
        ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=name, TIME_VALUE=str(t))
    number, last = 0, 0
    for column, spans in tiers.items() or {NO_COLUMN: []}.items():
        tier = ElementTree.SubElement(root, "TIER", TIER_ID=column, LINGUISTIC_TYPE_REF="default-lt")
        last = 0
        for start, end, value in sorted(spans):
            if start < last:
                raise ValueError(
                    f"{video.media}: segments of {column!r} overlap at {start / 1000} s; a tier has no overlaps"
                )
            number, last = number + 1, end
            places = {"TIME_SLOT_REF1": slots[start], "TIME_SLOT_REF2": slots[end]}
            outer = ElementTree.SubElement(tier, "ANNOTATION")
            inner = ElementTree.SubElement(outer, "ALIGNABLE_ANNOTATION", {"ANNOTATION_ID": f"a{number}", **places})
            ElementTree.SubElement(inner, "ANNOTATION_VALUE").text = value
    kind = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true"}
    ElementTree.SubElement(root, "LINGUISTIC_TYPE", kind)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)


def _text(text: str) -> str:
    """A text without the characters that XML cannot hold."""
    return one_line(_NOT_XML.sub(" ", one_line(text)))


def _spans(s: Segment) -> tuple[int, int, str]:
    """Milliseconds and value; ELAN takes no annotation without length."""
    start = round(s.start_s * 1000)
    return start, max(round(s.end_s * 1000), start + 1), _text(s.value)


def _head(video: VideoSegments, num_annotations: int) -> ElementTree.Element:
    """The root with its header."""
    root = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "crossgru",
            "DATE": "1970-01-01T00:00:00+00:00",  # the same segments are the same bytes
            "FORMAT": "3.0",
            "VERSION": "3.0",
            f"{{{_XSI}}}noNamespaceSchemaLocation": _SCHEMA,
        },
    )
    header = ElementTree.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    media = PurePosixPath(_NOT_XML.sub(" ", writable(video.media)).replace("\\", "/"))
    where = {"MEDIA_URL": f"file:///{quote(str(media).lstrip('/'))}"}
    if not media.is_absolute():
        where["RELATIVE_MEDIA_URL"] = f"./{media}"
    where["MIME_TYPE"] = mimetypes.guess_type(media.name)[0] or "video/mp4"
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", where)
    ElementTree.SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(num_annotations)
    return root
