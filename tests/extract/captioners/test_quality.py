"""Caption quality: what is counted, and above all what is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from extract.encoders.captioners.offline import OfflineCaptioner
from extract.encoders.captioners.quality import CaptionCounts, caption_faults, is_english, is_loop
from tests.extract.support import REPO

ENGLISH = [
    "A man in a red shirt pushes another man against a wall.",
    "Two people standing next to each other on a street at night, one of them is holding a bottle.",
    'A sign reads "NO ENTRY – 24/7" above a door; the clock shows 12:45.',
    "The scoreboard says 0 0 0 and the player's number is 10.",
    "A close-up of a CCTV camera, Dec 31, 1999, 23:59:59.",
    "red car, dark road, three lights, white house",
    "It’s a café in Los Angeles; the waiter’s naïve smile says it all…",
    "A crowd shouting: no, no! Police (NYPD, FBI) arrive.",
    "People eat in a restaurant in Den Haag.",
    "rhythm gymnasts",
    "$1,000,000,000 in cash",
    "A man that that man had seen had had enough, and he said very, very little.",
    "woman",
]
FOREIGN = [
    "Ein Mann schlägt einen anderen Mann auf der Straße.",
    "Ein Mann mit Hut",
    "Die Kamera wackelt und das Bild ist sehr dunkel.",
    "Un homme marche dans la rue avec un chien.",
    "Un hombre camina por la calle con su perro.",
    "Een man loopt met een hond op straat.",
    "一个穿红色衬衫的男人站在街上。",
    "Мужчина стоит на улице.",
    "男の人が道に立っています",
]
JUNK = [
    "一个男人".encode().decode("cp1252", errors="replace"),
    "Ã¤Â¸Â€Ã¤Â¸ÂªÃ§Â”Â·Ã¤ÂºÂº",
    "\ufffd\ufffd\ufffd a \ufffd\ufffd",
    np.random.default_rng(0).integers(0, 256, 80, dtype=np.uint8).tobytes().decode("latin-1"),
    np.random.default_rng(1).integers(0, 256, 80, dtype=np.uint8).tobytes().decode("utf-8", errors="replace"),
    "## || 0x 17 %% @@ 42",
    "xkqz wrtp the lkjhgf zvbnm",
    "QWxhZGRpbjpvcGVuIHNlc2FtZQAAAAdGhpcyBpcyBubw",
    "007",
]
LOOPS = [
    "the the the",
    "A man is is is IS walking",
    "A man walks. A man walks. A man walks.",
    "a picture of a man and a picture of a man and a picture of a man and a",
    "one two three four five six one two three four five six one two three four five six",
    "Stop!!!!!!!!",
    "she sings lalalala",
    "1 1 1 1 1 1 1",
    "=-=-=-=-=-",
    "哈哈哈哈哈哈哈哈",
]


@pytest.mark.parametrize("caption", ENGLISH)
def test_good_captions_are_not_counted(caption: str) -> None:
    assert caption_faults(caption) == []


@pytest.mark.parametrize("caption", [*FOREIGN, *JUNK])
def test_other_languages_and_junk(caption: str) -> None:
    assert not is_english(caption)


@pytest.mark.parametrize("caption", LOOPS)
def test_loops(caption: str) -> None:
    assert is_loop(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "the the",
        "a man walks. a man walks.",
        "Wait......",
        "bananas in Mississippi",
        "one two three four five six seven " * 3,  # longer than the longest phrase that is looked for
        "100000000000",
        "3 3 3",
    ],
)
def test_what_is_repeated_a_little_is_no_loop(caption: str) -> None:
    assert not is_loop(caption)


def test_empty_is_nothing_else() -> None:
    assert caption_faults("") == caption_faults(" \n\t ") == ["empty"]


def test_the_offline_captioner_writes_good_captions() -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (16, 2, 64, 64, 3), np.uint8)
    items[8:] = items[8:] // 32 * 8 + rng.integers(0, 200, (8, 1, 1, 1, 3), np.uint8) // 2
    assert [fault for caption in OfflineCaptioner().caption(items) for fault in caption_faults(caption)] == []


def count_words(captions: Sequence[str]) -> list[int]:
    return [len(c.split()) for c in captions]


def test_counts_and_examples() -> None:
    counts = CaptionCounts(count_words, context_length=77)
    assert counts.lines() == []
    counts.add("a", ["A man walks.", "A dog runs."])
    assert counts.lines() == ["captions: 2"]
    counts.add("b", ["", "the the the", "A man walks.", "", "the the the"])
    many = " ".join(f"word{n}a" for n in range(78))
    counts.add("c", [many, "一个穿红色衬衫\n的男人", " "])
    assert counts.lines() == [
        "captions: 10, of them 3 empty, 2 loops, 1 not English, 1 longer than CLIP's 77 tokens (cut)",
        '  empty, e.g. in b: ""',
        '  loops, e.g. in b: "the the the"',
        '  not English, e.g. in c: "一个穿红色衬衫 的男人"',
        f'  longer than CLIP\'s 77 tokens (cut), e.g. in c: "{many[:57]}..."',
    ]


def test_what_becomes_of_long_captions_is_said() -> None:
    counts = CaptionCounts(count_words, context_length=3, long_captions="chunk-mean")
    counts.add("a", ["a man walks", "a man walks home"])
    assert counts.lines()[0].endswith("1 longer than CLIP's 3 tokens (encoded in chunks)")


@pytest.mark.parametrize("num_tokens", [None, lambda captions: None])
def test_lengths_that_nobody_knows_are_not_claimed(num_tokens: object) -> None:
    counts = CaptionCounts(num_tokens)  # type: ignore[arg-type]
    counts.add("a", ["word " * 500, "a man", ""])
    assert counts.lines()[0] == "captions: 3, of them 1 empty, 1 loops, 0 not English"


def test_it_needs_no_heavy_library() -> None:
    script = "import sys, extract.encoders.captioners.quality; print({'torch', 'jax', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
