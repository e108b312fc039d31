"""VideoPrism: parity with two other implementations, the two-stage path, checkpoints, borders."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from extract.encoders import videoprism, videoprism_attention, videoprism_checkpoint, videoprism_model
from extract.encoders.contract import WindowEncoder
from extract.encoders.digests import file_sha256
from extract.encoders.videoprism import (
    ARCHITECTURES,
    CheckpointError,
    VideoPrismEncoder,
    cast_params,
    expected_shapes,
    forward,
    init_params,
    load_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
    spatial,
)

TINY = ARCHITECTURES["tiny"]
TOLERANCE = 1e-4
PATCH_KERNEL = "params/patch_projection/linear/kernel"
QUERY = "params/spatial_encoder/transformers_stack/x_layers/self_attention/query/w"


def lively_params(arch, seed=0):
    """Random weights in which no array is zero and logits reach the cap, so that every term of the formulas shows."""
    rng = np.random.default_rng(seed + 1000)
    params = init_params(arch, seed)
    for key, value in params.items():
        if not value.any():
            params[key] = rng.normal(0, 0.3, value.shape).astype(np.float32)
        elif "/query/" in key or "/key/" in key:
            params[key] = value * np.float32(3)
    return params


def random_clips(batch, length, size, seed=0):
    return np.random.default_rng(seed).random((batch, length, size, size, 3), np.float32)


def random_video(num_frames, size=TINY.image_size, seed=0):
    """uint8 frames, every frame different: noise, brightness drifting with time."""
    rng = np.random.default_rng(seed)
    noise = rng.random((num_frames, size, size, 3))
    level = 0.5 + 0.5 * np.sin(np.arange(num_frames) / 7)
    return (255 * noise * level[:, None, None, None]).astype(np.uint8)


def run_jax(params, clips, arch):
    """(final tokens (B, T*S, D), spatial tokens (B*T, S, D)); compiled afresh, so patched functions take part."""

    def both(params, clips):
        return forward(params, clips, arch), spatial(params, clips.reshape(-1, *clips.shape[2:]), arch)

    return jax.jit(both)(cast_params(params, "float32"), clips)


def max_difference(found, expected):
    assert found.shape == expected.shape
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max())


def assert_parity(name, found, expected):
    difference = max_difference(found, expected)
    print(f"{name}: max |difference| {difference:.1e}")  # pytest -rP shows it
    assert difference < TOLERANCE


def tiny_encoder(**options):
    return VideoPrismEncoder("tiny", **{"seed": 0, "dtype": "float32", "frame_batch": 8, "window_batch": 2} | options)


# --- parity with transformers ----------------------------------------------------------------------------------------


def torch_state(params):
    """Official checkpoint keys -> state dict of transformers' VideoPrismVisionModel."""
    torch = pytest.importorskip("torch")
    width = params[PATCH_KERNEL].shape[1]
    state = {
        "spatial_embeddings.patch_embeddings.projection.weight": params[PATCH_KERNEL]
        .T.reshape(width, 1, 18, 18, 3)
        .transpose(0, 4, 1, 2, 3),
        "spatial_embeddings.patch_embeddings.projection.bias": params["params/patch_projection/linear/bias"],
    }
    for stage, norm in (("spatial", "layernorm1"), ("temporal", "layernorm2")):
        state[f"{stage}_embeddings.position_embeddings"] = params[f"params/{stage}_pos_emb/emb_var"][None]
        state[f"{norm}.weight"] = params[f"params/{stage}_ln/scale"]
        state[f"{norm}.bias"] = params[f"params/{stage}_ln/bias"]
        prefix = videoprism_checkpoint.LAYERS[stage]
        stacked = {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}
        for layer in range(len(stacked["layer_norm/scale"])):
            leaves = {key: value[layer] for key, value in stacked.items()}
            state |= {f"{stage}_layers.{layer}.{key}": value for key, value in torch_layer(leaves).items()}
    return {key: torch.tensor(np.ascontiguousarray(value)) for key, value in state.items()}


