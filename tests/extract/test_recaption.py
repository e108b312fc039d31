"""Captions out to a file and back: nothing changes on the way, bad files are refused, a killed run is completed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr.storage
from typer.testing import Result

from extract.captions.files import CaptionFileError, CaptionRow, Captions, read_captions, write_captions
from extract.captions.recaption import NEXT, WHOLE, captioned_frames, check_captions, recaption
from extract.sharing.locks import open_claims
from shared.cache import CacheError, FeatureCache, VideoInfo
from shared.cache import nodes as cache_nodes
from shared.windows import WindowSpec
from tests.extract.support import cache_contents, write_video
from train.data.features import load_features

Cli = Callable[..., Result]
SPEC = WindowSpec(size=16, stride=4, samples={"video": 4, "image": 4, "text": 2})
NASTY = [
    'he said "no", twice',
    "line\nbreak",
    "carriage\r\nreturn \r alone",
    "  spaces at both ends  ",
    "",
    " ",
    "NA",
    "null",
    "NaN",
    "None",
    "007",
    "1e5",
    "-0.0",
    "TRUE",
    "=1+1",
    "ünïcode ✓ 街 👩‍👩‍👧",
    "a,b;c\td",
    '"',
    "\\",
    "\ufeffmark",
    "\u2028 separator \x85",
    "x" * 200_000,
]


@pytest.fixture
def clips(cli: Cli) -> Path:
    """A tiny cache of two videos, with pictures, of image and text."""
    folder = Path("clips")
    folder.mkdir()
    for number, frames in enumerate((20, 70)):
        write_video(folder / f"{number}.mp4", frames, seed=number)
    done = cli("run", folder, "--preset", "tiny", "--streams", "image,text", "--caption-batch", "5")
    assert done.exit_code == 0, done.output
    return folder


def text_of(url: str | Path, videos: Sequence[str] = ("0.mp4", "1.mp4")) -> dict[str, Any]:
    cache = FeatureCache.open(url)
    return {v: cache.read(v, "text") for v in videos}


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", ["csv", "parquet", "CSV"])
def test_a_file_gives_back_what_was_put_in(suffix: str, tmp_path: Path) -> None:
    rows = [CaptionRow(v, 3 * i, i / 7, c) for v in ("007", "1e5", "NA", "ü b") for i, c in enumerate(NASTY)]
    write_captions(tmp_path / f"all.{suffix}", rows)
    found = read_captions(tmp_path / f"all.{suffix}")
    assert [(v, f, c) for v, frames in found.videos.items() for f, c in frames.items()] == [
        (r.video, r.frame, r.caption) for r in rows
    ]
    assert found.repeated == []
    assert [p.name for p in tmp_path.iterdir()] == [f"all.{suffix}"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_link_in_the_place_of_a_part_file_is_not_followed(suffix: str, tmp_path: Path) -> None:
    (precious := tmp_path / "bashrc").write_text("mine")
    (tmp_path / f"all.{suffix}.part").symlink_to(precious)
    write_captions(tmp_path / f"all.{suffix}", [CaptionRow("a", 0, 0.0, "x")])
    assert precious.read_text() == "mine"
    assert read_captions(tmp_path / f"all.{suffix}").videos == {"a": {0: "x"}}


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    rows = [CaptionRow(v, i, 0.0, c) for v in ("b", "a") for i, c in enumerate(NASTY)]
    write_captions(tmp_path / "one.csv", rows)
    write_captions(tmp_path / "two.parquet", rows[::-1])
    pd.DataFrame(rows)[["caption", "video", "frame"]].astype({"video": "category"}).to_parquet(tmp_path / "3.parquet")
    digests = {read_captions(tmp_path / name).sha256() for name in ("one.csv", "two.parquet", "3.parquet")}
    assert len(digests) == 1
    changed = [*rows[:-1], rows[-1]._replace(caption="other")]
    write_captions(tmp_path / "one.csv", changed)
    assert read_captions(tmp_path / "one.csv").sha256() not in digests


def test_a_spreadsheets_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffvideo,frame,caption\r\n007,16,a man\r\n\r\nb,0,\r\n".encode())
    assert read_captions(tmp_path / "a.csv").videos == {"007": {16: "a man"}, "b": {0: ""}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'video'.*found nothing"),
        ("video;frame;caption\na;0;x\n", "no column 'video'.*with commas between them, found 'video;frame;caption'"),
        ("video,frame,text\na,0,x\n", "no column 'caption'\\. Expected the columns .*, found 'video', 'frame', 'text'"),
        (
            "video,frame,score,Captions\na,0,1,x\n",
            r"no column 'caption' \(did you mean 'Captions'\? Then name it caption\)",
        ),
        ("video_id,frame,caption\n", r"no column 'video' \(did you mean 'video_id'\?"),
        ("video,frame,caption,caption\n", "column 'caption' is there twice"),
        ("video,frame,caption\na,0,one, two\n", "line 2: 4 fields, expected 3.*put texts with commas in quotes"),
        ("video,frame,caption\na,0\n", "line 2: 2 fields"),
        ("video,frame,caption\na,0,x\na,1.0,x\n", r"line 3: frame is '1\.0', expected a whole number"),
        ("video,frame,caption\na,-1,x\n", "frame is '-1'"),
        ("video,frame,caption\na,,x\n", "frame is ''"),
        ('video,frame,caption\na,0,"x\n', "line 2: not valid CSV"),
        ("video,frame,caption\na,0,x\x00y\n", "the caption of video 'a', frame 0, holds a NUL"),
        (b"video,frame,caption\na,0,caf\xe9\n", "is not UTF-8 text.*save it as CSV UTF-8"),
    ],
)
def test_a_csv_of_another_form_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CaptionFileError, match=message) as refused:
        read_captions(file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"video": [7], "frame": [0], "caption": ["x"]},
            "column 'video' is of type int64, expected strings.*dtype=str",
        ),
        (
            {"video": ["a"], "frame": [0.0], "caption": ["x"]},
            "column 'frame' is of type double, expected whole numbers",
        ),
        ({"video": ["a"], "frame": ["0"], "caption": ["x"]}, "column 'frame' is of type .*string"),
        ({"video": ["a"], "frame": [0], "caption": [1.5]}, "column 'caption' is of type double, expected strings"),
        (
            {"video": ["a"] * 2, "frame": [0, 1], "caption": ["x", None]},
            "row 1: .*'caption' has no value.*empty string",
        ),
        ({"video": ["a"], "frame": [-1], "caption": ["x"]}, "frame is -1"),
        ({"video": ["a"], "frame": [0]}, "no column 'caption'"),
        (
            {"video": ["a"], "frame": [0], "captions": ["x"]},
            r"no column 'caption' \(did you mean 'captions'\? Then name it caption\)",
        ),
    ],
)
def test_a_parquet_file_of_another_form_is_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    pd.DataFrame(columns).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(CaptionFileError, match=message):
        read_captions(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_that_somebody_added_are_told_and_not_read(suffix: str, tmp_path: Path) -> None:
    rows = [CaptionRow(v, i, 0.0, c) for v in ("a", "007") for i, c in enumerate(NASTY)]
    write_captions(tmp_path / f"plain.{suffix}", rows)
    table = pd.DataFrame(rows).assign(score=[None, *range(1, len(rows))], captions="other")
    table = table[["score", "captions", *CaptionRow._fields]][::-1]  # in reverse: pandas stores the index as a column
    for name, ignored in (("score", ["score", "captions"]), ("indexed", ["captions"])):
        file = tmp_path / f"{name}.{suffix}"
        if name == "indexed":
            table = table.drop(columns="score") if suffix == "csv" else table.set_index("score")
        table.to_csv(file) if suffix == "csv" else table.to_parquet(file)
        found = read_captions(file)
        assert found.ignored == ignored
        assert found.sha256() == read_captions(tmp_path / f"plain.{suffix}").sha256()
    assert read_captions(tmp_path / f"plain.{suffix}").ignored == []


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("video,frame,caption\n")
    with pytest.raises(CaptionFileError, match="not a Parquet file that can be read"):
        read_captions(tmp_path / "a.parquet")
    for name in ("a.xlsx", "a"):
        with pytest.raises(CaptionFileError, match=rf"ends in \.csv or \.parquet, found '{name}'"):
            read_captions(Path(name))


# ------------------------------------------------------------------------------------------------ the whole way round


def test_the_same_captions_give_the_same_features(cli: Cli, clips: Path) -> None:
    before = text_of("caches/clips.zarr")
    rest = {k: v for k, v in cache_contents(Path("caches/clips.zarr")).items() if "/text" not in k}
    for file in ("all.csv", "all.parquet"):
        assert cli("captions", "clips", "--out", file).exit_code == 0
    done = cli("recaption", "clips", "--from", "all.csv")
    assert done.exit_code == 0, done.output
    assert "CLIP tiny, random, seed 0, long captions: truncate -> caches/clips.zarr" in done.stderr
    assert "not only the captions" not in done.stderr
    assert "text of 2 videos is now that of all.csv, 0 had it already" in done.stdout
    after = text_of("caches/clips.zarr")
    for video, old in before.items():
        np.testing.assert_array_equal(after[video].features, old.features)  # batches of 5 then, of other sizes now
        np.testing.assert_array_equal(after[video].frames, old.frames)
        assert after[video].captions == old.captions
        assert after[video].thumbnails == old.thumbnails
        recipe = after[video].recipe
        captioner = recipe.pop("captioner")
        old.recipe.pop("captioner")
        assert recipe == old.recipe
        assert captioner == {"captioner": "file", "sha256": read_captions(Path("all.csv")).sha256()}
    cache = FeatureCache.open("caches/clips.zarr")
    assert [line for v in cache.group_ids() for line in cache.verify(v)] == []
    assert {k: v for k, v in cache_contents(Path("caches/clips.zarr")).items() if "/text" not in k} == rest
    assert "ignored" not in done.stderr
    table = pd.read_parquet("all.parquet").assign(score=0.5)[::-1]
    table.to_parquet("scored.parquet")
    again = cli("recaption", "clips", "--from", "scored.parquet")  # the same content
    assert "note: 1 columns of scored.parquet are ignored: 'score'; read: video, frame, caption\n" in again.stderr
    assert "text of 0 videos is now that of scored.parquet, 2 had it already" in again.stdout
    again = cli("recaption", "clips", "--from", "all.parquet")
    assert "text of 0 videos is now that of all.parquet, 2 had it already" in again.stdout

    status = cli("status", "clips")
    assert f"captions by file (sha256 {captioner['sha256'][:12]})" in status.stdout
    later = cli("run", "clips", "--preset", "tiny", "--streams", "image,text")
    assert later.exit_code == 2
    assert 'captioner.captioner: cache has "file", asked for "offline"' in later.stderr
    assert "--overwrite text" in later.stderr
    assert cli("run", "clips", "--preset", "tiny", "--streams", "image").exit_code == 0
    assert set(load_features(cache, ["0.mp4", "1.mp4"], ["image", "text"]).dims) == {"image", "text"}


def test_a_changed_caption_changes_its_row_alone(cli: Cli, clips: Path) -> None:
    before = text_of("caches/clips.zarr")
    cli("captions", "clips", "--out", "all.parquet")
    table = pd.read_parquet("all.parquet")
    row = int(np.flatnonzero(table.video == "1.mp4")[2])
    table.loc[row, "caption"] = "the the the man"
    table.to_parquet("all.parquet")
    done = cli("recaption", "clips", "--from", "all.parquet", "--long-captions", "chunk-mean")
    assert done.exit_code == 0, done.output
    notes = [line for line in done.stderr.splitlines() if "not only the captions change" in line]
    assert len(notes) == 1
    assert 'long_captions: cache has "truncate", now "chunk-mean' in notes[0]
    counts = "0 empty, 1 loops, 0 not English, 0 longer than CLIP's 77 tokens (encoded in chunks)"
    assert f", of them {counts}\n" in done.stdout
    assert '  loops, e.g. in 1.mp4: "the the the man"' in done.stdout
    after = text_of("caches/clips.zarr")
    assert after["1.mp4"].recipe["long_captions"].startswith("chunk-mean")
    np.testing.assert_array_equal(after["0.mp4"].features, before["0.mp4"].features)
    differs = (after["1.mp4"].features != before["1.mp4"].features).any(axis=1)
    assert np.flatnonzero(differs).tolist() == [2]
    assert after["1.mp4"].captions is not None
    assert after["1.mp4"].captions[2] == "the the the man"


def test_what_cannot_be_done_is_said_before_anything_is_changed(cli: Cli, clips: Path) -> None:
    before = cache_contents(Path("caches/clips.zarr"))
    cli("captions", "clips", "--out", "one.csv", "--video", "0.mp4")
    for words, message in (
        (["--from", "one.csv"], "1 videos of the cache have no captions: 1.mp4 (frames 8, "),
        (["--from", "gone.csv"], "No such file or directory: gone.csv"),
        (["--from", "one.txt"], "--from takes a file that ends in .csv or .parquet, found 'one.txt'"),
        (["--from", "one.csv", "--long-captions", "cut"], "--long-captions takes truncate or chunk-mean, found 'cut'"),
        (["--from", "one.csv", "--preset", "tiyn"], "unknown preset 'tiyn'"),
    ):
        refused = cli("recaption", "clips", *words)
        assert refused.exit_code == 2, refused.output
        assert message in refused.stderr
        assert "Traceback" not in refused.output
    assert cache_contents(Path("caches/clips.zarr")) == before


# ------------------------------------------------------------------------------------------------ file and cache


class FakeTower:
    """Features that tell the caption's length and the sum of its characters."""

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        rows = [[len(c), sum(map(ord, c)) % 1000, self.version] for c in captions]
        return np.array(rows, np.float32).reshape(-1, 3)

    def recipe(self, captioner: Mapping[str, Any]) -> dict[str, Any]:
        return {"captioner": dict(captioner), "version": self.version}


