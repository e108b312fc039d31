"""All interleavings of processes that use one index, by running the real code one file operation at a time.

A process is a function that is run again from its beginning for every step: the answers that it had are given to it
again, and at the first operation without an answer it is stopped. So ``CacheIndex``, ``Folder`` and the folding run as
they are, and only what they ask of the disk is a model: a few files and the streams of one video. Every state that any
order of the operations leads to is visited once. A kill is a process that takes no step any more, and what the index
says is compared with the streams in every state; so all kills at all moments are among them, of one process or several.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from shared.cache import folder as cache_folder
from shared.cache import index as cache_index
from shared.cache import survey as cache_survey
from shared.cache.facts import Facts, VideoFacts
from shared.cache.index import CacheIndex

VIDEO, STAMP, NOW = "v", "1", datetime(2026, 1, 1, tzinfo=UTC)
Process = Callable[["Model", CacheIndex], None]


class World(NamedTuple):
    """What all processes see.

    Attributes:
        files: (name, the name that it was made under, content) of every file of the index, in order.
        streams: (stream, mark of its recipe) of the video's complete streams, in order; no video if there are none.
    """

    files: tuple[tuple[str, str, bytes], ...] = ()
    streams: tuple[tuple[str, str], ...] = ()


class Stopped(BaseException):
    """A process has come to an operation that is not done yet."""


class Wrong(AssertionError):
    """The index vouches for what is not so; with the way that led there."""


class Numbers:
    """A number for every different thing, and back; numbers are faster to compare than files."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._things: list[Any] = []

    def of(self, thing: Any) -> int:
        number = self._numbers.setdefault(thing, len(self._things))
        if number == len(self._things):
            self._things.append(thing)
        return number

    def __getitem__(self, number: int) -> Any:
        return self._things[number]


