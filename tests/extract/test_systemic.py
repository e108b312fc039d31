"""Faults that are not the videos' end the run at once, with their cause, and exit status 2."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from extract.decode.events import Job
from extract.decode.process import DecoderProcess, DecoderStartError
from extract.decode.turns import Turns
from extract.faults.ledger import Failure, FailureLedger
from extract.faults.systemic import SYSTEMIC_FAILURES, FirstFailures, SystemicFailure
from tests.extract.support import REPO, FakeVideo, fake_encoders, install_fake_videos, run_fake, write_video

Cli = Callable[..., Result]


def failure(number: int, message: str = "broken after 3 frames", stage: str = "decode") -> Failure:
    return Failure(f"v{number}", f"folder/v{number}.mp4", stage, "VideoError", message)


def job(path: Path) -> Job:
    return Job(path.name, path.name, path, None, ("image",))


def fill(first: FirstFailures, messages: list[str], stage: str = "decode") -> None:
    for number, message in enumerate(messages):
        first.add(failure(number, message, stage))


# ------------------------------------------------------------------------------------------------ what is alike


def test_names_and_numbers_make_no_difference() -> None:
    first = FirstFailures()
    for number in range(SYSTEMIC_FAILURES):
        assert not first.alike
        first.add(failure(number, f"folder/v{number}.mp4: v{number}/image: row of frame {7 * number} holds a NaN"))
    assert first.alike


def test_mixed_causes_are_not_alike_but_one_broken_file_at_the_front_does_not_hide_the_fault() -> None:
    first = FirstFailures()
    fill(first, ["no permission", "cut off"] * SYSTEMIC_FAILURES)
    assert not first.alike
    fill(first, ["no permission"] * (SYSTEMIC_FAILURES - 1))
    assert not first.alike
    fill(first, ["no permission"])
    assert first.alike


def test_what_failed_before_says_nothing_and_what_works_ends_the_watch() -> None:
    first = FirstFailures(before=[f"v{number}" for number in range(20)])
    fill(first, ["broken"] * 20)
    assert not first.alike
    first = FirstFailures()
    fill(first, ["broken"] * 20)
    first.works()
    assert not first.alike


# ------------------------------------------------------------------------------------------------ videos further on


def test_the_run_goes_on_where_videos_further_on_can_be_read(tmp_path: Path) -> None:
    good = job(write_video(tmp_path / "good.mp4", 3))
    bad = [job(tmp_path / f"gone{number}.mp4") for number in range(12)]
    first = FirstFailures()
    fill(first, ["broken"] * SYSTEMIC_FAILURES)
    first.check([*bad, good])
    assert not first.alike
    first = FirstFailures()
    fill(first, ["broken"] * SYSTEMIC_FAILURES)
    with pytest.raises(
        SystemicFailure, match=r"first 8 videos all failed for one cause.*\n  decode: broken\n.*--retry"
    ):
        first.check(bad)


@pytest.mark.parametrize("end", ["hang", "die", "do not start"])
def test_a_fault_of_the_decoder_processes_is_no_readable_video(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked about videos further on is such a process itself."""
    usual, started = DecoderProcess.__init__, []

    def broken(self: DecoderProcess, turns: Turns, row: int, rows: int) -> None:
        if end == "do not start":
            raise DecoderStartError("no more processes")
        usual(self, turns, row, rows)
        started.append(self.process)
        self.process.send_signal(signal.SIGSTOP if end == "hang" else signal.SIGKILL)

    good = job(write_video(tmp_path / "good.mp4", 3))
    monkeypatch.setattr(DecoderProcess, "__init__", broken)
    monkeypatch.setattr("extract.faults.systemic.PROBE_S", 0.2)
    first = FirstFailures()
    fill(first, ["broken"] * SYSTEMIC_FAILURES)
    with pytest.raises(SystemicFailure):
        first.check([good])
    assert all(process.returncode is not None for process in started)


