"""Manifests: what is read, and that everything wrong is said at once, each with its place."""

import math
import os
from pathlib import Path

import pytest

import shared.manifest
from shared.datasets import find_dataset
from shared.manifest import Manifest, ManifestError, load_manifest

REPOSITORY = Path(__file__).resolve().parents[2]
CLIPS = REPOSITORY.parent / "shared" / "violence_clips"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def toml(folder: Path, text: str) -> Path:
    file = folder / "data.toml"
    file.write_text(f'name = "data"\n{text}', encoding="utf-8")
    return file


def table(folder: Path, *lines: str) -> Path:
    file = folder / "videos.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def problems_of(source: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(source)
    return caught.value.problems


def ids(manifest: Manifest) -> list[str]:
    return [video.id for video in manifest.videos]


# ---------------------------------------------------------------------- kinds of sources


def test_toml_with_globs(tmp_path: Path) -> None:
    touch(tmp_path / "d", "b/x.mp4", "a/y.AVI", "a/.hidden.mp4", "a/.DS_Store", "a/._y.mp4", "a/notes.txt", "c/z.mp4")
    touch(tmp_path / "d", *(f"a/frames/{i:05d}.jpg" for i in range(3)), "__MACOSX/a/q.mp4", "a/pictures/cover.jpg")
    source = toml(
        tmp_path,
        'root = "d"\nlayout = "L"\nnote = " drawn "\n[videos]\nglob = ["a/*", "b/*", "__MACOSX/**/*"]\n'
        'split = { train = "a/*", val = "b/*" }\n[tasks.va]\nformat = "affwild2-va"\ntrain = "VA/*.txt"\n',
    )
    found = load_manifest(source)
    assert ids(found) == ["a__frames", "a__y.AVI", "b__x.mp4"]
    assert [v.split for v in found.videos] == ["train", "train", "val"]
    assert [v.group for v in found.videos] == ids(found)
    assert (found.name, found.layout, found.note, found.source) == ("data", "L", "drawn", source)
    assert found.file(found.videos[2]) == tmp_path / "d/b/x.mp4"
    assert dict(found.tasks["va"].files) == {"train": ("VA/*.txt",)}
    assert ids(load_manifest(source, root=tmp_path / "d")) == ids(found)
    source.write_text("\ufeff" + source.read_text())  # as some editors save it
    assert ids(load_manifest(source)) == ids(found)


def test_folder_of_videos(tmp_path: Path) -> None:
    touch(tmp_path / "my videos!", "a.mp4", "sub/b.webm", ".git/c.mp4", "readme.md", *(f"s/{i}.png" for i in range(2)))
    found = load_manifest(tmp_path / "my videos!")
    assert found.name == "my-videos"
    assert ids(found) == ["a.mp4", "s", "sub__b.webm"]


def test_folder_of_numbered_frames_and_single_file(tmp_path: Path) -> None:
    touch(tmp_path, "clip/00001.jpg", "clip/00003.jpg", "one.MP4")
    clip = load_manifest(tmp_path / "clip")
    assert [(v.id, clip.file(v)) for v in clip.videos] == [("clip", tmp_path / "clip")]
    one = load_manifest(tmp_path / "one.MP4")
    assert (one.name, ids(one), one.file(one.videos[0])) == ("one", ["one.MP4"], tmp_path / "one.MP4")


def test_nothing_at_the_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        load_manifest(tmp_path / "none.toml")
    (tmp_path / "empty").mkdir()
    assert problems_of(tmp_path / "empty") == [f"[videos]: no video found below {tmp_path / 'empty'}"]
    (tmp_path / "broken.toml").write_text("name = ")
    assert problems_of(tmp_path / "broken.toml")[0].startswith("not a TOML file: ")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xd8\xff")
    assert problems_of(tmp_path / "binary.toml")[0].startswith("not a TOML file: ")


# ---------------------------------------------------------------------- tables


