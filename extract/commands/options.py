"""Options that several commands of the command line share. Plain words for --help; nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[str, typer.Argument(help="Name, manifest .toml, table .csv, folder of videos, or one video.")]
Root = Annotated[
    str | None, typer.Option(help="Where the videos are, if not where the manifest says: a folder, or a URL for run.")
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Follow links that lead out of the folder of the data set.")
]
Cache = Annotated[str | None, typer.Option(help="Cache path or fsspec URL. [default: caches/DATASET.zarr]")]
Preset = Annotated[
    str | None,
    typer.Option(help="mini (small, trained), tiny, tiny-minigpt (untrained), base or large. [default: base]"),
]
Like = Annotated[
    str | None, typer.Option(help="Take preset and options from another cache, or the cache of another DATASET.")
]
OneShard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only the I-th of N parts of the data set, balanced by frames: one command per process of an array, on "
        "one cache. docs/scaling.md. [default: everything]",
    ),
]
Shards = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Say also what each of so many shards would take.")
]
Streams = Annotated[str, typer.Option(help="Comma-separated; adds to an existing cache.")]
Workers = Annotated[int, typer.Option(min=1, help="Videos decoded at once.")]
VideoTimeout = Annotated[
    float,
    typer.Option(min=1.0, metavar="SECONDS", help="Give a video up if its decoder shows no sign of life for so long."),
]
Engine = Annotated[
    str,
    typer.Option(help="local, or ray: encoders and decoders on the machines of a Ray cluster. docs/scaling.md."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of the Ray cluster: auto, HOST:PORT or ray://HOST:PORT. [default: RAY_ADDRESS, or this machine]"
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(min=1, help="Encoder processes on the Ray cluster. [default: one for each of its GPUs, or 1]"),
]
GpuMemory = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="GIB",
        help="Memory that the encoders may take on the GPU (without one: main memory); all batch sizes follow from it. "
        "docs/speed.md. [default: most of what is free on the GPU; the preset's sizes on a CPU]",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, gpu or cpu. gpu: an error if JAX or torch, whichever a stream needs, sees none. auto: an error "
        "only if one of them misses a GPU that is there."
    ),
]
Stride = Annotated[int | None, typer.Option(min=1, help="Frames between window starts. [default: 16]")]
Sampling = Annotated[str | None, typer.Option(help="centers or endpoints. [default: centers]")]
VideoprismWeights = Annotated[Path | None, typer.Option(help="Official .npz, instead of a download.")]
ClipModel = Annotated[str | None, typer.Option(help="Any open_clip model name.")]
ClipWeights = Annotated[str | None, typer.Option(help="open_clip pretrained tag or local file.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32 or bfloat16 for all encoders. [default: float32 on CPU, 16 bit on GPU]"),
]
Captioner = Annotated[
    str | None,
    typer.Option(
        help="Who writes the captions: minigpt4-vicuna-7b, minigpt4-vicuna-13b, minigpt4-llama2, minigpt-v2, "
        "hf-hub:OWNER/NAME, server, or offline (no download). docs/captions.md. [default: the preset's]"
    ),
]
CaptionWeights = Annotated[Path | None, typer.Option(help="Folder with the captioner's files; see doctor.")]
CaptionPrompt = Annotated[
    str | None,
    typer.Option(help="What is asked of a frame; a text with <ImageHere> replaces MiniGPT's whole conversation."),
]
CaptionDecoding = Annotated[str | None, typer.Option(help="greedy, or sample (MiniGPT and servers). [default: greedy]")]
CaptionSeed = Annotated[int | None, typer.Option(help="Of --caption-decoding sample. [default: 0]")]
CaptionTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest caption, in tokens. [default: 300, models of the hub 100]")
]
CaptionQuantize = Annotated[str | None, typer.Option(help="int8 or int4 language model of MiniGPT, to save memory.")]
CaptionBatch = Annotated[
    int | None, typer.Option(min=1, help="Frames captioned at once. [default: 32; on a GPU by --gpu-memory]")
]
CaptionServer = Annotated[
    str | None,
    typer.Option(help="URL of an OpenAI-compatible server, for captioner server or MiniGPT's language half."),
]
CaptionServerModel = Annotated[str | None, typer.Option(help="Model on that server. [default: the one it serves]")]
LongCaptions = Annotated[
    str | None, typer.Option(help="Beyond CLIP's 77 tokens: truncate or chunk-mean. [default: truncate]")
]
Thumbnails = Annotated[
    bool | None, typer.Option(help="Keep a small picture of every captioned frame. [default: only with mini and tiny]")
]
