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
# Options that only some captioners heed -> what the command line calls them.
_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "weights": "--caption-weights",
        "prompt": "--caption-prompt",
        "decoding": "--caption-decoding",
        "seed": "--caption-seed",
        "max_new_tokens": "--caption-tokens",
        "quantize": "--caption-quantize",
        "server": "--caption-server",
        "server_model": "--caption-server-model",
    }
)
# Captioner -> those that mean nothing to it; "server" and models of the hub refuse some more by themselves.
_IGNORED: Mapping[str, frozenset[str]] = MappingProxyType(
    {"offline": frozenset(_OPTIONS), HUB_PREFIX: frozenset({"seed", "server", "server_model"})}
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
        _check_options(config)
        return
    if config.name not in CAPTIONERS:
        known = [_HUB_FORM if name == HUB_PREFIX else name for name in CAPTIONERS]
        raise ValueError(unknown_name("captioner", config.name, known))
    _check_options(config)
    if config.name in VARIANTS:  # tens of gigabytes must not be downloaded before a typing error is found
        import_module("extract.encoders.minigpt.captioner").check_config(config)
    if config.name == "server":  # a URL with a password in it must not get as far as the cache, which notes the options
        import_module(f"{_HERE}.server").check_config(config)


def _check_options(config: CaptionerConfig) -> None:
    """Refuse options that would do nothing: who gives them expects something of them."""
    name = HUB_PREFIX if config.name.startswith(HUB_PREFIX) else config.name
    given = {field for field in _OPTIONS if getattr(config, field) != getattr(CaptionerConfig, field)}
    unused = sorted(given & _IGNORED.get(name, frozenset()))
    if unused:
        raise ValueError(f"captioner {config.name!r} takes no {', '.join(_OPTIONS[field] for field in unused)}")
    if "seed" in given and config.decoding == "greedy":
        raise ValueError("--caption-seed is the seed of sampling: give --caption-decoding sample with it")
    if "server_model" in given and config.server is None:
        raise ValueError("--caption-server-model names a model on a server: give --caption-server with it")
