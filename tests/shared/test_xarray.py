"""Other programs open a cache: xarray finds named axes, and the documented lines work."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from shared.cache import FeatureCache
from shared.cache.bulk import find_stored
from tests.extract.interchange import VIDEOS, make_cache

xarray = pytest.importorskip("xarray")
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    make_cache(url := tmp_path_factory.mktemp("caches") / "demo.zarr")
    return FeatureCache.open(url)


@pytest.mark.parametrize("stream", ["video", "image", "text"])
def test_xarray_opens_a_stream(cache: FeatureCache, stream: str) -> None:
    data = cache.read("0017", stream)
    with xarray.open_zarr(cache.url, group=f"videos/0017/{stream}", consolidated=False) as found:
        axes = ("window", "sample", "feature") if stream == "video" else ("row", "feature")
        assert found.features.dims == axes
        assert found.features.dtype == np.float16
        np.testing.assert_array_equal(found.features, data.features)
        if stream != "video":
            assert found.frames.dims == ("row",)
            np.testing.assert_array_equal(found.frames, data.frames)
        if stream == "text":
            assert found.captions.dims == ("row",)
            assert found.captions.values.tolist() == data.captions
        assert found.attrs["recipe"] == data.recipe


def test_xarray_opens_a_video_with_its_streams(cache: FeatureCache) -> None:
    with xarray.open_datatree(cache.url, group="videos/0017", engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == {"video", "image", "text"}
        assert tree.pts.dims == ("frame",)
        assert tree.sizes["frame"] == VIDEOS["0017"]


def test_long_arrays_have_names_too(tmp_path: Path) -> None:
    """Written chunk by chunk they are made by zarr, short ones by hand."""
    cache = make_cache(tmp_path / "c.zarr", {"a": 20})
    writer = cache.writer("a", "long", kind="timeline", recipe={"encoder": "x"})
    for first in range(0, 600, 200):
        writer.append(np.full((200, 20_000), first, np.float32), np.arange(first, first + 200))
    writer.finish()
    with xarray.open_zarr(cache.url, group="videos/a/long", consolidated=False) as found:
        assert found.features.dims == ("row", "feature")
        assert found.features.encoding["chunks"][0] < 600
    # The short way to the files takes both kinds.
    marks = {"kind": "timeline", "recipe": {}, "checksums": {"features": "", "frames": ""}}
    for stream in ("long", "text"):
        assert find_stored(cache._videos, f"a/{stream}", marks)._plain is not None


def test_the_documented_lines_open_a_stream(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPO / "docs/interchange.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import xarray" in b]
    monkeypatch.chdir(Path(cache.url).parent.parent)
    (Path(cache.url).parent.parent / "caches").exists() or Path("caches").symlink_to(Path(cache.url).parent)
    found: dict = {}
    exec(block, found)
    assert found["per_frame"].dims == ("row",)