def torch_layer(leaves):
    width = len(leaves["layer_norm/scale"])
    state = {
        "attention.o_proj.weight": leaves["self_attention/post/w"].reshape(width, width),
        "attention.o_proj.bias": leaves["self_attention/post/b"],
    }
    for name in ("query", "key", "value"):
        state[f"attention.{name[0]}_proj.weight"] = leaves[f"self_attention/{name}/w"].reshape(width, width).T
        state[f"attention.{name[0]}_proj.bias"] = leaves[f"self_attention/{name}/b"].reshape(width)
    for name, prefix in (("layernorm_before", "layer_norm"), ("layernorm_after", "ff_layer/layer_norm")):
        state[f"{name}.weight"] = leaves[f"{prefix}/scale"]
        state[f"{name}.bias"] = leaves[f"{prefix}/bias"]
    for name, prefix in (("fc1", "ffn_layer1"), ("fc2", "ffn_layer2")):
        state[f"mlp.{name}.weight"] = leaves[f"ff_layer/{prefix}/linear/kernel"].T
        state[f"mlp.{name}.bias"] = leaves[f"ff_layer/{prefix}/linear/bias"]
    return state


def transformers_features(arch, params, clips):
    """(final tokens (B, T*S, D), spatial tokens (B*T, S, D)) of transformers' VideoPrismVisionModel, float32."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party imports
        transformers = pytest.importorskip("transformers", minversion="5.0")
        config = transformers.VideoPrismVisionConfig(
            image_size=arch.image_size,
            num_frames=arch.num_frames,
            tubelet_size=[1, arch.patch, arch.patch],
            hidden_size=arch.width,
            num_attention_heads=arch.heads,
            intermediate_size=arch.mlp,
            num_spatial_layers=arch.spatial_layers,
            num_temporal_layers=arch.temporal_layers,
        )
        model = transformers.VideoPrismVisionModel(config).eval()
    model.load_state_dict(torch_state(params), strict=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            output = model(torch.tensor(clips).permute(0, 1, 4, 2, 3), interpolate_pos_encoding=True)
            # transformers returns the spatial state before its layer norm.
            tokens = model.layernorm1(output.last_spatial_hidden_state)
    finally:
        torch.set_num_threads(threads)
    return output.last_hidden_state.numpy(), tokens.numpy()


SHAPES = [
    pytest.param(TINY, 16, 4, id="native"),
    pytest.param(TINY, 5, 4, id="fewer-frames"),
    pytest.param(TINY, 23, 4, id="more-frames"),
    pytest.param(replace(TINY, num_frames=8), 16, 4, id="frames-of-large"),
    pytest.param(TINY, 16, 3, id="smaller-grid"),
    pytest.param(TINY, 16, 6, id="larger-grid"),
    pytest.param(replace(TINY, grid=7, num_frames=8), 3, 2, id="both-smaller"),
    pytest.param(replace(ARCHITECTURES["base"], spatial_layers=1, temporal_layers=1), 4, 8, id="base-width"),
    pytest.param(
        replace(ARCHITECTURES["base"], spatial_layers=1, temporal_layers=1, num_frames=2), 2, 16, id="base-288px"
    ),
    pytest.param(
        ARCHITECTURES["base"],
        16,
        16,
        id="base-full",
        marks=pytest.mark.skipif("CROSSGRU_FULL" not in os.environ, reason="a minute; CROSSGRU_FULL=1 runs it"),
    ),
]


@pytest.mark.parametrize(("arch", "length", "grid"), SHAPES)
def test_parity_with_transformers(arch, length, grid):
    # Both sides antialias when they shrink a position table (jax.image.resize; torch interpolate(antialias=True)).
    params = lively_params(arch)
    clips = random_clips(1 if arch.width > 64 else 2, length, grid * arch.patch)
    expected, expected_spatial = transformers_features(arch, params, clips)

    found, found_spatial = run_jax(params, clips, arch)

    assert_parity("spatial tokens", found_spatial, expected_spatial)
    assert_parity("final tokens", found, expected)


# --- parity with the published package -------------------------------------------------------------------------------


def published_encoder(arch):
    """The FactorizedEncoder of google-deepmind/videoprism."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party imports
        pytest.importorskip("videoprism")
        encoders = pytest.importorskip("videoprism.encoders")
    return encoders.FactorizedEncoder(
        patch_size=arch.patch,
        pos_emb_shape=(arch.num_frames, arch.grid, arch.grid),
        model_dim=arch.width,
        num_spatial_layers=arch.spatial_layers,
        num_temporal_layers=arch.temporal_layers,
        num_heads=arch.heads,
        mlp_dim=arch.mlp,
        atten_logit_cap=50.0,
        scan=True,
    )


