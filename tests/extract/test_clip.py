"""CLIP: our two halves equal open_clip's transform and towers, and a row depends on its own item alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from extract.config import CaptionerConfig, ClipConfig, find_preset
from extract.encoders import build_encoder, build_encoders
from extract.encoders.captioners import build_captioner
from extract.encoders.clip import ClipImageEncoder, ClipModel, load_clip, model_transform, split_transform
from extract.encoders.contract import TimelineEncoder, WindowEncoder
from extract.encoders.digests import state_digest
from extract.encoders.text import TextEncoder
from extract.video import open_video
from tests.extract.support import SHARED_VIDEOS, needs_shared_videos

SIZES = [(48, 64), (64, 48), (8, 8), (300, 20), (20, 300), (64, 64), (65, 63), (1, 30), (181, 321)]  # H, W


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    return ClipModel(ClipConfig("tiny", weights=None, seed=0, batch_size=8))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(8)]


def frames_of_all_shapes() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    grey = rng.integers(0, 256, (40, 70, 1), dtype=np.uint8)
    return [*frames, np.repeat(grey, 3, axis=2), np.zeros((50, 50, 3), np.uint8), np.full((50, 50, 3), 255, np.uint8)]


def encode_by_open_clip(clip: ClipModel, frames: list[np.ndarray]) -> np.ndarray:
    transform = model_transform(clip.model)
    images = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    with torch.inference_mode():
        return clip.model.encode_image(images).numpy()


def encode_by_us(encoder: ClipImageEncoder, frames: list[np.ndarray]) -> np.ndarray:
    return encoder.encode(np.stack([encoder.prepare(frame) for frame in frames])[:, None]).features


# ------------------------------------------------------------------------------------------------ parity


def test_features_equal_open_clips_own_path(clip: ClipModel) -> None:
    frames = frames_of_all_shapes()
    ours, theirs = encode_by_us(ClipImageEncoder(clip), frames), encode_by_open_clip(clip, frames)
    assert ours.dtype == np.float32
    assert ours.shape == (len(frames), 64)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@needs_shared_videos
@pytest.mark.parametrize("name", ["decord_rot90.mov", "media3_trim_518x488_fullrange.mp4", "media3_bear_vp9_2997.webm"])
def test_features_of_real_frames_equal_open_clips_own_path(clip: ClipModel, name: str) -> None:
    with open_video(SHARED_VIDEOS / name) as video:
        frames = [frame.rgb() for frame, _ in zip(video.frames, range(3), strict=False)]
    ours, theirs = encode_by_us(ClipImageEncoder(clip), frames), encode_by_open_clip(clip, frames)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_published_architecture_takes_the_same_path() -> None:
    clip = ClipModel(ClipConfig("ViT-B-32", weights=None, seed=0, batch_size=2))
    frames = frames_of_all_shapes()[:2]
    encoder = ClipImageEncoder(clip)
    assert (encoder.dim, encoder.batch_size, encoder.trained) == (512, 2, False)
    assert encoder.prepare(frames[0]).shape == (224, 224, 3)
    ours, theirs = encode_by_us(encoder, frames), encode_by_open_clip(clip, frames)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())
    assert str(model_transform(clip.model)) == str(open_clip.image_transform(224, False))


@pytest.mark.parametrize(
    "preprocess",
    [
        {"size": 224},
        {"size": 56, "resize_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3},  # as SigLIP
        {"size": (48, 80), "resize_mode": "longest", "interpolation": "bilinear", "fill_color": 7},
    ],
    ids=["openai", "siglip", "letterbox"],
)
def test_any_transform_is_cut_between_picture_and_tensor(preprocess: dict[str, Any]) -> None:
    model: Any = SimpleNamespace(visual=SimpleNamespace(preprocess_cfg=preprocess))
    steps, normalize = split_transform(model)
    whole = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    encoder = ClipImageEncoder.__new__(ClipImageEncoder)
    encoder._clip = SimpleNamespace(picture_steps=steps, normalize=normalize)  # type: ignore[assignment]
    for frame in frames_of_all_shapes():
        small = encoder.prepare(frame)
        assert small.dtype == np.uint8
        assert small.flags.c_contiguous
        ours = normalize(torch.from_numpy(small.copy()).permute(2, 0, 1).float().div(255))
        torch.testing.assert_close(ours, whole(Image.fromarray(frame)), rtol=0, atol=1e-6)


def test_a_needle_of_a_frame_is_refused_instead_of_taking_gigabytes(clip: ClipModel) -> None:
    with pytest.raises(ValueError, match="16384x2 frame is too narrow"):
        ClipImageEncoder(clip).prepare(np.zeros((2, 16384, 3), np.uint8))


# ------------------------------------------------------------------------------------------------ batches


def test_a_row_depends_on_its_own_item_alone(clip: ClipModel, pictures: list[np.ndarray]) -> None:
    encoder = ClipImageEncoder(clip)
    items = np.stack(pictures)[:, None]
    together = encoder.encode(items).features
    for shift in (1, 3, 7):  # other positions, the same batch size: bit for bit
        moved = encoder.encode(np.roll(items, shift, axis=0)).features
        np.testing.assert_array_equal(moved, np.roll(together, shift, axis=0))
    others = items.copy()
    others[1:] = 255 - others[1:]
    np.testing.assert_array_equal(encoder.encode(others).features[0], together[0])
    for size in (1, 2, 5):
        np.testing.assert_allclose(encoder.encode(items[:size]).features, together[:size], rtol=0, atol=1e-5)
    assert len(np.unique(together.round(3), axis=0)) == len(pictures)  # untrained, yet not deaf to its input


def test_a_caption_row_depends_on_its_own_caption_alone(clip: ClipModel) -> None:
    encoder = TextEncoder(build_captioner(CaptionerConfig()), clip)
    words = ("red", "green", "blue", "dark", "bright", "plain", "busy", "warm")
    captions = [f"a {word} picture " * n for n, word in enumerate(words, 1)]
    together = encoder.encode_captions(captions)
    assert together.shape == (8, 64)
    np.testing.assert_array_equal(encoder.encode_captions(captions[::-1]), together[::-1])
    for n, caption in enumerate(captions):
        np.testing.assert_allclose(encoder.encode_captions([caption])[0], together[n], rtol=0, atol=1e-5)
    with torch.inference_mode():
        theirs = clip.model.encode_text(open_clip.tokenize(captions)).numpy()
    np.testing.assert_allclose(together, theirs, rtol=0, atol=1e-6)


def test_captions_longer_than_the_tower_are_cut(clip: ClipModel) -> None:
    encoder = TextEncoder(build_captioner(CaptionerConfig()), clip)
    features = encoder.encode_captions(["word " * 500, "word " * 600, ""])
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[0], features[1])


def test_the_text_encoder_keeps_the_captions(clip: ClipModel, pictures: list[np.ndarray]) -> None:
    encoder = TextEncoder(build_captioner(CaptionerConfig()), clip)
    small = np.stack([encoder.prepare(p) for p in pictures])
    rows = encoder.encode(np.stack([small, small], axis=1))
    assert rows.captions is not None
    assert len(rows.captions) == len(rows.features) == 8
    np.testing.assert_array_equal(rows.features, encoder.encode_captions(rows.captions))


# ------------------------------------------------------------------------------------------------ identity


def test_the_recipe_tells_weights_apart(clip: ClipModel, tmp_path: Path) -> None:
    recipe = ClipImageEncoder(clip).recipe()
    assert recipe["weights"] == "random, seed 0"
    assert "Resize" in recipe["preprocess"][0]
    assert recipe["preprocess"][-1].startswith("Normalize(")
    again, other = (ClipModel(ClipConfig("tiny", None, seed=seed, batch_size=8)) for seed in (0, 1))
    assert ClipImageEncoder(again).recipe() == recipe
    assert ClipImageEncoder(other).recipe()["weights_sha256"] != recipe["weights_sha256"]
    assert state_digest(clip.model) == clip.weights_sha256


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    ClipModel(ClipConfig("tiny", None, seed=3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClipConfig("ViT-B32", "openai"), r"unknown CLIP model 'ViT-B32'; did you mean 'ViT-B-32'"),
        (ClipConfig("ViT-B32", None, seed=0), r"unknown CLIP model 'ViT-B32'"),
        (ClipConfig("ViT-B-32", "no-such-tag"), r"weights 'no-such-tag' of model 'ViT-B-32'"),
        (ClipConfig("ViT-B-32", None), r"give pretrained weights"),
        (ClipConfig("tiny", None, seed=0, dtype="int8"), r"dtype must be auto, float32"),
    ],
)
def test_what_cannot_be_loaded_says_why(config: ClipConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipModel(config)


def test_the_preset_builds_encoders_that_keep_the_contract() -> None:
    encoders = build_encoders(find_preset("tiny"), ["video", "image", "text"])
    assert list(encoders) == ["video", "image", "text"]
    for stream, encoder in encoders.items():
        assert isinstance(encoder, WindowEncoder if stream == "video" else TimelineEncoder)
        assert encoder.stream == stream
        assert not encoder.trained
    video = encoders["video"]
    assert isinstance(video, WindowEncoder)
    assert video.num_slots >= 64 + video.num_samples
    assert load_clip(find_preset("tiny").clip) is load_clip(find_preset("tiny").clip)
    with pytest.raises(ValueError, match="unknown stream 'sound'"):
        build_encoder("sound", find_preset("tiny"))
