"""Captions by a vision-language model behind any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted one.

Two requests of the protocol are used: ``GET /models`` once at the start, and ``POST /chat/completions`` with one
picture each.

What the server adds (its quantization, its own picture size, the model's generation defaults) is not told by the
protocol, so it is not in the recipe; nor is the URL, because the same model elsewhere is the same recipe. Captions
repeat as far as the server's arithmetic does (one that batches requests may break near-ties differently), and those
that are sampled only where it heeds the seed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import PIL
from PIL import Image

from extract.config import CaptionerConfig
from extract.encoders.captioners.contract import check_items
from extract.encoders.captioners.endpoint import MAX_RETRIES, TIMEOUT_S, Endpoint, Request, check_server, frame_seed
from extract.preparation import Letterbox
from shared.names import unknown_name

SIZE = 448  # pixels per side of a prepared frame
PROMPT = "Describe this image in detail."
MAX_NEW_TOKENS = 300
DECODING: Mapping[str, Mapping[str, Any]] = {"greedy": {"temperature": 0}, "sample": {"temperature": 1, "top_p": 0.9}}


class ServerCaptioner:
    """One request per distinct frame, several in flight.

    Attributes:
        name: "server".
        context: the frame itself.
        batch_size: items per call, as configured; no more requests than that are in flight.
        trained: True; the server is taken to serve a trained model.
    """

    name = "server"
    context = (0,)
    trained = True
    preparation = Letterbox(SIZE, SIZE, Image.Resampling.BICUBIC)

    def __init__(
        self, config: CaptionerConfig, *, timeout_s: float = TIMEOUT_S, max_retries: int = MAX_RETRIES
    ) -> None:
        """Ask the server for its models.

        Raises:
            ValueError: see ``check_config``; or the model cannot be told from what the server lists.
            ServerError: the server does not answer.
        """
        check_config(config)
        self._endpoint = Endpoint(
            config.server, config.server_model, needs="pictures", timeout_s=timeout_s, max_retries=max_retries
        )
        self.batch_size = config.batch_size
        self._prompt = PROMPT if config.prompt is None else config.prompt
        self._seed = config.seed if config.decoding == "sample" else None
        tokens = config.max_new_tokens or MAX_NEW_TOKENS
        self._decoding: dict[str, Any] = {**DECODING[config.decoding], "max_tokens": tokens}

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 (448, 448, 3): the whole picture in its proportions, centred on black."""
        return ServerCaptioner.preparation(frame)

    def caption(self, items: np.ndarray) -> list[str]:
        """uint8 (B, 1, 448, 448, 3) -> B captions, without outer white space; "" where the model wrote nothing.

        Raises:
            ServerError: no usable answer to one of them; the other requests are dropped.
        """
        check_items(items, len(self.context), SIZE, SIZE)
        digests = [sha256(item.tobytes()).digest() for item in items]
        pictures = dict(zip(digests, items[:, -1], strict=True))  # equal frames are asked about once
        requests = {digest: self._request(digest, picture) for digest, picture in pictures.items()}
        captions = self._endpoint.ask_all(
            requests, lambda answer: answer["choices"][0]["message"].get("content"), "a chat completion"
        )
        return [captions[digest] for digest in digests]

    def recipe(self) -> dict[str, Any]:
        """Everything that determines the words, as far as the protocol tells it."""
        sampling = {"seed": self._seed, "frame_seed": "31 bits of sha256(seed, sha256(pixels))"}
        return {
            "captioner": self.name,
            "version": 1,
            "model": self._endpoint.model,
            **({"root": self._endpoint.root} if self._endpoint.root else {}),
            "prompt": self._prompt,
            "message": "picture, then prompt",
            "decoding": {**self._decoding, **(sampling if self._seed is not None else {})},
            "context": list(self.context),
            "size": SIZE,
            "resize": "pillow bicubic, letterbox, centred on black",
            "encoding": "png",
            "pillow": PIL.__version__,
        }

    def _request(self, digest: bytes, picture: np.ndarray) -> Request:
        """The question about uint8 (448, 448, 3)."""
        options = self._decoding if self._seed is None else {**self._decoding, "seed": frame_seed(self._seed, digest)}

        def request(client: Any) -> Any:
            content: list[Any] = [
                {"type": "image_url", "image_url": {"url": _data_url(picture)}},
                {"type": "text", "text": self._prompt},
            ]
            return client.chat.completions.with_raw_response.create(
                model=self._endpoint.model, messages=[{"role": "user", "content": content}], **options
            )

        return request


def check_config(config: CaptionerConfig) -> None:
    """Refuse what cannot work before anything is loaded or asked.

    Raises:
        ValueError: package missing, no or no usable URL or key, an option that only other captioners have.
    """
    check_server(config.server)
    for option, value in (("weights", config.weights), ("quantize", config.quantize)):
        if value is not None:
            raise ValueError(
                f"captioner 'server' takes no --caption-{option}: weights and their precision are the server's matter"
            )
    if config.decoding not in DECODING:
        raise ValueError(unknown_name("decoding", config.decoding, DECODING))


def _data_url(picture: np.ndarray) -> str:
    """uint8 RGB (h, w, 3) -> ``data:`` URL of a PNG; weakly compressed, which is faster and loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
