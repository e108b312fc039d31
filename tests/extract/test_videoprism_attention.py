"""Attention with capped logits: the kernel against plain JAX; here it is interpreted, and lowered as far as Triton."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from extract.encoders import videoprism_attention
from extract.encoders.videoprism import ARCHITECTURES, VideoPrismEncoder, cast_params, init_params, spatial
from extract.encoders.videoprism_attention import attend, attend_pallas

# rows, tokens, heads, head size
SHAPES = {"temporal": (5, 16, 3, 64), "spatial": (2, 256, 2, 64), "odd": (2, 196, 2, 16), "few": (3, 5, 2, 16)}
CASES = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def operands(shape, dtype="float32", loud=2.0):
    """Query, key and value; with ``loud`` 2 the logits reach the cap's bend."""
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.standard_normal(shape), dtype) for _ in range(3))
    return query * loud * shape[-1] ** -0.5 * loud, key * loud, value


def by_hand(query, key, value):
    """The formula in float64, head by head."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    mixed = np.empty_like(query)
    for row in range(query.shape[0]):
        for head in range(query.shape[2]):
            logits = 50 * np.tanh(query[row, :, head] @ key[row, :, head].T / 50)  # (t, s)
            weights = np.exp(logits)
            mixed[row, :, head] = weights / weights.sum(axis=1, keepdims=True) @ value[row, :, head]
    return mixed


@CASES
def test_both_ways_are_the_formula_in_float32(shape):
    inputs = operands(shape)
    logits = jnp.einsum("rtnk,rsnk->rnts", *inputs[:2])
    assert float(jnp.abs(logits).max()) > 15  # where the cap takes 3 %
    expected = by_hand(*inputs)
    plain, kernel = (np.asarray(attend(*inputs, attention)) for attention in ("xla", "pallas"))
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    np.testing.assert_allclose(kernel, plain, atol=1e-5)


@CASES
def test_in_bfloat16_the_kernel_is_no_further_from_the_formula(shape):
    inputs = operands(shape, "bfloat16", loud=1.0)
    expected = by_hand(*inputs)
    errors = {}
    for attention in ("xla", "pallas"):
        mixed = attend(*inputs, attention)
        assert mixed.dtype == jnp.bfloat16
        errors[attention] = np.abs(np.asarray(mixed, np.float64) - expected).max()
    assert errors["pallas"] < 0.02  # values of about 3 have steps of 0.016
    assert errors["pallas"] <= 1.1 * errors["xla"]


def test_fewer_queries_than_keys_and_any_block():
    query, key, value = operands((2, 40, 2, 16))
    expected = by_hand(query, key, value)[:, :23]
    for block in (16, 32, 64):
        found = attend_pallas(query[:, :23], key, value, block=block)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@CASES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_lowers_to_triton(shape, dtype):
    """What a machine without a GPU can see of it: the code generator takes every operation and shape."""
    kernel = jax.jit(lambda *inputs: attend_pallas(*inputs, interpret=False))
    text = kernel.trace(*operands(shape, dtype)).lower(lowering_platforms=("cuda",)).as_text()
    assert "xla.gpu.triton" in text


def test_what_the_kernel_does_not_take():
    with pytest.raises(ValueError, match=r"xla, pallas, found 'flash'"):
        attend(*operands((1, 4, 1, 16)), "flash")
    with pytest.raises(ValueError, match=r"at most 1024 keys, found 1025: use 'xla'"):
        attend(*operands((1, 1025, 1, 16)), "pallas")
    with pytest.raises(ValueError, match=r"head sizes 16, 32, 64, \.\.\., found 24"):
        attend_pallas(*operands((1, 4, 1, 24)), interpret=False)


def test_no_cap_would_be_seen(monkeypatch):
    inputs = operands(SHAPES["temporal"])
    monkeypatch.setattr(videoprism_attention, "_LOGIT_CAP", 1e6)
    for attention in ("xla", "pallas"):
        assert np.abs(np.asarray(attend(*inputs, attention)) - by_hand(*inputs)).max() > 1e-3


def test_the_encoder_by_either_way():
    """Both stages end to end; the recipe tells the kernel from plain JAX, whose recipe is as it always was."""
    options = {"seed": 0, "dtype": "float32", "frame_batch": 16, "window_batch": 1}
    plain, kernel = (VideoPrismEncoder("tiny", **options, attention=a) for a in ("xla", "pallas"))
    video = np.random.default_rng(0).integers(0, 256, (16, 72, 72, 3), dtype=np.uint8)
    slots = np.arange(16, dtype=np.int32)
    features = []
    for encoder in (plain, kernel):
        encoder.encode_frames(video, slots)
        features += [encoder.encode_windows(slots[None]), encoder.encode_clips(video[None])]
    for other in features[1:]:
        np.testing.assert_allclose(other, features[0], atol=1e-4)
    assert "attention" not in plain.recipe()
    assert kernel.recipe() == plain.recipe() | {"attention": "pallas"}
    with pytest.raises(ValueError, match="attention should be one of xla, pallas"):
        VideoPrismEncoder("tiny", seed=0, attention="cudnn")


def test_the_encoder_really_uses_the_kernel():
    params, frames = cast_params(init_params(ARCHITECTURES["tiny"], 0), "float32"), jnp.zeros((1, 72, 72, 3))
    programs = [
        str(jax.make_jaxpr(lambda p, f, a=a: spatial(p, f, ARCHITECTURES["tiny"], a))(params, frames))
        for a in ("xla", "pallas")
    ]
    assert ["pallas_call" in program for program in programs] == [False, True]
