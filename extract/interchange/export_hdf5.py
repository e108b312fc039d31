"""A cache as one HDF5 file, video by video; docs/interchange.md has the layout.

An export that was cut short is simply done again: it copies, it computes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extract.interchange.hdf5_layout import FORMAT, FORMAT_VERSION, VIDEOS, contents_of, encode_attributes
from extract.interchange.selection import Selection, check_room, full_disk_explained, read_whole, stream_arrays
from extract.interchange.whole_output import whole_output
from shared.cache import CacheError, FeatureCache, StreamData
from shared.cache.arrays import checksum
from shared.cache.seals import SEAL, sealed, stream_seal, video_seal
from shared.cache.verify import attributes_digest
from shared.recipe import fingerprint
from shared.windows import WindowPlan


def export_hdf5(
    cache: FeatureCache,
    chosen: Selection,
    file: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the file, all of it or nothing.

    Raises:
        CacheError: a stream is damaged.
        OutputError: the file is there already, or the disk is full.
        OSError: it cannot be written.
    """
    check_room(file, 2 * chosen.num_values)
    marks = {"dataset": cache.dataset, "window": cache.window.to_dict(), "made_with": cache.made_with}
    marks |= {"imported": cache.imported} if cache.imported else {}
    marks["contents"] = contents_of(chosen.videos)
    with (
        full_disk_explained(file),
        whole_output(file, folder=False, overwrite=overwrite) as part,
        _Kept(part) as kept,
        # 1.10 is the first version that keeps attributes beyond 64 KiB: recipes with prompts may be long.
        h5py.File(kept, "w", libver=("v110", "v110")) as out,
    ):
        out.attrs.update(encode_attributes(sealed({"format": FORMAT, "format_version": FORMAT_VERSION, **marks})))
        videos, window = out.create_group(VIDEOS), cache.window
        for number, (video, streams) in enumerate(chosen.videos.items(), 1):
            info = cache.info(video)
            assert info is not None  # a complete stream implies it
            group = videos.create_group(video)
            checks = {"pts": checksum(info.pts), "attributes": attributes_digest(info.attrs())}
            group.attrs.update(
                encode_attributes({**info.attrs(), "checksums": checks, SEAL: video_seal(video, checks)})
            )
            group["pts"] = info.pts
            plan = window.plan(info.num_frames)
            group["starts"] = plan.starts
            for stream in streams:
                _write_stream(group.create_group(stream), read_whole(cache, video, stream), plan, video, stream)
            kept.check()
            progress(number, len(chosen.videos))
        out.close()
        kept.check()


class _Kept(io.FileIO):
    """The file under HDF5. A write that fails is told by ``check``: HDF5 would fail again at every close, and crash."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+b")
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """All of the data."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self._error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """As of any file."""
        try:
            return super().truncate(size) if self._error is None else 0
        except OSError as error:
            self._error = error
            return 0


def _write_stream(group: h5py.Group, data: StreamData, plan: WindowPlan, video: str, stream: str) -> None:
    checks = {}
    for name, values in stream_arrays(data).items():
        checks[name] = checksum(values)
        group.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype == object else None)
    marks: dict[str, Any] = {"kind": data.kind, "recipe": data.recipe, "fingerprint": fingerprint(data.recipe)}
    marks["checksums"] = checks
    marks[SEAL] = stream_seal(f"{video}/{stream}", marks, data.features.shape)
    group.attrs.update(encode_attributes(marks))
    if data.kind == "window":
        if plan.frames.get(stream, np.empty((0, 0))).shape == data.features.shape[:2]:
            group["frames"] = plan.frames[stream].astype(np.int32)  # (N, T)
        return
    with suppress(CacheError):  # a stream that was imported may lack frames that the windows sample
        group["rows"] = data.window_rows(plan, stream).astype(np.int32)  # (N, T)
