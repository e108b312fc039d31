"""Imports: an export comes back exactly, and features of others get the frames that were declared for them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.interchange import writing
from extract.interchange.external_facts import FrameRule, check_count, nearest_rows
from extract.interchange.external_files import ExternalRows
from extract.interchange.hdf5_layout import FeatureFileError, decode_attributes, encode_attributes
from extract.interchange.hdf5_reading import attributes
from extract.sharing.locks import open_claims
from shared.cache import CacheError, FeatureCache
from shared.cache.arrays import StreamWriter
from shared.cache.index import CacheIndex
from shared.cache.seals import sealed
from shared.windows import WindowSpec
from tests.extract.interchange import SPEC, VIDEOS, call, make_cache, refused, save_npy
from tests.extract.support import REPO, cache_contents
from train.__main__ import app as train_app

pytestmark = pytest.mark.usefixtures("one_reader")
NEW = ["--size", "16", "--stride", "8"]


def imported(*arguments: object) -> str:
    """What an import says that must go well."""
    result = call("import", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(num_rows: int, size: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_rows, size)).astype(np.float32)


# ------------------------------------------------------------------------------------------------ an export comes back


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_cache(folder / "c.zarr")
    assert call("export", folder / "c.zarr", "--output", folder / "c.h5").exit_code == 0
    return folder / "c.h5"


def test_an_export_comes_back_exactly(archive: Path, tmp_path: Path) -> None:
    url = tmp_path / "back.zarr"
    assert "8 streams of 3 videos imported" in imported(archive, "--cache", url)
    assert cache_contents(url) == cache_contents(archive.with_suffix(".zarr"))
    assert [line for v in VIDEOS for line in FeatureCache.open(url).verify(v)] == []
    assert "0 streams of 0 videos imported" in imported(archive, "--cache", url)  # again: nothing to do


def test_an_export_of_before_there_were_seals_is_taken_with_a_note(archive: Path, tmp_path: Path) -> None:
    shutil.copy(archive, tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "a") as file:
        del file.attrs["seal"]
        for video in file["videos"].values():
            del video.attrs["seal"]
            video.attrs["checksums"] = json.dumps({"pts": json.loads(video.attrs["checksums"])["pts"]})
            for stream in set(video) - {"pts", "starts"}:
                del video[stream].attrs["seal"]
    assert "has no seals" in call("import", tmp_path / "c.h5", "--cache", tmp_path / "c.zarr").stderr
    assert cache_contents(tmp_path / "c.zarr") == cache_contents(archive.with_suffix(".zarr"))
    assert "note:" not in call("import", archive, "--cache", tmp_path / "d.zarr").stderr
    shutil.copy(archive, tmp_path / "e.h5")
    with h5py.File(tmp_path / "e.h5", "a") as file:  # between the two
        del file.attrs["contents"]
        marks = decode_attributes(dict(attributes(file)), "")
        file.attrs.update(encode_attributes(sealed(marks)))
    said = call("import", tmp_path / "e.h5", "--cache", tmp_path / "e.zarr").stderr
    assert "does not say how many videos and streams it has" in said


def test_an_import_tells_others_once_of_every_video(archive: Path, tmp_path: Path, monkeypatch) -> None:
    """On an object store each line of the index, and each run's sign of life, is a request."""
    lines: list[bytes] = []
    opened: list[str] = []
    append, claims = CacheIndex._append, writing.open_claims
    monkeypatch.setattr(CacheIndex, "_append", lambda self, new: (lines.append(new[-1]), append(self, new)))
    monkeypatch.setattr(writing, "open_claims", lambda url: (opened.append(url), claims(url))[1])
    imported(archive, "--cache", tmp_path / "c.zarr")
    assert len(opened) == 1
    announced = [json.loads(line)["id"] for line in lines if len(json.loads(line)) == 1]
    settled = [json.loads(line)["id"] for line in lines if "streams" in json.loads(line)]
    assert announced == settled == sorted(VIDEOS)
    assert len(lines) == 2 * len(VIDEOS)
    assert not Path(f"{tmp_path}/c.zarr.claims").exists()


