"""The index of a cache: it says what a look at every video says, or lets look, whatever has happened to it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from shared.cache import CacheError, FeatureCache, VideoInfo
from shared.cache import index as cache_index
from shared.cache import survey as cache_survey
from shared.cache.facts import Facts, read_facts
from shared.cache.nodes import child_names
from shared.windows import WindowSpec

SPEC = WindowSpec(8, 4, {"image": 2, "text": 2})
RECIPES: dict[str, dict[str, Any]] = {s: {"encoder": s, "seed": 0} for s in ("image", "text")}


@pytest.fixture(autouse=True)
def _small_caches_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_survey, "READ_ALL_LOCAL", 0)
    monkeypatch.setattr(cache_survey, "READ_ALL_REMOTE", 0)
    monkeypatch.setattr("shared.cache.reading.READ_ALL_LOCAL", 0)


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    fsspec.filesystem("memory").store.clear()
    yield f"{tmp_path}/c.zarr" if request.param == "local" else "memory://folder/c.zarr"
    fsspec.filesystem("memory").store.clear()


def make(url: str | Path) -> FeatureCache:
    return FeatureCache.create(url, dataset="data", window=SPEC)


def write(cache: FeatureCache, video: str, *streams: str, recipe: dict[str, Any] | None = None, size: int = 5) -> None:
    """Streams of a video, both by default; ``size`` of the source file."""
    source = {"path": f"{video}.mp4", "bytes": size, "mtime_ns": 7, "sha256": "ab" * 32}
    writers = [
        cache.writer(video, s, kind="timeline", recipe=recipe or RECIPES[s]) for s in streams or ("image", "text")
    ]
    for writer in writers:
        writer.append(np.ones((2, 3)), np.array([1, 2]))
    cache.write_info(video, VideoInfo(source, 25.0, 8, 4, 4, 0, "none", np.arange(8.0)))
    for writer in writers:
        writer.finish()


def truth(cache: FeatureCache) -> Facts:
    return read_facts(cache._store, child_names(cache._store, "videos"))


def assert_true(url: str | Path) -> Facts:
    """A new reader's facts are those of the groups."""
    cache = FeatureCache.open(url)
    facts, groups = cache.facts(), truth(cache)
    assert facts.videos == groups.videos
    assert facts.recipes.items() >= groups.recipes.items()
    assert facts.damaged == groups.damaged == {}
    return facts