def small_cache(url: Path, *, names: str = "abc", without_text: Sequence[str] = ()) -> FeatureCache:
    """Videos of 16, 21 and 30 frames with image and text, the text of pictures and simple captions."""
    cache, tower = FeatureCache.create(url, dataset="small", window=SPEC), FakeTower(0)
    for name, num_frames in zip(names, (16, 21, 30), strict=False):
        source = {"path": name, "bytes": 1, "sha256": name}
        cache.write_info(name, VideoInfo(source, 30.0, num_frames, 8, 8, 0, "test", np.arange(num_frames) / 30))
        for stream in ("image", "text"):
            if stream == "text" and name in without_text:
                continue
            frames = SPEC.plan(num_frames).unique[stream]
            captions = [f"{name} {f}" for f in frames] if stream == "text" else None
            pictures = [f"picture {name} {f}" for f in frames] if stream == "text" else None
            features = tower.encode([f"{name} {f}" for f in frames])
            writer = cache.writer(name, stream, kind="timeline", recipe=tower.recipe({"captioner": "old"}))
            writer.append(features, frames, captions, pictures)
            writer.finish()
    return cache


def new_captions(cache: FeatureCache, word: str = "new") -> Captions:
    frames = captioned_frames(cache)
    return Captions("new.csv", {v: {f: f"{word} {v} {f}" for f in fs.tolist()} for v, fs in frames.items()})


