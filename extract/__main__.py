"""Command line of stage 1. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="crossgru-extract",
    help="Stage 1: run frozen encoders over videos once and cache the features.\n\n"
    "A DATASET is the name of a manifest in data_manifests/ (demo, dvd, affwild2), a manifest (.toml), a table of "
    "videos (.csv with a column path), a folder of videos, or one video file.\n\n"
    "    python -m extract run demo --preset tiny        rendered demo, toy encoders, no download\n\n"
    "    python -m extract run dvd --preset base         published encoders; use a GPU\n\n"
    "    python -m extract status demo                   what is complete, what failed and why",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Dataset = Annotated[str, typer.Argument(help="Name, manifest .toml, table .csv, folder of videos, or one video.")]
Root = Annotated[Path | None, typer.Option(help="Where the data is, if not where the manifest says.")]
Cache = Annotated[str | None, typer.Option(help="Cache path or fsspec URL. [default: caches/DATASET.zarr]")]


@app.command()
def run(
    dataset: Dataset,
    preset: Annotated[
        str | None,
        typer.Option(help="tiny, tiny-minigpt (untrained toys, no download), base or large. [default: base]"),
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Take preset and options from another cache, or the cache of another DATASET.")
    ] = None,
    cache: Cache = None,
    root: Root = None,
    streams: Annotated[str, typer.Option(help="Comma-separated; adds to an existing cache.")] = "video,image,text",
    overwrite: Annotated[
        str, typer.Option(help="Streams to replace where of another recipe or damaged, or 'all'.")
    ] = "",
    retry_failed: Annotated[bool, typer.Option(help="Try videos again that failed before.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Videos decoded at once.")] = 2,
    stride: Annotated[int | None, typer.Option(min=1, help="Frames between window starts. [default: 16]")] = None,
    sampling: Annotated[str | None, typer.Option(help="centers or endpoints. [default: centers]")] = None,
    videoprism_weights: Annotated[Path | None, typer.Option(help="Official .npz, instead of a download.")] = None,
    clip_model: Annotated[str | None, typer.Option(help="Any open_clip model name.")] = None,
    clip_weights: Annotated[str | None, typer.Option(help="open_clip pretrained tag or local file.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16 for all encoders. [default: float32 on CPU, 16 bit on GPU]"),
    ] = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="Who writes the captions: minigpt4-vicuna-7b, minigpt4-vicuna-13b, minigpt4-llama2, minigpt-v2, "
            "hf-hub:OWNER/NAME, server, or offline (no download). docs/captions.md. [default: the preset's]"
        ),
    ] = None,
    caption_weights: Annotated[Path | None, typer.Option(help="Folder with the captioner's files; see doctor.")] = None,
    caption_prompt: Annotated[
        str | None,
        typer.Option(help="What is asked of a frame; a text with <ImageHere> replaces MiniGPT's whole conversation."),
    ] = None,
    caption_decoding: Annotated[
        str | None, typer.Option(help="greedy, or sample (MiniGPT and servers). [default: greedy]")
    ] = None,
    caption_seed: Annotated[int | None, typer.Option(help="Of --caption-decoding sample. [default: 0]")] = None,
    caption_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest caption, in tokens. [default: 300, models of the hub 100]")
    ] = None,
    caption_quantize: Annotated[
        str | None, typer.Option(help="int8 or int4 language model of MiniGPT, to save memory.")
    ] = None,
    caption_batch: Annotated[int | None, typer.Option(min=1, help="Frames captioned at once. [default: 32]")] = None,
    caption_server: Annotated[
        str | None,
        typer.Option(help="URL of an OpenAI-compatible server, for captioner server or MiniGPT's language half."),
    ] = None,
    caption_server_model: Annotated[
        str | None, typer.Option(help="Model on that server. [default: the one it serves]")
    ] = None,
    long_captions: Annotated[
        str | None, typer.Option(help="Beyond CLIP's 77 tokens: truncate or chunk-mean. [default: truncate]")
    ] = None,
    thumbnails: Annotated[
        bool | None, typer.Option(help="Keep a small picture of every captioned frame. [default: only with tiny]")
    ] = None,
) -> None:
    """Extract features. Safe to interrupt and to repeat: what is complete is skipped, what failed is in the ledger."""
    from extract import commands

    raise typer.Exit(
        commands.run(
            dataset,
            preset=preset,
            like=like,
            cache=cache,
            root=root,
            streams=streams,
            overwrite=overwrite,
            retry_failed=retry_failed,
            workers=workers,
            options={
                "stride": stride,
                "sampling": sampling,
                "videoprism_weights": str(videoprism_weights) if videoprism_weights else None,
                "clip_model": clip_model,
                "clip_weights": clip_weights,
                "dtype": dtype,
                "captioner": captioner,
                "caption_weights": str(caption_weights) if caption_weights else None,
                "caption_prompt": caption_prompt,
                "caption_decoding": caption_decoding,
                "caption_seed": caption_seed,
                "caption_max_new_tokens": caption_tokens,
                "caption_quantize": caption_quantize,
                "caption_batch_size": caption_batch,
                "caption_server": caption_server,
                "caption_server_model": caption_server_model,
                "long_captions": long_captions,
                "thumbnails": thumbnails,
            },
        )
    )


@app.command()
def status(dataset: Dataset, cache: Cache = None, root: Root = None) -> None:
    """Show what is complete, missing and failed."""
    from extract import commands

    raise typer.Exit(commands.status(dataset, cache=cache, root=root))


@app.command()
def verify(dataset: Dataset, cache: Cache = None) -> None:
    """Recompute every checksum of a cache; find missing, damaged and non-finite data."""
    from extract import commands

    raise typer.Exit(commands.verify(dataset, cache=cache))


@app.command()
def captions(
    dataset: Dataset,
    cache: Cache = None,
    video: Annotated[str | None, typer.Option(help="Only this video id.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a .csv or .parquet (video, frame, time_s, caption) instead.")
    ] = None,
) -> None:
    """List the captions in a cache, frame by frame, or write them to a file."""
    from extract import caption_commands

    raise typer.Exit(caption_commands.captions(dataset, cache=cache, video=video, file=out))


@app.command()
def recaption(
    dataset: Dataset,
    file: Annotated[Path, typer.Option("--from", help="The .csv or .parquet of 'captions --out', edited.")],
    cache: Cache = None,
    preset: Annotated[str | None, typer.Option(help="Whose CLIP. [default: the cache's]")] = None,
    clip_model: Annotated[str | None, typer.Option(help="Any open_clip model name. [default: the cache's]")] = None,
    clip_weights: Annotated[str | None, typer.Option(help="open_clip pretrained tag or local file.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. [default: as in run]")] = None,
    long_captions: Annotated[
        str | None, typer.Option(help="Beyond CLIP's 77 tokens: truncate or chunk-mean. [default: the cache's]")
    ] = None,
) -> None:
    """Replace the captions of a cache by those of a file and encode them again; no video is read.

    The file has one row for every captioned frame of every video. Safe to interrupt and to repeat.
    """
    from extract import caption_commands

    options = {
        "clip_model": clip_model,
        "clip_weights": clip_weights,
        "dtype": dtype,
        "long_captions": long_captions,
    }
    raise typer.Exit(caption_commands.recaption(dataset, file=file, cache=cache, preset=preset, options=options))


@app.command()
def doctor(
    dataset: Annotated[
        str | None, typer.Option(help="Check a downloaded data set: affwild2, dvd, or a manifest with official labels.")
    ] = None,
    root: Root = None,
    cache: Annotated[str | None, typer.Option(help="Take frame counts from this cache instead of containers.")] = None,
    captioner: Annotated[
        str | None, typer.Option(help="Check a captioner's files and memory, e.g. minigpt4-vicuna-7b.")
    ] = None,
    caption_weights: Annotated[Path | None, typer.Option(help="Folder with its files.")] = None,
    caption_tokens: Annotated[int | None, typer.Option(min=1, help="Longest caption, in tokens.")] = None,
    caption_batch: Annotated[int, typer.Option(min=1, help="Frames captioned at once.")] = 32,
    caption_server: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    caption_server_model: Annotated[str | None, typer.Option(help="Model on that server.")] = None,
) -> None:
    """Say what is there and what is missing: of a data set (0 all usable, 1 some, 2 nothing) or of a captioner.

    Nothing is decoded, downloaded or loaded.
    """
    from extract import doctor as commands
    from extract.config import CaptionerConfig

    if (dataset is None) == (captioner is None):
        raise typer.BadParameter("say what to check: --dataset affwild2|dvd with --root FOLDER, or --captioner NAME")
    if dataset is not None:
        raise typer.Exit(commands.dataset(dataset, root=root, cache=cache))
    config = CaptionerConfig(
        captioner or "",
        weights=str(caption_weights) if caption_weights else None,
        max_new_tokens=caption_tokens,
        batch_size=caption_batch,
        server=caption_server,
        server_model=caption_server_model,
    )
    raise typer.Exit(commands.captioner(config))


@app.command()
def demo(
    root: Annotated[Path, typer.Option(help="Where to put it.")] = Path("data/demo"),
    seed: Annotated[int, typer.Option(help="Another seed renders another data set.")] = 0,
) -> None:
    """Render the demo data set: videos with frame-level violence and valence-arousal labels."""
    from extract import commands

    raise typer.Exit(commands.demo(root, seed))


if __name__ == "__main__":
    app()
