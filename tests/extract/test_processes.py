"""One process per stream, both at once on one cache: the cache of a single run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from extract.demo.render import render_demo
from extract.faults.ledger import FailureLedger
from shared.cache import FeatureCache, VideoInfo
from tests.extract.support import REPO, SPEC, cache_contents, write_video

STREAMS = ("video", "image,text")


def run_both(folder: Path, url: Path) -> list[tuple[int, str]]:
    """Two runs, started together; exit status and output of each."""
    words = [sys.executable, "-m", "extract", "run", str(folder), "--preset", "tiny", "--cache", str(url)]
    runs = [
        subprocess.Popen(
            [*words, "--streams", streams], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for streams in STREAMS
    ]
    outputs = [run.communicate()[0] for run in runs]
    return [(run.returncode, output) for run, output in zip(runs, outputs, strict=True)]


def test_two_processes_make_the_cache_of_one(tmp_path: Path, cli: Callable[..., Result]) -> None:
    render_demo(tmp_path / "demo", num_scenes=2, videos_per_scene=2, frames=(70, 140), workers=1)
    folder = tmp_path / "demo" / "videos"
    truncated = write_video(folder / "truncated.mp4", 200)  # both processes give it up, halfway
    truncated.write_bytes(truncated.read_bytes()[: int(0.7 * truncated.stat().st_size)])
    single, double = tmp_path / "single.zarr", tmp_path / "two" / "double.zarr"
    assert cli("run", folder, "--preset", "tiny", "--cache", single).exit_code == 1
    for status, output in run_both(folder, double):
        assert status == 1, output
        assert "Traceback" not in output
    assert cache_contents(double) == cache_contents(single)
    assert FailureLedger(str(double)).failures().keys() == {"truncated.mp4"}
    assert cli("verify", double).exit_code == 0
    assert len(FeatureCache.open(double).video_ids()) == 4


# ------------------------------------------------------------------ at the worst moment

RECIPE = {"encoder": "none"}


@pytest.fixture
def caches(tmp_path: Path) -> tuple[FeatureCache, FeatureCache]:
    """The same cache, opened by two writers."""
    first, second = (FeatureCache.create(tmp_path / "c.zarr", dataset="data", window=SPEC) for _ in range(2))
    return first, second


def info() -> VideoInfo:
    return VideoInfo({"path": "a", "bytes": 1, "sha256": "0" * 64}, 30.0, 20, 2, 1, 0, "fake", np.arange(20) / 30)


def begin(cache: FeatureCache, stream: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stream with chunks on disk already, as long videos have before they end."""
    monkeypatch.setattr("shared.cache.arrays.CHUNK_BYTES", 8)
    writer = cache.writer("a", stream, kind="timeline", recipe=RECIPE)
    writer.append(np.arange(24.0).reshape(12, 2), np.arange(12))
    return writer


def test_one_gives_a_video_up_while_the_other_writes(
    caches: tuple[FeatureCache, FeatureCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = caches
    begin(first, "image", monkeypatch)
    text = begin(second, "text", monkeypatch)
    first.abandon("a", ["image"])
    second.write_info("a", info())
    text.finish()
    assert second.read("a", "text").features.tolist() == np.arange(24.0).reshape(12, 2).tolist()
    assert second.verify("a") == []
    assert list(second.streams("a")) == ["text"]


def test_one_removes_the_group_in_the_moment_when_the_other_begins(
    caches: tuple[FeatureCache, FeatureCache], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = caches
    text = begin(second, "text", monkeypatch)
    (tmp_path / "c.zarr" / "videos" / "a" / "zarr.json").unlink()
    second.write_info("a", info())
    text.finish()
    assert second.verify("a") == []
    assert len(first.read("a", "text").features) == 12


def test_both_begin_a_video_in_the_same_moment(
    caches: tuple[FeatureCache, FeatureCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one has seen that there is no group; then the first one makes it, writes all and finishes."""
    first, second = caches
    nodes, done = second._nodes, []  # type: Any, list[bool]

    def late(video: str, *streams: str) -> Any:
        found = nodes(video, *streams)
        if not done:
            done.append(True)
            image = begin(first, "image", monkeypatch)
            first.write_info("a", info())
            image.finish()
        return found

    monkeypatch.setattr(second, "_nodes", late)
    text = begin(second, "text", monkeypatch)
    second.write_info("a", info())
    text.finish()
    assert sorted(second.streams("a")) == ["image", "text"]
    assert second.verify("a") == []


def test_the_last_one_to_give_a_video_up_removes_it(
    caches: tuple[FeatureCache, FeatureCache], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = caches
    begin(first, "image", monkeypatch)
    begin(second, "text", monkeypatch)
    first.abandon("a", ["image"])
    assert (tmp_path / "c.zarr" / "videos" / "a").is_dir()
    second.abandon("a", ["text"])
    assert not (tmp_path / "c.zarr" / "videos" / "a").exists()


# ------------------------------------------------------------------ one GPU


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, False), ("true", True)])
def test_jax_takes_no_memory_ahead_even_if_it_was_imported_before(set_by_user: str | None, expected: bool) -> None:
    """As jaxlib reads the setting when it makes a GPU client, which is when a device is first used."""
    script = (
        "import jax, jaxlib.xla_client as client\n"
        "from extract.encoders.devices import share_gpu\n"
        "share_gpu()\n"
        "print(client.generate_pjrt_gpu_plugin_options()['preallocate'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "XLA_PYTHON_CLIENT_PREALLOCATE"}
    environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": set_by_user} if set_by_user else {}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip() == str(expected), done.stderr