def nested(params):
    tree = {}
    for key, value in params.items():
        *parents, leaf = key.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


@pytest.mark.filterwarnings("ignore")  # flax and its dependencies
@pytest.mark.parametrize(("arch", "length", "grid"), SHAPES)
def test_parity_with_the_published_package(arch, length, grid):
    model = published_encoder(arch)
    params = lively_params(arch)
    clips = random_clips(1 if arch.width > 64 else 2, length, grid * arch.patch)
    # Jitted, and not only for speed: run eagerly on numpy arrays, the package's "scale += 1.0" changes ours in place.
    published = jax.jit(partial(model.apply, train=False, return_intermediate=("spatial_features",)))
    expected, extra = published(nested(params), clips)

    found, found_spatial = run_jax(params, clips, arch)

    expected_spatial = np.asarray(extra["spatial_features"]).reshape(found_spatial.shape)
    assert_parity("spatial tokens", found_spatial, expected_spatial)
    assert_parity("final tokens", found, expected)


@pytest.mark.filterwarnings("ignore")  # flax and its dependencies
@pytest.mark.parametrize("name", ["tiny", "base", "large"])
def test_shapes_are_those_of_the_published_package(name):
    arch = ARCHITECTURES[name]
    clips = jnp.zeros((1, arch.num_frames, arch.image_size, arch.image_size, 3))
    tree = jax.eval_shape(published_encoder(arch).init, jax.random.PRNGKey(0), clips)
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    assert {"/".join(part.key for part in path): leaf.shape for path, leaf in leaves} == expected_shapes(arch)


# --- numerics that a port gets wrong ---------------------------------------------------------------------------------


def _uncapped(monkeypatch):
    monkeypatch.setattr(videoprism_attention, "_LOGIT_CAP", 1e6)


def _tanh_gelu(monkeypatch):
    gelu = jax.nn.gelu
    monkeypatch.setattr(jax.nn, "gelu", lambda x, approximate: gelu(x, approximate=True))


def _direct_scale(monkeypatch):
    norm = videoprism_model._layer_norm
    monkeypatch.setattr(videoprism_model, "_layer_norm", lambda x, scale, bias: norm(x, scale - 1, bias))


def _aliased_positions(monkeypatch):
    resize = jax.image.resize
    monkeypatch.setattr(jax.image, "resize", lambda *args: resize(*args, antialias=False))


def test_parity_inputs_would_reveal_mistakes():
    """The weights of the parity tests are lively enough: each classic mistake moves the output far beyond 1e-4."""
    params, clips = lively_params(TINY), random_clips(1, 5, 3 * TINY.patch)
    right, _ = run_jax(params, clips, TINY)
    for mistake in (_uncapped, _tanh_gelu, _direct_scale, _aliased_positions):
        with pytest.MonkeyPatch.context() as monkeypatch:
            mistake(monkeypatch)
            wrong, _ = run_jax(params, clips, TINY)
        difference = max_difference(wrong, right)
        print(f"{mistake.__name__}: max |difference| {difference:.1e}")
        assert difference > 4 * TOLERANCE, mistake.__name__


def test_tokens_are_time_major():
    """Changing the last frame's bottom-right patch changes that patch's spatial token and no other."""
    # Without layers there is no mixing: the map from pixels to spatial tokens is patch by patch.
    layerless = {key: value[:0] if "x_layers" in key else value for key, value in lively_params(TINY).items()}
    clip = random_clips(1, 4, TINY.image_size)
    changed = clip.copy()
    changed[0, 3, -1, -1] = 0.0
    before, after = run_jax(layerless, clip, TINY), run_jax(layerless, changed, TINY)
    moved = np.abs(np.asarray(after[1] - before[1])).max(axis=-1)  # (T, S)
    assert np.argwhere(moved > 0).tolist() == [[3, 15]]
    moved = np.abs(np.asarray(after[0] - before[0])).max(axis=-1)  # (1, T*S)
    assert np.argwhere(moved > 0).tolist() == [[0, 3 * 16 + 15]]


