"""Frozen encoders. The only folder of the project that imports jax, open_clip or transformers.

Names resolve to ``module:factory`` on use, so that nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.config import ExtractConfig
    from extract.encoders.contract import TimelineEncoder, WindowEncoder

CAPTIONERS: Mapping[str, str] = MappingProxyType(
    {
        "offline": "extract.encoders.offline_captioner:OfflineCaptioner",
    }
)


def build_captioner(name: str) -> Any:
    """A captioner by name.

    Raises:
        ValueError: unknown name; the message offers the closest one.
    """
    if name not in CAPTIONERS:
        close = difflib.get_close_matches(name, CAPTIONERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown captioner {name!r}{hint} (captioners: {', '.join(CAPTIONERS)})")
    module, _, factory = CAPTIONERS[name].partition(":")
    return getattr(import_module(module), factory)()


def build_encoder(stream: str, config: ExtractConfig) -> TimelineEncoder | WindowEncoder:
    """The encoder of one stream, with its weights loaded."""
    if stream == "video":
        from extract.encoders.videoprism import VideoPrismEncoder

        v = config.video
        return VideoPrismEncoder(
            v.architecture,
            weights=v.weights,
            seed=v.seed,
            dtype=v.dtype,
            num_samples=config.window.samples["video"],
            frame_batch=v.frame_batch,
            window_batch=v.window_batch,
            resize=v.resize,
        )
    from extract.encoders.clip import ClipImageEncoder, load_clip

    if stream == "image":
        return ClipImageEncoder(load_clip(config.clip))
    if stream == "text":
        from extract.encoders.text import TextEncoder

        return TextEncoder(build_captioner(config.captioner), load_clip(config.clip))
    raise ValueError(f"unknown stream {stream!r} (streams: {', '.join(config.window.samples)})")


def build_encoders(config: ExtractConfig, streams: Iterable[str]) -> dict[str, TimelineEncoder | WindowEncoder]:
    """The encoders of several streams, in order."""
    return {stream: build_encoder(stream, config) for stream in streams}
