"""Shards: every video in exactly one of them, however the processes come and go, and together the cache of one run."""

from __future__ import annotations

import json
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from extract.faults.inflight import suspects
from extract.faults.ledger import FailureLedger
from extract.jobs import shards
from extract.jobs.planning import plan_jobs
from extract.jobs.shards import Shard, balanced, parse_shard, split
from shared.cache import FeatureCache
from shared.manifest import Manifest, load_manifest
from tests.extract.support import (
    REPO,
    SPEC,
    FakeVideo,
    assert_cached,
    cache_contents,
    fake_encoders,
    fake_manifest,
    install_fake_videos,
    write_video,
)

Cli = Callable[..., Result]
FRAMES = (20, 90, 64, 131, 5, 75)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, frames in enumerate(FRAMES):
        write_video(folder / f"{number}.mp4", frames, seed=number)
    return folder


def parts_of(manifest: Manifest, count: int, url: str | Path) -> list[list[str]]:
    return [list(part) for part in split(manifest, count, str(url)).parts]


# ------------------------------------------------------------------ the split


@pytest.mark.parametrize("seed", range(60))
def test_every_video_is_in_one_part_and_no_part_is_much_longer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, count = int(rng.integers(0, 200)), int(rng.integers(1, 30))
    draw = (rng.integers(0, 50, size), rng.lognormal(4, 2, size).round(), np.full(size, 7), np.zeros(size))[seed % 4]
    weights = {f"v{i:03d}": float(x) for i, x in enumerate(draw)}
    parts = balanced(weights, count)
    assert len(parts) == count
    assert sorted(v for part in parts for v in part) == sorted(weights)
    loads = [sum(weights[v] for v in part) for part in parts]
    assert max(loads) <= sum(loads) / count + max(weights.values(), default=0)
    if len(set(weights.values())) == 1:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    shuffled = {v: weights[v] for v in rng.permutation(list(weights)).tolist()}
    assert balanced(shuffled, count) == parts


def test_parts_are_balanced_by_frames_and_not_by_number(clips: Path) -> None:
    found = split(load_manifest(clips), 2, "c.zarr")
    assert found.weights == {f"{i}.mp4": frames for i, frames in enumerate(FRAMES)}
    # Longest first: 131 and 64 | 90, 75, 20 and 5.
    assert found.parts == (("2.mp4", "3.mp4"), ("0.mp4", "1.mp4", "4.mp4", "5.mp4"))
    assert "2 of 6 videos, about 50.6% of the frames" in found.words(Shard(1, 2))


def test_what_is_done_already_does_not_move_the_split(clips: Path, tmp_path: Path, cli: Cli) -> None:
    before = split(load_manifest(clips), 3, str(tmp_path / "c.zarr"))
    assert (
        cli("run", clips, "--preset", "tiny", "--streams", "image", "--cache", "c.zarr", "--shard", "2/3").exit_code
        == 0
    )
    cache = FeatureCache.open("c.zarr")
    assert tuple(sorted(cache.video_ids())) == before.parts[1]
    after = split(load_manifest(clips), 3, "c.zarr")
    assert (after.parts, after.mark) == (before.parts, before.mark)