def test_bfloat16_stays_close_to_float32():
    video = random_video(16)
    windows = np.tile(np.arange(16), (2, 1))
    exact, _ = encode_in_blocks(tiny_encoder(), video, windows)
    coarse, _ = encode_in_blocks(tiny_encoder(dtype="bfloat16"), video, windows)
    assert coarse.dtype == np.float32
    assert np.corrcoef(exact.ravel(), coarse.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("shape", [(1, 72, 54, 3), (1, 70, 70, 3), (72, 72, 3), (1, 72, 72, 4)])
def test_spatial_refuses_other_shapes(shape):
    params = init_params(TINY, 0)
    with pytest.raises(ValueError, match="multiple of 18"):
        jax.eval_shape(lambda frames: spatial(params, frames, TINY), jnp.zeros(shape))


# --- two stages equal one --------------------------------------------------------------------------------------------


def encode_in_blocks(encoder, video, windows):
    """Each unique frame of each group of windows once through the pool, reusing frames that are still there."""
    features, slot_of, calls = [], {}, 0
    for start in range(0, len(windows), encoder.window_batch):
        group = windows[start : start + encoder.window_batch]
        padded = np.concatenate([group, np.repeat(group[-1:], encoder.window_batch - len(group), 0)])
        needed = np.unique(padded).tolist()
        slot_of = {frame: slot for frame, slot in slot_of.items() if frame in needed}
        free = sorted(set(range(encoder.num_slots)) - set(slot_of.values()))
        new = [frame for frame in needed if frame not in slot_of]
        slot_of |= dict(zip(new, free, strict=False))
        for first in range(0, len(new), encoder.frame_batch):
            batch = new[first : first + encoder.frame_batch]
            frames = np.zeros((encoder.frame_batch, *video.shape[1:]), np.uint8)
            slots = np.full(encoder.frame_batch, encoder.num_slots, np.int32)
            frames[: len(batch)] = video[batch]
            slots[: len(batch)] = [slot_of[frame] for frame in batch]
            encoder.encode_frames(frames, slots)
            frames[:] = 99  # the caller may reuse its buffer at once
            slots[:] = 0
            calls += 1
        table = np.vectorize(slot_of.__getitem__, otypes=[np.int32])(padded)
        features.append(encoder.encode_windows(table)[: len(group)])
    return np.concatenate(features), calls


@pytest.mark.parametrize("stride", [1, 4, 16, 24, 64])
def test_block_path_equals_window_by_window(stride):
    """64-frame windows sampled every 4 frames, 5 windows in groups of 2, so groups and frame batches are uneven."""
    windows = stride * np.arange(5)[:, None] + 4 * np.arange(16)
    video = random_video(int(windows.max()) + 1)
    encoder = tiny_encoder()
    found, calls = encode_in_blocks(encoder, video, windows)
    expected = encoder.encode_clips(video[windows])
    assert found.shape == (5, 16, 64)
    assert found.dtype == np.float32
    assert_parity("blocks against whole windows", found, expected)
    if stride in (4, 16):  # sharing is the point: fewer frames than window by window
        assert calls * encoder.frame_batch < windows.size


def test_nothing_recompiles_after_the_first_block():
    windows = 16 * np.arange(3)[:, None] + 4 * np.arange(16)
    video = random_video(int(windows.max()) + 1)
    encoder = tiny_encoder()
    encode_in_blocks(encoder, video, windows)
    sizes = videoprism._encode_frames._cache_size(), videoprism._pool_windows._cache_size()
    encode_in_blocks(encoder, video[::-1], windows[:1])
    encode_in_blocks(encoder, video, windows[::-1])
    assert sizes == (videoprism._encode_frames._cache_size(), videoprism._pool_windows._cache_size())


def test_padding_slots_do_not_disturb_the_pool():
    encoder = tiny_encoder()
    video = random_video(16)
    encoder.encode_frames(video[:8], np.arange(8, dtype=np.int32))
    encoder.encode_frames(video[8:], np.arange(8, 16, dtype=np.int32))
    slots = np.tile(np.arange(16, dtype=np.int32), (2, 1))
    before = encoder.encode_windows(slots)
    encoder.encode_frames(video[::-1][:8], np.full(8, encoder.num_slots, np.int32))
    np.testing.assert_array_equal(encoder.encode_windows(slots), before)


def test_features_are_deterministic_and_alive():
    windows = np.arange(4)[:, None] * 16 + np.arange(16)
    video = random_video(64)
    first, _ = encode_in_blocks(tiny_encoder(), video, windows)
    again, _ = encode_in_blocks(tiny_encoder(), video, windows)
    other, _ = encode_in_blocks(tiny_encoder(seed=1), video, windows)
    np.testing.assert_array_equal(first, again)
    assert max_difference(first, other) > 0.1
    # Features follow the content: the same position of different windows differs, and nothing collapses or explodes.
    assert first.std(axis=0).mean() > 0.05
    assert 0.3 < first.std() < 3


def test_results_are_numpy_of_the_caller():
    encoder = tiny_encoder()
    encoder.encode_frames(random_video(8), np.arange(8, dtype=np.int32))
    features = encoder.encode_windows(np.zeros((2, 16), np.int32))
    assert type(features) is np.ndarray
    features[:] = 0  # writable, so not a view of a device buffer
    assert encoder.encode_windows(np.zeros((2, 16), np.int32)).any()


# --- the encoder's border --------------------------------------------------------------------------------------------


def test_contract():
    encoder = VideoPrismEncoder("tiny", seed=3)
    assert isinstance(encoder, WindowEncoder)
    assert (encoder.stream, encoder.kind, encoder.dim, encoder.num_samples) == ("video", "window", 64, 16)
    assert encoder.num_slots >= encoder.frame_batch + encoder.window_batch * encoder.num_samples
    assert encoder.trained is False
    assert encoder.dtype == ("float32" if jax.default_backend() == "cpu" else "bfloat16")


def test_recipe_is_json_and_names_what_determines_the_numbers():
    recipe = tiny_encoder(seed=3, resize="crop").recipe()
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["encoder"] == "videoprism"
    assert recipe["weights"] == "random, seed 3"
    assert recipe["resize"] == "crop, PIL Lanczos, /255"
    assert recipe["num_samples"] == 16
    assert set(recipe["versions"]) == {"jax", "pillow"}
    assert recipe["weights_sha256"] == tiny_encoder(seed=3).recipe()["weights_sha256"]
    assert recipe["weights_sha256"] != tiny_encoder(seed=4).recipe()["weights_sha256"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "huge"}, "tiny, mini, base, large"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"resize": "stretch"}, "squash, crop"),
        ({"image_size": 100}, "multiple of 18"),
        ({"num_samples": 0}, "at least 1"),
        ({"num_slots": 10}, "at least 80"),
        ({"weights": "x.npz"}, "not both"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        VideoPrismEncoder(**{"architecture": "tiny", "seed": 0} | options)


def test_encode_refuses_wrong_arrays():
    encoder = tiny_encoder()
    frames, slots = random_video(8), np.arange(8, dtype=np.int32)
    with pytest.raises(ValueError, match=r"uint8 \(8, 72, 72, 3\), found float32"):
        encoder.encode_frames(frames.astype(np.float32), slots)
    with pytest.raises(ValueError, match=r"found uint8 \(7, 72, 72, 3\)"):
        encoder.encode_frames(frames[:7], slots)
    with pytest.raises(ValueError, match=r"int32 \(8,\), found int64"):
        encoder.encode_frames(frames, slots.astype(np.int64))
    with pytest.raises(ValueError, match=r"0\.\.40, found 34\.\.41"):
        encoder.encode_frames(frames, slots + 34)
    with pytest.raises(ValueError, match="twice"):
        encoder.encode_frames(frames, slots // 2)
    with pytest.raises(ValueError, match="slot 0 is read"):
        encoder.encode_windows(np.zeros((2, 16), np.int32))
    encoder.encode_frames(frames, slots)
    with pytest.raises(ValueError, match=r"0\.\.39, found -1\.\.-1"):
        encoder.encode_windows(np.full((2, 16), -1, np.int32))
    with pytest.raises(ValueError, match=r"int32 \(2, 16\)"):
        encoder.encode_windows(np.zeros((2, 15), np.int32))
    with pytest.raises(ValueError, match="frames should be uint8"):
        encoder.encode_clips(frames[None])


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (72, 72), (300, 200), (1, 1), (72, 200)])
def test_prepare_is_pil(shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    squashed = np.asarray(Image.fromarray(frame).resize((72, 72), Image.Resampling.LANCZOS))
    found = tiny_encoder().prepare(frame)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, squashed)

    scale = max(72 / shape[0], 72 / shape[1])
    rows, columns = round(shape[0] * scale), round(shape[1] * scale)
    resized = np.asarray(Image.fromarray(frame).resize((columns, rows), Image.Resampling.LANCZOS))
    top, left = (rows - 72) // 2, (columns - 72) // 2
    cropped = resized[top : top + 72, left : left + 72]
    np.testing.assert_array_equal(tiny_encoder(resize="crop").prepare(frame), cropped)


