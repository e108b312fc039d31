"""Batch sizes from one number: how much memory the encoders may take on the GPU.

The model is arithmetic over the architectures: weights, what is kept (VideoPrism's frame pool, the captioner's
key-value cache), and the largest buffers of one call, which grow with its rows. VideoPrism's share is checked against
the plan of XLA's compiler on a CPU (tests/extract/test_memory.py); nothing of it has been compared on a GPU.

Axes as in the encoders: U frames of a call, N windows, T samples of a window, S tokens of a frame, D width, M width of
the MLP, P slots of the pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from extract.config import CaptionerConfig, ExtractConfig, pool_slots
from extract.encoders.minigpt.memory import memory as minigpt_memory
from extract.encoders.minigpt.variants import VARIANTS
from extract.encoders.videoprism_checkpoint import ARCHITECTURES, Architecture

GIB = 2**30
SAFE_SHARE = 0.85  # of what is free, where nobody gives a number
SLACK = 1.1  # what allocators lose between their blocks
LIBRARIES = 0.7 * GIB  # an allowance for the CUDA context and the libraries' own buffers, on a GPU only
# At most so many rows per call: more would only make the last batch of a run emptier.
LARGEST = {"frame_batch": 64, "window_batch": 16, "clip_batch": 256, "caption_batch": 64}
STEPS = 17  # halvings by the square root of 2 that lead from the largest sizes to 1
# Models whose sizes open_clip does not state (ResNets, timm, hub): an allowance, more than ViT-L/14 takes.
UNKNOWN_WEIGHTS, UNKNOWN_ROW = 2e9, 64e6
HUB_ROW = 0.5 * GIB  # a picture and its answer in a model of the hub; an allowance
HUB_WEIGHTS = 16e9  # where its files are not here


@dataclass(frozen=True)
class Need:
    """Bytes that one part takes: all the time, and during a call on top of that."""

    kept: float
    work: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.kept + self.work


@dataclass(frozen=True)
class BatchSizes:
    """Rows per call of every model; ``caption_batch`` is ``CaptionerConfig.batch_size``."""

    frame_batch: int
    window_batch: int
    clip_batch: int
    caption_batch: int

    def into(self, config: ExtractConfig, streams: Iterable[str]) -> ExtractConfig:
        """The configuration with these sizes where they belong to one of the streams."""
        streams = set(streams)
        if "video" in streams:
            video = replace(config.video, frame_batch=self.frame_batch, window_batch=self.window_batch)
            config = replace(config, video=video)
        if streams & {"image", "text"}:
            config = replace(config, clip=replace(config.clip, batch_size=self.clip_batch))
        if "text" in streams and captioner_on_device(config.captioner):
            config = replace(config, captioner=replace(config.captioner, batch_size=self.caption_batch))
        return config


def batch_sizes(step: int) -> BatchSizes:
    """The sizes of one step of the ladder: 0 is the largest, ``STEPS - 1`` is one row each."""
    return BatchSizes(**{name: _round(most * 2 ** (-step / 2)) for name, most in LARGEST.items()})


def fit(
    config: ExtractConfig,
    streams: Sequence[str],
    num_bytes: float,
    *,
    gpu: bool,
    caption_batch: int | None = None,
) -> ExtractConfig | None:
    """The configuration with the largest batch sizes that fit into so many bytes; None if even one row does not.

    Args:
        streams: those whose encoders share this memory.
        gpu: they are on a GPU: weights and activations have 16 bits where the preset leaves it open.
        caption_batch: given by the user, and not to be changed.
    """
    for step in range(STEPS):
        sized = _at(config, streams, step, caption_batch)
        if total_bytes(sized, streams, gpu=gpu) <= num_bytes:
            return sized
    return None


def least_sizes(config: ExtractConfig, streams: Sequence[str], caption_batch: int | None = None) -> ExtractConfig:
    """The configuration with one row per call."""
    return _at(config, streams, STEPS - 1, caption_batch)


def too_little(
    config: ExtractConfig, streams: Sequence[str], num_bytes: float, *, gpu: bool, caption_batch: int | None = None
) -> str:
    """What to say where ``fit`` finds nothing."""
    least = least_sizes(config, streams, caption_batch)
    alone = ", ".join(f"{s} {total_bytes(least, [s], gpu=gpu) / GIB:.3g}" for s in streams)
    together = f"; together {total_bytes(least, streams, gpu=gpu) / GIB:.3g}" if len(streams) > 1 else ""
    ways = ["one stream per process (--streams)"] if len(streams) > 1 else []
    if "text" in streams and captioner_on_device(config.captioner):
        ways.append("another captioner or --caption-quantize")
    ways += ["more memory"]
    return (
        f"{num_bytes / GIB:.3g} GiB are too little for these encoders, one row at a time: the least is, in GiB, "
        f"{alone}{together}. Ways out: {'; '.join(ways)}"
    )


def total_bytes(config: ExtractConfig, streams: Sequence[str], *, gpu: bool) -> float:
    """Bytes that the encoders of these streams take together.

    JAX and torch have an allocator each, and neither gives back what it once took: to VideoPrism's peak comes the
    weights of all torch models and the largest of their calls (they run one after another).
    """
    total = LIBRARIES if gpu else 0.0
    if "video" in streams:
        total += SLACK * video_need(config, gpu=gpu).total
    if torch_streams := [s for s in streams if s != "video"]:
        needs = [clip_need(config, torch_streams, gpu=gpu)]
        needs += [captioner_need(config.captioner, gpu=gpu)] if "text" in torch_streams else []
        total += SLACK * (sum(n.kept for n in needs) + max(n.work for n in needs))
    return total


# ------------------------------------------------------------------ models


def video_need(config: ExtractConfig, *, gpu: bool) -> Need:
    """VideoPrism: weights and pool (P, S, D), and the larger of its two stages."""
    arch = ARCHITECTURES[config.video.architecture]
    width = _width(config.video.dtype, gpu)
    samples = config.window.samples["video"]
    pool = pool_slots(config) * arch.grid**2 * arch.width * width
    frames = spatial_bytes(arch, config.video.frame_batch, width)
    windows = temporal_bytes(arch, config.video.window_batch, samples, width)
    return Need(width * num_parameters(arch) + pool, max(frames, windows))


def num_parameters(arch: Architecture) -> int:
    """Of both stages, the patch projection and the position tables."""
    own = arch.patch_values * arch.width + arch.width + (arch.grid**2 + arch.num_frames) * arch.width + 4 * arch.width
    layer = _layer_weights(arch) + 9 * arch.width + arch.mlp
    return own + (arch.spatial_layers + arch.temporal_layers) * layer


def spatial_bytes(arch: Architecture, num_frames: int, width: int) -> float:
    """Buffers of the spatial stage for U frames, its output (U, S, D) included; ``width``: bytes of a number.

    At its fullest either the weights of one layer, cut out of the stack, with residual, query, key and value (S, D)
    and the larger of attention logits (heads, S, S), which are float32 in the softmax, and MLP (S, M); or the frames as
    float32 patches.
    """
    tokens, heads = arch.grid**2, arch.heads
    logits = heads * tokens**2 * (4 if width == 4 else 4 + width)
    row = 4 * tokens * arch.width * width + max(logits, tokens * arch.mlp * width)
    patches = num_frames * tokens * arch.patch_values * 4
    output = num_frames * tokens * arch.width * width
    return max(_layer_weights(arch) * width + num_frames * row, patches) + output + 4096


def temporal_bytes(arch: Architecture, num_windows: int, num_samples: int, width: int) -> float:
    """Buffers of the temporal stage for N windows, its output (N, T, D) included.

    The weights of one layer, and either residual, norm, query, key, value and mixed values, six times (T, S, D), or
    residual and MLP before and behind its activation, (T, S, D) and twice (T, S, M).
    """
    tokens = num_samples * arch.grid**2
    row = max(6 * tokens * arch.width, tokens * arch.width + 2 * tokens * arch.mlp) * width
    return _layer_weights(arch) * width + num_windows * (row + num_samples * arch.width * 4) + 4096


def clip_need(config: ExtractConfig, streams: Iterable[str], *, gpu: bool) -> Need:
    """Both towers of CLIP (one model) and the larger call of those that are used.

    Weights are kept in float32, with a 16-bit copy during a call where it computes in 16 bits. A row is at its fullest
    in the MLP: residual and norm in float32, hidden values before and behind the activation and its gate, (S, M) each.
    """
    from extract.encoders.clip_sizes import clip_sizes

    sizes, width = clip_sizes(config.clip.model), _width(config.clip.dtype, gpu)
    if sizes is None:
        return Need(UNKNOWN_WEIGHTS, config.clip.batch_size * UNKNOWN_ROW)
    rows = {
        "image": sizes.image_tokens * (8 * sizes.image_width + 3 * sizes.image_mlp * width),
        "text": sizes.text_tokens * (8 * sizes.text_width + 3 * sizes.text_mlp * width),
    }
    copy = 0 if width == 4 else width * sizes.num_parameters
    return Need(4 * sizes.num_parameters, copy + config.clip.batch_size * max(rows[s] for s in rows if s in streams))


def captioner_on_device(config: CaptionerConfig) -> bool:
    """Whether a captioner has a model on this machine; a server's and the offline one have none."""
    return config.name not in ("offline", "server")


