"""``extract plan``: counts, bytes against a real cache, and what it says when something cannot be known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from extract.costs.calibrate import HASHED_BYTES, Calibration, Rate, _time_hash
from extract.costs.cost import Length, Work, cache_bytes, count_work, measure_lengths
from extract.costs.estimate import estimate
from extract.costs.memory import LARGEST
from extract.faults.ledger import Failure, FailureLedger
from shared.cache import FeatureCache
from shared.manifest import Video, load_manifest
from shared.windows import WindowSpec
from tests.extract.support import SHARED_VIDEOS, needs_shared_videos, write_video

Cli = Callable[..., Result]
LENGTHS = (20, 90, 300)
KINDS = {"video": "window", "image": "timeline", "text": "timeline"}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, frames in enumerate(LENGTHS):
        write_video(folder / f"{number}.mp4", frames, seed=number)
    return folder


def figures(cli: Cli, *words: Any) -> tuple[Result, dict[str, Any]]:
    result = cli("plan", *words, "--json", "plan.json")
    return result, json.loads(Path("plan.json").read_text()) if Path("plan.json").exists() else {}


def file_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


# ------------------------------------------------------------------ the command


def test_a_plan_says_what_a_run_then_does(cli: Cli, videos: Path) -> None:
    result, found = figures(cli, videos, "--preset", "tiny", "--cache", "new.zarr")
    assert result.exit_code == 0, result.output
    assert not Path("new.zarr").exists()
    assert "random weights of the same architecture" in result.output
    spec = WindowSpec()
    plans = [spec.plan(frames) for frames in LENGTHS]
    assert found["videos"] == found["videos_to_extract"] == 3
    assert found["frames"] == sum(LENGTHS)
    assert found["windows"] == sum(len(p) for p in plans)
    for stream in KINDS:
        assert found[f"unique_frames_{stream}"] == sum(len(p.unique[stream]) for p in plans)
    assert found["timed_s"] < 20
    assert found["hours"] > 0
    assert found["hours_low"] <= found["hours"] <= found["hours_high"]
    assert found["not_measured"] == ""

    run = cli("run", videos, "--preset", "tiny", "--cache", "new.zarr")
    assert f"{found['frames']} frames, {found['windows']} windows in" in run.output
    cached = file_bytes(Path("new.zarr"))
    assert abs(found["bytes"] - cached) < 0.1 * cached, (found["bytes"], cached)

    write_video(videos / "3.mp4", 64, seed=3)
    again, left = figures(cli, videos, "--preset", "tiny", "--cache", "new.zarr", "--no-calibrate")
    assert "4 videos: 3 complete, 1 to extract, 0 not readable" in again.output
    assert (left["videos_complete"], left["frames"], left["windows"]) == (3, 64, 1)
    assert "hours" not in left


def test_streams_that_are_there_are_not_counted_again(cli: Cli, videos: Path) -> None:
    assert cli("run", videos, "--preset", "tiny", "--streams", "image", "--cache", "c.zarr").exit_code == 0
    _, found = figures(cli, videos, "--preset", "tiny", "--cache", "c.zarr", "--no-calibrate")
    assert found["unique_frames_image"] == 0
    assert found["unique_frames_video"] > 0
    assert found["videos_complete"] == 0


def test_broken_videos_are_told(cli: Cli, videos: Path) -> None:
    (videos / "broken.mp4").write_bytes(b"no video")
    result, found = figures(cli, "--dataset", videos, "--preset", "tiny", "--no-calibrate")
    assert result.exit_code == 1
    assert "broken.mp4: not a video this decoder knows" in result.output
    assert (found["videos_not_readable"], found["videos_to_extract"]) == (1, 3)


def test_what_failed_before_is_no_work_for_a_plain_run(cli: Cli, videos: Path) -> None:
    write_video(videos / "broken.avi", 90)  # opens, which is all that a plan looks at
    cache = FeatureCache.create("c.zarr", dataset="clips", window=WindowSpec())
    FailureLedger(cache.url).record(
        Failure("broken.avi", "broken.avi", "decode", "VideoError", "broken after 28 frames")
    )
    result, found = figures(cli, videos, "--preset", "tiny", "--no-calibrate", "--cache", "c.zarr")
    assert (found["videos"], found["videos_to_extract"], found["videos_failed_before"]) == (4, 3, 1)
    assert found["frames"] == sum(LENGTHS)
    assert "1 failed before; only a run with --retry-failed tries again" in result.output


def test_the_caption_batch_of_another_cache_is_kept(cli: Cli, videos: Path) -> None:
    made_with = {"preset": "tiny-minigpt", "options": {"caption_batch_size": 5}}
    FeatureCache.create("other.zarr", dataset="clips", window=WindowSpec(), made_with=made_with)
    _, found = figures(cli, videos, "--like", "other.zarr", "--gpu-memory", "8", "--no-calibrate")
    assert (found["caption_batch"], found["clip_batch"]) == (5, LARGEST["clip_batch"])


def test_a_place_that_is_not_there_is_told_before_anything_is_timed(cli: Cli, videos: Path) -> None:
    result = cli("plan", videos, "--preset", "tiny", "--json", "nowhere/plan.json")
    assert result.exit_code == 2
    assert "there is no folder nowhere" in result.output
    assert "to extract" not in result.output


def test_a_captioner_that_cannot_be_tried_is_left_out_visibly(cli: Cli, videos: Path) -> None:
    words = (videos, "--preset", "tiny", "--streams", "text", "--captioner")
    result, found = figures(cli, *words, "hf-hub:nobody/nothing")
    assert result.exit_code == 0, result.output
    assert "not measured" in result.output
    assert "nothing is downloaded" in result.output
    assert ", without captions (" in result.output
    assert found["captions_per_s"] is None
    assert found["not_measured"] == "captions"
    minigpt, _ = figures(cli, *words, "minigpt4-vicuna-7b")
    assert minigpt.exit_code == 0, minigpt.output
    assert "not measured" in minigpt.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips", "--preset", "tniy"], "unknown preset 'tniy'"),
        (["clips", "--preset", "tiny", "--captioner", "ofline"], "unknown captioner 'ofline'"),
        (["dmeo"], "unknown data set 'dmeo'"),
        (["clips", "--preset", "tiny", "--gpu-memory", "0.001"], "--gpu-memory 0.001"),
        ([], "say which data set"),
        (["clips", "--dataset", "clips"], "say which data set, once"),
    ],
)
def test_bad_usage(cli: Cli, videos: Path, words: list[str], message: str) -> None:
    result = cli("plan", *words, "--no-calibrate")
    assert result.exit_code == 2, result.output
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


# ------------------------------------------------------------------ counting


def test_frames_come_from_where_they_are_known(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 77)
    (tmp_path / "b").mkdir()
    for number in (1, 5):  # pictures that lack are shown as the one before
        Image.new("RGB", (8, 8)).save(tmp_path / "b" / f"{number:05d}.png")
    steps: list[tuple[int, int]] = []
    lengths = measure_lengths(load_manifest(tmp_path), None, lambda done, total: steps.append((done, total)))
    assert [(n.video.path, n.num_frames, n.estimated) for n in lengths] == [("a.mp4", 77, False), ("b", 5, False)]
    assert steps == [(1, 2), (2, 2)]


@needs_shared_videos
def test_containers_without_a_count_are_estimated() -> None:
    lengths = {n.video.path: n for n in measure_lengths(load_manifest(SHARED_VIDEOS), None)}
    webm, mp4 = lengths["media3_bear_vp9_2997.webm"], lengths["media3_long_1080p_10883f.mp4"]
    assert webm.estimated
    assert abs(webm.num_frames - 82) <= 2  # as decoded
    assert (mp4.num_frames, mp4.estimated) == (10883, False)
    work = count_work(list(lengths.values()), WindowSpec(), KINDS)
    assert 0 < work.estimated_frames < work.frames


def test_bytes_follow_the_layout() -> None:
    lengths = [Length(Video("a", "a", "a"), Path("a"), 128)]
    work = count_work(lengths, WindowSpec(), KINDS)
    assert (work.windows, work.unique["video"], work.unique["text"]) == (5, 32, 8)
    assert work.sampled == len(np.union1d(np.arange(2, 128, 4), np.arange(8, 128, 16)))
    parts = cache_bytes(
        work, WindowSpec(), KINDS, {"video": 768, "image": 512, "text": 512}, caption_bytes=100, thumbnail_bytes=None
    )
    assert parts["features"] == 2 * (5 * 16 * 768 + 32 * 512 + 8 * 512)
    assert parts["frames"] == 4 * (32 + 8)
    assert parts["times"] == 8 * 128
    assert (parts["captions"], parts["thumbnails"]) == (800, 0)


# ------------------------------------------------------------------ hours


def test_the_slowest_of_what_overlaps_decides() -> None:
    work = Work(["a", "b"], frames=1000, sampled=300, windows=50, unique={"video": 250, "image": 250}, rows={})
    rates = {
        "decode": Rate("frame", 0.01, 0.008, 0.02),
        "prepare": Rate("frame", 0.01, 0.01, 0.01),
        "video, frames": Rate("frame", 0.1, 0.1, 0.1, cores=0.1),
        "video, windows": Rate("window", 0.2, 0.2, 0.2, cores=0.1),
        "image": Rate("frame", reason="because"),
    }
    found = estimate(work, Calibration(rates), workers=2, cores=8)
    assert found.seconds == pytest.approx(250 * 0.1 + 50 * 0.2)  # encoding; reading takes 5 s on two workers
    assert found.slowest == "encoding"
    assert found.missing == {"image": "because"}
    rates["decode"] = Rate("frame", 0.2, 0.1, 0.3)
    read = estimate(work, Calibration(rates), workers=4, cores=8)
    assert (read.seconds, read.low, read.high) == pytest.approx((100, 50, 150))  # two videos: two workers at most
    assert read.slowest == "reading"
    busy = {name: Rate(rate.unit, rate.seconds, rate.low, rate.high, 2.0) for name, rate in rates.items()}
    shared = estimate(work, Calibration(busy), workers=2, cores=2)
    assert shared.seconds == pytest.approx((200 + 3 + 2 * 35) / 2)  # on a CPU all of it shares the cores


def test_the_digest_is_not_timed_on_a_file_that_is_mostly_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 kB took 29 ns a byte where 3 MB took 0.9; one such file made a folder of large ones seem 30 times as slow."""
    read: list[str] = []
    monkeypatch.setattr("extract.costs.calibrate.read_source", lambda file: read.append(file.name))
    lengths = []
    for size in (100, 1000, int(HASHED_BYTES), 2 * int(HASHED_BYTES)):
        file = tmp_path / str(size)
        file.write_bytes(b"x")
        lengths.append(Length(Video(file.name, file.name, str(file)), file, 64, num_bytes=size))
    _time_hash(lengths)
    _time_hash(lengths[:2])
    assert read == [str(int(HASHED_BYTES)), "1000"]


def test_a_cache_of_other_windows_is_refused(cli: Cli, videos: Path) -> None:
    FeatureCache.create("c.zarr", dataset="clips", window=WindowSpec(stride=8))
    result = cli("plan", videos, "--preset", "tiny", "--cache", "c.zarr", "--no-calibrate")
    assert result.exit_code == 2
    assert "--stride" in result.output