def test_prepare_takes_views_and_refuses_other_frames():
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    encoder = tiny_encoder(image_size=36)
    np.testing.assert_array_equal(encoder.prepare(frame[::-1, ::2]), encoder.prepare(frame[::-1, ::2].copy()))
    assert encoder.prepare(frame).shape == (36, 36, 3)
    for bad in (frame.astype(np.float32), frame[..., :1], frame[0], frame[:0]):
        with pytest.raises(ValueError, match="uint8"):
            encoder.prepare(bad)
    with pytest.raises(ValueError, match="too narrow"):
        tiny_encoder(resize="crop").prepare(np.zeros((2, 5000, 3), np.uint8))


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def params():
    return lively_params(TINY)


@pytest.mark.parametrize(("name", "total"), [("base", 114_365_184), ("large", 353_965_056)])
def test_published_sizes(name, total):
    shapes = expected_shapes(ARCHITECTURES[name])
    assert len(shapes) == 40
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == total


def test_shapes_of_base():
    shapes = expected_shapes(ARCHITECTURES["base"])
    assert shapes[PATCH_KERNEL] == (972, 768)
    assert shapes["params/spatial_pos_emb/emb_var"] == (256, 768)
    assert shapes["params/temporal_pos_emb/emb_var"] == (16, 768)
    assert shapes[QUERY] == shapes[QUERY.replace("query", "post")] == (12, 768, 12, 64)
    assert shapes[QUERY.replace("query/w", "post/b")] == (12, 768)
    stack = "params/temporal_encoder/transformers_stack/x_layers/"
    assert shapes[stack + "ff_layer/ffn_layer2/linear/kernel"] == (4, 3072, 768)
    assert shapes[stack + "self_attention/key/b"] == (4, 12, 64)