def test_videos_further_on_are_asked_about_again_after_the_next_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = job(write_video(tmp_path / "good.mp4", 3))
    first = FirstFailures()
    fill(first, ["broken"] * SYSTEMIC_FAILURES)
    first.check([good])
    fill(first, ["broken"] * SYSTEMIC_FAILURES)
    assert first.alike
    with pytest.raises(SystemicFailure):
        first.check([job(tmp_path / "gone.mp4")])
    assert len(first.uncounted()) == SYSTEMIC_FAILURES  # not those that were the videos' own


def test_what_ended_the_run_is_not_counted_and_the_rest_is() -> None:
    first = FirstFailures(before=["v0"])
    for number, cause in enumerate(["broken", "other", *["broken"] * SYSTEMIC_FAILURES]):
        first.add(replace(failure(number, cause), error="DecoderDied", attempts=2 if number == 0 else 1))
    with pytest.raises(SystemicFailure, match="run again; it does not count"):
        first.check([])
    assert {f.video: f.attempts for f in first.uncounted()} == {"v0": 1, **{f"v{n}": 0 for n in range(2, 10)}}


def test_the_last_videos_of_a_data_set_may_all_be_broken() -> None:
    first = FirstFailures(worked=True)
    fill(first, ["broken"] * SYSTEMIC_FAILURES)
    first.check([])
    first = FirstFailures()
    fill(first, ["broken"] * SYSTEMIC_FAILURES)
    with pytest.raises(SystemicFailure):
        first.check([])


def test_what_encoders_make_of_all_videos_is_no_question_of_reading(tmp_path: Path) -> None:
    first = FirstFailures()
    fill(first, ["v/image: window 3 holds a NaN or infinity"] * SYSTEMIC_FAILURES, stage="write")
    with pytest.raises(SystemicFailure, match="broken weights, or a --dtype"):
        first.check([job(write_video(tmp_path / "good.mp4", 3))])


# ------------------------------------------------------------------------------------------------ whole runs


def test_mixed_causes_do_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [FakeVideo(number, 40, 5 if number % 2 else None) for number in range(1, 30)]
    spoil = {(v.number, f): float("nan") for v in videos for f in range(40)}
    install_fake_videos(monkeypatch, videos)
    summary = run_fake(videos, tmp_path / "x.zarr", fake_encoders(image={"spoil": spoil, "batch_size": 1}))
    assert len(summary.failed) == 29
    assert {f.stage for f in summary.failed.values()} == {"decode", "write"}
    assert summary.exit_status == 2


@pytest.fixture
def clips(cli: Cli) -> Path:
    folder = Path("clips")
    folder.mkdir()
    write_video(folder / "00.mp4", 12)
    for number in range(1, 12):
        (folder / f"{number:02d}.mp4").write_bytes((folder / "00.mp4").read_bytes())
    return folder


