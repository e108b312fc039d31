"""A task of one's own: what is in a column of a table, or in a tier of an annotation tool, as classes or numbers.

What the manifest says goes first; what it leaves open is told by the cells, and said in one line. A run stores the
task whole, so that another table is read by it and not guessed anew.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.labels.annotations import annotation_files
from shared.labels.columns import FLAGS, choice_words, columns_called, flag, number, whole_number
from shared.labels.tools.table import TOOLS
from shared.manifest import TABLE_FORMAT, LabelTable, Manifest, TaskSource
from shared.manifest.tasks import BY_ENDING
from shared.names import unknown_name
from train.data.label_files import PLAIN, presence, read_label_files
from train.tasks import KINDS, LOSSES_OF, METRIC_OF, TASKS, Kind, Task

UNLABELLED = ("na", "n/a", "nan", "null", "-", "?")  # cells that programs write where nothing is known
MAX_CLASSES = 50
MAX_CODES = 8  # whole numbers without gaps between so many at most are classes; more are a scale


@dataclass(frozen=True)
class OwnTask:
    """A task with its labels.

    Attributes:
        task: what is learned.
        manifest: the data set, whose ``tasks`` has the labels.
        words: what was made of which columns, in one line; "" where nothing was left to be told.
        notes: what was read of label files, and what of them is of no video.
    """

    task: Task
    manifest: Manifest
    words: str = ""
    notes: tuple[str, ...] = ()


def find_task(manifest: Manifest, name: str, kind: str | None = None, files: Sequence[str] = ()) -> OwnTask:
    """The task of this name: of the manifest, of the built-in ones, or one or more columns ("smile,talk").

    Args:
        manifest: the data set.
        name: of a task, of a column, or of several with commas between.
        kind: of ``KINDS``; what is to be made of a column, whatever its cells look like.
        files: patterns of label files of annotation tools, whose tiers are the columns.

    Raises:
        ValueError: no such task or column, or cells that cannot be labels; row and column are named.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(unknown_name("kind of task", kind, KINDS))
    source = manifest.tasks.get(name)
    declared = dict(source.declared) if source is not None else {}
    if not files and source is not None and not _is_of_tools(source):
        if not declared and kind is None and name in TASKS:
            return OwnTask(TASKS[name], manifest)
        if source.format != TABLE_FORMAT and not declared:
            return OwnTask(_built_in(name, source), manifest)
    manifest, notes = label_rows(manifest, name, files)
    table = manifest.table
    if table is None:
        raise ValueError(no_task(manifest, name))
    said = {**declared, **({"kind": kind} if kind else {})}
    if notes and len(table.columns) == 1 and "columns" not in said and name not in table.columns:
        said["columns"] = tuple(table.columns)  # the one tier there is, by the name of the task
    columns = _columns(manifest, table, name, said)
    if notes and (said.get("kind") == "multilabel" or (len(columns) > 1 and "kind" not in said)):
        task, words = _presence_of(name, columns, table)
    else:
        task, words = _task_of(name, columns, table, said)
    return OwnTask(task, _attached(manifest, task), words, tuple(notes))


def label_rows(manifest: Manifest, name: str, files: Sequence[str]) -> tuple[Manifest, list[str]]:
    """The data set with the rows of a task's label files, if its labels are in files of annotation tools."""
    source = manifest.tasks.get(name)
    patterns: Mapping[str, Sequence[str]] = {}
    form: str | None = None
    if files:
        patterns = {"": files}
    elif source is not None and _is_of_tools(source):
        patterns, form = source.files, None if source.format == BY_ENDING else source.format
    elif manifest.table is None and not manifest.tasks and any(annotation_files(manifest.root, PLAIN)):
        patterns = {"": PLAIN}
    if not patterns:
        return manifest, []
    found = read_label_files(manifest, patterns, form)
    videos = tuple(replace(v, split=found.splits.get(v.id, v.split)) for v in manifest.videos)
    return replace(manifest, table=found.table, videos=videos), found.notes


def with_labels(manifest: Manifest, task: Task, files: Sequence[str] = ()) -> Manifest:
    """The data set with the labels of a task that is known, for a run that was trained on another table.

    Raises:
        ValueError: the table lacks a column, or has a cell that the task does not know; row and column are named.
    """
    if not task.is_own:
        return manifest
    manifest, _ = label_rows(manifest, task.name, files)
    return manifest if manifest.table is None else _attached(manifest, task)


