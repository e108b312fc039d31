"""Weights that are part of this package: the miniature's, kept as one compressed archive and unpacked on first use."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

ARCHIVE = "miniature.zip"


def weights_home() -> Path:
    """Where downloads, toys and unpacked weights are kept: ``$XDG_CACHE_HOME/crossgru``, else ``~/.cache/crossgru``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossgru"


@lru_cache(maxsize=1)
def packaged_folder() -> Path:
    """Folder with the miniature's files in the official formats; a process that is killed leaves no half of it.

    Raises:
        FileNotFoundError: the package was installed without its data.
    """
    with as_file(files("extract.miniature") / "weights" / ARCHIVE) as archive:
        if not archive.is_file():
            raise FileNotFoundError(
                f"the miniature's weights are not at {archive}: install the package again, "
                "or make them (make miniature)"
            )
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        folder = weights_home() / f"miniature-{digest[:16]}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, zipfile.ZipFile(archive) as packed:
                packed.extractall(Path(scratch) / "new")
                try:
                    os.replace(Path(scratch) / "new", folder)
                except OSError:
                    if not folder.is_dir():  # another process was first
                        raise
    return folder