def test_the_table_may_say_how_long_videos_are(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = clips / "t.csv"
    table.write_text("path,duration,fps\n0.mp4,100,\n1.mp4,10,50\n2.mp4,00:01:20,\n3.mp4,,\n4.mp4,-1,\n")
    found = split(load_manifest(table), 2, "c.zarr")
    assert found.weights == {"0.mp4": 2500, "1.mp4": 500, "2.mp4": FRAMES[2], "3.mp4": FRAMES[3], "4.mp4": FRAMES[4]}
    table.write_text("path,num_frames\n0.mp4,7\n1.mp4,1e3\n")
    monkeypatch.setattr(shards, "open_video", None)  # nothing is opened
    assert split(load_manifest(table), 2, "c.zarr").weights == {"0.mp4": 7, "1.mp4": 1000}


def test_files_that_are_no_videos_weigh_nothing_and_are_still_in_one_part(clips: Path) -> None:
    (clips / "6.mp4").write_bytes(b"no video")
    (clips / "7.mp4").touch()
    manifest = load_manifest(clips)
    (clips / "7.mp4").unlink()
    found = split(manifest, 4, "c.zarr")
    assert found.weights["6.mp4"] == found.weights["7.mp4"] == 0
    assert sorted(v for part in found.parts for v in part) == sorted(v.id for v in manifest.videos)


def test_lengths_are_noted_once_and_only_for_the_same_file(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "NOTED_FROM", 1)
    url, opened = str(tmp_path / "c.zarr"), []
    real = shards.open_video
    monkeypatch.setattr(shards, "open_video", lambda path, fps: opened.append(path.name) or real(path, fps))
    first = split(load_manifest(clips), 2, url)
    assert sorted(opened) == [f"{i}.mp4" for i in range(6)]
    opened.clear()
    assert split(load_manifest(clips), 2, url) == first
    assert opened == []
    write_video(clips / "4.mp4", 33)
    assert split(load_manifest(clips), 2, url).weights["4.mp4"] == 33
    assert opened == ["4.mp4"]
    notes = tmp_path / "c.zarr.lengths"
    assert len(list(notes.iterdir())) == 2
    for note in notes.iterdir():
        note.write_bytes(note.read_bytes()[:-9])
    assert split(load_manifest(clips), 2, url).weights["4.mp4"] == 33
    split(load_manifest(clips), 2, url)
    assert len(list(notes.iterdir())) <= 4


def test_a_file_that_promises_more_frames_than_it_has_room_for_counts_by_its_bytes(clips: Path) -> None:
    liar = write_video(clips / "6.mkv", 20)
    data, honest = bytearray(liar.read_bytes()), split(load_manifest(clips), 3, "c.zarr")
    place = data.index(b"\x44\x89\x88") + 3  # Duration, in milliseconds
    data[place : place + 8] = struct.pack(">d", 1000 * 3600 * 1000.0)
    liar.write_bytes(data)
    found = split(load_manifest(clips), 3, "c.zarr")
    sizes = {v: (clips / v).stat().st_size for v in honest.weights if v != "6.mkv"}
    rate = sum(honest.weights[v] for v in sizes) / sum(sizes.values())
    assert honest.weights["6.mkv"] == 20
    assert found.weights == {**honest.weights, "6.mkv": round(rate * len(data))}


@pytest.mark.parametrize(
    "damage",
    ["NaN", "Infinity", "-5", '"x"', "[]", "{}", "true", "1e308", "9" * 400, "[" * 100_000, "7]\n[1", "7, 8", "\x00"],
)
def test_a_damaged_note_is_as_good_as_none(clips: Path, tmp_path: Path, damage: str) -> None:
    manifest, url = load_manifest(clips), str(tmp_path / "c.zarr")
    before = split(manifest, 2, url)
    notes = tmp_path / "c.zarr.lengths"
    notes.mkdir()
    keys = [[f"{n}.mp4", (s := (clips / f"{n}.mp4").stat()).st_size, s.st_mtime_ns] for n in (0, 1)]
    lines = [f"{json.dumps(keys[0])[:-1]}, {damage}]", f"{json.dumps(keys[1])[:-1]}, 1]", "5", "null"]
    (notes / "0.jsonl").write_text("\n".join(lines))
    (notes / "1.jsonl").write_bytes(b"\xff\xfe")
    assert split(manifest, 2, url).weights == {**before.weights, "1.mp4": 1, **({"0.mp4": 7} if "7]" in damage else {})}


# ------------------------------------------------------------------ the option


@pytest.mark.parametrize(
    "text",
    [
        "0/4",
        "5/4",
        "1/0",
        "-1/4",
        "1",
        "1/",
        "/4",
        "1/4/2",
        "a/b",
        "1.5/4",
        "",
        "9999999999/1",
        "1/1000001",
        "1/999999999",
    ],
)
def test_a_shard_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected i/n with i from 1 to n"):
        parse_shard(text)


def test_shards_as_they_are_written() -> None:
    assert [parse_shard(text) for text in ("1/4", " 4/4 ", "1/1")] == [Shard(1, 4), Shard(4, 4), Shard(1, 1)]
    assert parse_shard("1/1000000") == Shard(1, shards.MAX_SHARDS)


def test_a_wrong_shard_ends_the_command_before_anything_else(cli: Cli, clips: Path) -> None:
    result = cli("run", clips, "--preset", "tiny", "--cache", "c.zarr", "--shard", "5/4")
    assert result.exit_code == 2
    assert "--shard: expected i/n" in result.output
    assert cli("plan", clips, "--cache", "c.zarr", "--no-calibrate", "--shards", "1000001").exit_code == 2
    assert not Path("c.zarr").exists()


def test_a_shard_without_videos_ends_well_and_says_so(cli: Cli, clips: Path) -> None:
    result = cli("run", clips, "--preset", "tiny", "--cache", "c.zarr", "--shard", "7/7")
    assert result.exit_code == 0, result.output
    assert "shard 7/7" in result.output
    assert "fewer videos than there are shards (7)" in result.output


def test_a_plan_says_what_each_shard_takes_by_the_split_of_the_runs(cli: Cli, clips: Path) -> None:
    (clips / "6.mp4").write_bytes(b"no video")
    result = cli("plan", clips, "--preset", "tiny", "--cache", "c.zarr", "--no-calibrate", "--shards", "2")
    assert result.exit_code == 1, result.output
    rows = [line.split() for line in result.output.splitlines() if line.startswith(("1/2", "2/2"))]
    assert rows == [["1/2", "2", "2", "195", "-"], ["2/2", "5", "4", "190", "-"]]
    run = cli("run", clips, "--preset", "tiny", "--streams", "image", "--cache", "c.zarr", "--shard", "2/2")
    assert "5 of 7 videos" in run.output
    marks = re.findall(r"split ([0-9a-f]{8})", result.output), re.findall(r"split ([0-9a-f]{8})", run.output)
    assert marks[0] == marks[1] != []


def test_a_run_of_one_shard_leaves_what_others_died_at(cli: Cli, clips: Path, tmp_path: Path) -> None:
    theirs = split(load_manifest(clips), 3, "c.zarr").parts[0][0]
    notes = tmp_path / "c.zarr.inflight"
    notes.mkdir()
    for number in range(2):
        (notes / f"1-{number:032x}.json").write_text(json.dumps([theirs]))
    for part, left in (("2/3", {theirs: 2}), ("2/3", {theirs: 2}), ("1/3", {})):
        result = cli("run", clips, "--preset", "tiny", "--streams", "image", "--cache", "c.zarr", "--shard", part)
        assert result.exit_code == 0, result.output
        assert suspects("c.zarr") == left


# ------------------------------------------------------------------ together


def run_shard(videos: Sequence[FakeVideo], url: Path, part: Shard, parts: Sequence[Sequence[str]]) -> Any:
    from extract.flow.pipeline import run

    mine = [v for v in videos if v.name in parts[part.number - 1]]
    encoders = fake_encoders()
    cache, ledger = FeatureCache.create(url, dataset="fake", window=SPEC), FailureLedger(str(url))
    recipes = {stream: encoder.recipe() for stream, encoder in encoders.items()}
    jobs, summary = plan_jobs(fake_manifest(mine, url.parent), cache, recipes, ledger)
    return run(jobs, cache, encoders, ledger, summary)


def test_another_number_of_shards_goes_on_where_the_first_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(i, 20 + 3 * i) for i in range(7)]
    install_fake_videos(monkeypatch, videos)
    weights = {v.name: float(v.num_frames) for v in videos}
    url, whole = tmp_path / "c.zarr", tmp_path / "whole.zarr"
    run_shard(videos, whole, Shard(1, 1), balanced(weights, 1))
    threes, twos = balanced(weights, 3), balanced(weights, 2)
    first = run_shard(videos, url, Shard(1, 3), threes)
    done = set(first.done)
    for number in (2, 1):
        summary = run_shard(videos, url, Shard(number, 2), twos)
        assert set(summary.skipped) == done & set(twos[number - 1])
    for video in videos:
        assert_cached(url, video)
    assert cache_contents(url) == cache_contents(whole)


