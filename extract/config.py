"""Presets: which encoders, how large, on which windows. Frozen dataclasses; a modelling choice is a field here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from shared.names import unknown_name
from shared.windows import WindowSpec

IN_ITS_WORLD = "miniature encoders, rendered data: shows how the parts work together, nothing about real video"
OUT_OF_ITS_WORLD = (
    "miniature encoders, trained on rendered data only: these videos are out of its world, and what it makes of them "
    "(features, captions, scores) means nothing; for real video take --preset base"
)
LONG_CAPTIONS = ("truncate", "chunk-mean")
PACKAGED = "crossgru miniature"  # source of the weights that are part of this package


@dataclass(frozen=True)
class VideoPrismConfig:
    """Stream "video".

    Attributes:
        architecture: "tiny", "mini", "base" or "large" (extract/encoders/videoprism.py).
        weights: path of an official ``.npz``; None takes the packaged or the published file.
        seed: random weights by this seed instead of published ones.
        dtype: "float32", "bfloat16" or "auto" (bfloat16 on a GPU).
        resize: "squash" (whole picture) or "crop" (centre square).
        frame_batch, window_batch: rows per call of the spatial and of the temporal stage.
    """

    architecture: str = "base"
    weights: str | None = None
    seed: int | None = None
    dtype: str = "auto"
    resize: str = "squash"
    frame_batch: int = 16
    window_batch: int = 4


@dataclass(frozen=True)
class ClipConfig:
    """Streams "image" and "text".

    Attributes:
        model: any open_clip model name, "mini" for the miniature, or "tiny" for the toy of the tests.
        weights: open_clip pretrained tag, a hub id (``hf-hub:...`` as model), a local file or ``PACKAGED``.
        seed: random weights by this seed instead of pretrained ones.
        dtype: "float32", "float16", "bfloat16" or "auto" (float16 on a GPU).
        batch_size: frames or captions per call.
    """

    model: str = "ViT-L-14-quickgelu"
    weights: str | None = "openai"
    seed: int | None = None
    dtype: str = "auto"
    batch_size: int = 32


@dataclass(frozen=True)
class CaptionerConfig:
    """Who writes the captions of stream "text", and how.

    Attributes:
        name: key of ``extract.encoders.captioners.CAPTIONERS``, or ``hf-hub:OWNER/NAME`` for a model of transformers.
        weights: folder with the captioner's files; None takes its default place.
        prompt: what the model is asked; None for the captioner's own question.
        decoding: "greedy" or "sample" (seeded per frame).
        seed: of the sampling.
        max_new_tokens: longest caption, in the captioner's tokens; None for the captioner's own limit.
        dtype: of the language model: "float32", "float16", "bfloat16" or "auto" (float16 on a GPU).
        quantize: "int8" or "int4" weights for a GPU with too little memory; None keeps ``dtype``.
        batch_size: frames per call.
        server: base URL of an OpenAI-compatible server, for the captioners that use one.
        server_model: model name on that server; None takes the one it serves.
    """

    name: str = "offline"
    weights: str | None = None
    prompt: str | None = None
    decoding: str = "greedy"
    seed: int = 0
    max_new_tokens: int | None = None
    dtype: str = "auto"
    quantize: str | None = None
    batch_size: int = 32
    server: str | None = None
    server_model: str | None = None


@dataclass(frozen=True)
class ExtractConfig:
    """One preset.

    Attributes:
        long_captions: what becomes of captions beyond CLIP's 77 tokens: "truncate", or "chunk-mean" (mean over the
            features of 77-token chunks).
        window: windows and samples per stream.
        thumbnails: keep a small JPEG of every captioned frame in the cache, for reports. Off where the data must not
            be passed on: a cache with thumbnails shows its videos.
    """

    name: str
    video: VideoPrismConfig = field(default_factory=VideoPrismConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    long_captions: str = "truncate"
    window: WindowSpec = field(default_factory=WindowSpec)
    thumbnails: bool = False

    def __post_init__(self) -> None:
        check_long_captions(self.long_captions)

    @property
    def trained(self) -> tuple[str, ...]:
        """Streams whose encoder has published weights, or the user's."""
        return tuple(s for s in self.window.samples if (self.video if s == "video" else self.clip).seed is None)


