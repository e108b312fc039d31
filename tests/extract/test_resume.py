"""A run that is killed, again and again, ends in the cache of a run that was not. ``make soak`` kills many more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from typer.testing import Result

from extract.sharing.claims import claim_name
from tests.extract.kills import Killing, write_clips


def test_kills_at_random_moments(tmp_path: Path, cli: Callable[..., Result]) -> None:
    killing = Killing(write_clips(tmp_path / "clips"), tmp_path / "scratch")
    options = ("--preset", "tiny", "--cache")
    assert cli("run", killing.folder, *options, killing.whole).exit_code == 0
    rng, url = np.random.default_rng(0), killing.scratch / "in" / "killed.zarr"
    for number, way in enumerate(("SIGKILL", "SIGTERM", "decoder")):
        moment = (number + rng.uniform(0.2, 0.9)) / 3 * 0.8 * killing.num_files
        killing.kill(url, way, rng, files=int(moment))
    assert sum(count for (_, status), count in killing.counts.items() if status) >= 2  # one may have come too late
    # A video whose decoder was killed is in the ledger; it is tried once more without being asked for.
    assert cli("run", killing.folder, *options, url).exit_code == 0
    left = Path(f"{url}.claims")  # by a run that was killed after its last video was complete
    left.mkdir(exist_ok=True)
    (left / claim_name("0.mp4", "image")).touch()
    assert cli("run", killing.folder, *options, url).exit_code == 0
    killing.check(url)
    assert cli("verify", url).exit_code == 0
