"""A folder given as a data set: what is taken, what is passed over, and that all of it is said; links of all kinds."""

from __future__ import annotations

import os
import re
from pathlib import Path

import fsspec
import pytest

from shared.manifest import Manifest, ManifestError, load_manifest
from shared.names import stays_below
from shared.videos.names import frame_series


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def link(place: Path, target: str | Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def ids(manifest: Manifest) -> list[str]:
    return [video.id for video in manifest.videos]


def num_passed(manifest: Manifest) -> int:
    """How many files and links the notes speak of."""
    counts = [re.match(r"passed over (?:(\d+) files?|[^:]+: (\d+)) ", note) for note in manifest.notes]
    return sum(int(match[1] or match[2]) for match in counts if match)


def toml(folder: Path, text: str) -> Path:
    (folder / "m.toml").write_text(text)
    return folder / "m.toml"


# ------------------------------------------------------------------ nothing is left out without a word


def test_what_is_taken_and_what_is_told_are_what_is_there(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", "b.ASF", "b.ogg", "b.264", "b.gif", "sub/b.MTS", "a/b.txt", "c.txt", "x.json", "noend")
    touch(root, "blob.bin", ".DS_Store", "sub/._b.mts", ".git/c.mp4", "cover.jpg", *(f"f/img_{n}.png" for n in (1, 2)))
    touch(root, "f/readme", "photo/holiday_1.jpg")
    found = load_manifest(root)
    assert ids(found) == ["b.264", "b.ASF", "b.gif", "b.ogg", "f", "sub__b.MTS"]
    assert found.notes == (
        "passed over 11 files that are no videos by their names: 3 hidden, 2 .jpg, 2 .txt, 2 without an ending, "
        "1 .bin, 1 .json (first: .DS_Store)",
    )
    assert len(found.videos) - 1 + 2 + num_passed(found) == sum(len(files) for _, _, files in os.walk(root))
    narrow = load_manifest(toml(tmp_path, 'root = "d"\n[videos]\nglob = ["*.264", "*.t*", "c*"]\n'))
    assert (ids(narrow), narrow.notes) == (
        ["b.264"],
        ("passed over 2 files that are no videos by their names: 1 .jpg, 1 .txt (first: c.txt)",),
    )


def test_a_frame_folder_given_itself_says_what_else_is_in_it(tmp_path: Path) -> None:
    root = touch(tmp_path / "[clip]", "00001.jpg", "00002.jpg", "notes.txt", "more/v.mp4")
    found = load_manifest(root)
    assert (ids(found), num_passed(found)) == (["[clip]", "[clip]__more__v.mp4"], 1)
    assert [found.file(v) for v in found.videos] == [root, root / "more/v.mp4"]


def test_a_folder_that_holds_nothing_to_take_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"no video found below .*\n  passed over 2 files .*: 1 .mp3, 1 .txt \(first"
    ):
        load_manifest(touch(tmp_path, "a.mp3", "b.txt"))


def test_of_many_kinds_the_rest_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "v.mp4", *(f"f.x{n}" for n in range(12)))
    (note,) = load_manifest(tmp_path).notes
    assert note.startswith("passed over 12 files") and "4 others" in note  # noqa: PT018


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "v.mp4", "locked/w.mp4")
    (tmp_path / "locked").chmod(0)
    try:
        assert any("cannot be read" in note and "locked" in note for note in load_manifest(tmp_path).notes)
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_a_store_is_told_of_in_the_same_way() -> None:
    store = fsspec.filesystem("memory")
    store.store.clear()
    for name in ("a.asf", "b.txt", "sub/.c.mp4", "d/cover.jpg", "~e.mp4", "x:y.mp4"):
        store.pipe_file(f"/folders/{name}", b"x")
    found = load_manifest("memory://folders")
    assert ids(found) == ["a.asf", "~e.mp4"]
    assert num_passed(found) == 4
    store.pipe_file("/folders/f/frame_1.png", b"x")
    store.pipe_file("/folders/f/frame_2.png", b"x")
    with pytest.raises(ManifestError, match=r"folders of pictures are read from disks only.*: f$"):
        load_manifest("memory://folders")
    store.store.clear()