def test_what_cannot_be_cleaned_up_does_not_hide_what_went_wrong(archive: Path, tmp_path: Path, monkeypatch) -> None:
    def lost(*arguments: object) -> None:
        raise RuntimeError("the store is away")

    monkeypatch.setattr(FeatureCache, "abandon", lost)
    monkeypatch.setattr(StreamWriter, "append", lambda *arguments, **more: (_ for _ in ()).throw(CacheError("no room")))
    assert "error: no room" in refused("import", archive, "--cache", tmp_path / "c.zarr")


def test_streams_that_were_imported_come_back_as_such(archive: Path, tmp_path: Path) -> None:
    url = tmp_path / "c.zarr"
    imported(archive, "--cache", url)
    arrays = {v: rows_of(n) for v, n in VIDEOS.items()}
    imported(
        save_npy(tmp_path / "f", arrays), "--cache", url, "--stream", "mine", "--frames", "every:1", "--samples", "8"
    )
    assert FeatureCache.open(url).imported == {"mine": 8}
    assert call("export", url, "--output", tmp_path / "c.h5").exit_code == 0
    imported(tmp_path / "c.h5", "--cache", tmp_path / "d.zarr")
    assert cache_contents(tmp_path / "d.zarr") == cache_contents(url)
    # An extraction with the old window still takes the cache for its own.
    FeatureCache.create(url, dataset="demo", window=SPEC)


def test_one_stream_is_chosen_and_a_dry_run_writes_nothing(archive: Path, tmp_path: Path) -> None:
    url = tmp_path / "c.zarr"
    assert "nothing was written: 3 videos" in imported(archive, "--cache", url, "--dry-run")
    assert not url.exists()
    assert "unknown stream 'imag'; did you mean 'image'?" in refused(
        "import", archive, "--cache", url, "--stream", "imag"
    )
    imported(archive, "--cache", url, "--stream", "text")
    cache = FeatureCache.open(url)
    assert [list(cache.streams(v)) for v in VIDEOS] == [["text"]] * 3


def test_other_numbers_of_the_same_recipe_are_not_mixed_in(archive: Path, tmp_path: Path) -> None:
    url = tmp_path / "c.zarr"
    imported(archive, "--cache", url)
    cache = FeatureCache.create(url, dataset="demo", window=SPEC)
    recipe, old = cache.streams("0017")["image"], cache.read("0017", "image")
    writer = cache.writer("0017", "image", kind="timeline", recipe=recipe)
    writer.append(old.features + 1, old.frames)
    writer.finish()
    assert "by the same recipe and with other numbers" in refused("import", archive, "--cache", url)
    imported(archive, "--cache", url, "--overwrite", "image")
    np.testing.assert_array_equal(FeatureCache.open(url).read("0017", "image").features, old.features)


# ------------------------------------------------------------------------------------------------ features of others


def test_rows_get_their_frames(tmp_path: Path) -> None:
    arrays = {"a": rows_of(10), "b": rows_of(8, seed=1)}
    folder, url = save_npy(tmp_path / "f", arrays), tmp_path / "c.zarr"
    (tmp_path / "facts.csv").write_text("video,num_frames,fps\na,40,25\nb,33,30\n")
    more = ["--facts", tmp_path / "facts.csv", "--note", "model=X-CLIP", "--name", "mine v2", *NEW]
    said = imported(folder, "--cache", url, "--stream", "mine", "--frames", "every:4", *more)
    assert "windows sample frames that have no row" in said
    assert "--head stream:mine" in said
    cache = FeatureCache.open(url)
    for video, num_frames, fps in (("a", 40, 25), ("b", 33, 30)):
        data, info = cache.read(video, "mine"), cache.info(video)
        assert info is not None
        np.testing.assert_array_equal(data.features, arrays[video].astype(np.float16))
        np.testing.assert_array_equal(data.frames, 4 * np.arange(len(arrays[video])))
        np.testing.assert_array_equal(info.pts, np.arange(num_frames) / fps)
        assert cache.verify(video) == []
    recipe = data.recipe
    assert (recipe["encoder"], recipe["name"], recipe["notes"]) == ("external", "mine v2", {"model": "X-CLIP"})
    assert (recipe["frames"], recipe["nearest"], len(recipe["sha256"])) == ("every:4", False, 64)
    assert cache.window.samples["mine"] == 16