class Looks:
    """Counts the videos that are looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []

        def counted(store: Any, ids: Any, into: Facts | None = None) -> Facts:
            self.seen += (ids := list(ids))
            return read_facts(store, ids, into)

        monkeypatch.setattr(cache_survey, "read_facts", counted)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_nobody_looks_at_what_a_writer_has_settled(url: str, looks: Looks) -> None:
    cache = make(url)
    for video in ("b", "a"):
        write(cache, video)
    facts = assert_true(url)
    assert list(facts.videos) == ["a", "b"]
    assert facts.videos["a"].source == {"path": "a.mp4", "bytes": 5, "mtime_ns": 7, "sha256": "ab" * 32}
    assert {facts.recipes[mark]["encoder"] for mark in facts.videos["a"].streams.values()} == {"image", "text"}
    assert looks.seen == []


def test_an_unfinished_video_is_looked_at_until_it_is_settled(url: str, looks: Looks) -> None:
    cache = make(url)
    write(cache, "a")
    writer = cache.writer("a", "text", kind="timeline", recipe=RECIPES["text"])
    assert set(assert_true(url).videos["a"].streams) == {"image"}
    assert looks.seen == ["a"]
    writer.append(np.ones((2, 3)), np.array([1, 2]))
    writer.finish()
    looks.seen.clear()
    assert set(assert_true(url).videos["a"].streams) == {"image", "text"}
    assert looks.seen == []


def test_replaced_dropped_and_abandoned_streams(url: str) -> None:
    cache = make(url)
    for video in ("a", "b", "c"):
        write(cache, video)
    cache.drop("a", ["text"])
    write(cache, "b", "image", recipe={"encoder": "new"})
    cache.drop("c", ["text", "image"])
    cache.abandon("c")
    facts = assert_true(url)
    assert set(facts.videos) == {"a", "b"}
    assert facts.recipes[facts.videos["b"].streams["image"]] == {"encoder": "new"}


def test_two_writers_of_one_video(url: str, looks: Looks) -> None:
    one, other = make(url), make(url)
    write(one, "a", "image")
    write(other, "a", "text")
    assert set(assert_true(url).videos["a"].streams) == {"image", "text"}
    assert looks.seen == ["a"], "the writers say different things"
    one.write_index()
    looks.seen.clear()
    assert_true(url)
    assert looks.seen == []


def test_folding_changes_nothing_but_the_files(url: str, looks: Looks) -> None:
    first, second = make(url), make(url)
    for number in range(6):
        write(first if number % 2 else second, f"v{number}")
    busy = make(url)
    busy.writer("v3", "text", kind="timeline", recipe=RECIPES["text"])
    for _ in range(3):
        reader = FeatureCache.open(url)
        looks.seen.clear()
        reader.write_index()
        assert looks.seen == ["v3"], "whoever is at work on it may go on at any time"
        assert_true(url)
    names = sorted(reader.index.signature())
    assert [n.partition("-")[0] for n in names] == ["base", "part"], "the busy writer's stays"
    write(busy, "v3")
    write(first, "v7")  # its part was folded and removed
    looks.seen.clear()
    assert set(assert_true(url).videos) == {*(f"v{n}" for n in range(6)), "v7"}


def test_the_folded_index_does_not_depend_on_who_wrote(tmp_path: Path) -> None:
    for name, order in (("one", range(5)), ("other", reversed(range(5)))):
        cache = make(tmp_path / name)
        for number in order:
            write(cache, f"v{number}")
        cache.write_index()
    one, other = (next((tmp_path / f"{n}.index").iterdir()).read_text().split("\n", 1)[1] for n in ("one", "other"))
    assert one == other
    assert one.count("\n") == 2 + 5


def test_killed_while_folding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is the last thing that it does to the index."""
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")
    cache.write_index()
    write(cache, "b")
    write(make(tmp_path / "c.zarr"), "a", "image", recipe={"encoder": "new"})
    saved = tmp_path / "saved.index"
    shutil.copytree(tmp_path / "c.zarr.index", saved)
    for steps in range(10):
        shutil.rmtree(tmp_path / "c.zarr.index")
        shutil.copytree(saved, tmp_path / "c.zarr.index")
        with monkeypatch.context() as patch:
            left = iter(range(steps))

            def dying(real: Callable[..., Any], left: Iterator[int] = left) -> Callable[..., Any]:
                def act(*args: Any) -> Any:
                    if next(left, None) is None:
                        raise KeyboardInterrupt
                    return real(*args)

                return act

            folder = cache_index.Folder
            patch.setattr(folder, "write", dying(folder.write))
            patch.setattr(folder, "delete", dying(folder.delete))
            reader = FeatureCache.open(tmp_path / "c.zarr")
            try:
                reader.write_index()
            except KeyboardInterrupt:
                pass
            else:
                assert steps >= 3
                return
        assert_true(tmp_path / "c.zarr")
    raise AssertionError("never came to the end")


def test_two_that_fold_at_once(url: str) -> None:
    """Each replaces what it read; what only one of them read is looked at, or is in that one's."""
    cache = make(url)
    write(cache, "a")
    slow = FeatureCache.open(url)
    found = slow.index.read()
    facts = truth(slow)
    write(make(url), "a", "image", recipe={"encoder": "new"})
    write(make(url), "b")
    fast = FeatureCache.open(url)
    fast.write_index()
    slow.index.fold(found, facts)
    assert set(assert_true(url).videos) == {"a", "b"}
    fast.write_index()
    assert len(fast.index.signature()) == 1
    assert set(assert_true(url).videos) == {"a", "b"}


def test_cut_anywhere(tmp_path: Path) -> None:
    """A part that is torn after any byte says less, and nothing wrong."""
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")
    cache.write_index()
    write(cache, "a", "image", recipe={"encoder": "new"})
    write(cache, "b")
    (part,) = (tmp_path / "c.zarr.index").glob("part-*")
    whole = part.read_bytes()
    begun = whole.index(b'{"id":"a"}\n') + len(b'{"id":"a"}\n')
    for length in range(begun, len(whole)):  # the announcement comes before any change of the video
        part.write_bytes(whole[:length])
        assert_true(tmp_path / "c.zarr")


@pytest.mark.parametrize("damage", ["removed", "emptied", "zeros", "not JSON", "of another cache"])
def test_an_index_that_is_lost_or_damaged(tmp_path: Path, damage: str) -> None:
    cache = make(tmp_path / "c.zarr")
    for video in ("a", "b"):
        write(cache, video)
    cache.write_index()
    (base,) = (tmp_path / "c.zarr.index").iterdir()
    if damage == "removed":
        shutil.rmtree(base.parent)
    elif damage == "of another cache":
        lines = base.read_bytes().split(b"\n", 1)
        base.write_bytes(json.dumps({"of": "1", "folded": {}}).encode() + b"\n" + lines[1].replace(b'"a"', b'"z"'))
    else:
        base.write_bytes({"emptied": b"", "zeros": bytes(500), "not JSON": b"[1]\n{]\n[]\n"}[damage])
    assert set(assert_true(tmp_path / "c.zarr").videos) == {"a", "b"}