def captioner_need(config: CaptionerConfig, *, gpu: bool) -> Need:
    """Weights, key-value cache and workspace of the captioner; of the hub's models, an allowance."""
    if not captioner_on_device(config):
        return Need(0.0)
    width = _width(config.dtype, gpu)
    if config.name not in VARIANTS:
        files = list(Path(config.weights).glob("*.safetensors")) if config.weights else []
        weights = sum(f.stat().st_size for f in files) if files else HUB_WEIGHTS
        return Need(weights, config.batch_size * HUB_ROW)
    variant = VARIANTS[config.name]
    need = minigpt_memory(
        variant,
        num_slots=config.batch_size,
        max_new_tokens=config.max_new_tokens or 300,
        quantize=config.quantize,
        width=width,
    )
    remote = config.server is not None  # the language half is elsewhere
    kept = need.vision + (0.0 if remote else need.llm + need.cache)
    return Need(kept, need.workspace if variant.trained else 0.0)


# ------------------------------------------------------------------ parts


def _at(config: ExtractConfig, streams: Sequence[str], step: int, caption_batch: int | None) -> ExtractConfig:
    sizes = batch_sizes(step)
    return replace(sizes, caption_batch=caption_batch or sizes.caption_batch).into(config, streams)


def _round(size: float) -> int:
    """Down to a multiple of 8, below that to a power of two: what GPUs like."""
    whole = max(1, int(size + 1e-9))
    return whole // 8 * 8 if whole >= 8 else 2 ** (whole.bit_length() - 1)


def _layer_weights(arch: Architecture) -> int:
    return 4 * arch.width**2 + 2 * arch.width * arch.mlp


def _width(dtype: str, gpu: bool) -> int:
    """Bytes of a number in a configuration's dtype."""
    return {"float32": 4, "float16": 2, "bfloat16": 2}.get(dtype, 2 if gpu else 4)
