"""Ways to damage a video file, each drawn from a generator, so that a seed repeats it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.extract.fuzz_seeds import STATE_NOTHING, Seed

Damage = Callable[[np.random.Generator, bytes, bytes], bytes]
HEADER_BYTES = 700


@dataclass(frozen=True)
class Case:
    """A damaged video.

    Attributes:
        damage: how; a name of ``DAMAGES``.
        seed: the whole video that it was.
    """

    path: Path
    damage: str
    seed: Seed

    def __str__(self) -> str:
        return f"{self.path.name} ({self.damage} of {self.seed.name})"


def truncate(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: int(rng.uniform(0.02, 0.999) * len(data))]


def cut_a_little(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: len(data) - int(rng.integers(1, max(2, len(data) // 20)))]


def flip_few(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return _flip(rng, data, int(rng.integers(1, 6)), 0, len(data))


def flip_many(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return _flip(rng, data, max(8, len(data) // 500), 0, len(data))


def flip_header(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.5:
        return _flip(rng, data, int(rng.integers(1, 9)), 0, HEADER_BYTES)
    return _flip(rng, data, int(rng.integers(1, 9)), len(data) - 2 * HEADER_BYTES, len(data))  # MP4 has it at the end


def flip_media(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return _flip(rng, data, int(rng.integers(1, 20)), len(data) // 4, len(data) * 3 // 4)


def splice(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: int(rng.uniform(0.1, 0.9) * len(data))] + other[int(rng.uniform(0.1, 0.9) * len(other)) :]


def append(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data + other


def zero_fill(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, end = _range(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def noise_fill(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, end = _range(rng, data)
    return data[:start] + rng.bytes(end - start) + data[end:]


def drop_range(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, end = _range(rng, data)
    return data[:start] + data[end:]


def repeat_range(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, end = _range(rng, data)
    return data[:end] + data[start:end] + data[end:]


def swap_codec(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Another codec's name in the header."""
    tags = [b"avc1", b"mp4v", b"hvc1", b"hev1", b"av01", b"jpeg", b"apch", b"png ", b"s263", b"FMP4", b"MJPG", b"HFYU"]
    tags += [b"MP42", b"V_VP8", b"V_VP9", b"V_FFV1", b"V_MPEG4/ISO/AVC", b"I420", b"WMV2"]
    for tag in tags:
        if tag in data:
            same = [t for t in tags if len(t) == len(tag) and t != tag] or [tag[::-1]]
            return data.replace(tag, same[rng.integers(len(same))])
    return data


def lie_about_size(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Width and height of the header: 60000 x 60000, 16000 x 16000, nothing at all."""
    side = int(rng.choice([60000, 16000, 0, 65535]))
    data = replace_at(data, b"tkhd", 4 + 76, struct.pack(">HHHH", side, 0, side, 0))
    for entry in (b"avc1", b"mp4v", b"hev1", b"hvc1", b"av01", b"jpeg", b"apch", b"png ", b"s263"):
        data = replace_at(data, entry, 4 + 24, struct.pack(">HH", side, side))
    data = replace_at(data, b"avih", 8 + 32, struct.pack("<II", side, side))
    return replace_at(data, b"strf", 8 + 4, struct.pack("<II", side, side))


def lie_about_count(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """A thousand million frames, or a few more or less than there are."""
    count = int(rng.choice([10**9, 2**31 - 1, 0, 23, 25, 100]))
    data = replace_at(data, b"stsz", 4 + 4, struct.pack(">II", int(rng.choice([0, 10])), count))
    data = replace_at(data, b"avih", 8 + 16, struct.pack("<I", count))
    return replace_at(data, b"strh", 8 + 32, struct.pack("<I", count))


def lie_about_time(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Ticks per second, lengths: nothing, or as large as they go."""
    value = struct.pack(">I", int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])))
    place = int(rng.choice([12, 16]))  # of the time scale, and of the duration
    return replace_at(
        replace_at(replace_at(data, b"mdhd", 4 + place, value), b"mvhd", 4 + place, value), b"strh", 8 + 20, value
    )


def other_ending(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data  # ``make_case`` gives it another name


DAMAGES: dict[str, Damage] = {
    made.__name__: made
    for made in (
        truncate,
        cut_a_little,
        flip_few,
        flip_many,
        flip_header,
        flip_media,
        splice,
        append,
        zero_fill,
        noise_fill,
        drop_range,
        repeat_range,
        swap_codec,
        lie_about_size,
        lie_about_count,
        lie_about_time,
        other_ending,
    )
}


CUTS = ("truncate", "cut_a_little")
IN_PLACE = ("flip_few", "flip_many", "flip_media", "zero_fill", "noise_fill")


def known_frames(case: Case) -> int | None:
    """The only number of frames that the damaged video may have, None where its container cannot tell.

    A file that is cut off lacks what its structure announces. In a Matroska file no block can get lost, either; in an
    MP4 file damage may hit the edit list, which says what is to be shown, and in others whatever counts frames. One bit
    of a VP8 frame says whether it is shown, and frames that are not are ordinary there.
    """
    if case.seed.name.endswith(STATE_NOTHING):
        return None
    in_matroska = case.path.suffix in (".mkv", ".webm") and "vp8" not in case.seed.name
    exact = case.damage in CUTS or (case.damage in IN_PLACE and in_matroska)
    return case.seed.frames if exact else None


def make_case(seed: int, number: int, seeds: Sequence[Seed], folder: Path) -> Case:
    """Case ``number`` of a seed: every damage and every video get their turn, the rest is drawn."""
    rng = np.random.default_rng([seed, number])
    turn, place = divmod(number, len(DAMAGES))
    damage = list(DAMAGES)[place]
    one = seeds[(turn + 5 * place) % len(seeds)]
    other = seeds[rng.integers(len(seeds))]
    ending = Path(other.name if damage == "other_ending" else one.name).suffix
    path = folder / f"case{number:05d}{ending}"
    path.write_bytes(DAMAGES[damage](rng, one.data, other.data))
    return Case(path, damage, one)


def _flip(rng: np.random.Generator, data: bytes, bits: int, start: int, end: int) -> bytes:
    changed = bytearray(data)
    start, end = max(0, start), min(end, len(data))
    for place in rng.integers(start, end, bits):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _range(rng: np.random.Generator, data: bytes) -> tuple[int, int]:
    length = int(rng.integers(1, max(2, len(data) // 10)))
    start = int(rng.integers(0, len(data) - length))
    return start, start + length


def replace_at(data: bytes, tag: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite what lies ``offset`` bytes behind the beginning of the first ``tag``, if there is one."""
    place = data.find(tag)
    if place < 0 or place + offset + len(value) > len(data):
        return data
    return data[: place + offset] + value + data[place + offset + len(value) :]
