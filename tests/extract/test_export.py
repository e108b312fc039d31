"""Exports: what other programs read is what the cache holds; and the output is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from extract.interchange.export_hdf5 import export_hdf5
from extract.interchange.selection import select
from extract.interchange.whole_output import OutputError, whole_output
from shared.cache import CacheError, FeatureCache
from shared.cache.arrays import checksum
from shared.windows import WindowSpec
from tests.extract.interchange import ODD, SPEC, VIDEOS, call, make_cache, refused, video_info
from tests.extract.support import REPO


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    make_cache(url := tmp_path_factory.mktemp("cache") / "demo.zarr")
    return FeatureCache.open(url)


@pytest.fixture(scope="module")
def archive(cache: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = call("export", cache.url, "--output", file := tmp_path_factory.mktemp("export") / "demo.h5")
    assert result.exit_code == 0, result.output
    assert "1 of 3 videos lack stream image" in result.stderr
    return file


def documented(page: str, word: str) -> str:
    """The Python example of a page that has a word."""
    blocks = re.findall(r"```python\n(.*?)```", (REPO / page).read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [b for b in blocks if word in b]
    return block


# ------------------------------------------------------------------------------------------------ HDF5


@pytest.mark.parametrize("page", ["README.md", "docs/interchange.md"])
def test_the_documented_lines_read_an_export(page: str, archive: Path, cache: FeatureCache, monkeypatch) -> None:
    lines = documented(page, "import h5py")
    assert len(lines.splitlines()) == 5
    monkeypatch.chdir(archive.parent)
    found: dict = {}
    exec(lines, found)
    image, plan = cache.read("0017", "image"), SPEC.plan(VIDEOS["0017"])
    assert found["features"].dtype == np.float16
    np.testing.assert_array_equal(found["features"], image.features)
    np.testing.assert_array_equal(found["windows"], image.features[plan.gather["image"]])
    assert found["captions"].tolist() == cache.read("0017", "text").captions
    found["video"].file.close()


def test_the_file_holds_what_the_page_says(archive: Path, cache: FeatureCache) -> None:
    with h5py.File(archive) as file:
        assert (file.attrs["format"], file.attrs["format_version"]) == ("crossgru-features", 1)
        assert file.attrs["dataset"] == "demo"
        assert WindowSpec.from_dict(json.loads(file.attrs["window"])) == SPEC
        assert sorted(file["videos"]) == sorted(VIDEOS)
        for video, num_frames in VIDEOS.items():
            group, info, plan = file["videos"][video], cache.info(video), SPEC.plan(num_frames)
            assert info is not None
            assert (group.attrs["num_frames"], group.attrs["fps"]) == (num_frames, 29.97)
            assert json.loads(group.attrs["source"]) == info.source
            np.testing.assert_array_equal(group["pts"][:], info.pts)
            np.testing.assert_array_equal(group["starts"][:], plan.starts)
            assert sorted(set(group) - {"pts", "starts"}) == sorted(cache.streams(video))
            for stream, recipe in cache.streams(video).items():
                assert json.loads(group[stream].attrs["recipe"]) == recipe
                checks = json.loads(group[stream].attrs["checksums"])
                assert checks["features"] == checksum(group[stream]["features"][:])
            np.testing.assert_array_equal(group["video/frames"][:], plan.frames["video"])
            assert group["text/thumbnails"].asstr()[:].tolist() == cache.read(video, "text").thumbnails


def test_a_changed_cache_is_not_exported(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "c.zarr", {"a": 30, "b": 30})
    for name in ("features/zarr.json", "features/c/0/0"):  # another video's, with its own CRC: only sha256 tells
        (tmp_path / "c.zarr/videos/a/image" / name).write_bytes((tmp_path / "c.zarr/videos/a/text" / name).read_bytes())
    with pytest.raises(CacheError, match="a/image"):
        export_hdf5(cache, select(cache, None, None), tmp_path / "x.h5")
    assert list(tmp_path.glob("x.h5*")) == []


def test_streams_are_chosen_and_completeness_required(cache: FeatureCache, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    assert "unknown stream 'imag'; did you mean 'image'?" in refused(
        "export", cache.url, "--output", out, "--streams", "imag"
    )
    assert "--require-complete: something is missing" in refused(
        "export", cache.url, "--output", out, "--require-complete"
    )
    assert not out.exists()
    assert call("export", cache.url, "--output", out, "--streams", "text").exit_code == 0
    with h5py.File(out) as file:
        assert {name for v in file["videos"].values() for name in v} == {"pts", "starts", "text"}
    arguments = ["export", cache.url, "--output", out, "--overwrite", "--streams", "text,image,text"]
    assert call(*arguments).exit_code == 0  # one name twice is one stream
    with h5py.File(out) as file:
        contents = json.loads(file.attrs["contents"])
    assert contents == {"videos": 3, "streams": {"image": 2, "text": 3}}


def test_videos_of_the_manifest_that_are_not_there_are_counted(cache: FeatureCache, tmp_path: Path) -> None:
    for name in (*VIDEOS, "never"):
        (tmp_path / f"{name}.mp4").touch()
    rows = [f"{name}.mp4,{name}" for name in (*VIDEOS, "never")]
    (tmp_path / "clips.csv").write_text("\n".join(["path,id", *rows]) + "\n", encoding="utf-8")
    arguments = [
        "export",
        tmp_path / "clips.csv",
        "--cache",
        cache.url,
        "--output",
        tmp_path / "x.h5",
        "--streams",
        "text",
    ]
    assert "1 videos have no complete stream (never)" in refused(*arguments, "--require-complete")
    assert call(*arguments).exit_code == 0


# ------------------------------------------------------------------------------------------------ Parquet


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tables_hold_what_the_cache_holds(cache: FeatureCache, tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / "tables"
    result = call("export", cache.url, "--format", "parquet", "--output", folder, "--dtype", dtype)
    assert result.exit_code == 0, result.output
    assert {p.name for p in folder.iterdir()} == {
        *(f"features-{s}.parquet" for s in ("video", "image", "text")),
        "captions.parquet",
        "videos.parquet",
        "export.json",
    }
    captions = pd.read_parquet(folder / "captions.parquet")
    assert list(captions.columns) == ["video", "stream", "frame", "pts_s", "caption"]
    tables = {s: pd.read_parquet(folder / f"features-{s}.parquet") for s in ("video", "image", "text")}
    for video, num_frames in VIDEOS.items():
        info, plan = cache.info(video), SPEC.plan(num_frames)
        assert info is not None
        own = captions[captions.video == video]
        assert own.caption.tolist() == cache.read(video, "text").captions
        np.testing.assert_array_equal(own.pts_s, info.pts[plan.unique["text"]])
        for stream in cache.streams(video):
            rows, data = tables[stream][tables[stream].video == video], cache.read(video, stream)
            values = np.stack(rows.features)
            assert values.dtype == dtype
            np.testing.assert_array_equal(values.astype(np.float16).reshape(data.features.shape), data.features)
            frames = plan.frames["video"].reshape(-1) if stream == "video" else plan.unique[stream]
            np.testing.assert_array_equal(rows.frame, frames)
        windows = tables["video"][tables["video"].video == video]
        np.testing.assert_array_equal(windows.start, np.repeat(plan.starts, 4))
        np.testing.assert_array_equal(windows["sample"], np.tile(np.arange(4), len(plan)))
    file = parquet.ParquetFile(folder / "features-video.parquet")
    assert file.num_row_groups == len(VIDEOS)
    recipes = json.loads(file.metadata.metadata[b"crossgru_recipes"])
    assert list(recipes.values()) == [cache.streams("0017")["video"]]


def test_the_table_of_videos_says_which_end_early(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "c.zarr", {"whole": 30})
    for name, truncated in (("cut", {"decoded": 24, "promised": 60}), ("torn", {"decoded": 24, "promised": 0})):
        cache.write_info(name, replace(video_info(name, 24), missing_frames=0, truncated=truncated))
        writer = cache.writer(name, "text", kind="timeline", recipe={"encoder": "text"})
        writer.append(np.ones((3, 3)), np.arange(3), ["a"] * 3, ["aGk="] * 3)
        writer.finish()
    assert call("export", cache.url, "--format", "parquet", "--output", tmp_path / "t").exit_code == 0
    table = parquet.read_table(tmp_path / "t/videos.parquet").select(
        ["video", "missing_frames", "truncated", "promised_frames"]
    )
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("cut", 0, True, 60),
        ("torn", 0, True, None),
        ("whole", 1, False, None),
    ]


def test_the_documented_lines_read_the_tables(cache: FeatureCache, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("export", cache.url, "--format", "parquet", "--output", "demo-tables").exit_code == 0
    found: dict = {}
    exec(documented("docs/interchange.md", "read_parquet"), found)
    np.testing.assert_array_equal(found["features"], cache.read("0017", "image").features)


# ------------------------------------------------------------------------------------------------ whole or not at all


def test_nothing_is_replaced_unasked(cache: FeatureCache, tmp_path: Path) -> None:
    file, folder = tmp_path / "x.h5", tmp_path / "x"
    file.write_text("precious")
    assert "is there already" in refused("export", cache.url, "--output", file)
    assert file.read_text() == "precious"
    folder.mkdir()
    (folder / "photo.jpg").write_text("precious")
    text = refused("export", cache.url, "--format", "parquet", "--output", folder, "--overwrite")
    assert "is no export (export.json is missing) and is not replaced" in text
    assert (folder / "photo.jpg").read_text() == "precious"
    assert "expected a file, found a folder" in refused("export", cache.url, "--output", folder, "--overwrite")
    assert "there is no folder" in refused("export", cache.url, "--output", tmp_path / "no/x.h5")
    assert call("export", cache.url, "--output", file, "--overwrite").exit_code == 0
    assert h5py.is_hdf5(file)
    arguments = ["export", cache.url, "--format", "parquet", "--output", tmp_path / "y"]
    assert [call(*arguments, *more).exit_code for more in ([], ["--overwrite", "--streams", "text"])] == [0, 0]
    assert not (tmp_path / "y/features-video.parquet").exists()
    assert sorted(os.listdir(tmp_path)) == ["x", "x.h5", "y"]


@pytest.mark.parametrize("form", ["h5", "parquet"])
def test_only_files_and_folders_are_replaced(cache: FeatureCache, tmp_path: Path, form: str) -> None:
    """A pipe stands for a device: as root, moving a file there would replace /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / ("file" if form == "h5" else "folder"))
    (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
    for name, words in (("pipe", "found a device, pipe or socket"), ("link", "found a link"), ("nowhere", "a link")):
        arguments = ["export", cache.url, "--format", form, "--output", tmp_path / name]
        assert words in refused(*arguments, "--overwrite")
        assert words in refused(*arguments)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link", "nowhere", "pipe"]


def test_what_became_a_pipe_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "x"

    def write() -> None:
        with whole_output(target, folder=False, overwrite=True):
            os.mkfifo(target)

    with pytest.raises(OutputError, match="found a device, pipe or socket"):
        write()
    assert target.is_fifo()
    assert os.listdir(tmp_path) == ["x"]


def test_a_pipe_with_the_name_of_a_leftover_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.0123abcd.partial")
    with whole_output(tmp_path / "x", folder=False, overwrite=False) as part:
        part.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == ["x", "x.0123abcd.partial"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_the_old_output(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "x"

    def write(text: str) -> None:
        with whole_output(target, folder=folder, overwrite=True) as part:
            ((part / "t") if folder else part).write_text(text)
            if text == "bad":
                raise KeyboardInterrupt

    write("old")
    with pytest.raises(KeyboardInterrupt):
        write("bad")
    read = (target / "t") if folder else target
    assert read.read_text() == "old"
    write("new")
    assert read.read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_target_that_comes_to_be_meanwhile_is_kept(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "x"

    def write() -> None:
        with whole_output(target, folder=folder, overwrite=False):
            target.mkdir() if folder else target.touch()
            if folder:
                (target / "t").touch()

    with pytest.raises(OutputError, match="came to be meanwhile"):
        write()
    assert os.listdir(tmp_path) == ["x"]


def test_leftovers_of_the_dead_are_swept_and_those_at_work_are_not(tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    script = (
        "import sys, time; from pathlib import Path; from extract.interchange.whole_output import whole_output\n"
        "with whole_output(Path(sys.argv[1]), folder=False, overwrite=True) as part:\n"
        "    part.write_text('half'); print(part, flush=True); time.sleep(60)"
    )
    (tmp_path / "x.h5.notours.partial").touch()
    process = subprocess.Popen([sys.executable, "-c", script, str(target)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        half = Path(process.stdout.readline().strip())
        with whole_output(target, folder=False, overwrite=True) as part:
            part.write_text("whole")
        assert half.read_text() == "half"  # it is at work
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert half.exists()
    with whole_output(target, folder=False, overwrite=True) as part:
        part.write_text("again")
    assert sorted(os.listdir(tmp_path)) == ["x.h5", "x.h5.notours.partial"]


def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """Killed between the two moves, an export leaves the old folder under another name."""
    (tmp_path / "x.0123abcd.old").mkdir()
    (tmp_path / "x.0123abcd.old/t").write_text("old")
    with (
        pytest.raises(OutputError, match="is there already"),
        whole_output(tmp_path / "x", folder=True, overwrite=False),
    ):
        pass
    assert (tmp_path / "x/t").read_text() == "old"


def test_a_killed_export_leaves_the_old_file(cache: FeatureCache, tmp_path: Path) -> None:
    make_cache(tmp_path / "many.zarr", {f"v{i:03d}": 60 for i in range(60)})
    file = tmp_path / "x.h5"
    assert call("export", cache.url, "--output", file).exit_code == 0
    before = file.read_bytes()
    command = [sys.executable, "-m", "extract", "export", tmp_path / "many.zarr", "--output", file, "--overwrite"]
    process = subprocess.Popen(
        [str(c) for c in command], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not any(p.stat().st_size for p in tmp_path.glob("x.h5.*.partial")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert file.read_bytes() == before
    assert len(list(tmp_path.glob("x.h5.*.partial"))) == 1
    assert call(*command[3:]).exit_code == 0
    with h5py.File(file) as found:
        assert len(found["videos"]) == 60
    assert sorted(p.name for p in tmp_path.glob("x.h5*")) == ["x.h5"]


@pytest.mark.parametrize("form", ["h5", "parquet"])
def test_a_full_disk_is_told_in_words(cache: FeatureCache, tmp_path: Path, form: str) -> None:
    """A limit of file sizes stands for it: writes fail half-way, as on a full disk."""
    script = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, {resource.RLIM_INFINITY}))\n"
    script += "import sys; from extract.__main__ import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", script, "export", cache.url, "--format", form, "--output", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_too_little_room_is_told_before_anything_is_written(cache: FeatureCache, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 100})())
    assert "the disk has 0 MiB left" in refused("export", cache.url, "--output", tmp_path / "x.h5")
    assert os.listdir(tmp_path) == []


def test_memory_holds_one_stream_of_one_video(tmp_path: Path) -> None:
    """Twice as many videos take no more."""
    import tracemalloc

    peaks = []
    for number in (10, 40):
        cache = make_cache(tmp_path / f"{number}.zarr", {f"v{i:02d}": 2000 for i in range(number)})
        chosen = select(cache, None, None)
        tracemalloc.start()
        export_hdf5(cache, chosen, tmp_path / f"{number}.h5")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_odd_captions_are_among_those_tested(cache: FeatureCache) -> None:
    assert set(ODD) <= {c for v in VIDEOS for c in cache.read(v, "text").captions or ()}
