"""The commands that exchange features with other programs. Statuses: extract/commands/__init__.py."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.commands.parts import err, explained, load, out
from shared.cache import CacheError, FeatureCache
from shared.datasets import cache_of
from shared.manifest import ManifestError, Video
from shared.names import unknown_name
from shared.windows import WindowSpec

if TYPE_CHECKING:
    from extract.interchange.hdf5_file import Group

EXPORTS = ("h5", "parquet")
IMPORTS = ("npy", "h5")
SHOWN = 20


@explained
def export(
    dataset: str,
    *,
    form: str,
    output: Path,
    cache: str | None,
    root: str | None,
    follow_links: bool,
    streams: str | None,
    dtype: str,
    require_complete: bool,
    overwrite: bool,
) -> int:
    """``extract export``: 0 if something was exported; with ``require_complete``, only if nothing is missing."""
    if form not in EXPORTS:
        raise ValueError(f"--format: {unknown_name('format', form, EXPORTS)}")
    if dtype not in ("float16", "float32"):
        raise ValueError(f"--dtype: expected float16 or float32, found {dtype!r}")
    if form == "h5" and dtype != "float16":
        raise ValueError("--dtype is for --format parquet; HDF5 keeps float16 as it is")
    from extract.interchange.selection import select
    from extract.interchange.whole_output import check_place
    from extract.show.progress import StepDisplay

    check_place(output, folder=form == "parquet", overwrite=overwrite)
    store = FeatureCache.open(cache_of(dataset, cache))
    wanted = [s.strip() for s in streams.split(",") if s.strip()] if streams else None
    expected = _expected(dataset, store, root, follow_links)
    chosen = select(store, wanted, expected)
    for line in chosen.missing:
        err.print(f"missing: {line}")
    if require_complete and (chosen.missing or expected is None):
        why = (
            "something is missing"
            if chosen.missing
            else "without its manifest nobody knows all videos (DATASET --cache ...)"
        )
        raise CacheError(f"--require-complete: {why}; extract the rest, or export what there is without the option")
    with StepDisplay(err, "exporting", "videos") as display:
        if form == "h5":
            from extract.interchange.export_hdf5 import export_hdf5

            export_hdf5(store, chosen, output, overwrite=overwrite, progress=display.reached)
        else:
            from extract.interchange.export_parquet import export_parquet

            export_parquet(store, chosen, output, dtype=dtype, overwrite=overwrite, progress=display.reached)
    size = sum(p.stat().st_size for p in ([output] if output.is_file() else output.iterdir()))
    out.print(f"{len(chosen.videos)} videos, streams {', '.join(chosen.streams)}, {size / 2**20:.1f} MiB -> {output}")
    return 0


@explained
def import_features(
    source: Path,
    *,
    form: str | None,
    dataset: str | None,
    cache: str | None,
    root: str | None,
    follow_links: bool,
    stream: str | None,
    declared: Mapping[str, Any],
    window: Mapping[str, Any],
    facts: str | None,
    fps: float | None,
    overwrite: str,
    dry_run: bool,
    file_timeout: float,
) -> int:
    """``extract import``: 0 if all of it is in the cache."""
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    form = form or ("h5" if source.suffix.lower() in (".h5", ".hdf5") else "npy")
    if form not in IMPORTS:
        raise ValueError(f"--format: {unknown_name('format', form, IMPORTS)}")
    if dataset is None and cache is None:
        raise ValueError("say where to: --dataset NAME, or --cache PATH, or both")
    url = cache_of(dataset or "", cache)
    replaced = {s.strip() for s in overwrite.split(",") if s.strip()}
    external = partial(
        _import_external,
        source,
        url,
        stream,
        dataset,
        root,
        follow_links,
        declared,
        window,
        facts,
        fps,
        replaced,
        dry_run,
    )
    if form == "npy":
        return external(None)
    from extract.interchange.hdf5_file import open_hdf5

    with open_hdf5(source, file_timeout) as file:
        if not file.is_export():
            return external(file)
        given = [f"--{name}" for name, value in {**declared, **window}.items() if value]
        if given or facts or fps:
            raise ValueError(
                f"{source} is an export and says everything itself; leave {given or ['--facts, --fps']} away"
            )
        return _import_archive(file, url, stream, _manifest_videos(dataset, root, follow_links, url), replaced, dry_run)


def _import_archive(
    file: Group, url: str, stream: str | None, videos: Sequence[Video] | None, replaced: set[str], dry_run: bool
) -> int:
    from extract.interchange.archive_reading import open_archive
    from extract.interchange.import_archive import check_archive, write_archive
    from extract.show.progress import StepDisplay

    names = [s.strip() for s in stream.split(",")] if stream else None
    known = None if videos is None else {v.id for v in videos}
    archive = open_archive(file, streams=names, known=known)
    for line in archive.notes:
        err.print(f"note: {line}")
    with StepDisplay(err, "checking", "videos") as display:
        check_archive(archive, display.reached)
    if dry_run:
        there = {video: found for video, found in archive.chosen.items() if found}
        _list([f"{video}: {', '.join(found)}" for video, found in there.items()])
        out.print(f"nothing was written: {len(there)} videos of {file.file} would go to {url}")
        return 0
    facts = archive.facts
    store = FeatureCache.create(url, dataset=facts.dataset, window=facts.window, made_with=facts.made_with)
    with StepDisplay(err, "importing", "videos") as display:
        written = write_archive(archive, store, overwrite=replaced, progress=display.reached)
    out.print(
        f"{sum(map(len, written.values()))} streams of {len(written)} videos imported, the rest was there -> {url}"
    )
    return 0


def _import_external(
    source: Path,
    url: str,
    stream: str | None,
    dataset: str | None,
    root: str | None,
    follow_links: bool,
    declared: Mapping[str, Any],
    window: Mapping[str, Any],
    facts: str | None,
    fps: float | None,
    replaced: set[str],
    dry_run: bool,
    file: Group | None,
) -> int:
    import numpy as np

    from extract.interchange.external_facts import FrameRule
    from extract.interchange.external_files import digest_of, open_external_hdf5, open_npy
    from extract.interchange.external_times import Facts
    from extract.interchange.import_external import Declared, check_replacing, plan_import, window_with, write_import
    from extract.show.progress import StepDisplay

    if stream is None:
        raise ValueError("--stream: say how the cache is to call these features, for example --stream mine")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", stream) or stream in ("pts", "starts"):
        raise ValueError(f"--stream: expected 1 to 64 letters, digits, - or _, not pts or starts, found {stream!r}")
    store = _open_or_none(url)
    videos = _manifest_videos(dataset, root, follow_links, url)
    rule = FrameRule.parse(declared["frames"])
    said = Declared(stream, rule, declared["nearest"], declared["samples"], declared["name"], _notes(declared["note"]))
    known = Facts.of(store, facts, fps)
    found = open_npy(source) if file is None else open_external_hdf5(file)
    base = _base_window(store, window)
    spec = window_with(base if store is None else store.window, said, list(found.values()))
    with StepDisplay(err, "checking", "videos") as display:
        jobs = plan_import(found, videos, spec, said, known, display.reached)
    recipe = said.recipe(digest_of(source))
    if store is not None:
        check_replacing(store, jobs, stream, recipe, bool(replaced & {stream, "all"}))
    rows = sum(job.num_rows for job in jobs)
    size = next(iter(found.values())).shape[-1]
    if dry_run:
        _list([f"{j.video}: {j.num_rows} rows of {j.info.num_frames} frames, from {j.rows.where}" for j in jobs])
    if gaps := [job for job in jobs if job.gaps]:
        err.print(
            f"note: in {len(gaps)} videos the windows sample frames that have no row ({gaps[0].video}: "
            f"{gaps[0].gaps}); training will refuse them. --nearest takes the nearest row instead"
        )
    if (farthest := max(jobs, key=lambda job: job.distance)).distance:
        used = sum(len(np.unique(job.source_rows)) for job in jobs if job.source_rows is not None)
        err.print(
            f"note: --nearest stores {used} rows {rows} times in all, for frames that are up to "
            f"{farthest.distance} frames away ({farthest.video})"
        )
    if dry_run:
        out.print(f"nothing was written: {len(jobs)} videos, {rows} rows of size {size} would go to {url}")
        return 0
    name = store.dataset if store is not None else _dataset_name(dataset, url)
    writable = FeatureCache.create(url, dataset=name, window=base)
    if stream not in writable.window.samples:
        writable.note_imported({stream: spec.samples[stream]})
    with StepDisplay(err, "importing", "videos") as display:
        written = write_import(writable, jobs, stream, recipe, display.reached)
    out.print(
        f"{stream}: {len(written)} videos imported, {len(jobs) - len(written)} were there already; {rows} rows of size "
        f"{size} -> {url}\ntrain on it with: python -m train cv {dataset or 'DATASET'} --task TASK --cache {url} "
        f"--head stream:{stream} --no-baselines"
    )
    return 0


# ------------------------------------------------------------------ parts


def _expected(dataset: str, store: FeatureCache, root: str | None, follow_links: bool) -> list[str] | None:
    """Ids of the data set's videos, or None where only the cache is at hand."""
    if dataset.rstrip("/").endswith(".zarr") or "://" in dataset:
        return None
    try:
        return [v.id for v in load(dataset, root, False, store.paths().values(), follow_links).videos]
    except (ManifestError, FileNotFoundError) as error:
        err.print(f"note: videos that were never extracted are not counted: {str(error).splitlines()[0]}")
        return None