# ------------------------------------------------------------------ names of files


@pytest.mark.parametrize(
    "name",
    ["a:b", "a*b", "what?", 'q"', "a\\b", "end ", "CON", "x.partial", "\udcff", "x" * 230, "a\nb", "\u202egpj", "__x"],
)
def test_an_odd_name_stops_no_other_file(name: str, tmp_path: Path) -> None:
    file = name if name in ("end ", "x.partial") else f"{name}.mp4"
    folder = f"{name}.d/v.mp4"
    try:
        touch(tmp_path, "ok.mp4", file, folder)
    except OSError:
        pytest.skip("the file system does not take this name")
    found = load_manifest(tmp_path)
    assert "ok.mp4" in ids(found)
    assert len(found.videos) + num_passed(found) == 3
    (tmp_path / "ok.mp4").unlink()
    if ids(found) == ["ok.mp4"]:
        with pytest.raises(ManifestError, match="no video found"):
            load_manifest(tmp_path)


def test_of_two_names_that_are_one_elsewhere_one_is_taken_and_the_cached_one_first(tmp_path: Path) -> None:
    touch(tmp_path, "A.mp4", "a.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4", "s/v.mp4", "s__v.mp4")
    found = load_manifest(tmp_path)
    assert ids(found) == ["A.mp4", "cafe\u0301.mp4", "s__v.mp4"]
    assert "a.mp4: id 'a.mp4' is taken by 'A.mp4'" in found.notes[0]
    assert num_passed(found) == 3
    assert "a.mp4" in ids(load_manifest(tmp_path, cached=["a.mp4"]))


def test_a_tilde_is_a_home_only_where_somebody_wrote_it(tmp_path: Path) -> None:
    touch(tmp_path, "~copy.mp4", "~/v.mp4", "~me/w.mp4", "ok.mp4")
    found = load_manifest(tmp_path)
    assert [v.path for v in found.videos] == ["ok.mp4", "~/v.mp4", "~copy.mp4", "~me/w.mp4"]
    assert all(Path(found.file(v)).parent.is_relative_to(tmp_path) for v in found.videos)  # type: ignore[arg-type]
    assert ids(load_manifest(tmp_path / "~copy.mp4")) == ["~copy.mp4"]
    (tmp_path / "t.csv").write_text("path\n~copy.mp4\n~me/w.mp4\n")
    assert len(load_manifest(tmp_path / "t.csv").videos) == 2
    assert not stays_below("~/v.mp4", tmp_path)


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["00001.jpg", "00003.png", "frame_1.jpg", "frame_2.jpg", "v.mp4", "00001.tif"], ["*.jpg"]),
        (["frame_00001.jpg", "frame_00002.jpg"], ["frame_*.jpg"]),
        (["image-001.PNG", "image-002.png", "image-003.jpeg", "thumb1.jpg", "cover.jpg", "x.txt"], ["image-*.PNG"]),
        (["cam1_0001_left.jpg", "cam1_0002_left.jpg"], ["cam1_*_left.jpg"]),
        (["shot.0001.webp", "shot.0002.webp"], ["shot.*.webp"]),
        (["001.tif", "002.tiff"], ["*.tif"]),
        (["1.bmp"], ["*.bmp"]),
        (["1.bmp", "2.bmp", "1_mask.bmp", "2_mask.bmp"], ["*.bmp"]),
        (["img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg", "flow_y_2.jpg"], ["img_*.jpg"]),
        (["flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg", "flow_y_2.jpg"], ["flow_x_*.jpg", "flow_y_*.jpg"]),
        (["a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg"], ["a_*.jpg", "b_*.jpg"]),
        (["1.webp", "2.webp", "1.bmp", "2.bmp"], ["*.bmp", "*.webp"]),
        (["poster_1.jpg"], []),
        (["poster_1.jpg", "poster_2.jpg", "film.MKV"], []),
        (["1.tif", "2.tif", "film.264"], []),
        (["img_1.jpg", "img_2.jpg", "sub/v.mp4"], []),
        (["img_1.jpg", "img_2.jpg", ".thumbs/v.mp4", "._img_3.jpg"], ["img_*.jpg"]),
        (["holiday.jpg", "beach.jpg", "a1.txt", "a2.txt"], []),
    ],
)
def test_which_pictures_are_a_video(names: list[str], patterns: list[str], tmp_path: Path) -> None:
    root = touch(tmp_path / "d", *(f"f/{name}" for name in names))
    series = frame_series(root / "f")
    assert [one.pattern for one in series] == patterns
    touch(root, "v.mp4")
    found = load_manifest(root)
    videos = [name for name in names if re.search(r"(mp4|MKV|264)$", name) and not name.startswith(".")]
    assert len(found.videos) == 1 + len(videos) + bool(patterns)
    frames = {name for one in series for name in one.numbers}
    assert num_passed(found) == len(names) - len(videos) - len(frames)


