"""The page: self-contained, escaped, and there even if a run has one fold, few videos, holes or no captions."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from train.config import TrainConfig
from train.data.features import Caption
from train.data.labels import Track
from train.experiments.crossval import CrossValidation
from train.experiments.summary import summarise
from train.judging.evaluate import TrackScores, predictions_table
from train.judging.postprocess import apply_all, tune
from train.runs.files import write_json
from train.runs.folder import Run, create_run
from train.show.report import write_report
from train.show.training import percent
from train.tasks import TASKS

# matplotlib still calls what newer pyparsing has renamed; nothing of ours is behind it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")

EVIL = '<script>alert("x")</script><img src=http://evil/x.png>'


class Links(HTMLParser):
    """Collects every reference, script and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_data(self, data: str) -> None:
        self.text += data


def make_run(root: Path, task_name: str, num_tracks: int = 6, num_folds: int = 2, name: str = "clip") -> Run:
    task, rng, result = TASKS[task_name], np.random.default_rng(0), CrossValidation()
    for i in range(num_tracks):
        labels = rng.uniform(-1, 1, (40, len(task.label_names))).astype(np.float32)
        if task.kind in ("binary", "multilabel"):
            labels = (labels > 0).astype(np.float32)
        elif task.kind == "classes":
            labels = rng.integers(0, 8, (40, 1)).astype(np.float32)
        labels[5:9] = np.nan
        scores = np.clip(0.7 * labels + 0.1, *task.label_range).astype(np.float64)
        if task.kind == "classes":
            scores = rng.dirichlet(np.ones(8), 40)
        scores[10:14] = np.nan
        track = Track(f"{name}{i}", f"{name}{i}", f"g{i}", None, None, labels, "x")
        result.frames.append(TrackScores(track, scores, i % num_folds))
    settings = tune(task, result.frames)
    result.processed = apply_all(task, settings, result.frames)
    history = [
        {"epoch": e + 1, "train_loss": 1 / (e + 1), "val_loss": 1.0, "val_score": e / 9, "seconds": 0.1}
        for e in range(3)
    ]
    recipe = {"encoder": "clip", "model": EVIL, "weights": "random, seed 0"}
    config = {"dataset": "made", "task": task_name, "recipes": {"image": recipe}, "train": TrainConfig().to_dict()}
    run = create_run(root, f"made-{task_name}", config)
    for fold in range(num_folds):
        write_json(run.history(fold), {"best_epoch": 2, "history": history})
        result.fold_frames.append(0.5)
        result.fold_windows.append(0.5)
        result.fold_processed.append(0.25)
        result.settings.append(settings)
        result.best_epochs.append(2)
    floor = [replace(r, scores=np.full_like(r.scores, 0.25)) for r in result.frames]
    for r, known in zip(floor, result.frames, strict=True):
        r.scores[np.isnan(known.scores)] = np.nan
    frames = {"constant": floor, "video": result.frames}
    metrics = summarise(task, result, frames, left_out=1, processed={"video": result.processed})
    write_json(run.path / "metrics.json", metrics | {"head": "cross_gru", "notes": [EVIL], "labels": ["1 track"]})
    predictions_table(task, result.frames).to_parquet(run.path / "predictions.parquet", index=False)
    return run


def read(run: Run, captions=lambda video: []) -> tuple[Links, str]:
    page = write_report(run, captions)
    assert page == run.path / "report.html"
    text = page.read_text(encoding="utf-8")
    return Links(text), text


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path, task: str) -> None:
    links, page = read(make_run(tmp_path, task), lambda video: [Caption(8, EVIL, "/9j/4AAQ", 1.5), Caption(24, "calm")])
    assert links.links
    assert all(link.startswith(("data:image/svg+xml;base64,", "data:image/jpeg;base64,")) for link in links.links)
    assert "data:image/jpeg;base64,/9j/4AAQ" in links.links  # a thumbnail above its caption
    assert not links.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert "@import" not in page
    assert "url(" not in page
    assert EVIL not in page
    assert links.text.count(EVIL) >= 6  # shown as text: a caption per timeline, a note, a recipe
    for link in (link for link in links.links if "svg" in link):
        svg = base64.b64decode(link.partition(",")[2]).decode()
        assert not re.search(r'(?:href|src)="(?!#)(?!data:)', svg)
        assert "<script" not in svg


