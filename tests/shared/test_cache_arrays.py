"""Arrays made the short way against the same arrays made by zarr's own calls, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from shared.cache_arrays import make_array, read_array, whole_arrays
from shared.cache_nodes import METADATA, put, put_group, stage

RNG = np.random.default_rng(0)
ARRAYS = {
    "a window": ("features", RNG.normal(size=(3, 16, 5)).astype("<f2")),
    "another shape": ("features", RNG.normal(size=(7, 2, 1)).astype("<f2")),
    "not contiguous": ("features", RNG.normal(size=(5, 9)).astype("<f2")[:, ::2]),
    "no rows": ("features", np.zeros((0, 5), "<f2")),
    "frames": ("frames", np.arange(11, dtype=np.int32)),
    "times": ("pts", RNG.random(8)),
    "no times": ("pts", np.zeros(0)),
    "captions": ("captions", np.array(["", "a man", "ein Bär, 熊"], dtype=object)),
    "no captions": ("captions", np.zeros(0, dtype=object)),
}


def by_zarr(name: str, values: np.ndarray) -> dict[str, bytes]:
    staging, staged = stage()
    array = make_array(staging, name, values.shape, values.shape, str if values.dtype == object else values.dtype)
    if values.size:
        array[...] = values
    return {key: value.to_bytes() for key, value in staged.items() if key != METADATA}


@pytest.mark.parametrize("case", ARRAYS)
def test_stored_as_zarr_stores_it(case: str, tmp_path: Path) -> None:
    name, values = ARRAYS[case]
    store = LocalStore(tmp_path)
    put(store, "", whole_arrays({name: values}), {"marked": True})
    files = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    del files[METADATA]
    assert files == by_zarr(name, values)
    group = zarr.open_group(tmp_path, mode="r")
    assert dict(group.attrs) == {"marked": True}
    np.testing.assert_array_equal(read_array(group, name, "here"), values)


def test_groups_are_stored_as_zarr_stores_them(tmp_path: Path) -> None:
    attrs = {"kind": "window", "recipe": {"b": [1, 2.5, None], "a": "ü"}, "complete": True}
    put_group(LocalStore(tmp_path), "deep/er", attrs)
    zarr.create_group(tmp_path / "other", attributes=attrs)
    assert (tmp_path / "deep/er" / METADATA).read_bytes() == (tmp_path / "other" / METADATA).read_bytes()


def test_the_marks_come_after_everything_else(tmp_path: Path) -> None:
    class Full(LocalStore):
        async def set(self, key: str, value: object) -> None:  # type: ignore[override]
            if key.endswith("c/0"):
                raise OSError(28, "No space left on device")
            await super().set(key, value)  # type: ignore[arg-type]

    with pytest.raises(OSError, match="No space"):
        put(Full(tmp_path), "group", whole_arrays({"frames": np.arange(3, dtype=np.int32)}), {"complete": True})
    assert (tmp_path / "group/frames" / METADATA).exists()
    assert not (tmp_path / "group" / METADATA).exists()