def _attached(manifest: Manifest, task: Task) -> Manifest:
    """The data set with a task's labels out of its rows."""
    table = manifest.table
    assert table is not None
    columns = _columns(manifest, table, task.name, {"columns": task.columns})
    if task.presence:
        segments = tuple(presence(table, columns, task.codes or None))
    else:
        values = [
            [_value(task, k, text, table, row) for row, text in enumerate(table.columns[name])]
            for k, name in enumerate(columns)
        ]
        rows = zip(table.segments, zip(*values, strict=True), strict=True)
        segments = tuple(replace(segment, values=found) for segment, found in rows)
    background = float(task.class_names.index(task.background)) if task.background else None
    source = TaskSource(TABLE_FORMAT, {}, segments, in_frames=True, background=background)
    return replace(manifest, tasks={**manifest.tasks, task.name: source})


def _is_of_tools(source: TaskSource) -> bool:
    return source.format == BY_ENDING or source.format in TOOLS


def _presence_of(name: str, columns: Sequence[str], table: LabelTable) -> tuple[Task, str]:
    """Labels that may hold at once: tiers by their annotations, or the words of one tier."""
    if len(columns) == 1:
        codes = tuple(sorted({text for text in table.columns[columns[0]] if text}))
        words = f"task {name}: {', '.join(codes)} of {columns[0]} as yes and no, by where they are annotated"
    else:
        codes, words = (), f"task {name}: {', '.join(columns)} as yes and no, by where they are annotated"
    outputs = codes or tuple(columns)
    task = _own(name, "multilabel", outputs, len(outputs), (0.0, 1.0))
    return replace(task, columns=tuple(columns), codes=codes, presence=True), words


def _built_in(name: str, source: TaskSource) -> Task:
    """Labels in official files are of a built-in task, by whatever name the manifest calls them."""
    if name in TASKS:
        return TASKS[name]
    for key, task in TASKS.items():
        if source.format in (f"affwild2-{key}", {"violence": "dvd"}.get(key)):
            return replace(task, name=name)
    raise ValueError(unknown_name("task", name, TASKS))


def no_task(manifest: Manifest, name: str) -> str:
    """What to say where a data set has no labels of a task."""
    columns = list(manifest.table.columns) if manifest.table else []
    known = [*manifest.tasks, *(c for c in columns if c not in manifest.tasks)]
    if known:
        return f"{manifest.source} has no labels for this task. {unknown_name('task', name, known)}"
    return f"{manifest.source} has no labels: add [tasks.{name}] or label columns (see data_manifests/README.md)"


def _columns(manifest: Manifest, table: LabelTable, name: str, declared: Mapping[str, Any]) -> list[str]:
    """The columns of a task, as the header spells them."""
    header = list(table.columns)
    found = []
    for wanted in declared.get("columns") or [part.strip() for part in name.split(",")]:
        hits = [i for i, own in enumerate(header) if own == wanted] or columns_called(header, [wanted])
        if len(hits) > 1:
            raise ValueError(f"{table.file}: {choice_words(header, hits, wanted)}; rename one of them")
        if not hits:
            raise ValueError(no_task(manifest, wanted))
        found.append(header[hits[0]])
    if len(set(found)) < len(found):
        raise ValueError(f"--task {name}: a column is there twice")
    return found


# ------------------------------------------------------------------ what a task is


def _task_of(name: str, columns: Sequence[str], table: LabelTable, said: Mapping[str, Any]) -> tuple[Task, str]:
    """The task that these columns hold, by what was said of it and by its cells; and what was inferred."""
    ignore = tuple(said.get("ignore", UNLABELLED))
    cells = {c: [(row, t) for row, t in enumerate(table.columns[c]) if _is_label(t, ignore)] for c in columns}
    if empty := [c for c, rows in cells.items() if not rows]:
        raise ValueError(f"{table.file}: column {empty[0]!r} is empty: there is nothing to learn")
    kind = said.get("kind") or _kind_of(columns, cells, table, said)
    if kind not in KINDS:
        raise ValueError(f"[tasks.{name}] kind: {unknown_name('kind of task', kind, KINDS)}")
    if kind in ("binary", "classes"):
        task = _classes(name, columns, cells, table, kind, said)
    elif kind == "multilabel":
        task = _own(name, kind, tuple(columns), len(columns), (0.0, 1.0))
    else:
        ranges = _ranges(columns, cells, table, said)
        both = (min(low for low, _ in ranges), max(high for _, high in ranges))
        task = replace(_own(name, kind, tuple(columns), len(columns), both), ranges=ranges)
    task = replace(task, columns=tuple(columns), ignore=ignore, **_settings(name, task, said))
    return task, "" if "kind" in said and "classes" in said else _in_words(task, cells)


