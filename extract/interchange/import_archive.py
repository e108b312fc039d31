"""An HDF5 file of ``extract export`` -> a cache that holds the same, array for array and attribute for attribute.

All of it is checked before anything is written; every array is read twice for that, and compared with its sha256 again
when it is written. Axes: as in shared/cache/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from extract.interchange.archive_reading import Archive
from extract.interchange.hdf5_layout import FeatureFileError, refuse
from extract.interchange.writing import import_claims, whole_streams
from extract.sharing.claims import Claims
from shared.cache import FeatureCache, RecipeMismatch, VideoInfo
from shared.cache.arrays import STRING_ARRAYS


def check_archive(archive: Archive, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Read everything that is to be taken; every problem is reported at once.

    Raises:
        FeatureFileError: lists the problems.
    """
    problems = []
    for number, (video, streams) in enumerate(archive.chosen.items(), 1):
        try:
            info = archive.info(video)
        except FeatureFileError as error:
            problems.append(str(error))
            streams = []
        for stream in streams:
            try:
                archive.stream(video, stream, info)
            except FeatureFileError as error:
                problems.append(str(error))
        progress(number, len(archive.chosen))
    refuse(problems)


def write_archive(
    archive: Archive,
    cache: FeatureCache,
    *,
    overwrite: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[str]]:
    """Store every stream that is not there yet; safe to interrupt and to repeat.

    Args:
        overwrite: streams to replace where they are of another recipe.

    Returns:
        Video id -> the streams that were written.

    Raises:
        CacheError: the cache has a video from another file; nothing was written.
        RecipeMismatch: a stream is there already and was made in another way, or with other numbers; likewise.
        FeatureFileError: the file changed since it was checked.
    """
    wanted = {v: found for v in archive.chosen if (found := _to_write(archive, cache, v, overwrite))}
    if {**cache.imported, **archive.facts.imported} != cache.imported:
        cache.note_imported(archive.facts.imported)
    with import_claims(cache) as claims:
        for number, (video, streams) in enumerate(wanted.items(), 1):
            _write_video(archive, cache, claims, video, streams)
            progress(number, len(wanted))
    return wanted


def _to_write(archive: Archive, cache: FeatureCache, video: str, overwrite: Collection[str]) -> list[str]:
    """Streams of a video that the cache lacks, or that are to be replaced."""
    begun = cache.begun(video)
    if not begun:  # a new video, of which nothing else has to be asked
        return archive.chosen[video]
    info = archive.info(video)
    streams = [
        s
        for s in archive.chosen[video]
        if s not in begun or not _is_there(archive, cache, video, s, info, s in overwrite)
    ]
    if streams:
        cache.check_info(video, info)
    return streams


def _is_there(archive: Archive, cache: FeatureCache, video: str, stream: str, info: VideoInfo, replace: bool) -> bool:
    marks = archive.marks(video, stream, info)
    if not cache.has(video, stream, None if replace else marks.recipe):
        return False
    if cache.streams(video)[stream] == marks.recipe and cache.checksums(video, stream) == marks.checksums:
        return True
    if not replace:
        raise RecipeMismatch(
            f"stream {stream!r} of video {video!r} is in {cache.url} already, by the same recipe and with other "
            f"numbers; give another cache (--cache NEW.zarr), or replace it: --overwrite {stream}"
        )
    return False


def _write_video(archive: Archive, cache: FeatureCache, claims: Claims, video: str, streams: list[str]) -> None:
    info = archive.info(video)
    marks = {s: archive.marks(video, s, info) for s in streams}
    made = {s: (one.kind, one.recipe) for s, one in marks.items()}
    with whole_streams(cache, claims, video, info, made) as writers:
        for stream in streams:
            arrays = archive.stream(video, stream, info).arrays
            strings = {name: arrays[name].tolist() for name in STRING_ARRAYS if name in arrays}
            writer = writers.pop(stream)  # its rows go with it
            writer.append(arrays["features"], arrays.get("frames"), **strings)
            writer.finish()
