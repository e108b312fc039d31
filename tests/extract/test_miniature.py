"""The miniature: a world whose truth is known, weights that are what the log says, and features that mean something."""

from __future__ import annotations

import hashlib
import itertools
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from extract.config import find_preset
from extract.encoders import build_encoder
from extract.encoders.packaged import packaged_folder
from extract.encoders.videoprism_checkpoint import ARCHITECTURES, expected_shapes, init_params
from extract.encoders.videoprism_model import forward
from extract.miniature.check import check_captions, check_retrieval, windows_of
from extract.miniature.dataset import factors_of, load_pictures, sampled, script_of
from extract.miniature.keeping import Keeper, Paused
from extract.miniature.make import WEIGHTS, pack
from extract.miniature.optimize import Learner
from extract.miniature.scenes import HEIGHTS, figure_colour, geometry, pose, render_frames
from extract.miniature.sentences import ALONE, CAPTION, FORMS, WORDS, heard, mentioned, prompts, tell
from extract.miniature.train_clip import Texts, encode_text, train_clip
from extract.miniature.train_videoprism import augment, backwards, targets_of
from extract.miniature.videoprism_torch import TorchVideoPrism
from extract.miniature.world import ACTIONS, SIZES, STRIPES, WORLDS, Cast, draw_cast, draw_script, in_stripes

MOST_BYTES = 6_000_000


# ------------------------------------------------------------------------------------------------ the world


