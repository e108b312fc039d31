"""Kills training runs, and says whether what goes on afterwards ends as if nothing had happened.

``python -m tests.train.kills`` imports the train stage once and forks a process for every job on its standard input, so
that a kill costs what the run does and not the seconds of its imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

REPO = Path(__file__).resolve().parents[2]
HALF, BEFORE, AFTER = "half", "before", "after"  # of a file being written: in the middle, unnamed, just named


class Trainer:
    """A process that forks training commands.

    Args:
        log: what the commands print.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.train.kills"],
            cwd=REPO,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=60)

    def start(self, *words: object, die_at: tuple[str, int] | None = None, count: Path | None = None) -> int:
        """Fork ``python -m train words``; its process id.

        Args:
            die_at: where in the writing of which file (from 0) it kills itself.
            count: gets the number of files that were written.
        """
        job = {"words": [str(w) for w in words], "log": str(self.log), "die_at": die_at, "count": count and str(count)}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def end(self) -> int:
        """Wait for the command; its exit status, negative for a signal."""
        return self._answer()

    def run(self, *words: object, die_at: tuple[str, int] | None = None, count: Path | None = None) -> int:
        """Both."""
        self.start(*words, die_at=die_at, count=count)
        return self.end()

    def kill_after(self, seconds: float, number: int, *words: object) -> int:
        """Run a command and send it a signal; its exit status."""
        pid = self.start(*words)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it was done before
            os.kill(pid, number)
        return self.end()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def differences(run: Path, whole: Path) -> list[str]:
    """What of a run differs from one that was never interrupted: weights, histories, scores, predictions, litter."""

    def names(folder: Path) -> list[str]:
        """All files; tensorboard puts time and process into the names of its own."""
        found = (p for p in folder.rglob("*") if p.is_file())
        return sorted(str(p.relative_to(folder)).partition("events.out")[0] for p in found)

    told = []
    if names(run) != names(whole):
        told.append(f"files: {sorted(set(names(run)) ^ set(names(whole))) or 'some twice'}")
    for file in sorted(whole.rglob("*.safetensors")):
        other = run / file.relative_to(whole)
        if not other.exists() or other.read_bytes() != file.read_bytes():
            told.append(f"{file.relative_to(whole)}: other weights")
    for file in sorted(whole.rglob("fold*.json")):
        if _history(run / file.relative_to(whole)) != _history(file):
            told.append(f"{file.relative_to(whole)}: another history")
    if (run / "metrics.json").read_bytes() != (whole / "metrics.json").read_bytes():
        told.append("metrics.json")
    if not pd.read_parquet(run / "predictions.parquet").equals(pd.read_parquet(whole / "predictions.parquet")):
        told.append("predictions.parquet")
    return told


def _history(file: Path) -> Any:
    """A fold's history without the seconds that its epochs took; None if it is not there."""
    if not file.exists():
        return None
    kept = json.loads(file.read_text())
    return kept | {"history": [{k: v for k, v in row.items() if k != "seconds"} for row in kept["history"]]}


# ------------------------------------------------------------------ the process that forks


def _serve() -> None:
    import torch

    import train.commands.runs
    import train.show.report  # noqa: F401
    from train.__main__ import app

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _command(app, job)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _command(app: Any, job: dict[str, Any]) -> None:
    """In the child: run one command and leave."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    written = _trap(job["die_at"] or (None, -1))
    status = 70
    try:
        app(job["words"])
    except SystemExit as done:
        status = int(done.code or 0)
    finally:
        if job["count"]:
            Path(job["count"]).write_text(str(written[0]))
        sys.stdout.flush()
        os._exit(status)


def _trap(die_at: tuple[str | None, int]) -> list[int]:
    """Make the process kill itself while it writes its n-th file; counts the files."""
    from shared.process.whole_file import PART
    from train.runs import files

    real, written, (place, number) = files.write_bytes, [0], die_at

    def write(file: Path, data: bytes) -> None:
        mine = written[0] == number
        written[0] += 1
        if mine and place in (HALF, BEFORE):
            file.with_name(file.name + PART).write_bytes(data[: len(data) // 2] if place == HALF else data)
            os.kill(os.getpid(), signal.SIGKILL)
        real(file, data)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in [m for name, m in sys.modules.items() if name.startswith("train.")]:
        if getattr(module, "write_bytes", None) is real:
            module.write_bytes = write  # type: ignore[attr-defined]
    return written


if __name__ == "__main__":
    _serve()
