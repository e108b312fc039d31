"""The data check: official folders in every layout, written here, with tiny videos and everything that goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from extract.jobs.dataset_doctor import examine
from shared.cache import FeatureCache, VideoInfo
from shared.datasets import find_dataset
from shared.labels.annotations import AU_NAMES, EXPR_NAMES
from shared.manifest import load_manifest
from shared.windows import WindowSpec
from tests.extract.support import write_video

Cli = Callable[..., Result]
VA, EXPR, AU = "valence,arousal", ",".join(EXPR_NAMES), ",".join(AU_NAMES)
ROW = {VA: "0.25,-0.1", EXPR: "3", AU: ",".join("0" * 12)}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 12)


def put(file: Path, header: str, rows: int | Sequence[str] = 12) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    body = [ROW[header]] * rows if isinstance(rows, int) else rows
    file.write_text("\n".join([header, *body]) + "\n")


def affwild2(root: Path, clip: Path, edition: str = "", expr: str = "EXPR_Recognition_Challenge") -> Path:
    """Six videos in three folders, with all three tasks; two people in one video; two parts of one recording."""
    for place in ("batch1/105.mp4", "batch1/video2.mp4", "batch2/10-60-1280x720.mp4", "batch2/122-60-1920x1080-1.mp4",
                  "batch2/122-60-1920x1080-2.mp4", "new_vids/451.mp4"):  # fmt: skip
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, root / place)
    labels = root / edition if edition else root
    for folder, header in (("VA_Estimation_Challenge", VA), (expr, EXPR), ("AU_Detection_Challenge", AU)):
        for track in ("105", "10-60-1280x720", "10-60-1280x720_right", "122-60-1920x1080-1", "122-60-1920x1080-2"):
            put(labels / folder / "Train_Set" / f"{track}.txt", header)
        for track in ("video2_left", "video2_right"):
            put(labels / folder / "Validation_Set" / f"{track}.txt", header)
    for place in ("batch1", f"{edition or '.'}/VA_Estimation_Challenge/Train_Set"):
        (root / place / ".DS_Store").write_bytes(b"\x00\x01")
        (root / place / "._105.txt").write_bytes(b"\x00\x01")
    return root


def check(root: Path, name: str = "affwild2", cache: FeatureCache | None = None):
    return examine(load_manifest(find_dataset(name), root), cache)


def parts(found) -> dict[tuple[str, str], object]:
    return {(p.task, p.split): p for p in found.parts}


@pytest.mark.parametrize("edition", ["", "6th_ABAW_Annotations"])
@pytest.mark.parametrize("expr", ["EXPR_Recognition_Challenge", "EXPR_Classification_Challenge"])
def test_every_layout_of_the_annotations_is_found(tmp_path: Path, clip: Path, edition: str, expr: str) -> None:
    found = check(affwild2(tmp_path, clip, edition, expr))
    assert found.exit_status == 0
    assert {place: dict(kinds) for place, kinds in found.places.items()} == {
        "batch1": {"mp4": 2}, "batch2": {"mp4": 3}, "new_vids": {"mp4": 1},
    }  # fmt: skip
    for task in ("va", "expr", "au"):
        train, val = (parts(found)[task, split] for split in ("train", "val"))
        assert (train.files, len(train.tracks), len(set(train.tracks.values()))) == (5, 5, 4)
        assert (val.files, len(val.tracks), set(val.tracks.values())) == (2, 2, {"video2"})
        assert train.tracks["10-60-1280x720_right"] == "10-60-1280x720"
        assert set(train.off.values()) == {0}
    assert found.unlabelled == ["451"]
    assert found.crossing == found.mixed == []
    assert found.strays == {".DS_Store": 2, "._*": 2}


def test_rows_against_frames_are_signed_and_frames_of_a_cache_are_exact(tmp_path: Path, clip: Path) -> None:
    root = affwild2(tmp_path / "data", clip)
    train = root / "VA_Estimation_Challenge" / "Train_Set"
    put(train / "105.txt", VA, ["0,0"] * 11 + ["-5,-5"] * 2)
    put(train / "122-60-1920x1080-1.txt", VA, 9)
    part = parts(check(root))["va", "train"]
    assert (part.off["105"], part.off["122-60-1920x1080-1"], part.invalid, part.rows) == (1, -3, 2, 13 + 9 + 36)
    cache = FeatureCache.create(tmp_path / "c.zarr", dataset="affwild2", window=WindowSpec())
    facts = VideoInfo({"path": "batch1/105.mp4"}, 30.0, 13, 64, 48, 0, "x", np.arange(13) / 30)
    cache.write_info("105", facts)
    found = check(root, cache=cache)
    assert parts(found)["va", "train"].off["105"] == 0
    assert found.counted == "as decoded"


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"VA_Estimation_Challenge/Train_Set/nobody.txt": (VA, 3)}, 1, "1 label files have no video: va nobody"),
        ({"EXPR_Recognition_Challenge/Train_Set/105.txt": (EXPR, ["3", "8"])}, 1, "105.txt:3: expected a class from 0"),
        ({"AU_Detection_Challenge/Train_Set/105.txt": (VA, 3)}, 1, "this seems to be a VA file"),
        ({"6th_ABAW_Annotations/VA_Estimation_Challenge/Train_Set/105.txt": (VA, 3)}, 1, "annotated twice"),
        ({"VA_Estimation_Challenge/Validation_Set/122-60-1920x1080-2.txt": (VA, 3)}, 1, "annotated twice"),
    ],
)
def test_what_cannot_be_used_is_named(
    cli: Cli, tmp_path: Path, clip: Path, change: Mapping[str, tuple], status: int, told: str
) -> None:
    root = affwild2(tmp_path, clip)
    for file, (header, rows) in change.items():
        put(root / file, header, rows)
    result = cli("doctor", "--dataset", "affwild2", "--root", root)
    assert result.exit_code == status, result.output
    assert told in result.stdout
    assert "some of it cannot be used" in result.stdout


@pytest.mark.parametrize(
    ("folder", "header", "row", "told"),
    [
        ("EXPR_Classification_Challenge", EXPR.removesuffix(",Other"), "3", "2020 edition (7 expressions)"),
        ("AU_Detection_Challenge", "AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25", "0,0,0,0,0,0,0,0", "2020 edition (8 action"),
    ],
)
def test_wrong_editions_are_refused_by_header_and_leave_nothing(
    cli: Cli, tmp_path: Path, clip: Path, folder: str, header: str, row: str, told: str
) -> None:
    root = affwild2(tmp_path, clip)
    for name in ("VA_Estimation_Challenge", "EXPR_Recognition_Challenge", "AU_Detection_Challenge"):
        shutil.rmtree(root / name)
    put(root / folder / "Train_Set" / "105.txt", header, [row] * 12)
    result = cli("doctor", "--dataset", "affwild2", "--root", root)
    assert result.exit_code == 2, result.output
    assert told in result.stdout
    assert "nothing can be used" in result.stdout


def test_it_says_that_training_stops_at_refused_files(cli: Cli, tmp_path: Path, clip: Path) -> None:
    root = affwild2(tmp_path, clip)
    put(root / "AU_Detection_Challenge" / "Train_Set" / "105.txt", "AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25", ["0" * 8] * 3)
    result = cli("doctor", "--dataset", "affwild2", "--root", root)
    assert result.exit_code == 1
    assert "au: will use 4 train, 2 val tracks\n  but training on au stops at the 1 refused files" in result.stdout
    assert "training on va stops" not in result.stdout


def test_groups_across_the_official_split_and_broken_videos_are_told(cli: Cli, tmp_path: Path, clip: Path) -> None:
    root = affwild2(tmp_path, clip)
    train = root / "VA_Estimation_Challenge" / "Train_Set"
    (train / "122-60-1920x1080-2.txt").rename(train.parent / "Validation_Set" / "122-60-1920x1080-2.txt")
    (root / "batch1" / "105.mp4").write_bytes(b"not a video")
    result = cli("doctor", "--dataset", "affwild2", "--root", root)
    assert result.exit_code == 1
    assert "1 groups lie in train and val of one task: va: 122-60-1920x1080" in result.stdout
    assert "1 videos cannot be opened:\n  batch1/105.mp4: not a video this decoder knows" in result.stdout
    assert "1 tracks are for training in one task and for testing in another" in result.stdout
    assert "label files have no video: va 105, expr 105, au 105" in result.stdout


def test_the_table_says_what_will_be_used(cli: Cli, tmp_path: Path, clip: Path) -> None:
    root = affwild2(tmp_path, clip)
    (root / "batch1" / "cropped_aligned" / "105").mkdir(parents=True)
    (root / "batch1" / "cropped_aligned" / ".DS_Store").write_bytes(b"")
    (root / "batch2" / "readme.txt").write_text("hello")
    result = cli("doctor", "--dataset", "affwild2", "--root", root)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["va", "train", "5", "356", "5", "4", "60", "0", "0", "0", "5", "equal"] in rows
    assert ["au", "val", "2", "105", "2", "1", "24", "0", "0", "0", "2", "equal"] in rows
    assert any(row[:2] == ["batch1/cropped_aligned", "1"] for row in rows)
    assert "rows against frames (about, by container)" in result.stdout
    assert "va: will use 5 train, 2 val tracks" in result.stdout
    assert "1 other files are ignored: batch2/readme.txt" in result.stdout
    assert "1 videos have no label (test videos have none): 451" in result.stdout


def test_face_crops_are_a_data_set_of_their_own(tmp_path: Path) -> None:
    from PIL import Image

    for track in ("10-60-1280x720", "10-60-1280x720_right"):
        folder = tmp_path / "batch1" / "cropped_aligned" / track
        folder.mkdir(parents=True)
        for number in (2, 5):
            Image.new("RGB", (8, 8)).save(folder / f"{number:05d}.jpg")
        put(tmp_path / "VA_Estimation_Challenge" / "Train_Set" / f"{track}.txt", VA, 5)
    manifest = load_manifest(find_dataset("affwild2-faces"), tmp_path)
    assert {v.id: v.group for v in manifest.videos} == dict.fromkeys(
        ("10-60-1280x720", "10-60-1280x720_right"), "10-60-1280x720"
    )
    (part, *_) = examine(manifest).parts
    assert part.tracks == {t: t for t in ("10-60-1280x720", "10-60-1280x720_right")}  # each person has a video
    assert set(part.off.values()) == {0}


def test_dvd(cli: Cli, tmp_path: Path, clip: Path) -> None:
    for split, ids in (("Training", ["0001", "0227"]), ("Validation", ["0007"])):
        (tmp_path / split / "videos").mkdir(parents=True)
        (tmp_path / split / "annotations").mkdir()
        for name in ids:
            shutil.copy(clip, tmp_path / split / "videos" / f"{name}.mp4")
            rows = [f"{f},{int(f > 6)}" for f in range(1, 13) if name != "0227" or f not in (3, 4)]
            lines = ["Frame_Number,Label", *rows]
            (tmp_path / split / "annotations" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "Training" / "videos" / ".DS_Store").write_bytes(b"\x00")
    result = cli("doctor", "--dataset", "dvd", "--root", tmp_path)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["violence", "train", "2", "103", "2", "2", "24", "2", "0", "0", "2", "equal"] in rows
    assert ["violence", "val", "1", "17", "1", "1", "12", "0", "0", "0", "1", "equal"] in rows
    shutil.rmtree(tmp_path / "Training" / "annotations")
    (tmp_path / "Validation" / "annotations" / "0007.csv").write_text("Frame_Number,Label\n1,7\n")
    assert cli("doctor", "--dataset", "dvd", "--root", tmp_path).exit_code == 2


def test_bad_usage_is_two_with_the_way_out(cli: Cli, tmp_path: Path) -> None:
    result = cli("doctor", "--dataset", "affwild2", "--root", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr
    assert "Expected below" in result.stderr
    assert "did you mean 'affwild2'" in cli("doctor", "--dataset", "afwild2", "--root", tmp_path).stderr
    assert cli("doctor").exit_code == 2
