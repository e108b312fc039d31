"""The table that ends a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from extract.faults.ledger import FailureLedger
from extract.jobs.summary import Summary
from shared.cache.types import leading_words, truncated_words


def print_summary(console: Console, summary: Summary, url: str, retry: str) -> None:
    """The table that ends a run: what was done, where the time went, what failed and why."""
    if summary.done:
        wall = max(summary.wall_s, 1e-9)
        console.print(
            f"{summary.num_frames} frames, {summary.num_windows} windows in {wall:.1f} s "
            f"({summary.num_frames / wall:.0f} frames/s, {summary.num_windows / wall:.1f} windows/s)"
        )
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary.seconds.items())
        console.print(f"busy seconds (stages overlap): {parts}")
    table = Table("", "videos", box=None, pad_edge=False)
    table.add_row("done", str(len(summary.done)))
    table.add_row("skipped (complete)", str(len(summary.skipped)))
    if summary.others:
        table.add_row("done by another run", str(len(summary.others)))
    table.add_row("failed", str(len(summary.failed)))
    if quarantined := sum(failure.quarantined for failure in summary.failed.values()):
        table.add_row("of these quarantined", str(quarantined))
    console.print(table)
    for failure in summary.failed.values():
        console.print(f"  {failure.path}: {failure.stage}: {failure.message} (attempts: {failure.attempts})")
    if summary.gaps:
        some = ", ".join(f"{path} ({count})" for path, count in list(summary.gaps.items())[:5])
        more = " ..." * (len(summary.gaps) > 5)
        console.print(
            f"{len(summary.gaps)} frame folders lack pictures; the nearest earlier one stands in: {some}{more}"
        )
    if summary.truncated:
        console.print(truncated_words(summary.truncated))
    if summary.leading:
        console.print(leading_words(summary.leading))
    for line in summary.captions.lines() if summary.captions is not None else ():
        console.print(line)
    if summary.failed:
        console.print(f"Failures are kept in {FailureLedger(url).location}. Try them again with: {retry}")
    if replaced := set(summary.recaptioned) & set(summary.done):
        console.print(f"text that came from a captions file was replaced in {len(replaced)} videos")
    if summary.left:
        console.print(f"{len(summary.left)} videos are damaged still, and nothing of it was replaced here:")
        for video, why in summary.left.items():
            console.print(f"  {video}: {why}")
    console.print(f"cache: {url}")
