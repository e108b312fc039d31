"""CVAT for video 1.1 and CVAT for images 1.1 (XML): where labels are, in frames of the video.

Column `label` says which object or tag is there; every attribute is a column of its own name. CVAT writes the numbers
of the video itself, with `start_frame` and the step of `frame_filter` in them (0, 5, 10, ... for step=5). A shape holds
until the next one of its track, the last to the end of the task; a tag holds for one step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.labels.tools.types import Found, Mark, Place, ToolFile, media_names
from shared.labels.tools.xml_tree import Node, read_xml

LABEL = "label"
_STEP = re.compile(r"\s*step\s*=\s*(\d{1,8})\s*")
Sign = tuple[str, str]  # column and value


@dataclass(frozen=True)
class _Task:
    name: str
    media: tuple[str, ...]
    first: int
    step: int
    stop: int | None  # the frame after the last

    def frame(self, node: Node, value: str) -> int:
        """The frame number of an element, which has to be one of the task's."""
        frame = node.place.frame(value, "a frame number")
        if frame < self.first or (frame - self.first) % self.step or (self.stop is not None and frame >= self.stop):
            stop = "" if self.stop is None else f", below {self.stop}"
            raise node.place.error(f"a frame of the task (from {self.first} in steps of {self.step}{stop})", frame)
        return frame

    def until(self, frame: int) -> int:
        """The end of what is known of one frame."""
        return frame + self.step if self.stop is None else min(frame + self.step, self.stop)


def read(path: Path) -> list[ToolFile]:
    """One entry per task of the file.

    Raises:
        LabelError: Not the format, or a frame outside its task.
    """
    root = read_xml(path, "annotations")
    infos = root.all("meta", "task") + root.all("meta", "job") + root.all("meta", "project", "tasks", "task")
    tasks = [_task(info) for info in infos]
    if not tasks:
        raise root.place.error("<meta> with a <task> or <job> (export as 'CVAT for video 1.1')", Found("none"))
    marks: list[list[Mark]] = [[] for _ in tasks]
    numbers = {task.name: i for i, task in enumerate(tasks)}
    loose: dict[tuple[int, Sign], dict[int, Place]] = {}  # task, sign -> the frames in which it stands alone
    for node in (child for child in root.children if child.tag in ("track", "image", "tag")):
        at = 0
        if len(tasks) > 1:
            if node.attributes.get("task_id") not in numbers:
                raise node.place.error("a task_id of <meta>", node.attributes.get("task_id"))
            at = numbers[node.attributes["task_id"]]
        if node.tag == "track":
            marks[at] += _track(node, tasks[at])
            continue
        frame = tasks[at].frame(node, node.need("id" if node.tag == "image" else "frame"))
        for shape in [node] if node.tag == "tag" else node.children:
            for sign in _signs(shape, shape.need("label")) if "label" in shape.attributes else ():
                loose.setdefault((at, sign), {}).setdefault(frame, shape.place)
    for (at, sign), frames in loose.items():
        marks[at] += _runs(sign, frames, tasks[at])
    return [ToolFile(task.media, None, tuple(m)) for task, m in zip(tasks, marks, strict=True)]


def _task(info: Node) -> _Task:
    """What <meta> says of a task."""
    first = info.place.frame(info.words("start_frame") or "0", "start_frame")
    written = info.words("frame_filter")
    match = _STEP.fullmatch(written)
    if written and (match is None or int(match[1]) == 0):
        raise info.place.error("a frame_filter such as step=5", written)
    step = int(match[1]) if match else 1
    size, last = info.words("size"), info.words("stop_frame")
    stops = [info.place.frame(last, "stop_frame") + 1] if last else []
    if size:
        stops.append(info.place.frame(first + (info.place.frame(size, "size", 1) - 1) * step, "the last frame") + 1)
    return _Task(info.words("id"), media_names(info.words("source")), first, step, max(stops, default=None))


def _signs(node: Node, label: str) -> Iterator[Sign]:
    """The label of a shape or tag, and its attributes."""
    yield LABEL, label
    for attribute in node.all("attribute"):
        if value := attribute.text.strip():
            yield attribute.need("name"), value


def _track(track: Node, task: _Task) -> list[Mark]:
    """The spans in which an object is there, and those of each value of its attributes."""
    label = track.need("label")
    own = [*_signs(track, label)]
    shapes = {task.frame(n, n.attributes["frame"]): n for n in track.children if "frame" in n.attributes}
    open_signs: dict[Sign, tuple[int, Place]] = {}
    marks: list[Mark] = []

    def close(signs: set[Sign], frame: int | None) -> None:
        for sign in [sign for sign in open_signs if sign not in signs]:
            start, place = open_signs.pop(sign)
            marks.append(place.frames(start, frame, *sign))

    for frame, shape in sorted(shapes.items()):
        signs = [] if shape.attributes.get("outside") == "1" else [*own, *_signs(shape, label)]
        close(set(signs), frame)
        for sign in signs:
            open_signs.setdefault(sign, (frame, shape.place))
    close(set(), task.stop)
    return marks


def _runs(sign: Sign, frames: dict[int, Place], task: _Task) -> list[Mark]:
    """Spans of frames that follow each other."""
    marks: list[Mark] = []
    order = sorted(frames)
    start = order[0]
    for frame, following in zip(order, [*order[1:], None], strict=True):
        if following is None or following != frame + task.step:
            marks.append(frames[start].frames(start, task.until(frame), *sign))
            start = frame if following is None else following
    return marks