def redo(cache: FeatureCache, captions: Captions) -> Any:
    frames = captioned_frames(cache)
    check_captions(cache.url, frames, captions)
    return recaption(cache, frames, captions, FakeTower(), lambda done, total: None)


def test_every_way_in_which_a_file_can_miss_the_cache(tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "a.zarr")
    frames = captioned_frames(cache)
    good = {v: dict(c) for v, c in new_captions(cache).videos.items()}
    check_captions("a.zarr", frames, Captions("f.csv", good))
    first = int(frames["b"][0])
    bad = {"a": good["a"] | {999: "x"}, "b": {f: c for f, c in good["b"].items() if f != first}, "d": {0: "x"}}
    with pytest.raises(CaptionFileError) as refused:
        check_captions("a.zarr", frames, Captions("f.csv", bad, [("a", 3)]))
    some = ", ".join(map(str, frames["c"][:5].tolist()))
    assert str(refused.value).splitlines()[:6] == [
        "f.csv does not fit a.zarr, nothing was changed:",
        f"  1 videos of the cache have no captions: c (frames {some}{', ...' * (len(frames['c']) > 5)})",
        "  1 videos are not in the cache: d",
        f"  1 rows are missing: b frame {first}",
        "  1 rows are of frames that the cache does not caption: a frame 999",
        "  1 rows are there twice: a frame 3",
    ]
    assert "python -m extract captions DATASET --out FILE" in str(refused.value)


