"""What the readers give and the writers take, and the place in a file that every error names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from shared.labels.annotations import MAX_FRAMES, LabelError
from shared.names import printable

MAX_SECONDS = 1_000_000.0  # 11 days: a larger time is a typing error or a time of day, and not a place in a video
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"^/+(?=[A-Za-z]:)")


@dataclass(frozen=True)
class Mark:
    """One value of one column over one span of a video.

    Attributes:
        start_s: Begin in seconds, or None if the tool counts frames.
        end_s: End in seconds; equal to the begin: a point in time; None: to the end of the video, or frames.
        frames: First frame (from 0) and the one after the last (None: to the end of the video), or None if the tool
            counts seconds.
        column: Tier, track or attribute; "" if the format has only one.
        value: The label.
        where: File and place, for messages.
    """

    start_s: float | None
    end_s: float | None
    frames: tuple[int, int | None] | None
    column: str
    value: str
    where: str


@dataclass(frozen=True)
class ToolFile:
    """The labels of one video.

    Attributes:
        media: Possible names of the media file, best first; empty if the format does not say.
        fps: The rate that the file itself states, where its clock is frames.
        marks: In the order of the file.
    """

    media: tuple[str, ...]
    fps: float | None
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Segment:
    """One span to be written, on both clocks; ``end_frame`` is the frame after the last."""

    start_s: float
    end_s: float
    start_frame: int
    end_frame: int
    column: str
    value: str
    score: float | None = None


@dataclass(frozen=True)
class VideoSegments:
    """All that is written of one video."""

    media: str
    duration_s: float
    num_frames: int
    fps: float
    segments: Sequence[Segment]


@dataclass(frozen=True)
class Place:
    """A place in a label file.

    Attributes:
        file: The file.
        line: 1-based line, or None where lines say nothing.
        what: The annotation, in words.
    """

    file: Path
    line: int | None = None
    what: str = ""

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{line}" + (f" ({self.what})" if self.what else "")

    def error(self, expected: str, found: object) -> LabelError:
        """The error to raise here; ``found`` is shortened if it is a text of the file."""
        words = found if isinstance(found, Found) else _short(found)
        return LabelError(self.file, self.line, expected, words + (f" ({self.what})" if self.what else ""))

    def number(self, value: object, name: str) -> float:
        """A finite number, from a JSON value or a text."""
        if isinstance(value, str) and len(text := value.strip()) <= 40 and _NUMBER.fullmatch(text):
            value = float(text)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e18 or math.isnan(value):
            raise self.error(f"a number as {name}", value)
        return float(value)

    def frame(self, value: object, name: str, first: int = 0) -> int:
        """A frame number of at least ``first``."""
        number = self.number(value, name)
        if not (number.is_integer() and first <= number <= MAX_FRAMES):
            raise self.error(f"a whole number from {first} to {MAX_FRAMES} as {name}", value)
        return int(number)

    def span(self, start_s: float, end_s: float | None, column: str, value: str) -> Mark:
        """A mark in seconds, checked: 0 or later, and not backwards."""
        if not 0 <= start_s <= MAX_SECONDS:
            raise self.error(f"a start from 0 to {MAX_SECONDS:.0f} s", Found(f"{start_s:g} s"))
        if end_s is not None and not start_s <= end_s <= MAX_SECONDS:
            raise self.error(f"an end from the start ({start_s:g} s) to {MAX_SECONDS:.0f} s", Found(f"{end_s:g} s"))
        return Mark(start_s, end_s, None, one_line(column), one_line(value), str(self))

    def frames(self, start: int, stop: int | None, column: str, value: str) -> Mark:
        """A mark in frames, at least one."""
        if stop is not None and stop <= start:
            raise self.error(f"a span that ends after its first frame ({start}, counted from 0)", Found(f"end {stop}"))
        return Mark(None, None, (start, stop), one_line(column), one_line(value), str(self))


class Found(str):
    """What stands in a file, already in words."""

    __slots__ = ()


def _short(found: object) -> str:
    try:
        text = repr(found)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = "a value that cannot be shown"
    return printable(text if len(text) <= 120 else f"{text[:117]}...")


def writable(text: str) -> str:
    """A text without halves of characters, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """A label without line ends, control characters and spaces around it, and ``writable``."""
    return " ".join(_CONTROLS.sub(" ", writable(text)).split())


def read_text(path: Path) -> str:
    """The file as text without byte-order mark, line ends as in Unix.

    Raises:
        LabelError: It is not UTF-8, or holds a NUL.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Place(path).error(
            "text in UTF-8", Found(f"a byte that is not ({error.reason}): save it as UTF-8")
        ) from None
    if "\x00" in text:
        raise Place(path, text[: text.index("\x00")].count("\n") + 1).error("text", Found("a NUL byte"))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def media_names(*written: str | None) -> tuple[str, ...]:
    """Names of a media file as a tool writes them, paths and URLs -> paths, then the bare names; best first.

    A "%20" may be a space or not: both are names.
    """
    paths: list[str] = []
    for text in filter(None, written):
        if scheme := _SCHEME.match(text):
            address = _DRIVE.sub("", text[scheme.end() :].partition("?")[0])
            forms = [unquote(address), address]
        elif "?d=" in text:  # local files of Label Studio
            forms = [unquote(text.partition("?d=")[2])]
        else:
            forms = [text, unquote(text)]
        paths += [writable(form).replace("\\", "/").strip().removeprefix("./") for form in forms]
    names = [PurePosixPath(path).name for path in paths]
    return tuple(dict.fromkeys(name for name in [*paths, *names] if name))
