"""The feature cache: its schema, and its promises when writers die and disks rot."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import shared.cache.arrays
from shared.cache import CacheError, FeatureCache, RecipeMismatch, StreamData, VideoInfo
from shared.cache import nodes as cache_nodes
from shared.cache.local import sweep, write_file
from shared.windows import WindowSpec

SPEC = WindowSpec(8, 4, {"video": 4, "image": 4, "text": 2})
RECIPES: dict[str, dict[str, Any]] = {s: {"encoder": s, "seed": 0} for s in ("video", "image", "text")}
KINDS = {"video": "window", "image": "timeline", "text": "timeline"}
FRAMES = 20
CAPTIONS = ["a dog 😀", "two\nlines\r\n", "", "nul\x00here", "日本語", "tab\t\u2028"]


def make_info(num_frames: int = FRAMES, **source: Any) -> VideoInfo:
    origin = {"path": "a/v.mp4", "bytes": 123, "sha256": "ab" * 32, **source}
    return VideoInfo(origin, 25.0, num_frames, 320, 240, 90, "av 14 h264", np.arange(num_frames) / 25)


def rows_of(stream: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, list[str] | None]:
    plan, rng = SPEC.plan(FRAMES), np.random.default_rng(seed)
    if stream == "video":
        return rng.standard_normal((len(plan), 4, 6), dtype=np.float32), None, None
    frames = plan.unique[stream].astype(np.int32)
    captions = [f"{CAPTIONS[i % 6]}{seed or ''}" for i in range(len(frames))] if stream == "text" else None
    return rng.standard_normal((len(frames), 6), dtype=np.float32), frames, captions


def write_stream(cache: FeatureCache, video: str, stream: str, seed: int = 0) -> None:
    writer = cache.writer(video, stream, kind=KINDS[stream], recipe=RECIPES[stream])
    writer.append(*rows_of(stream, seed))
    writer.finish()


def write_video(cache: FeatureCache, video: str, seed: int = 0) -> None:
    cache.write_info(video, make_info())
    for stream in KINDS:
        write_stream(cache, video, stream, seed)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.zarr"


@pytest.fixture
def cache(path: Path) -> FeatureCache:
    return FeatureCache.create(path, dataset="data", window=SPEC)


@pytest.fixture
def full(cache: FeatureCache) -> FeatureCache:
    write_video(cache, "a")
    write_video(cache, "b", seed=1)
    return cache


# ---------------------------------------------------------------------- schema


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    fsspec.filesystem("memory").store.clear()
    return f"{tmp_path}/c.zarr" if request.param == "local" else "memory://folder/c.zarr"


def test_schema_with_plain_zarr(url: str) -> None:
    write_video(FeatureCache.create(url, dataset="data", window=SPEC, made_with={"preset": "tiny"}), "a")
    root = zarr.open(url, mode="r")
    assert isinstance(root, zarr.Group)
    assert dict(root.attrs) == {
        "format": "crossgru-cache",
        "format_version": 1,
        "dataset": "data",
        "window": {"size": 8, "stride": 4, "samples": {"image": 4, "text": 2, "video": 4}, "sampling": "centers"},
        "made_with": {"preset": "tiny"},
        "seal": root.attrs["seal"],
    }
    video: Any = root["videos/a"]
    attrs = dict(video.attrs)
    assert set(attrs.pop("checksums")) == {"pts", "attributes"}
    assert attrs == {
        "source": {"path": "a/v.mp4", "bytes": 123, "sha256": "ab" * 32},
        "fps": 25.0,
        "num_frames": 20,
        "width": 320,
        "height": 240,
        "rotation": 90,
        "decoder": "av 14 h264",
        "missing_frames": 0,
    }
    assert sorted(video.keys()) == ["image", "pts", "text", "video"]
    assert video["pts"].dtype == np.float64
    assert video["pts"][:].tolist() == (np.arange(20) / 25).tolist()
    arrays = {"video": ["features"], "image": ["features", "frames"], "text": ["captions", "features", "frames"]}
    for stream, names in arrays.items():
        group, (features, frames, captions) = video[stream], rows_of(stream)
        assert sorted(group.keys()) == names
        marks = dict(group.attrs)
        assert (marks["kind"], marks["recipe"], marks["complete"]) == (KINDS[stream], RECIPES[stream], True)
        assert sorted(marks["checksums"]) == names
        assert len(marks["fingerprint"]) == 16
        assert group["features"].dtype == np.float16
        assert group["features"].chunks == group["features"].shape
        np.testing.assert_array_equal(group["features"][...], features.astype(np.float16))
        if frames is not None:
            assert group["frames"].dtype == np.int32
            np.testing.assert_array_equal(group["frames"][...], frames)
        if captions is not None:
            assert group["captions"][...].tolist() == [c.replace("\x00", " ") for c in captions]


def test_what_is_written_is_read(url: str) -> None:
    written = FeatureCache.create(url, dataset="data", window=SPEC)
    write_video(written, "b")
    write_video(written, "a", seed=1)
    reader = FeatureCache.open(url)
    assert (reader.dataset, reader.window, reader.url) == ("data", SPEC, url)
    assert reader.video_ids() == reader.group_ids() == ["a", "b"]
    assert reader.streams("a") == RECIPES
    info = reader.info("a")
    assert info is not None
    assert info.attrs() == make_info().attrs()
    np.testing.assert_array_equal(info.pts, make_info().pts)
    for stream in KINDS:
        features, frames, _ = rows_of(stream, seed=1)
        data = reader.read("a", stream, RECIPES[stream])
        assert (data.kind, data.recipe) == (KINDS[stream], RECIPES[stream])
        assert data.features.dtype == np.float16
        np.testing.assert_array_equal(data.features, features.astype(np.float16))
        assert (data.frames is None) == (frames is None)
        assert (data.captions is None) == (stream != "text")
    assert reader.verify("a") == reader.verify("b") == []


def test_nothing_there(path: Path, cache: FeatureCache) -> None:
    for one in (cache, FeatureCache.open(path)):
        assert one.video_ids() == one.group_ids() == []
        assert one.streams("a") == {}
        assert one.info("a") is None
        assert not one.has("a", "video")
        with pytest.raises(CacheError, match="no complete stream 'video' for video 'a'"):
            one.read("a", "video")
        assert one.verify("a") == ["a: unfinished video group (it will be redone by the next extract run)"]
    cache.abandon("a")
    cache.drop("a", ["video"])


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    for url in ("s3://KEY:s3cr3t@bucket/c.zarr", "https://name:s3cr3t@host/c.zarr", "s3://s3cr3t@bucket/c.zarr"):
        for act in (FeatureCache.open, lambda u: FeatureCache.create(u, dataset="data", window=SPEC)):
            with pytest.raises(CacheError, match="credentials in it") as caught:
                act(url)
            assert "s3cr3t" not in str(caught.value)
            assert "KEY" not in str(caught.value).replace("ACCESS_KEY", "")


def test_ids_that_differ_by_case_or_look_odd(cache: FeatureCache) -> None:
    names = ["A", "a", "a b", "é 日本.mp4", "122-60-1920x1080-3", "c", "0"]
    for seed, name in enumerate(names):
        write_video(cache, name, seed)
    assert cache.video_ids() == sorted(names)
    for seed, name in enumerate(names):
        wanted = rows_of("image", seed)[0].astype(np.float16)
        np.testing.assert_array_equal(cache.read(name, "image").features, wanted)
        assert cache.verify(name) == []


@pytest.mark.parametrize("name", ["../x", "..", "/etc/x", "a\x00", "x" * 300, "zarr.json", "pts", "", "a\udcff", ".a"])
def test_unsafe_ids_are_refused(path: Path, cache: FeatureCache, name: str) -> None:
    before = snapshot(path.parent)
    actions: list[Callable[[str], Any]] = [
        lambda n: cache.writer(n, "video", kind="window", recipe={}),
        lambda n: cache.writer("a", n, kind="window", recipe={}),
        lambda n: cache.write_info(n, make_info()),
        lambda n: cache.has(n, "video"),
        lambda n: cache.has("a", n),
        lambda n: cache.read(n, "video"),
        lambda n: cache.streams(n),
        lambda n: cache.info(n),
        lambda n: cache.abandon(n),
        lambda n: cache.drop(n, ["video"]),
        lambda n: cache.drop("a", [n]),
        lambda n: cache.verify(n),
    ]
    for action in actions:
        with pytest.raises(CacheError, match=r"id|empty"):
            action(name)
    assert snapshot(path.parent).keys() - before.keys() <= {"data.zarr/videos/a/zarr.json"}


# ---------------------------------------------------------------------- chunks


def test_layout_does_not_depend_on_how_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.cache.arrays, "CHUNK_BYTES", 10 * 2 * 6)  # 10 rows of a timeline
    rng = np.random.default_rng(0)
    for total in (0, 1, 9, 10, 11, 20, 21, 47):
        features, frames = rng.standard_normal((total, 6)), np.arange(total) * 3
        states = []
        for i, step in enumerate((max(total, 1), 1, 3, 10, 20)):
            cache = FeatureCache.create(tmp_path / f"{total}-{i}.zarr", dataset="d", window=SPEC)
            cache.write_info("a", make_info())
            writer = cache.writer("a", "image", kind="timeline", recipe={})
            for at in range(0, max(total, 1), step):
                writer.append(features[at : at + step], frames[at : at + step])
                assert sum(map(len, writer._pending)) <= max(10, step)  # memory does not grow with the video
            writer.finish()
            states.append(snapshot(tmp_path / f"{total}-{i}.zarr" / "videos"))
            array: Any = zarr.open(tmp_path / f"{total}-{i}.zarr", mode="r")["videos/a/image/features"]  # type: ignore[index]
            assert array.shape == (total, 6)
            assert array.chunks[0] == max(1, min(10, total))
            np.testing.assert_array_equal(cache.read("a", "image").features, features.astype(np.float16))
            assert cache.verify("a") == []
        assert all(state == states[0] for state in states)


def test_real_chunk_limit(cache: FeatureCache, path: Path) -> None:
    cache.write_info("a", make_info())
    writer = cache.writer("a", "video", kind="window", recipe={})
    block = np.ones((40, 16, 768), np.float32)
    for i in range(9):
        writer.append(block * i)
    writer.finish()
    array: Any = zarr.open(path, mode="r")["videos/a/video/features"]  # type: ignore[index]
    assert array.shape == (360, 16, 768)
    assert array.chunks == (8 * 2**20 // (2 * 16 * 768), 16, 768)
    assert array.nchunks == 2
    assert (cache.read("a", "video").features[:, 0, 0] == np.repeat(np.arange(9), 40)).all()
    assert cache.verify("a") == []


def test_rows_are_copied(cache: FeatureCache) -> None:
    cache.write_info("a", make_info())
    writer = cache.writer("a", "image", kind="timeline", recipe={})
    buffer, frames = np.zeros((2, 6), np.float16), np.array([0, 1], np.int32)
    for i in range(3):
        buffer[:], frames[:] = i, [2 * i, 2 * i + 1]
        writer.append(buffer, frames)
    writer.finish()
    data = cache.read("a", "image")
    assert data.frames is not None
    assert data.features[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert data.frames.tolist() == list(range(6))


@pytest.mark.parametrize("captions", [["", "", ""], [], None])
def test_empty_captions(cache: FeatureCache, captions: list[str] | None) -> None:
    count = len(captions or [])
    cache.write_info("a", make_info())
    writer = cache.writer("a", "text", kind="timeline", recipe={})
    writer.append(np.zeros((count, 6)), np.arange(count), captions)
    writer.finish()
    assert cache.read("a", "text").captions == captions
    assert cache.verify("a") == []


def test_thumbnails_beside_captions(cache: FeatureCache) -> None:
    cache.write_info("a", make_info())
    writer = cache.writer("a", "text", kind="timeline", recipe={})
    writer.append(np.zeros((2, 6)), np.arange(2), ["one", "two"], ["/9j/4AAQ", "/9j/4BBQ"])
    with pytest.raises(CacheError, match="all rows or to none"):
        writer.append(np.zeros((1, 6)), np.array([2]), ["three"])
    writer.finish()
    assert cache.read("a", "text").thumbnails == ["/9j/4AAQ", "/9j/4BBQ"]
    assert cache.read("a", "text").captions == ["one", "two"]
    assert cache.verify("a") == []


def test_what_a_cache_was_made_with_stays(cache: FeatureCache) -> None:
    again = FeatureCache.create(cache.url, dataset=cache.dataset, window=cache.window, made_with={"preset": "other"})
    assert again.made_with == cache.made_with == {}


def test_a_stream_without_any_rows(cache: FeatureCache) -> None:
    cache.write_info("a", make_info())
    cache.writer("a", "image", kind="timeline", recipe={}).finish()
    cache.writer("a", "video", kind="window", recipe={}).finish()
    assert len(cache.read("a", "image").features) == len(cache.read("a", "video").features) == 0
    assert cache.verify("a") == []


def test_captions_with_lone_surrogates_are_storable(cache: FeatureCache) -> None:
    cache.write_info("a", make_info())
    writer = cache.writer("a", "text", kind="timeline", recipe={})
    writer.append(np.zeros((1, 6)), np.zeros(1, int), ["bad \ud800 \x00 end"])
    writer.finish()
    assert cache.read("a", "text").captions == ["bad ?   end"]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("value", "why"), [(np.nan, "NaN"), (-np.inf, "infinity"), (1e5, "1e.05, too large for float16")]
)
def test_values_that_are_no_float16(cache: FeatureCache, value: float, why: str) -> None:
    cache.write_info("a", make_info())
    for stream, place in (("video", "window 7"), ("image", "row of frame 92")):
        writer = cache.writer("a", stream, kind=KINDS[stream], recipe={})
        shape = (5, 4, 6) if stream == "video" else (5, 6)
        good, bad = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        bad[2, ..., 3] = value
        bad[4] = value
        frames = np.arange(5) if stream == "image" else None
        writer.append(good, frames)
        with pytest.raises(CacheError, match=f"a/{stream}: {place} holds .*{why}"):
            writer.append(bad, None if frames is None else frames + 90)
        assert not cache.has("a", stream)


def test_float16_limits_are_kept(cache: FeatureCache) -> None:
    cache.write_info("a", make_info())
    writer = cache.writer("a", "image", kind="timeline", recipe={})
    values = np.array([[65504, -65504, 6e-8, -0.0, 1e-12, 1]])
    writer.append(values, np.zeros(1, int))
    writer.finish()
    np.testing.assert_array_equal(cache.read("a", "image").features, values.astype(np.float16))


def test_shapes_are_checked(cache: FeatureCache) -> None:
    writer = cache.writer("a", "text", kind="timeline", recipe={})
    writer.append(np.zeros((2, 6)), np.arange(2), ["a", "b"])
    for features, frames, captions in [
        (np.zeros((2, 7)), np.arange(2), ["a", "b"]),
        (np.zeros((2, 6, 1)), np.arange(2), ["a", "b"]),
        (np.zeros((2, 6)), np.arange(3), ["a", "b"]),
        (np.zeros((2, 6)), np.arange(2), ["a"]),
        (np.zeros((2, 6)), np.arange(2), None),
        (np.zeros((2, 6)), None, ["a", "b"]),
    ]:
        with pytest.raises(CacheError, match="a/text"):
            writer.append(features, frames, captions)
    with pytest.raises(CacheError, match=r"a/video: expected features of shape \(n, T, D\), found \(2, 6\)"):
        cache.writer("a", "video", kind="window", recipe={}).append(np.zeros((2, 6)))


def test_recipe_mismatch_has_a_diff_and_both_ways_out(full: FeatureCache) -> None:
    other = {"encoder": "image", "seed": 1, "model": "L"}
    for ask in (full.has, full.read, FeatureCache.open(full.url).has):
        with pytest.raises(RecipeMismatch) as caught:
            ask("a", "image", other)
        text = str(caught.value)
        assert 'model: cache has nothing, asked for "L"' in text
        assert "seed: cache has 0, asked for 1" in text
        assert "encoder" not in text
        assert "--cache NEW.zarr" in text
        assert "--overwrite image" in text
    writer = full.writer("a", "image", kind="timeline", recipe=other)  # the second way out
    writer.append(*rows_of("image"))
    writer.finish()
    assert full.has("a", "image", other)
    assert full.has("b", "image", RECIPES["image"])


def test_cache_of_other_windows_or_data(full: FeatureCache, path: Path) -> None:
    before = snapshot(path)
    with pytest.raises(RecipeMismatch, match=r"window.stride: cache has 4, asked for 2\n.*--cache NEW.zarr"):
        FeatureCache.create(path, dataset="data", window=WindowSpec(8, 2, SPEC.samples))
    with pytest.raises(RecipeMismatch, match='dataset: cache has "data", asked for "other"'):
        FeatureCache.create(path, dataset="other", window=SPEC)
    assert FeatureCache.create(path, dataset="data", window=SPEC).video_ids() == ["a", "b"]
    assert snapshot(path) == before


@pytest.mark.parametrize("change", [{"sha256": "cd" * 32}, {"bytes": 124}, {"num_frames": FRAMES + 1}])
def test_a_changed_file_is_refused_when_a_stream_is_added(cache: FeatureCache, path: Path, change: dict) -> None:
    cache.write_info("a", make_info())
    write_stream(cache, "a", "video")
    before = snapshot(path)
    with pytest.raises(CacheError, match=r"'a'.*--overwrite all"):
        cache.write_info("a", make_info(**change))
    assert snapshot(path) == before
    cache.drop("a", ["video"])  # nothing is left of the old file: the new one may come
    cache.write_info("a", make_info(**change))
    info = cache.info("a")
    assert info is not None
    assert info.attrs() == make_info(**change).attrs()
    assert len(info.pts) == info.num_frames


def test_adding_a_stream_leaves_the_others_as_they_are(cache: FeatureCache, path: Path) -> None:
    for name in ("a", "b"):
        cache.write_info(name, make_info())
        write_stream(cache, name, "video")
    before = snapshot(path)
    again = FeatureCache.create(path, dataset="data", window=SPEC)
    again.write_info("a", make_info())
    write_stream(again, "a", "text")
    after = snapshot(path)
    assert {k: v for k, v in after.items() if not k.startswith("videos/a/text/")} == before
    assert set(again.streams("a")) == {"video", "text"}
    assert set(again.streams("b")) == {"video"}
    again.drop("a", ["text"])
    assert snapshot(path) == before


# ---------------------------------------------------------------------- window_rows


def test_window_rows_gather_the_frames_of_a_plan(full: FeatureCache) -> None:
    plan = SPEC.plan(FRAMES)
    image = full.read("a", "image")
    rows = image.window_rows(plan, "image")
    assert image.frames is not None
    assert rows.shape == (len(plan), 4)
    assert (image.frames[rows] == plan.frames["image"]).all()
    coarse = WindowSpec(8, 8, SPEC.samples).plan(FRAMES)  # another window that needs no other frames
    assert (image.frames[image.window_rows(coarse, "image")] == coarse.frames["image"]).all()
    video = full.read("a", "video")
    flat = video.features.reshape(-1, 6)
    np.testing.assert_array_equal(flat[video.window_rows(plan, "video")], video.features)


def test_windows_that_were_not_extracted(full: FeatureCache) -> None:
    fine = WindowSpec(8, 1, SPEC.samples).plan(FRAMES)
    with pytest.raises(CacheError, match=r"'image' lacks \d+ of the frames that the window needs \(first: \d+\)"):
        full.read("a", "image").window_rows(fine, "image")
    with pytest.raises(CacheError, match="cached as 4 windows of 4 samples, the window asked for needs 13 of 4"):
        full.read("a", "video").window_rows(fine, "video")
    with pytest.raises(CacheError, match="no samples of stream 'image'; it has text"):
        full.read("a", "image").window_rows(WindowSpec(8, 4, {"text": 2}).plan(FRAMES), "image")
    empty = StreamData("timeline", {}, np.zeros((0, 6), np.float16), np.zeros(0, np.int32))
    with pytest.raises(CacheError, match="lacks"):
        empty.window_rows(fine, "image")


# ---------------------------------------------------------------------- what else may be at the place


def test_nothing_or_something_else_is_there(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no feature cache at .*: nothing was extracted yet"):
        FeatureCache.open(tmp_path / "none.zarr")
    with pytest.raises(CacheError, match="no feature cache at memory://none"):
        FeatureCache.open("memory://none/at/all.zarr")
    zarr.create_group(tmp_path / "other.zarr", attributes={"title": "mine"})
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="i4")
    zarr.create_group(tmp_path / "members.zarr").create_array("x", shape=(3,), dtype="i4")
    (tmp_path / "file.zarr").write_bytes(b"PK")
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "precious.mp4").touch()
    (tmp_path / "data.zarr" / "videos").mkdir(parents=True)
    (tmp_path / "data.zarr" / "videos" / "precious.mp4").touch()
    before = snapshot(tmp_path)
    for name in ("other", "array", "members", "file", "folder", "data"):
        place = tmp_path / f"{name}.zarr"
        with pytest.raises(CacheError, match=f"{name}.zarr"):
            FeatureCache.create(place, dataset="data", window=SPEC)
        with pytest.raises(CacheError, match=f"{name}.zarr"):
            FeatureCache.open(place)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (7, "format version 7, this version of crossgru reads 1; use a newer crossgru"),
        (0, "format version 0, this version of crossgru reads 1; use an older crossgru"),
        (None, "has no format_version, expected 1, found None"),
        ("1", "has no format_version, expected 1, found '1'"),
        (True, "has no format_version, expected 1, found True"),
    ],
)
def test_other_format_versions(cache: FeatureCache, path: Path, version: Any, message: str) -> None:
    root = zarr.open_group(path, mode="r+")
    if version is None:
        del root.attrs["format_version"]
    else:
        root.attrs["format_version"] = version
    for act in (FeatureCache.open, lambda p: FeatureCache.create(p, dataset="data", window=SPEC)):
        with pytest.raises(CacheError, match=message):
            act(path)


# ---------------------------------------------------------------------- crashes


CrashAfter = Callable[[int | None], None]


class Crash(Exception):
    """The machine died."""


@pytest.fixture(params=["metadata first", "data first"])
def crash_after(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CrashAfter:
    """Let a number of writes and removals through, then fail all."""
    left: dict[str, int | None] = {"count": None}
    real_set, real_write, real_remove = LocalStore._set, cache_nodes.write_file, cache_nodes.remove_folder

    def spend() -> None:
        if left["count"] is not None:
            left["count"] -= 1
            if left["count"] < 0:
                raise Crash

    async def failing_set(self: LocalStore, *args: Any, **kwargs: Any) -> None:
        spend()
        await real_set(self, *args, **kwargs)

    def failing_write(*args: Any, **kwargs: Any) -> None:
        spend()
        real_write(*args, **kwargs)

    def failing_remove(folder: str) -> None:
        try:
            spend()
        except Crash:
            for file in Path(folder).rglob("*"):  # a removal that is cut short
                if file.is_file() and (file.name == "zarr.json") == (request.param == "metadata first"):
                    file.unlink()
            raise
        real_remove(folder)

    monkeypatch.setattr(LocalStore, "_set", failing_set)  # zarr's own writes: the chunks of long arrays
    monkeypatch.setattr(cache_nodes, "write_file", failing_write)
    monkeypatch.setattr(cache_nodes, "remove_folder", failing_remove)
    return lambda count: left.update(count=count)


def assert_equal_caches(one: Path, other: Path) -> None:
    assert snapshot(one) == snapshot(other)


def crash_everywhere(act: Callable[[], None], crash_after: CrashAfter, check: Callable[[], None]) -> int:
    for count in range(200):
        crash_after(count)
        try:
            act()
        except Crash:
            crash_after(None)
            check()
        else:
            crash_after(None)
            return count
    raise AssertionError("never came to the end")


@pytest.mark.parametrize("crash_after", ["metadata first"], indirect=True)
def test_killed_while_writing_a_video(tmp_path: Path, crash_after: CrashAfter) -> None:
    clean = FeatureCache.create(tmp_path / "clean.zarr", dataset="data", window=SPEC)
    write_video(clean, "a")
    place = tmp_path / "crash.zarr"
    partly = set()

    def act() -> None:
        shutil.rmtree(place, ignore_errors=True)
        write_video(FeatureCache.create(place, dataset="data", window=SPEC), "a")

    def check() -> None:
        if (place / "zarr.json").exists():
            reader = FeatureCache.open(place)
            for stream in KINDS:
                if reader.has("a", stream):
                    np.testing.assert_array_equal(reader.read("a", stream).features, clean.read("a", stream).features)
                    assert reader.info("a") is not None
            partly.add(tuple(reader.streams("a")))
            assert bool(reader.streams("a")) == (reader.video_ids() == ["a"])
        resumed = FeatureCache.create(place, dataset="data", window=SPEC)
        missing = [s for s in KINDS if not resumed.has("a", s, RECIPES[s])]
        resumed.write_info("a", make_info())
        for stream in missing:
            write_stream(resumed, "a", stream)
        assert resumed.verify("a") == []
        assert_equal_caches(place, tmp_path / "clean.zarr")

    assert crash_everywhere(act, crash_after, check) > 20
    assert partly == {(), ("video",), ("image", "video")}


def test_killed_while_a_stream_is_replaced_or_removed(full: FeatureCache, path: Path, crash_after: CrashAfter) -> None:
    saved = path.with_name("saved.zarr")
    shutil.copytree(path, saved)

    def restore() -> FeatureCache:
        shutil.rmtree(path)
        shutil.copytree(saved, path)
        return FeatureCache.create(path, dataset="data", window=SPEC)

    def replace() -> None:
        cache = restore()
        writer = cache.writer("a", "text", kind="timeline", recipe={"encoder": "new"})  # without captions
        writer.append(*rows_of("text", seed=5)[:2])
        writer.finish()

    def check() -> None:
        reader = FeatureCache.open(path)
        if reader.has("a", "text"):  # old and whole, or not there
            assert reader.read("a", "text", RECIPES["text"]).captions is not None
            assert reader.verify("a") == []
        assert set(reader.streams("a")) >= {"video", "image"}
        cache = FeatureCache.create(path, dataset="data", window=SPEC)
        writer = cache.writer("a", "text", kind="timeline", recipe={"encoder": "new"})
        writer.append(*rows_of("text", seed=5)[:2])
        writer.finish()
        assert cache.read("a", "text").captions is None
        assert cache.verify("a") == []
        assert not (path / "videos/a/text/captions").exists()

    assert crash_everywhere(replace, crash_after, check) > 5


def test_create_mends_what_an_older_version_left_half_made(tmp_path: Path) -> None:
    for i, members in enumerate(([], ["videos"])):
        place = tmp_path / f"{i}.zarr"
        root = zarr.create_group(place)
        for name in members:
            root.create_group(name)
        with pytest.raises(CacheError, match="not a crossgru cache"):
            FeatureCache.open(place)
        FeatureCache.create(place, dataset="data", window=SPEC)
        assert FeatureCache.open(place).window == SPEC


def test_leftovers_in_folders_do_no_harm(full: FeatureCache, path: Path) -> None:
    for place in (path, path / "videos", path / "videos/a", path / "videos/a/image"):
        (place / ".DS_Store").touch()
        (place / "zarr.0123456789abcdef.partial").touch()  # a killed write
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = FeatureCache.open(path)
        assert reader.video_ids() == reader.group_ids() == ["a", "b"]
        assert reader.streams("a") == RECIPES
        assert reader.verify("a") == []
        FeatureCache.create(path, dataset="data", window=SPEC).abandon("a")


def test_unfinished_streams_do_not_exist_for_readers(full: FeatureCache, path: Path) -> None:
    full.write_info("c", make_info())
    full.writer("c", "video", kind="window", recipe={}).append(*rows_of("video"))
    full.writer("a", "text", kind="timeline", recipe={})  # removes the complete one at once
    full.writer("d", "text", kind="timeline", recipe={})
    reader = FeatureCache.open(path)
    assert reader.video_ids() == ["a", "b"]
    assert reader.group_ids() == ["a", "b", "c", "d"]
    assert list(reader.streams("a")) == ["image", "video"]
    assert not reader.has("a", "text", {"other": 1})
    with pytest.raises(CacheError, match="no complete stream"):
        reader.read("c", "video")
    assert reader.verify("a") == ["a/text: unfinished stream (it will be redone by the next extract run)"]
    assert "unfinished" in reader.verify("c")[0]
    for name in "abcd":
        full.abandon(name)
    assert full.group_ids() == ["a", "b"]
    assert full.verify("a") == []
    assert not (path / "videos/a/text").exists()
    full.drop("a", ["image", "video", "text"])
    assert full.video_ids() == ["b"]
    full.abandon("a")
    assert not (path / "videos/a").exists()


# ---------------------------------------------------------------------- damage


def chunk_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.name != "zarr.json")


CHUNKS = [
    f"{s}/{a}"
    for s, arrays in {"video": ["features"], "text": ["features", "frames", "captions"]}.items()
    for a in arrays
]


@pytest.mark.parametrize("array", ["pts", *CHUNKS])
def test_verify_finds_every_flipped_byte(full: FeatureCache, path: Path, array: str) -> None:
    (file,) = chunk_files(path / "videos/a" / array)
    good = file.read_bytes()
    for at in sorted({0, 1, 2, 3, 4, len(good) // 3, len(good) // 2, *range(len(good) - 6, len(good))}):
        for mask in (1, 0x80, 0xFF):
            file.write_bytes(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
            problems = full.verify("a")
            assert len(problems) == 1, (at, mask)
            assert problems[0].startswith(f"a/{array}: "), (at, mask)
    file.write_bytes(good)
    assert full.verify("a") == []
    assert full.verify("b") == []


@pytest.mark.parametrize("array", ["pts", *CHUNKS])
@pytest.mark.parametrize("keep", [None, 0, 1, 0.5, -1])
def test_lost_and_truncated_chunks(full: FeatureCache, path: Path, array: str, keep: float | None) -> None:
    (file,) = chunk_files(path / "videos/a" / array)
    good = file.read_bytes()
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(good[: int(keep if keep in (0, 1, -1) else keep * len(good))])
    assert [p.startswith(f"a/{array}: ") for p in full.verify("a")] == [True]
    with pytest.raises(CacheError, match=f"a/{array}: .*(damaged|lost).*python -m extract verify.*--overwrite"):
        full.info("a") if array == "pts" else full.read("a", array.split("/")[0])
    assert full.verify("b") == []


def test_one_lost_chunk_of_several(cache: FeatureCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.cache.arrays, "CHUNK_BYTES", 2 * 2 * 6)
    write_video(cache, "a")
    files = chunk_files(path / "videos/a/image/features")
    assert len(files) > 3
    files[2].unlink()
    assert (
        cache.verify("a") == [p for p in cache.verify("a") if p.startswith("a/image/features: a chunk is lost")] != []
    )
    with pytest.raises(CacheError, match="a/image/features: a chunk is lost"):
        cache.read("a", "image")


@pytest.mark.parametrize("array", ["video/features", "text/features", "text/captions"])
def test_verify_finds_arrays_swapped_between_videos(full: FeatureCache, path: Path, array: str) -> None:
    places = [path / "videos" / v / array for v in "ab"]
    places[0].rename(path / "spare")
    places[1].rename(places[0])
    (path / "spare").rename(places[1])
    for video in "ab":
        assert full.verify(video) == [f"{video}/{array}: sha256 differs from the one stored when it was written"]


def test_verify_finds_missing_arrays_and_metadata(full: FeatureCache, path: Path) -> None:
    shutil.rmtree(path / "videos/a/text/frames")
    (path / "videos/a/image/zarr.json").unlink()
    (path / "videos/b/zarr.json").unlink()
    problems = full.verify("a")
    assert len(problems) == 2
    assert problems[0].startswith("a/text/frames: the array is missing")
    assert problems[1].startswith("a/image: its metadata (zarr.json) is missing")
    assert full.group_ids() == ["a", "b"]
    assert len(full.verify("b")) == 1


def flips(good: bytes) -> Iterator[bytes]:
    yield from (b"", good[: len(good) // 2], b"[]", b"null", b'{"attributes": 3}', b"\xff\xfe" + good)
    rng = np.random.default_rng(0)
    for at in rng.choice(len(good), 30, replace=False):
        yield good[:at] + bytes([good[at] ^ int(rng.choice([1, 4, 0x20, 0x80]))]) + good[at + 1 :]


@pytest.mark.parametrize(
    "node", ["a", "a/pts", "a/video", "a/text", "a/text/features", "a/text/captions", "a/text/frames"]
)
def test_damaged_metadata_is_a_problem_line_and_a_cache_error(full: FeatureCache, path: Path, node: str) -> None:
    file = path / "videos" / node / "zarr.json"
    good = file.read_bytes()
    reader = FeatureCache.open(path)
    whole = {s: reader.read("a", s) for s in KINDS}
    for bad in flips(good):
        file.write_bytes(bad)
        problems = reader.verify("a")
        assert all(line.startswith("a") for line in problems)
        readable = True
        try:
            reader.video_ids(), reader.streams("a"), reader.info("a")
            for stream, expected in whole.items():
                found = reader.read("a", stream)
                same = np.array_equal(found.features, expected.features) and found.captions == expected.captions
                assert same or problems, bad
        except CacheError:
            readable = False
        assert readable or problems, bad
        json_broken = bad in (b"", good[: len(good) // 2])
        assert not json_broken or (problems and not readable)
    file.write_bytes(good)
    assert reader.verify("a") == []


def test_verify_finds_changed_facts(full: FeatureCache, path: Path) -> None:
    file = path / "videos/a/zarr.json"
    good = file.read_text()
    for old, new in (('"sha256": "ab', '"sha256": "aa'), ("25.0", "24.0"), ('"num_frames": 20', '"num_frames": 21')):
        assert old in good
        file.write_text(good.replace(old, new))
        assert full.verify("a")
    stream = path / "videos/a/image/zarr.json"
    file.write_text(good)
    stream.write_text(stream.read_text().replace('"seed": 0', '"seed": 1'))
    assert full.verify("a") == ["a/image: the recipe does not match its fingerprint"]


@pytest.mark.parametrize("node", ["a", "a/image"])
def test_writers_redo_what_has_damaged_metadata(full: FeatureCache, path: Path, node: str) -> None:
    before = snapshot(path)
    (path / "videos" / node / "zarr.json").write_bytes(b"")  # what a power cut can leave
    with pytest.raises(CacheError, match=f"{node}: damaged metadata"):
        FeatureCache.open(path).has("a", "image")
    cache = FeatureCache.create(path, dataset="data", window=SPEC)
    missing = [s for s in KINDS if not cache.has("a", s, RECIPES[s])]
    assert missing == (["image"] if node == "a/image" else list(KINDS))
    for stream in missing:
        writer = cache.writer("a", stream, kind=KINDS[stream], recipe=RECIPES[stream])
        writer.append(*rows_of(stream))
        if stream == missing[0]:
            cache.write_info("a", make_info())
        writer.finish()
    assert snapshot(path) == before


@pytest.mark.parametrize("node", ["", "videos"])
def test_damaged_root(full: FeatureCache, path: Path, node: str) -> None:
    file = path / node / "zarr.json"
    good = file.read_bytes()
    for bad in flips(good):
        file.write_bytes(bad)
        for act in (FeatureCache.open, lambda p: FeatureCache.create(p, dataset="data", window=SPEC)):
            try:
                act(path).video_ids()
            except RecipeMismatch:
                assert json.loads(bad)["attributes"]["window"]  # the damage made another window, or another name
            except CacheError:
                continue
    file.write_bytes(b"{")
    with pytest.raises(CacheError, match="damaged"):
        FeatureCache.open(path)
    file.unlink()
    with pytest.raises(CacheError, match=r"data\.zarr"):
        FeatureCache.open(path)
    with pytest.raises(CacheError, match=r"data\.zarr"):  # of which windows the videos are is not known any more
        FeatureCache.create(path, dataset="data", window=SPEC)
    file.write_bytes(good)
    assert FeatureCache.open(path).video_ids() == ["a", "b"]


def test_half_written_files_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "c.zarr", dataset="demo", window=SPEC)
    video = tmp_path / "c.zarr/videos/v"
    (video / "pts").mkdir(parents=True)
    (video / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    litter = [video / "zarr.0123.partial", video / "pts/zarr.4567.partial"]
    for file in litter:
        file.write_text("{")
    cache.write_info("v", make_info())
    assert not any(file.exists() for file in litter)
    assert [name for name, _ in zarr.open_group(video, mode="r").arrays()] == ["pts"]


def test_a_file_swept_while_it_was_written_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, []

    def swept_once(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == 1:
            sweep(str(tmp_path))
        replace(source, target)

    monkeypatch.setattr("shared.cache.local.os.replace", swept_once)
    write_file(str(tmp_path / "zarr.json"), b"whole")
    assert (tmp_path / "zarr.json").read_bytes() == b"whole"
    assert len(calls) == 2
    assert os.listdir(tmp_path) == ["zarr.json"]
