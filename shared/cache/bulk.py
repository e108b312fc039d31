"""Many streams at once: found first, from metadata alone, then read straight into the caller's memory.

Features read this way are refused where ``FeatureCache.read`` refuses them. Captions and thumbnails are left where they
are, and so are frames whose noted checksum is that of the plan's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from shared.cache.arrays import checksum, open_array, read_array
from shared.cache.direct import ChunkError, PlainArray, find_plain
from shared.cache.nodes import MEND, CacheError
from shared.cache.types import window_rows
from shared.windows import WindowPlan


@dataclass(frozen=True)
class StoredStream:
    """A complete stream of a video that has been found, not read.

    Attributes:
        kind, recipe: as of ``StreamData``.
        shape: of its features: (N, T, D) for kind "window", (U, D) for "timeline".
    """

    kind: str
    recipe: dict[str, Any]
    shape: tuple[int, ...]
    _videos: zarr.Group
    _where: str
    _checksums: Mapping[str, str]
    _plain: PlainArray | None

    @property
    def features_checksum(self) -> str:
        """As it was noted when they were written; "" if it was not."""
        return str(self._checksums.get("features", ""))

    @property
    def num_rows(self) -> int:
        """Rows of features, those of all windows counted."""
        return int(np.prod(self.shape[:-1]))

    def rows(self, plan: WindowPlan, stream: str) -> np.ndarray:
        """Rows for every window: int64 (N, T), see ``StreamData.window_rows``.

        Raises:
            CacheError: the plan needs windows or frames that were not extracted, or the frames are damaged.
        """
        frames = self._frames(plan.unique[stream]) if self.kind == "timeline" and stream in plan.unique else None
        return window_rows(self.kind, self.shape, frames, plan, stream)

    def read_into(self, out: np.ndarray) -> None:
        """Read the features into float16 (num_rows, D), C order.

        Raises:
            CacheError: they are damaged.
        """
        if self._plain is not None:
            try:
                self._plain.read_into(out.reshape(self.shape), finite=True)
                return
            except (ChunkError, OSError):
                pass  # zarr has the last word, and the words
        values = read_array(self._videos, f"{self._where}/features", f"{self._where}/features")
        if values.shape != self.shape:
            raise CacheError(f"{self._where}/features: changed while it was read; {MEND}")
        out[:] = values.reshape(out.shape)

    def _frames(self, wanted: np.ndarray) -> np.ndarray:
        """int32 (U,), or ``wanted`` itself where the checksum of the stream's frames says that they are the same."""
        if checksum(wanted.astype(np.int32)) == self._checksums.get("frames"):
            frames = wanted
        else:
            frames = read_array(self._videos, f"{self._where}/frames", f"{self._where}/frames")
        if len(frames) != self.shape[0]:
            raise CacheError(f"{self._where}: damaged (its arrays do not fit each other); {MEND}")
        return frames


def find_stored(videos: zarr.Group, where: str, marks: Mapping[str, Any]) -> StoredStream:
    """What is stored of the complete stream ``where`` ("<video_id>/<stream>") that has these attributes.

    Raises:
        CacheError: its features are missing or damaged, as far as metadata shows.
    """
    plain = find_plain(videos.store, f"{videos.path}/{where}/features")
    if plain is not None and plain.dtype == np.float16:
        shape = plain.shape
    else:  # another store, or another layout than this version writes
        plain, shape = None, open_array(videos, f"{where}/features", f"{where}/features").shape
    num_axes = {"window": 3, "timeline": 2}.get(marks.get("kind", ""))
    if "features" not in marks["checksums"] or (shape[0] and len(shape) != num_axes):
        raise CacheError(f"{where}: damaged (its arrays do not fit each other); {MEND}")
    if num_axes == 2 and "frames" not in marks["checksums"]:
        raise CacheError(f"{where}: damaged (its frames are missing); {MEND}")
    return StoredStream(marks["kind"], marks["recipe"], shape, videos, where, marks["checksums"], plain)
