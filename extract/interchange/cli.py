"""Options of `extract export` and `extract import`. Heavy imports live inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from extract.commands import options as o


def export(
    dataset: o.Dataset,
    output: Annotated[Path, typer.Option(help="The .h5 file, or the folder of Parquet tables, to write.")],
    format: Annotated[str, typer.Option(help="h5 (one HDF5 file) or parquet (a folder of tables).")] = "h5",
    streams: Annotated[str | None, typer.Option(help="Comma-separated. [default: all]")] = None,
    cache: o.Cache = None,
    root: o.Root = None,
    follow_links: o.FollowLinks = False,
    dtype: Annotated[
        str, typer.Option(help="Of features in Parquet: float16, or float32 for readers that lack float16.")
    ] = "float16",
    require_complete: Annotated[bool, typer.Option(help="Export nothing if a stream or video is missing.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace what is at --output.")] = False,
) -> None:
    """Copy the features of a cache into a format that other programs read. docs/interchange.md has the layouts.

    The output is there whole or not at all; an export that was cut short is done again.
    """
    from extract.interchange import commands

    raise typer.Exit(
        commands.export(
            dataset,
            form=format,
            output=output,
            cache=cache,
            root=root,
            follow_links=follow_links,
            streams=streams,
            dtype=dtype,
            require_complete=require_complete,
            overwrite=overwrite,
        )
    )


def import_(
    source: Annotated[Path, typer.Argument(help="Folder of .npy files, one .npy, or an HDF5 file.")],
    format: Annotated[str | None, typer.Option(help="npy or h5. [default: by the name of the source]")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set that the videos belong to: their names are checked.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="How the cache is to call the features.")] = None,
    cache: o.Cache = None,
    root: o.Root = None,
    follow_links: o.FollowLinks = False,
    frames: Annotated[
        str | None,
        typer.Option(
            help="Which frames the rows are of: every:4 (0, 4, ...), every:16:8 (8, 24, ...), centers or plan (the "
            "frames that the windows sample). [default: VIDEO.frames.npy beside; plan for (N, T, D)]"
        ),
    ] = None,
    nearest: Annotated[bool, typer.Option(help="Windows sample other frames: take the nearest row.")] = False,
    facts: Annotated[
        str | None, typer.Option(help="Frame counts and times: another cache, or a CSV video,num_frames,fps.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frame rate of videos whose rate nothing else says; what does must agree.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples per window. [default: of the arrays, or 16]")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Frames per window, of a new cache. [default: 64]")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Frames between windows, likewise. [default: 16]")] = None,
    sampling: Annotated[str | None, typer.Option(help="centers or endpoints, likewise. [default: centers]")] = None,
    name: Annotated[str, typer.Option(help="What made the features; kept in the recipe. [default: the stream]")] = "",
    note: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the recipe; repeatable.")] = None,
    overwrite: Annotated[str, typer.Option(help="The stream, to replace it where it is of another recipe.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Check everything, list it, write nothing.")] = False,
    file_timeout: Annotated[
        float,
        typer.Option(
            min=1.0, metavar="SECONDS", help="Give an HDF5 file up if its reader shows no sign of life for so long."
        ),
    ] = 60.0,
) -> None:
    """Bring features that were made elsewhere into a cache, or an exported HDF5 file back into one.

    Everything is checked before anything is written. Safe to interrupt and to repeat.
    """
    from extract.interchange import commands

    declared = {"frames": frames, "nearest": nearest, "samples": samples, "name": name, "note": note or []}
    raise typer.Exit(
        commands.import_features(
            source,
            form=format,
            dataset=dataset,
            cache=cache,
            root=root,
            follow_links=follow_links,
            stream=stream,
            declared=declared,
            window={"size": size, "stride": stride, "sampling": sampling},
            facts=facts,
            fps=fps,
            overwrite=overwrite,
            dry_run=dry_run,
            file_timeout=file_timeout,
        )
    )
