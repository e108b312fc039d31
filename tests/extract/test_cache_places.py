"""Caches at a URL or by their own name on the command line: ``file://``, ``status CACHE.zarr``, a store that fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from extract.faults.ledger import Failure, FailureLedger
from extract.faults.systemic import CacheWriteError
from shared.cache import FeatureCache
from shared.cache.arrays import StreamWriter
from shared.places import RemoteError
from tests.extract.support import FakeVideo, cache_contents, fake_encoders, install_fake_videos, run_fake, write_video

Cli = Callable[..., Result]
RUN = ("--preset", "tiny", "--streams", "image,text")


@pytest.fixture
def clips(cli: Cli) -> Path:
    folder = Path("clips").absolute()
    folder.mkdir()
    for number in range(2):
        write_video(folder / f"{number}.mp4", 20, seed=number)
    return folder


def test_a_cache_at_a_file_url_is_that_of_the_path(cli: Cli, clips: Path) -> None:
    url, path = f"file://{clips.parent}/new/f.zarr", Path("new/f.zarr")
    (clips / "2.mp4").write_text("no video")
    first = cli("run", "clips", *RUN, "--cache", url)
    assert first.exit_code == 1, first.output
    assert FailureLedger(str(path)).failures().keys() == {"2.mp4"}
    whole = {name: what for name, what in cache_contents(path).items() if "1.mp4" in name}
    shutil.rmtree(path / "videos" / "1.mp4" / "text")
    (clips / "2.mp4").unlink()
    again = cli("run", "clips", *RUN, "--cache", url)
    assert again.exit_code == 0, again.output
    assert "1 already complete, 1 to do" in again.output
    assert {name: what for name, what in cache_contents(path).items() if "1.mp4" in name} == whole
    verified = cli("verify", "clips", "--cache", url)
    assert "2 videos, 4 complete streams, every checksum holds" in verified.output
    assert sorted(p.name for p in path.parent.iterdir()) == ["f.zarr", "f.zarr.index", "failures.jsonl"]


def test_status_of_a_cache_counts_what_it_has(cli: Cli, clips: Path) -> None:
    # Ids that are not those of the paths, as every table with a column id has.
    Path("t.csv").write_text("path,id\nclips/0.mp4,one\nclips/1.mp4,two\n")
    assert cli("run", "t.csv", "--preset", "tiny", "--streams", "image", "--cache", "c.zarr").exit_code == 0
    for place in ("c.zarr", f"file://{clips.parent}/c.zarr/"):
        found = cli("status", place)
        assert "0/2 videos complete, 40 frames, 2 windows" in found.output
        assert "image   2/2" in found.output
        assert "not extracted yet" not in found.output
        assert "give the data set to count those that it lacks" in found.output
    FailureLedger("c.zarr").record(Failure("three", "clips/3.mp4", "decode", "VideoError", "broken"))
    (Path("c.zarr") / "videos" / "four" / "image").mkdir(parents=True)
    found = cli("status", "c.zarr")
    assert found.exit_code == 1
    assert "0/4 videos complete" in found.output
    assert "quarantined  clips/3.mp4: decode: broken" in found.output
    assert "not extracted yet: 1 (four)" in found.output


def test_verify_finds_the_videos_where_they_are(cli: Cli, clips: Path) -> None:
    Path("t.csv").write_text("path\n0.mp4\n1.mp4\n")
    assert cli("run", "t.csv", *RUN, "--root", "clips", "--cache", "c.zarr").exit_code == 0
    write_video(clips / "2.mp4", 20)
    Path("t.csv").write_text("path\n0.mp4\n1.mp4\n2.mp4\n")
    assert "the data set is not at hand" in cli("verify", "t.csv", "--cache", "c.zarr").output
    (Path("c.zarr") / "videos" / "0.mp4" / "image" / "zarr.json").unlink()
    found = cli("verify", "t.csv", "--cache", "c.zarr", "--root", "clips")
    assert found.exit_code == 1
    assert "not extracted yet, or lost whole: 1 of 3 videos of the data set\n  2.mp4\n" in found.output
    assert "run t.csv --cache c.zarr --root clips --like c.zarr" in found.output


def test_a_store_that_fails_in_the_clean_up_too_does_not_hide_why_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [FakeVideo(0, 40)]
    install_fake_videos(monkeypatch, videos)

    def refuse(*args: Any) -> None:
        raise RemoteError("s3://bucket/c.zarr: Forbidden")

    def fail(*args: Any) -> None:
        raise RuntimeError("of a store's library")

    monkeypatch.setattr(StreamWriter, "append", refuse)
    monkeypatch.setattr(FeatureCache, "abandon", fail)
    with pytest.raises(CacheWriteError, match=r"cannot be written: s3://bucket/c\.zarr: Forbidden"):
        run_fake(videos, tmp_path / "c.zarr", fake_encoders())


def test_a_store_that_cannot_be_reached_is_one_line_and_status_two(
    cli: Cli, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (
        ("run", "clips", *RUN),
        ("status", "clips"),
        ("verify", "clips"),
        ("export", "clips", "--output", "x.h5"),
    ):
        for url, told in (
            ("foo://x/c.zarr", "error: foo://x/c.zarr: Protocol not known: foo; expected a path"),
            ("s3://bucket", "error: s3://bucket is a bucket; give a place in it"),
            ("s3://AKIAX:abc/s3cr3t@bucket/c.zarr", "error: the URL of the cache (s3://...) has credentials in it"),
        ):
            result = cli(*words, "--cache", url)
            assert result.exit_code == 2
            assert told in result.output
            assert "s3cr3t" not in result.output
            assert "Traceback" not in result.output
