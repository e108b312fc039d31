"""Walks the outermost structure of video files: where one ends early, or breaks in the middle, frames are lost.

Decoders pass over such places without a word and number the frames behind them wrongly. Only lengths and types are
looked at, a few bytes per box, so a walk costs next to nothing beside decoding.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from extract.video.types import VideoError

# ISO/IEC 14496-12 and QuickTime, outermost level.
BOXES = frozenset(
    b"ftyp moov mdat free skip wide pnot styp moof mfra uuid meta sidx ssix emsg prft pdin udta PICT imda mfro".split()
)
# RFC 9559. Elements that are entered: Segment, Cluster, BlockGroup.
ENTERED = frozenset(bytes.fromhex(name) for name in ("18538067", "1f43b675", "a0"))
SEGMENT = bytes.fromhex("18538067")
BLOCKS = frozenset(bytes.fromhex(name) for name in ("a3", "a1"))
TRACKS, TRACK, NUMBER, TYPE = (bytes.fromhex(name) for name in ("1654ae6b", "ae", "d7", "83"))
MAX_TRACKS_BYTES = 2**20
# A day of video has as many blocks; a file of nothing but empty ones would keep a walk for hours.
MAX_PARTS = 10_000_000
# The others of those levels: EBML header, SeekHead, Info, Tracks, Cues, Chapters, Attachments, Tags, Void;
# SilentTracks, EncryptedBlock, BlockVirtual, CodecState, BlockAdditions, Slices, ReferenceFrame.
ELEMENTS = "1a45dfa3 114d9b74 1549a966 1654ae6b 1c53bb6b 1043a770 1941a469 1254c367 ec 5854 af a2 a4 75a1 8e c8"
# And numbers: CRC-32, Timestamp, Position, PrevSize, BlockDuration, Reference*, DiscardPadding.
NUMBERS = frozenset(bytes.fromhex(name) for name in ("bf", "e7", "a7", "ab", "9b", "fb", "fa", "fd", "75a2"))
KNOWN = ENTERED | BLOCKS | NUMBERS | {bytes.fromhex(name) for name in ELEMENTS.split()}
# Only in a BlockGroup. One that stands elsewhere was something else, a block perhaps, before a bit of it changed.
GROUP = bytes.fromhex("a0")
GROUPED = frozenset(
    bytes.fromhex(name) for name in ("a1", "a2", "a4", "75a1", "75a2", "8e", "c8", "9b", "fb", "fa", "fd")
)
FLV_TAGS = frozenset([8, 9, 15, 18])  # sound, picture, script data twice
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_HEAD = 2**16
OGG_TAIL = 2**17  # a page has at most 65307 bytes
# What recorders fill blocks and preallocated files with.
PADDING = (b"\x00", b"\xff")
BLOCK = 2**20
# So much padding before the end of a structure is no chance: the end of a file was overwritten, or never written.
MAX_PADDED = 4
FILLERS = frozenset([b"free", b"skip"])  # boxes that are padding themselves


@dataclass
class Structure:
    """What a walk found.

    Attributes:
        flaw: what is wrong, in words; None if nothing is, or if the format is not walked.
        blocks: Matroska: track number -> blocks.
        tracks: Matroska: track number -> type, 1 for video; in the order of the header.
    """

    flaw: str | None = None
    blocks: Counter[int] = field(default_factory=Counter)
    tracks: dict[int, int] = field(default_factory=dict)

    def video_blocks(self, place: int) -> int:
        """Blocks of the video track that is at this place among them; 0 if there is none."""
        numbers = [number for number, kind in self.tracks.items() if kind == 1]
        return self.blocks[numbers[place]] if place < len(numbers) else 0


def walk_file(path: Path) -> Structure:
    """Walk a file of a format that tells how long it is.

    Raises:
        OSError: it cannot be read.
        VideoError: it has too many parts.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        head, size = os.pread(file, 12, 0), os.fstat(file).st_size
        return _walk_of(head)(file, size)
    finally:
        os.close(file)


