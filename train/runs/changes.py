"""Is the data still what a run was trained on? Labels and features are compared by their digests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from shared.cache import CacheError, FeatureCache
from shared.manifest import load_manifest
from train.data.features import cached_videos, stored_digest
from train.data.labels import Track
from train.data.own_task import with_labels
from train.data.spans import frame_times
from train.data.tracks import labels_digest, read_tracks
from train.runs.folder import Run

TRAIN_AGAIN = "put the old files back, or train a new run"


def changes_since(run: Run, store: FeatureCache | None) -> list[str]:
    """What of a run's own data is another now, one line each; also where that could not be looked at.

    Args:
        run: with the places of its data set, as they were when it was trained.
        store: its cache; None where it is gone.
    """
    if store is None:
        return []
    return [*changed_features(run, store), *_changed_files(run, store)]


def changed_features(run: Run, store: FeatureCache) -> list[str]:
    """Streams of the run's cache whose features are others now; none for a run that did not note them."""
    noted, lines = run.config.get("stored_sha256"), []
    if not isinstance(noted, dict) or store.url != run.config["cache"]:
        return []
    try:
        found = {v: store.find(v, noted)[1] for v in run.config["videos"]}
    except CacheError as error:
        return [f"features of this run are no longer in {store.url} ({error}); {TRAIN_AGAIN}"]
    for stream, digest in noted.items():
        if stored_digest({v: streams[stream] for v, streams in found.items()}) != digest:
            lines.append(
                f"stream {stream!r} of {store.url} was extracted again since this run was trained; {TRAIN_AGAIN}"
            )
    return lines


def changed_labels(run: Run, tracks: Sequence[Track]) -> list[str]:
    """Whether tracks that the run knows have other labels now; tracks that it does not know count for nothing."""
    names = set(run.config["folds"])
    known = [track for track in tracks if track.name in names]
    if len(known) < len(names):
        return [f"{len(names) - len(known)} tracks that this run was trained on have no labels now; {TRAIN_AGAIN}"]
    if labels_digest(known) != run.config["labels_sha256"]:
        return [f"labels have changed since this run was trained on them; {TRAIN_AGAIN}"]
    return []


def _changed_files(run: Run, store: FeatureCache) -> list[str]:
    """The same of the labels that stand where they stood."""
    source, root = Path(str(run.config.get("manifest", ""))), run.config.get("root")
    if root is None:  # an older run
        return []
    try:
        manifest = load_manifest(source, root, cached=store.paths().values(), follow_links=True)  # opens no video
        num_frames = cached_videos(store, list(run.config["fingerprints"]))[0]
        tracks, _ = read_tracks(with_labels(manifest, run.task), run.task, num_frames, partial(frame_times, store))
    except (ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        return [f"whether the labels are still those that this run was trained on cannot be told: {reason}"]
    return changed_labels(run, tracks)
