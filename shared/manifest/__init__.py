"""A data set as text: a TOML manifest, optionally with a CSV table of videos, validated as a whole.

    name = "mydata"                      # letters, digits, - and _ (default: the file's own name)
    root = "../data/mydata"              # where the files are; relative to the manifest (default: its folder). Or a
                                         # URL (s3://bucket/videos): of the videos; table and labels then lie here
    layout = "..."                       # free text: which files go where; shown when they are missing
    note = "rendered data"               # free text, shown wherever scores of this data set appear
    links = "follow"                     # links below root may lead out of it (default: they are passed over, and told)

    [videos]                             # which videos; `glob` or `table`
    glob = ["videos/*.mp4"]              # patterns below root; a folder of numbered images matches as one video
    table = "videos.csv"                 # or a CSV below root: columns path [id group split fold fps] and labels
    columns = {path = "clip"}            # the table's own column names, where they differ
    id = "path"                          # "path" (videos/a.mp4 -> videos__a.mp4) or "stem" (a)
    group = '^(scene\\d+)'                # regular expression on the id; groups never cross folds (default: the id)
    split = {train = "a/*", val = "b/*"} # official split by pattern of the whole path; * crosses folders

    [tasks.violence]                     # labels per task
    format = "table"                     # columns label [start end] of the table: one row per video or per segment
    [tasks.va]
    format = "affwild2-va"               # or official annotation files, one per track
    train = "VA/Train_Set/*.txt"         # a pattern, or a list of them
    val = "VA/Validation_Set/*.txt"

A bare CSV or a folder of videos is a data set too: ``load_manifest("clips.csv")``. Every problem is reported at once,
with its place. Unknown keys are errors.
"""

from shared.manifest.loading import (
    TABLE_FORMAT,
    LabelTable,
    Manifest,
    ManifestError,
    Segment,
    TaskSource,
    Video,
    dataset_name_problem,
    load_manifest,
    name_from,
    read_toml,
)

__all__ = [
    "TABLE_FORMAT",
    "LabelTable",
    "Manifest",
    "ManifestError",
    "Segment",
    "TaskSource",
    "Video",
    "dataset_name_problem",
    "load_manifest",
    "name_from",
    "read_toml",
]
