"""MiniGPT-4 and MiniGPT-v2 as captioners: picture -> image tokens -> batched generation -> sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from extract.config import CaptionerConfig
from extract.encoders.captioners.contract import check_items
from extract.encoders.captioners.endpoint import check_server
from extract.encoders.digests import files_sha256
from extract.encoders.minigpt.checkpoint import lora_tensors, read_file
from extract.encoders.minigpt.decoding import Decoding, decoding_of, frame_digest
from extract.encoders.minigpt.files import Files, check_files, find_files
from extract.encoders.minigpt.generation import SlotGenerator
from extract.encoders.minigpt.llm import QUANTIZERS, check_quantize, load_llm
from extract.encoders.minigpt.memory import check_cpu
from extract.encoders.minigpt.prompt import conversation, cut_answer, decode, load_tokenizer, stop_sequences, tokenize
from extract.encoders.minigpt.remote import RemoteGenerator, read_embeddings
from extract.encoders.minigpt.tiny import own_folder
from extract.encoders.minigpt.variants import find_variant
from extract.encoders.minigpt.vision import MiniGptVision
from extract.encoders.parts import InParts, first_line
from extract.preparation import Squash

VISION_BATCH = 8
ADVICE = (
    "take fewer frames at once (--caption-batch, default 32), a smaller language model (--caption-quantize int8 or "
    "int4), or the language half on a server (--caption-server)"
)
CALL_FACTOR = 4  # frames per call over slots: the more, the less often slots run empty at the end of a call
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class MiniGptCaptioner:
    """One variant with its weights.

    Attributes:
        variant: sizes and prompt.
        prompt: what is asked, as text and tokens.
        generator: the batched language half.
        batch_size: frames per call, several times the number of slots that generate at once.
    """

    context = (0,)

    def __init__(self, config: CaptionerConfig) -> None:
        """Load.

        Raises:
            ValueError: files missing, broken or of another variant; unknown decoding, dtype or quantisation.
        """
        self.variant = find_variant(config.name)
        self.trained = self.variant.trained
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = _dtype(config.dtype, self._device)
        self._quantize = config.quantize
        self.batch_size = CALL_FACTOR * config.batch_size
        self._decoding = decoding_of(config.decoding, max_new_tokens=config.max_new_tokens, seed=config.seed)
        text = conversation(self.variant, config.prompt)
        files = find_files(self.variant, config.weights or own_folder(self.variant))
        self._tokenizer = load_tokenizer(files.llm)
        self.prompt = tokenize(self._tokenizer, text)
        self.vision = MiniGptVision.from_original(files.eva, files.blip2, files.checkpoint, self.variant)
        with _enough_memory():
            self.vision.place(self._device, self._dtype)
            self.generator = self._language_half(config, files)
        self._model = self.generator.endpoint.model if isinstance(self.generator, RemoteGenerator) else None
        self._files = _digests(files)
        self._slots, self._parts = config.batch_size, InParts("stream text, captions", ADVICE)

    @property
    def preparation(self) -> Squash:
        """What ``prepare`` does, as an object that can be sent to another process."""
        return Squash(self.variant.image_size, self.variant.image_size, Image.Resampling.BICUBIC)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (S, S, 3): the whole picture squashed, PIL bicubic, as the reference."""
        return self.preparation(frame)

    def caption(self, items: np.ndarray) -> list[str]:
        """uint8 (B, 1, S, S, 3) -> B captions; equal pictures are captioned once."""
        size = self.variant.image_size
        check_items(items, 1, size, size)
        return self._parts.attempt(self._slots, lambda: self._caption(items))

    def _caption(self, items: np.ndarray) -> list[str]:
        slots = self._parts.size(self._slots)
        if isinstance(self.generator, SlotGenerator) and self.generator.num_slots > slots:  # out of memory before
            self.generator.resize(slots)
        digests = [frame_digest(item[-1]) for item in items]
        first = {digest: i for i, digest in reversed(list(enumerate(digests)))}  # digest -> its first item
        distinct = list(dict.fromkeys(digests))
        images = self._image_tokens(np.stack([items[first[d], -1] for d in distinct]))
        answers: Sequence[list[int] | str] = self.generator.generate(images, distinct)
        texts = [a if isinstance(a, str) else decode(self._tokenizer, a) for a in answers]
        captions = {digest: cut_answer(text) for digest, text in zip(distinct, texts, strict=True)}
        return [captions[d] for d in digests]

    def recipe(self) -> dict[str, Any]:
        """Variant, weights, prompt and decoding."""
        libraries = ["torch", "transformers", *([QUANTIZERS[self._quantize]] if self._quantize else [])]
        return {
            "captioner": self.variant.name,
            "version": 1,
            "weights": self._files,
            "prompt": self.prompt.text,
            "decoding": self._decoding.recipe(),
            "size": self.variant.image_size,
            "resize": "pillow bicubic, squash",
            "dtype": str(self._dtype).removeprefix("torch."),
            "quantize": self._quantize,
            **({"language_model_on": "server", "model": self._model} if self._model else {}),
            "versions": {"pillow": PIL.__version__} | {name: version(name) for name in libraries},
        }

    def _language_half(self, config: CaptionerConfig, files: Files) -> SlotGenerator | RemoteGenerator:
        if config.server is not None:
            return RemoteGenerator(
                config.server,
                config.server_model,
                read_embeddings(files.llm),
                self.prompt,
                self._decoding,
                sorted({"".join(stop).replace("▁", "") for stop in self.variant.stops}),
                dtype=self._dtype,
            )
        lora = lora_tensors(read_file(files.checkpoint)) if self.variant.lora_scale is not None else {}
        return SlotGenerator(
            load_llm(files.llm, self.variant, lora, device=self._device, dtype=self._dtype, quantize=config.quantize),
            self.prompt,
            self.variant.num_image_tokens,
            self._decoding,
            stop_sequences(self._tokenizer, self.variant),
            num_slots=config.batch_size,
        )

    def _image_tokens(self, pictures: np.ndarray) -> torch.Tensor:
        """uint8 (n, S, S, 3) -> (n, num_image_tokens, D), in batches of one fixed size."""
        parts = []
        with torch.inference_mode():
            size = self._parts.size(VISION_BATCH)
            for start in range(0, len(pictures), size):
                batch = torch.from_numpy(pictures[start : start + size])
                padding = batch[-1:].expand(size - len(batch), -1, -1, -1)
                tokens = self.vision.encode(torch.cat([batch, padding]).to(self._device))
                parts.append(tokens[: len(batch)])
        return torch.cat(parts)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Turns a full GPU into advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            "the GPU has too little memory for this captioner: run the streams one by one (--streams text), or "
            f"{ADVICE}. {first_line(error)}"
        ) from error


