"""Verification: no byte of a cache can change unnoticed, and nothing can stand in another's place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from shared.cache import CacheError, FeatureCache, VideoInfo
from shared.windows import WindowSpec

SPEC = WindowSpec(size=4, stride=4, samples={"video": 2, "text": 1})
FRAMES = 9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.zarr"


@pytest.fixture
def cache(path: Path) -> FeatureCache:
    cache = FeatureCache.create(path, dataset="made", window=SPEC, made_with={"preset": "tiny", "options": {}})
    plan = SPEC.plan(FRAMES)
    for number, video in enumerate("ab"):
        rng = np.random.default_rng(number)
        source = {"path": f"{video}.mp4", "bytes": 1, "sha256": "0" * 64, "mtime_ns": 3}
        cache.write_info(video, VideoInfo(source, 25.0, FRAMES, 8, 8, 0, "made up", np.arange(FRAMES) / 25))
        writer = cache.writer(video, "video", kind="window", recipe={"encoder": "video", "options": {"rate": 1.5}})
        writer.append(rng.normal(size=(len(plan), 2, 3)))
        writer.finish()
        frames = plan.unique["text"]
        writer = cache.writer(video, "text", kind="timeline", recipe={"encoder": "text"})
        writer.append(rng.normal(size=(len(frames), 3)), frames, [f"frame {f}" for f in frames])
        writer.finish()
    return cache


def problems_of(path: Path, videos: str = "ab") -> list[str]:
    try:
        cache = FeatureCache.open(path)
        return [*cache.verify_root(), *(line for video in videos for line in cache.verify(video))]
    except CacheError as error:
        return [str(error)]


def silent(path: Path, file: Path, flip: Callable[[int], int], step: int = 1) -> list[int]:
    """Places in a file where a changed byte is not noticed, though it changes what the file says."""
    good, found = file.read_bytes(), []
    for at in range(0, len(good), step):
        bad = good[:at] + bytes([flip(good[at])]) + good[at + 1 :]
        file.write_bytes(bad)
        if not problems_of(path, "a") and not (file.name == "zarr.json" and _says(bad) == _says(good)):
            found.append(at)
    file.write_bytes(good)
    return found


def _says(raw: bytes) -> object:
    try:
        return json.loads(raw)  # white space says nothing
    except ValueError:
        return raw


def test_every_byte_of_a_chunk(cache: FeatureCache, path: Path) -> None:
    (chunk,) = (p for p in (path / "videos/a/video/features/c").rglob("*") if p.is_file())
    assert silent(path, chunk, lambda byte: byte ^ 1) == []
    assert silent(path, chunk, lambda byte: byte ^ 0xFF) == []
    assert problems_of(path) == []


@pytest.mark.parametrize(
    "node",
    ["", "videos", "videos/a", "videos/a/pts", "videos/a/text", "videos/a/text/features", "videos/a/text/captions"],
)
def test_bytes_of_metadata(cache: FeatureCache, path: Path, node: str) -> None:
    """All of them, of every node, were tried once; here some."""
    file = path / node / "zarr.json"
    assert silent(path, file, lambda byte: byte ^ 1, step=5) == []
    assert silent(path, file, lambda byte: byte ^ 0x20, step=17) == []


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def test_whole_groups_that_changed_places(cache: FeatureCache, path: Path) -> None:
    swap(path / "videos/a/video", path / "videos/b/video")
    found = problems_of(path)
    assert [line.partition(":")[0] for line in found] == ["a/video", "b/video"]
    assert all("not what was written here" in line for line in found)
    assert not cache.is_whole("a", "video")
    assert cache.is_whole("a", "text")
    swap(path / "videos/a/video", path / "videos/b/video")
    swap(path / "videos/a", path / "videos/b")
    assert [line.partition(":")[0] for line in problems_of(path)] == ["a/text", "a/video", "b/text", "b/video"]


def test_a_video_group_that_was_renamed_or_copied(cache: FeatureCache, path: Path) -> None:
    shutil.copytree(path / "videos/a", path / "videos/c")
    assert len([line for line in FeatureCache.open(path).verify("c") if "not what was written here" in line]) == 2
    assert problems_of(path) == []


def test_a_shape_that_says_other_columns_of_no_rows(path: Path) -> None:
    cache = FeatureCache.create(path, dataset="made", window=SPEC)
    cache.write_info("a", VideoInfo({}, 25.0, 1, 8, 8, 0, "made up", np.zeros(1)))
    writer = cache.writer("a", "video", kind="window", recipe={})
    writer.append(np.zeros((0, 2, 3)))
    writer.finish()
    file = path / "videos/a/video/features/zarr.json"
    document = json.loads(file.read_bytes())
    document["shape"][2] = 4
    file.write_text(json.dumps(document))
    assert ["not what was written here" in line for line in cache.verify("a")] == [True]


def test_caches_without_seals_stay_valid(cache: FeatureCache, path: Path) -> None:
    for node in ("", "videos/a/video", "videos/a/text"):
        file = path / node / "zarr.json"
        document = json.loads(file.read_bytes())
        del document["attributes"]["seal"]
        file.write_text(json.dumps(document))
    for name in ("features", "frames", "captions"):
        file = path / f"videos/a/text/{name}/zarr.json"
        document = json.loads(file.read_bytes())
        document.pop("dimension_names", None)
        file.write_text(json.dumps(document))
    assert problems_of(path) == []
    cache = FeatureCache.create(path, dataset="made", window=SPEC)
    cache.note_made_with({"preset": "base", "options": {}})
    assert FeatureCache.open(path).made_with == {"preset": "base", "options": {}}
    assert problems_of(path) == []


def test_a_node_that_is_gone(cache: FeatureCache, path: Path) -> None:
    shutil.rmtree(path / "videos/a/pts")
    assert [line.partition(";")[0] for line in problems_of(path)] == ["a/pts: the array is missing"]
    zarr.open_group(path / "videos/b/text", mode="r+").attrs["kind"] = "windows"
    assert "b/text: damaged metadata (kind, recipe or checksums)" in problems_of(path)
