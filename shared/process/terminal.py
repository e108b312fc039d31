"""What reaches a terminal: names, captions and paths come from files of others, and must not drive it.

An escape sequence in a caption could repaint the screen or set the window's title, a direction mark could show a name
in another order. rich passes both on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from shared.names import printable

AnyConsole = TypeVar("AnyConsole")


class _Harmless:
    """A renderable of rich whose texts are made ``printable``; rich's own controls pass."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class _Hook:
    """rich calls it before anything is printed."""

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        return [_Harmless(one) for one in renderables]


def harmless(console: AnyConsole) -> AnyConsole:
    """The console (of rich), which from now on spells out control characters of what it prints."""
    console.push_render_hook(_Hook())  # type: ignore[attr-defined]
    return console
