"""Writers and folders of one index, killed at random moments: it never says what the groups do not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.cache import FeatureCache
from shared.cache import survey as cache_survey
from shared.cache.facts import read_facts
from shared.cache.nodes import child_names
from shared.windows import WindowSpec
from tests.soak.conftest import Soak

pytestmark = pytest.mark.soak

REPO = Path(__file__).resolve().parents[2]
ROUNDS = 25
WRITER = """
import sys
import numpy as np
from shared.cache import FeatureCache, VideoInfo
from shared.windows import WindowSpec

url, stream, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = np.random.default_rng(seed)
cache = FeatureCache.create(url, dataset="data", window=WindowSpec(8, 4, {"image": 2, "text": 2}))
print("ready", flush=True)
while True:
    video = f"v{rng.integers(12)}"
    act = rng.integers(5)
    if act == 0:
        cache.drop(video, [stream])
    elif act == 1:
        cache.abandon(video, [stream])
    else:
        writer = cache.writer(video, stream, kind="timeline", recipe={"seed": int(rng.integers(3))})
        writer.append(np.ones((2, 3)), np.array([1, 2]))
        source = {"path": video, "bytes": 5, "mtime_ns": 7, "sha256": "ab" * 32}
        cache.write_info(video, VideoInfo(source, 25.0, 8, 4, 4, 0, "none", np.arange(8.0)))
        writer.finish()
"""
FOLDER = """
import sys
from shared.cache import FeatureCache

print("ready", flush=True)
while True:
    FeatureCache.open(sys.argv[1]).write_index()
"""


def test_an_index_of_killed_writers(tmp_path: Path, soak: Soak, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_survey, "READ_ALL_LOCAL", 0)
    rng, url = soak.rng(), str(tmp_path / "c.zarr")
    FeatureCache.create(url, dataset="data", window=WindowSpec(8, 4, {"image": 2, "text": 2}))
    spared = looked = 0
    for _ in range(rounds := soak.cases(ROUNDS)):
        seeds = [str(int(rng.integers(2**31))) for _ in range(2)]
        commands = [[WRITER, url, stream, seed] for stream, seed in zip(("image", "text"), seeds, strict=True)]
        children = [start(*command) for command in (*commands, [FOLDER, url])]
        time.sleep(float(rng.uniform(0, 1)))
        for child in children:
            child.kill()
            child.communicate()
        cache = FeatureCache.open(url)
        truth = read_facts(cache._store, child_names(cache._store, "videos"))
        found = cache.index.read()
        facts = cache.facts()
        assert facts.videos == truth.videos
        assert facts.damaged == truth.damaged == {}
        spared += len(found.facts.videos)
        looked += len(truth.videos.keys() - found.facts.videos.keys())
    soak.note(f"index: {3 * rounds} kills; {spared} videos were right in it, {looked} had to be looked at")
    assert spared > 0


def start(script: str, *words: str) -> subprocess.Popen[str]:
    """A process that has begun its work."""
    command = [sys.executable, "-c", script, *words]
    child = subprocess.Popen(command, cwd=REPO, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child
