"""Fingerprints and diffs of recipes."""

import json

import pytest

from shared.recipe import diff_recipes, fingerprint

RECIPE = {"encoder": "clip", "model": {"name": "ViT-B-32", "layers": [1, 2]}, "seed": 0, "dtype": None}


def test_fingerprint_depends_on_content_only() -> None:
    shuffled = {k: RECIPE[k] for k in reversed(RECIPE)}
    assert fingerprint(shuffled) == fingerprint(RECIPE)
    assert fingerprint(json.loads(json.dumps(RECIPE))) == fingerprint(RECIPE)
    assert fingerprint({"a": (1, 2)}) == fingerprint({"a": [1, 2]})  # JSON knows one kind of list
    assert len(fingerprint(RECIPE)) == 16
    assert fingerprint({}) == "44136fa355b3678a"  # sha256 of "{}"; must not change, caches store it


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": "0"}, {"seed": 0.5}, {"dtype": 0}, {"new": None}])
def test_fingerprint_sees_every_difference(other: dict) -> None:
    assert fingerprint({**RECIPE, **other}) != fingerprint(RECIPE)
    assert len(diff_recipes(RECIPE, {**RECIPE, **other})) == 1


def test_not_json_is_refused() -> None:
    with pytest.raises(ValueError):
        fingerprint({"scale": float("nan")})
    with pytest.raises(TypeError):
        fingerprint({"path": object()})


def test_diff_names_the_leaf() -> None:
    asked = {"encoder": "clip", "model": {"name": "ViT-L-14", "layers": [1, 3]}, "dtype": None, "prompt": "é"}
    assert diff_recipes(RECIPE, asked) == [
        "model.layers: cache has [1, 2], asked for [1, 3]",
        'model.name: cache has "ViT-B-32", asked for "ViT-L-14"',
        'prompt: cache has nothing, asked for "\\u00e9"',
        "seed: cache has 0, asked for nothing",
    ]
    assert diff_recipes(RECIPE, RECIPE) == []
    assert diff_recipes({}, {}) == []
    assert diff_recipes({}, {"a": {}}) == ["a: cache has nothing, asked for {}"]