def test_videos_that_never_had_text_get_it(tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "a.zarr", without_text=["b"])
    assert redo(cache, new_captions(cache)).done == ["a", "b", "c"]
    data = cache.read("b", "text")
    assert data.thumbnails is None
    assert data.captions == [f"new b {f}" for f in SPEC.plan(21).unique["text"]]


def test_damaged_text_is_replaced_and_told(tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "a.zarr")
    chunk = next(p for p in (tmp_path / "a.zarr/videos/b/text/features").rglob("c/**/*") if p.is_file())
    chunk.write_bytes(b"damaged")
    result = redo(cache, new_captions(cache))
    assert (result.done, result.unreadable) == (["a", "b", "c"], ["b"])
    assert cache.verify("b") == []
    assert cache.read("a", "text").thumbnails is not None


def test_a_feature_that_cannot_be_stored_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = small_cache(tmp_path / "a.zarr")
    before = cache_contents(tmp_path / "a.zarr")
    monkeypatch.setattr(FakeTower, "encode", lambda self, captions: np.full((len(captions), 3), 1e6, np.float32))
    with pytest.raises(CacheError, match="too large for float16"):
        redo(cache, new_captions(cache))
    assert cache_contents(tmp_path / "a.zarr") == before


# ------------------------------------------------------------------------------------------------ killed