def test_worlds_share_no_look() -> None:
    stripes = {
        world: set(np.floor(in_stripes(world, np.random.default_rng(0), 500) * STRIPES).astype(int)) for world in WORLDS
    }
    assert all(len(found) == STRIPES // len(WORLDS) for found in stripes.values())
    assert all(stripes[a].isdisjoint(stripes[b]) for a, b in itertools.combinations(WORLDS, 2))
    shades = {
        world: np.stack([figure_colour(draw_cast(world, np.random.default_rng(i))) for i in range(200)])
        for world in WORLDS
    }
    for a, b in itertools.combinations(WORLDS, 2):
        assert np.abs(shades[a][:, None] - shades[b]).max(axis=2).min() > 0.1


def test_a_script_is_the_same_on_every_call_and_another_in_another_world() -> None:
    first, again = (draw_script("train", (5, 1), 90, shot_frames=(30, 40)) for _ in range(2))
    assert first.casts == again.casts
    np.testing.assert_array_equal(first.speed, again.speed)
    assert draw_script("demo", (5, 1), 90).casts != first.casts
    assert len(first.casts) == first.shot.max() + 1 > 1


def test_some_frames_are_the_same_as_all_frames() -> None:
    script = draw_script("validation", (5, 2), 30, shot_frames=(10, 15))
    every = list(render_frames(script))
    assert len(every) == 30
    assert every[0].shape == (script.height, script.width, 3)
    for t, frame in zip((3, 12, 29), render_frames(script, [3, 12, 29]), strict=True):
        np.testing.assert_array_equal(frame, every[t])


def with_action(cast: Cast, name: str) -> Cast:
    return replace(cast, action=ACTIONS.index(name))


@pytest.mark.parametrize("action", ACTIONS)
def test_the_beat_follows_the_speed_and_moves_every_figure(action: str) -> None:
    cast = with_action(draw_cast("train", np.random.default_rng(0)), action)
    slow, fast = (pose(cast, np.full(64, speed), 1.33) for speed in (0.1, 0.9))
    low, high = (0.006 + 0.066 * speed for speed in (0.1, 0.9))
    for poses, rate in ((slow, low), (fast, high)):
        np.testing.assert_allclose(np.abs(np.diff(poses.beat)), 2 * np.pi * rate, rtol=1e-6)
    # A hand swings by several pixels of 72, and the whole figure hops.
    reach = 0.36 * HEIGHTS[SIZES[cast.size]] * 72
    assert (np.ptp(fast.inner, axis=0) * reach > 5).all()
    assert (np.ptp(fast.y, axis=0) * 72 > 4).all()


def test_no_single_frame_tells_the_speed() -> None:
    """Over many shots, arms and places of a frame are spread alike at every speed."""
    found = {}
    for speed in (0.1, 0.9):
        shots = [pose(draw_cast("train", np.random.default_rng(i)), np.full(40, speed), 1.33) for i in range(400)]
        found[speed] = np.array([[p.inner[20, 0], p.outer[20, 0], p.lean[20, 0], p.x[20].std()] for p in shots])
    means, deviations = (np.stack([f(v, axis=0) for v in found.values()]) for f in (np.mean, np.std))
    assert (np.abs(means[0] - means[1]) < 4 * deviations.max(axis=0) / 20).all()
    np.testing.assert_allclose(deviations[0], deviations[1], rtol=0.2)


def test_approach_is_part_backwards_and_looks_like_it_but_for_one_shot_in_three() -> None:
    casts = [draw_cast("train", np.random.default_rng(i)) for i in range(120)]
    alike = 0
    for cast in casts:
        nearer, apart = (pose(with_action(cast, name), np.full(60, 0.3), 1.33) for name in ("approach", "part"))
        steps = [np.diff(np.ptp(poses.x, axis=1)) for poses in (nearer, apart)]
        assert np.median(steps[0]) < -0.001
        assert np.median(steps[1]) > 0.001
        np.testing.assert_array_equal(nearer.inner, apart.inner)
        alike += int((nearer.side == apart.side).all())
    assert 0.5 < alike / len(casts) < 0.8


def test_factors_are_those_of_the_rendered_frames(tmp_path: Path) -> None:
    clips = load_pictures(tmp_path, "train", 3, clip=True)
    assert clips.pixels.shape == (3, 16, 72, 72, 3)
    script = script_of("train", 1, clip=True)
    np.testing.assert_array_equal(clips.factors["action"][1], script.factor("action")[sampled()])
    np.testing.assert_array_equal(clips.factors["speed"][1], script.speed[sampled()])
    again = load_pictures(tmp_path / "b", "train", 3, clip=True, workers=2)
    np.testing.assert_array_equal(clips.pixels, again.pixels)
    assert factors_of([script_of("train", 0, clip=False)], clip=False)["colour"].shape == (1,)


# ------------------------------------------------------------------------------------------------ sentences


def test_what_is_told_is_heard() -> None:
    rng = np.random.default_rng(0)
    for form in (*FORMS, *ALONE.values()):
        for _ in range(20):
            values = {name: int(rng.integers(len(words))) for name, words in WORDS.items()}
            assert heard(tell(form, values)) == {name: values[name] for name in mentioned(form)}


def test_a_sentence_that_says_two_things_says_neither() -> None:
    assert heard("Two red figures and three blue figures.") == {}
    assert [len(prompts(name)) for name in WORDS] == [len(words) for words in WORDS.values()]


def test_every_sentence_is_made_of_known_tokens() -> None:
    texts = Texts()
    tokens = texts([tell(CAPTION, dict.fromkeys(WORDS, 0)), *prompts("action")])
    assert tokens.max() == len(texts.used) - 1  # the end of text, which the tower looks for, stays the largest
    assert tokens.shape[1] < 40


def test_cut_text_is_encoded_as_uncut_text() -> None:
    import open_clip

    from extract.encoders.clip import build_toy

    torch.manual_seed(0)
    model, texts = build_toy("mini").eval(), Texts()
    words = prompts("count")
    whole = nn.functional.normalize(model.encode_text(open_clip.SimpleTokenizer()(words)), dim=-1)
    model.token_embedding = nn.Embedding.from_pretrained(model.token_embedding.weight[texts.used])
    torch.testing.assert_close(encode_text(model, texts(words)), whole, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ training and files


def test_the_learner_learns_and_keeps_float32() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1))
    learner = Learner(model, 200, 0.05)
    x = torch.randn(64, 8)
    y = x[:, :1].abs() - x[:, 1:2]
    losses = [learner.learn(((model(x.bfloat16()).float() - y) ** 2).mean()) for _ in range(200)]
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.dtype == torch.float32 for p in learner.finish().parameters())


@pytest.mark.soak
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    pictures = load_pictures(tmp_path, "train", 128, clip=False)
    whole = train_clip(pictures, 3, 0, Keeper("clip", tmp_path / "whole", print))
    for part in range(2):  # every call may do one step
        with pytest.raises(Paused):
            train_clip(pictures, 3, 0, Keeper("clip", tmp_path / "parts", print, limit_s=0))
        assert (tmp_path / "parts").is_file(), part
    parts = train_clip(pictures, 3, 0, Keeper("clip", tmp_path / "parts", print, limit_s=0))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=0, rtol=0)


def test_targets_of_clips_that_are_played_backwards() -> None:
    scripts = [script_of("train", index, clip=True) for index in range(40)]
    factors = factors_of(scripts, clip=True)
    there, back = targets_of(factors), targets_of(backwards(factors))
    swapped = np.array([ACTIONS.index({"approach": "part", "part": "approach"}.get(name, name)) for name in ACTIONS])
    np.testing.assert_array_equal(back["action"], swapped[there["action"]][:, ::-1])
    np.testing.assert_array_equal(back["speed"], there["speed"][:, ::-1])
    np.testing.assert_allclose(back["motion"][:, 1:], -there["motion"][:, 1:][:, ::-1], atol=1e-6)
    assert (there["motion"][:, 0] == 0).all()
    cut = factors["shot"][:, 1:] != factors["shot"][:, :-1]
    assert cut.any()
    assert (there["motion"][:, 1:][cut] == 0).all()
    np.testing.assert_array_equal(factors["geometry"][3], geometry(scripts[3])[sampled()])


