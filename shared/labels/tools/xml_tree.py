"""XML of others as a small tree in which every element knows its line; what could blow up is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from shared.labels.tools.types import Found, Place

MAX_DEPTH = 60  # the formats need eight


@dataclass(slots=True)
class Node:
    """One element."""

    tag: str
    attributes: dict[str, str]
    place: Place
    children: list[Node] = field(default_factory=list)
    text: str = ""

    def all(self, *path: str) -> list[Node]:
        """The descendants along a path of tags."""
        found = [self]
        for tag in path:
            found = [child for node in found for child in node.children if child.tag == tag]
        return found

    def words(self, *path: str) -> str:
        """The text of the first element along a path; "" if there is none."""
        return next((node.text.strip() for node in self.all(*path)), "")

    def need(self, name: str) -> str:
        """An attribute that has to be there."""
        if name not in self.attributes:
            raise self.place.error(f"an attribute {name} of <{self.tag}>", Found("none"))
        return self.attributes[name]


class _Builder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.root: Node | None = None
        self.open: list[Node] = []
        self.parts: list[list[str]] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.refuse  # entities, and with them bombs, are declared there

    def place(self) -> Place:
        return Place(self.path, self.parser.CurrentLineNumber)

    def refuse(self, *_: object) -> NoReturn:
        raise self.place().error("XML without a document type, as the tool writes it", Found("a <!DOCTYPE>"))

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise self.place().error(f"elements nested at most {MAX_DEPTH} deep", Found(f"<{tag[:40]}> below that"))
        node = Node(tag, attributes, self.place())
        if self.open:
            self.open[-1].children.append(node)
        else:
            self.root = node
        self.open.append(node)
        self.parts.append([])

    def end(self, _: str) -> None:
        self.open.pop().text = "".join(self.parts.pop())

    def characters(self, text: str) -> None:
        self.parts[-1].append(text)


def read_xml(path: Path, root: str) -> Node:
    """The root element of a file.

    Raises:
        LabelError: It is not well-formed, has a document type, is nested too deeply, or has another root.
    """
    builder = _Builder(path)
    try:
        builder.parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise Place(path, error.lineno).error("well-formed XML", Found(expat.ErrorString(error.code))) from None
    except (LookupError, UnicodeError) as error:  # an encoding that nobody knows
        raise Place(path).error("XML in UTF-8", Found(str(error)[:80])) from None
    except ValueError as error:
        if hasattr(error, "expected"):
            raise
        raise Place(path).error("XML in UTF-8", Found(str(error)[:80])) from None
    if builder.root is None or builder.root.tag != root:
        found = "nothing" if builder.root is None else f"<{builder.root.tag[:40]}>"
        raise Place(path, 1).error(f"the root element <{root}>", Found(found))
    return builder.root
