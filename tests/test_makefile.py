"""make passes names and paths on word for word: neither make nor the shell runs what is in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
HOSTILE = (
    "x; touch pwned",
    "$(shell touch pwned)",
    "$(touch pwned)",
    "`touch pwned`",
    '"; touch pwned; "',
    "'; touch pwned; '",
    "${HOME} $HOME $$ %s",
    "two words/a\nline & > pwned",
    "--help",
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def called(folder: Path, *words: str, environment: dict[str, str] | None = None) -> list[list[str]]:
    """What `make words` calls Python with, in a folder where Python is a script that notes its arguments."""
    shutil.copy(REPO / "Makefile", folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(
        '#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word" >> calls; done\nprintf "\\n\\0" >> calls\n'
    )
    python.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.ready"):  # the last one newer: nothing is installed
        (folder / name).touch()
    (folder / "calls").unlink(missing_ok=True)
    of_make = {"MFLAGS", "DATASET", "TASK", "ROOT", "CACHE", "VIDEO", "RUN", "OUT", "PRESET", "ARGS"}
    own = {k: v for k, v in os.environ.items() if k not in of_make and not k.startswith("MAKE")} | (environment or {})
    done = subprocess.run(["make", *words], cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (folder / "pwned").exists()
    calls, current = [], []
    for word in (folder / "calls").read_text().split("\0")[:-1]:
        if word == "\n":
            calls.append(current)
            current = []
        else:
            current.append(word)
    return calls


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_arrives_word_for_word(tmp_path: Path, value: str) -> None:
    ((*words, last),) = called(tmp_path, "extract", f"DATASET={value}", f"ROOT={value}", f"CACHE={value}")
    assert words == ["-m", "extract", "run", "--preset", "base", "--root", value, "--cache", value, "--"]
    assert last == value
    first, second = called(tmp_path, "predict", f"VIDEO={value}", f"DATASET={value}", f"TASK={value}")
    assert first == ["-m", "extract", "run", "--like", value, "--", value]
    assert second == ["-m", "train", "predict", "--trained-on", value, "--task", value, "--", value]
    assert called(tmp_path, "report", f"RUN={value}") == [["-m", "train", "report", "--run", value]]


def test_values_from_the_environment_and_defaults(tmp_path: Path) -> None:
    for value in HOSTILE:
        (words,) = called(tmp_path, "status", environment={"DATASET": value, "CACHE": value})
        assert words == ["-m", "extract", "status", "--cache", value, "--", value]
        (words,) = called(tmp_path, "plan", environment={"PRESET": value})
        assert words == ["-m", "extract", "plan", "--preset", value, "--", "demo"]
    assert called(tmp_path, "extract") == [["-m", "extract", "run", "--preset", "mini", "--", "demo"]]
    assert called(tmp_path, "train", "TASK=va", "ARGS=--epochs 3 --output 'a b'") == [
        ["-m", "train", "cv", "--task", "va", "--epochs", "3", "--output", "a b", "--", "demo"]
    ]
    assert called(tmp_path, "extract", "PRESET=large")[0][4] == "large"
    assert called(tmp_path, "report") == [["-m", "train", "report"]]
