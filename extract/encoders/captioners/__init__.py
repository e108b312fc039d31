"""Captioners: who writes the sentences of the text stream.

Names resolve to ``module:factory`` on use; a factory takes a ``CaptionerConfig`` and returns what
``captioners/contract.py`` describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from extract.config import CaptionerConfig
from shared.names import unknown_name

if TYPE_CHECKING:
    from extract.encoders.captioners.contract import Captioner

_HERE = "extract.encoders.captioners"
CAPTIONERS: Mapping[str, str] = MappingProxyType(
    {
        "offline": f"{_HERE}.offline:OfflineCaptioner",
    }
)
HUB_PREFIX = "hf-hub:"


def build_captioner(config: CaptionerConfig) -> Captioner:
    """The captioner of a configuration, with its weights loaded; see ``check_captioner``."""
    check_captioner(config)
    name = HUB_PREFIX if config.name.startswith(HUB_PREFIX) else config.name
    module, _, factory = CAPTIONERS[name].partition(":")
    return getattr(import_module(module), factory)(config)


def check_captioner(config: CaptionerConfig) -> None:
    """Refuse an unknown captioner, before anything large is loaded.

    Raises:
        ValueError: unknown name; the message offers the closest one.
    """
    if config.name.startswith(HUB_PREFIX) and config.name.count("/") == 1:
        return
    if config.name not in CAPTIONERS:
        raise ValueError(unknown_name("captioner", config.name, CAPTIONERS))
