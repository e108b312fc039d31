"""The flow itself: decoded items of many videos -> full batches -> encoders -> the cache.

In: jobs (extract/jobs/), decoded by extract/decode/. Out: complete streams in the cache, failures in the ledger.
Promises: frames are encoded once however many windows share them; rows reach the video and the place that they
belong to, in whatever order batches fill; a video counts when its last marker is on disk, and not before.
"""
