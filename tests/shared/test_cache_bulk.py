"""Reading straight into place against zarr, for every layout; damage is refused as by an ordinary read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import shared.cache.arrays
from shared.cache import CacheError, FeatureCache, VideoInfo
from shared.cache.direct import ChunkError, find_plain
from shared.windows import WindowSpec

SPEC = WindowSpec(size=8, stride=4, samples={"video": 4, "image": 4})
PLAN = SPEC.plan(41)


def write(url: Path | str) -> FeatureCache:
    cache = FeatureCache.create(url, dataset="made", window=SPEC)
    source = {"path": "a.mp4", "bytes": 1, "sha256": "0" * 64}
    cache.write_info("a", VideoInfo(source, 25.0, 41, 8, 8, 0, "made-up", np.arange(41) / 25))
    rng = np.random.default_rng(0)
    video = cache.writer("a", "video", kind="window", recipe={"encoder": "video"})
    video.append(rng.normal(size=(len(PLAN), 4, 6)))
    video.finish()
    image = cache.writer("a", "image", kind="timeline", recipe={"encoder": "image"})
    image.append(rng.normal(size=(len(PLAN.unique["image"]), 6)), PLAN.unique["image"])
    image.finish()
    return cache


def read(cache: FeatureCache, stream: str) -> np.ndarray:
    _, found = cache.find("a", [stream])
    out = np.full((found[stream].num_rows, 6), 7, np.float16)
    found[stream].read_into(out)
    return out


@pytest.mark.parametrize("chunk_bytes", [None, 12, 60, 100, 2 * 6 * 4 * 3])
@pytest.mark.parametrize("stream", ["video", "image"])
def test_bulk_equals_zarr_for_one_and_for_many_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int | None, stream: str
) -> None:
    if chunk_bytes:
        monkeypatch.setattr(shared.cache.arrays, "CHUNK_BYTES", chunk_bytes)
    cache = write(tmp_path / "c.zarr")
    expected = np.asarray(zarr.open_array(tmp_path / f"c.zarr/videos/a/{stream}/features", mode="r")[...])
    assert find_plain(LocalStore(tmp_path / "c.zarr"), f"videos/a/{stream}/features") is not None
    np.testing.assert_array_equal(read(cache, stream), expected.reshape(-1, 6))
    np.testing.assert_array_equal(cache.read("a", stream).features, expected)
    num_frames, found = cache.find("a", [stream])
    assert num_frames == 41
    np.testing.assert_array_equal(found[stream].rows(PLAN, stream), cache.read("a", stream).window_rows(PLAN, stream))


def test_a_chunk_that_comes_in_parts_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call reads at most 2 GiB."""
    cache = write(tmp_path / "c.zarr")
    expected = read(cache, "video")
    preadv = os.preadv

    def in_parts(file: int, buffers: list[Any], at: int) -> int:
        data, tail = buffers
        return preadv(file, [data[:16]] if len(data) > 16 else [data, tail], at)

    monkeypatch.setattr("shared.cache.direct.os.preadv", in_parts)
    monkeypatch.setattr("shared.cache.bulk.read_array", None)  # no way around
    np.testing.assert_array_equal(read(cache, "video"), expected)


def test_another_store_and_another_layout_go_through_zarr(tmp_path: Path) -> None:
    local = write(tmp_path / "c.zarr")
    remote = write("memory://bulk/c.zarr")
    for stream in ("video", "image"):
        np.testing.assert_array_equal(read(local, stream), read(remote, stream))
    group = zarr.open_group(tmp_path / "c.zarr/videos/a/video", mode="r+")
    values = np.asarray(group["features"][...])
    group.create_array("features", data=values, chunks=(2, 4, 3), compressors=zarr.codecs.ZstdCodec(), overwrite=True)
    assert find_plain(LocalStore(tmp_path / "c.zarr"), "videos/a/video/features") is None
    np.testing.assert_array_equal(read(local, "video"), values.reshape(-1, 6))


@pytest.mark.parametrize("damage", ["lost", "cut", "longer", "bit", "empty"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    cache = write(tmp_path / "c.zarr")
    file = tmp_path / "c.zarr/videos/a/video/features/c/0/0/0"
    good = file.read_bytes()
    bad = {"cut": good[:-3], "longer": good + b"\0", "bit": b"\x01" + good[1:], "empty": b""}
    file.unlink() if damage == "lost" else file.write_bytes(bad[damage])
    with pytest.raises(CacheError, match=r"a/video/features: .*(damaged|lost).*python -m extract verify"):
        read(cache, "video")
    plain = find_plain(LocalStore(tmp_path / "c.zarr"), "videos/a/video/features")
    with pytest.raises(ChunkError):
        plain.read()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 77, -1])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float, at: int) -> None:
    cache = write(tmp_path / "c.zarr")
    array = zarr.open_array(tmp_path / "c.zarr/videos/a/video/features", mode="r+")
    values = np.asarray(array[...])
    values.flat[:2] = 65504, -65504  # the largest that are
    array[...] = values
    read(cache, "video")
    values.flat[at] = value
    array[...] = values
    with pytest.raises(CacheError, match="lost or damaged"):
        read(cache, "video")


def test_frames_are_read_where_the_window_is_another(tmp_path: Path) -> None:
    cache = write(tmp_path / "c.zarr")
    fewer = WindowSpec(size=8, stride=16, samples={"image": 4}).plan(41)
    _, found = cache.find("a", ["image"])
    np.testing.assert_array_equal(
        found["image"].rows(fewer, "image"), cache.read("a", "image").window_rows(fewer, "image")
    )
    more = WindowSpec(size=8, stride=4, samples={"image": 8}).plan(41)
    with pytest.raises(CacheError, match=r"lacks .* of the frames"):
        found["image"].rows(more, "image")
    (tmp_path / "c.zarr/videos/a/image/frames/c/0").unlink()
    with pytest.raises(CacheError, match="a/image/frames: a chunk is lost"):
        found["image"].rows(fewer, "image")


def test_what_is_absent_is_said(tmp_path: Path) -> None:
    cache = write(tmp_path / "c.zarr")
    with pytest.raises(CacheError, match="no video 'b'"):
        cache.find("b", ["video"])
    with pytest.raises(CacheError, match="no complete stream 'text' for video 'a'"):
        cache.find("a", ["video", "text"])
    (tmp_path / "c.zarr/videos/a/zarr.json").write_text("[]")
    with pytest.raises(CacheError, match="damaged metadata"):
        cache.find("a", ["video"])
