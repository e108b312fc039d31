"""What goes wrong in published code for these data sets, a test for each: none of it may happen here."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.cache import CacheError
from shared.labels.annotations import annotation_files
from shared.labels.formats import read_affwild2_au, read_affwild2_expr, read_affwild2_va, read_dvd_csv
from shared.manifest import ManifestError, load_manifest
from train.config import TrainConfig
from train.data.features import build_windows, cached_videos, load_features, window_labels
from train.data.labels import Track, align
from train.data.tracks import read_tracks
from train.experiments.crossval import CrossValidation, assign_folds, cross_validate, split_windows
from train.experiments.summary import summarise
from train.fit.losses import ccc, mse, mse_ccc
from train.fit.priors import prior_line
from train.judging.evaluate import TrackScores, evaluate_frames
from train.judging.metrics import va_scores
from train.judging.oracle import oracle_frames
from train.judging.postprocess import PostProcess, apply_all, smooth
from train.submission.check import check_flat
from train.submission.files import nearest_valid, read_flat_template, row_values, write_flat
from train.tasks import TASKS

REPO = Path(__file__).resolve().parents[2]
CONFIG = TrainConfig(head="image", head_options={"hidden": 8}, max_epochs=2, learning_rate=0.02, num_folds=3)


def sources(*stages: str) -> Iterator[tuple[Path, ast.Module]]:
    for stage in stages:
        for file in sorted((REPO / stage).rglob("*.py")):
            yield file, ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_pitfall_01_off_by_one(tmp_path: Path, clips, cache) -> None:
    """Row i of a label file, file number i + 1 of a template and decoder index i are one frame, to the last."""
    file = tmp_path / "105.txt"
    file.write_text("valence,arousal\n0.1,0\n0.2,0\n0.3,0\n")
    assert read_affwild2_va(file)[2, 0] == np.float32(0.3)
    file.write_text("Frame_Number,Label\n1,1\n2,0\n3,1\n")
    assert read_dvd_csv(file)[:, 0].tolist() == [1, 0, 1]
    file.write_text("image_location,valence,arousal\n105/00001.jpg,0,0\n105/00003.jpg,0,0\n")
    template = read_flat_template(TASKS["va"], file)
    scores = np.array([[0.1, 0], [0.2, 0], [0.3, 0]])
    found, borrowed = nearest_valid(scores, template.frames["105"])
    assert (found[:, 0].tolist(), borrowed) == ([0.1, 0.3], 0)
    # and the features of a window are those of its own frames: the made-up cache holds labels as features
    plan = load_features(cache, [clips[0].id], ["image"]).plans[clips[0].id]
    assert plan.frames["image"][0].tolist() == [2, 6, 10, 14]


def test_pitfall_02_header_counts_and_frame_rates_are_not_believed() -> None:
    """Frames are counted by decoding; labels shorter or longer are aligned by index, counted, and never rescaled."""
    labels = np.arange(50, dtype=np.float32)[:, None]
    for num_frames in (1, 49, 50, 51, 99):
        aligned, report = align(labels, num_frames)
        kept = min(50, num_frames)
        assert aligned[:kept, 0].tolist() == list(range(kept))
        assert np.isnan(aligned[kept:]).all()
        assert (report.missing, report.extra) == (max(num_frames - 50, 0), max(50 - num_frames, 0))
    users = [
        file.name
        for file, tree in sources("train", "shared")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "fps"
    ]
    # Stage 2 computes no frame from a rate. A rate that a tool states is compared with the video's, and one that a tool
    # wants to read is written.
    assert set(users) == {"label_files.py", "spans.py", "segments.py", "writing.py"}


def test_pitfall_03_invalid_values_are_masked_before_any_mean(tmp_path: Path) -> None:
    """-5 and -1 enter no window mean, no smoothing, no ceiling and no score."""
    file = tmp_path / "105.txt"
    file.write_text("valence,arousal\n" + "-5,-5\n0.5,0.5\n" * 4)
    labels = read_affwild2_va(file)
    assert window_labels(labels, np.array([0]), np.array([8]), "mean", 0.5).tolist() == [[0.5, 0.5]]
    track = Track("105", "105", "105", None, None, labels, "x")
    (ceiling,) = oracle_frames(TASKS["va"], [track], 8, 8)
    assert np.allclose(ceiling.scores, 0.5)
    rng = np.random.default_rng(0)
    many = np.clip(rng.normal(0, 0.3, (400, 2)), -1, 1)
    pred = many + rng.normal(0, 0.1, many.shape)
    hidden = np.where(rng.random(400)[:, None] < 0.3, np.nan, many)
    keep = np.isfinite(hidden[:, 0])
    assert va_scores(pred, hidden) == va_scores(pred[keep], many[keep])
    file.write_text("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n" + "-1\n" * 3 + "5\n" * 4)
    assert window_labels(read_affwild2_expr(file), np.array([0]), np.array([7]), "majority", 0.5).tolist() == [[5.0]]
    header = "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
    file.write_text(header + "\n" + ("1," * 11 + "1\n") * 4 + ("0," * 11 + "-1\n") * 3)
    assert window_labels(read_affwild2_au(file), np.array([0]), np.array([7]), "majority", 0.5).tolist() == [[1.0] * 12]
    file.write_text("Frame_Number,Label\n1,1\n5,1\n")  # gaps are not "non-violent"
    assert window_labels(read_dvd_csv(file), np.array([0]), np.array([5]), "majority", 0.3).tolist() == [[1.0]]
    scores = np.array([[1.0], [np.nan], [3.0]])
    assert smooth(scores, 1)[[0, 2], 0].tolist() == [1.0, 3.0]


def test_pitfall_04_ccc_of_constant_labels_teaches_nothing() -> None:
    """Inside a window of one label the covariance is 0: CCC alone has nothing to pull with, MSE has."""
    targets = torch.full((8, 2), 0.4)
    outputs = torch.linspace(-0.5, 0.5, 16).reshape(8, 2).requires_grad_()
    assert ccc(outputs, targets).item() == pytest.approx(1.0)
    (pull,) = torch.autograd.grad(mse(outputs, targets), outputs)
    assert (pull.abs() > 1e-3).all()
    (both,) = torch.autograd.grad(mse_ccc(outputs, targets), outputs)
    torch.testing.assert_close(both, pull, atol=1e-4, rtol=0)  # what remains is the MSE
    assert TASKS["va"].default_loss == "mse"


def test_pitfall_05_post_processing_is_tuned_on_training_folds_and_told_apart(problem) -> None:
    """The part that chooses is neither tested nor learned from, and raw scores stay the first ones of a run."""
    p = problem("va")
    folds = np.arange(len(p.tracks)) // 2 % 3
    splits = split_windows(CONFIG, p.tracks, p.windows, folds)
    groups = np.array([p.tracks[i].group for i in p.windows.track])
    for split in splits:
        parts = [set(groups[getattr(split, name)]) for name in ("test", "train", "val")]
        assert all(not a & b for i, a in enumerate(parts) for b in parts[i + 1 :])
    metrics = summarise(p.task, cross_validate(p.task, CONFIG, p.features, p.tracks, p.windows, splits), {})
    assert metrics["value"] == metrics["scores"]["ccc_mean"]
    assert metrics["postprocessed"]["value"] == metrics["postprocessed"]["scores"]["ccc_mean"]
    assert len(metrics["postprocessed"]["settings"]) == 3


def test_pitfall_06_systems_are_compared_at_equal_smoothing() -> None:
    """Smoothing alone is worth more than most models: a head is compared raw with raw, processed with processed."""
    rng, result = np.random.default_rng(0), CrossValidation()
    noisy = []
    for i in range(6):
        labels = np.clip(np.sin(np.arange(300)[:, None] / rng.uniform(20, 40, 2)), -1, 1).astype(np.float32)
        track = Track(f"t{i}", f"v{i}", f"g{i}", None, None, labels, "x")
        noisy.append(TrackScores(track, np.clip(labels + rng.normal(0, 0.8, labels.shape), -1, 1), 0))
    settings = PostProcess((10, 10))
    result.frames, result.processed = noisy, apply_all(TASKS["va"], settings, noisy)
    result.settings, result.fold_frames, result.fold_processed, result.fold_windows = [settings], [0.0], [0.0], [0.0]
    metrics = summarise(TASKS["va"], result, {"twin": noisy}, processed={"twin": result.processed})
    assert metrics["postprocessed"]["gain"]["value"] > 0.1
    assert metrics["differences"]["twin"]["value"] == metrics["postprocessed"]["differences"]["twin"]["value"] == 0


def test_pitfall_07_submissions_have_every_row_once_and_no_nan(tmp_path: Path) -> None:
    """One row per template row in template order, clamped, whole numbers, two fields under the nine names of EXPR."""
    template = tmp_path / "t.txt"
    header = "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
    rows = [f"{track}/{n:05d}.jpg" for track in ("b", "a_left") for n in range(1, 6)]
    template.write_text("\n".join([header, *(f"{row},0" for row in rows)]) + "\n")
    scores = np.full((4, 8), np.nan)
    scores[2] = np.eye(8)[5]
    labels = np.full((4, 1), np.nan, np.float32)
    found = {n: TrackScores(Track(n, n, n, None, None, labels, "x"), scores, -1) for n in ("a_left", "b")}
    write_flat(TASKS["expr"], read_flat_template(TASKS["expr"], template), found, "", tmp_path / "s.txt")
    assert (tmp_path / "s.txt").read_text().splitlines() == [header, *(f"{row},5" for row in rows)]
    assert check_flat(TASKS["expr"], tmp_path / "s.txt", template) == 10
    assert row_values(TASKS["va"], np.array([[9.0, -9.0]])) == ["1.00000,-1.00000"]


def test_pitfall_08_an_absolute_path_does_not_silently_drop_the_root(tmp_path: Path) -> None:
    assert Path("/data") / "/abs" == Path("/abs")  # what makes it a pitfall
    for pattern in ("/etc/*", "../*.txt"):
        with pytest.raises(ValueError, match="must lie below"):
            annotation_files(tmp_path, [pattern])
    (tmp_path / "clips.csv").write_text("path,label\n/etc/hostname,1\n")
    with pytest.raises(ManifestError, match="leaves the root"):
        load_manifest(tmp_path / "clips.csv")


def test_pitfall_09_a_missing_stream_is_an_error_or_a_recorded_gap(made, clips, tmp_path: Path) -> None:
    """Never zeros: the video is left out and named, and asking for it raises."""
    cache = made.write_cache(tmp_path / "c.zarr", clips[:1])
    made.write_cache(tmp_path / "c.zarr", clips[1:2], streams=["video", "image"])
    found, lacking = cached_videos(cache, ["video", "image", "text"])
    assert ([*found], lacking) == ([clips[0].id], [clips[1].id])
    with pytest.raises(CacheError, match="no complete stream 'text'"):
        load_features(cache, [clips[1].id], ["text"])
    results = [TrackScores(t, np.zeros_like(t.labels, np.float64), 0) for t in made.make_tracks(clips[:1], "va")]
    left_out = int(np.isfinite(clips[1].va).all(1).sum())
    assert evaluate_frames(TASKS["va"], results, left_out=left_out)["coverage"] < 0.6


def test_pitfall_10_the_prior_that_the_loss_teaches_is_told() -> None:
    """Weights are applied once, and what they make of the class shares is logged."""
    labels = np.float32([[0]] * 90 + [[1]] * 10)
    assert "violent 10.0% (as 50.0%)" in prior_line(TASKS["violence"], labels, weighted=True)
    assert "violent 10.0% (as 10.0%)" in prior_line(TASKS["violence"], labels, weighted=False)


def test_pitfall_11_training_is_a_command_and_no_notebook() -> None:
    tracked = [p for p in REPO.rglob("*.ipynb") if ".venv" not in p.parts]
    assert tracked == []
    calls = [
        f"{file.name}: {node.func.id}"
        for file, tree in sources("extract", "shared", "train")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("exec", "eval")
    ]
    assert calls == []


def test_pitfall_12_no_label_reaches_a_caption() -> None:
    """What writes captions and features cannot read labels: only the data check of stage 1 knows their formats."""
    readers = {"shared.labels.formats", "shared.labels.annotations"}
    users = {file.name for file, tree in sources("extract") if imported(tree) & readers}
    assert users == {"dataset_doctor.py"}
    seen = {
        file.name
        for file, tree in sources("extract")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("tasks", "segments")
    }
    assert seen <= {"dataset_doctor.py"}


def test_pitfall_13_no_pickle_and_no_rewriting_of_everything(made, clips, tmp_path: Path) -> None:
    """Float16 arrays per video in a cache that is added to; adding a video leaves the files of the others alone."""
    pickles = {"pickle", "joblib", "cloudpickle", "dill", "shelve"}
    # These talk to each other, over a pipe from a run to the decoder that it started; nothing of it is stored.
    own_pipe = {"extract/decode/child.py", "extract/decode/decoders.py", "extract/faults/systemic.py"}
    trees = sources("extract", "shared", "train")
    found = {file.relative_to(REPO).as_posix() for file, tree in trees if imported(tree) & pickles}
    assert found <= own_pipe
    made.write_cache(tmp_path / "c.zarr", clips[:2])
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "c.zarr").rglob("*") if f.is_file()}
    cache = made.write_cache(tmp_path / "c.zarr", clips[2:3])
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert cache.read(clips[2].id, "video").features.dtype == np.float16


PARTS = {
    "122-60-1920x1080": ["122-60-1920x1080-1", "122-60-1920x1080-5"],
    "5-60-1920x1080": ["5-60-1920x1080-1", "5-60-1920x1080-4"],
    "video86": ["video86_1", "video86_2", "video86_3"],
    "video45": ["video45_7"],
    "video2": ["video2"],
    "10-60-1280x720": ["10-60-1280x720"],
    "105": ["105"],
    "451": ["451"],
}


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_one_recording_and_left_and_right_never_cross_folds(tmp_path: Path, seed: int) -> None:
    (tmp_path / "batch1").mkdir()
    for name in (name for names in PARTS.values() for name in names):
        (tmp_path / "batch1" / f"{name}.mp4").write_bytes(b"")
    train = tmp_path / "VA_Estimation_Challenge" / "Train_Set"
    train.mkdir(parents=True)
    twins = {"video2": ["video2_left", "video2_right"], "10-60-1280x720": ["10-60-1280x720", "10-60-1280x720_right"]}
    for names in PARTS.values():
        for track in (t for name in names for t in twins.get(name, [name])):
            (train / f"{track}.txt").write_text("valence,arousal\n" + f"{len(track) / 40},0.1\n" * 3)
    files = (REPO / "data_manifests" / "affwild2.toml").read_text().replace("Validation_Set", "Train_Set")
    (tmp_path / "m.toml").write_text(files.replace("val = [", "# val = ["))
    manifest = load_manifest(tmp_path / "m.toml", tmp_path)
    assert {v.id: v.group for v in manifest.videos} == {name: g for g, names in PARTS.items() for name in names}
    tracks, _ = read_tracks(manifest, TASKS["va"], {v.id: 3 for v in manifest.videos})
    assert len(tracks) == 14
    folds = assign_folds(replace(CONFIG, seed=seed), tracks)
    homes: dict[str, set[int]] = {}
    for track, fold in zip(tracks, folds.tolist(), strict=True):
        homes.setdefault(track.group, set()).add(fold)
    assert all(len(home) == 1 for home in homes.values())
    assert set(folds.tolist()) == {0, 1, 2}


def test_two_people_of_one_video_share_its_features_and_have_their_own_labels(problem, clips) -> None:
    p = problem("va")
    left, right = (
        Track(f"{clips[0].id}_{side}", clips[0].id, clips[0].group, "train", None, sign * clips[0].va, "x")
        for side, sign in (("left", 1), ("right", -1))
    )
    windows = build_windows([left, right], p.features, "mean", 0.5)
    half = len(windows) // 2
    assert torch.equal(windows.rows["image"][:half], windows.rows["image"][half:])
    np.testing.assert_array_equal(windows.labels[:half], -windows.labels[half:])
