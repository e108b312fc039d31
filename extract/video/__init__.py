"""Videos, from files and folders of pictures to frames: what is there, whether all of it arrived, and its pixels."""

from extract.video.reading import look_at, open_video
from extract.video.sources import read_source, source_stamp
from extract.video.types import MAX_PIXELS, DecodedFrame, OpenVideo, UnreadableFile, VideoError

__all__ = [
    "MAX_PIXELS",
    "DecodedFrame",
    "OpenVideo",
    "UnreadableFile",
    "VideoError",
    "look_at",
    "open_video",
    "read_source",
    "source_stamp",
]