def test_the_nearest_row_stands_for_the_frames_that_windows_sample(tmp_path: Path) -> None:
    folder = save_npy(tmp_path / "f", {"a": rows_of(10)})
    np.save(folder / "a.pts.npy", np.arange(40) / 25)
    url = tmp_path / "c.zarr"
    arguments = ["--stream", "mine", "--frames", "every:4", "--nearest", "--samples", "4", *NEW]
    assert "no row" not in imported(folder, "--cache", url, *arguments)
    data = FeatureCache.open(url).read("a", "mine")
    frames = WindowSpec(16, 8, {"mine": 4}).plan(40).unique["mine"]
    np.testing.assert_array_equal(data.frames, frames)
    nearest = [min(range(10), key=lambda r: (abs(4 * r - f), r)) for f in frames]
    np.testing.assert_array_equal(data.features, rows_of(10).astype(np.float16)[nearest])


@pytest.mark.parametrize("declared", [[0], [7], [0, 5, 6], [2, 3, 11, 30]])
def test_nearest_rows_are_those_of_brute_force(declared: list[int]) -> None:
    frames, wanted = np.array(declared), np.arange(40)
    expected = [min(range(len(frames)), key=lambda r: (abs(frames[r] - f), r)) for f in wanted]
    np.testing.assert_array_equal(nearest_rows(frames, wanted), expected)


def save_facts(folder: Path, *rows: str) -> list[object]:
    """The option that gives a table of facts."""
    (folder / "facts.csv").write_text("\n".join(["video,num_frames,fps", *rows]) + "\n")
    return ["--facts", folder / "facts.csv"]


