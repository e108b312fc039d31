"""An installed wheel has every file of the packages, and knows the data sets by name wherever it is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.extract.support import write_video

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("extract", "train", "shared", "data_manifests")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that ``pip install .`` makes, unpacked as it would be installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in PACKAGES:
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(target)], cwd=source, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def said(installed: Path, folder: Path, *words: str) -> tuple[int, str]:
    """Status and output of the installed ``python -m extract`` in a folder, its lines joined."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    command = [sys.executable, "-m", "extract", *words]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def test_the_wheel_has_every_file(installed: Path) -> None:
    """Also those that are no Python: weights, templates, manifests."""
    files = {file.relative_to(REPO) for name in PACKAGES for file in (REPO / name).rglob("*") if file.is_file()}
    lost = [str(file) for file in sorted(files) if "__pycache__" not in file.parts and not (installed / file).exists()]
    assert lost == []


def test_data_sets_by_name_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    words = ("plan", "dvd", "--preset", "tiny", "--no-calibrate", "--streams", "video")
    status, output = said(installed, tmp_path, "plan", "dvdd")
    assert (status, "did you mean 'dvd'" in output) == (2, True), output
    status, output = said(installed, tmp_path, *words)
    assert (status, "there is no folder data/dvd" in output, "Frame_Number,Label" in output) == (2, True, True), output
    videos = tmp_path / "data/dvd/Training/videos"
    videos.mkdir(parents=True)
    write_video(videos / "0001.mp4", 70)
    status, output = said(installed, tmp_path, *words)
    assert (status, "70" in output) == (0, True), output
