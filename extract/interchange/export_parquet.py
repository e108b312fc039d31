"""A cache as a folder of Parquet tables: captions, videos, and the features of every stream; docs/interchange.md.

Tables are written video by video, one row group each, so that memory does not grow with the data set.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from extract.interchange.selection import Selection, check_room, full_disk_explained, read_whole
from extract.interchange.whole_output import OutputError, check_place, whole_output
from shared.cache import CacheError, FeatureCache, StreamData, VideoInfo
from shared.recipe import fingerprint
from shared.windows import WindowPlan

FORMAT = "crossgru-parquet"
DTYPES = {"float16": pa.float16(), "float32": pa.float32()}
ROW_GROUP = 2**16  # rows; a longer video takes several groups
ABOUT = "export.json"
VIDEO_COLUMNS = {
    "video": pa.string(),
    "path": pa.string(),
    "num_frames": pa.int64(),
    "fps": pa.float64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "missing_frames": pa.int64(),
    "truncated": pa.bool_(),
    "leading": pa.int64(),  # pictures before the first frame that could not be shown
    "promised_frames": pa.int64(),  # of a video that ends early, where its container says; else null
}


def export_parquet(
    cache: FeatureCache,
    chosen: Selection,
    folder: Path,
    *,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the folder, all of it or nothing.

    Args:
        dtype: of features: "float16" as they are cached, or "float32", which holds the same values exactly.

    Raises:
        CacheError: a stream is damaged, or of another size than in other videos.
        OutputError: the folder is there already and not to be replaced, or no export; or the disk is full.
        OSError: it cannot be written.
    """
    check_place(folder, folder=True, overwrite=overwrite)
    if folder.exists() and not _is_export(folder):
        raise OutputError(
            f"--output {folder} is no export ({ABOUT} is missing) and is not replaced; give another place"
        )
    check_room(folder, DTYPES[dtype].bit_width // 8 * chosen.num_values)
    with full_disk_explained(folder), whole_output(folder, folder=True, overwrite=overwrite) as part:
        with ExitStack() as stack:
            tables, rows = _Tables(part, stack), []
            for number, (video, streams) in enumerate(chosen.videos.items(), 1):
                info = cache.info(video)
                assert info is not None  # a complete stream implies it
                rows.append(_video_row(video, info))
                plan = cache.window.plan(info.num_frames)
                for stream in streams:
                    data = read_whole(cache, video, stream)
                    tables.write(
                        f"features-{stream}",
                        _feature_table(video, stream, data, info, plan, DTYPES[dtype]),
                        data.recipe,
                    )
                    if data.captions is not None:
                        tables.write("captions", _caption_table(video, stream, data, info), data.recipe)
                progress(number, len(chosen.videos))
        columns = zip(VIDEO_COLUMNS.items(), zip(*rows, strict=True), strict=True)
        parquet.write_table(pa.table({n: pa.array(c, t) for (n, t), c in columns}), part / "videos.parquet")
        about = {"format": FORMAT, "format_version": 1, "dataset": cache.dataset, "window": cache.window.to_dict()}
        (part / ABOUT).write_text(json.dumps({**about, "streams": list(chosen.streams)}, indent=2), encoding="utf-8")


class _Tables:
    """Files that are begun with their first rows. The recipes of all rows go into a file's metadata when it ends."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._writers: dict[str, parquet.ParquetWriter] = {}
        self._recipes: dict[str, dict[str, Any]] = {}

    def write(self, name: str, table: pa.Table, recipe: dict[str, Any] | None = None) -> None:
        if name not in self._writers:
            repeated = [c for c in ("video", "stream") if c in table.column_names]
            writer = parquet.ParquetWriter(
                self._folder / f"{name}.parquet",
                table.schema,
                use_dictionary=repeated,
                # No codec on features, as in the cache: it gains 8 % there and costs 2-5 times the read time.
                compression={n: "none" if n.startswith("features") else "zstd" for n in _leaves(table.schema)},
                write_statistics=[n for n in table.schema.names if n != "features"],
            )
            self._stack.enter_context(writer)
            self._stack.callback(self._end, name)
            self._writers[name], self._recipes[name] = writer, {}
        if recipe is not None:
            self._recipes[name][fingerprint(recipe)] = recipe
        if not table.schema.equals(self._writers[name].schema):
            found, first = (s.field("features").type for s in (table.schema, self._writers[name].schema))
            raise CacheError(
                f"{table['video'][0]}: {name} is {found}, in other videos {first}; export those apart, or extract "
                "again with --overwrite"
            )
        self._writers[name].write_table(table, row_group_size=ROW_GROUP)

    def _end(self, name: str) -> None:
        recipes = json.dumps(self._recipes[name], sort_keys=True)
        self._writers[name].add_key_value_metadata({"crossgru_recipes": recipes})


def _leaves(schema: pa.Schema) -> list[str]:
    """Names of columns as Parquet counts them: a list's are called after its path."""
    return ["features.list.element" if f.name == "features" else f.name for f in schema]


def _video_row(video: str, info: VideoInfo) -> tuple[Any, ...]:
    """Values of ``VIDEO_COLUMNS``."""
    promised = (info.truncated or {}).get("promised") or None
    about = (info.source.get("path"), info.num_frames, info.fps, info.width, info.height)
    return (video, *about, info.missing_frames, info.truncated is not None, info.leading, promised)


def _feature_table(
    video: str, stream: str, data: StreamData, info: VideoInfo, plan: WindowPlan, dtype: pa.DataType
) -> pa.Table:
    """A row per frame of a timeline stream, per sample of every window of a window stream."""
    columns: dict[str, Any] = {}
    if data.kind == "window":
        num_windows, num_samples = data.features.shape[:2]
        if stream not in plan.frames or plan.frames[stream].shape != (num_windows, num_samples):
            raise CacheError(f"{video}/{stream}: its windows are not those of the cache; extract it again")
        columns["start"] = pa.array(np.repeat(plan.starts, num_samples), pa.int32())
        columns["sample"] = pa.array(np.tile(np.arange(num_samples), num_windows), pa.int32())
        frames = plan.frames[stream].reshape(-1)  # (N * T,)
    else:
        assert data.frames is not None
        frames = data.frames
    size = data.features.shape[-1]
    values = pa.array(data.features.reshape(-1).astype(dtype.to_pandas_dtype(), copy=False), dtype)
    columns |= {"frame": pa.array(frames, pa.int32()), "pts_s": pa.array(info.pts[frames], pa.float64())}
    columns["features"] = pa.FixedSizeListArray.from_arrays(values, size)
    return _with_names(video, stream, columns, len(frames))


def _caption_table(video: str, stream: str, data: StreamData, info: VideoInfo) -> pa.Table:
    columns = {
        "frame": pa.array(data.frames, pa.int32()),
        "pts_s": pa.array(info.pts[data.frames], pa.float64()),
        "caption": pa.array(data.captions, pa.string()),
    }
    return _with_names(video, stream, columns, len(data.captions or ()))


def _with_names(video: str, stream: str, columns: dict[str, Any], num_rows: int) -> pa.Table:
    names = {"video": pa.array([video] * num_rows, pa.string()), "stream": pa.array([stream] * num_rows, pa.string())}
    return pa.table({**names, **columns})


def _is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / ABOUT).read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
