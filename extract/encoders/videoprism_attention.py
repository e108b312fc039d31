"""Attention with capped logits, softmax(50 * tanh(q.k / 50)) v, in two ways that give the same numbers.

``xla`` is plain JAX: the logits of all tokens exist in memory. ``pallas`` is one kernel for a GPU (Triton) in which
they never leave the chip: a frame has 256 tokens and a window 16 frames, so a block of queries meets all keys at once
and nothing has to be streamed or rescaled.

``jax.nn.dot_product_attention`` has no cap, and tanh cannot be moved out of it: a function of q and k alone would have
to turn q.k into tanh(q.k). Exact is only to hand it the capped logits as a ``bias`` beside a query of zeros, which
computes and stores them just as ``xla`` does. benchmarks/attention.py compares all three.

Axes: r rows (frames or patch positions), t queries, s keys, n heads, k head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

ATTENTIONS = ("xla", "pallas")

_LOGIT_CAP = 50.0  # official configuration
_LEAST_TILE = 16  # rows and columns of the smallest matrix product that a tensor core does
_MOST_KEYS = 1024  # beyond, a row of logits does not fit on the chip


def attend(query: jax.Array, key: jax.Array, value: jax.Array, attention: str = "xla") -> jax.Array:
    """Softmax attention with capped logits.

    Args:
        query: (r, t, n, k), already scaled by k ** -0.5.
        key: (r, s, n, k), of the dtype of ``query``, as is ``value``.
        value: (r, s, n, k).
        attention: one of ``ATTENTIONS``.

    Returns:
        (r, t, n, k) in the dtype of ``query``. Both ways agree up to reassociation in float32; in bfloat16 the kernel
        keeps the logits in float32 where ``xla`` rounds them.

    Raises:
        ValueError: another choice, or more keys than the kernel takes.
    """
    if attention == "xla":
        return _attend_xla(query, key, value)
    if attention == "pallas":
        return attend_pallas(query, key, value)
    raise ValueError(f"attention should be one of {', '.join(ATTENTIONS)}, found {attention!r}")


def capped(logits: jax.Array) -> jax.Array:
    """50 * tanh(logits / 50)."""
    return _LOGIT_CAP * jnp.tanh(logits / _LOGIT_CAP)


def _attend_xla(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    logits = capped(jnp.einsum("rtnk,rsnk->rnts", query, key))
    # float32 whatever the dtype: bfloat16 cannot sum 256 probabilities.
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(query.dtype)
    # Heads first: XLA's matrix product on a CPU is 2.5 times as slow when it has to pick the heads of "rsnk" itself.
    mixed = jnp.einsum("rnts,rnsk->rntk", weights, value.transpose(0, 2, 1, 3))
    return mixed.transpose(0, 2, 1, 3)  # (r, t, n, k)


# --- the kernel -------------------------------------------------------------------------------------------------------


def attend_pallas(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    block: int = 64,
    num_warps: int = 4,
    interpret: bool | None = None,
) -> jax.Array:
    """``attend`` as a kernel; one program takes ``block`` queries of one head of one row.

    Token counts that are not a power of 2 are padded; padded keys get no weight and padded queries are cut off.

    Args:
        query: (r, t, n, k), already scaled.
        key: (r, s, n, k).
        value: (r, s, n, k).
        block: most queries per program, a power of 2.
        num_warps: groups of 32 threads per program.
        interpret: run without a GPU, slowly; None does so where the backend is a CPU.

    Raises:
        ValueError: too many keys, or a head size that is not a power of 2 of at least 16 (on a GPU).
    """
    from jax.experimental import pallas as pl  # only who uses the kernel needs it

    rows, length, heads, size = query.shape
    num_keys = key.shape[1]
    if num_keys > _MOST_KEYS:
        raise ValueError(f"attention 'pallas' takes at most {_MOST_KEYS} keys, found {num_keys}: use 'xla'")
    if interpret is None:
        interpret = jax.default_backend() == "cpu"
    if not interpret and size != _tile(size):
        raise ValueError(f"attention 'pallas' takes head sizes 16, 32, 64, ..., found {size}: use 'xla'")
    block = min(block, _tile(length))
    query = _pad_tokens(query, -(-length // block) * block)  # (r, t', n, k)
    key, value = (_pad_tokens(x, _tile(num_keys)) for x in (key, value))  # (r, s', n, k)
    of_queries = pl.BlockSpec((None, block, None, size), lambda r, n, t: (r, t, n, 0))
    of_keys = pl.BlockSpec((None, key.shape[1], None, size), lambda r, n, t: (r, 0, n, 0))
    mixed = pl.pallas_call(
        partial(_kernel, num_keys=num_keys),
        grid=(rows, heads, query.shape[1] // block),
        in_specs=[of_queries, of_keys, of_keys],
        out_specs=of_queries,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        interpret=interpret,
        **({} if interpret else _gpu_options(num_warps)),
    )(query, key, value)
    return mixed[:, :length]


def _kernel(query_ref: Any, key_ref: Any, value_ref: Any, mixed_ref: Any, *, num_keys: int) -> None:
    """One head of one row: queries (t, k), all keys and values (s, k)."""
    dtype = query_ref.dtype
    # The choice of exact_matmul, in words of this product: a tensor core would round float32 to 10 bits.
    product: Callable[..., jax.Array] = partial(
        jnp.dot,
        precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    logits = capped(product(query_ref[...], key_ref[...].T))  # (t, s) float32
    if num_keys < key_ref.shape[0]:
        is_real = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < num_keys
        logits = jnp.where(is_real, logits, -jnp.inf)
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    mixed_ref[...] = product(weights.astype(dtype), value_ref[...]).astype(dtype)  # (t, k)


def _gpu_options(num_warps: int) -> dict[str, Any]:
    from jax.experimental.pallas import triton

    return {"compiler_params": triton.CompilerParams(num_warps=num_warps, num_stages=2)}


def _tile(count: int) -> int:
    """The power of 2 that holds ``count``, 16 at least."""
    return max(_LEAST_TILE, 1 << (count - 1).bit_length())


def _pad_tokens(x: jax.Array, length: int) -> jax.Array:
    """(r, t, n, k) -> (r, length, n, k), with zeros."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0))) if length > x.shape[1] else x
