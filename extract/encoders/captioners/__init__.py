"""Captioners: who writes the sentences of the text stream.

Names resolve to ``module:factory`` on use; a factory takes a ``CaptionerConfig`` and returns what
``captioners/contract.py`` describes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from extract.config import CaptionerConfig
from extract.encoders.minigpt.variants import VARIANTS
from shared.names import unknown_name

if TYPE_CHECKING:
    from extract.encoders.captioners.contract import Captioner

_HERE = "extract.encoders.captioners"
HUB_PREFIX = "hf-hub:"
CAPTIONERS: Mapping[str, str] = MappingProxyType(
    {
        "offline": f"{_HERE}.offline:OfflineCaptioner",
        "server": f"{_HERE}.server:ServerCaptioner",
        HUB_PREFIX: f"{_HERE}.hub:HubCaptioner",
        **dict.fromkeys(VARIANTS, "extract.encoders.minigpt.captioner:MiniGptCaptioner"),
    }
)
_HUB_FORM = f"{HUB_PREFIX}OWNER/NAME"
_HUB_NAME = re.compile(rf"{HUB_PREFIX}[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def build_captioner(config: CaptionerConfig) -> Captioner:
    """The captioner of a configuration, with its weights loaded; see ``check_captioner``."""
    check_captioner(config)
    name = HUB_PREFIX if config.name.startswith(HUB_PREFIX) else config.name
    module, _, factory = CAPTIONERS[name].partition(":")
    return getattr(import_module(module), factory)(config)


def check_captioner(config: CaptionerConfig) -> None:
    """Refuse an unknown captioner, before anything large is loaded.

    Raises:
        ValueError: unknown name, the message offers the closest one; or a hub name of another form. For "server" and
            the MiniGPT variants also what their ``check_config`` says.
    """
    if config.name.startswith(HUB_PREFIX):
        if not _HUB_NAME.fullmatch(config.name):
            raise ValueError(f"expected {_HUB_FORM} or {_HUB_FORM}@REVISION, found {config.name!r}")
        return
    if config.name not in CAPTIONERS:
        known = [_HUB_FORM if name == HUB_PREFIX else name for name in CAPTIONERS]
        raise ValueError(unknown_name("captioner", config.name, known))
    if config.name in VARIANTS:  # tens of gigabytes must not be downloaded before a typing error is found
        import_module("extract.encoders.minigpt.captioner").check_config(config)
    if config.name == "server":  # a URL with a password in it must not get as far as the cache, which notes the options
        import_module(f"{_HERE}.server").check_config(config)