def stopped(cli: Cli, *words: str, data: str = "clips", streams: str = "image") -> list[str]:
    """Lines of a run that ends with status 2 and without a traceback."""
    result = cli("run", data, "--preset", "tiny", "--streams", streams, *words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.splitlines()


def test_a_wrong_root_is_a_line_or_two(cli: Cli) -> None:
    Path("t.csv").write_text("path\n" + "".join(f"v{n}.mp4\n" for n in range(500)))
    Path("elsewhere").mkdir()
    lines = stopped(cli, "--root", "elsewhere", data="t.csv")
    assert len(lines) <= 2, lines
    assert "none of the 500 videos is below elsewhere" in lines[-1]
    lines = stopped(cli, "--root", "nowhere", data="t.csv")
    assert len(lines) <= 2, lines
    assert "there is no folder nowhere" in lines[-1]
    assert not Path("caches").exists()


def test_a_codec_that_nobody_knows(cli: Cli, clips: Path) -> None:
    for file in list(clips.iterdir()):
        file.unlink()
    data = write_video(clips / "00.avi", 12).read_bytes()
    assert b"FMP4" in data
    for number in range(12):
        (clips / f"{number:02d}.avi").write_bytes(data.replace(b"FMP4", b"ZZ9Z"))
    lines = stopped(cli)
    (at,) = (n for n, line in enumerate(lines) if "first 8 videos all failed for one cause" in line)
    assert "no decoder for its video track" in lines[at + 1]
    assert sum("no decoder" in line for line in lines) == SYSTEMIC_FAILURES + 1


def test_a_full_disk_wherever_the_store_notices_it(cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.cache import local as cache_local

    def full(path: str, value: bytes, exclusive: bool) -> None:
        if path.endswith(suffix):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, value, exclusive)

    write = cache_local._write
    monkeypatch.setattr(cache_local, "_write", full)
    for suffix in ("fake.zarr/zarr.json", "features/c/0/0", "pts/c/0", "image/zarr.json"):
        lines = stopped(cli, "--cache", "fake.zarr")
        assert [line for line in lines if "No space left on device" in line], (suffix, lines)
        assert sum("No space" in line for line in lines) == 1
    monkeypatch.undo()
    assert not Path("failures.jsonl").exists()  # not the videos' fault


@pytest.mark.parametrize(
    ("option", "streams"), [("--videoprism-weights", "video"), ("--clip-weights", "image"), ("--clip-weights", "text")]
)
@pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
def test_weights_that_are_missing_or_corrupt(
    cli: Cli, clips: Path, option: str, streams: str, content: bytes | None
) -> None:
    name = "w.npz" if "prism" in option else "w.pt"
    if content is not None:
        Path(name).write_bytes(content)
    lines = stopped(cli, option, f"./{name}", streams=streams)
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert any(name in line for line in lines), lines


def test_an_encoder_that_raises_ends_the_run_with_its_words(
    cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extract.encoders.clip import ClipImageEncoder

    def broken(self: object, items: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(ClipImageEncoder, "encode", broken)
    result = cli("run", "clips", "--preset", "tiny", "--streams", "image")
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == "RuntimeError: CUDA error: device-side assert triggered"
    assert result.output.count("RuntimeError: ") == 1


def test_decoders_that_are_killed_as_they_start_stop_every_run_and_quarantine_nothing(
    cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = DecoderProcess.__init__

    def killed(self: DecoderProcess, turns: Turns, row: int, rows: int) -> None:
        usual(self, turns, row, rows)
        self.process.kill()

    with monkeypatch.context() as patch:
        patch.setattr(DecoderProcess, "__init__", killed)
        for _ in range(3):
            lines = stopped(cli)
            assert any("first 8 videos all failed for one cause" in line for line in lines), lines
            assert any("SIGKILL" in line for line in lines)
    noted = FailureLedger("caches/clips.zarr").failures()
    assert {(f.error, f.attempts) for f in noted.values()} == {("DecoderKilled", 0)}
    assert cli("run", "clips", "--preset", "tiny", "--streams", "image").exit_code == 0


def test_a_hard_limit_on_file_sizes_is_no_videos_fault(clips: Path) -> None:
    words = [sys.executable, "-m", "extract", "run", "clips", "--preset", "tiny", "--streams", "image"]
    env = os.environ | {"PYTHONPATH": str(REPO)}
    limited = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "bash", *words]
    done = subprocess.run(limited, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_encoder_that_gives_nan_for_all(cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from extract.encoders.clip import ClipImageEncoder

    encode = ClipImageEncoder.encode

    def broken(self: ClipImageEncoder, items):  # type: ignore[no-untyped-def]
        rows = encode(self, items)
        rows.features[:] = float("nan")
        return rows

    monkeypatch.setattr(ClipImageEncoder, "encode", broken)
    lines = stopped(cli)
    assert any("first 8 videos all failed for one cause" in line for line in lines)
    assert any("broken weights" in line for line in lines)
