"""Captioners of the hub: any image-text model of transformers, by name or from a folder.

A name is ``hf-hub:OWNER/NAME``, with ``@REVISION`` if a certain state of it is meant. Tested families: BLIP, BLIP-2,
InstructBLIP and Qwen-VL. Others that transformers lists as image-text models take the path of Qwen-VL if they have a
chat template.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image

from extract.config import CaptionerConfig
from extract.encoders.captioners.contract import check_items
from extract.encoders.captioners.hub_files import find_folder, load_model
from extract.encoders.digests import state_digest
from extract.encoders.parts import InParts, first_line
from extract.encoders.quiet import quiet
from extract.preparation import Letterbox, Squash

SQUASHED = ("blip", "blip-2", "instructblip")  # their processors resize to one size, aspect ratio not kept
SQUARE = 448  # pixels per side of a letterboxed frame
PROMPT = "Describe this image in detail."
MAX_NEW_TOKENS = 100
# Generation settings of a model that do not reach its words here; all others, like repetition_penalty, do.
OVERRIDDEN = (
    *("do_sample", "num_beams", "num_return_sequences", "temperature", "top_k", "top_p", "max_length"),
    *("max_new_tokens", "transformers_version", "_from_model_config", "output_attentions", "output_hidden_states"),
)


class HubCaptioner:
    """Greedy captions from an image-text model of transformers.

    Attributes:
        name: as configured, "hf-hub:OWNER/NAME".
        context: the frame itself.
        batch_size: rows of every call of the model; fewer items are filled up, so that the shape of the arithmetic
            and with it a caption never depends on their number.
        trained: True; the weights come from files.
    """

    context: tuple[int, ...] = (0,)
    trained = True

    def __init__(self, config: CaptionerConfig) -> None:
        """Downloads, if need be, and loads the model.

        Raises:
            ValueError: an option that these captioners do not have, nothing to load, or files that are no image-text
                model in safetensors; the message says what to do.
        """
        _check_options(config)
        self.name, self.batch_size = config.name, config.batch_size
        self._max_new_tokens = MAX_NEW_TOKENS if config.max_new_tokens is None else config.max_new_tokens
        folder, self._commit = find_folder(config)
        with quiet():
            self._model, self._processor, self._dtype = load_model(folder, config.dtype)
        self._parts = InParts("stream text, captions", "give the captioner fewer frames at once (--caption-batch)")
        kind = self._model.config.model_type
        self._chats = bool(getattr(self._processor, "chat_template", None))
        asks = self._chats or kind == "instructblip"
        self._prompt = config.prompt if config.prompt is not None else (PROMPT if asks else "")
        self._squashes = kind in SQUASHED
        self._size, self._filter = _picture_size(getattr(self._processor, "image_processor", None), self._squashes)
        self._recipe = self._describe(self._try_processor())

    @property
    def preparation(self) -> Squash | Letterbox:
        """What ``prepare`` does, as an object that can be sent to another process."""
        return (Squash if self._squashes else Letterbox)(*self._size, self._filter)

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (h, w, 3): squashed as the processor does it, or letterboxed to a square."""
        return self.preparation(frame)

    def caption(self, items: np.ndarray) -> list[str]:
        """uint8 (B, 1, h, w, 3) -> B captions; items of equal content are captioned once."""
        check_items(items, len(self.context), *self._size)
        contents = [item.tobytes() for item in items]
        first = {content: i for i, content in reversed(list(enumerate(contents)))}  # content -> index of its first item
        distinct = sorted(first.values())
        captions: dict[bytes, str] = {}
        for start in range(0, len(distinct), self.batch_size):
            chunk = distinct[start : start + self.batch_size]
            rows = chunk + chunk[-1:] * (self.batch_size - len(chunk))
            pictures = items[rows, -1]
            parts = self._parts.run(len(pictures), partial(self._generate_part, pictures))
            texts = [text for part in parts for text in part]
            captions |= {contents[i]: text for i, text in zip(chunk, texts, strict=False)}
        return [captions[content] for content in contents]

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the words."""
        return json.loads(json.dumps(self._recipe))

    def _generate_part(self, pictures: np.ndarray, rows: np.ndarray, count: int) -> list[str]:
        return self._generate(pictures[rows])[:count]

    def _generate(self, pictures: np.ndarray) -> list[str]:
        """uint8 (B, h, w, 3) -> B captions."""
        with quiet(), torch.inference_mode():
            inputs = self._inputs(pictures).to(self._model.device, self._dtype)
            tokens = self._model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                num_return_sequences=1,
                max_new_tokens=self._max_new_tokens,
            )  # (B, L)
        asked = inputs.get("input_ids")
        # Decoders answer with the question in front. Without a question that is special tokens only, dropped below.
        if asked is not None and torch.equal(tokens[:, : asked.shape[1]], asked):
            tokens = tokens[:, asked.shape[1] :]
        return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, pictures: np.ndarray) -> Any:
        """uint8 (B, h, w, 3) -> the model's inputs; one question and one size, so no row is padded."""
        images = [Image.fromarray(picture) for picture in pictures]
        if self._chats:
            text = [{"type": "text", "text": self._prompt}] if self._prompt else []
            return self._processor.apply_chat_template(
                [[{"role": "user", "content": [{"type": "image", "image": image}, *text]}] for image in images],
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
        options: dict[str, Any] = {"do_resize": False} if self._squashes else {}
        if self._prompt:
            options["text"] = [self._prompt] * len(images)
        return self._processor(images=images, return_tensors="pt", **options)

    def _try_processor(self) -> list[int]:
        """The ids of the question; refuses a model of an unknown family that is not asked in one of our ways."""
        try:
            with quiet():
                inputs = self._inputs(np.zeros((1, *self._size, 3), np.uint8))
            return inputs["input_ids"][0].tolist() if "input_ids" in inputs else []
        except Exception as error:
            raise ValueError(
                f"{self.name}: its processor does not take a picture with the question {self._prompt!r} "
                f"({first_line(error)}). Give the question in the form that this model expects (--caption-prompt), "
                "or take a BLIP-2, InstructBLIP or Qwen-VL model"
            ) from error

    def _describe(self, question: list[int]) -> dict[str, Any]:
        model, processor = self._model, self._processor
        # The BLIPs generate with the settings of the language model inside.
        inner = getattr(model, "language_model", None) or getattr(model, "text_decoder", None)
        settings = getattr(inner, "generation_config", None) or model.generation_config
        generation = {k: v for k, v in settings.to_diff_dict().items() if k not in OVERRIDDEN}
        words = [processor.to_dict(), sorted(processor.tokenizer.get_vocab().items()), question]
        return {
            "captioner": self.name,
            **({"commit": self._commit} if self._commit else {}),
            "architecture": type(model).__name__,
            "weights_sha256": state_digest(model),
            "processor_sha256": hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest(),
            "prompt": self._prompt,
            "decoding": "greedy",
            "max_new_tokens": self._max_new_tokens,
            "generation": json.loads(json.dumps(generation, default=str)),
            "context": list(self.context),
            "size": list(self._size),
            "resize": f"pillow {self._filter.name.lower()}, {'squash' if self._squashes else 'black letterbox'}",
            "dtype": str(self._dtype).removeprefix("torch."),
            "versions": {name: version(name) for name in ("pillow", "torch", "torchvision", "transformers")},
        }


def _check_options(config: CaptionerConfig) -> None:
    """Refuse, before anything is downloaded, what these captioners cannot do."""
    if config.decoding != "greedy":
        raise ValueError(
            f"{config.name} writes greedily, found decoding {config.decoding!r}: rows of one batch cannot have seeds "
            "of their own. Use decoding greedy, or a minigpt captioner or the captioner server"
        )
    if config.quantize is not None:
        raise ValueError(
            f"{config.name} cannot be quantized, found {config.quantize!r}: use dtype float16 or bfloat16, a smaller "
            "model, or the captioner server"
        )
    if config.batch_size < 1 or (config.max_new_tokens is not None and config.max_new_tokens < 1):
        raise ValueError(
            f"batch_size and max_new_tokens must be at least 1, found {config.batch_size} and {config.max_new_tokens}"
        )


def _picture_size(image_processor: Any, squashes: bool) -> tuple[tuple[int, int], Image.Resampling]:
    """Height and width of prepared frames, and the filter: the processor's own, or a square of whole patches."""
    resample = getattr(image_processor, "resample", None)
    chosen = Image.Resampling.BICUBIC if resample is None else Image.Resampling(int(resample))
    if squashes:
        return (int(image_processor.size["height"]), int(image_processor.size["width"])), chosen
    units = [getattr(image_processor, name, 1) for name in ("patch_size", "merge_size")]
    unit = math.prod(value for value in units if isinstance(value, int))
    side = max(1, SQUARE // unit) * unit
    return (side, side), chosen