def test_init_params_has_the_expected_shapes_and_follows_the_seed():
    params = init_params(TINY, 0)
    assert {key: value.shape for key, value in params.items()} == expected_shapes(TINY)
    assert {value.dtype for value in params.values()} == {np.dtype(np.float32)}
    again, other = init_params(TINY, 0), init_params(TINY, 1)
    assert all(np.array_equal(params[key], again[key]) for key in params)
    assert not np.array_equal(params[PATCH_KERNEL], other[PATCH_KERNEL])


def test_round_trip_is_exact(tmp_path, params):
    path = tmp_path / "weights"  # no suffix: the file must appear under the given name
    save_checkpoint(path, params)
    loaded = load_checkpoint(path, TINY)
    assert loaded.keys() == params.keys()
    for key, value in params.items():
        np.testing.assert_array_equal(loaded[key], value)
        assert loaded[key].dtype == np.float32


def test_encoder_runs_from_a_file(tmp_path):
    path = tmp_path / "tiny.npz"
    save_checkpoint(path, init_params(TINY, 0))
    encoder = tiny_encoder(weights=str(path), seed=None)
    assert encoder.trained is True
    recipe = encoder.recipe()
    assert recipe["weights"] == "tiny.npz"
    assert recipe["weights_sha256"] == file_sha256(path)
    assert str(tmp_path) not in json.dumps(recipe)
    clips = random_video(16)[None]
    np.testing.assert_array_equal(encoder.encode_clips(clips), tiny_encoder().encode_clips(clips))


def test_video_text_checkpoint(tmp_path, params):
    """The same encoder one level deeper, beside other branches whose contents do not matter."""
    path = tmp_path / "lvt.npz"
    stored = {key.replace("params/", "params/vision_encoder/", 1): value for key, value in params.items()}
    stored["params/text_encoder/token_emb/emb_var"] = np.zeros(3, np.float32)
    stored["params/auxiliary_encoder/transformers_stack/x_layers/layer_norm/scale"] = np.zeros(3, np.float32)
    save_checkpoint(path, stored)
    loaded = load_checkpoint(path, TINY)
    assert all(np.array_equal(loaded[key], value) for key, value in params.items())

    del stored[QUERY.replace("params/", "params/vision_encoder/", 1)]
    save_checkpoint(path, stored)
    with pytest.raises(CheckpointError, match=QUERY):
        load_checkpoint(path, TINY)