class Killed(BaseException):
    pass


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], list[int]]]:
    """Makes the process "die" at the n-th change of the store; returns the count of changes."""
    count, deadline = [0], [None]

    def mortal(change: Any) -> Any:
        def changed(*args: Any, **kwargs: Any) -> Any:
            if deadline[0] is not None and count[0] >= deadline[0]:
                raise Killed
            count[0] += 1
            return change(*args, **kwargs)

        return changed

    for place, name in (
        (zarr.storage.LocalStore, "set"),
        (zarr.storage.LocalStore, "delete"),
        (cache_nodes, "write_file"),
        (cache_nodes, "remove_folder"),
    ):
        monkeypatch.setattr(place, name, mortal(getattr(place, name)))

    def start(changes: int | None) -> list[int]:
        count[0], deadline[0] = 0, changes  # type: ignore[call-overload]
        return count

    yield start
    start(None)


def test_killed_anywhere_the_cache_is_readable_and_a_rerun_completes_it(
    tmp_path: Path, die_at: Callable[[int | None], list[int]]
) -> None:
    old = small_cache(tmp_path / "old.zarr", names="ab")
    whole = tmp_path / "whole.zarr"
    shutil.copytree(tmp_path / "old.zarr", whole)
    captions = new_captions(old)
    count = die_at(None)
    redo(FeatureCache.create(whole, dataset="small", window=SPEC), captions)
    num_changes = count[0]
    assert num_changes > 30
    versions = [text_of(url, "ab") for url in (tmp_path / "old.zarr", whole)]
    wanted, seen = files_of(whole), set()
    half = num_changes // 2
    for changes in [*range(half + 2), *range(half + 2, num_changes, 4)]:  # the second video goes as the first
        url = tmp_path / f"{changes}.zarr"
        shutil.copytree(tmp_path / "old.zarr", url)
        cache = FeatureCache.create(url, dataset="small", window=SPEC)
        die_at(changes)
        with pytest.raises(Killed):
            redo(cache, captions)
        die_at(None)
        seen.add(readable_state(FeatureCache.open(url), versions))
        if changes % 4 == 1:  # what was begun may also be followed by other captions
            redo(FeatureCache.create(url, dataset="small", window=SPEC), new_captions(old, "other"))
        redo(FeatureCache.create(url, dataset="small", window=SPEC), captions)
        assert files_of(url) == wanted
    assert seen == {"old old", "none old", "new old", "new none", "new new"}


def files_of(url: Path) -> dict[str, bytes]:
    return {str(p.relative_to(url)): p.read_bytes() for p in sorted(url.rglob("*")) if p.is_file()}


def readable_state(cache: FeatureCache, versions: Sequence[Mapping[str, Any]]) -> str:
    """What a reader finds of every video: its old text, its new text or none; nothing in between."""
    words = []
    for video in "ab":
        assert "image" in cache.streams(video)
        if "text" not in cache.streams(video):
            words.append("none")
            assert NEXT in cache.streams(video)
            continue
        data = cache.read(video, "text")
        (word,) = [
            word for word, version in zip(("old", "new"), versions, strict=True) if data.recipe == version[video].recipe
        ]
        version = versions[word == "new"][video]
        np.testing.assert_array_equal(data.features, version.features)
        assert (data.captions, data.thumbnails) == (version.captions, version.thumbnails)
        words.append(word)
    return " ".join(words)


