"""ELAN (.eaf, versions 2.x and 3.0): tiers with annotations between time slots in milliseconds.

The time of an annotation that refers to another is that of the one it refers to in the end. Slots without a time lie
evenly between their neighbours in the tier, as ELAN shows them. An annotation without text is a mark with value "".
"""

# Not pympi-ling 1.71: it leaves times missing, and ends in KeyError, IndexError or Exception on files that are damaged.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shared.labels.tools.types import Found, Mark, ToolFile, media_names
from shared.labels.tools.xml_tree import Node, read_xml

Times = dict[str, tuple[float, float]]  # annotation -> begin and end in seconds, on ELAN's clock


def read(path: Path) -> list[ToolFile]:
    """One file is one video.

    Raises:
        LabelError: Not the format; a reference that leads nowhere or in a circle; a slot without any time around it.
    """
    root = read_xml(path, "ANNOTATION_DOCUMENT")
    slots = _slots(root)
    tiers = [(tier.need("TIER_ID"), tier) for tier in root.all("TIER")]
    times: Times = {}
    for _, tier in tiers:
        _align(tier.all("ANNOTATION", "ALIGNABLE_ANNOTATION"), slots, times)
    references = {n.need("ANNOTATION_ID"): n for _, tier in tiers for n in tier.all("ANNOTATION", "REF_ANNOTATION")}
    media, origin_s = _media(root)
    marks: list[Mark] = []
    for column, tier in tiers:
        for node in (child for annotation in tier.all("ANNOTATION") for child in annotation.children):
            if node.tag in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
                start_s, end_s = _time_of(node, times, references)
                value = node.words("ANNOTATION_VALUE")
                marks.append(node.place.span(start_s + origin_s, end_s + origin_s, column, value))
    return [ToolFile(media, None, tuple(marks))]


def _slots(root: Node) -> dict[str, float | None]:
    """Slot -> seconds, None where the file gives no time."""
    unit = next((h.attributes.get("TIME_UNITS", "milliseconds") for h in root.all("HEADER")), "milliseconds")
    if unit != "milliseconds":
        raise root.place.error("TIME_UNITS of milliseconds", unit)
    slots: dict[str, float | None] = {}
    for node in root.all("TIME_ORDER", "TIME_SLOT"):
        name, value = node.need("TIME_SLOT_ID"), node.attributes.get("TIME_VALUE")
        if name in slots:
            raise node.place.error("every TIME_SLOT_ID once", name)
        slots[name] = None if value is None else node.place.number(value, "TIME_VALUE (milliseconds)") / 1000
    return slots


def _align(nodes: list[Node], slots: Mapping[str, float | None], times: Times) -> None:
    """Add the times of the annotations of one tier."""
    after: dict[str, str] = {}  # slot -> the next one in this tier
    for node in nodes:
        first, last = node.need("TIME_SLOT_REF1"), node.need("TIME_SLOT_REF2")
        if first not in slots or last not in slots:
            raise node.place.error("a time slot that TIME_ORDER lists", first if first not in slots else last)
        after[first] = last
    known = {name: time for pair in after.items() for name in pair if (time := slots[name]) is not None}
    passed: set[str] = set()
    for slot in [name for name in after if name in known]:
        chain = [slot]  # up to the next slot with a time
        while (following := after.get(chain[-1])) is not None and following not in known and following not in passed:
            chain.append(following)
            passed.add(following)
        if following in known and len(chain) > 1:
            step = (known[following] - known[slot]) / len(chain)
            known.update({name: known[slot] + i * step for i, name in enumerate(chain)})
    for node in nodes:
        first, last, name = node.need("TIME_SLOT_REF1"), node.need("TIME_SLOT_REF2"), node.need("ANNOTATION_ID")
        if missing := [slot for slot in (first, last) if slot not in known]:
            found = Found(f"time slot {missing[0][:40]!r} of annotation {name[:40]!r}, which has none")
            raise node.place.error("a time, or neighbours in the tier with one (align it in ELAN)", found)
        if name in times:
            raise node.place.error("every ANNOTATION_ID once", name)
        times[name] = known[first], known[last]


def _time_of(node: Node, times: Times, references: Mapping[str, Node]) -> tuple[float, float]:
    """The time of an annotation, which may be that of another; what was found is kept."""
    name = node.need("ANNOTATION_ID")
    passed: dict[str, None] = {}
    while name not in times:
        if name not in references or name in passed:
            found = Found(f"{name[:40]!r}, which is {'its own ancestor' if name in passed else 'not there'}")
            raise node.place.error("an ANNOTATION_REF to an annotation of this file", found)
        passed[name] = None
        name = references[name].need("ANNOTATION_REF")
    times.update(dict.fromkeys(passed, times[name]))
    return times[name]


def _media(root: Node) -> tuple[tuple[str, ...], float]:
    """Names of the video, and what to add to ELAN's clock for its own.

    Of several videos the first counts, and those that begin with it are further names of it.
    """
    nodes = root.all("HEADER", "MEDIA_DESCRIPTOR")
    nodes = [n for n in nodes if n.attributes.get("MIME_TYPE", "").startswith("video")] or nodes
    origins = [n.place.number(n.attributes.get("TIME_ORIGIN", "0"), "TIME_ORIGIN (milliseconds)") for n in nodes]
    names: list[str] = []
    for node, origin in zip(nodes, origins, strict=True):
        if origin == origins[0]:
            names += media_names(node.attributes.get("RELATIVE_MEDIA_URL"), node.attributes.get("MEDIA_URL"))
    return tuple(dict.fromkeys(names)), origins[0] / 1000 if origins else 0.0
