"""Command line of stage 1. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from shared.process.interrupts import listen

if __name__ == "__main__":
    listen()

import typer

from extract.commands import options as o
from extract.interchange.cli import export, import_

app = typer.Typer(
    name="crossgru-extract",
    help="Stage 1: run frozen encoders over videos once and cache the features.\n\n"
    "A DATASET is the name of a manifest in data_manifests/ (demo, dvd, affwild2), a manifest (.toml), a table of "
    "videos (.csv with a column path), a folder of videos, or one video file.\n\n"
    "    python -m extract run demo --preset mini        rendered demo, miniature encoders, no download\n\n"
    "    python -m extract plan dvd --preset base        what that would take: frames, bytes, hours\n\n"
    "    python -m extract run dvd --preset base         published encoders; use a GPU\n\n"
    "    python -m extract status demo                   what is complete, what failed and why\n\n"
    "Ctrl-C and SIGTERM end every command with status 130 and a line that says how to go on.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    dataset: o.Dataset,
    preset: o.Preset = None,
    like: o.Like = None,
    cache: o.Cache = None,
    root: o.Root = None,
    follow_links: o.FollowLinks = False,
    streams: o.Streams = "video,image,text",
    shard: o.OneShard = None,
    overwrite: Annotated[
        str,
        typer.Option(
            help="Streams to replace where of another recipe or damaged, or 'all'; or 'damaged': what does not have "
            "its checksums, and nothing of another recipe."
        ),
    ] = "",
    retry_failed: Annotated[
        bool,
        typer.Option(
            help="Try all videos again that failed before. Without it a run tries those once more whose failure may be "
            "the machine's; after two failures, or one that is plainly the file's, a video waits for this option or "
            "for its file to change."
        ),
    ] = False,
    include_truncated: Annotated[
        bool,
        typer.Option(
            help="Take videos that end early as far as they go. Without it they fail; with it status and every report "
            "name them, with the frames that were decoded and promised."
        ),
    ] = False,
    workers: o.Workers = 2,
    video_timeout: o.VideoTimeout = 60.0,
    gpu_memory: o.GpuMemory = None,
    device: o.Device = "auto",
    engine: o.Engine = "local",
    address: o.Address = None,
    actors: o.Actors = None,
    stride: o.Stride = None,
    sampling: o.Sampling = None,
    videoprism_weights: o.VideoprismWeights = None,
    clip_model: o.ClipModel = None,
    clip_weights: o.ClipWeights = None,
    dtype: o.Dtype = None,
    captioner: o.Captioner = None,
    caption_weights: o.CaptionWeights = None,
    caption_prompt: o.CaptionPrompt = None,
    caption_decoding: o.CaptionDecoding = None,
    caption_seed: o.CaptionSeed = None,
    caption_tokens: o.CaptionTokens = None,
    caption_quantize: o.CaptionQuantize = None,
    caption_batch: o.CaptionBatch = None,
    caption_server: o.CaptionServer = None,
    caption_server_model: o.CaptionServerModel = None,
    long_captions: o.LongCaptions = None,
    thumbnails: o.Thumbnails = None,
) -> None:
    """Extract features. Safe to interrupt and to repeat: what is complete is skipped, what failed is in the ledger."""
    from extract.commands.run import run as command

    raise typer.Exit(
        command(
            dataset,
            preset=preset,
            like=like,
            cache=cache,
            root=root,
            follow_links=follow_links,
            streams=streams,
            shard=shard,
            overwrite=overwrite,
            retry_failed=retry_failed,
            include_truncated=include_truncated,
            workers=workers,
            video_timeout=video_timeout,
            gpu_memory=gpu_memory,
            device=device,
            engine=engine,
            address=address,
            actors=actors,
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
def plan(
    dataset: Annotated[str | None, typer.Argument(help="As for run.", show_default=False)] = None,
    dataset_: Annotated[str | None, typer.Option("--dataset", help="The same as the argument.")] = None,
    preset: o.Preset = None,
    like: o.Like = None,
    cache: o.Cache = None,
    root: o.Root = None,
    follow_links: o.FollowLinks = False,
    streams: o.Streams = "video,image,text",
    workers: o.Workers = 2,
    gpu_memory: o.GpuMemory = None,
    shards: o.Shards = None,
    calibrate: Annotated[bool, typer.Option(help="Time every stage on this machine, 20 seconds at most.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file, too.")] = None,
    stride: o.Stride = None,
    sampling: o.Sampling = None,
    clip_model: o.ClipModel = None,
    dtype: o.Dtype = None,
    captioner: o.Captioner = None,
    caption_weights: o.CaptionWeights = None,
    caption_tokens: o.CaptionTokens = None,
    caption_quantize: o.CaptionQuantize = None,
    caption_batch: o.CaptionBatch = None,
    caption_server: o.CaptionServer = None,
    thumbnails: o.Thumbnails = None,
) -> None:
    """Say what 'run' with the same options would cost: frames, windows, bytes and hours. Nothing is downloaded."""
    from extract.commands.plan import plan as command

    if dataset is None or dataset_ is not None:
        if (dataset is None) == (dataset_ is None):
            raise typer.BadParameter("say which data set, once: plan DATASET, or plan --dataset DATASET")
        dataset = dataset_
    options = {
        "stride": stride,
        "sampling": sampling,
        "clip_model": clip_model,
        "dtype": dtype,
        "captioner": captioner,
        "caption_weights": str(caption_weights) if caption_weights else None,
        "caption_max_new_tokens": caption_tokens,
        "caption_quantize": caption_quantize,
        "caption_batch_size": caption_batch,
        "caption_server": caption_server,
        "thumbnails": thumbnails,
    }
    raise typer.Exit(
        command(
            str(dataset),
            preset=preset,
            like=like,
            cache=cache,
            root=root,
            follow_links=follow_links,
            streams=streams,
            workers=workers,
            gpu_memory=gpu_memory,
            shards=shards,
            calibrated=calibrate,
            json_file=json,
            options=options,
        )
    )


@app.command()
def status(dataset: o.Dataset, cache: o.Cache = None, root: o.Root = None, follow_links: o.FollowLinks = False) -> None:
    """Show what is complete, missing and failed."""
    from extract.commands.status import status as command

    raise typer.Exit(command(dataset, cache=cache, root=root, follow_links=follow_links))


@app.command()
def verify(dataset: o.Dataset, cache: o.Cache = None, root: o.Root = None, follow_links: o.FollowLinks = False) -> None:
    """Recompute every checksum of a cache; find missing, damaged and non-finite data."""
    from extract.commands.verify import verify as command

    raise typer.Exit(command(dataset, cache=cache, root=root, follow_links=follow_links))


@app.command()
def index(
    dataset: o.Dataset,
    cache: o.Cache = None,
    rebuild: Annotated[bool, typer.Option(help="Look at every video, whatever the index says.")] = False,
) -> None:
    """Put the index of a large cache in order, which status, resumed runs and training read instead of every video.

    It is kept by itself. Rebuild it where files of the cache were changed by other means.
    """
    from extract.commands.index import index as command

    raise typer.Exit(command(dataset, cache=cache, rebuild=rebuild))


@app.command()
def captions(
    dataset: o.Dataset,
    cache: o.Cache = None,
    video: Annotated[str | None, typer.Option(help="Only this video id.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a .csv or .parquet (video, frame, time_s, caption) instead.")
    ] = None,
) -> None:
    """List the captions in a cache, frame by frame, or write them to a file."""
    from extract.commands.captions import captions as command

    raise typer.Exit(command(dataset, cache=cache, video=video, file=out))


@app.command()
def recaption(
    dataset: o.Dataset,
    file: Annotated[Path, typer.Option("--from", help="The .csv or .parquet of 'captions --out', edited.")],
    cache: o.Cache = None,
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
    from extract.commands.captions import recaption as command

    options = {
        "clip_model": clip_model,
        "clip_weights": clip_weights,
        "dtype": dtype,
        "long_captions": long_captions,
    }
    raise typer.Exit(command(dataset, file=file, cache=cache, preset=preset, options=options))


app.command()(export)
app.command("import")(import_)


@app.command()
def doctor(
    dataset: Annotated[
        str | None, typer.Option(help="Check a downloaded data set: affwild2, dvd, or a manifest with official labels.")
    ] = None,
    root: o.Root = None,
    follow_links: o.FollowLinks = False,
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
    from extract.commands import doctor as commands
    from extract.config import CaptionerConfig

    if (dataset is None) == (captioner is None):
        raise typer.BadParameter("say what to check: --dataset affwild2|dvd with --root FOLDER, or --captioner NAME")
    if dataset is not None:
        raise typer.Exit(commands.dataset(dataset, root=root, cache=cache, follow_links=follow_links))
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
    from extract.commands.demo import demo as command

    raise typer.Exit(command(root, seed))


def main() -> None:
    """The program."""
    listen()
    app()


if __name__ == "__main__":
    main()
