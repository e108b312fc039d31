"""Columns of text tables by their names, and numbers and names in them as programs and people write them.

Nothing is taken by its place where names are there. Two names are alike if letter case, the form of accents, spaces,
"_", "-" and "." do not count.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

FLAGS: Mapping[str, float] = MappingProxyType(
    {"0": 0.0, "1": 1.0, "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "y": 1.0, "n": 0.0, "x": 1.0}
)
MAX_SECONDS = 1e6  # eleven days: a larger one is a typing error
_SEPARATORS = re.compile(r"[\s_.\-]+")
_RENAMED = re.compile(r"(.+)\.[0-9]+")  # what pandas makes of a name that is there twice: label, label.1
_WHOLE = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d{1,2})?", re.IGNORECASE)


def plain(name: str) -> str:
    """A name without letter case and spaces around it."""
    return unicodedata.normalize("NFC", name).strip().lower()


def folded(name: str) -> str:
    """A name without letter case, spaces and separators: "Start Frame" and "start_frame" are "startframe"."""
    return _SEPARATORS.sub("", plain(name))


def columns_called(header: Sequence[str], names: Sequence[str]) -> list[int]:
    """Positions (from 0) of the columns that could be meant by one of some names.

    Args:
        header: names of all columns, as they stand.
        names: lower case; the first is the name proper and goes before the others, as ``plain`` equality goes before
            ``folded``.

    Returns:
        None or one, or all between which somebody has to choose: two by the name proper, or none by it and several by
        the others, and what pandas renames because a name is there twice.
    """
    hits: list[int] = []
    likeness: tuple[Callable[[str], str], ...] = (plain, folded)
    for alike in likeness:
        hits = [i for name in names for i, column in enumerate(header) if alike(column) == alike(name)]
        if hits:
            hits = [i for i in hits if alike(header[i]) == alike(names[0])] or list(dict.fromkeys(hits))
            break
    taken = {plain(header[i]) for i in hits}
    again = [i for i, column in enumerate(header) if (m := _RENAMED.fullmatch(plain(column))) and m[1] in taken]
    return hits + again


def choice_words(header: Sequence[str], found: Sequence[int], key: str) -> str:
    """What to say where ``columns_called`` found several."""
    names = " and ".join(header[i].strip() for i in found)
    return f"{names} could each be the {key}"


def places_words(found: Sequence[int]) -> str:
    """Where columns stand, in words, counted from 1."""
    return f"columns {' and '.join(str(i + 1) for i in found)}"


def whole_number(text: str) -> int | None:
    """A whole number of 0 or more, also as programs write it beside empty cells ("50.0", "5.0e+01"); else None.

    No sign, no thousands separator; a number with a fraction is none.
    """
    if len(text) > 40:  # Python refuses to read thousands of digits
        return None
    if text.isdecimal():
        return int(text)
    if not _WHOLE.fullmatch(text):
        return None
    value = float(text)
    return int(value) if value.is_integer() else None


def number(text: str, decimal: str = ".") -> float | None:
    """A finite number, as programs and people write it; None if it is none. No thousands separator is guessed."""
    text = text.strip()
    if len(text) > 40 or "_" in text or (decimal == "," and "." in text):
        return None
    try:
        value = float(text.replace(decimal, "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def flag(text: str, words: Mapping[str, float] = FLAGS) -> float | None:
    """0.0 or 1.0 of a yes or no in words or numbers (1.0 is what programs make of 1 beside empty cells); else None."""
    known = words.get(text.strip().lower(), FLAGS.get(text.strip().lower()))
    if known is None and (value := whole_number(text.strip())) in (0, 1):
        known = float(value == 1)
    return known


def code(text: str, names: Sequence[str]) -> float | None:
    """The number of a class, given as number or name; NaN for -1, the official files' mark; None for anything else."""
    if text.strip() in ("-1", "-1.0"):
        return float("nan")
    known = [folded(name) for name in names]
    if folded(text) in known:
        return float(known.index(folded(text)))
    value = whole_number(text.strip())
    return float(value) if value is not None and value < len(names) else None


def seconds(text: str, decimal: str = ".") -> float | None:
    """Seconds from "12.5", "12.5 s", "mm:ss.s" or "hh:mm:ss.s", 0 or more; a decimal comma is one beside a colon, too.

    None for anything else, and beyond ``MAX_SECONDS``.
    """
    text = text.strip().lower().removesuffix("s").rstrip()
    *larger, last = text.split(":")
    if len(larger) > 2 or not all(part.isdecimal() and len(part) < 6 for part in larger):
        return None
    value = number(last.replace(",", ".") if larger else last, "." if larger else decimal)
    if value is None or value < 0 or last.strip()[:1] in "+-" or (larger and value >= 60):
        return None
    if len(larger) == 2 and int(larger[1]) >= 60:
        return None
    for place, part in enumerate(reversed(larger), start=1):
        value += int(part) * 60.0**place
    return value if value <= MAX_SECONDS else None


def first_spelling(seen: dict[str, str], text: str) -> str:
    """The first spelling of a name among those that look the same: accents in two forms, spaces, invisible signs.

    Args:
        seen: spelling -> the first that looks like it; grows.
        text: the name.
    """
    found = seen.get(text)
    if found is None:
        shown = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
        found = seen[text] = seen.setdefault(" ".join(shown.split()), text)
    return found
