"""The language half elsewhere: a vLLM server that takes prompt embeddings.

vLLM pins other versions of torch and transformers than this project, so it runs in an environment of its own:

    pip install vllm                                                     # in its environment, on a GPU
    vllm serve Vision-CAIR/vicuna-7b --enable-prompt-embeds --dtype float16 --max-model-len 2048

    python -m extract run dvd --captioner minigpt4-vicuna-7b --caption-server http://HOST:8000/v1

Here the vision half runs and the prompt is put together; only the language model's embedding table is loaded. Each
frame is one completion request with ``prompt_embeds``, a base64 ``torch.save`` of (length, width). MiniGPT-v2 needs its
LoRA merged into a folder first and is not offered.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from extract.encoders.captioners.endpoint import MAX_RETRIES, TIMEOUT_S, Endpoint, Request, frame_seed
from extract.encoders.minigpt.checkpoint import CheckpointError, read_file
from extract.encoders.minigpt.decoding import Decoding
from extract.encoders.minigpt.prompt import Prompt

EMBEDDINGS = "model.embed_tokens.weight"


class RemoteGenerator:
    """Answers one fixed prompt about many images, through a server.

    Attributes:
        endpoint: server and model.
    """

    def __init__(
        self,
        server: str,
        model: str | None,
        embeddings: torch.Tensor,
        prompt: Prompt,
        decoding: Decoding,
        stops: Sequence[str],
        *,
        dtype: torch.dtype,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        """``embeddings`` (vocabulary, D): the language model's table; ``stops``: texts that end an answer.

        Raises:
            ValueError, ServerError: see ``Endpoint``.
        """
        self.endpoint = Endpoint(server, model, needs="prompt embeddings", timeout_s=timeout_s, max_retries=max_retries)
        self._before, self._after = (embeddings[list(ids)].to(dtype) for ids in (prompt.before, prompt.after))
        self._decoding, self._stops = decoding, list(stops)

    def generate(self, images: torch.Tensor, digests: Sequence[bytes]) -> list[str]:
        """Image tokens (n, T, D) and the frames' identities -> n answers as text.

        Raises:
            ServerError: no usable answer.
        """
        images = images.cpu().to(self._before.dtype)
        requests = {d: self._request(image, d) for image, d in zip(images, digests, strict=True)}
        answers = self.endpoint.ask_all(requests, lambda answer: answer["choices"][0]["text"], "a completion")
        return [answers[d] for d in digests]

    def _request(self, image: torch.Tensor, digest: bytes) -> Request:
        d = self._decoding
        options: dict[str, Any] = {"repetition_penalty": d.repetition_penalty, "min_tokens": d.min_new_tokens}
        if d.mode == "sample":
            options |= {"top_k": d.top_k, "seed": frame_seed(d.seed, digest)}

        def request(client: Any) -> Any:
            buffer = io.BytesIO()
            torch.save(torch.cat([self._before, image, self._after]), buffer)  # (length, D)
            embeds = base64.b64encode(buffer.getvalue()).decode("ascii")
            return client.completions.with_raw_response.create(
                model=self.endpoint.model,
                prompt="",
                max_tokens=d.max_new_tokens,
                temperature=d.temperature if d.mode == "sample" else 0.0,
                top_p=d.top_p,
                stop=self._stops or None,
                extra_body={"prompt_embeds": embeds, **options},
            )

        return request


def read_embeddings(folder: Path) -> torch.Tensor:
    """The embedding table of a Llama folder, (vocabulary, D); nothing else of its weights is read.

    Raises:
        CheckpointError: no file of the folder has it.
    """
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            if EMBEDDINGS in file.keys():  # noqa: SIM118
                return file.get_tensor(EMBEDDINGS)
    for shard in sorted(folder.glob("*.bin")):
        tensors = read_file(shard)
        if EMBEDDINGS in tensors:
            return tensors[EMBEDDINGS].clone()
    raise CheckpointError(f"no file in {folder} has {EMBEDDINGS}")
