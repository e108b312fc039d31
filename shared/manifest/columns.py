"""Which column of a table is which: by name, and asked where a name only nearly is one of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.labels.annotations import AU_NAMES
from shared.labels.columns import choice_words, columns_called, folded, places_words, plain, whole_number

if TYPE_CHECKING:
    import pandas as pd

    from shared.manifest.table import Problems

AU_COLUMNS = AU_NAMES
ALIASES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "video", "clip", "stream"),
    "id": ("id", "video_id"),
    "group": ("group",),
    "split": ("split",),
    "fold": ("fold",),
    "fps": ("fps",),
    "frames": ("frames", "num_frames"),
    "duration": ("duration", "duration_s"),
    "start": ("start", "start_frame"),
    "end": ("end", "end_frame", "end_frame_exclusive"),
    "start_s": ("start_s", "start_sec", "start_seconds", "start (s)"),
    "end_s": ("end_s", "end_sec", "end_seconds", "end (s)", "stop (s)"),
    "label": ("label", "violent", "violence"),
    "valence": ("valence",),
    "arousal": ("arousal",),
    "expr": ("expr", "expression"),
    **{name: (name.lower(),) for name in AU_NAMES},
}
LABEL_WORDS = {"0": 0.0, "1": 1.0, "violent": 1.0, "non-violent": 0.0, "nonviolent": 0.0, "true": 1.0, "false": 0.0}
SPLIT_WORDS = {"training": "train", "validation": "val", "valid": "val", "train": "train", "val": "val", "test": "test"}
# Names under which others keep what is ours. They are never taken, only asked about, and only if the cells fit.
_LIKELY: Mapping[str, tuple[str, ...]] = {
    "group": ("grp",),
    "split": ("subset", "partition", "set"),
    "fold": ("kfold",),
    "fps": ("framerate", "framespersecond"),
    "start": ("begin", "beginning", "onset", "from", "t0", "tmin"),
    "end": ("stop", "offset", "until", "to", "finish", "t1", "tmax", "ending"),
    "label": (),
    "valence": (),
    "arousal": (),
}
_BEFORE = r"(?:t|time|frame|seg|segment|clip|video|event|is|cv|true)?"
_BEHIND = (
    r"(?:s|es|ids?|names?|no|nr|num|number|idx|index|times?|timestamps?|timecode|secs?|seconds?|ms|min|minutes?|"
    r"frames?|value)?"
)
_PATHS = re.compile(r"(?:video|clip|file|stream|path|name|url|uri)+s?")
_TIME = re.compile(r"[\d.,:]+ ?(?:s|sec|ms|f)?", re.IGNORECASE)
_SPAN = "Spans are start,end in frames (0-based, end exclusive), or start_s,end_s in seconds"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# Whether a cell can be one of a column of ours.
_FITS: Mapping[str, Callable[[str], object]] = {
    "group": lambda text: True,
    "split": lambda text: text.lower() in {*SPLIT_WORDS, "dev"},
    "fold": lambda text: whole_number(text) is not None,
    "fps": lambda text: _is_number(text.partition("/")[0]),
    "start": _TIME.fullmatch,
    "end": _TIME.fullmatch,
    "label": lambda text: text.lower() in LABEL_WORDS or whole_number(text) in (0, 1),
    "valence": _is_number,
    "arousal": _is_number,
}


def find_columns(frame: pd.DataFrame, columns: Any, file: str, problems: Problems) -> dict[str, int]:
    """Our name -> position of each column. Without "path" if any column cannot be told.

    Columns that are not used are a note, once.
    """
    num_problems, where = len(problems.lines), f"{file}:1"
    header = [str(name) for name in frame.columns]
    if not isinstance(columns, Mapping):
        problems.add("[videos] columns", f'expected a table such as {{path = "clip"}}, found {columns!r}')
        columns = {}
    problems.unknown_keys("[videos] columns", columns, set(ALIASES))
    found, asked = {}, set(columns)
    for key, names in ALIASES.items():
        if columns.get(key) == "":  # told that the table has no such column
            continue
        hits = columns_called(header, names)
        if key in columns:
            hits = [i for i, name in enumerate(header) if columns[key] in (name, name.strip())]
            if not hits:
                problems.add(where, f"no column {columns[key]!r} (given for {key}); found {', '.join(header)}")
        if len(hits) > 1:
            problems.add(where, _choice(header, hits, key))
            asked.add(key)
        elif hits:
            found[key] = hits[0]
    free = [i for i in range(len(header)) if i not in found.values() and header[i].strip()]
    if len(problems.lines) == num_problems and "path" not in found:
        problems.add(where, _no_path(header))
    for key in (k for k in _LIKELY if k not in found and k not in asked):
        if likely := [i for i in free if _is_nearly(key, header[i], frame.iloc[:, i])]:
            problems.add(where, _question(key, header[likely[0]].strip()))
    if len(problems.lines) > num_problems:
        found.pop("path", None)
    elif unused := [header[i].strip() for i in free if not header[i].startswith("Unnamed: ")]:
        shown = ", ".join(unused[:20]) + (" ..." if len(unused) > 20 else "")
        problems.note(f"{file}: further columns, each of which can be a task (--task NAME): {shown}")
    return found


def _choice(header: Sequence[str], hits: Sequence[int], key: str) -> str:
    names = [header[i].strip() for i in hits]
    way = "rename or remove one" if key in map(plain, names) else f"name the column {key}"
    if len({*names}) == len(names):
        way = f'say which in a manifest: columns = {{{key} = "{names[-1]}"}}, or {way}'
    return f"{choice_words(header, hits, key)}; {way} ({places_words(hits)})"


def _no_path(header: Sequence[str]) -> str:
    text = f"no column for the path (one of {', '.join(ALIASES['path'])}); found {', '.join(header)}"
    near = [
        n.strip()
        for n in header
        if _PATHS.fullmatch(folded(n)) or any(_one_slip(folded(n), a) for a in ALIASES["path"])
    ]
    return text + (f"; did you mean {near[0]!r}? Rename it to path" if near else "")


def _question(key: str, name: str) -> str:
    return (
        f"column {name!r} is not one that is read; did you mean {key!r}? Rename it to {key}, or say in a manifest: "
        f'columns = {{{key} = "{name}"}}, or columns = {{{key} = ""}} if it is something else'
        + (f". {_SPAN}" if key in ("start", "end") else "")
    )


def _is_nearly(key: str, name: str, cells: pd.Series) -> bool:
    """Whether a name that is not ours nearly is: by a slip of the keyboard, or by its meaning if all its cells fit."""
    if any(_one_slip(folded(name), alias) for alias in map(folded, ALIASES[key])):
        return True
    names = "|".join(map(folded, (*ALIASES[key], *_LIKELY[key])))
    if not re.fullmatch(f"{_BEFORE}(?:{names}){_BEHIND}", folded(name)):
        return False
    values = [text for text in cells.str.strip().unique() if text]
    return bool(values) and all(_FITS[key](text) for text in values)


def _one_slip(name: str, wanted: str) -> bool:
    """One letter too many, two in wrong order or, in words of five letters and more, one wrong or missing."""
    if len(name) == len(wanted):
        wrong = [i for i in range(len(name)) if name[i] != wanted[i]]
        swapped = len(wrong) == 2 and wrong[1] == wrong[0] + 1 and sorted(name) == sorted(wanted)
        return swapped or (len(wrong) == 1 and len(wanted) > 4)
    short, long = sorted((name, wanted), key=len)
    if len(long) - len(short) != 1 or (short == name and len(wanted) < 5):
        return False
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))