def test_missing_key(tmp_path, params):
    del params[QUERY]
    save_checkpoint(tmp_path / "x.npz", params)
    with pytest.raises(CheckpointError, match=f"lacks '{QUERY}' .1 of 40"):
        load_checkpoint(tmp_path / "x.npz", TINY)


def test_unknown_key_of_the_encoder(tmp_path, params):
    key = QUERY.replace("query/w", "per_dim_scale/per_dim_scale")
    save_checkpoint(tmp_path / "x.npz", params | {key: np.zeros((2, 16), np.float32)})
    with pytest.raises(CheckpointError, match=f"holds '{key}'"):
        load_checkpoint(tmp_path / "x.npz", TINY)


def test_wrong_shape(tmp_path, params):
    params[QUERY] = params[QUERY][:, :, :2]
    save_checkpoint(tmp_path / "x.npz", params)
    with pytest.raises(CheckpointError, match=rf"'{QUERY}' should be \(2, 64, 4, 16\) but is \(2, 64, 2, 16\)$"):
        load_checkpoint(tmp_path / "x.npz", TINY)


def test_wrong_architecture_is_recognised(tmp_path, params):
    save_checkpoint(tmp_path / "x.npz", params)
    with pytest.raises(CheckpointError, match=f"{PATCH_KERNEL}.*this is the tiny checkpoint"):
        load_checkpoint(tmp_path / "x.npz", ARCHITECTURES["base"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path, params, bad):
    params[QUERY][1, 2, 3, 4] = bad
    save_checkpoint(tmp_path / "x.npz", params)
    with pytest.raises(CheckpointError, match=f"'{QUERY}' holds 1 values that are not finite"):
        load_checkpoint(tmp_path / "x.npz", TINY)


def test_values_that_are_not_floats(tmp_path, params):
    save_checkpoint(tmp_path / "x.npz", params | {QUERY: params[QUERY].astype(np.int32)})
    with pytest.raises(CheckpointError, match=f"'{QUERY}' should be float32 but is int32"):
        load_checkpoint(tmp_path / "x.npz", TINY)


def test_pickled_array_is_not_run(tmp_path, params):
    with open(tmp_path / "x.npz", "wb") as file:
        np.savez(file, **params | {QUERY: np.array([{"a": 1}], object)})
    with pytest.raises(CheckpointError, match=QUERY):
        load_checkpoint(tmp_path / "x.npz", TINY)


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.999])
def test_truncated_file(tmp_path, params, keep):
    path = tmp_path / "x.npz"
    save_checkpoint(path, params)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(CheckpointError, match="truncated, corrupt"):
        load_checkpoint(path, TINY)


def test_flipped_byte_is_named(tmp_path, params):
    path = tmp_path / "x.npz"
    save_checkpoint(path, params)
    content = bytearray(path.read_bytes())
    position = content.find(params[QUERY].tobytes()) + 1000
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"'{QUERY}' is truncated or corrupt"):
        load_checkpoint(path, TINY)


def test_other_files(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "pointer.npz").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name, message in (("x.npy", "single array"), ("pointer.npz", "not an npz"), ("absent.npz", "no checkpoint at")):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name, TINY)
    with pytest.raises(CheckpointError, match=r"corrupt or not an npz|no checkpoint"):
        load_checkpoint(tmp_path, TINY)


def test_resolve(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no checkpoint file at"):
        resolve_checkpoint(str(tmp_path / "absent.npz"), TINY)
    with pytest.raises(CheckpointError, match="give a seed"):
        resolve_checkpoint(None, TINY)

    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(repository, filename, revision):
        asked.append((repository, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert resolve_checkpoint(None, ARCHITECTURES["large"]) == Path(tmp_path / "flax_large_f8r288_repeated.npz")
    assert resolve_checkpoint("hf-hub:me/copy@abc", ARCHITECTURES["base"]).name == "flax_base_f16r288_repeated.npz"
    assert asked == [
        ("google/videoprism-large-f8r288", "flax_large_f8r288_repeated.npz", None),
        ("me/copy", "flax_base_f16r288_repeated.npz", "abc"),
    ]


def test_failed_download_says_what_to_fetch(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(repository, filename, revision):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    message = r"flax_base_f16r288_repeated\.npz from .*videoprism-base-f16r288 .*offline(?s:.*)--videoprism-weights"
    with pytest.raises(CheckpointError, match=message):
        VideoPrismEncoder("base")
