"""JSON of others: read without surprises, and taken apart with errors that say what was missing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from shared.labels.tools.types import Found, Place, read_text


def read_json(path: Path) -> Any:
    """The value of a file.

    Raises:
        LabelError: Not JSON, with NaN or Infinity, with a name twice in one object, or nested too deeply.
    """
    try:
        return json.loads(read_text(path), parse_constant=_refuse, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise Place(path, error.lineno).error("JSON", Found(f"{error.msg} in column {error.colno}")) from None
    except RecursionError:
        raise Place(path).error("JSON as the tool writes it", Found("values nested too deeply")) from None
    except ValueError as error:  # LabelError of the text too; a number of thousands of digits
        if hasattr(error, "expected"):
            raise
        raise Place(path).error("JSON as the tool writes it", Found(str(error)[:120])) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        again = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {again[:40]!r} twice in one object")
    return found


def an_object(place: Place, value: object, name: str) -> dict[str, Any]:
    """The value as an object."""
    if not isinstance(value, dict):
        raise place.error(f"an object as {name}", value)
    return value


def a_list(place: Place, value: object, name: str) -> list[Any]:
    """The value as a list."""
    if not isinstance(value, list):
        raise place.error(f"a list as {name}", value)
    return value


def a_text(place: Place, value: object, name: str) -> str:
    """The value as a text; numbers are taken as they are written."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e18:
        raise place.error(f"a text as {name}", value)
    return str(value)
