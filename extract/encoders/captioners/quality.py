"""What is wrong with captions, as far as their words alone can tell: counts, and one example of each kind.

Language models fail in a few known ways: they say nothing, say one thing over and over, leave the language they were
asked in, or run on beyond what CLIP's text tower reads. The rules are simple and lean to silence: a count is there to
make someone look, and a caption that is merely odd is not counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

SHOWN = 60  # characters of an example
MAX_PHRASE = 6  # words of a repeated phrase
NUMBERS_IN_A_ROW = 6  # "0 0 0" can be a score; six equal numbers are no sentence
PLAIN = 0.8  # share of characters that English is written with
LETTERS = 0.4  # share of letters in what is no digit
ODD_WORDS = 1 / 3
LONGEST_WORD = 25

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# One character eight times in a row, or two to four characters four times; digits alone are numbers.
_STUTTER = re.compile(r"([^\s\d])\1{7}|(?=\S*[^\s\d])(\S{2,4}?)\2{3}")
_NO_VOWEL = re.compile(r"[bcdfghjklmnpqrstvwxz]{4,}")
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{6}")
_TYPOGRAPHY = set("‘’“”–—…°€£×")
# Words that English sentences rarely lack, and words that sentences in German, French, Spanish, Italian, Portuguese or
# Dutch rarely lack; none that is a word of the other side, nor articles of place names (Los Angeles, La Paz).
_ENGLISH = (
    "the of and is are was with to at by his her their its it this that there from for while who which has have as be "
    "being into over near behind front"
)
_FOREIGN = (
    "der das und ein eine einen einem einer ist sind mit auf im von zu nicht sich dem den "
    "un une est sont dans avec sur pour qui et au aux des ses "
    "una unos unas es son con por su sus que y del "
    "uno che sono nel nella gli il di si "
    "um uma em com não os seu sua para ao "
    "het een zijn met op te naar voor van"
)
_ENGLISH_WORDS, _FOREIGN_WORDS = frozenset(_ENGLISH.split()), frozenset(_FOREIGN.split())


class CaptionCounts:
    """Counts over captions, each of which may be of several kinds.

    Attributes:
        total: captions seen.
        kinds: kind -> how many.
        examples: kind -> (video, first caption of the kind, shortened).
    """

    def __init__(
        self,
        num_tokens: Callable[[Sequence[str]], list[int] | None] | None = None,
        context_length: int = 77,
        long_captions: str = "truncate",
    ) -> None:
        """Without ``num_tokens`` (captions -> tokens of each, uncut), lengths are not looked at."""
        self._num_tokens, self._context_length, self._measured = num_tokens, context_length, num_tokens is not None
        fate = "cut" if long_captions == "truncate" else "encoded in chunks"
        self._long = f"longer than CLIP's {context_length} tokens ({fate})"
        self.total = 0
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, tuple[str, str]] = {}
        self._known: dict[str, list[str]] = {}  # captions repeat from frame to frame

    def add(self, video: str, captions: Sequence[str]) -> None:
        """Count the captions of one video."""
        new = [c for c in dict.fromkeys(captions) if c not in self._known]
        lengths = self._num_tokens(new) if self._num_tokens and new else None
        if lengths is None and new:
            self._num_tokens, self._measured = None, False
        for caption, length in zip(new, lengths or [0] * len(new), strict=True):
            self._known[caption] = caption_faults(caption) + [self._long] * (length > self._context_length)
        self.total += len(captions)
        for caption in captions:
            for kind in self._known[caption]:
                self.kinds[kind] += 1
                self.examples.setdefault(kind, (video, _shortened(caption)))
        if len(self._known) > 10_000:  # across videos little repeats
            self._known.clear()

    def take(self) -> CaptionCounts:
        """What was counted since the last ``take``, without the means to count: to be added up in another process."""
        part = CaptionCounts()
        part._long, part._measured = self._long, self._measured
        part.total, part.kinds, part.examples = self.total, self.kinds, self.examples
        self.total, self.kinds, self.examples = 0, Counter(), {}
        return part

    def merge(self, part: CaptionCounts) -> None:
        """Add what ``take`` took of another."""
        self._long, self._measured = part._long, part._measured
        self.total += part.total
        self.kinds += part.kinds
        self.examples = {**part.examples, **self.examples}

    def lines(self) -> list[str]:
        """For people: how many of what, then an example of each kind found; only the total if all is well."""
        if not self.total:
            return []
        if not self.kinds:
            return [f"captions: {self.total}"]
        kinds = [*("empty", "loops", "not English"), *([self._long] if self._measured else [])]
        counts = ", ".join(f"{self.kinds[kind]} {kind}" for kind in kinds)
        shown = [(kind, *self.examples[kind]) for kind in kinds if kind in self.examples]
        return [
            f"captions: {self.total}, of them {counts}",
            *(f'  {kind}, e.g. in {video}: "{caption}"' for kind, video, caption in shown),
        ]


def caption_faults(caption: str) -> list[str]:
    """Of "empty", "loops" and "not English", what a caption is."""
    if not caption.strip():
        return ["empty"]
    return ["loops"] * is_loop(caption) + ["not English"] * (not is_english(caption))


def is_loop(caption: str) -> bool:
    """Whether something is said over and over.

    That is a word, or a phrase of 2 to 6 words, three times in a row ("the the the"; case and punctuation aside;
    numbers six times), one character eight times in a row ("!!!!!!!!"), or 2 to 4 characters four times ("lalalala").
    """
    if _STUTTER.search(caption):
        return True
    words = _WORD.findall(caption.lower())
    for size in range(1, MAX_PHRASE + 1):
        run = 0  # words in a row that are the word ``size`` places earlier
        for i in range(size, len(words)):
            run = run + 1 if words[i] == words[i - size] else 0
            numbers = run and not any(c.isalpha() for word in words[i - size + 1 : i + 1] for c in word)
            if run >= size * (NUMBERS_IN_A_ROW - 1 if numbers else 2):
                return True
    return False


def is_english(caption: str) -> bool:
    """Whether a caption can be English. It is not, if one of these holds; spaces do not count as characters:

    - fewer than 80 % of the characters are ASCII or typographic signs (Chinese, mojibake, bytes);
    - fewer than 40 % of those that are no digits are letters, or there is no letter ("## || 0x 17");
    - more than a third of the words are no words: 4 letters and more without a vowel, 6 consonants in a row, or more
      than 25 letters; capitals of at most 5 letters are names (CCTV);
    - no word is among the commonest of English, and at least two, a quarter of all, are among the commonest of German,
      French, Spanish, Italian, Portuguese or Dutch.

    Short captions in other languages, written in ASCII, slip through; tags without grammar ("red car, dark road") are
    not taken for a foreign language.
    """
    characters = "".join(caption.split())
    plain = sum(" " < c < "\x7f" or c in _TYPOGRAPHY for c in characters)
    letters, digits = sum(map(str.isalpha, characters)), sum(map(str.isdigit, characters))
    if plain < PLAIN * len(characters) or letters < max(1, LETTERS * (len(characters) - digits)):
        return False
    words = _WORD.findall(caption)
    if sum(map(_is_odd, words)) > ODD_WORDS * len(words):
        return False
    lower = [word.lower() for word in words]
    foreign = [word for word in lower if word in _FOREIGN_WORDS]
    strange = len(set(foreign)) >= 2 and 4 * len(foreign) >= len(lower)
    return not strange or any(word in _ENGLISH_WORDS for word in lower)


def _is_odd(word: str) -> bool:
    if word.isupper() and len(word) <= 5:
        return False
    lower = word.lower()
    return len(word) > LONGEST_WORD or bool(_NO_VOWEL.fullmatch(lower) or _CONSONANTS.search(lower))


def _shortened(caption: str) -> str:
    """One line, at most 60 characters, nothing that a terminal would act on."""
    text = "".join(c if c.isprintable() else " " for c in " ".join(caption[: 4 * SHOWN].split()))
    return text if len(text) <= SHOWN else text[: SHOWN - 3].rstrip() + "..."
