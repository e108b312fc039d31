"""What a data set's checkup looks like in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from extract.jobs.dataset_doctor import Checkup, Part

SHOWN = 5


def print_checkup(console: Console, found: Checkup) -> None:
    """Videos, labels and their match as tables; then what cannot be used and why; then the verdict."""
    console.print(f"{found.name} in {found.root}\n")
    table = Table("videos in", "number", "of which", box=None, pad_edge=False)
    for place, kinds in sorted(found.places.items()):
        words = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        table.add_row(place, str(kinds.total()), words)
    for place, count in found.crops.items():
        table.add_row(place, str(count), "tracks of face crops, for the data set affwild2-faces")
    print_table(console, table)
    console.print()
    columns = ("labels", "split", "files", "official", "usable", "videos", "rows", "invalid", "no video", "refused")
    table = Table(*columns, f"rows against frames ({found.counted})", box=None, pad_edge=False)
    for part in found.parts:
        table.add_row(*_cells(part), _lengths(part))
    print_table(console, table)
    console.print()
    _tell(console, found)
    names = dict.fromkeys(part.task for part in found.parts)
    for task in names:
        parts = [part for part in found.parts if part.task == task]
        usable = ", ".join(f"{len(p.tracks)} {p.split}" for p in parts if p.tracks)
        console.print(f"{task}: will use {usable + ' tracks' if usable else 'nothing'}")
        refused = sum(len(p.refused) for p in parts)
        if refused and usable:
            console.print(f"  but training on {task} stops at the {refused} refused files: mend or remove them first")
    verdict = ("all that is there can be used", "some of it cannot be used", "nothing can be used")
    console.print(verdict[found.exit_status])


def _cells(part: Part) -> tuple[str, ...]:
    return (
        part.task,
        part.split,
        str(part.files),
        str(part.official or "?"),
        str(len(part.tracks)),
        str(len(set(part.tracks.values()))),
        f"{part.rows:,}",
        f"{part.invalid:,}",
        str(len(part.without_video)),
        str(len(part.refused)),
    )


def _lengths(part: Part) -> str:
    """How many tracks have as many rows as frames, more, or fewer."""
    if not part.tracks:
        return "-"
    off = part.off.values()
    words = [f"{sum(d == 0 for d in off)} equal"]
    words += [f"{sum(d > 0 for d in off)} longer (up to +{max(off)})"] if any(d > 0 for d in off) else []
    words += [f"{sum(d < 0 for d in off)} shorter (up to {min(off)})"] if any(d < 0 for d in off) else []
    unknown = len(part.tracks) - len(part.off)
    return ", ".join(words + ([f"{unknown} unknown"] if unknown else []))


def _tell(console: Console, found: Checkup) -> None:
    refused = [line for part in found.parts for line in part.refused]
    without = [f"{part.task} {track}" for part in found.parts for track in part.without_video]
    for lines, what in ((found.broken, "videos cannot be opened"), (refused, "label files are refused")):
        if lines:
            console.print(f"{len(lines)} {what}:")
            for line in lines[:SHOWN]:
                console.print(f"  {line}")
            if len(lines) > SHOWN:
                console.print(f"  ... and {len(lines) - SHOWN} more")
    for names, what in (
        (without, "label files have no video"),
        (found.crossing, "groups lie in train and val of one task"),
        (found.unlabelled, "videos have no label (test videos have none)"),
        (
            found.mixed,
            "tracks are for training in one task and for testing in another: do not train those tasks together",
        ),
        (found.others, "other files are ignored"),
        ([f"{count} {name}" for name, count in sorted(found.strays.items())], "kinds of strays are ignored by name"),
    ):
        if names:
            console.print(f"{len(names)} {what}: {_some(names)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def print_table(console: Console, table: Table) -> None:
    """A table at its own width: rich would cut it to 80 columns in a log file."""
    table.width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.print(table, crop=False, soft_wrap=True)
