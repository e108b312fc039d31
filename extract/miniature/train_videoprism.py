"""Trains the miniature's VideoPrism: factors by regression, and videos against sentences, from nothing.

Every frame's feature (mean over its patches, what the cache holds) has to tell the action, the pace, the camera's
shaking and where in its cycle the motion is by linear readouts, and the mean over a window has to agree with the
sentence that tells action and pace. Readouts and sentence table are thrown away.

Axes: B clips, T frames of a clip, S patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from extract.encoders.videoprism_checkpoint import ARCHITECTURES, Architecture, init_params
from extract.encoders.videoprism_model import spatial, temporal
from extract.miniature.dataset import Pictures
from extract.miniature.keeping import Keeper
from extract.miniature.sentences import PACES, pace_of
from extract.miniature.world import ACTIONS

BATCH, PEAK_RATE, WEIGHT_DECAY, WARM_UP = 32, 1.5e-3, 0.05, 100
Tree = dict[str, jax.Array]


def pooled(params: Mapping[str, jax.Array], clips: jax.Array, arch: Architecture) -> jax.Array:
    """float (B, T, S, S, 3) in [0, 1] -> features (B, T, D), as ``VideoPrismEncoder`` gives them."""
    batch, length, *frame = clips.shape
    tokens = spatial(params, clips.reshape(batch * length, *frame), arch)
    return temporal(params, tokens.reshape(batch, length, *tokens.shape[1:]), arch).mean(axis=2)


def new_readouts(width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Linear layers that are trained along and thrown away."""
    outputs = {"action": len(ACTIONS), "speed": 1, "camera": 1, "video": 32}
    readouts = {f"{k}/w": rng.normal(0, width**-0.5, (width, n)).astype(np.float32) for k, n in outputs.items()}
    readouts |= {f"{k}/b": np.zeros(n, np.float32) for k, n in outputs.items()}
    readouts["words/action"] = rng.normal(0, 0.2, (len(ACTIONS), 32)).astype(np.float32)
    readouts["words/pace"] = rng.normal(0, 0.2, (len(PACES), 32)).astype(np.float32)
    return readouts


def loss_of(trained: Tree, clips: jax.Array, factors: Tree, arch: Architecture) -> jax.Array:
    """Mean of all losses over a batch of uint8 clips (B, T, S, S, 3)."""
    features = pooled(trained, clips.astype(jnp.float32) / 255, arch)  # (B, T, D)

    def read(name: str, x: jax.Array) -> jax.Array:
        return x @ trained[f"{name}/w"] + trained[f"{name}/b"]

    action = _cross_entropy(read("action", features), factors["action"])
    speed = jnp.mean((read("speed", features)[..., 0] - 4 * (factors["speed"] - 0.5)) ** 2)
    camera = jnp.mean((read("camera", features)[..., 0] - 4 * (factors["camera"] - 0.5)) ** 2)
    # A window against the sentence of its last frame's shot, among all sentences.
    words = (trained["words/action"][:, None] + trained["words/pace"]).reshape(-1, 32)  # (actions * paces, 32)
    video = _unit(read("video", features[:, -4:].mean(axis=1)))
    contrast = _cross_entropy(10 * video @ _unit(words).T, factors["sentence"])
    return action + 0.5 * speed + 0.25 * camera + 0.25 * contrast


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1))


@partial(jax.jit, static_argnames="arch", donate_argnums=(0, 1))
def _step(
    trained: Tree, moments: tuple[Tree, Tree], clips: jax.Array, factors: Tree, rate: Any, step: Any, arch: Architecture
) -> tuple[Tree, tuple[Tree, Tree], jax.Array]:
    """One step of AdamW (Loshchilov & Hutter 2019) with the gradient cut to norm 1."""
    loss, gradient = jax.value_and_grad(loss_of)(trained, clips, factors, arch)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in gradient.values()))
    gradient = {k: g * jnp.minimum(1.0, 1.0 / (norm + 1e-6)) for k, g in gradient.items()}
    first = {k: 0.9 * moments[0][k] + 0.1 * g for k, g in gradient.items()}
    second = {k: 0.98 * moments[1][k] + 0.02 * g**2 for k, g in gradient.items()}

    def moved(key: str) -> jax.Array:
        update = first[key] / (1 - 0.9**step) / (jnp.sqrt(second[key] / (1 - 0.98**step)) + 1e-8)
        decay = WEIGHT_DECAY if key.endswith(("/w", "/kernel")) else 0.0
        return trained[key] - rate * (update + decay * trained[key])

    return {k: moved(k) for k in trained}, (first, second), loss


def augment(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrored half of the time, shifted by up to 3 pixels and a little brighter or darker; motion stays as it was."""
    clips = np.ascontiguousarray(clips if rng.random() < 0.5 else clips[:, :, :, ::-1])
    clips = np.roll(clips, rng.integers(-3, 4, 2), (2, 3))
    return np.clip(clips * rng.uniform(0.92, 1.08, (len(clips), 1, 1, 1, 1)), 0, 255).astype(np.uint8)


def train_videoprism(
    pictures: Pictures, steps: int, seed: int, keeper: Keeper, architecture: str = "mini"
) -> dict[str, np.ndarray]:
    """The trained encoder under the official keys, float32.

    Raises:
        Paused: as ``keeper`` says.
    """
    arch, rng = ARCHITECTURES[architecture], np.random.default_rng(seed)
    start = init_params(arch, seed) | new_readouts(arch.width, rng)
    zeros = {k: np.zeros_like(v) for k, v in start.items()}
    state: list[Any] = jax.tree.map(jnp.asarray, [start, (zeros, zeros)])
    last = {k: v[:, -4:].mean(axis=1) if k == "speed" else v[:, -1] for k, v in pictures.factors.items()}
    sentence = last["action"] * len(PACES) + pace_of(last["speed"])

    def step(number: int) -> float:
        rows = np.sort(rng.choice(len(pictures.pixels), BATCH, replace=False))
        factors = {k: pictures.factors[k][rows] for k in ("action", "speed", "camera")} | {"sentence": sentence[rows]}
        rate = PEAK_RATE * min(1.0, (number + 1) / WARM_UP) * (0.5 + 0.5 * np.cos(np.pi * number / steps))
        clips = augment(pictures.pixels[rows], rng)
        state[0], state[1], loss = _step(state[0], state[1], clips, factors, rate, number + 1.0, arch)
        return float(loss)

    def load(kept: Any) -> None:
        state[:] = jax.tree.map(jnp.asarray, kept)

    keeper.steps(steps, rng, lambda: jax.tree.map(np.asarray, state), load, step, every=50)
    return {k: np.asarray(v) for k, v in state[0].items() if k.startswith("params/")}
