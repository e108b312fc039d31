"""VideoPrism's attention with capped logits, every exact way that JAX offers: same inputs, checked, timed in turn.

    xla        plain JAX; the product's default
    pallas     the kernel of extract/encoders/videoprism_attention.py, at several blocks and warps
    dpa-xla    jax.nn.dot_product_attention. It has no cap, so it is handed the capped logits as a bias beside a query
    dpa-cudnn  of zeros, which is exact but computes and stores all logits as xla does; by XLA and by cuDNN

    python benchmarks/attention.py                # a GPU: all of them, bfloat16, 64 frames and 8 windows of base size
    python benchmarks/attention.py --json out.json

Without a GPU the kernel is interpreted, which says nothing about its speed: then small inputs, equality of all, and
times of plain JAX alone. A way that a device refuses is listed with its reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from extract.encoders.videoprism_attention import attend, attend_pallas, capped

Way = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
HEADS, HEAD_SIZE = 12, 64  # VideoPrism-B
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03}  # a bfloat16 near 4 has steps of 0.03


def by_dot_product_attention(query: jax.Array, key: jax.Array, value: jax.Array, implementation: str) -> jax.Array:
    """Exact through the bias: softmax(0 . k + bias) v."""
    bias = capped(jnp.einsum("rtnk,rsnk->rnts", query, key))
    return jax.nn.dot_product_attention(
        jnp.zeros_like(query),
        key,
        value,
        bias,
        scale=1.0,
        implementation=implementation,  # type: ignore[arg-type]
    )


def ways(on_gpu: bool) -> dict[str, Way]:
    """All of them, by name."""
    found: dict[str, Way] = {"xla": partial(attend, attention="xla")}
    for block, num_warps in ((32, 4), (64, 4), (64, 8), (128, 8)) if on_gpu else ((64, 4),):
        found[f"pallas {block}x{num_warps}"] = partial(attend_pallas, block=block, num_warps=num_warps)
    found["dpa-xla"] = partial(by_dot_product_attention, implementation="xla")
    if on_gpu:
        found["dpa-cudnn"] = partial(by_dot_product_attention, implementation="cudnn")
    return found


def operands(rows: int, length: int, dtype: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value (rows, length, 12, 64); the logits have a standard deviation of 4."""
    rng = np.random.default_rng(0)
    shape = (rows, length, HEADS, HEAD_SIZE)
    query, key, value = (jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for _ in range(3))
    return query * 4 * HEAD_SIZE**-0.5, key, value


def seconds(call: Callable[[], jax.Array], repeats: int) -> float:
    """Mean of ``repeats`` calls in flight at once."""
    started = time.perf_counter()
    for _ in range(repeats):
        result = call()
    result.block_until_ready()
    return (time.perf_counter() - started) / repeats


def compare(stage: str, rows: int, length: int, dtype: str, on_gpu: bool, rounds: int) -> dict[str, float]:
    """One table: difference from plain JAX in float32, milliseconds, ratio to plain JAX taken within each round."""
    print(f"{stage}: {rows} rows of {length} tokens, {dtype}")
    inputs = operands(rows, length, dtype)
    with jax.default_matmul_precision("highest"):
        exact = attend(*(x.astype(jnp.float32) for x in inputs), "xla")
    calls: dict[str, Callable[[], jax.Array]] = {}
    figures: dict[str, float] = {}
    for name, way in ways(on_gpu).items():
        call = partial(jax.jit(way), *inputs)
        try:
            with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
                difference = float(jnp.abs(call().astype(jnp.float32) - exact).max())
        except Exception as error:  # a device, driver or JAX version that cannot; the others are still of interest
            print(f"  {name:<14}refused: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
            continue
        if not difference < TOLERANCE[dtype]:
            raise SystemExit(f"{name} is not exact: {difference:.1e} from plain JAX in float32")
        figures[f"{stage}_{dtype}_{name}_max_abs_diff"] = difference
        if on_gpu or name == "xla":
            calls[name] = call
        else:
            print(f"  {name:<14}{difference:>10.1e}  equal; not timed, no GPU")
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, 20 if on_gpu else 2))
    for name, measured in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["xla"], measured, strict=True))
        key, ms = f"{stage}_{dtype}_{name}", 1e3 * statistics.median(measured)
        print(f"  {name:<14}{figures[f'{key}_max_abs_diff']:>10.1e}{ms:>10.3f} ms{ratio:>7.2f}x")
        figures |= {f"{key}_ms": ms, f"{key}_ratio": ratio}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures as flat JSON")
    args = parser.parse_args()
    on_gpu = jax.default_backend() == "gpu"
    print(jax.devices()[0].device_kind)
    frames, windows = (64, 8) if on_gpu else (2, 1)
    positions = 256 if on_gpu else 16
    figures: dict[str, float] = {}
    for dtype in ("bfloat16", "float32"):
        figures |= compare("spatial", frames, 256, dtype, on_gpu, args.rounds)
        figures |= compare("temporal", windows * positions, 16, dtype, on_gpu, args.rounds)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
