"""Names, paths and texts of others at every door: nothing leaves its root, nothing drives a terminal."""

from __future__ import annotations

import io
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from extract.captions.files import CaptionFileError, CaptionRow, read_captions, write_captions
from extract.captions.recaption import check_captions
from shared.cache import CacheError, FeatureCache
from shared.datasets import cache_of, dataset_name
from shared.labels.annotations import LabelError, annotation_files
from shared.labels.formats import FORMATS, read_labels
from shared.manifest import ManifestError, load_manifest
from shared.names import name_key, name_problem, printable
from shared.process.terminal import harmless
from shared.windows import WindowSpec
from train.data.labels import Track
from train.judging.evaluate import TrackScores
from train.submission.check import check_dvd
from train.submission.dvd import read_dvd_templates, write_dvd
from train.submission.files import SubmissionError, read_flat_template
from train.tasks import TASKS

ESCAPE, BIDI = "\x1b]0;owned\x07\x1b[2J", "\u202egpj.exe"
# Never an id. Those that can be a file's name are tried as one, too.
NASTY = (
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "\\\\host\\share",
    "C:\\x",
    "C:x",
    "a\x00b",
    "a\nb",
    f"a{ESCAPE}b",
    f"a{BIDI}",
    "a\u2028b",
    "a\u200bb",
    "\ufeffa",
    "a\udcffb",
    "zarr.json",
    "ZARR.JSON",
    ".zgroup",
    "__array__",
    "pts",
    "x.partial",
    "CON",
    "nul.mp4",
    "com1",
    "x" * 300,
    "é" * 150,
    "a ",
    " a",
    "a.",
    'a"b',
    "a*b",
    "a|b",
)


def as_toml(text: str) -> str:
    """A text as a TOML string."""
    return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text) + '"'


