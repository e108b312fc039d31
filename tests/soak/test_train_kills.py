"""Training killed again and again, at random places and times, in both ways, with baselines."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.train.conftest import make_clips, write_cache, write_labels
from tests.train.kills import AFTER, BEFORE, HALF, Trainer, differences

pytestmark = pytest.mark.soak

KILLS = 30  # in each way
OPTIONS = ("--hidden", "8", "--epochs", "5", "--learning-rate", "0.02", "--batch-size", "16", "--preset", "augmented")


@pytest.mark.parametrize("way", ["together", "one-by-one"])
def test_killed_until_done(way: str, soak, tmp_path: Path) -> None:
    clips = make_clips()
    url = tmp_path / "made.zarr"
    write_cache(url, clips)
    manifest = write_labels(tmp_path / "data", clips)
    words = ["cv", manifest, "--task", "va", "--cache", url, *OPTIONS, "--folds-at-once", way]
    rng, kills, done, wanted = soak.rng(1 if way == "together" else 2), [], 0, soak.cases(KILLS)
    with Trainer(tmp_path / "log") as trainer:
        started = time.perf_counter()
        assert trainer.run(*words, "--runs", tmp_path / "whole") == 0, trainer.log.read_text()
        took = time.perf_counter() - started
        (whole,) = (tmp_path / "whole").iterdir()
        while len(kills) < wanted:
            folder = tmp_path / f"runs{done}"
            runs = list(folder.iterdir()) if folder.exists() else []
            resumable = bool(runs) and (runs[0] / "config.json").exists()
            target = ["--resume", runs[0]] if resumable else ["--runs", folder]
            if runs and not resumable:  # killed before the run had a config: a folder without one is no run
                runs[0].rename(tmp_path / f"empty{len(kills)}")
            if kind := rng.integers(3):
                place = str(rng.choice([HALF, BEFORE, AFTER]))
                status = trainer.run(*words, *target, die_at=(place, int(rng.integers(1 if kind == 1 else 12))))
            else:
                number = int(rng.choice([signal.SIGKILL, signal.SIGTERM]))
                status = trainer.kill_after(float(rng.uniform(0, took)), number, *words, *target)
            assert status in (0, 130, -signal.SIGKILL, -signal.SIGTERM), trainer.log.read_text()[-3000:]
            if status:
                kills.append(status)
                continue
            (run,) = folder.iterdir()
            assert differences(run, whole) == [], f"seed {soak.seed}"
            done += 1
        folder = tmp_path / f"runs{done}"
        runs = [r for r in folder.iterdir() if (r / "config.json").exists()] if folder.exists() else []
        if runs:
            assert trainer.run(*words, "--resume", runs[0]) == 0, trainer.log.read_text()[-3000:]
            assert differences(runs[0], whole) == [], f"seed {soak.seed}"
            done += 1
    assert done
    soak.note(f"train cv, folds {way}: {len(kills)} kills survived, {done} runs ended as the uninterrupted one")
