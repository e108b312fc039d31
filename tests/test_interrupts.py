"""SIGINT and SIGTERM: what every command ends with, wherever in it they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import extract.__main__
import train.__main__
from shared.process import interrupts
from shared.process.interrupts import GO_ON, Interrupts, until_interrupted

REPO = Path(__file__).resolve().parents[1]
SIGNALS = [signal.SIGINT, signal.SIGTERM]
LINE = f"interrupted. {GO_ON}\n"
COMMANDS = {
    "extract": [
        "run clips.csv --preset tiny",
        "plan clips.csv --preset tiny --no-calibrate",
        "status c.zarr",
        "verify c.zarr",
        "index c.zarr",
        "captions c.zarr",
        "recaption c.zarr --from clips.csv",
        "export c.zarr --format h5 --output out.h5",
        "import clips.csv --stream mine --cache c.zarr",
        "demo --root demo",
    ],
    "train": [
        "cv clips.csv --task va",
        "ablate clips.csv --task va",
        "audit clips.csv --task va",
        "predict c.zarr",
        "evaluate clips.csv",
        "submit c.zarr",
        "oracle clips.csv --task va",
        "report",
    ],
}
AT_WORK = {  # what all of them come by, sooner or later
    "extract": (
        "shared.cache.FeatureCache.open",
        "shared.cache.opening.open_root",
        "extract.demo.render.render_demo",
        "extract.commands.plan.load",
    ),
    "train": ("shared.cache.FeatureCache.open", "train.commands.parts.latest_run", "train.commands.runs.find_run"),
}


@pytest.fixture
def _both_heard() -> object:
    """A shell starts background jobs with SIGINT ignored; the tests may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_both_heard")
@pytest.mark.parametrize("words", [f"{stage} {words}" for stage, some in COMMANDS.items() for words in some])
@pytest.mark.parametrize("number", SIGNALS)
def test_every_command(words: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, *rest = words.split()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips.csv").write_text("path\na.mp4\n")
    (tmp_path / "a.mp4").touch()
    for name in AT_WORK[stage]:
        monkeypatch.setattr(name, lambda *args, **kwargs: os.kill(os.getpid(), number))
    before = [signal.getsignal(one) for one in SIGNALS], sys.unraisablehook, sys.excepthook
    result = CliRunner().invoke({"extract": extract.__main__.app, "train": train.__main__.app}[stage], rest)
    assert (result.exit_code, result.stderr[-len(LINE) :]) == (130, LINE), result.output
    assert result.stderr.count("interrupted") == 1
    assert ([signal.getsignal(one) for one in SIGNALS], sys.unraisablehook, sys.excepthook) == before


def program(body: str, number: int) -> subprocess.CompletedProcess[str]:
    """Run a program that listens; ``hit()`` sends it the signal."""
    head = (
        "import atexit, os, signal, sys, threading, time, typer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from shared.process.interrupts import listen, until_interrupted\n"
        f"def hit(): os.kill(os.getpid(), {int(number)})\n"
        "listen()\n"
    )
    return subprocess.run([sys.executable, "-c", head + body], cwd=REPO, capture_output=True, text=True, check=False)


PLACES = {
    "while modules are imported": "hit()\ntime.sleep(30)",
    "made another error": "try: hit()\nexcept BaseException: raise ImportError('of a module in C') from None",
    "made another error by a command": (
        "def command():\n try: hit()\n except KeyboardInterrupt: raise ValueError('x') from None\n"
        "sys.exit(until_interrupted(command))"
    ),
    "swallowed": "def command():\n try: hit()\n except BaseException: return 0\nsys.exit(until_interrupted(command))",
    "ignored in a finaliser": (
        "class Finaliser:\n def __del__(self): hit()\n"
        "def command():\n Finaliser()\n threading.Lock().__enter__()\n time.sleep(30)\n return 0\n"
        "sys.exit(until_interrupted(command))"
    ),
    "in a finally block": "try: 1 / 0\nfinally: hit()",
    "in typer": "app = typer.Typer()\n@app.command()\ndef command(): hit()\nsys.argv = ['x']\napp()",
    "after the command": "status = until_interrupted(lambda: 0)\nhit()\nsys.exit(status)",
    "in an exit function": "atexit.register(hit)\nsys.exit(until_interrupted(lambda: 0))",
    "in an exit function of a script": "atexit.register(hit)",
    "twice at once": (
        "def command():\n try: hit()\n finally: hit(); print('cleaned up')\n return 0\n"
        "sys.exit(until_interrupted(command))"
    ),
    "once more, late, in a clean-up that hangs": (
        "def command():\n try: hit()\n finally: time.sleep(1.1); hit(); time.sleep(30)\nuntil_interrupted(command)"
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_it_comes(place: str) -> None:
    number = SIGNALS[list(PLACES).index(place) % 2]
    done = program(PLACES[place], number)
    assert (done.returncode, done.stderr) == (130, LINE)
    assert done.stdout == ("cleaned up\n" if place == "twice at once" else "")


def test_processes_of_a_command_end_with_it() -> None:
    """An executor would wait for what they do."""
    done = program(
        "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "def command():\n"
        " with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:\n"
        "  future = pool.submit(time.sleep, 30)\n  print(*(p.pid for p in multiprocessing.active_children()))\n"
        "  hit()\n"
        "sys.exit(until_interrupted(command))",
        signal.SIGTERM,
    )
    assert (done.returncode, done.stderr) == (130, LINE)
    assert not Path("/proc", done.stdout.strip()).exists()


def test_without_a_signal_nothing_changes() -> None:
    done = program("print(until_interrupted(lambda: 1))\nraise ValueError('a bug')", signal.SIGTERM)
    assert (done.returncode, done.stdout) == (1, "1\n")
    assert "Traceback" in done.stderr
    assert "ValueError: a bug" in done.stderr
    with pytest.raises(ValueError, match="a bug"):
        until_interrupted(lambda: (_ for _ in ()).throw(ValueError("a bug")))


def test_other_threads_only_run_the_command() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(until_interrupted(lambda: 3)))
    thread.start()
    thread.join()
    assert found == [3]
    assert interrupts._current is None


def test_what_is_the_same_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    heard = Interrupts(whole_process=True, clock=lambda: now[0])
    monkeypatch.setattr(heard, "leave", lambda: (_ for _ in ()).throw(SystemExit(130)))
    with pytest.raises(KeyboardInterrupt):
        heard._hear(signal.SIGTERM, None)
    now[0] = 0.9
    heard._hear(signal.SIGINT, None)
    now[0] = 1.1
    with pytest.raises(SystemExit):
        heard._hear(signal.SIGINT, None)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert until_interrupted(lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(0.01) or 0) == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
