"""Which ids and paths are safe."""

from pathlib import Path

import pytest

from shared.names import MAX_NAME_BYTES, name_problem, stays_below, video_id


@pytest.mark.parametrize("name", ["a", "a.mp4", "122-60-1920x1080-3", "Straße 1", "日本語.mp4", "a b", "~x", "x" * 200])
def test_good_ids(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "empty"),
        ("../a", "reserved"),
        ("..", "reserved"),
        (".hidden", "reserved"),
        ("__x", "reserved"),
        ("pts", "reserved"),
        ("zarr.json", "reserved"),
        ("/etc/passwd", "'/'"),
        ("a/b", "'/'"),
        ("a\\b", "not allowed"),
        ("C:x", "':'"),
        ("a\x00b", "not allowed"),
        ("a\nb", "not allowed"),
        ("a\x7fb", "not allowed"),
        ("a\ud800", "not allowed"),
        ("what?", "not allowed"),
        ("x" * 300, "longer than"),
        ("é" * (MAX_NAME_BYTES // 2 + 1), "longer than"),
    ],
)
def test_bad_ids_say_what_is_wrong(name: str, part: str) -> None:
    problem = name_problem(name)
    assert problem is not None
    assert part in problem
    problem.encode("utf-8")  # can be printed, whatever the name holds


def test_paths_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "outside.mp4").touch()
    (root / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (root / "inner.mp4").symlink_to(root / "sub")
    (root / "folder").symlink_to(tmp_path)
    for good in ("a.mp4", "sub/a.mp4", "./a.mp4", "inner.mp4", "..a/b"):
        assert stays_below(good, root), good
    bad = ("", "/etc/passwd", "../a", "sub/../../a", "~/a", "C:/a", "a\x00", "link.mp4", "folder/outside.mp4", "sub/..")
    for path in bad:
        assert not stays_below(path, root), path


def test_a_linked_root_is_no_escape(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert stays_below("a.mp4", tmp_path / "root")
    assert stays_below("a" * 5000, tmp_path / "root")


@pytest.mark.parametrize(
    ("path", "rule", "expected"),
    [
        ("a/b.mp4", "path", "a__b.mp4"),
        ("a/b.mp4", "stem", "b"),
        ("./a.mp4", "path", "a.mp4"),
        ("a//b/", "path", "a__b"),
        ("a/./b.tar.mp4", "stem", "b.tar"),
    ],
)
def test_id_of_a_path(path: str, rule: str, expected: str) -> None:
    assert video_id(path, rule) == expected
