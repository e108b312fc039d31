"""The commands about captions: look at them, take them out, put others in. Statuses: extract/commands/__init__.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extract.captions.files import NEEDED, CaptionRow, check_out, read_captions, write_captions
from extract.commands.parts import err, explained, out
from extract.encoders.captioners.quality import CaptionCounts
from shared.cache import CacheError, FeatureCache
from shared.datasets import cache_of
from shared.recipe import Recipe, diff_recipes


@explained
def captions(dataset: str, *, cache: str | None, video: str | None, file: Path | None) -> int:
    """``extract captions``."""
    if file is not None:
        check_out(file)
    store = FeatureCache.open(cache_of(dataset, cache))
    ids = store.video_ids()
    if video is not None and video not in ids:
        raise CacheError(
            f"no video {video!r} in {store.url}; there are: {', '.join(ids[:10])}{' ...' * (len(ids) > 10)}"
        )
    rows: list[CaptionRow] = []
    counts = CaptionCounts()
    for name in [video] if video else ids:
        if "text" not in store.streams(name):
            continue
        data, info = store.read(name, "text"), store.info(name)
        assert info is not None
        assert data.frames is not None
        assert data.captions is not None
        counts.add(name, data.captions)
        rows += [
            CaptionRow(name, f, float(info.pts[f]), c) for f, c in zip(data.frames.tolist(), data.captions, strict=True)
        ]
    if file is not None:
        write_captions(file, rows)
        out.print(f"{len(rows)} captions -> {file}")
        for line in counts.lines() if counts.kinds else ():
            out.print(line)
        return 0
    if not rows:
        err.print(f"no captions in {store.url}")
    for row in rows:
        out.print(f"{row.video}  frame {row.frame:>6}  {row.time_s:8.2f} s  {row.caption}")
    return 0


@explained
def recaption(dataset: str, *, file: Path, cache: str | None, preset: str | None, options: Mapping[str, Any]) -> int:
    """``extract recaption``."""
    from extract.captions.recaption import captioned_frames, check_captions, recipe_of
    from extract.captions.recaption import recaption as replace
    from extract.config import find_preset, with_options
    from extract.show.progress import StepDisplay

    url = cache_of(dataset, cache)
    store = FeatureCache.open(url)
    made = store.made_with
    if not made and preset is None:
        raise CacheError(f"{url} does not say which preset made it; give --preset and the options of its CLIP")
    config = with_options(
        find_preset(preset or made["preset"]),
        **{**made.get("options", {}), **{k: v for k, v in options.items() if v is not None}},
    )
    found, frames = read_captions(file), captioned_frames(store)
    check_captions(url, frames, found)
    if found.ignored:
        some = ", ".join(map(repr, found.ignored[:5])) + ", ..." * (len(found.ignored) > 5)
        err.print(f"note: {len(found.ignored)} columns of {file} are ignored: {some}; read: {', '.join(NEEDED)}")

    with err.status("loading CLIP"):
        from extract.encoders.clip import load_clip
        from extract.encoders.text import CaptionTower

        tower = CaptionTower(load_clip(config.clip), config.long_captions)
    recipe = recipe_of(found, tower)
    err.print(
        f"{found.num_captions} captions of {len(frames)} videos from {file}; CLIP {recipe['model']}, "
        f"{recipe['weights']}, long captions: {config.long_captions} -> {url}"
    )
    for line in _other_changes(store, recipe):
        err.print(f"note: not only the captions change: {line}")
    if not tower.trained:
        err.print("note: untrained encoder (random weights) for text; not a result")
    counts = CaptionCounts(tower.num_tokens, tower.context_length, tower.long_captions)
    for name, captions_of in found.videos.items():
        counts.add(name, [*captions_of.values()])
    writable = FeatureCache.create(url, dataset=store.dataset, window=store.window)
    with StepDisplay(err, "encoding captions of", "videos") as display:
        done = replace(writable, frames, found, tower, display.reached, display.waits)
    out.print(f"text of {len(done.done)} videos is now that of {file}, {len(done.skipped)} had it already")
    if done.unreadable:
        some = ", ".join(done.unreadable[:5]) + " ..." * (len(done.unreadable) > 5)
        out.print(f"{len(done.unreadable)} of the old ones were damaged, their pictures (thumbnails) are lost: {some}")
    for line in counts.lines():
        out.print(line)
    out.print(f"cache: {url}")
    return 0


def _other_changes(store: FeatureCache, recipe: Recipe) -> list[str]:
    """How text streams of a recipe differ from the first one that is cached, captioners aside."""
    old = next((s["text"] for s in map(store.streams, store.video_ids()) if "text" in s), recipe)
    lines = diff_recipes({**old, "captioner": None}, {**recipe, "captioner": None})
    return [line.replace("asked for", "now") for line in lines]