def _manifest_videos(dataset: str | None, root: str | None, follow_links: bool, url: str) -> Sequence[Video] | None:
    if dataset is None:
        return None
    store = _open_or_none(url)
    known = store.paths().values() if store is not None else ()
    return load(dataset, root, False, known, follow_links).videos


def _open_or_none(url: str) -> FeatureCache | None:
    """The cache, or None if there is none yet; one that is damaged is an error here."""
    from shared.cache.opening import open_root

    root = open_root(url, "r")
    return None if root is None or not root.attrs else FeatureCache.open(url)


def _dataset_name(dataset: str | None, url: str) -> str:
    from shared.datasets import dataset_name
    from shared.manifest import name_from

    return dataset_name(dataset) if dataset else name_from(Path(url.rstrip("/")).stem)


def _base_window(store: FeatureCache | None, given: Mapping[str, Any]) -> WindowSpec:
    """The window that a cache is opened with: its own, or, for a new one, as the options say."""
    if store is None:
        return WindowSpec(**{name: value for name, value in given.items() if value is not None})
    for name, value in given.items():
        if value not in (None, getattr(store.window, name)):
            raise ValueError(
                f"--{name} {value}: {store.url} has windows of {name} {getattr(store.window, name)}; leave it away, or "
                "give another cache"
            )
    return store.window


def _notes(given: Sequence[str]) -> dict[str, str]:
    notes = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not key.strip() or not sign or key.strip() in notes:
            raise ValueError(f"--note: expected KEY=VALUE, each key once, found {text!r}")
        notes[key.strip()] = value.strip()
    return notes


def _list(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        out.print(line)
    if len(lines) > SHOWN:
        out.print(f"... and {len(lines) - SHOWN} more")