def _own(name: str, kind: Kind, outputs: tuple[str, ...], width: int, limits: tuple[float, float]) -> Task:
    return Task(
        name=name,
        outputs=width,
        kind=kind,
        label_names=outputs,
        label_range=limits,
        class_names=(),
        losses=LOSSES_OF[kind],
        default_loss=LOSSES_OF[kind][0],
        window_label="mean" if kind == "regression" else "majority",
        metric=METRIC_OF[kind],
    )


def _settings(name: str, task: Task, said: Mapping[str, Any]) -> dict[str, Any]:
    """Metric, loss, window label and background, as far as a manifest sets them."""
    where, found = f"[tasks.{name}]", {}
    if "metric" in said:
        known = dict.fromkeys([task.metric, *METRICS[task.kind]])
        wanted = {"ccc": "ccc_mean", "f1": "macro_f1", "mae": "mae_mean", "rmse": "rmse_mean"}.get(said["metric"])
        metric = said["metric"] if said["metric"] in known else wanted
        if metric not in known:
            raise ValueError(f"{where} metric: {unknown_name('metric', said['metric'], known)}")
        found["metric"] = metric
    if "loss" in said:
        if said["loss"] not in task.losses:
            raise ValueError(f"{where} loss: {unknown_name('loss', said['loss'], task.losses)}")
        found["default_loss"] = said["loss"]
    if "window_label" in said:
        found["window_label"] = said["window_label"]
    if background := said.get("background"):
        if background not in task.class_names:
            raise ValueError(f"{where} background: {unknown_name('class', background, task.class_names)}")
        found["background"] = background
    return found


# Scores that a manifest may call the headline: those of which more is better.
METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("macro_f1", "accuracy", "balanced_accuracy", "auc", "ap"),
    "classes": ("macro_f1", "accuracy", "balanced_accuracy", "map", "auc"),
    "multilabel": ("f1_mean", "map"),
    "regression": ("ccc_mean", "pearson_mean"),
}


def _kind_of(
    columns: Sequence[str],
    cells: Mapping[str, Sequence[tuple[int, str]]],
    table: LabelTable,
    said: Mapping[str, Any],
) -> Kind:
    """What cells look like: words or few whole numbers are classes, other numbers a scale, several yes/no columns
    labels that may hold at once."""
    if "classes" in said:
        return "binary" if len(said["classes"]) == 2 else "classes"
    if "range" in said:
        return "regression"
    texts = {c: {text for _, text in rows} for c, rows in cells.items()}
    if len(columns) > 1:
        if all(flag(text) is not None for own in texts.values() for text in own):
            return "multilabel"
        for column, own in texts.items():
            if wrong := [text for text in own if number(text, table.decimal) is None]:
                row = next(row for row, text in cells[column] if text == wrong[0])
                raise ValueError(
                    f"{table.segments[row].where} column {column}: several columns are one task if all hold 0 and 1 "
                    f"(labels that may hold at once) or all hold numbers; found {wrong[0][:40]!r}. Train a column of "
                    "words alone"
                )
        return "regression"
    (own,) = texts.values()
    values = [number(text, table.decimal) for text in own]
    if any(value is None for value in values):
        return "binary" if len(_codes(own)) == 2 else "classes"
    whole = sorted({int(v) for v in values if v is not None and v.is_integer()})
    if len(whole) == len(set(values)) <= MAX_CODES and whole[-1] - whole[0] < len(whole) + 1:
        return "binary" if len(whole) == 2 else "classes"
    return "regression"