def check_config(config: CaptionerConfig) -> None:
    """Refuse what could not work, without loading or downloading anything.

    Raises:
        ValueError: unknown decoding, dtype or quantisation; unusable prompt; files that only people can fetch are
            missing.
    """
    variant = find_variant(config.name)
    decoding_of(config.decoding, max_new_tokens=config.max_new_tokens, seed=config.seed)
    conversation(variant, config.prompt)
    _dtype(config.dtype, "cpu")
    if config.quantize is not None:
        check_quantize(config.quantize)
    if config.server is not None:
        check_server(config.server)
        if variant.lora_scale is not None or config.quantize is not None:
            what = f"captioner {variant.name}" if variant.lora_scale is not None else "--caption-quantize"
            raise ValueError(f"{what} does not go with --caption-server, whose weights are as they are served")
    if config.weights is not None or (variant.trained and not variant.packaged):
        check_files(variant, config.weights)
    if config.server is None and not torch.cuda.is_available():
        width = _dtype(config.dtype, "cpu").itemsize
        tokens = config.max_new_tokens or Decoding.max_new_tokens
        check_cpu(variant, num_slots=config.batch_size, max_new_tokens=tokens, quantize=config.quantize, width=width)


def _digests(files: Files) -> dict[str, list[str]]:
    """Role -> sha256 of its files: what they hold, not what they are called or where they are."""
    roles = files.by_role()
    paths = list(dict.fromkeys(path for group in roles.values() for path in group))
    digests = dict(zip(paths, files_sha256(paths), strict=True))
    return {role: [digests[path] for path in group] for role, group in roles.items()}


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device == "cuda" else torch.float32
    if name not in _DTYPES:
        raise ValueError(f"caption dtype must be auto, {', '.join(_DTYPES)}, found {name!r}")
    return _DTYPES[name]
