"""What a DATASET argument means: a name, a manifest, a table, a folder or one video; and where its features are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

from shared.manifest import ManifestError, dataset_name_problem, name_from, read_toml
from shared.manifest.loading import PACKAGED
from shared.names import unknown_name
from shared.places import check_secrets, is_url, local_path
from shared.videos.names import VIDEO_SUFFIXES, is_frame_folder


def find_dataset(name: str) -> Path:
    """The file or folder behind a DATASET argument: a path, or the name of a manifest in ``data_manifests/``.

    Raises:
        FileNotFoundError: neither; the message offers the closest name.
        ValueError: both, as where a data set was unpacked into a folder of its own name; or a URL.
    """
    if is_url(name):
        check_secrets(name, "the data set")
        if (path := local_path(name)) is None:
            raise ValueError(
                f"{name}: expected a file or folder here. A manifest can name a URL as the root of its videos"
            )
        name = path
    folders = [Path("data_manifests"), PACKAGED]
    known = {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.toml"))}
    if os.path.exists(name):
        if name in known:
            raise ValueError(
                f"{name!r} is both a {'folder' if os.path.isdir(name) else 'file'} here and the name of a data set. "
                f"Give ./{name} for the one, {known[name]} for the other"
                + (f" (with --root {name} if its videos are there)." if os.path.isdir(name) else ".")
            )
        return Path(name)
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
    if is_url(dataset) and local_path(dataset) is None:
        return name_from(PurePosixPath(dataset.partition("://")[2]).stem)
    source = find_dataset(dataset)
    if source.is_dir() or source.suffix.lower() != ".toml":
        return name_from(source.resolve().name if source.is_dir() else source.stem)
    name = read_toml(source).get("name", name_from(source.stem))
    if message := dataset_name_problem(name):  # it becomes part of a path below
        raise ManifestError(str(source), [f"name: {message}"])
    return str(name)


def is_cache(dataset: str) -> bool:
    """Whether a DATASET argument is a cache itself, whose data set may not be at hand."""
    return dataset.rstrip("/").endswith(".zarr")


def cache_of(dataset: str, cache: str | None = None) -> str:
    """Where the features of a DATASET argument are.

    ``cache`` if given, what ends in .zarr as it is, else ``caches/<name>.zarr``. A single video has only its file
    name, which others have, too: a digest of its place is added.

    Raises:
        FileNotFoundError: no such data set.
        ManifestError: a manifest whose name cannot be read.
        ValueError: a URL with credentials in it.
    """
    for place, what in ((cache, "the cache"), (dataset, "the data set")):
        if place is not None:
            check_secrets(place, what)
    if cache is not None:
        return cache
    if is_cache(dataset):
        return dataset
    name = dataset_name(dataset)
    alone_at: str | Path | None
    if is_url(dataset) and local_path(dataset) is None:
        alone_at = dataset if PurePosixPath(dataset).suffix.lower() in VIDEO_SUFFIXES else None
    else:
        source = find_dataset(dataset)
        alone = is_frame_folder(source) if source.is_dir() else source.suffix.lower() in VIDEO_SUFFIXES
        alone_at = source.resolve() if alone else None
    if alone_at is not None:
        name += "-" + hashlib.sha256(os.fsencode(alone_at)).hexdigest()[:8]
    return f"caches/{name}.zarr"
