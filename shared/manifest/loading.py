"""From a manifest, a table or a folder to a data set. What may stand there: shared/manifest/__init__.py."""

from __future__ import annotations

import glob
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from shared.labels.tables import READERS
from shared.manifest.table import LabelTable, Problems, Segment
from shared.manifest.tasks import TABLE_FORMAT, read_tasks
from shared.manifest.types import Manifest, ManifestError, TaskSource, Video
from shared.manifest.videos import check_videos, read_videos
from shared.places import check_secrets, is_url, local_path
from shared.process.collecting import no_collection
from shared.videos.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_frame_folder
from shared.videos.remote import RemoteRoot

# The data sets with a name: in the checkout, or where the package is installed.
PACKAGED = Path(__file__).resolve().parents[2] / "data_manifests"
_SOURCES = (
    "a manifest (.toml), a table of videos (.csv, .tsv, .xlsx, .parquet or .jsonl with a column path), a folder of "
    "videos or one video file"
)
_OTHER_TABLES = {
    **dict.fromkeys([".xls", ".ods", ".numbers"], "a spreadsheet of another kind"),
    **dict.fromkeys([".json", ".yaml", ".yml", ".xml"], "structured text"),
    **dict.fromkeys([".feather", ".arrow", ".pkl", ".pickle"], "a binary table"),
}


@no_collection()
def load_manifest(
    source: str | Path,
    root: str | Path | None = None,
    *,
    cached: Collection[str] = (),
    follow_links: bool = False,
) -> Manifest:
    """Read and validate a data set.

    Args:
        source: a TOML manifest, a table of videos, a folder of videos or one video file; or a URL of the last two.
        root: overrides the manifest's root; a folder or a URL.
        cached: paths below the root of videos that are extracted already; they need not exist on this machine.
        follow_links: links below the root may lead out of it, as with ``links = "follow"``.

    Raises:
        ManifestError: lists every problem with its place.
        FileNotFoundError: ``source`` itself does not exist.
    """
    if is_url(str(source)):
        return _load_url(str(source), root, cached, follow_links)
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"no manifest, table or video folder at {source}")
    suffix, raw = source.suffix.lower(), {}  # type: str, dict[str, Any]
    if source.is_dir():
        name, patterns, place = source.resolve().name, ["**/*"], source
        if is_frame_folder(source):  # and whatever else is in it
            patterns, place = [glob.escape(name), f"{glob.escape(name)}/**/*"], source.resolve().parent
        raw = {"name": name_from(name), "videos": {"glob": patterns}}
        return _build(source, raw, root or place, cached, follow_links)
    if suffix in READERS:
        raw = {"name": name_from(source.stem), "videos": {"table": source.name}}
        return _build(source, raw, root or source.parent, cached, follow_links)
    if suffix in VIDEO_SUFFIXES:  # a link that is given itself is meant
        raw = {"name": name_from(source.stem), "videos": {}}
        return _build(source, raw, root or source.parent, cached, True, [source.name])
    if message := _other_table(suffix):
        raise ManifestError(str(source), [message])
    try:
        raw = read_toml(source)
    except ManifestError:
        if suffix == ".toml":
            raise
        what = (
            "a picture"
            if suffix in IMAGE_SUFFIXES
            else f"a file that is none of these by its ending ({suffix or 'none'})"
        )
        raise ManifestError(str(source), [f"expected {_SOURCES}; found {what}"]) from None
    return _build(source, raw, root, cached, follow_links)


def _other_table(suffix: str) -> str | None:
    """What to do with a file that may well be a table, but not one that is read; None for other files."""
    what = _OTHER_TABLES.get(suffix)
    return what and f"expected {_SOURCES}; found {what} ({suffix}): save it as CSV"


def _load_url(url: str, root: str | Path | None, cached: Collection[str], follow_links: bool) -> Manifest:
    if (path := local_path(url)) is not None:
        return load_manifest(path, root, cached=cached, follow_links=follow_links)
    try:
        check_secrets(url, "the data set")
    except ValueError as error:
        raise ManifestError("the data set", [str(error)]) from None
    url = url.rstrip("/")
    folder, _, name = url.rpartition("/")
    suffix = Path(name).suffix.lower()
    if suffix in (".toml", *READERS, *_OTHER_TABLES):
        raise ManifestError(name, ["manifests and tables are read from disks, and may name a URL; copy it"])
    if suffix in VIDEO_SUFFIXES:
        raw = {"name": name_from(Path(name).stem), "videos": {}}
        return _build(Path(name), raw, root or folder, cached, follow_links, [name])
    raw = {"name": name_from(name), "videos": {"glob": ["**/*"]}}
    return _build(Path(name), raw, root or url, cached, follow_links)


