"""Annotations meet a manifest and a cache: what becomes a track, what is left out and said, what a control permutes."""

from pathlib import Path

import numpy as np
import pytest

from shared.labels.annotations import LabelError
from shared.manifest import load_manifest
from train.data.labels import Track
from train.data.tracks import LeftOut, permute_labels, read_tracks
from train.tasks import TASKS

VIOLENCE, VA = TASKS["violence"], TASKS["va"]


def data_set(root: Path, videos: list[str], va: dict[str, str], tail: str = "") -> Path:
    """Manifest of empty videos with VA files (track -> text); tracks named val* are the validation split."""
    for folder in ("videos", "va/train", "va/val"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for video in videos:
        (root / "videos" / f"{video}.mp4").write_bytes(b"")
    for track, text in va.items():
        (root / "va" / ("val" if track.startswith("val") else "train") / f"{track}.txt").write_text(text)
    manifest = root / "m.toml"
    manifest.write_text(
        'name = "m"\nroot = "."\n[videos]\nglob = ["videos/*"]\nid = "stem"\ngroup = "^([a-z]+)"\n'
        + (tail or '[tasks.va]\nformat = "affwild2-va"\ntrain = "va/train/*"\nval = "va/val/*"\n')
    )
    return manifest


def rows(*values: str) -> str:
    return "\n".join(["valence,arousal", *values]) + "\n"


def test_official_files_become_aligned_tracks(manifest: Path, clips) -> None:
    frames = {c.id: c.num_frames for c in clips}
    for task in (VIOLENCE, VA):
        tracks, report = read_tracks(load_manifest(manifest), task, frames)
        assert [t.name for t in tracks] == sorted(c.id for c in clips)
        by_name = {t.name: t for t in tracks}
        for clip in clips:
            track = by_name[clip.id]
            assert (track.video_id, track.group, track.split) == (clip.id, clip.group, clip.split)
            np.testing.assert_allclose(track.labels, clip.labels(task.name), atol=1e-6)
        assert not report.without_video + report.without_features + report.without_labels


def test_left_and_right_share_a_video_and_a_group(tmp_path: Path) -> None:
    manifest = data_set(
        tmp_path, ["a1", "val2"], {"a1_left": rows("0,0"), "a1_right": rows("1,1"), "val2": rows("0.5,0.5")}
    )
    (tmp_path / "va/train/.DS_Store").write_bytes(b"\x00\x01")
    (tmp_path / "va/val/Thumbs.db").write_bytes(b"\x00\x01")
    tracks, _ = read_tracks(load_manifest(manifest), VA, {"a1": 1, "val2": 1})
    found = [(t.name, t.video_id, t.group, t.split) for t in tracks]
    assert found == [
        ("a1_left", "a1", "a", "train"),
        ("a1_right", "a1", "a", "train"),
        ("val2", "val2", "val", "val"),
    ]
    assert [t.labels.tolist() for t in tracks] == [[[0, 0]], [[1, 1]], [[0.5, 0.5]]]


def test_what_does_not_meet_is_left_out_and_told(tmp_path: Path) -> None:
    manifest = data_set(
        tmp_path,
        ["a", "b", "c", "valid"],
        {"a": rows("0,0"), "b": rows("0,0"), "nobody": rows("0,0"), "valid": rows("0,0")},
    )
    tracks, report = read_tracks(load_manifest(manifest), VA, {"a": 1, "c": 1, "valid": 1})
    assert [t.name for t in tracks] == ["a", "valid"]
    assert (report.without_video, report.without_features, report.without_labels) == (["nobody"], ["b"], ["c"])
    told = "\n".join(report.lines())
    for words in (
        "1 annotation files have no video in the manifest: nobody",
        "1 annotated videos are not in the cache: b",
        "1 cached videos have no annotation: c",
        "1 labelled frames have no features; coverage counts those of tested tracks as missing",
    ):
        assert words in told
    with pytest.raises(ValueError, match="no annotation of task 'va' meets a cached video"):
        read_tracks(load_manifest(manifest), VA, {"c": 1})


def test_rows_against_frames_are_counted(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, ["a", "val"], {"a": rows("0,0", "-5,-5", "1,1"), "val": rows("0.5,0.5")})
    tracks, report = read_tracks(load_manifest(manifest), VA, {"a": 2, "val": 4})
    assert [t.labels.shape for t in tracks] == [(2, 2), (4, 2)]
    assert (report.aligned["a"].extra, report.aligned["a"].invalid) == (1, 1)
    assert report.aligned["val"].missing == 3
    assert report.lines() == [
        "1 tracks have fewer label rows than frames (3 frames masked)",
        "1 tracks have more label rows than frames (1 rows unused)",
        "1 frames carry an invalid or missing label and are masked",
        "1 labelled frames have no features; coverage counts those of tested tracks as missing",
    ]


def test_labelled_frames_without_features_are_counted(tmp_path: Path) -> None:
    files = {"a": rows("0,0", "1,1", "-5,-5", "1,1"), "b": rows("0,0", "-5,-5", "1,1"), "val": rows("0.5,0.5")}
    manifest = data_set(tmp_path, ["a", "b", "val"], files)
    _, report = read_tracks(load_manifest(manifest), VA, {"a": 1})
    assert sorted(report.left_out, key=lambda one: one.track) == [
        LeftOut("a", "train", None, 2),  # rows past the decoded end
        LeftOut("b", "train", None, 2),
        LeftOut("val", "val", None, 1),
    ]
    assert any(line.startswith("5 labelled frames have no features") for line in report.lines())
    (tmp_path / "va/train/b.txt").write_text(rows("0,zero"))
    with pytest.raises(LabelError, match=r"b.txt:2"):
        read_tracks(load_manifest(manifest), VA, {"a": 1})


def test_segments_without_features_are_counted_as_far_as_they_are_known(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    table = tmp_path / "clips.csv"
    table.write_text(
        "path,start,end,label,split,fold\na.mp4,0,2,1,train,0\nb.mp4,5,9,1,val,1\nb.mp4,7,10,1,val,1\n"
        "b.mp4,20,,0,val,1\nc.mp4,,,1,val,0\n"
    )
    _, report = read_tracks(load_manifest(table), VIOLENCE, {"a.mp4": 5})
    assert report.left_out == [LeftOut("b.mp4", "val", 1, 5), LeftOut("c.mp4", "val", 0, 0)]
    assert report.unknown_length == ["b.mp4", "c.mp4"]
    assert any("segments without an end, frames not counted: b.mp4, c.mp4" in line for line in report.lines())


def test_the_digest_knows_every_label(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, ["a", "val"], {"a": rows("0,0", "1,1"), "val": rows("0.5,0.5")})

    def digest() -> str:
        return read_tracks(load_manifest(manifest), VA, {"a": 2, "val": 1})[1].digest

    first = digest()
    assert first == digest()
    (tmp_path / "va/train/a.txt").write_text(rows("0,0", "1,0.999"))
    changed = digest()
    assert changed != first
    (tmp_path / "va/train/a.txt").write_text(rows("0,0", "-5,-5"))
    assert digest() not in (first, changed)


def test_tables_of_segments(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    table = tmp_path / "clips.csv"
    table.write_text("path,start,end,label,fold\na.mp4,0,2,1,0\na.mp4,3,,0,0\nb.mp4,,,violent,1\nc.mp4,,,,1\n")
    tracks, report = read_tracks(load_manifest(table), VIOLENCE, {"a.mp4": 5, "b.mp4": 2, "c.mp4": 3})
    assert [t.name for t in tracks] == ["a.mp4", "b.mp4"]
    np.testing.assert_array_equal(tracks[0].labels[:, 0], [1, 1, np.nan, 0, 0])
    np.testing.assert_array_equal(tracks[1].labels[:, 0], [1, 1])
    assert [t.fold for t in tracks] == [0, 1]
    assert report.without_labels == ["c.mp4"]
    table.write_text("path,start,end,label\na.mp4,0,3,1\na.mp4,2,5,0\n")
    with pytest.raises(LabelError, match=r"clips.csv:3: .*lines 2 and 3 differ on frame 2"):
        read_tracks(load_manifest(table), VIOLENCE, {"a.mp4": 5})


def test_what_cannot_be_read_is_explained(tmp_path: Path) -> None:
    manifest = data_set(tmp_path, ["a", "val"], {"a": rows("0,0")})
    with pytest.raises(ValueError, match=r"no annotation file matches .*va/val"):
        read_tracks(load_manifest(manifest), VA, {"a": 1})
    with pytest.raises(ValueError, match="no labels for this task"):
        read_tracks(load_manifest(manifest), VIOLENCE, {"a": 1})
    for pattern in ("/etc/*", "../*.txt"):
        outside = data_set(tmp_path, [], {}, f'[tasks.va]\nformat = "affwild2-va"\ntrain = "{pattern}"\n')
        with pytest.raises(ValueError, match=r"must lie below|outside|leaves|below the root"):
            read_tracks(load_manifest(outside), VA, {"a": 1})
    both = data_set(tmp_path, [], {}, '[tasks.va]\nformat = "affwild2-va"\ntrain = "va/*/a.txt"\nval = "va/train/*"\n')
    with pytest.raises(ValueError, match="'a' is annotated twice"):
        read_tracks(load_manifest(both), VA, {"a": 1})
    (tmp_path / "bare.csv").write_text("path\nvideos/a.mp4\n")
    with pytest.raises(ValueError, match=r"add \[tasks.va\] or label columns"):
        read_tracks(load_manifest(tmp_path / "bare.csv"), VA, {"videos__a.mp4": 1})


# --- the control ---


def numbered(sizes: list[int], seed: int = 0) -> list[Track]:
    """Tracks of groups of some sizes, of different length; all labels of a track name it, some frames are masked."""
    rng = np.random.default_rng(seed)
    tracks = []
    for group, size in enumerate(sizes):
        for _ in range(size):
            labels = np.full((int(rng.integers(5, 30)), 1), len(tracks), np.float32)
            labels[rng.random(len(labels)) < 0.3] = np.nan
            labels[0] = len(tracks)
            tracks.append(Track(f"t{len(tracks)}", "v", f"g{group}", None, None, labels, "x"))
    order = rng.permutation(len(tracks))
    return [tracks[i] for i in order]


@pytest.mark.parametrize("sizes", [[1, 1], [2, 2], [3, 1, 1, 1], [1] * 9, [4, 3, 2, 1], [2] * 10])
@pytest.mark.parametrize("seed", range(8))
def test_permuted_labels_come_from_another_group(sizes: list[int], seed: int) -> None:
    tracks = numbered(sizes, seed)
    group_of = {int(t.name[1:]): t.group for t in tracks}
    permuted, sources = permute_labels(tracks, seed), []
    for before, after in zip(tracks, permuted, strict=True):
        assert (before.name, before.group) == (after.name, after.group)
        np.testing.assert_array_equal(np.isnan(before.labels), np.isnan(after.labels))
        (source,) = {int(v) for v in after.labels[np.isfinite(after.labels)]}
        assert group_of[source] != before.group
        sources.append(source)
    assert sorted(sources) == list(range(len(tracks)))  # everyone's labels are used once
    for a, b in zip(permuted, permute_labels(tracks, seed), strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)


def test_permuted_labels_keep_their_order_and_are_cut_or_repeated() -> None:
    short = Track("s", "v", "a", None, None, np.float32([[1], [np.nan], [0]]), "x")
    long = Track("l", "v", "b", None, None, np.float32([[0.1], [0.2], [0.3], [np.nan], [0.4]]), "x")
    silent = Track("n", "v", "c", None, None, np.full((2, 1), np.nan, np.float32), "x")
    a, b, c = permute_labels([short, long, silent], 0)
    np.testing.assert_array_equal(a.labels, np.float32([[0.1], [np.nan], [0.2]]))
    np.testing.assert_array_equal(b.labels, np.float32([[1], [0], [1], [np.nan], [0]]))
    assert c is silent


def test_labels_that_cannot_leave_their_group_are_refused() -> None:
    with pytest.raises(ValueError, match="'g0' holds 3 of 5 labelled tracks"):
        permute_labels(numbered([3, 2]), 0)


def test_seeds_permute_differently() -> None:
    tracks = numbered([1] * 12)
    first, second = permute_labels(tracks, 0), permute_labels(tracks, 1)
    assert any(not np.array_equal(a.labels, b.labels, equal_nan=True) for a, b in zip(first, second, strict=True))