def test_pictures_that_lead_out_are_links_like_others(tmp_path: Path) -> None:
    touch(tmp_path, "secret.jpg", "d/v.mp4", "d/f/00001.jpg")
    link(tmp_path / "d/f/00002.jpg", "../../secret.jpg")
    found = load_manifest(tmp_path / "d")
    assert ids(found) == ["v.mp4"]
    assert "links that lead out of the root: 1 (f);" in "".join(found.notes)
    assert ids(load_manifest(tmp_path / "d", follow_links=True)) == ["f", "v.mp4"]


# ------------------------------------------------------------------ links


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Two videos in a folder, a link to two elsewhere, to a file of each, to the folder itself and to nowhere."""
    root = touch(tmp_path / "root", "a/0.mp4", "a/1.mp4")
    touch(tmp_path / "else/b", "2.mp4", "3.mp4")
    for name, target in {
        "b": "../else/b",
        "c": "a",
        "one.mp4": "a/1.mp4",
        "far.mp4": tmp_path / "else/b/2.mp4",
        "a/up": "..",
        "gone.mp4": "a/none.mp4",
        "note": tmp_path / "else",
    }.items():
        link(root / name, target)
    return root


def test_links_within_are_followed_and_those_to_outside_are_told(linked: Path) -> None:
    found = load_manifest(linked)
    assert ids(found) == ["a__0.mp4", "a__1.mp4", "gone.mp4"]
    assert sorted(found.notes) == [
        'passed over links that lead out of the root: 3 (b; far.mp4; note); links = "follow" in the manifest, or '
        "--follow-links, follows them",
        "passed over links to folders that are gone through at their own place: 2 (c; a/up)",
        "passed over links to videos that are taken at another place, so that none counts twice: 1 (one.mp4: it is "
        "a/1.mp4)",
    ]


def test_links_to_outside_are_followed_where_somebody_says_so(linked: Path, tmp_path: Path) -> None:
    expected = ["a__0.mp4", "a__1.mp4", "b__2.mp4", "b__3.mp4", "gone.mp4"]
    found = load_manifest(linked, follow_links=True)
    assert ids(found) == expected
    assert "far.mp4: it is b/2.mp4" in "".join(found.notes)
    for words in ('links = "follow"\n', ""):
        text = f'name = "m"\nroot = "root"\n{words}[videos]\nglob = "**/*.mp4"\n'
        assert ids(load_manifest(toml(tmp_path, text))) == (expected if words else expected[:2] + expected[4:])
    with pytest.raises(ManifestError, match=r'links: expected "follow" .*found True'):
        load_manifest(toml(tmp_path, 'root = "root"\nlinks = true\n[videos]\nglob = "*"\n'))
    (linked / "t.csv").write_text("path\nfar.mp4\nb/3.mp4\n")
    with pytest.raises(
        ManifestError, match=r'far.mp4.*a link out of it; links = "follow" in the manifest, or --follow'
    ):
        load_manifest(linked / "t.csv")
    assert ids(load_manifest(linked / "t.csv", follow_links=True)) == ["b__3.mp4", "far.mp4"]
    for name in ("../x.mp4", "/etc/passwd"):  # not by any option
        (linked / "t.csv").write_text(f"path\n{name}\n")
        with pytest.raises(ManifestError, match="leaves the root"):
            load_manifest(linked / "t.csv", follow_links=True)


def test_what_is_cached_is_not_opened_so_training_needs_no_option(linked: Path) -> None:
    found = load_manifest(linked, cached=["b/2.mp4", "far.mp4"])
    assert ids(found) == ["a__0.mp4", "a__1.mp4", "b__2.mp4", "far.mp4", "gone.mp4"]
    assert "links that lead out of the root: 1 (note)" in "".join(found.notes)
    with pytest.raises(ManifestError, match="leaves the root"):
        load_manifest(linked, cached=["../else/b/2.mp4"])


def test_a_link_that_is_given_itself_is_meant(linked: Path) -> None:
    assert ids(load_manifest(linked / "far.mp4")) == ["far.mp4"]
    assert ids(load_manifest(linked / "b")) == ["2.mp4", "3.mp4"]


def test_a_snapshot_of_a_hub_leads_to_its_own_blobs_only(tmp_path: Path) -> None:
    hub = touch(tmp_path / "hub", "blobs/1", "blobs/2", "secret")
    touch(tmp_path, "other/blobs/3", "snapshots/x/y", "blobs/4")
    snapshot = hub / "snapshots/abc"
    targets = {"v1.mp4": "../../blobs/1", "deep/v2.mp4": "../../../blobs/2", "s.mp4": "../../secret"}
    for name, target in (targets | {"o.mp4": "../../../other/blobs/3", "up.mp4": "../../../blobs/4"}).items():
        link(snapshot / name, target)
    assert ids(load_manifest(snapshot)) == ["deep__v2.mp4", "v1.mp4"]
    assert ids(load_manifest(snapshot / "deep")) == ["v2.mp4"]
    assert "3 (o.mp4; s.mp4; up.mp4)" in load_manifest(snapshot).notes[-1]
    (snapshot / "t.csv").write_text("path\nv1.mp4\ndeep/v2.mp4\n")
    assert len(load_manifest(snapshot / "t.csv").videos) == 2
    link(hub / "snapshots/def/w.mp4", "../../blobs/1")  # the same film of two revisions
    whole = load_manifest(hub)
    assert ids(whole) == [f"snapshots__abc__{name}" for name in ("deep__v2.mp4", "s.mp4", "v1.mp4")]
    assert "snapshots/def/w.mp4: it is snapshots/abc/v1.mp4" in "".join(whole.notes)


def test_annexes_and_stores_of_data_tools(tmp_path: Path) -> None:
    root = touch(tmp_path / "repo", ".git/annex/objects/ab/k1.mp4", ".dvc/cache/files/md5/00/11")
    touch(tmp_path / "cache", "22")
    link(root / "v.mp4", ".git/annex/objects/ab/k1.mp4")
    link(root / "w.mp4", ".dvc/cache/files/md5/00/11")
    link(root / "not_fetched.mp4", ".git/annex/objects/cd/k2.mp4")
    link(root / "x.mp4", tmp_path / "cache/22")
    link(root / "visible", ".git/annex/objects/ab")
    assert ids(load_manifest(root)) == ["not_fetched.mp4", "v.mp4", "w.mp4"]
    assert ids(load_manifest(root, follow_links=True)) == ["not_fetched.mp4", "v.mp4", "w.mp4", "x.mp4"]


# ------------------------------------------------------------------ other files at the door


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("t.XLS", "a spreadsheet of another kind (.xls): save it as CSV"),
        ("t.feather", "a binary table"),
        ("t.json", "structured text"),
        ("t.jpg", "a picture"),
        ("t", "none of these by its ending (none)"),
    ],
)
def test_what_a_file_is_and_what_is_expected(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xff\x00")
    with pytest.raises(ManifestError, match=r"expected a manifest \(\.toml\), a table .*; found") as error:
        load_manifest(tmp_path / name)
    assert what in str(error.value)
    (tmp_path / "manifest").write_text('[videos]\nglob = "*"\n')  # a manifest by its content only still is one
    with pytest.raises(ManifestError, match="no video found"):
        load_manifest(tmp_path / "manifest")
