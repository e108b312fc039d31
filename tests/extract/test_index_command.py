"""The index of a large cache in use: ``extract index``, ``extract status``, and what a run finds still to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract.commands.index import index
from extract.commands.status import status
from extract.faults.ledger import FailureLedger
from extract.jobs.planning import plan_jobs
from extract.video import read_source
from shared.cache import FeatureCache, VideoInfo
from shared.cache import survey as cache_survey
from shared.manifest import Manifest, load_manifest
from shared.windows import WindowSpec

SPEC = WindowSpec(8, 4, {"image": 2})
RECIPE = {"encoder": "image"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two videos and a cache with the first of them, large enough for its index."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache_survey, "READ_ALL_LOCAL", 0)
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 100)
    (tmp_path / "clips.csv").write_text("path\na.mp4\nb.mp4\n")
    write(FeatureCache.create("c.zarr", dataset="clips", window=SPEC), "a.mp4")
    return tmp_path


def write(cache: FeatureCache, video: str) -> None:
    writer = cache.writer(video, "image", kind="timeline", recipe=RECIPE)
    writer.append(np.ones((2, 3)), np.array([1, 2]))
    source = {"path": video, **read_source(Path(video))}
    cache.write_info(video, VideoInfo(source, 25.0, 8, 4, 4, 0, "none", np.arange(8.0)))
    writer.finish()


def to_do(data: Path, recipe: dict[str, str] = RECIPE) -> list[str]:
    cache = FeatureCache.create("c.zarr", dataset="clips", window=SPEC)
    manifest: Manifest = load_manifest(data / "clips.csv")
    return [job.video for job in plan_jobs(manifest, cache, {"image": recipe}, FailureLedger("c.zarr"))[0]]


def test_a_run_does_what_the_index_does_not_say_for_certain(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = FeatureCache.has

    def has(self: FeatureCache, video: str, *rest: object) -> bool:
        looked.append(video)
        return real(self, video, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(FeatureCache, "has", has)
    assert to_do(data) == looked == ["b.mp4"]
    (data / "a.mp4").write_bytes(b"another file")
    with pytest.raises(ValueError, match="not the files"):
        to_do(data)


def test_a_stream_that_the_index_missed_is_not_made_again(data: Path) -> None:
    write(FeatureCache.create("c.zarr", dataset="clips", window=SPEC), "b.mp4")
    for part in (data / "c.zarr.index").iterdir():
        part.unlink()
    assert to_do(data) == []


def test_status_and_index(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert status("clips.csv", cache="c.zarr", root=None) == 1
    assert "1/2 videos complete, 8 frames, 1 windows" in capfd.readouterr().out
    assert index("clips.csv", cache="c.zarr", rebuild=False) == 0
    assert capfd.readouterr().out.startswith("c.zarr.index: 1 videos, 1 complete streams, 0.0 MB")
    assert [file.name.partition("-")[0] for file in (data / "c.zarr.index").iterdir()] == ["base"]


def test_rebuilding_sees_what_others_did(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (data / "c.zarr/videos/a.mp4/image/zarr.json").unlink()
    assert index("clips.csv", cache="c.zarr", rebuild=False) == 0
    assert "1 complete streams" in capfd.readouterr().out
    assert to_do(data) == ["b.mp4"], "as long as nobody looks"
    assert index("clips.csv", cache="c.zarr", rebuild=True) == 0
    assert "0 complete streams" in capfd.readouterr().out
    assert to_do(data) == ["a.mp4", "b.mp4"]
    (data / "c.zarr/videos/a.mp4/zarr.json").write_text("{")
    assert index("clips.csv", cache="c.zarr", rebuild=True) == 1
    assert "a.mp4: damaged metadata" in capfd.readouterr().out