def pool_slots(config: ExtractConfig) -> int:
    """Frames that VideoPrism's pool keeps: both batches fill while every frame of a window stays for the next ones."""
    video, window = config.video, config.window
    return video.frame_batch + video.window_batch * window.samples["video"] + window.size


def check_long_captions(choice: str) -> None:
    """Refuse a choice for long captions that there is not.

    Raises:
        ValueError: names the ones there are.
    """
    if choice not in LONG_CAPTIONS:
        raise ValueError(f"--long-captions takes {' or '.join(LONG_CAPTIONS)}, found {choice!r}")


PRESETS: Mapping[str, ExtractConfig] = MappingProxyType(
    {
        # Untrained encoders at toy size: the same code, no download, no GPU. What most tests run on.
        "tiny": ExtractConfig(
            "tiny",
            VideoPrismConfig("tiny", seed=0, frame_batch=32, window_batch=8),
            ClipConfig("tiny", weights=None, seed=0, batch_size=32),
            thumbnails=True,
        ),
        # The same, captioned by the MiniGPT-4 code on random weights in the published formats: proves that path.
        "tiny-minigpt": ExtractConfig(
            "tiny-minigpt",
            VideoPrismConfig("tiny", seed=0, frame_batch=32, window_batch=8),
            ClipConfig("tiny", weights=None, seed=0, batch_size=32),
            CaptionerConfig("minigpt4-tiny", max_new_tokens=60),
            thumbnails=True,
        ),
        # The real stack in small, trained here on rendered scenes; its weights are part of the package. The demo's own.
        "mini": ExtractConfig(
            "mini",
            VideoPrismConfig("mini", frame_batch=32, window_batch=8),
            ClipConfig("mini", weights=PACKAGED),
            CaptionerConfig("minigpt4-mini", max_new_tokens=40),
            thumbnails=True,
        ),
        "base": ExtractConfig("base", captioner=CaptionerConfig("minigpt4-vicuna-7b")),
        # VideoPrism-L is trained on 8 frames; with 16 samples its temporal table is interpolated, as its authors do.
        "large": ExtractConfig(
            "large", VideoPrismConfig("large", frame_batch=8), captioner=CaptionerConfig("minigpt4-vicuna-7b")
        ),
    }
)


def is_packaged(recipe: Mapping[str, Any]) -> bool:
    """Whether a stream is made with weights that are part of the package: the miniature's, which know rendered data."""
    return str(recipe.get("weights", "")).startswith(PACKAGED)


def find_preset(name: str) -> ExtractConfig:
    """A preset by name.

    Raises:
        ValueError: unknown name; the message offers the closest one.
    """
    if name not in PRESETS:
        raise ValueError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]


def with_options(config: ExtractConfig, **options: Any) -> ExtractConfig:
    """The preset with the command line's choices; an option that is None changes nothing."""
    given = {k: v for k, v in options.items() if v is not None}
    if "videoprism_weights" in given:
        config = replace(config, video=replace(config.video, weights=given["videoprism_weights"], seed=None))
    clip: dict[str, Any] = {}
    if "clip_model" in given:
        clip["model"] = given["clip_model"]
    if "clip_weights" in given:
        clip |= {"weights": given["clip_weights"], "seed": None}
    if clip:
        config = replace(config, clip=replace(config.clip, **clip))
    if "dtype" in given:
        video, clip_ = replace(config.video, dtype=given["dtype"]), replace(config.clip, dtype=given["dtype"])
        config = replace(config, video=video, clip=clip_)
    if given.get("captioner", config.captioner.name) != config.captioner.name:
        # What a preset says of its own captioner means nothing to another one.
        config = replace(config, captioner=CaptionerConfig(given["captioner"]))
    captioner: dict[str, Any] = {"dtype": given["dtype"]} if "dtype" in given else {}
    captioner |= {k.removeprefix("caption_"): v for k, v in given.items() if k.startswith("caption_")}
    if captioner:
        config = replace(config, captioner=replace(config.captioner, **captioner))
    config = replace(config, **{k: given[k] for k in ("long_captions", "thumbnails") if k in given})
    window = {k: given[k] for k in ("stride", "sampling") if k in given}
    if window:
        config = replace(config, window=replace(config.window, **window))
    return config