def start(clips: Path, cache: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "extract", "run", str(clips), "--preset", "tiny", "--streams", "image,text"]
    return subprocess.Popen(
        [*command, "--cache", str(cache), *words],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_processes_at_once_one_of_them_killed_make_the_cache_of_one_run(clips: Path, tmp_path: Path, cli: Cli) -> None:
    url, whole = tmp_path / "c.zarr", tmp_path / "whole.zarr"
    result = cli("run", clips, "--preset", "tiny", "--streams", "image,text", "--cache", whole)
    assert result.exit_code == 0, result.output
    runs = [start(clips, url, "--shard", f"{i}/3") for i in (1, 2, 3)]
    deadline = time.monotonic() + 120
    while not (url / "videos").is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    runs[1].send_signal(signal.SIGKILL)  # at the earliest moment when the cache is there
    for number, run in enumerate(runs):
        output, _ = run.communicate(timeout=120)
        assert run.returncode == (-9 if number == 1 else 0), output
    again = start(clips, url, "--shard", "2/3")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert cache_contents(url) == cache_contents(whole)
    status = cli("status", clips, "--cache", url).output.split("\n")
    assert [line.split()[:2] for line in status if line.startswith(("image", "text"))] == [
        ["image", "6/6"],
        ["text", "6/6"],
    ]