@pytest.mark.parametrize("task", TASKS)
def test_what_the_page_holds(tmp_path: Path, task: str) -> None:
    run = make_run(tmp_path, task)
    after = run.metrics["postprocessed"]
    links, page = read(run, lambda video: [Caption(8 * k, f"caption {k} of {video}") for k in range(30)])
    assert f"{run.metrics['value']:.3f}" in links.text
    assert len(re.findall(r"tested by fold", links.text)) == 4
    assert "constant prediction" in links.text
    assert "video stream alone" in links.text
    gap = run.metrics["differences"]["constant"]
    low, high = gap["interval"]
    assert f"{gap['value']:+.3f} ({low:.3f} to {high:.3f})" in links.text
    assert "+0.000 (0.000 to 0.000)" in links.text  # the "video" head is the main one here
    low, high = after["gain"]["interval"]
    assert f"it changes the score by {after['gain']['value']:+.3f} ({low:.3f} to {high:.3f})" in links.text
    assert f"{after['value']:.3f}" in links.text
    assert f"frame coverage {percent(run.metrics['coverage'])}" in " ".join(links.text.split())
    assert ("confusion matrix" if task in ("violence", "expr") else "prediction against truth") in page
    shown = re.findall(r"caption (\d+) of (clip\d)", links.text)
    assert len(shown) == 24  # six of thirty under each of four
    assert {k for k, _ in shown} >= {"0", "29"}
    again = write_report(run, lambda video: []).read_text(encoding="utf-8")
    assert "captioner wrote" not in again


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("num_tracks", "num_folds"), [(1, 1), (3, 3), (9, 1), (20, 10)])
def test_few_and_many(tmp_path: Path, task: str, num_tracks: int, num_folds: int) -> None:
    links, _ = read(make_run(tmp_path, task, num_tracks, num_folds))
    assert links.text.count("tested by fold") == min(4, num_tracks)
    assert f"fold {num_folds}" in links.text


@pytest.mark.parametrize("task", TASKS)
def test_a_track_without_scores_or_labels_does_not_stop_it(tmp_path: Path, task: str) -> None:
    import pandas as pd

    run = make_run(tmp_path, task, 2)
    table = pd.read_parquet(run.path / "predictions.parquet")
    first = table["track"] == "clip0"
    table.loc[first, [c for c in table if c.startswith("score")]] = np.nan
    table.to_parquet(run.path / "predictions.parquet")
    links, _ = read(run)
    assert "clip1" in links.text
    assert links.text.count("tested by fold") == 1


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'><svg/onload=alert(1)>",
        "{{7*7}}{% for x in y %}",
        "javascript:alert(1)",
        "</pre></script><script>alert(1)</script>",
        "<!--",
        r"$\frac{$ $x^2$ \undefined",
        "\u202eexe.\x1b[2J",
    ],
)
def test_every_text_of_others_stays_text(tmp_path: Path, evil: str) -> None:
    """Captions, thumbnails, tracks, videos, data set, notes, label lines, recipes, paths."""
    run = make_run(tmp_path, "va", 2, 1, name=evil)
    texts = dict.fromkeys(("dataset", "manifest", "cache", "root"), evil)
    recipe = {"encoder": evil, "model": evil, "weights": evil, evil: evil}
    config = run.config | texts | {"recipes": {evil: recipe}, "notes": [evil], "sources": {evil: evil}, evil: evil}
    write_json(run.path / "metrics.json", run.metrics | {"notes": [evil], "labels": [evil], "head": evil})
    harmless = Links(read(make_run(tmp_path, "va", 2, 1, name="plain"), lambda video: [Caption(8, "calm", "/9j/")])[1])
    links, page = read(Run(run.path, config), lambda video: [Caption(8, evil, evil, 1.5)])
    assert links.tags == harmless.tags | {"img"}  # nothing of it became an element
    assert all(link.startswith("data:image/") for link in links.links)
    assert not [name for name in links.attributes if name.startswith("on")]
    assert " ".join(evil.split()) in " ".join(links.text.split())
    assert "{{7*7}}" in page or "7*7" not in evil
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert "script" not in policy  # none is allowed, whatever finds its way in


def test_names_are_escaped(tmp_path: Path) -> None:
    links, page = read(make_run(tmp_path, "violence", 2, 1, name="<b>&amp;"))
    assert "<b>&amp;0" in links.text
    assert "<b>&amp;0" not in page