def read_toml(source: Path) -> dict[str, Any]:
    """A TOML file as plain values.

    Raises:
        ManifestError: not TOML.
    """
    try:
        return tomllib.loads(source.read_text(encoding="utf-8-sig"))  # Windows editors add a mark
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and thousands of brackets
        raise ManifestError(str(source), [f"not a TOML file: {error}"]) from None


def _build(
    source: Path,
    raw: Mapping[str, Any],
    root: str | Path | None,
    cached: Collection[str],
    follow_links: bool,
    paths: list[str] | None = None,
) -> Manifest:
    problems = Problems()
    name = _read_top(raw, name_from(source.stem), problems)
    base, remote = _find_root(source, raw, root, problems)
    follow_links = follow_links or raw.get("links") == "follow"
    layout = str(raw.get("layout", "")).strip()
    hint = f"Expected below {remote.url if remote else base}:\n{layout}" if layout else ""
    check_videos(raw.get("videos"), paths, problems)
    if not base.is_dir():
        problems.add(
            "root", f"there is no folder {base}; put the data there or give another place with --root (ROOT= for make)"
        )
        read_tasks(raw.get("tasks", {}), None, problems)  # every problem at once
        raise ManifestError(str(source), problems.lines, hint)
    known = frozenset(cached)
    videos, segments = read_videos(raw.get("videos"), base, remote, source, paths, known, follow_links, problems)
    tasks = read_tasks(raw.get("tasks", {}), segments, problems)
    if problems.lines:
        raise ManifestError(str(source), problems.lines, hint)
    if not videos:
        place = remote.url if remote else base
        what = f"{raw['videos']['table']} has no rows" if "table" in raw["videos"] else f"no video found below {place}"
        raise ManifestError(str(source), [f"[videos]: {what}", *problems.notes], hint)
    note, notes = str(raw.get("note", "")).strip(), tuple(problems.notes)
    table = segments.table if segments is not None else None
    return Manifest(name, base, tuple(videos), tasks, source, layout, note, remote, notes, table)


def _find_root(
    source: Path, raw: Mapping[str, Any], root: str | Path | None, problems: Problems
) -> tuple[Path, RemoteRoot | None]:
    """The folder of the data; where that is at a URL, the manifest's own and the URL."""
    place = str(raw.get("root", ".")) if root is None else str(root)
    if is_url(place) and (path := local_path(place)) is None:
        try:
            return place_of(source), RemoteRoot(place)
        except ValueError as error:
            problems.add("root", str(error))
            raise ManifestError(str(source), problems.lines) from None
    elif is_url(place):
        return Path(path or "/"), None
    # os.path.expanduser leaves the home of a user that is not there as it stands; Path.expanduser raises.
    own = place_of(source) / os.path.expanduser(place)
    return Path(root) if root is not None else Path(os.path.normpath(own)), None


def place_of(source: Path) -> Path:
    """The folder that a manifest's ``root`` is relative to: its own. An installed one has no data beside it; what it
    calls ``../data/dvd`` is ``data/dvd`` of the current folder, where caches and runs are, too."""
    installed = source.resolve().parent == PACKAGED and not (PACKAGED.parent / "pyproject.toml").exists()
    return Path("data_manifests") if installed else source.parent


def _read_top(raw: Mapping[str, Any], fallback: str, problems: Problems) -> str:
    problems.unknown_keys("top level", raw, {"name", "root", "layout", "note", "links", "videos", "tasks"})
    if raw.get("links", "follow") != "follow":
        problems.add("links", f'expected "follow" (or no such key), found {raw["links"]!r}')
    name = raw.get("name", fallback)
    if message := dataset_name_problem(name):
        problems.add("name", message)
        return "invalid"
    return str(name)


def dataset_name_problem(name: Any) -> str | None:
    """Why something cannot be the name of a data set, which names its cache and its runs; None if it can."""
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        return None
    return f"expected 1 to 64 letters, digits, - or _, found {name!r}"


def name_from(text: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")
    return cleaned[:64] or "data"


__all__ = [
    "TABLE_FORMAT",
    "LabelTable",
    "Manifest",
    "ManifestError",
    "Segment",
    "TaskSource",
    "Video",
    "load_manifest",
]