def padding_start(path: Path) -> int:
    """Where the padding at the end of a file begins; its size if there is none."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return _content_end(file, os.fstat(file).st_size)
    finally:
        os.close(file)


def _walk_of(head: bytes) -> Callable[[int, int], Structure]:
    if head[4:8] in BOXES:
        return _boxes
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _riffs
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _elements
    walks = {b"FLV": _tags, b"Ogg": _pages, b"GIF": _trailer, b"\x30\x26\xb2": _properties}
    return walks.get(head[:3], lambda file, size: Structure())


def _short(end: int, size: int) -> Structure:
    return Structure(f"the file is {end - size} bytes shorter than its structure says" if end > size else None)


def _parts() -> Iterator[int]:
    """A bound on what is walked.

    Raises:
        VideoError: while iterating, when it is reached.
    """
    yield from range(MAX_PARTS)
    raise VideoError("open", f"more than {MAX_PARTS} parts in its structure")


def _breaks(place: int) -> str:
    return f"its structure breaks at byte {place}"


def _content_end(file: int, size: int) -> int:
    """Where the padding at the end of a file begins; ``size`` if there is none. Reads the padding, and a block more."""
    last = os.pread(file, 1, size - 1)
    if last not in PADDING:
        return size
    while size:
        start = max(0, size - BLOCK)
        rest = os.pread(file, size - start, start).rstrip(last)
        if rest:
            return start + len(rest)
        size = start
    return 0


def _stops(file: int, place: int, size: int, filler: bool = False) -> Structure:
    """A structure that stops at ``place``: whole if nothing but padding follows, which did not begin before."""
    end = _content_end(file, size)
    whole = end <= place and (filler or end > place - MAX_PADDED)
    return Structure(None if whole else _breaks(place))


def _boxes(file: int, size: int) -> Structure:
    """ISO/IEC 14496-12, 4.2: 32-bit size and type; size 1 announces 64 bits more, size 0 reaches to the end."""
    place, filler = 0, False
    for _ in _parts():
        if place + 8 > size:
            break
        head = os.pread(file, 16, place)
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if length == 0 and kind in BOXES:
            return Structure()
        if length < 8 or kind not in BOXES:
            return _stops(file, place, size, filler)
        place, filler = place + length, kind in FILLERS
    return _short(place, size)


def _riffs(file: int, size: int) -> Structure:
    """AVI, and its OpenDML extension, which puts one RIFF chunk behind the other."""
    place = 0
    while place + 12 <= size:
        kind, length, _ = struct.unpack("<4sI4s", os.pread(file, 12, place))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):  # something behind it, or a length that was never filled in
            break
        end = place + 8 + length
        place += 12
        while place + 8 <= min(end, size):
            kind, length = struct.unpack("<4sI", os.pread(file, 8, place))
            if kind[:1] in PADDING and len(set(kind)) == 1:  # where its index should be
                return Structure(_breaks(place))
            place += 8 + length + length % 2
        place = end
    return _short(place, size)


def _elements(file: int, size: int) -> Structure:
    """Matroska and WebM: clusters, their blocks, and what else there is on these levels."""
    found, place, end, live = Structure(), 0, size, False
    group_end = 0
    for _ in _parts():
        if place >= end:
            break
        ident, body, length = _element(os.pread(file, 12, place))
        lost = ident in GROUPED and place >= group_end
        if ident not in KNOWN or lost or (ident in NUMBERS and (length is None or length > 8)):
            found.flaw = _stops(file, place, size).flaw if live else _breaks(place)
            break
        place += body
        live |= ident == SEGMENT and length is None  # nobody came back to fill in where it ends
        if ident == SEGMENT and length is not None:
            end = place + length
            if end > size:
                found.flaw, end = _short(end, size).flaw, size
        if ident == GROUP:
            group_end = end if length is None else place + length
        if ident in BLOCKS:
            found.blocks[_number(os.pread(file, 8, place))[0]] += 1
        if ident == TRACKS and length is not None:
            found.tracks |= _tracks(os.pread(file, min(length, MAX_TRACKS_BYTES), place))
        if ident not in ENTERED:
            if length is None:
                found.flaw = _breaks(place)
                return found
            place += length
    found.flaw = found.flaw or _short(place, size).flaw
    if found.flaw is None and (strangers := sorted(found.blocks.keys() - found.tracks.keys())):
        found.flaw = f"it has blocks of track {strangers[0]}, which its header does not list"
    return found


def _tracks(data: bytes) -> dict[int, int]:
    """Numbers and types of the entries of a Tracks element."""
    found: dict[int, int] = {}
    for kind, entry in _children(data):
        if kind == TRACK:
            parts = {name: int.from_bytes(value, "big") for name, value in _children(entry) if name in (NUMBER, TYPE)}
            found[parts.get(NUMBER, 0)] = parts.get(TYPE, 0)
    return found


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(data):
        ident, body, length = _element(data[place : place + 12])
        if not ident or length is None:
            return
        yield ident, data[place + body : place + body + length]
        place += body + length


def _element(head: bytes) -> tuple[bytes, int, int | None]:
    """RFC 8794: id of 1 to 4 bytes, size of 1 to 8 bytes -> id (empty if there is none), bytes of both, size.

    A size of all ones is unknown (a live recording): None.
    """
    wide = 9 - head[0].bit_length() if head else 9
    length, width = _number(head[wide:])
    if wide > 4 or not width:
        return b"", 0, None
    return head[:wide], wide + width, length if length != (1 << 7 * width) - 1 else None


def _number(data: bytes) -> tuple[int, int]:
    """RFC 8794, 4: the value and its width, which is 0 if there is none."""
    if not data or not data[0] or len(data) < (width := 9 - data[0].bit_length()):
        return 0, 0
    return int.from_bytes(data[:width], "big") - (1 << 7 * width), width


def _tags(file: int, size: int) -> Structure:
    """Adobe FLV 10.1, annex E: a header, then tags of 11 bytes and their data, each followed by four bytes."""
    place = 4 + int.from_bytes(os.pread(file, 4, 5), "big")
    for _ in _parts():
        if place >= size:
            break
        head = os.pread(file, 4, place)
        if head[0] & 0x1F not in FLV_TAGS:
            return _stops(file, place, size)
        place += 15 + int.from_bytes(head[1:4], "big")
    return _short(place, size)


def _pages(file: int, size: int) -> Structure:
    """RFC 3533, 6: the last page of a stream is marked."""
    content = _content_end(file, size)
    start = max(0, content - OGG_TAIL // 2)
    tail = os.pread(file, OGG_TAIL, start)
    place = tail.rfind(b"OggS")
    if place < 0 or place + 27 > len(tail):
        return Structure(_breaks(start + max(0, place)))
    lengths = tail[place + 27 : place + 27 + tail[place + 26]]
    end = start + place + 27 + tail[place + 26] + sum(lengths)
    if content <= end - MAX_PADDED:
        return Structure(_breaks(content))
    short = _short(end, size)
    return short if short.flaw or tail[place + 5] & 4 else Structure("its last page is not marked as the last")


def _properties(file: int, size: int) -> Structure:
    """ASF 1.20, 3.2: the file properties object states the size of the file, but for a broadcast."""
    head = os.pread(file, ASF_HEAD, 0)
    place = head.find(ASF_PROPERTIES)
    if place < 0 or place + 92 > len(head) or head[place + 88] & 1:
        return Structure()
    return _short(int.from_bytes(head[place + 40 : place + 48], "little"), size)


def _trailer(file: int, size: int) -> Structure:
    """GIF89a, 27: the last byte is a semicolon."""
    last = os.pread(file, 1, _content_end(file, size) - 1)
    return Structure(None if last == b";" else "its last byte is not the one that ends a GIF")
