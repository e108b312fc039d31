"""True sentences about the frames of the miniature's world.

A single frame tells colour, shape, size, number, action, ground and light; pace and the camera's shaking need a video.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from extract.miniature.world import ACTIONS, COLOURS, COUNTS, GROUNDS, SHAPES, SIZES

VERBS = {
    "rest": "stand still",
    "approach": "approach each other",
    "part": "move apart",
    "circle": "walk in a circle",
    "clinch": "cling together",
    "shake": "shake with raised arms",
}
NUMBERS = {2: "two", 3: "three", 4: "four"}
# Attribute -> words for its values, in the order of the factor.
WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "count": tuple(NUMBERS[n] for n in COUNTS),
        "size": SIZES,
        "colour": COLOURS,
        "shape": SHAPES,
        "action": tuple(VERBS[a] for a in ACTIONS),
        "ground": GROUNDS,
        "light": ("cool", "neutral", "warm"),
    }
)
PACES = ("slowly", "steadily", "quickly")
CAPTION = "{count} {size} {colour} {shape} figures {action} on a {ground} ground in {light} light."
# What CLIP reads beside captions: sentences that leave things out.
FORMS = (
    CAPTION,
    "a picture of {count} {colour} {shape} figures.",
    "{size} {shape} figures that {action} in {light} light.",
    "on a {ground} ground, {count} {colour} figures {action}.",
    "{count} figures {action}.",
    "{size} {colour} figures.",
)
# Attribute -> form of the sentence that names it alone.
ALONE: Mapping[str, str] = MappingProxyType(
    {
        "count": "a picture of {count} figures.",
        "size": "a picture of {size} figures.",
        "colour": "a picture of {colour} figures.",
        "shape": "a picture of {shape} figures.",
        "action": "a picture of figures that {action}.",
        "ground": "a picture of a {ground} ground.",
        "light": "a picture in {light} light.",
    }
)


def light_of(warmth: np.ndarray) -> np.ndarray:
    """Index of the word for a warmth in [-1, 1]."""
    return np.digitize(warmth, (-1 / 3, 1 / 3))


def pace_of(speed: np.ndarray) -> np.ndarray:
    """Index into ``PACES`` of a speed in [0, 1]."""
    return np.digitize(speed, (1 / 3, 2 / 3))


def attributes(factors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Factors of N frames -> attribute -> index of its word, int64 (N,)."""
    light = light_of(factors["warmth"])
    return {name: light if name == "light" else factors[name] for name in WORDS}


def mentioned(form: str) -> list[str]:
    """Attributes that a form names."""
    return [name for name in WORDS if f"{{{name}}}" in form]


def tell(form: str, values: Mapping[str, int]) -> str:
    """A sentence of a form about one frame, with a capital at its start."""
    text = form.format(**{name: WORDS[name][int(values[name])] for name in mentioned(form)})
    return text[0].upper() + text[1:]


def tell_all(form: str, values: Mapping[str, np.ndarray]) -> list[str]:
    """The same about N frames; ``values`` as ``attributes`` gives them."""
    return [tell(form, {k: v[i] for k, v in values.items()}) for i in range(len(next(iter(values.values()))))]


def prompts(attribute: str) -> list[str]:
    """One sentence per value of an attribute, which names nothing else."""
    return [tell(ALONE[attribute], {attribute: index}) for index in range(len(WORDS[attribute]))]


def heard(text: str) -> dict[str, int]:
    """What a sentence says: attribute -> index, of the attributes whose words occur in it just once."""
    found = {}
    for name, words in WORDS.items():
        said = [index for index, word in enumerate(words) if f" {word}" in f" {text.lower()}"]
        if len(said) == 1:
            found[name] = said[0]
    return found