def test_what_others_add_and_remove_is_seen_on_a_disk(tmp_path: Path) -> None:
    cache = make(tmp_path / "c.zarr")
    for video in ("a", "b"):
        write(cache, video)
    shutil.rmtree(tmp_path / "c.zarr/videos/a")
    shutil.copytree(tmp_path / "c.zarr/videos/b", tmp_path / "c.zarr/videos/new")
    assert set(assert_true(tmp_path / "c.zarr").videos) == {"b", "new"}


def test_a_cache_that_was_removed_leaves_nothing_to_the_next_one(url: str) -> None:
    write(make(url), "a")
    if url.startswith("memory"):
        fsspec.filesystem("memory").rm("/folder/c.zarr", recursive=True)
    else:
        shutil.rmtree(url)
    cache = make(url)
    cache.writer("a", "image", kind="timeline", recipe=RECIPES["image"])
    assert assert_true(url).videos == {}


def test_what_verify_or_a_reader_misses_is_looked_at_from_then_on(tmp_path: Path, looks: Looks) -> None:
    cache = make(tmp_path / "c.zarr")
    for video in ("a", "b", "c"):
        write(cache, video)
    for video in ("a", "b"):
        (tmp_path / f"c.zarr/videos/{video}/image/zarr.json").unlink()
    reader = FeatureCache.open(tmp_path / "c.zarr")
    assert "image" in reader.facts().videos["a"].streams, "the index is what it was"
    assert reader.verify("a")
    with pytest.raises(CacheError, match="no complete stream 'image'"):
        reader.find("b", ["image"])
    assert {v: set(one.streams) for v, one in assert_true(tmp_path / "c.zarr").videos.items()} == {
        "a": {"text"},
        "b": {"text"},
        "c": {"image", "text"},
    }
    assert looks.seen == ["a", "b"]


def test_damaged_metadata_is_told_and_never_indexed(tmp_path: Path) -> None:
    cache = make(tmp_path / "c.zarr")
    for video in ("a", "b"):
        write(cache, video)
    (tmp_path / "c.zarr/videos/a/zarr.json").write_text("{")
    cache.write_index(rebuild=True)
    for _ in range(2):
        facts = FeatureCache.open(tmp_path / "c.zarr").facts()
        assert set(facts.videos) == {"b"}
        with pytest.raises(CacheError, match=r"a: damaged metadata"):
            facts.check()


def test_a_part_on_an_object_store_stays_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_index, "LINES_PER_OBJECT", 4)
    fsspec.filesystem("memory").store.clear()
    cache = make("memory://c.zarr")
    for number in range(5):
        write(cache, f"v{number}")
    parts = [n for n in cache.index.signature() if n.startswith("part-")]
    assert len(parts) > 2
    assert len(assert_true("memory://c.zarr").videos) == 5


def test_an_index_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader does without; a writer that cannot announce a change does not make it."""
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_index.Folder, "write", full)
    monkeypatch.setattr(cache_index.Folder, "append", full)
    monkeypatch.setattr(cache_survey, "FOLD_FROM", 0)
    assert_true(tmp_path / "c.zarr")
    with pytest.raises(OSError, match="No space"):
        cache.drop("a", ["image"])
    assert cache.has("a", "image")


def test_after_a_torn_line_a_new_part_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")
    real = cache_index.Folder.append

    def torn(self: cache_index.Folder, name: str, value: bytes) -> bool:
        real(self, name, value[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_index.Folder, "append", torn)
        with pytest.raises(OSError, match="No space"):
            cache.drop("a", ["image"])
    cache.drop("a", ["image"])
    assert len(os.listdir(tmp_path / "c.zarr.index")) == 2
    assert set(assert_true(tmp_path / "c.zarr").videos["a"].streams) == {"text"}


def test_many_runs_on_a_small_cache_leave_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_survey, "READ_ALL_LOCAL", 10)
    for run in range(2 * cache_survey.MAX_FILES):
        cache = make(tmp_path / "c.zarr")
        cache.facts()
        write(cache, f"v{run % 3}", recipe={"run": run})
    assert len(os.listdir(tmp_path / "c.zarr.index")) <= cache_survey.MAX_FILES + 1
    monkeypatch.setattr(cache_survey, "READ_ALL_LOCAL", 0)
    assert set(assert_true(tmp_path / "c.zarr").videos) == {"v0", "v1", "v2"}


def test_a_large_cache_is_read_once(tmp_path: Path, looks: Looks) -> None:
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")
    reader = FeatureCache.open(tmp_path / "c.zarr")
    assert reader.facts() is reader.facts()
    write(cache, "b")
    assert set(reader.facts().videos) == {"a", "b"}, "and again when there is something new"


# ------------------------------------------------------------------ a fold while others write


@pytest.mark.parametrize("moment", ["before it is moved", "after it is moved", "while the line is written"])
def test_an_announcement_in_the_middle_of_a_fold_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A writer with nothing open announces a video while its part is removed, removes a stream and is killed."""
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")
    reader = FeatureCache.open(tmp_path / "c.zarr")
    folder = cache_index.Folder
    announced = []

    def announce() -> None:
        if not announced:
            announced.append(True)
            cache.index.begin("a")

    def act_before(name: str) -> None:
        real = getattr(folder, name)

        def act(self: cache_index.Folder, *args: Any) -> Any:
            if self is reader.index.folder:
                announce()
            return real(self, *args)

        monkeypatch.setattr(folder, name, act)

    if moment == "while the line is written":  # the file is open, the whole fold happens, then comes the write
        real_write, found = os.write, reader.index.read()

        def late(file: int, value: Any) -> int:
            if bytes(value) == b'{"id":"a"}\n' and not announced:
                announced.append(True)
                reader.index.fold(found, truth(reader))
            return real_write(file, value)

        monkeypatch.setattr("shared.cache.folder.os.write", late)
        cache.index.begin("a")
    else:
        act_before("retire" if moment == "before it is moved" else "delete")
        reader.write_index()
    assert announced
    cache._remove("a", "text")  # what ``drop`` does after the announcement
    assert set(assert_true(tmp_path / "c.zarr").videos["a"].streams) == {"image"}


