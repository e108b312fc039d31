"""The feature cache: one Zarr v3 store per data set, one writer and one reader.

    <dataset>.zarr/            attrs: format, format_version, dataset, window, made_with, imported (optional)
      videos/<video_id>/       attrs: source, fps, num_frames, width, height, rotation, decoder, missing_frames,
                                    and where they apply: truncated, leading, shown (shared/cache/types.py)
        pts                    float64 (F,)     seconds, as decoded
        <stream>/              attrs: kind, recipe, fingerprint, checksums, complete
          features             float16 (N, T, D) for kind "window", (U, D) for kind "timeline"
          frames               int32 (U,)       timeline only: the frame of each row, ascending
          captions             string (U,)      text only
          thumbnails           string (U,)      text only, optional: base64 JPEG

Promises:
  * ``complete`` is written last. A stream without it does not exist for readers and is redone by writers.
  * A stream is never mixed: asking for another recipe than the cached one raises ``RecipeMismatch`` with the diff.
  * Values are finite float16; a NaN, an infinity or a float16 overflow is refused when it is written.
  * Chunks carry a CRC-32C, arrays a sha256. A lost chunk reads as NaN (features) and is refused, never as zeros.
  * Metadata that is damaged is refused by readers (``CacheError``) and redone by writers, as unfinished streams are.
  * What a large cache has is known without a look at every video, from an index beside it (shared/cache/index.py).
  * Everything is readable with plain ``zarr.open``. Local paths and fsspec URLs (s3://, gs://, memory://) both work.

Axes: F frames of a video, N windows, T samples in a window, U unique frames, D feature size.
"""

from shared.cache.store import CacheError, FeatureCache, RecipeMismatch, StreamData, VideoInfo

__all__ = ["CacheError", "FeatureCache", "RecipeMismatch", "StreamData", "VideoInfo"]
