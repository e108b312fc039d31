"""The command line: messages, exit statuses, outputs, and a quick --help."""

from __future__ import annotations

import base64
import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.core import TyperGroup
from typer.testing import Result

from extract.__main__ import app
from extract.commands.parts import explained, load, options_of
from extract.commands.run import USUAL
from extract.flow.engines import LocalEngine
from extract.flow.loading import Choice
from extract.watcher import Watcher
from shared.cache import FeatureCache
from tests.extract.support import REPO, write_video

Cli = Callable[..., Result]

HELP_SCRIPT = """
import sys
from typer.testing import CliRunner
from extract.__main__ import app
for words in ([], ["plan"], ["run"], ["status"], ["verify"], ["captions"], ["recaption"], ["demo"]):
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output
    assert "[/" not in result.output
    print(result.output)
heavy = {"jax", "torch", "numpy", "zarr", "pandas", "av", "PIL", "open_clip", "transformers"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, frames in enumerate((20, 70)):
        write_video(folder / f"{number}.mp4", frames, seed=number)
    return folder


@pytest.fixture
def tiny(cli: Cli) -> Cli:
    """``run`` on image and text, which needs no compilation."""
    return lambda dataset, *words: cli("run", dataset, "--preset", "tiny", "--streams", "image,text", *words)


# ------------------------------------------------------------------------------------------------ help and usage


def test_help_answers_without_heavy_imports() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_SCRIPT], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "python -m extract run demo --preset mini" in done.stdout
    assert "--retry-failed" in done.stdout


def test_the_module_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extract", "rnu"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "No such command" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["clips", "--preset", "tniy"],
            "unknown preset 'tniy'; did you mean 'tiny'? (known: base, large, mini, tiny, tiny-minigpt)",
        ),
        (["dmeo", "--preset", "tiny"], "unknown data set 'dmeo'; did you mean 'demo'?"),
        (
            ["clips", "--preset", "tiny", "--streams", "imgae"],
            "--streams: unknown stream 'imgae'; did you mean 'image'?",
        ),
        (["clips", "--preset", "tiny", "--streams", " ,"], "--streams takes names out of video, image, text"),
        (
            ["clips", "--preset", "tiny", "--streams", "image", "--overwrite", "text"],
            "--overwrite: unknown stream 'text'",
        ),
        (["clips", "--preset", "tiny", "--captioner", "ofline"], "unknown captioner 'ofline'; did you mean 'offline'?"),
        (["clips", "--preset", "tiny", "--sampling", "middle"], "one of centers, endpoints, found 'middle'"),
        (
            ["clips", "--preset", "tiny", "--long-captions", "chunks"],
            "--long-captions takes truncate or chunk-mean, found 'chunks'",
        ),
        (
            ["clips", "--preset", "tiny", "--clip-model", "ViT-B32"],
            "unknown CLIP model 'ViT-B32'; did you mean 'ViT-B-32'?",
        ),
        (["clips", "--preset", "tiny", "--videoprism-weights", "gone.npz"], "gone.npz"),
        (["clips", "--preset", "tiny", "--workers", "0"], "greater than or equal to 1"),
        (["empty", "--preset", "tiny"], "no video found below empty"),
    ],
)
def test_bad_usage_is_status_two_with_a_message(cli: Cli, videos: Path, words: list[str], message: str) -> None:
    Path("empty").mkdir()
    result = cli("run", *words)
    assert result.exit_code == 2, result.output
    assert message in result.output.replace("\n", " ").replace("  ", " ")
    assert "Traceback" not in result.output


def test_commands_on_a_cache_that_is_not_there(cli: Cli, videos: Path) -> None:
    for command in ("status", "verify", "captions"):
        result = cli(command, "clips")
        assert result.exit_code == 2
        assert "no feature cache at caches/clips.zarr" in result.output
        assert "python -m extract run" in result.output


# ------------------------------------------------------------------------------------------------ runs


def test_run_status_verify_captions(tiny: Cli, cli: Cli, videos: Path) -> None:
    first = tiny("clips")
    assert first.exit_code == 0, first.output
    assert "clips: 2 videos, 0 already complete, 2 to do; preset tiny, streams image, text" in first.output
    assert "untrained encoders (random weights) for image, text; not a result" in first.output
    assert "90 frames, 3 windows in" in first.output
    assert "busy seconds (stages overlap): decode" in first.output
    again = tiny("clips")
    assert again.exit_code == 0
    assert "2 already complete, 0 to do" in again.output

    status = cli("status", "clips")
    assert status.exit_code == 1  # the stream "video" is missing
    assert "0/2 videos complete, 90 frames, 3 windows" in status.output
    assert "2/2" in status.output
    assert "0/2" in status.output
    assert "open_clip image tiny random, seed 0" in status.output

    verified = cli("verify", "clips")
    assert (verified.exit_code, "2 videos, 4 complete streams, every checksum holds" in verified.output) == (0, True)

    listed = cli("captions", "clips", "--video", "1.mp4").output.splitlines()
    cache = FeatureCache.open("caches/clips.zarr")
    captions = cache.read("1.mp4", "text").captions
    assert captions is not None
    assert [line.split(" s  ")[1] for line in listed] == captions
    for file, read in (("all.csv", pd.read_csv), ("all.parquet", pd.read_parquet)):
        assert f"-> {file}" in cli("captions", "clips", "--out", file).output
        frame = read(file)
        assert list(frame.columns) == ["video", "frame", "time_s", "caption"]
        assert frame.caption[frame.video == "1.mp4"].tolist() == captions
        np.testing.assert_allclose(frame.time_s, frame.frame / 30, atol=1e-3)
    assert f"\ncaptions: {len(frame)}\n" in first.output  # all is well with them; each was counted once
    refused = cli("captions", "clips", "--out", "all.txt")
    assert (refused.exit_code, "ends in .csv or .parquet, found 'all.txt'" in refused.output) == (2, True)
    for file in ("gone/c.csv", "gone/c.parquet"):
        nowhere = cli("captions", "clips", "--out", file)
        assert nowhere.exit_code == 2
        assert f"error: --out {file}: there is no folder gone; make it, or give another place" in nowhere.output
    Path("folder.csv").mkdir()
    nowhere = cli("captions", "clips", "--out", "folder.csv")
    assert (nowhere.exit_code, nowhere.output.splitlines()[-1]) == (2, "error: Is a directory: folder.csv")
    assert not list(Path().rglob("*.part"))
    unknown = cli("captions", "clips", "--video", "2.mp4")
    assert (unknown.exit_code, "there are: 0.mp4, 1.mp4" in unknown.output) == (2, True)


def test_the_command_that_tries_again_asks_for_what_this_run_asked_for(tiny: Cli, cli: Cli, videos: Path) -> None:
    """The cache notes what all of it was begun with; one stream may have been replaced since."""
    good = (videos / "1.mp4").read_bytes()
    (videos / "1.mp4").write_text("not a video")
    tiny("clips", "--caption-batch", "5")
    result = tiny("clips", "--overwrite", "text", "--long-captions", "chunk-mean", "--no-thumbnails")
    assert result.exit_code == 1
    (line,) = (line for line in result.output.splitlines() if "Try them again with" in line)
    words = shlex.split(line.partition("python -m extract ")[2])
    asked = "--preset tiny --long-captions chunk-mean --no-thumbnails --retry-failed"
    assert words == ["run", "clips", *asked.split(), "--streams", "image,text", "--overwrite", "text"]
    (videos / "1.mp4").write_bytes(good)
    again = cli(*words)
    assert again.exit_code == 0, again.output
    cache = FeatureCache.open("caches/clips.zarr")
    assert cache.streams("0.mp4") == cache.streams("1.mp4")


def test_the_command_that_tries_again_runs_where_and_as_this_run_did(
    cli: Cli, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "1.mp4").write_text("not a video")

    def here(engine: str, choice: Choice, cache: object, address: str, actors: int, *rest: Any) -> LocalEngine:
        assert (engine, address, actors) == ("ray", "10.0.0.1:6379", 2)
        return LocalEngine(choice, *rest)

    monkeypatch.setattr("extract.commands.choose_engine.open_engine", here)
    asked = "--preset tiny --streams image --shard 1/1 --device cpu --workers 3 --video-timeout 90.5 --gpu-memory 4"
    asked += " --include-truncated --engine ray --address 10.0.0.1:6379 --actors 2"
    result = cli("run", "clips", *asked.split())
    assert result.exit_code == 1, result.output
    (line,) = (line for line in result.output.splitlines() if "Try them again with" in line)
    words = shlex.split(line.partition("python -m extract ")[2])

    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    run = command.commands["run"]
    before = run.make_context("run", ["clips", *asked.split()]).params
    again = run.make_context("run", words[1:]).params
    changed = {name: value for name, value in again.items() if value != before[name]}
    assert changed == {"preset": None, "like": "caches/clips.zarr", "retry_failed": True}
    usual = run.make_context("run", ["clips"]).params
    assert {option: usual[option[2:].replace("-", "_")] for option in USUAL} == USUAL


def test_options_become_words_again() -> None:
    made = {"preset": "base", "options": {"caption_max_new_tokens": 9, "caption_batch_size": 2, "thumbnails": True}}
    assert options_of(made) == ["--preset", "base", "--caption-tokens", "9", "--caption-batch", "2", "--thumbnails"]


def test_failures_are_shown_and_retried(tiny: Cli, cli: Cli, videos: Path) -> None:
    good = (videos / "1.mp4").read_bytes()
    (videos / "1.mp4").write_text("not a video")
    result = tiny("clips")
    assert result.exit_code == 1
    assert "1.mp4: open: not a video" in result.output
    assert "python -m extract run clips --like caches/clips.zarr --retry-failed" in result.output
    assert "caches/failures.jsonl" in result.output
    status = cli("status", "clips")
    assert (status.exit_code, "quarantined  1.mp4: open: not a video" in status.output) == (1, True)
    again = tiny("clips")
    assert (again.exit_code, "0 to do" in again.output) == (1, True)
    assert "of these quarantined" in again.output
    asked = tiny("clips", "--retry-failed")
    assert (asked.exit_code, "(attempts: 2)" in asked.output) == (1, True)
    (videos / "1.mp4").write_bytes(good)  # another file: it is tried without being asked for
    assert tiny("clips").exit_code == 0
    assert "quarantined" not in cli("status", "clips").output


def test_a_data_set_in_which_nothing_works_is_status_two(tiny: Cli, videos: Path) -> None:
    for n in range(10):
        (videos / f"{n}.mp4").write_text("not a video")
    result = tiny("clips")
    assert result.exit_code == 2
    assert "first 8 videos all failed for one cause" in result.output
    assert "Traceback" not in result.output


def test_settings_that_differ_from_the_cache_are_refused(tiny: Cli, videos: Path) -> None:
    assert tiny("clips").exit_code == 0
    result = tiny("clips", "--stride", "8")
    assert result.exit_code == 2
    assert "window.stride: cache has 16, asked for 8" in result.output
    result = tiny("clips", "--clip-model", "ViT-B-32")
    assert result.exit_code == 2
    assert "model: cache has" in result.output
    assert "--overwrite image" in result.output


def test_damage_is_found(tiny: Cli, cli: Cli, videos: Path) -> None:
    assert tiny("clips").exit_code == 0
    chunk = next(p for p in Path("caches/clips.zarr/videos/0.mp4/image/features").rglob("c/**/*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(data)
    result = cli("verify", "caches/clips.zarr")
    assert result.exit_code == 1
    assert "0.mp4/image/features: " in result.output
    assert "--overwrite" in result.output


def test_a_full_disk_is_one_message_and_status_two(tiny: Cli, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shared.cache.arrays.StreamWriter.append", full)
        result = tiny("clips")
    assert result.exit_code == 2
    assert "error: the cache caches/clips.zarr cannot be written: No space left on device" in result.output
    assert "run the same command again" in result.output
    assert "Traceback" not in result.output
    assert tiny("clips").exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_says_how_to_go_on(
    number: int, tiny: Cli, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A shell starts background jobs with SIGINT ignored; the tests may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("extract.show.progress.RunDisplay.reached", lambda *args: os.kill(os.getpid(), number))
            result = tiny("clips")
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert "run the same command again to go on" in result.output
    assert tiny("clips").exit_code == 0


def test_an_interrupt_that_python_ignores_still_stops_the_run() -> None:
    class Finaliser:
        def __del__(self) -> None:
            raise KeyboardInterrupt  # as a signal's handler does that happens to run in here

    def command() -> int:
        Finaliser()
        for _ in range(500):
            time.sleep(0.01)
        return 0

    hook = sys.unraisablehook
    assert explained(command)() == 130
    assert sys.unraisablehook is hook


def test_a_crash_is_not_taken_for_some_videos_failed(tiny: Cli, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: Watcher, *args: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("extract.show.progress.RunDisplay.reached", crash)
    result = tiny("clips")
    assert result.exit_code == 2
    assert "Traceback" in result.output
    assert "CUDA out of memory" in result.output


def test_names_that_the_terminal_cannot_show(tiny: Cli, videos: Path, tmp_path: Path) -> None:
    (videos / "ünïcode ✓.mp4").write_text("not a video")
    assert tiny("clips").exit_code == 1
    done = subprocess.run(
        [sys.executable, "-m", "extract", "status", "clips"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPO)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert rb"\xfcn\xefcode \u2713.mp4: open: not a video" in done.stdout


# ------------------------------------------------------------------------------------------------ like another cache


def test_like_takes_preset_and_options_of_another_cache(tiny: Cli, cli: Cli, videos: Path) -> None:
    assert tiny(str(videos), "--stride", "8", "--no-thumbnails").exit_code == 0
    one = write_video(videos.parent / "new.mp4", 80, seed=5)
    done = cli("run", str(one), "--like", "caches/clips.zarr", "--streams", "image,text")
    assert done.exit_code == 0, done.output
    made = FeatureCache.open(next(Path("caches").glob("new-*.zarr")))
    model = FeatureCache.open("caches/clips.zarr")
    assert made.window == model.window
    assert made.window.stride == 8
    assert made.made_with == model.made_with == {"preset": "tiny", "options": {"stride": 8, "thumbnails": False}}
    assert made.streams("new.mp4") == model.streams("0.mp4")
    assert made.read("new.mp4", "text").thumbnails is None
    refused = cli("run", str(one), "--like", "caches/gone.zarr")
    assert refused.exit_code == 2
    assert "no feature cache at caches/gone.zarr" in refused.stderr


def test_thumbnails_are_pictures_of_the_captioned_frames(tiny: Cli, videos: Path) -> None:
    assert tiny(str(videos)).exit_code == 0
    data = FeatureCache.open("caches/clips.zarr").read("1.mp4", "text")
    assert data.thumbnails is not None
    assert data.captions is not None
    assert len(data.thumbnails) == len(data.captions)
    with Image.open(io.BytesIO(base64.b64decode(data.thumbnails[0]))) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= 112


def test_a_changed_file_is_never_mixed_in_silently(tiny: Cli, videos: Path) -> None:
    assert tiny(str(videos)).exit_code == 0
    before = FeatureCache.open("caches/clips.zarr").read("0.mp4", "image").features
    write_video(videos / "0.mp4", 33, seed=9)
    refused = tiny(str(videos))
    assert refused.exit_code == 2
    assert "1 of 2 videos are not the files that caches/clips.zarr was made from: 0.mp4" in refused.stderr
    assert tiny(str(videos), "--overwrite", "image").exit_code == 2  # text would still be of the old file
    done = tiny(str(videos), "--overwrite", "all")
    assert done.exit_code == 0, done.output
    assert "1 already complete, 1 to do" in done.stderr
    cache = FeatureCache.open("caches/clips.zarr")
    info = cache.info("0.mp4")
    assert info is not None
    assert info.num_frames == 33
    assert not np.array_equal(cache.read("0.mp4", "image").features, before)
    assert cache.verify("0.mp4") == []


def test_a_copy_of_a_file_is_the_same_file(tiny: Cli, videos: Path) -> None:
    assert tiny(str(videos)).exit_code == 0
    os.utime(videos / "0.mp4", (1, 1))
    assert "2 already complete, 0 to do" in tiny(str(videos)).stderr


def test_videos_of_one_name_in_two_folders_have_their_own_caches(tiny: Cli, tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "x.mp4", 20, seed=number)
        done = tiny(str(tmp_path / folder / "x.mp4"))
        assert "0 already complete, 1 to do" in done.stderr
    assert len(list(Path("caches").glob("x-*.zarr"))) == 2


def test_overwrite_goes_on_where_it_was_and_mends_what_is_damaged(tiny: Cli, videos: Path) -> None:
    assert tiny(str(videos)).exit_code == 0
    assert "2 already complete, 0 to do" in tiny(str(videos), "--overwrite", "all").stderr
    chunk = next(p for p in Path("caches/clips.zarr/videos/1.mp4/image/features").rglob("c/**/*") if p.is_file())
    chunk.write_bytes(b"damaged")
    assert "1 already complete, 1 to do" in tiny(str(videos), "--overwrite", "all").stderr
    assert FeatureCache.open("caches/clips.zarr").verify("1.mp4") == []


def test_a_forgotten_preset_is_told_before_weights_are_loaded(
    tiny: Cli, cli: Cli, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny(str(videos)).exit_code == 0
    monkeypatch.setattr("extract.encoders.build_encoders", lambda *args: pytest.fail("weights were loaded"))
    refused = cli("run", str(videos), "--streams", "image,text")
    assert refused.exit_code == 2
    assert "caches/clips.zarr was made with preset tiny, asked for base" in refused.stderr


def test_a_manifest_of_ones_own_called_demo_is_not_the_demo(tiny: Cli, videos: Path) -> None:
    own = videos.parent / "demo.toml"
    own.write_text('root = "clips"\n[videos]\nglob = ["*.mp4"]\n')
    done = tiny(str(own))
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in videos.iterdir()) == ["0.mp4", "1.mp4"]


def test_broken_files_at_the_front_do_not_stop_the_good_ones(tiny: Cli, videos: Path) -> None:
    for number in range(12):
        (videos / f"-broken{number}.mp4").write_bytes(b"")
    done = tiny(str(videos))
    assert done.exit_code == 1, done.output
    assert len(FeatureCache.open("caches/clips.zarr").video_ids()) == 2


def test_notes_of_a_data_set_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "t.csv").write_text("path;weather\na.mp4;sun\n")
    load(str(tmp_path / "t.csv"), None)
    assert capsys.readouterr().err.splitlines() == [
        "note: t.csv: its columns are separated by semicolons, not by commas, and read like that",
        "note: t.csv: further columns, each of which can be a task (--task NAME): weather",
    ]