def test_a_part_that_a_killed_fold_moved_away_still_counts(tmp_path: Path) -> None:
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")
    reader = FeatureCache.open(tmp_path / "c.zarr")
    reader.write_index()
    write(cache, "b")
    cache.index.begin("a")
    (part,) = (tmp_path / "c.zarr.index").glob("part-*")
    part.rename(f"{part}.gone")
    cache._remove("a", "text")
    assert set(assert_true(tmp_path / "c.zarr").videos) == {"a", "b"}
    cache.index.settle("a", None, {})
    cache.abandon("a")
    FeatureCache.open(tmp_path / "c.zarr").write_index()


def test_a_run_of_more_than_a_week_is_alive_as_long_as_it_writes(tmp_path: Path) -> None:
    cache = make(tmp_path / "c.zarr")
    cache.index._writer = "20200101T000000-" + "a" * 12
    write(cache, "a")
    cache.index.begin("a")
    FeatureCache.open(tmp_path / "c.zarr").write_index()
    cache._remove("a", "text")
    assert set(assert_true(tmp_path / "c.zarr").videos["a"].streams) == {"image"}
    (part,) = (tmp_path / "c.zarr.index").glob("part-*")
    os.utime(part, (1.6e9, 1.6e9))
    FeatureCache.open(tmp_path / "c.zarr").write_index()
    assert not part.exists(), "nobody has written to it for years"


# ------------------------------------------------------------------ what others have put there


def test_files_of_others_are_left_alone(url: str) -> None:
    fs, path = fsspec.url_to_fs(url + ".index")
    fs.makedirs(path, exist_ok=True)
    theirs = ("faiss.bin", "train.jsonl", "base-1.jsonl", "part-of.jsonl", "base-20200101T000000-abc.jsonl")
    for name in theirs:
        fs.pipe_file(f"{path}/{name}", b"theirs")
    cache = make(url)
    write(cache, "a")
    cache.write_index()
    cache.write_index(rebuild=True)
    assert all(fs.cat_file(f"{path}/{name}") == b"theirs" for name in theirs)
    assert set(assert_true(url).videos) == {"a"}


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (theirs := tmp_path / "docs" / f"base-20200101T000000-{'a' * 12}.jsonl").write_text("theirs")
    (tmp_path / "c.zarr.index").symlink_to("docs")
    with pytest.raises(CacheError, match=r"c\.zarr\.index is a link to another folder"):
        make(tmp_path / "c.zarr")
    assert theirs.read_text() == "theirs"


@pytest.mark.parametrize(
    "change",
    [
        {"frames": "x"},
        {"frames": -1},
        {"source": {"bytes": "5"}},
        {"streams": {"text": "unknown"}},
        {"truncated": 3},
        {"leading": "all"},
        {"shown": 3},
    ],
)
def test_a_row_with_values_that_nobody_writes_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = make(tmp_path / "c.zarr")
    write(cache, "a")
    cache.write_index()
    (base,) = (tmp_path / "c.zarr.index").iterdir()
    *lines, row = base.read_text().splitlines()
    lines += [json.dumps({**json.loads(row), **change}), "[" * 100_000, '{"id":7}']
    base.write_text("\n".join(lines) + "\n")
    assert set(assert_true(tmp_path / "c.zarr").videos) == {"a"}
    base.write_text("[" * 100_000 + "\n")
    assert set(assert_true(tmp_path / "c.zarr").videos) == {"a"}