def _classes(
    name: str,
    columns: Sequence[str],
    cells: Mapping[str, Sequence[tuple[int, str]]],
    table: LabelTable,
    kind: Kind,
    said: Mapping[str, Any],
) -> Task:
    """A task of classes out of one column."""
    if len(columns) != 1:
        raise ValueError(f"task {name!r}: classes are in one column, found {', '.join(columns)}")
    ((column, rows),) = cells.items()
    found = _codes(text for _, text in rows)
    if "classes" in said:
        names, codes = tuple(said["classes"]), tuple(plain_code(c) for c in said["classes"])
        for row, text in rows:
            if plain_code(text) not in codes:
                raise ValueError(
                    f"{table.segments[row].where} column {column}: {unknown_name('class', text, names)}. Add it to "
                    f"`classes` or to `ignore` of [tasks.{name}]"
                )
    else:
        codes = tuple(sorted(found, key=_order))
        if len(codes) > MAX_CLASSES:
            raise ValueError(
                f"{table.file}: column {column!r} has {len(codes)} different values, which are no classes (at most "
                f"{MAX_CLASSES}): {', '.join(list(found.values())[:4])} ... For a scale of "
                "numbers: --task-kind regression"
            )
        names = tuple(found[c] for c in codes)
        if codes in (("0", "1"), ("false", "true"), ("no", "yes")):
            names = (f"not {column}", column)
    if positive := said.get("positive"):
        if len(names) != 2 or positive not in names:
            raise ValueError(
                f"[tasks.{name}] positive: expected one of two classes ({', '.join(names)}), found {positive!r}"
            )
        if positive == names[0]:
            names, codes = names[::-1], codes[::-1]
    if kind == "binary" and len(names) != 2:
        raise ValueError(
            f"task {name!r} is to be binary, but column {column!r} has {len(names)} values: {', '.join(names)}"
        )
    if len(names) < 2:
        raise ValueError(
            f"{table.file}: every label in column {column!r} is {names[0]!r}: there is nothing to tell apart. Label "
            "something else, too"
        )
    own = _own(name, "binary" if len(names) == 2 else "classes", (name,), len(names), (0.0, len(names) - 1.0))
    return replace(own, class_names=names, codes=codes)


def _ranges(
    columns: Sequence[str],
    cells: Mapping[str, Sequence[tuple[int, str]]],
    table: LabelTable,
    said: Mapping[str, Any],
) -> tuple[tuple[float, float], ...]:
    """Smallest and largest value of each column, or what was said of all."""
    if "range" in said:
        low, high = map(float, said["range"])
        return ((low, high),) * len(columns)
    found = []
    for column in columns:
        values = []
        for row, text in cells[column]:
            value = number(text, table.decimal)
            if value is None:
                raise ValueError(f"{table.segments[row].where} column {column}: expected a number, found {text[:40]!r}")
            values.append(value)
        if min(values) == max(values):
            raise ValueError(
                f"{table.file}: every label in column {column!r} is {values[0]:g}: there is nothing to learn"
            )
        found.append((min(values), max(values)))
    return tuple(found)


def _in_words(task: Task, cells: Mapping[str, Sequence[tuple[int, str]]]) -> str:
    what = f"task {task.name}: column {', '.join(task.columns)}"
    if task.class_names:
        (rows,) = cells.values()
        counts = Counter(plain_code(text) for _, text in rows)
        own = [f"{n} ({counts[c]} rows)" for n, c in zip(task.class_names, task.codes, strict=True)]
        kind = "two classes" if task.kind == "binary" else f"{len(own)} classes"
        positive = ", the second is the positive one" if task.kind == "binary" else ""
        return f"{what} as {kind}: {', '.join(own)}{positive}"
    if task.kind == "multilabel":
        return f"{what} as labels of yes and no that may hold at once"
    ranges = ", ".join(f"{low:g} to {high:g}" for low, high in task.ranges)
    return f"{what} as numbers ({ranges}); if they are classes: --task-kind classes"


# ------------------------------------------------------------------ cells


def plain_code(text: str) -> str:
    """A cell as the code of a class: letter case, spaces and ".0" do not count."""
    value = whole_number(text.strip())
    if value is not None:
        return str(value)
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _codes(texts: Any) -> dict[str, str]:
    """Code -> the spelling that stands first."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(plain_code(text), " ".join(text.split()))
    return found


def _order(code: str) -> tuple[float, float, str]:
    """Numbers by value, no before yes, other words by the alphabet."""
    value = number(code)
    return (0, value, "") if value is not None else (1, FLAGS.get(code, 0.0), code)


def _is_label(text: str, ignore: Sequence[str]) -> bool:
    return bool(text) and plain_code(text) not in {plain_code(word) for word in ignore}


def _value(task: Task, output: int, text: str, table: LabelTable, row: int) -> float:
    """What a cell says of an output; NaN where it is not annotated.

    Raises:
        ValueError: row and column, what was expected and what was found.
    """
    if not _is_label(text, task.ignore):
        return float("nan")
    where = f"{table.segments[row].where} column {task.columns[output]}"
    if task.class_names:
        code = plain_code(text)
        if code not in task.codes:
            raise ValueError(f"{where}: {unknown_name('class', text, task.class_names)}")
        return float(task.codes.index(code))
    if task.kind == "multilabel":
        value, what = flag(text), "0 or 1 (or yes and no)"
    else:
        value, what = number(text, table.decimal), "a number"
    if value is None:
        raise ValueError(f"{where}: expected {what}, found {text[:40]!r}")
    return value
