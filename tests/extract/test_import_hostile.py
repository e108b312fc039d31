"""Files that are broken, lie or point elsewhere: each is refused in words, with status 2, and nothing is written."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from extract.interchange.external_files import open_npy
from extract.interchange.hdf5_file import open_hdf5
from extract.interchange.hdf5_layout import FeatureFileError
from tests.extract.interchange import VIDEOS, call, make_cache, refused, save_npy
from tests.extract.support import cache_contents

pytestmark = pytest.mark.usefixtures("one_reader")
COMMON = ["--stream", "m", "--frames", "every:1", "--fps", 25, "--size", 16, "--stride", 8]
GOOD = np.ones((20, 3), np.float32)


def rejected(source: Path, *arguments: object, url: Path | None = None) -> str:
    """What an import says that must be refused, and leave no cache."""
    url = url or source.parent / "c.zarr"
    text = refused("import", source, "--cache", url, *(arguments or COMMON))
    assert not url.exists()
    assert text.startswith("error: ") or "\nerror: " in text
    return text


# ------------------------------------------------------------------------------------------------ .npy


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def npy_bytes(values: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), values)
    return buffer.getvalue()


def huge_npy() -> bytes:
    """A header that promises 10^9 rows, and no data."""
    np.lib.format.write_array_header_1_0(
        buffer := io.BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (10**9, 768)}
    )
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected an array as numpy.save writes it"),
        (b"hello" * 100, "expected an array as numpy.save writes it"),
        (npy_bytes(GOOD)[:-1], "a part of one"),
        (huge_npy(), "a part of one"),
        (npy_bytes(GOOD).replace(b"'shape': (20, 3)", b"'shape': (20,-3)"), "expected an array"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70000, "expected an array"),
        (npy_bytes(GOOD.astype(int)), "expected float16, float32 or float64, found int64"),
        (npy_bytes(GOOD.astype(complex)), "found complex128"),
        (npy_bytes(np.array([["a"]])), "found <U1"),
        (npy_bytes(GOOD.astype(np.longdouble)), "expected float16, float32 or float64"),
        (npy_bytes(GOOD[0]), "expected 2 or 3 axes, found shape (3,)"),
        (npy_bytes(GOOD[:0]), "expected"),
        (npy_bytes(GOOD[:, :0]), "expected"),
        (npy_bytes(np.where(np.arange(60).reshape(20, 3) == 31, np.nan, GOOD)), "row 10 holds a NaN or an infinity"),
        (
            npy_bytes(np.where(np.arange(60).reshape(20, 3) == 31, -7e4, GOOD)),
            "largest value of row 10 is 7e+04, too large",
        ),
        (npy_bytes(GOOD * 1e-9), "too small for float16"),
    ],
)
def test_arrays_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f/a.npy").write_bytes(content)
    text = rejected(tmp_path / "f", url=tmp_path / "c.zarr")
    assert words in text
    assert "f/a.npy" in text


@pytest.mark.parametrize("shape", [(2**62, 4), (2**40, 2**40), (10**18, 100)])
def test_a_shape_that_overflows_gets_one_message(tmp_path: Path, shape: tuple[int, int]) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    with (folder / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(FeatureFileError, match=r"a\.npy: expected an array as numpy\.save writes it"):
            open_npy(folder)
    assert [str(w.message) for w in said if w.category is RuntimeWarning] == []


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for name, content in (
        ("a", pickle.dumps(Bomb(tmp_path / "trace"))),
        ("b", npy_bytes(np.array([Bomb(tmp_path / "trace")], dtype=object))),
    ):
        (folder / f"{name}.npy").write_bytes(content)
        rejected(folder / f"{name}.npy", url=tmp_path / "c.zarr")
    assert not (tmp_path / "trace").exists()


def test_links_devices_and_names_that_lead_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "secret.npy", GOOD)
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a.npy").symlink_to(tmp_path / "secret.npy")
    assert "is a link that leaves" in rejected(folder, url=tmp_path / "c.zarr")
    (folder / "a.npy").unlink()
    os.mkfifo(folder / "a.npy")
    assert "found a folder or a device" in rejected(folder, url=tmp_path / "c.zarr")
    (folder / "a.npy").unlink()
    assert "found none" in rejected(folder, url=tmp_path / "c.zarr")
    for name in ("..", "con", "a b ", "x" * 210, "a\nb"):
        np.save(folder / f"{name}.npy", GOOD)
    assert "5 problems, nothing was imported" in rejected(folder, url=tmp_path / "c.zarr")
    for stream in ("../x", "a.b", "", "pts", "x" * 65):
        assert "--stream" in refused("import", folder, "--cache", tmp_path / "c.zarr", "--stream", stream)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([0, 1, 1], "must ascend"),
        ([2, 1, 0], "must ascend"),
        ([-1, 0, 1], "must ascend"),
        ([0, 1, 20], "the last row is of frame 20 by its file of frames, the video has 20"),
        ([0, 1], "expected 2 rows by its file of frames, found 3"),
        ([0, 1, 2**40], "expected frame numbers"),
        ([0.0, 1.0, 2.0], "expected whole numbers"),
    ],
)
def test_frames_that_cannot_be(tmp_path: Path, frames: list, words: str) -> None:
    folder = save_npy(tmp_path / "f", {"a": GOOD[:3], "a.frames": np.array(frames), "a.pts": np.arange(20) / 25})
    assert words in rejected(folder, "--stream", "m", url=tmp_path / "c.zarr")


def test_what_nobody_says_is_asked_for(tmp_path: Path) -> None:
    folder = save_npy(tmp_path / "f", {"a": GOOD})
    url = tmp_path / "c.zarr"
    assert "say which frames" in rejected(folder, "--stream", "m", "--fps", 25, url=url) or "nothing says how many"
    assert "nothing says how many frames" in rejected(
        folder, "--stream", "m", "--frames", "every:4", "--fps", 25, url=url
    )
    assert "nothing says its frame rate" in rejected(folder, "--stream", "m", "--frames", "every:1", url=url)
    np.save(folder / "a.pts.npy", np.arange(40) / 25)
    assert "rows without frames; say which frames" in rejected(folder, "--stream", "m", url=url)
    np.save(folder / "b.npy", GOOD[:, :2])
    text = rejected(folder, *COMMON, url=url)
    assert "shape (20, 2) does not fit (20, 3)" in text
    (tmp_path / "facts.csv").write_text("video,num_frames,fps\na,10000000000,25\n")
    text = refused("import", folder, "--cache", url, *COMMON, "--facts", tmp_path / "facts.csv")
    assert "line 2: num_frames is '10000000000'" in text
    (tmp_path / "facts.csv").write_text("name,n\n")
    assert "expected columns video, num_frames, fps" in refused(
        "import", folder, "--cache", url, *COMMON, "--facts", tmp_path / "facts.csv"
    )


# ------------------------------------------------------------------------------------------------ HDF5


def external_link(file: h5py.File, elsewhere: Path) -> None:
    file["a"] = h5py.ExternalLink(str(elsewhere), "a")


def soft_link(file: h5py.File, elsewhere: Path) -> None:
    file["b"], file["a"] = GOOD, h5py.SoftLink("/b")


def external_storage(file: h5py.File, elsewhere: Path) -> None:
    raw = elsewhere.with_suffix(".raw")
    raw.write_bytes(GOOD.tobytes())
    file.create_dataset("a", GOOD.shape, GOOD.dtype, external=[(str(raw), 0, GOOD.nbytes)])


def virtual(file: h5py.File, elsewhere: Path) -> None:
    layout = h5py.VirtualLayout(GOOD.shape, GOOD.dtype)
    layout[:] = h5py.VirtualSource(str(elsewhere), "a", shape=GOOD.shape)
    file.create_virtual_dataset("a", layout)


def references(file: h5py.File, elsewhere: Path) -> None:
    file["b"] = GOOD
    file.create_dataset("a", data=np.array([[file["b"].ref]], dtype=h5py.ref_dtype))


def no_data(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("a", (20, 3), "f4")


def huge_without_data(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("a", (10**12, 1024), "f4", chunks=(1024, 1024))


def a_lost_chunk(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("a", (20, 3), "f4", chunks=(10, 3))[:10] = GOOD[:10]


def huge_chunks(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("a", (20, 2**24), "f4", chunks=(20, 2**24), compression="gzip")


def texts(file: h5py.File, elsewhere: Path) -> None:
    file["a"] = ["one", "two"]


def a_named_type(file: h5py.File, elsewhere: Path) -> None:
    file["a"] = np.dtype("f4")


def a_group_in_itself(file: h5py.File, elsewhere: Path) -> None:
    group = file.create_group("a")
    group["features"] = group


def nothing(file: h5py.File, elsewhere: Path) -> None:
    pass


def a_bad_name(file: h5py.File, elsewhere: Path) -> None:
    file["a:b"] = GOOD


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (external_link, "/a: expected data, found an external link, which is not followed"),
        (soft_link, "/a: expected data, found a soft link"),
        (external_storage, "its data are in other files"),
        (virtual, "its data are in other files"),
        (references, "expected float16, float32 or float64, found object"),
        (no_data, "declares shape (20, 3), but not all of its data were written"),
        (huge_without_data, "but not all of its data were written"),
        (a_lost_chunk, "but not all of its data were written"),
        (huge_chunks, "are too large"),
        (texts, "expected float16, float32 or float64, found object"),
        (a_named_type, "found a named type"),
        (a_group_in_itself, "/a/features: expected a data set, found a group"),
        (nothing, "found nothing"),
        (a_bad_name, "'a:b'"),
    ],
)
def test_hdf5_that_points_elsewhere_or_lies(
    tmp_path: Path, make: Callable[[h5py.File, Path], None], words: str
) -> None:
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["a"] = GOOD
    with h5py.File(tmp_path / "f.h5", "w") as file:
        make(file, tmp_path / "elsewhere.h5")
    assert words in rejected(tmp_path / "f.h5", url=tmp_path / "c.zarr")


def test_a_name_is_no_way_over_a_link(tmp_path: Path) -> None:
    """The link "file" leads to another file, which has what the name "file/a" would mean."""
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["a"] = GOOD
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["file"], file["file_a"] = h5py.ExternalLink("elsewhere.h5", "/"), GOOD
        assert file["file/a"].shape == GOOD.shape
    (tmp_path / "f.h5").write_bytes((tmp_path / "f.h5").read_bytes().replace(b"file_a", b"file/a"))
    with open_hdf5(tmp_path / "f.h5") as found:
        assert found.names() == ["file", "file/a"]
        with pytest.raises(FeatureFileError, match="the name 'file/a' is damaged"):
            found.numbers("file/a", kinds="f", num_axes=(2,))


# ------------------------------------------------------------------------------------------------ broken exports


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_cache(folder / "c.zarr")
    assert call("export", folder / "c.zarr", "--output", folder / "c.h5").exit_code == 0
    return folder / "c.h5"


def change(path: str, values: object) -> Callable[[h5py.File], None]:
    def changed(file: h5py.File) -> None:
        del file[path]
        file[path] = values

    return changed


def mark(path: str, name: str, value: object) -> Callable[[h5py.File], None]:
    def marked(file: h5py.File) -> None:
        file[path].attrs[name] = value

    return marked


def swap(one: str, other: str) -> Callable[[h5py.File], None]:
    def swapped(file: h5py.File) -> None:
        file.move(one, "aside")
        file.move(other, one)
        file.move("aside", other)

    return swapped


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda file: file["videos/0017/image/features"].write_direct(np.ones((1, 5), "f2"), dest_sel=np.s_[:1]),
            "sha256",
        ),
        (change("videos/0017/image/frames", np.arange(3, dtype="i4")), "3 frames for"),
        (change("videos/0017/image/features", np.ones((3, 5), "f4")), "expected float16"),
        (change("videos/0017/text/captions", ["x"]), "sha256 differs"),
        (change("videos/0017/text/captions", np.arange(3)), "expected a list of texts"),
        (change("videos/0017/pts", np.arange(3.0)), "3 times for 70 frames"),
        (change("videos/0017/pts", np.full(70, np.nan)), "pts: damaged"),
        (change("videos/0017/image", h5py.SoftLink("/videos/short/image")), "found a soft link"),
        (change("videos/0017", h5py.ExternalLink("other.h5", "/")), "found an external link"),
        (change("videos", np.arange(3)), "expected a group, found a data set"),
        (lambda file: file["videos"].move("0017", "a:b"), "'a:b'"),
        (lambda file: file["videos"].copy("short", "SHORT"), "differs from another one in case only"),
        (lambda file: file["videos/0017"].move("image", ".image"), "reserved"),
        (lambda file: file["videos/0017/video"].pop("features"), "features is missing"),
        (mark("/", "format_version", 2), "found 'crossgru-features' version 2"),
        (mark("/", "window", "{"), "expected JSON"),
        (mark("/", "window", '{"size": 0}'), "attributes are damaged"),
        (mark("/", "imported", "[1]"), "attributes are damaged"),
        (mark("videos/0017", "num_frames", 10**12), "frames"),
        (mark("videos/0017", "extra", 1), "facts of the video are damaged"),
        (mark("videos/0017", "source", "text"), "facts of the video are damaged"),
        (mark("videos/0017", "fps", np.arange(3)), "expected a number or a text"),
        (
            mark("videos/short", "fps", 12.5),
            "videos/short: the facts of the video are damaged (source, fps, ... changed",
        ),
        (mark("videos/short", "fps", float("nan")), "videos/short: the facts of the video are damaged (fps is nan"),
        (mark("videos/short", "fps", "fast"), "fps is 'fast', expected a number"),
        (mark("videos/short", "width", -5), "videos/short: the facts of the video are damaged (width is -5"),
        (mark("videos/short", "rotation", 45), "rotation is 45, expected 0, 90, 180 or 270"),
        (mark("videos/short", "missing_frames", True), "missing_frames is True"),
        (mark("videos/short", "truncated", "lots"), "truncated is 'lots', expected a table"),
        (mark("videos/short", "leading", -1), "leading is -1, expected a whole number from 0"),
        (mark("videos/short", "shown", "upside down"), "shown is 'upside down', expected a table"),
        (mark("videos/short", "shown", '{"alpha": [1]}'), "expected a table of words, numbers and yes or no"),
        (mark("videos/short", "source", '{"bytes": NaN}'), "videos/short, attribute 'source': expected JSON"),
        (mark("videos/short", "source", '{"bytes": 1e999}'), "videos/short, attribute 'source': expected JSON"),
        (mark("/", "made_with", '{"preset": "best"}'), "changed since they were written"),
        (mark("/", "contents", "[1]"), "attributes are damaged"),
        (lambda file: file.attrs.pop("contents"), "changed since they were written"),
        (lambda file: file["videos"].pop("short"), "expected 3 videos, found 2; 3 videos with stream text, found 2"),
        (
            lambda file: file["videos/0017"].pop("text"),
            "expected 3 videos with stream text, found 2: some were removed",
        ),
        (lambda file: file["videos"].copy("short", "short2"), "expected 3 videos, found 4"),
        (swap("videos/0017/text", "videos/short/text"), "/text: not what was written here (moved or renamed"),
        (swap("videos/0017", "videos/short"), "/videos/0017: not what was written here"),
        (lambda file: file["videos"].move("0017", "0018"), "videos/0018: not what was written here"),
        (lambda file: file["videos/0017/image"].attrs.pop("seal"), "0017/image: not what was written here"),
        (mark("videos/0017/image", "kind", "window"), "arrays are missing"),
        (mark("videos/0017/image", "recipe", '{"a": 1}'), "does not match its fingerprint"),
        (mark("videos/0017/image", "recipe", "[" * 100_000), "expected JSON"),
        (mark("videos/0017/image", "checksums", "{}"), "arrays are missing"),
    ],
)
def test_exports_that_were_changed(
    archive: Path, tmp_path: Path, damage: Callable[[h5py.File], None], words: str
) -> None:
    shutil.copy(archive, tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "a") as file:
        damage(file)
    assert words in rejected(tmp_path / "c.h5", "--dry-run", url=tmp_path / "c.zarr")
    assert words in rejected(tmp_path / "c.h5", "--stream", "image,text,video", url=tmp_path / "c.zarr")


def test_every_damaged_part_is_named_and_nothing_is_written(archive: Path, tmp_path: Path) -> None:
    """Also of arrays, which are found when they are read: none of the whole ones before them is stored."""
    shutil.copy(archive, tmp_path / "c.h5")
    last = [*sorted(VIDEOS)][-2:]
    with h5py.File(tmp_path / "c.h5", "a") as file:
        for video in last:
            file[f"videos/{video}/text/features"].write_direct(np.ones((1, 3), "f2"), dest_sel=np.s_[:1])
        file[f"videos/{last[0]}"].attrs["fps"] = -1.0
        file["videos/0017/image/features"].write_direct(np.ones((1, 5), "f2"), dest_sel=np.s_[:1])
    for more in (["--dry-run"], ["--stream", "image,text,video"]):
        text = rejected(tmp_path / "c.h5", *more, url=tmp_path / "c.zarr")
        assert "3 problems, nothing was imported" in text
        for words in ("0017/image/features: damaged", f"{last[0]}: the facts", f"{last[1]}/text/features: damaged"):
            assert words in text
    # What is not asked for does not matter: the rest of the file can still be had.
    with h5py.File(tmp_path / "c.h5", "a") as file:
        file[f"videos/{last[0]}"].attrs["fps"] = 29.97
        del file["videos/0017/text"]
    assert call("import", tmp_path / "c.h5", "--cache", tmp_path / "c.zarr", "--stream", "video").exit_code == 0


def test_a_refusal_by_a_late_video_leaves_the_others_as_they_were(archive: Path, tmp_path: Path) -> None:
    """The last video is in the cache with other numbers: the first ones are not written before that is found."""
    last = sorted(VIDEOS)[-1]
    make_cache(tmp_path / "c.zarr", {last: VIDEOS[last]})
    before = cache_contents(tmp_path / "c.zarr")
    assert "and with other numbers" in refused("import", archive, "--cache", tmp_path / "c.zarr")
    assert cache_contents(tmp_path / "c.zarr") == before


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.9999])
def test_exports_that_were_cut_short(archive: Path, tmp_path: Path, share: float) -> None:
    content = archive.read_bytes()
    (tmp_path / "c.h5").write_bytes(content[: int(share * len(content))])
    assert "expected an HDF5 file, found one that is cut short, damaged or none" in rejected(
        tmp_path / "c.h5", "--dry-run", url=tmp_path / "c.zarr"
    )


def test_a_flipped_byte_is_found_or_does_not_matter(archive: Path, tmp_path: Path) -> None:
    """At 60 places: the import is refused in words, or what comes back is what was exported."""
    content, rng = archive.read_bytes(), np.random.default_rng(0)
    expected, refusals = cache_contents(archive.with_suffix(".zarr")), 0
    for number, place in enumerate(rng.integers(0, len(content), 60)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "c.h5").write_bytes(flipped)
        result = call("import", tmp_path / "c.h5", "--cache", tmp_path / f"{number}.zarr")
        assert result.exit_code in (0, 2), (place, result.output)
        if result.exit_code == 0:
            assert cache_contents(tmp_path / f"{number}.zarr") == expected, place
        refusals += result.exit_code == 2
    assert refusals > 10


def test_a_refused_import_leaves_a_cache_as_it_was(archive: Path, tmp_path: Path) -> None:
    """The cache has the videos with other frame counts: nothing is replaced, though that was asked for."""
    make_cache(tmp_path / "c.zarr", {"0017": 71, "short": 6})
    before = cache_contents(tmp_path / "c.zarr")
    text = refused("import", archive, "--cache", tmp_path / "c.zarr", "--overwrite", "image,text,video")
    assert "decoded 70 frames, the cached streams were made from 71" in text
    assert cache_contents(tmp_path / "c.zarr") == before