class Model:
    """Stands for the disk in ``shared/cache``; ``ask`` is how every operation reaches it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_remote: bool = False) -> None:
        self._answers: Sequence[Any] = ()
        self._position = self._uuids = 0
        self._name = ""
        self._world: World | None = None  # if it is set, operations are done at once
        self._steps: dict[tuple[str, int], Any] = {}
        folder = self._remote() if is_remote else self._local(monkeypatch)
        monkeypatch.setattr(cache_index, "Folder", folder)
        monkeypatch.setattr(cache_index, "uuid", SimpleNamespace(uuid4=self._uuid))
        monkeypatch.setattr(cache_index, "datetime", SimpleNamespace(now=lambda zone: NOW))
        monkeypatch.setattr(cache_survey, "read_facts", self.look)
        monkeypatch.setattr(cache_survey, "child_names", lambda *args: [VIDEO])

    # ------------------------------------------------------------------ what the code sees

    def ask(self, *operation: Any) -> Any:
        if self._world is not None:
            self._world, answer = apply(self._world, operation)
            return answer
        if self._position == len(self._answers):
            raise Stopped(operation)
        self._position += 1
        return self._answers[self._position - 1]

    def look(self, store: Any = None, ids: Any = (VIDEO,), into: Facts | None = None) -> Facts:
        """``read_facts``: one stream after the other."""
        facts = Facts() if into is None else into
        if VIDEO in ids:
            found = {name: mark for name in ("image", "text") if (mark := self.ask("look", name)) is not None}
            facts.recipes.update((mark, {"mark": mark}) for mark in found.values())
            if found:
                facts.videos[VIDEO] = video(facts, found)
        return facts

    def _uuid(self) -> Any:
        self._uuids += 1
        return SimpleNamespace(hex=f"{self._name}{self._uuids:011d}")

    def _local(self, monkeypatch: pytest.MonkeyPatch) -> type:
        """The real folder on a disk of this model."""
        monkeypatch.setattr(cache_folder, "os", Disk(self))
        monkeypatch.setattr(cache_folder, "uuid", SimpleNamespace(uuid4=self._uuid))
        monkeypatch.setattr(cache_folder, "read_file", lambda path: self.ask("read", base(path)))
        monkeypatch.setattr(cache_folder, "write_file", lambda path, value: self.ask("write", base(path), value))
        monkeypatch.setattr(cache_folder.Folder, "modified", lambda folder, name: None)
        return cache_folder.Folder

    def _remote(self) -> Any:
        """What ``Folder`` does on an object store."""
        model = self

        class Objects:
            is_remote = True

            def __init__(self, url: str) -> None:
                pass

            def sizes(self) -> dict[str, int]:
                return {name: size for name in model.ask("list") if (size := model.ask("size", name)) is not None}

            def read(self, name: str) -> bytes | None:
                return model.ask("read", name)

            def write(self, name: str, value: bytes) -> None:
                model.ask("write", name, value)

            def retire(self, name: str, size: int) -> None:
                if model.ask("size", name) == size:
                    model.ask("unlink", name)

            def delete(self, name: str) -> None:
                model.ask("unlink", name)

            def modified(self, name: str) -> None:
                return None

        return Objects

    # ------------------------------------------------------------------ all that can happen

    def explore(self, world: World, processes: Mapping[str, Process]) -> int:
        """Visit every state.

        Args:
            world: before anybody has begun.
            processes: one hexadecimal digit -> what the process of that name does.

        Returns:
            How many states there are.

        Raises:
            Wrong: in one of them the index is wrong about the video.
        """
        names = list(processes)
        self._steps.clear()
        worlds, operations, histories = Numbers(), Numbers(), Numbers()  # a history: the one before, and an answer
        moves: dict[tuple[int, int], tuple[int, Any]] = {}  # (world, operation) -> world, answer
        first = (worlds.of(world), (histories.of(None),) * len(names))
        came_from: dict[Any, Any] = {first: None}
        checked = -1  # worlds have numbers in the order in which they are met
        waiting = deque([first])
        while waiting:
            state = waiting.popleft()
            here, at = state
            if here > checked:
                checked = here
                if problem := self.problem(worlds[here]):
                    raise Wrong("\n".join([*self._trace(came_from, state), problem]))
            for number, name in enumerate(names):
                operation = self._next(name, processes[name], at[number], histories)
                if operation is None:
                    continue
                move = here, operations.of(operation)
                if move not in moves:
                    after, answer = apply(worlds[here], operation)
                    moves[move] = worlds.of(after), answer
                after, answer = moves[move]
                reached = after, (*at[:number], histories.of((at[number], answer)), *at[number + 1 :])
                if reached not in came_from:
                    came_from[reached] = state, name, operation
                    waiting.append(reached)
        return len(came_from)

    def problem(self, world: World) -> str | None:
        """What the index would say wrongly if all processes were killed now."""
        with self._at(world):
            found = self._index("c").read()
        said, true = found.facts.videos.get(VIDEO), dict(world.streams)
        if VIDEO in found.doubtful or (said is None and not found.has_base):
            return None
        streams = dict(said.streams) if said else {}
        return None if streams == true else f"the index says {streams}, the video has {true}"

    def prepared(self, process: Process, world: World) -> World:
        """The world after a process has done all that it does."""
        with self._at(world):
            process(self, self._index("d"))
            assert self._world is not None
            return self._world

    @contextmanager
    def _at(self, world: World) -> Iterator[None]:
        self._world = world
        try:
            yield
        finally:
            self._world = None

    def _index(self, name: str) -> CacheIndex:
        self._name, self._uuids = name, 0
        return CacheIndex("c.zarr", STAMP)

    def _next(self, name: str, process: Process, history: int, histories: Numbers) -> Any:
        """What a process does next, after these answers; None: it has come to its end."""
        if (name, history) not in self._steps:
            answers, earlier = [], histories[history]
            while earlier is not None:
                before, answer = earlier
                answers.append(answer)
                earlier = histories[before]
            self._answers, self._position = answers[::-1], 0
            self._steps[name, history] = None
            try:
                process(self, self._index(name))
            except Stopped as stopped:
                self._steps[name, history] = stopped.args[0]
        return self._steps[name, history]

    def _trace(self, came_from: Mapping[Any, Any], state: Any) -> list[str]:
        steps = []
        while came_from[state] is not None:
            state, name, operation = came_from[state]
            steps.append(f"{name}: {' '.join(str(word) for word in operation)}")
        return steps[::-1]


class Disk:
    """The part of ``os`` that ``shared/cache/folder.py`` uses."""

    O_WRONLY = O_APPEND = 0

    def __init__(self, model: Model) -> None:
        self._ask = model.ask
        self.path = SimpleNamespace(islink=lambda path: False, samestat=lambda one, other: one.file == other.file)

    @contextmanager
    def scandir(self, path: str) -> Iterator[Iterator[Any]]:
        yield (
            SimpleNamespace(name=name, is_file=lambda: True, stat=lambda name=name: self.stat(name))
            for name in self._ask("list")
        )

    def open(self, path: str, flags: int) -> str:
        return self._found(self._ask("open", base(path)))

    def write(self, file: str, value: bytes) -> int:
        self._ask("append", file, value)
        return len(value)

    def fstat(self, file: str) -> Any:
        return SimpleNamespace(file=file)

    def stat(self, path: str) -> Any:
        file, size = self._found(self._ask("stat", base(path)))
        return SimpleNamespace(file=file, st_size=size)

    def rename(self, old: str, new: str) -> None:
        self._found(self._ask("rename", base(old), base(new)))

    def unlink(self, path: str) -> None:
        self._found(self._ask("unlink", base(path)))

    def close(self, file: str) -> None:
        pass

    def _found(self, answer: Any) -> Any:
        if answer is None:
            raise FileNotFoundError
        return answer


def apply(world: World, operation: Sequence[Any]) -> tuple[World, Any]:
    """One operation, at once: the world after it, and its answer; None: no such file."""
    what, name, *rest = (*operation, None)
    files = {n: (n, made, raw) for n, made, raw in world.files}
    if what == "list":
        return world, tuple(files)
    if what == "look":
        return world, dict(world.streams).get(name)
    if what == "put":
        streams = {**dict(world.streams), name: rest[0]}
        return world._replace(streams=tuple(sorted((s, m) for s, m in streams.items() if m is not None))), True
    if what == "append":
        for found, made, raw in world.files:
            if made == name:
                files[found] = (found, made, raw + rest[0])
        answer: Any = True
    elif what == "write":
        files[name] = (name, name, rest[0])
        answer = True
    else:
        if name not in files:
            return world, None
        _, made, raw = files[name]
        answer = {"read": raw, "open": made, "stat": (made, len(raw)), "size": len(raw)}.get(what, True)
        if what in ("unlink", "rename"):
            del files[name]
        if what == "rename":
            files[rest[0]] = (rest[0], made, raw)
    return world._replace(files=tuple(sorted(files.values()))), answer


def writer(stream: str, *marks: str | None) -> Process:
    """As ``shared/cache/store.py`` does: changes one stream, once for every mark (None: removes it)."""

    def act(model: Model, index: CacheIndex) -> None:
        for mark in marks:
            index.begin(VIDEO)
            model.ask("put", stream, mark)
            facts = model.look()
            index.settle(VIDEO, facts.videos.get(VIDEO), facts.recipes)

    return act


def folder(model: Model, index: CacheIndex) -> None:
    with suppress(OSError):
        cache_survey.fold_index(None, index)  # type: ignore[arg-type]


def video(facts: Facts, streams: Mapping[str, str]) -> VideoFacts:
    return VideoFacts(8, 0, "v.mp4", 5, 7, None, facts.same(dict(streams)))


def base(path: str) -> str:
    return path.rpartition("/")[2]
