"""Recipes: everything that determines a stream's numbers, as plain JSON, with a fingerprint and a readable diff."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

Recipe = Mapping[str, Any]


class RecipeMismatch(ValueError):
    """A cache holds numbers made in another way than the ones asked for."""


def fingerprint(recipe: Recipe) -> str:
    """First 16 hex digits of the sha256 over the recipe's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def diff_recipes(cached: Recipe, asked: Recipe) -> list[str]:
    """One line per differing leaf: ``clip.model: cache has "ViT-B-32", asked for "ViT-L-14"``."""
    old, new = dict(_leaves(cached)), dict(_leaves(asked))
    return [
        f"{key}: cache has {_show(old, key)}, asked for {_show(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if _show(old, key) != _show(new, key)
    ]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not prefix):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _show(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], sort_keys=True) if key in leaves else "nothing"
