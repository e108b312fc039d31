"""Heads: one ordinary `nn.Module` per file, named in one table and imported on use.

Every head is built as `Head(dims, num_outputs, config)`, says in `streams` what it reads, and returns its intermediates
by name, among them "output" (B, K). It knows nothing of folds, losses or standardisation.
"""

import importlib
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from shared.names import name_problem, unknown_name

if TYPE_CHECKING:  # naming the heads must not cost the import of torch
    from torch import nn

HEADS: Mapping[str, str] = MappingProxyType(
    {
        "cross_gru": "train.heads.cross_gru:CrossGru",
        "cross_gru_literal": "train.heads.cross_gru_literal:CrossGruLiteral",
        "concat": "train.heads.concat:Concat",
        "mean_pool": "train.heads.mean_pool:MeanPool",
        "video_image": "train.heads.pairs:VideoImage",
        "image_text": "train.heads.pairs:ImageText",
        "video_text": "train.heads.pairs:VideoText",
        "video": "train.heads.single:VideoOnly",
        "image": "train.heads.single:ImageOnly",
        "text": "train.heads.single:TextOnly",
    }
)
ONE_STREAM = "stream:"


def head_class(name: str) -> Any:
    """The class of a head; it carries `streams` (tuple of names) and `Config` (a frozen dataclass).

    "stream:NAME" is the head of the one stream NAME, whatever its name: of features that were made elsewhere.

    Raises:
        ValueError: No such head; the message carries the closest match.
    """
    if name.startswith(ONE_STREAM) and not name_problem(name.removeprefix(ONE_STREAM)):
        return importlib.import_module("train.heads.single").single_head(name.removeprefix(ONE_STREAM))
    if name not in HEADS:
        raise ValueError(unknown_name("head", name, [*HEADS, f"{ONE_STREAM}NAME"]))
    module, _, attribute = HEADS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def head_config(name: str, **options: Any) -> Any:
    """The config of a head, with some fields set.

    Raises:
        ValueError: No such head, no such field (with the closest match), or a value the config refuses.
    """
    config_class = head_class(name).Config
    known = [field.name for field in fields(config_class)]
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of head {name!r}:", option, known))
    return config_class(**options)


def build_head(name: str, dims: Mapping[str, int], num_outputs: int, config: Any = None) -> "nn.Module":
    """A head with fresh weights, drawn from torch's global generator.

    Args:
        name: A key of `HEADS`.
        dims: Feature size D of each stream at hand; streams the head does not read are ignored.
        num_outputs: K.
        config: The head's config; None: its defaults.

    Raises:
        ValueError: No such head, a stream the head needs is not in `dims`, or a config of another head.
    """
    cls = head_class(name)
    config = cls.Config() if config is None else config
    if not isinstance(config, cls.Config):
        raise ValueError(f"head {name!r} takes a {cls.Config.__name__}, not a {type(config).__name__}")
    return cls(dims, num_outputs, config)
