"""What names say: which files are videos, and which pictures of a folder are the frames of one."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shared.labels.annotations import is_hidden

# Of every format that the decoder opens (FORMATS in extract/video/reading.py), as cameras, recorders and programs name
# them. A name only says what is worth trying: the decoder goes by content.
_VIDEO_ENDINGS = """
    mp4 m4v mp4v mov qt hdmov f4v ism ismv mj2 psp 3gp 3gpp 3g2 3gp2 lrv 360 insv mkv mk3d webm avi divx xvid mpg mpeg
    mpe mpv mp2v m1v m2v m2p vob evo vro mod tod dav ts m2t m2ts mts tp trp flv asf wmv wm dvr-ms ogg ogv ogm ogx mxf
    gif apng ivf nut wtv rm rmvb dv dif h261 h263 263 h264 h26l 264 avc h265 265 hevc h266 266 vvc obu av1 vc1 y4m
"""
VIDEO_SUFFIXES = frozenset(f".{ending}" for ending in _VIDEO_ENDINGS.split())
_USUAL = "jpg or png"  # may be mixed in one folder; of the others each is a kind of its own
_KINDS = dict.fromkeys(["jpg", "jpeg", "png"], _USUAL) | {"bmp": "bmp", "tif": "tif", "tiff": "tif", "webp": "webp"}
IMAGE_SUFFIXES = frozenset(f".{ending}" for ending in _KINDS)
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)  # the last run of digits of a name


@dataclass
class Series:
    """Pictures of one folder that are numbered in one way.

    Attributes:
        pattern: as ``frame_*.jpg``.
        numbers: name of a picture -> its number, in order of the names.
        links: those that are links.
    """

    pattern: str
    numbers: dict[str, int] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)


def frame_series(folder: str | Path) -> list[Series]:
    """The pictures of a folder that are the frames of a video: one series; none; or several, and nobody can tell.

    Raises:
        OSError: the folder cannot be read.
    """
    names, links, folders = [], set(), False
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if link := entry.is_symlink():
                links.add(entry.name)
            folders = folders or (not is_hidden(entry.name) and (os.path.isdir(entry) if link else entry.is_dir()))
    return series_among(names, links, folders)


def series_among(names: Iterable[str], links: Collection[str] = (), folders: bool = False) -> list[Series]:
    """``frame_series`` of the names in a folder; which of them are links, and whether some are folders.

    Pictures whose whole name is a number (``00001.jpg``, ``.jpeg``, ``.png``) are frames wherever they are, and the
    only ones. Else a series is what differs in the last number of the name only (two pictures at least, if that is not
    the whole name), in a folder that holds neither a video nor a folder: posters and thumbnails beside videos are no
    frames. Of several series plain numbers go before names, and all before optical flow (``flow_x_00001.jpg``).
    """
    found: dict[tuple[str, str, str], Series] = {}
    alone = not folders
    for name in sorted(names):
        stem, _, suffix = name.rpartition(".")
        kind = _KINDS.get(suffix) or _KINDS.get(suffix.lower())
        if is_hidden(name):
            continue
        if kind is None:
            alone = alone and f".{suffix.lower()}" not in VIDEO_SUFFIXES
        elif stem.isdecimal():
            _add(found, ("", "", kind), name, stem)
        elif match := _NUMBERED.fullmatch(stem):
            _add(found, (match[1], match[3], kind), name, match[2])
    for one in found.values() if links else ():
        one.links = [name for name in one.numbers if name in links]
    if usual := found.get(("", "", _USUAL)):
        return [usual]
    series = {key: one for key, one in found.items() if len(one.numbers) > 1 or key[:2] == ("", "")} if alone else {}
    plain = [one for key, one in series.items() if key[:2] == ("", "")]
    return plain or [one for key, one in series.items() if not key[0].startswith("flow")] or [*series.values()]


def is_frame_folder(path: Path) -> bool:
    """Whether this is a folder of pictures that are the frames of a video, or would be if one could tell which."""
    try:
        return path.is_dir() and bool(frame_series(path))
    except OSError:
        return False


def _add(found: dict[tuple[str, str, str], Series], key: tuple[str, str, str], name: str, digits: str) -> None:
    if key not in found:
        found[key] = Series(f"{key[0]}*{key[1]}.{name.rpartition('.')[2]}")
    found[key].numbers[name] = int(digits)