def test_augmented_clips_keep_their_shape_and_their_targets() -> None:
    scripts = [script_of("train", index, clip=True) for index in range(4)]
    factors, rng = factors_of(scripts, clip=True), np.random.default_rng(0)
    clips = rng.integers(0, 256, (4, 16, 72, 72, 3), np.uint8)
    speeds = [targets_of(f)["speed"] for f in (factors, backwards(factors))]
    for _ in range(6):
        pixels, targets = augment(clips, factors, rng)
        assert pixels.shape == clips.shape
        assert any(np.array_equal(targets["speed"].numpy(), speed) for speed in speeds)


def test_the_video_encoder_that_learns_is_the_one_that_extracts() -> None:
    arch, rng = ARCHITECTURES["mini"], np.random.default_rng(0)
    params = {k: v + rng.normal(0, 0.05, v.shape).astype(np.float32) for k, v in init_params(arch, 0).items()}
    model = TorchVideoPrism(arch)
    model.load_official(params)
    back = model.official()
    assert back.keys() == params.keys()
    for key, value in params.items():
        np.testing.assert_allclose(back[key], value, atol=5e-6)
    clips = rng.random((2, 16, 72, 72, 3), dtype=np.float32)
    expected = np.asarray(forward(params, clips, arch)).reshape(2, 16, 16, -1).mean(axis=2)  # type: ignore[arg-type]
    np.testing.assert_allclose(model(torch.from_numpy(clips)).detach().numpy(), expected, atol=1e-5)


def test_packing_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "files" / "deep").mkdir(parents=True)
    (tmp_path / "files" / "deep" / "a.bin").write_bytes(b"a" * 1000)
    for name in ("one", "two"):
        pack(tmp_path / "files", tmp_path / name)
    assert (tmp_path / "one" / "miniature.zip").read_bytes() == (tmp_path / "two" / "miniature.zip").read_bytes()


def test_the_weights_are_those_of_the_list_and_small() -> None:
    sums = dict(line.split("  ")[::-1] for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines())
    archive = WEIGHTS / "miniature.zip"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == sums.pop("miniature.zip")
    assert archive.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(archive) as packed:
        assert {name: hashlib.sha256(packed.read(name)).hexdigest() for name in packed.namelist()} == sums


def test_unpacking_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    packaged_folder.cache_clear()
    try:
        folder = packaged_folder()
        assert folder.is_relative_to(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        packaged_folder.cache_clear()
        assert packaged_folder() == folder
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    finally:
        packaged_folder.cache_clear()


def test_the_video_file_has_the_official_keys() -> None:
    arch = ARCHITECTURES["mini"]
    with np.load(packaged_folder() / arch.filename) as archive:
        assert {key: archive[key].shape for key in archive.files} == expected_shapes(arch)


# ------------------------------------------------------------------------------------------------ what they mean


def test_features_and_captions_mean_something_on_an_unseen_world() -> None:
    """The figures of `python -m extract.miniature.check` on few frames, with room for chance."""
    preset = find_preset("mini")
    image, text = build_encoder("image", preset), build_encoder("text", preset)
    assert image.trained
    assert text.trained
    found = check_retrieval(image, text, "validation", 96)
    assert np.mean(list(found.values())) > 0.75
    assert check_captions(text, "validation", 64)["all three"] > 0.7  # type: ignore[arg-type]


def test_the_video_stream_tells_the_speed() -> None:
    preset = find_preset("mini")
    video, image = build_encoder("video", preset), build_encoder("image", preset)
    features, known = windows_of(video, image, "validation", 60)  # type: ignore[arg-type]
    half = len(known["speed"]) // 2
    fit = {}
    for stream, x in features.items():
        x = (x - x[:half].mean(axis=0)) / x[:half].std(axis=0)
        weights = np.linalg.solve(
            x[:half].T @ x[:half] + 100 * np.eye(x.shape[1]), x[:half].T @ (known["speed"][:half] - 0.5)
        )
        fit[stream] = np.corrcoef(x[half:] @ weights, known["speed"][half:])[0, 1]
    assert fit["video"] > 0.9
    assert fit["image"] < 0.6