def test_training_and_status_refuse_a_half_done_cache(cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("captions", "clips", "--out", "all.csv")
    with monkeypatch.context() as patch:
        place = "extract.show.progress.StepDisplay.reached"
        patch.setattr(place, lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = cli("recaption", "clips", "--from", "all.csv")
    assert stopped.exit_code == 130
    assert "run the same command again to go on" in stopped.output
    cache = FeatureCache.open("caches/clips.zarr")
    with pytest.raises(CacheError, match="made by another recipe than the rest"):
        load_features(cache, ["0.mp4", "1.mp4"], ["text"])
    status = cli("status", "clips")
    assert status.exit_code == 1
    assert "stream text was made in 2 ways (1, 1 videos), which training refuses" in status.stdout
    assert re.search(r"^text +2/2 +made in 2 ways *$", status.stdout, re.MULTILINE)
    assert "open_clip image tiny random, seed 0" in status.stdout  # made in one way
    assert "captions by" not in status.stdout
    assert "open_clip text" not in status.stdout
    done = cli("recaption", "clips", "--from", "all.csv")
    assert "text of 1 videos is now that of all.csv, 1 had it already" in done.stdout
    status = cli("status", "clips")
    assert "made in 2 ways" not in status.stdout
    assert "captions by file (sha256 " in status.stdout


@pytest.mark.parametrize(("removed", "found"), [(False, "2/2"), (True, "1/2")])
def test_status_tells_of_a_replacement_that_was_cut_short(
    removed: bool, found: str, cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: FeatureCache, video: str, streams: Sequence[str]) -> None:
        if removed or list(streams) != ["text"]:
            drop(self, video, streams)
        if list(streams) == ["text"]:
            raise KeyboardInterrupt

    cli("captions", "clips", "--out", "all.csv")
    drop = FeatureCache.drop
    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "drop", killed)
        assert cli("recaption", "clips", "--from", "all.csv").exit_code == 130
    assert NEXT in FeatureCache.open("caches/clips.zarr").streams("0.mp4")
    told = "a recaption was interrupted in 1 videos (0.mp4): the same command again finishes it"
    status = cli("status", "clips")
    assert told in status.stdout
    assert streams_of(status) == {"video": "0/2", "image": "2/2", "text": found}
    assert cli("run", "clips", "--preset", "tiny", "--streams", "image,text").exit_code == 0  # writes it if it is gone
    status = cli("status", "clips")
    assert (told in status.stdout) != removed  # what was left beside the text goes when the text is written anew
    assert streams_of(status) == {"video": "0/2", "image": "2/2", "text": "2/2"}
    run = cli("run", "clips", "--preset", "tiny", "--streams", "image,text", "--overwrite", "text")
    assert re.search(rf"^done +{1 - removed} *$", run.stdout, re.MULTILINE), run.stdout
    assert "recaption" not in cli("status", "clips").stdout
    assert cli("recaption", "clips", "--from", "all.csv").exit_code == 0
    status = cli("status", "clips")
    assert "interrupted" not in status.stdout
    assert streams_of(status) == {"video": "0/2", "image": "2/2", "text": "2/2"}


def test_a_second_recaption_is_refused_and_a_run_is_waited_for(
    cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("captions", "clips", "--out", "all.csv")
    other = open_claims("caches/clips.zarr")
    assert other.take(WHOLE, ["text"])
    refused = cli("recaption", "clips", "--from", "all.csv")
    other.close()
    assert refused.exit_code == 2
    assert f"is at work (process {os.getpid()} on " in refused.output
    other = open_claims("caches/clips.zarr")
    assert other.take("0.mp4", ["text"])
    monkeypatch.setattr("extract.captions.recaption.time.sleep", lambda seconds: other.close())
    done = cli("recaption", "clips", "--from", "all.csv")
    assert done.exit_code == 0
    assert "waiting for 1 videos that process " in done.output
    assert "text of 2 videos is now that of all.csv" in done.stdout
    assert not Path("caches/clips.zarr.claims").exists()


def test_a_video_of_which_only_the_new_text_is_left_is_not_untouched(cli: Cli) -> None:
    write_video(Path("one.mp4"), 20)
    assert cli("run", "one.mp4", "--preset", "tiny", "--streams", "text", "--cache", "one.zarr").exit_code == 0
    Path("one.zarr/videos/one.mp4/text").rename(f"one.zarr/videos/one.mp4/{NEXT}")
    status = cli("status", "one.mp4", "--cache", "one.zarr")
    assert "a recaption was interrupted in 1 videos (one.mp4)" in status.stdout
    assert "not extracted yet" not in status.stdout
    assert status.exit_code == 1


def streams_of(status: Result) -> dict[str, str]:
    """Stream -> "complete/all" as the table of ``status`` has them."""
    lines = status.stdout.splitlines()[2:]  # below the first line and the head of the table
    rows = [line.split() for line in lines if re.match(r"\S+ +\d+/\d+\b", line)]
    return {row[0]: row[1] for row in rows}