def is_spellable(name: str) -> bool:
    """Whether a TOML or CSV file in UTF-8 can say it."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)


# ------------------------------------------------------------------------------------------------ ids and paths


@pytest.mark.parametrize("name", NASTY)
def test_no_such_id(name: str, tmp_path: Path) -> None:
    problem = name_problem(name)
    assert problem is not None
    assert printable(problem) == problem  # and it can be told
    cache = FeatureCache.create(str(tmp_path / "c.zarr"), dataset="d", window=WindowSpec())
    with pytest.raises(CacheError):
        cache.writer(name, "video", kind="window", recipe={})
    with pytest.raises(CacheError):
        cache.writer("fine", name, kind="window", recipe={})
    assert [p.name for p in tmp_path.iterdir()] == ["c.zarr"]


@pytest.mark.parametrize("name", [n for n in NASTY if n.strip() and is_spellable(n)])
def test_a_table_brings_no_such_id(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    quoted = name.replace('"', '""')
    (tmp_path / "t.csv").write_text(f'path,id\na.mp4,"{quoted}"\n', encoding="utf-8")
    if name != name.strip():  # a table may have spaces around what it says
        assert [v.id for v in load_manifest(tmp_path / "t.csv").videos] == ["a"]
        return
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path / "t.csv")
    assert printable(str(caught.value)) == str(caught.value)


@pytest.mark.parametrize(
    "name", ["../x.mp4", "/etc/passwd", "a/../../x.mp4", "C:\\x.mp4", "~/x.mp4", "out.mp4", "d/x.mp4"]
)
def test_no_path_leaves_the_root(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "x.mp4").touch()
    (root / "out.mp4").symlink_to(tmp_path / "x.mp4")
    (root / "d").symlink_to(tmp_path)
    (root / "t.csv").write_text(f"path\n{name}\n")
    with pytest.raises(ManifestError, match="leaves the root"):
        load_manifest(root / "t.csv")
    for key in ("glob", "table"):
        (root / "m.toml").write_text(f"[videos]\n{key} = {as_toml(name)}\n")
        with pytest.raises(ManifestError, match=r"below the root|leaves the root|no table|no video found"):
            load_manifest(root / "m.toml")


@pytest.mark.parametrize("name", [n for n in NASTY if n not in ("", ".", "..") and "/" not in n and "\x00" not in n])
def test_a_folder_brings_no_such_id(name: str, tmp_path: Path) -> None:
    """Files as some system may hold them: each is a clear message, or an id that is safe."""
    try:
        (tmp_path / f"{name}.mp4").touch()
    except OSError:
        pytest.skip("the file system does not take this name")
    said = ""
    try:
        found = load_manifest(tmp_path).videos
    except ManifestError as error:
        found, said = (), str(error)
    assert all(name_problem(video.id) is None for video in found)
    assert printable(said) == said
    assert found or re.search("rename it, or list it in a table|no video found|leaves the root", said)


def test_ids_that_are_one_file_elsewhere(tmp_path: Path) -> None:
    accent = "café"
    twins = [
        ("A.mp4", "a.mp4"),
        (unicodedata.normalize("NFC", accent), unicodedata.normalize("NFD", accent)),
        ("ß", "SS"),
    ]
    for one, other in twins:
        assert name_key(one) == name_key(other)
        (tmp_path / "1.mp4").touch()
        (tmp_path / "2.mp4").touch()
        (tmp_path / "t.csv").write_text(f"path,id\n1.mp4,{one}\n2.mp4,{other}\n", encoding="utf-8")
        with pytest.raises(ManifestError, match=r"is taken by '1\.mp4'"):
            load_manifest(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "", "a\x00", ".", "x" * 65, ESCAPE])
def test_the_name_of_a_data_set_is_no_path(name: str, tmp_path: Path) -> None:
    """It names the cache and the runs."""
    (tmp_path / "a.mp4").touch()
    source = tmp_path / "m.toml"
    source.write_text(f'name = {as_toml(name)}\n[videos]\nglob = "*.mp4"\n')
    for read in (load_manifest, lambda s: dataset_name(str(s)), lambda s: cache_of(str(s))):
        with pytest.raises(ManifestError, match="expected 1 to 64 letters, digits"):
            read(source)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "9" * 10_000,
        "x = {a = " * 5_000,
        'root = "~nobody-there/x"\n[videos]\nglob="*"',
    ],
    ids=["brackets", "digits", "tables", "home"],
)
def test_a_hostile_manifest_is_an_error_in_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(ManifestError, match=r"not a TOML file|there is no folder"):
        load_manifest(tmp_path / "m.toml")


def test_numbers_without_end_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    digits = "9" * 5000
    (tmp_path / "t.csv").write_text(f"path,fold,start,end,label\na.mp4,{digits},{digits},{digits},{digits}\n")
    with pytest.raises(ManifestError, match="4 problems") as caught:
        load_manifest(tmp_path / "t.csv")
    assert all(digits not in problem for problem in caught.value.problems)


# ------------------------------------------------------------------------------------------------ labels


def test_annotations_do_not_leave_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "va").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("valence,arousal\n0,0\n")
    for pattern in ("../*.txt", "/etc/*", "va/../../*.txt"):
        with pytest.raises(ValueError, match="must lie below"):
            annotation_files(root, [pattern])
    for pattern in ("**x", ""):
        with pytest.raises(ValueError, match="is no pattern"):
            annotation_files(root, [pattern])
    (root / "va" / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="link to outside"):
        annotation_files(root, ["va/*.txt"])
    (root / "va" / "link.txt").unlink()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="link to outside"):
        annotation_files(root, ["out/*.txt"])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe\x00",
        b"PK\x03\x04" + b"\x00" * 50,
        ESCAPE.encode(),
        b"9" * 10_000,
        b"," * 10_000,
        b"Frame_Number,Label\n" + b"9" * 5000 + b",1\n",
        b"valence,arousal\n1e400,nan\n",
    ],
)
def test_hostile_label_files_are_errors_with_their_place(form: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(LabelError, match=r"a\.txt"):
        read_labels(file, form)


# ------------------------------------------------------------------------------------------------ captions, submissions


@pytest.mark.parametrize("name", [n for n in NASTY if n and is_spellable(n)])
def test_captions_of_a_video_that_is_not_in_the_cache_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    write_captions(file, [CaptionRow(name, 0, 0.0, "x")])
    with pytest.raises((CaptionFileError, ValueError)):
        check_captions("cache", {"fine": np.array([0])}, read_captions(file))
    assert sorted(os.listdir(tmp_path)) == ["c.csv"]


def test_locations_of_a_template_are_text_only(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    for location in ("../../x/00001.jpg", "/etc/00001.jpg", f"{ESCAPE}/00001.jpg"):
        file.write_text(f"image_location,valence,arousal\n{location},0,0\n")
        assert read_flat_template(TASKS["va"], file).locations == [location]
    file.write_text(f"image_location,valence,arousal\na/{'9' * 5000}.jpg,0,0\n")
    with pytest.raises(SubmissionError, match=r"t\.txt:2: expected <track>/<frame from 00001>\.jpg"):
        read_flat_template(TASKS["va"], file)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.csv").write_text(f"Frame_Number,Label\n{'9' * 5000},\n")
    with pytest.raises(SubmissionError, match=r"a\.csv:2"):
        read_dvd_templates(tmp_path / "d", None)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "a\nb", "CON"])
def test_a_submission_is_written_into_its_folder_only(name: str, tmp_path: Path) -> None:
    """Names of a cache that somebody else made."""
    from train.submission.dvd import blank_dvd_template

    scores = TrackScores(Track(name, name, name, None, None, np.zeros((3, 1), np.float32), "x"), np.zeros((3, 1)), 0)
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        write_dvd(TASKS["violence"], [blank_dvd_template(name, None)], {name: scores}, "", tmp_path / "out")
    assert not list(tmp_path.rglob("*.csv"))


def test_a_submission_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"Frame_Number,Label\n1,\x1b[2J\n")
    with pytest.raises(SubmissionError) as caught:
        check_dvd(tmp_path, None, None)
    assert ESCAPE[-4:] not in str(caught.value)


# ------------------------------------------------------------------------------------------------ terminal


def test_nothing_drives_the_terminal() -> None:
    buffer = io.StringIO()
    console = harmless(Console(file=buffer, force_terminal=True, markup=False, highlight=False, soft_wrap=True))
    text = f"video {ESCAPE}{BIDI}\x9b31m\udcff\r, fine: Straße 日本語\n"
    console.print(text)
    table = Table("name")
    table.add_row(text)
    console.print(table, crop=False, soft_wrap=True)
    with console.status("working"):
        console.print(text)
    shown = buffer.getvalue()
    for piece in ("\x1b]0;", "\x1b[2J", "\u202e", "\x9b", "\udcff", "\x07"):
        assert piece not in shown
    assert shown.count("\\x1b]0;owned") == 3
    assert "fine: Straße 日本語" in shown
    shown.encode("utf-8")


@pytest.mark.parametrize("stage", ["extract", "train"])
def test_both_command_lines_print_through_it(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import import_module

    module = import_module({"extract": "extract.commands.parts", "train": "train.commands.parts"}[stage])
    for console in (module.out, module.err):
        console.print(f"a{ESCAPE}")
    printed = capsys.readouterr()
    assert printed.out == printed.err == "a\\x1b]0;owned\\x1b[2J\n"