def test_csv_alone_with_everything(tmp_path: Path) -> None:
    touch(tmp_path, "v/a.mp4", "v/b, c.mp4", "d/e.mp4")
    source = table(
        tmp_path,
        "path,id,group,split,fold,fps,label,valence,arousal,comment",
        "v/a.mp4,A,g1,Training,0,30000/1001,violent,0.5,-1,x",
        '"v/b, c.mp4",B,g1,validation,1,25,0,-5,-5,"two',
        'lines"',
        "d\\e.mp4,,,,,,,,,",
    )
    found = load_manifest(source)
    a, b, e = found.videos
    assert (a.id, a.path, a.group, a.split, a.fold) == ("A", "v/a.mp4", "g1", "train", 0)
    assert a.fps == pytest.approx(29.97, abs=1e-3)
    assert (b.id, b.path, b.split, b.fold, b.fps) == ("B", "v/b, c.mp4", "val", 1, 25.0)
    assert (e.id, e.path, e.group, e.split, e.fold, e.fps) == ("d__e.mp4", "d/e.mp4", "d__e.mp4", None, None, None)
    assert {t: s.format for t, s in found.tasks.items()} == {"violence": "table", "va": "table"}
    labels = {s.video_id: s for s in found.tasks["violence"].segments}
    assert (labels["A"].values, labels["A"].start, labels["A"].end, labels["A"].where) == (
        (1.0,),
        0,
        None,
        "videos.csv:2",
    )
    assert labels["B"].values == (0.0,)
    assert math.isnan(labels["d__e.mp4"].values[0])
    emotions = {s.video_id: s.values for s in found.tasks["va"].segments}
    assert emotions["A"] == (0.5, -1.0)
    assert all(map(math.isnan, emotions["B"] + emotions["d__e.mp4"]))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\r\na.mp4,1\r\nb.mp4,0\r\n",
        "Path , Label\n a.mp4 , 1\n b.mp4, 0.0",
        'path,label\n"a.mp4",1.0\n\n./b.mp4,False\n\n',
        "label,file\nTrue,a.mp4\nnon-violent,b.mp4\n",
    ],
)
def test_tables_as_programs_save_them(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8"))
    found = load_manifest(tmp_path / "t.csv")
    assert ids(found) == ["a.mp4", "b.mp4"]
    assert [s.values for s in found.tasks["violence"].segments] == [(1.0,), (0.0,)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a CSV table: the file is empty"),
        (b"path,label\n", "has no rows"),
        (b"path,label\na.mp4,1\na.mp4,1,2\n", "more cells than the header (a comma at their end?): row 3 has 3"),
        (b"name;label\na.mp4;1\n", "no column for the path (one of path, file, filename, video, clip, stream); found"),
        (b"path,label\n\n,1\n", "t.csv:3: empty path"),
        (b"path\na.mp4\nnone.mp4\n", "t.csv:3: no file or folder 'none.mp4'"),
        (b"path\na.mp4\n" + b"x" * 400 + b".mp4\n", "t.csv:3: no file or folder"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "t.csv").write_bytes(content)
    (problem,) = problems_of(tmp_path / "t.csv")
    assert message in problem


def test_user_tables_of_clips_streams_and_labels(tmp_path: Path) -> None:
    """The columns of three tables as users have them (see the class of files in shared/violence_clips)."""
    touch(tmp_path, "streams/s1.mp4", "clips/a.mp4", "clips/b.mp4", "controlled/c.mp4")
    controlled = table(
        tmp_path,
        "clip,label,action,group,source_clip,source_start_frame,n_frames,width,height",
        "controlled/c.mp4,1,punch,seq01,clips/a.mp4,22,64,400,296",
    )
    assert [(v.id, v.group) for v in load_manifest(controlled).videos] == [("controlled__c.mp4", "seq01")]
    labels = table(
        tmp_path,
        "clip,label,source,action,group,scene,orig_id,fps,n_frames,width,height,orig_width,orig_height",
        "clips/a.mp4,1,x,punch,seq01,lot,0_1_4,30/1,97,276,236,276,236",
        "clips/b.mp4,0,x,hug,seq02,lot,0_1_5,30000/1001,97,276,236,276,236",
    )
    assert [v.fps for v in load_manifest(labels).videos] == pytest.approx([30, 30000 / 1001])
    table(
        tmp_path,
        "stream,start_frame,end_frame_exclusive,label,action,clip,group",
        "streams/s1.mp4,0,111,1,push,clips/a.mp4,seq01",
        "streams/s1.mp4,111,219,0,hug,clips/b.mp4,seq01",
    )
    (problem,) = problems_of(tmp_path / "videos.csv")
    assert problem.startswith("videos.csv:1: clip and stream could each be the path; say which")
    assert 'columns = {path = "stream"}' in problem
    found = load_manifest(toml(tmp_path, '[videos]\ntable = "videos.csv"\ncolumns = {path = "stream"}\n'))
    assert ids(found) == ["streams__s1.mp4"]
    spans = [(s.start, s.end, s.values, s.where) for s in found.tasks["violence"].segments]
    assert spans == [(0, 111, (1.0,), "videos.csv:2"), (111, 219, (0.0,), "videos.csv:3")]


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not on this machine")
def test_the_real_tables(tmp_path: Path) -> None:
    for name in ("controlled.csv", "labels.csv"):
        found = load_manifest(CLIPS / name)
        assert len(found.tasks["violence"].segments) == len(found.videos) > 10
    with pytest.raises(ManifestError, match="clip and stream could each be the path"):
        load_manifest(CLIPS / "streams.csv")
    source = toml(tmp_path, '[videos]\ntable = "streams.csv"\ncolumns = {path = "stream"}\n')
    streams = load_manifest(source, root=CLIPS)
    assert len(streams.tasks["violence"].segments) > len(streams.videos) > 0


def test_problems_of_a_table_come_all_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "C.MP4")
    (tmp_path / "link.mp4").symlink_to(os.devnull)
    source = table(
        tmp_path,
        "path,id,split,fold,fps,start,end,label,valence,arousal",
        "a.mp4,,dev,x,0,-1,b,maybe,2,zero",  # 2: seven problems
        "b.mp4,,,,,5,5,,,",  # 3: the segment is empty
        "a.mp4,other,,,,,,,,",  # 4: another id
        "../a.mp4,,,,,,,,,",  # 5
        "/etc/passwd,,,,,,,,,",  # 6
        "C:\\a.mp4,,,,,,,,,",  # 7
        "link.mp4,,,,,,,,,",  # 8
        "c.mp4,A.mp4,,,,,,,,",  # 9: differs from a.mp4 by case only
        "C.MP4,../x,,,,,,,,",  # 10
    )
    found = problems_of(source)
    expected = [
        "videos.csv:2 column split: expected train, val or test, found 'dev'",
        "videos.csv:2 column fold: expected a whole number below 10000, found 'x'",
        "videos.csv:2 column fps: expected frames per second such as 25 or 30000/1001, found '0'",
        "videos.csv:2 column start: expected a 0-based frame number up to 20000000, found '-1'",
        "videos.csv:2 column end: expected a 0-based frame number up to 20000000, found 'b'",
        "videos.csv:2 column label: expected 0 or 1 (or violent / non-violent), found 'maybe'",
        "videos.csv:2 column valence: expected a number from -1 to 1, found '2'",
        "videos.csv:2 column arousal: expected a number from -1 to 1, found 'zero'",
        "videos.csv:3: the segment ends (5, exclusive) where or before it starts (5)",
        "videos.csv:4: id, group, split, fold or fps of 'a.mp4' differ from videos.csv:2",
        *(
            f"videos.csv:{line}: path {path!r} leaves the root (absolute, '..', or '~')"
            for line, path in ((5, "../a.mp4"), (6, "/etc/passwd"), (7, "C:/a.mp4"))
        ),
        "videos.csv:8: path 'link.mp4' leaves the root (a link out of it; links = \"follow\" in the manifest, or "
        "--follow-links, follows it)",
        "videos.csv:9: id 'A.mp4' is taken by 'a.mp4' (letter case and the form of accents do not count); give the rows"
        ' an `id` column, or id = "path"',
        "videos.csv:10: id '../x' is reserved: it must not start with '.' or '__' nor be 'pts' or 'zarr.json'; rename "
        "it, or list it in a table with a column `id`",
    ]
    assert found == expected


def test_rows_of_one_video_need_segments(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (problem,) = problems_of(table(tmp_path, "path,label", "a.mp4,1", "./a.mp4,0"))
    need = "segments need start and end, or start_s and end_s"
    assert problem == f"videos.csv:3: 'a.mp4' is listed twice (first at videos.csv:2); {need}"


def test_many_missing_files_are_counted(tmp_path: Path) -> None:
    source = table(tmp_path, "path", *(f"{i}.mp4" for i in range(51)))
    touch(tmp_path, "50.mp4")
    with pytest.raises(ManifestError) as caught:
        load_manifest(source)
    assert len(caught.value.problems) == 50
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{source}: 50 problems"
    assert len(lines) == 22
    assert lines[-1] == "  ... and 30 more"


# ---------------------------------------------------------------------- ids, groups, roots


def test_id_rules(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "b/y.mp4", "b/x.avi")
    source = toml(tmp_path, '[videos]\nglob = "*/*.mp4"\nid = "stem"\n')
    assert ids(load_manifest(source)) == ["x", "y"]
    (problem,) = problems_of(toml(tmp_path, '[videos]\nglob = "*/*"\nid = "stem"\n'))
    assert problem.startswith("[videos] b/x.avi: id 'x' is taken by 'a/x.mp4'")
    assert len(load_manifest(toml(tmp_path, '[videos]\nglob = "*/*"\n')).videos) == 3


def test_groups_of_affwild2(tmp_path: Path) -> None:
    names = {
        "122-60-1920x1080-1": "122-60-1920x1080",
        "122-60-1920x1080-3": "122-60-1920x1080",
        "24-30-1920x1080-1": "24-30-1920x1080",
        "10-60-1280x720": "10-60-1280x720",
        "video86_1": "video86",
        "video86_2": "video86",
        "video8": "video8",
        "105": "105",
        "1-30-1280x720": "1-30-1280x720",
    }
    touch(tmp_path, *(f"batch1/{name}.mp4" for name in names), "batch2/.DS_Store", "new_vids/x_y.avi")
    found = load_manifest(REPOSITORY / "data_manifests" / "affwild2.toml", root=tmp_path)
    assert {v.id: v.group for v in found.videos} == {**names, "x_y": "x_y"}


def test_group_rules_without_group_or_match(tmp_path: Path) -> None:
    touch(tmp_path, "s1_a.mp4", "s1_b.mp4", "other.mp4")
    groups = {}
    for rule in (r"^s\d+", r"^(s\d+)?", r"^(?:s\d+)|$"):
        found = load_manifest(toml(tmp_path, f"[videos]\nglob = '*'\ngroup = '{rule}'\n"))
        groups[rule] = {v.id: v.group for v in found.videos}
    expected = {"s1_a.mp4": "s1", "s1_b.mp4": "s1", "other.mp4": "other.mp4"}
    assert all(g == expected for g in groups.values())


def test_links_out_of_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "outside/a.mp4", "root/b.mp4")
    (tmp_path / "root/a.mp4").symlink_to(tmp_path / "outside/a.mp4")
    found = load_manifest(tmp_path / "root")
    assert (ids(found), [note.partition(";")[0] for note in found.notes]) == (
        ["b.mp4"],
        ["passed over links that lead out of the root: 1 (a.mp4)"],
    )
    assert ids(load_manifest(tmp_path / "root", follow_links=True)) == ["a.mp4", "b.mp4"]
    (tmp_path / "alias").symlink_to(tmp_path / "outside")  # the root itself may be a link
    assert ids(load_manifest(tmp_path / "alias")) == ["a.mp4"]


def test_missing_root_shows_the_layout_and_all_else(tmp_path: Path) -> None:
    text = (
        'root = "none"\nlayout = """\nTraining/videos/<id>.mp4\n"""\n[videos]\nglobs = "*"\n[tasks.va]\ntrain = "x"\n'
    )
    source = toml(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        load_manifest(source)
    assert [p.split(":")[0] for p in caught.value.problems] == ["[videos]", "[videos]", "root", "[tasks.va] format"]
    assert str(caught.value).endswith(f"Expected below {tmp_path / 'none'}:\nTraining/videos/<id>.mp4")
    assert "--root" in str(caught.value)


# ---------------------------------------------------------------------- mistakes in TOML


def test_mistakes_in_toml_come_all_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    source = tmp_path / "bad.toml"
    source.write_text(
        'name = "my data"\nlayuot = "x"\n[videos]\nglob = ["../*", "/etc/*", 3, "**x"]\nid = "name"\ngroup = "("\n'
        'split = { dev = "a/*" }\ncolumns = { path = "clip" }\n[tasks.va]\nformat = "affwild2-va"\n[tasks.violence]\n'
        'format = "dvd"\ntrain = "../../*.csv"\nzzz = 1\n[tasks]\nage = 3\n'
    )
    found = "\n".join(problems_of(source))
    for part in (
        "top level: unknown key 'layuot'; did you mean 'layout'? (known: ",
        "name: expected 1 to 64 letters, digits, - or _, found 'my data'",
        '[videos] id: expected "path" or "stem", found \'name\'',
        "[videos] group: not a regular expression",
        "[videos] split: expected patterns for train, val or test",
        "[videos] columns: names columns of a `table`",
        "[videos] glob: expected a pattern below the root, found '../*'",
        "[videos] glob: expected a pattern below the root, found '/etc/*'",
        "[videos] glob: expected a pattern below the root, found 3",
        "[videos] glob: not a pattern",
        "[tasks.va]: expected a pattern of annotation files",
        "[tasks.violence]: unknown key 'zzz' (known: background, classes, columns, format, ignore, kind, ",
        "[tasks.violence] train: expected a pattern below the root, found '../../*.csv'",
        "[tasks.age]: expected a table, found 3",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "[videos]: missing"),
        ("videos = 3", "[videos]: missing"),
        ("[videos]", "give exactly one of `glob` and `table`"),
        ('[videos]\nglob = "*"\ntable = "x.csv"', "give exactly one of `glob` and `table`"),
        ("[videos]\nglob = 3", "expected a pattern below the root, found 3"),
        ('[videos]\ntable = "none.csv"\n[tasks.violence]\nformat = "table"', "there is no table"),
        ('[videos]\ntable = "../x.csv"', "'../x.csv' leaves the root"),
        ('[videos]\ntable = "sub"', "not a CSV table"),
        (
            '[videos]\ntable = "t.csv"\ncolumns = {path = "clips"}',
            "t.csv:1: no column 'clips' (given for path); found clip",
        ),
        ('[videos]\ntable = "t.csv"\ncolumns = {path = ["clip"]}', "no column ['clip']"),
        ('[videos]\ntable = "t.csv"\ncolumns = {paht = "clip"}', "unknown key 'paht'; did you mean 'path'?"),
        ('[videos]\ntable = "t.csv"\ncolumns = "clip"', "[videos] columns: expected a table such as"),
        ('[videos]\ntable = "t.csv"\n[tasks.va]\nformat = "table"', "no column valence and arousal"),
        ('[videos]\nglob = "*"\nsplit = {train = ""}', "[videos] split: expected patterns"),
        ('[videos]\nglob = "*"\n[[tasks]]\nformat = "dvd"', "[tasks]: expected a table per task"),
    ],
)
def test_single_mistakes(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4", "sub/b.mp4")
    (tmp_path / "t.csv").write_text("clip\na.mp4\n")
    (problem,) = problems_of(toml(tmp_path, text))
    assert message in problem


# ---------------------------------------------------------------------- names of data sets


def test_find_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "data_manifests/mine.toml", "clip.mp4")
    assert find_dataset("clip.mp4") == Path("clip.mp4")
    assert find_dataset("mine") == Path("data_manifests/mine.toml")
    assert find_dataset("affwild2").parent == Path(shared.manifest.__file__).resolve().parents[2] / "data_manifests"
    with pytest.raises(FileNotFoundError, match=r"unknown data set 'afwild2'; did you mean 'affwild2'\?"):
        find_dataset("afwild2")
    with pytest.raises(FileNotFoundError, match=r"'qqqqq' \(known: .*mine.*\)\nGive one of these names, a manifest"):
        find_dataset("qqqqq")
    with pytest.raises(FileNotFoundError):
        find_dataset("x" * 5000)


def test_a_folder_of_the_name_of_a_data_set_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "dvd/Training/videos/0001.mp4")
    with pytest.raises(
        ValueError, match=r"'dvd' is both a folder here and the name of a data set. Give \./dvd for the"
    ):
        find_dataset("dvd")
    assert find_dataset("./dvd") == Path("dvd")
    assert find_dataset("dvd/") == Path("dvd")


def test_a_wrong_root_is_one_problem_and_not_one_of_every_video(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path\n" + "".join(f"v{n}.mp4\n" for n in range(500)))
    with pytest.raises(ManifestError, match=r"1 problem\n.*none of the 500 videos is below .* \(the first: 'v0.mp4'\)"):
        load_manifest(table, tmp_path)
    touch(tmp_path, "v7.mp4")
    with pytest.raises(ManifestError, match=r"499 problems\n.*no file or folder 'v0.mp4'"):
        load_manifest(table, tmp_path)
