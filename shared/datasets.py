"""What a DATASET argument means: a name, a manifest, a table, a folder or one video; and where its features are."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

from shared.manifest import ManifestError, name_from
from shared.manifest_files import VIDEO_SUFFIXES, is_frame_folder
from shared.names import unknown_name


def find_dataset(name: str) -> Path:
    """The file or folder behind a DATASET argument: a path, or the name of a manifest in ``data_manifests/``.

    Raises:
        FileNotFoundError: neither; the message offers the closest name.
    """
    if os.path.exists(name):
        return Path(name)
    folders = [Path("data_manifests"), Path(__file__).resolve().parent.parent / "data_manifests"]
    known = {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.toml"))}
    if name in known:
        return known[name]
    if "/" in name or Path(name).suffix.lower() in (".csv", ".toml", *VIDEO_SUFFIXES):
        raise FileNotFoundError(f"no such file or folder: {name}")
    raise FileNotFoundError(
        f"{unknown_name('data set', name, known)}\nGive one of these names, a manifest (.toml), a table of videos "
        "(.csv), a folder of videos or one video file."
    )


def dataset_name(dataset: str) -> str:
    """The name of the data set behind a DATASET argument, without looking at its videos.

    Raises:
        FileNotFoundError: no such data set.
        ManifestError: a manifest whose name cannot be read.
    """
    source = find_dataset(dataset)
    if source.is_dir() or source.suffix.lower() != ".toml":
        return name_from(source.resolve().name if source.is_dir() else source.stem)
    try:
        return str(tomllib.loads(source.read_text(encoding="utf-8-sig")).get("name", name_from(source.stem)))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(str(source), [f"not a TOML file: {error}"]) from None


def cache_of(dataset: str, cache: str | None = None) -> str:
    """Where the features of a DATASET argument are.

    ``cache`` if given, a cache path or URL as it is, else ``caches/<name>.zarr``. A single video has only its file
    name, which others have, too: a digest of its place is added.

    Raises:
        FileNotFoundError: no such data set.
        ManifestError: a manifest whose name cannot be read.
    """
    if cache is not None:
        return cache
    if "://" in dataset or dataset.rstrip("/").endswith(".zarr"):
        return dataset
    source, name = find_dataset(dataset), dataset_name(dataset)
    if source.suffix.lower() in VIDEO_SUFFIXES or is_frame_folder(source):
        name += "-" + hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:8]
    return f"caches/{name}.zarr"