@pytest.mark.parametrize(
    ("rule", "num_rows", "words"),
    [
        ("every:1", 5, "expected 349 rows by --frames every:1 of 349 frames, found 5; every:59 to every:87 would fit"),
        ("every:4", 78, "expected 87 or 88 rows by --frames every:4 of 349 frames, found 78; no step fits so many"),
        (
            "every:16:8",
            20,
            "expected 21 or 22 rows by --frames every:16:8 of 349 frames, found 20; every:17 with",
        ),
        ("every:1", 500, "found 500; no step fits so many rows"),
    ],
)
def test_rows_that_are_not_one_per_step_are_refused(tmp_path: Path, rule: str, num_rows: int, words: str) -> None:
    folder = save_npy(tmp_path / "f", {"a": rows_of(num_rows)})
    arguments = ["--cache", tmp_path / "c.zarr", "--stream", "m", "--frames", rule, *save_facts(tmp_path, "a,349,25")]
    for more in ([], ["--nearest"]):
        assert words in refused("import", folder, *arguments, *more)
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_step_that_is_named_fits(step: int) -> None:
    """Every number of rows: taken as it is, or the steps that the message names give it, and no others do."""
    for num_frames, num_rows in itertools.product(range(1, 40), range(1, 42)):
        fitting = [k for k in range(1, 90) if num_rows in (num_frames // k, -(-num_frames // k))]
        rows = ExternalRows("a", "a", (num_rows, 2), None, None, lambda first, last: np.zeros((0, 2)))
        try:
            check_count(rows, FrameRule("every", step), num_frames)
            assert step in fitting
        except FeatureFileError as error:
            named = re.search(r"every:(\d+)(?: to every:(\d+))? would fit", str(error))
            assert step not in fitting
            assert (named is None) == (not fitting)
            if named is not None and num_rows > 1:  # a single row has no second one that bounds its step
                assert fitting == list(range(int(named[1]), int(named[2] or named[1]) + 1))


def test_how_far_the_nearest_rows_are_is_told_and_bounded(tmp_path: Path) -> None:
    url, near = tmp_path / "c.zarr", ["--stream", "mine", "--nearest", *NEW]
    folder = save_npy(tmp_path / "f", {"a": rows_of(21)})
    said = imported(folder, "--cache", url, "--frames", "every:16:8", *near, *save_facts(tmp_path, "a,349,25"))
    rows = FeatureCache.open(url).read("a", "mine").features
    assert f"note: --nearest stores 21 rows {len(rows)} times in all, for frames that are up to" in said
    for frames, words in (
        ([0, 4, 9], "which windows sample, is 339 frames from the nearest row, and rows are at most 5 apart"),
        ([340, 344, 348], "which windows sample, is 340 frames from the nearest row, and rows are at most 4 apart"),
        ([100], "frames from the nearest row, and rows are at most 1 apart"),
    ):
        folder = save_npy(tmp_path / f"g{frames[0]}", {"a": rows_of(len(frames)), "a.frames": np.array(frames)})
        assert words in refused(
            "import", folder, "--cache", tmp_path / "d.zarr", *near, *save_facts(tmp_path, "a,349,25")
        )
    assert not (tmp_path / "d.zarr").exists()


def test_windows_centres_plans_and_side_files(tmp_path: Path) -> None:
    """Every way of saying which frames, against the plan."""
    plan = WindowSpec(16, 8, {"w": 4, "c": 1, "p": 4}).plan(50)
    ways: list[tuple[str, np.ndarray, list[Any], np.ndarray | None]] = [
        ("w", rows_of(len(plan) * 4).reshape(len(plan), 4, 3), [], None),
        ("c", rows_of(len(plan)), ["--frames", "centres"], plan.unique["c"]),
        ("p", rows_of(len(plan.unique["p"])), ["--frames", "plan", "--samples", 4], plan.unique["p"]),
        ("s", rows_of(3), [], np.array([0, 7, 49])),
    ]
    url = tmp_path / "c.zarr"
    for stream, values, arguments, frames in ways:
        folder = save_npy(tmp_path / stream, {"a": values.astype(">f8")})
        np.save(folder / "a.pts.npy", np.arange(50) / 25)
        if stream == "s":
            np.save(folder / "a.frames.npy", frames)
        imported(folder, "--cache", url, "--stream", stream, *arguments, *NEW)
        data = FeatureCache.open(url).read("a", stream)
        np.testing.assert_array_equal(data.features, values.astype(np.float16))
        if frames is None:
            assert data.kind == "window"
        else:
            np.testing.assert_array_equal(data.frames, frames)
    assert FeatureCache.open(url).imported == {"w": 4, "c": 1, "p": 4, "s": 16}


def test_one_array_and_hdf5_of_one_data_set_per_video(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.attrs["made by"] = np.arange(3)  # whatever others keep there
        file["a"] = rows_of(40)
        file.create_group("b")["features"] = rows_of(6, seed=1)
        file["b/frames"], file["b/pts"] = np.arange(0, 30, 5, dtype=np.uint8), np.arange(30) / 10
    url = tmp_path / "c.zarr"
    text = refused("import", tmp_path / "f.h5", "--cache", url, "--stream", "m", "--frames", "every:1", "--fps", 10)
    assert "/b/features: found both a file of frames and --frames" in text
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file.move("a", "a_rows")
        file.create_group("a")["features"] = rows_of(40)
        file["a/frames"] = np.arange(40)
        file["a/pts"] = np.arange(40) / 25
        del file["a_rows"]
    imported(tmp_path / "f.h5", "--cache", url, "--stream", "m", *NEW)
    cache = FeatureCache.open(url)
    np.testing.assert_array_equal(cache.read("b", "m").frames, np.arange(0, 30, 5))
    np.testing.assert_array_equal(cache.read("a", "m").features, rows_of(40).astype(np.float16))
    np.save(tmp_path / "z.npy", rows_of(20))
    imported(tmp_path / "z.npy", "--cache", url, "--stream", "one", "--frames", "every:1", "--fps", "25")
    assert FeatureCache.open(url).streams("z").keys() == {"one"}


def test_names_are_those_of_the_manifest(tmp_path: Path) -> None:
    videos = ["sub/one.mp4", "two.avi", "x/same.mp4", "y/same.mp4"]
    for path in videos:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "clips.csv").write_text("\n".join(["path", *videos]) + "\n")
    common = ["--dataset", tmp_path / "clips.csv", "--stream", "m", "--frames", "every:1", "--fps", 25, *NEW]
    folder = save_npy(tmp_path / "f", {"one": rows_of(20), "two.avi": rows_of(20), "x__same.mp4": rows_of(20)})
    url = tmp_path / "c.zarr"
    imported(folder, "--cache", url, *common)
    cache = FeatureCache.open(url)
    assert cache.video_ids() == ["sub__one.mp4", "two.avi", "x__same.mp4"]
    assert cache.paths()["sub__one.mp4"] == "sub/one.mp4"
    assert cache.dataset == "clips"
    folder = save_npy(tmp_path / "g", {n: rows_of(20) for n in ("one", "sub__one.mp4", "same", "tow")})
    text = refused("import", folder, "--cache", url, *common)
    assert "3 problems, nothing was imported" in text
    assert "'sub__one.mp4' and 'one' are the same video" in text
    assert "'same' is the name of 2 videos; name it by id" in text
    assert "'tow' is no video of it; did you mean 'two'?" in text


def test_another_recipe_is_replaced_only_when_asked(tmp_path: Path) -> None:
    url = tmp_path / "c.zarr"
    common = ["--cache", url, "--stream", "m", "--frames", "every:1", "--fps", 25]
    one, two = (save_npy(tmp_path / f"f{seed}", {"a": rows_of(20, seed=seed)}) for seed in (1, 2))
    imported(one, *common, *NEW)
    assert "0 videos imported, 1 were there already" in imported(one, *common)
    text = refused("import", two, *common)
    assert "made by another recipe" in text
    assert "--overwrite m" in text
    imported(two, *common, "--overwrite", "m")
    expected = rows_of(20, seed=2).astype(np.float16)
    np.testing.assert_array_equal(FeatureCache.open(url).read("a", "m").features, expected)
    assert "the cache has 16 samples per window of stream 'm'" in refused("import", two, *common, "--samples", 4)
    assert "has windows of stride 8" in refused("import", two, *common, "--stride", 16)


def test_facts_come_from_another_cache(tmp_path: Path) -> None:
    make_cache(tmp_path / "ours.zarr")
    folder = save_npy(tmp_path / "f", {v: rows_of(n) for v, n in VIDEOS.items()})
    common = ["--cache", tmp_path / "new.zarr", "--stream", "m", "--frames", "every:1", *NEW]
    imported(folder, *common, "--facts", tmp_path / "ours.zarr")
    ours, new = FeatureCache.open(tmp_path / "ours.zarr"), FeatureCache.open(tmp_path / "new.zarr")
    for video in VIDEOS:
        one, other = ours.info(video), new.info(video)
        assert one is not None
        assert other is not None
        assert other.attrs() == one.attrs()
        np.testing.assert_array_equal(other.pts, one.pts)


@pytest.mark.parametrize(
    ("pts", "words"),
    [
        (np.arange(40)[::-1] / 25, "times must ascend, and that of frame 1 (1.52 s) is not after that of frame 0"),
        (np.arange(40) // 2 / 25, "times must ascend"),
        (np.full(40, np.nan), "expected finite times"),
        (np.arange(40) * 5e-324, "times must ascend"),
    ],
)
def test_times_that_no_video_has_are_refused(tmp_path: Path, pts: np.ndarray, words: str) -> None:
    folder = save_npy(tmp_path / "f", {"a": rows_of(40), "a.pts": pts})
    arguments = ["--cache", tmp_path / "c.zarr", "--stream", "m", "--frames", "every:1", *NEW]
    assert words in refused("import", folder, *arguments)
    imported(save_npy(folder, {"a.pts": np.arange(40) / 12.5 - 1}), *arguments)
    info = FeatureCache.open(tmp_path / "c.zarr").info("a")
    assert info is not None
    assert info.fps == pytest.approx(12.5)  # nobody said it: the times do
    assert words in refused("import", save_npy(folder, {"a.pts": pts}), *arguments)  # also if the cache knows better


def test_facts_that_contradict_the_cache_are_refused(tmp_path: Path) -> None:
    url, folder = tmp_path / "c.zarr", tmp_path / "f"
    common = ["--cache", url, "--stream", "m", "--frames", "every:1"]
    imported(save_npy(folder, {"a": rows_of(50)}), *common, "--fps", 25, *NEW)
    common[3] = "n"
    assert "3 frames/s by --fps, 25 by" in refused("import", folder, *common, "--fps", 3)
    assert "9999 frames by --facts" in refused("import", folder, *common, *save_facts(tmp_path, "a,9999,25"))
    assert "30 frames/s by --facts, 25 by" in refused("import", folder, *common, *save_facts(tmp_path, "a,50,30"))
    for pts in (np.arange(50) / 3, np.r_[np.arange(49) / 25, 90]):
        save_npy(folder, {"a.pts": pts})
        assert "s after the first one by its file of times" in refused("import", folder, *common)
    save_npy(folder, {"a.pts": np.arange(40) / 25})
    assert "40 frames by its file of times" in refused("import", folder, *common)
    make_cache(tmp_path / "o.zarr", {"a": 51})
    (folder / "a.pts.npy").unlink()
    assert "51 frames by" in refused("import", folder, *common, "--facts", tmp_path / "o.zarr")
    assert FeatureCache.open(url).streams("a").keys() == {"m"}
    # The same in other words: counted from the container's zero, and a rate that is rounded.
    save_npy(folder, {"a.pts": np.arange(50) / 24.99 + 3})
    imported(folder, *common, "--fps", 25.1)


def test_times_and_a_rate_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = save_npy(tmp_path / "f", {"a": rows_of(50), "a.pts": np.arange(50) / 25})
    common = ["--cache", tmp_path / "c.zarr", "--stream", "m", "--frames", "every:1", *NEW]
    assert "its times are of 25 frames/s, --fps says 3" in refused("import", folder, *common, "--fps", 3)
    assert "--facts says 3" in refused("import", folder, *common, *save_facts(tmp_path, "a,50,3"))
    imported(folder, *common, *save_facts(tmp_path, "a,50,25"))
    one = save_npy(tmp_path / "g", {"b": rows_of(1), "b.pts": np.array([3.0])})  # a single time has no rate
    imported(one, *common, "--fps", 30)


def test_a_stream_that_another_process_writes_is_left_to_it(tmp_path: Path) -> None:
    url = tmp_path / "c.zarr"
    common = ["--cache", url, "--stream", "m", "--frames", "every:1", "--fps", 25, *NEW]
    folder = save_npy(tmp_path / "f", {"a": rows_of(20)})
    claims = open_claims(str(url))
    assert claims.take("a", ["m"])
    assert "is at work on stream 'm' of video 'a'" in refused("import", folder, *common)
    claims.close()
    imported(folder, *common)


@pytest.mark.parametrize("text", ["every:0", "every:4:", "every:-1", "center", "4", "every:99999999"])
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected every:K"):
        FrameRule.parse(text)


# ------------------------------------------------------------------------------------------------ a head trains on it


def test_a_head_trains_on_features_that_were_made_elsewhere(tmp_path: Path) -> None:
    """Features that carry the label, as .npy: import them as "mine", cross-validate the head stream:mine, predict."""
    from typer.testing import CliRunner

    rng = np.random.default_rng(0)
    lines, arrays = ["path,label,group"], {}
    for number in range(12):
        (tmp_path / f"v{number}.mp4").touch()
        lines.append(f"v{number}.mp4,{number % 2},g{number // 2}")
        arrays[f"v{number}"] = rng.normal(number % 2, 0.3, (40, 4)).astype(np.float32)
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    folder, url = save_npy(tmp_path / "f", arrays), tmp_path / "c.zarr"
    dataset = ["--dataset", tmp_path / "clips.csv", "--cache", url]
    imported(folder, *dataset, "--stream", "mine", "--frames", "every:1", "--fps", 25, "--samples", 4, *NEW)
    common = ["--task", "violence", "--cache", url, "--runs", tmp_path / "runs"]
    quick = ["--hidden", 4, "--epochs", 6, "--learning-rate", "0.05", "--num-folds", 3, "--no-baselines"]
    arguments = ["cv", tmp_path / "clips.csv", *common, "--head", "stream:mine", *quick]
    result = CliRunner().invoke(train_app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "runs").iterdir()
    import json

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["head"] == "stream:mine"
    assert metrics["value"] > 0.9
    config = json.loads((run / "config.json").read_text())
    assert config["recipes"]["mine"]["encoder"] == "external"
    arguments = ["predict", url, "--run", run, "--output", tmp_path / "scores.csv"]
    result = CliRunner().invoke(train_app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    text = CliRunner().invoke(
        train_app, ["cv", str(tmp_path / "clips.csv"), *map(str, common), "--head", "stream:keys"]
    )
    assert "import it under another name" in text.stderr


def test_the_page_names_every_option_there_is() -> None:
    page = (REPO / "docs/interchange.md").read_text(encoding="utf-8")
    options = "frames facts fps samples size stride sampling name note nearest overwrite dry-run stream dataset cache"
    options += " file-timeout"
    assert [o for o in options.split() if f"--{o}" not in page] == []
