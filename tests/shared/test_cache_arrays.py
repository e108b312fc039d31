"""Arrays made the short way against the same arrays made by zarr's own calls, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from shared.cache import nodes as cache_nodes
from shared.cache.arrays import make_array, read_array, whole_arrays
from shared.cache.local import write_file
from shared.cache.nodes import METADATA, put, put_group, stage

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


@pytest.mark.parametrize("case", ARRAYS)
def test_stored_alike_through_any_other_store(case: str, tmp_path: Path) -> None:
    class Other(LocalStore):
        """Goes the way of object stores: through zarr's thread."""

    name, values = ARRAYS[case]
    for store in (LocalStore(tmp_path / "one"), Other(tmp_path / "other")):
        put_group(store, "", {"begun": 1}, exclusive=True)
        put_group(store, "", {"begun": 2}, exclusive=True)  # there is one already
        put(store, "group", whole_arrays({name: values}), {"marked": True})
        assert zarr.open_group(store, mode="r").attrs["begun"] == 1
    found = [{str(p.relative_to(d)): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in tmp_path.iterdir()]
    assert found[0] == found[1]


@pytest.mark.parametrize("local", [True, False])
def test_the_marks_come_after_everything_else(local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(LocalStore):
        async def set(self, key: str, value: object) -> None:  # type: ignore[override]
            if key.endswith("c/0"):
                raise OSError(28, "No space left on device")
            await super().set(key, value)  # type: ignore[arg-type]

    def write(path: str, value: bytes, **options: bool) -> None:
        if path.endswith("c/0"):
            raise OSError(28, "No space left on device")
        write_file(path, value, **options)

    monkeypatch.setattr(cache_nodes, "write_file", write)
    store = LocalStore(tmp_path) if local else Full(tmp_path)
    with pytest.raises(OSError, match="No space"):
        put(store, "group", whole_arrays({"frames": np.arange(3, dtype=np.int32)}), {"complete": True})
    assert (tmp_path / "group/frames" / METADATA).exists()
    assert not (tmp_path / "group" / METADATA).exists()


def test_a_store_open_for_reading_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reading only"):
        put_group(LocalStore(tmp_path, read_only=True), "group", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "replace"])
def test_a_file_is_written_whole_or_not_at_all(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / METADATA
    write_file(str(file), b"old")
    with monkeypatch.context() as patch:

        def full(*args: object) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space"):
            write_file(str(file), b"new")
    assert {f.name: f.read_bytes() for f in file.parent.iterdir()} == {METADATA: b"old"}
    write_file(str(file), b"newest", exclusive=True)
    assert {f.name: f.read_bytes() for f in file.parent.iterdir()} == {METADATA: b"old"}
    write_file(str(file), b"new")
    assert file.read_bytes() == b"new"
