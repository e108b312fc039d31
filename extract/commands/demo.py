"""``extract demo``: the data set that can be made out of nothing."""

from __future__ import annotations

from pathlib import Path

from extract.commands.parts import explained, make_demo


@explained
def demo(root: Path, seed: int) -> int:
    """``extract demo``."""
    make_demo(root, seed)
    return 0
