"""Videos on an object store, as a data set: what is found, what is refused, what tells that one changed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from extract.video.remote import sha256_of
from shared.datasets import cache_of, dataset_name
from shared.manifest import ManifestError, load_manifest
from shared.videos.remote import RemoteFile, RemoteRoot

FILES = {
    "a.mp4": b"a",
    "b.MOV": b"bb",
    "deep/er/c.mkv": b"ccc",
    "deep/d.mp4": b"dddd",
    "deep/er/d.txt": b"no video",
    ".hidden.mp4": b"x",
    ".cache/e.mp4": b"x",
    "__MACOSX/f.mp4": b"x",
    "[odd] (name).mp4": b"x",
}
ROOT = "memory://store/videos"


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    files = fsspec.filesystem("memory")
    for name, content in FILES.items():
        files.pipe_file(f"/store/videos/{name}", content)
    yield
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same files on a disk."""
    for name, content in FILES.items():
        file = tmp_path / "videos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "videos"


# ------------------------------------------------------------------ which videos


@pytest.mark.parametrize("pattern", ["**/*", "*", "*.mp4", "deep/*", "deep/**/*.mp4", "**/[cd].*", "de?p/er/*", "x*"])
def test_a_pattern_finds_what_it_finds_on_a_disk(pattern: str, folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.toml"
    found = []
    for root in (str(folder), ROOT, f"file://{folder}"):
        manifest.write_text(f'root = "{root}"\n[videos]\nglob = "{pattern}"\n')
        try:
            found.append([(v.id, v.path, v.group) for v in load_manifest(manifest).videos])
        except ManifestError as error:
            found.append([str(error).replace(root, "ROOT").replace(str(folder), "ROOT")])  # type: ignore[list-item]
    assert found[0] == found[1] == found[2]


def test_a_url_is_a_data_set(folder: Path) -> None:
    remote, local = load_manifest(f"{ROOT}/"), load_manifest(folder)
    assert (remote.name, remote.videos) == (local.name, local.videos)
    assert remote.file(remote.videos[0]) == RemoteFile(RemoteRoot(ROOT), remote.videos[0].path)
    one = load_manifest(f"{ROOT}/deep/d.mp4")
    assert [(v.id, str(one.file(v))) for v in one.videos] == [("d.mp4", f"{ROOT}/deep/d.mp4")]
    assert load_manifest(f"file://{folder}").videos == local.videos
    with pytest.raises(ManifestError, match="no video found below memory://nowhere"):
        load_manifest("memory://nowhere")
    with pytest.raises(ManifestError, match="tables are read from disks"):
        load_manifest(f"{ROOT}/t.csv")


def test_a_table_lies_beside_the_manifest_and_need_not_be_right_about_the_store(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.mp4,1\n./deep//d.mp4,0\nlost.mp4,1\n")
    (tmp_path / "m.toml").write_text(f'root = "{ROOT}"\n[videos]\ntable = "t.csv"\n')
    for found in (load_manifest(tmp_path / "m.toml"), load_manifest(tmp_path / "t.csv", ROOT)):
        assert [v.path for v in found.videos] == ["a.mp4", "deep/d.mp4", "lost.mp4"]
        assert [found.file(v).exists() for v in found.videos] == [True, True, False]
        assert len(found.tasks["violence"].segments) == 3
    (tmp_path / "t.csv").write_text("path\n../a.mp4\n/a.mp4\n~/a.mp4\n")
    with pytest.raises(ManifestError, match="3 problems"):
        load_manifest(tmp_path / "t.csv", ROOT)


def test_folders_of_pictures_are_told_and_not_passed_over(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/store/videos/clip/00001.jpg", b"x")
    with pytest.raises(ManifestError, match=r"folders of pictures are read from disks only.*: clip"):
        load_manifest(ROOT)
    (tmp_path / "m.toml").write_text(f'root = "{ROOT}"\n[videos]\nglob = "*.mp4"\n')
    assert [v.path for v in load_manifest(tmp_path / "m.toml").videos] == ["[odd] (name).mp4", "a.mp4"]


def test_only_a_run_reads_from_a_store(folder: Path) -> None:
    found = load_manifest(ROOT)
    with pytest.raises(ValueError, match=r"only .run. reads them there.*--root FOLDER"):
        found.local_file(found.videos[0])
    assert load_manifest(folder).local_file(found.videos[0]).is_file()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://KEY:s3cr3t@bucket/videos", "has credentials in it"),
        ("s3://s3cr3t@bucket/videos", "has credentials in it"),
        ("sftp://me:s3cr3t@host/videos", "has credentials in it"),
        ("https://host/videos", "expected an object store"),
        ("http://host/a.mp4", "expected an object store"),
        ("simplecache::s3://bucket/videos", "expected an object store"),
        ("zip://a.mp4::s3://bucket/all.zip", "expected an object store"),
    ],
)
def test_other_urls_are_refused_without_repeating_secrets(url: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path\na.mp4\n")
    for load in (lambda: load_manifest(url), lambda: load_manifest(tmp_path / "t.csv", url)):
        with pytest.raises(ManifestError, match=why) as error:
            load()
        assert "s3cr3t" not in str(error.value)


def test_a_store_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(ManifestError, match=r"cannot list nosuch://bucket/videos: .*nosuch"):
        load_manifest("nosuch://bucket/videos")


# ------------------------------------------------------------------ names


def test_where_the_features_of_a_url_are() -> None:
    assert dataset_name(f"{ROOT}/") == "videos"
    assert cache_of(ROOT) == "caches/videos.zarr"
    assert cache_of("s3://bucket/c.zarr") == cache_of("x", "s3://bucket/c.zarr") == "s3://bucket/c.zarr"
    one, other = cache_of(f"{ROOT}/a.mp4"), cache_of(f"{ROOT}/deep/a.mp4")
    assert one.startswith("caches/a-")
    assert one != other


# ------------------------------------------------------------------ what tells a changed object


def test_stamps_follow_the_object() -> None:
    root = RemoteRoot(ROOT)
    first = root.stamp("a.mp4")
    assert first == RemoteRoot(ROOT).files()["a.mp4"] == root.stamp_now("a.mp4")
    assert set(first) == {"bytes", "mtime_ns"}
    fsspec.filesystem("memory").pipe_file("/store/videos/a.mp4", b"b")
    assert root.stamp_now("a.mp4") != first
    for path in ("lost.mp4", "deep"):
        with pytest.raises(FileNotFoundError):
            root.stamp(path)


def test_many_are_listed_and_few_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.videos.remote.MAX_ASKED", 3)
    root = RemoteRoot(ROOT)
    for _ in range(3):
        root.stamp("a.mp4")
    assert root.listed("a.mp4") is None
    assert root.stamp("a.mp4") == root.listed("a.mp4") is not None
    with pytest.raises(FileNotFoundError):
        root.stamp("lost.mp4")


def test_connections_stay_in_their_process() -> None:
    file = RemoteFile(RemoteRoot(ROOT), "a.mp4")
    file.root.files()
    again = pickle.loads(pickle.dumps(file))
    assert again == file
    assert again.root.listed("a.mp4") is None
    assert sha256_of(again) == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
