"""An OpenAI-compatible server, as far as captions need it: who is served, and many requests at once.

The base URL is taken as given; one without a path gets ``/v1``, where vLLM, SGLang and llama.cpp answer. What may pass
by itself is retried by the client; everything else ends the run with one message that says what to do. The key is read
from the environment variable OPENAI_API_KEY on use, so that no object, log or error holds it. Pictures go to that URL
alone (through the proxy of the environment, if it names one): redirects are told and not followed, and an answer has a
largest size.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import urlsplit

from shared.names import unknown_name

try:
    import openai
except ModuleNotFoundError as missing:
    if missing.name != "openai":
        raise
    openai = None  # type: ignore[assignment]

MAX_IN_FLIGHT = 16  # requests at once; never more than one batch
MAX_RETRIES = (
    5  # of 408, 409, 429, 5xx, timeouts and lost connections: about 15 s, or what Retry-After says up to 2 min
)
TIMEOUT_S = 300.0  # for one answer, waiting in the server's queue included
PROBE_RETRIES, PROBE_TIMEOUT_S = 1, 30.0  # a mistyped URL should not take long to be told
CONNECT_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 16 * 2**20  # a caption takes a few hundred
MAX_QUOTED = 300  # characters of a server's answer in an error
GO_ON = "What is complete stays complete; run the same command again to go on."
ADVICE = {
    400: "Does this model take {needs}, and as many tokens as asked for?",
    401: "The key is read from the environment variable OPENAI_API_KEY.",
    403: "The key is read from the environment variable OPENAI_API_KEY.",
    404: "Is the URL right (mostly it ends in /v1), and is the model still served?",
    422: "Does this model take {needs}?",
}
Key = TypeVar("Key", bound=Hashable)
# What to ask: the client in, the library's request out.
Request = Callable[[Any], Awaitable[Any]]


class ServerError(OSError):
    """The server cannot be reached or does not give captions. No video's fault, so it ends the run."""


class Endpoint:
    """One model on one server.

    Attributes:
        url: base URL of the requests.
        model: id of the served model.
        root: what the model was made from, where the server says it.
    """

    def __init__(
        self,
        server: str | None,
        model: str | None,
        *,
        needs: str,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        """Ask the server for its models. ``needs``: what the requests will hold, for the advice in errors.

        Raises:
            ValueError: see ``check_server``; or the model cannot be told from what the server lists.
            ServerError: the server does not answer.
        """
        self.url = check_server(server)
        self.model, self._needs = model or "", needs
        self._timeout_s, self._max_retries = timeout_s, max_retries
        models = asyncio.run(self._list_models())
        self.model = _choose(models, model, self.url)
        self.root = models.get(self.model)

    def ask_all(self, requests: Mapping[Key, Request], read: Callable[[Any], str | None], kind: str) -> dict[Key, str]:
        """Send requests, several at once.

        Args:
            requests: by key; each makes its request when there is room.
            read: takes the words out of an answer's JSON; None stands for none, LookupError and the like for an answer
                of another form.
            kind: what the answer should be, for errors.

        Returns:
            Key -> words without outer white space.

        Raises:
            ServerError: no usable answer to one of them; the other requests are dropped.
        """
        try:
            return asyncio.run(self._ask_all(requests, read, kind))
        except ExceptionGroup as failed:
            error = failed.exceptions[0]
        raise error

    async def _ask_all(
        self, requests: Mapping[Key, Request], read: Callable[[Any], str | None], kind: str
    ) -> dict[Key, str]:
        room = asyncio.Semaphore(MAX_IN_FLIGHT)

        async def ask(request: Request) -> str:
            async with room:
                answer = await self._answer(request(client), self._timeout_s)
            try:
                # JSON can spell half a surrogate pair, which no tokenizer and no file takes.
                return (read(answer) or "").strip().encode("utf-8", errors="replace").decode("utf-8")
            except (AttributeError, IndexError, KeyError, TypeError):
                raise self._unusable(kind, answer) from None

        async with self._client(self._timeout_s, self._max_retries) as client, asyncio.TaskGroup() as group:
            tasks = {key: group.create_task(ask(request)) for key, request in requests.items()}
        return {key: task.result() for key, task in tasks.items()}

    def _client(self, timeout_s: float, max_retries: int) -> openai.AsyncOpenAI:
        # One per call: a client belongs to the event loop that it first ran in.
        return openai.AsyncOpenAI(
            base_url=self.url,
            api_key=_api_key() or "EMPTY",
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            max_retries=max_retries,
            default_headers={"Accept-Encoding": "identity"},  # what is unpacked could not be bounded
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, event_hooks={"response": [_bound_answer]}
            ),
        )

    async def _list_models(self) -> dict[str, str | None]:
        """Ids of the served models -> what each was made from, where the server says it."""
        timeout_s = min(self._timeout_s, PROBE_TIMEOUT_S)
        async with self._client(timeout_s, min(self._max_retries, PROBE_RETRIES)) as client:
            answer = await self._answer(client.models.with_raw_response.list(), timeout_s)
        try:
            return {str(model["id"]): model.get("root") for model in answer["data"]}
        except (AttributeError, KeyError, TypeError):
            raise self._unusable("a list of models (GET /models)", answer) from None

    async def _answer(self, request: Awaitable[Any], timeout_s: float) -> Any:
        """The JSON that a request brings; the client has retried what may pass by itself."""
        # "from None" throughout: what the library says in between may quote the key.
        try:
            text = (await request).http_response.text
        except openai.APIStatusError as error:
            advice = ADVICE.get(error.status_code, "").format(needs=self._needs)
            if place := error.response.headers.get("location", "") if 300 <= error.status_code < 400 else "":
                advice = f"It redirects to {self._quoted(place)}; if that is right, give its URL."
            raise self._error(f"answered {error.status_code}: {self._quoted(error.response.text)}", advice) from None
        except openai.APITimeoutError:
            advice = "If it is only busy, a smaller --caption-batch gives each frame more time."
            raise self._error(f"gave no answer within {timeout_s:g} s", advice) from None
        except openai.APIConnectionError as error:
            reason = self._quoted(str(error.__cause__ or error))
            raise self._error(f"cannot be reached: {reason}", "Is it running?") from None
        try:
            return json.loads(text)
        except ValueError:
            raise self._unusable("JSON", text) from None

    def _unusable(self, expected: str, found: Any) -> ServerError:
        text = found if isinstance(found, str) else json.dumps(found)
        return self._error(f"expected {expected}, found {self._quoted(text)}", ADVICE[404])

    def _error(self, what: str, advice: str) -> ServerError:
        model = f" (model {self.model})" if self.model else ""
        return ServerError(f"caption server {self.url}{model}: {what}\n{advice} {GO_ON}".replace("\n ", "\n"))

    @staticmethod
    def _quoted(text: str) -> str:
        """What a server said, on one line, not too long, and without the key."""
        key = _api_key()
        text = " ".join((text.replace(key, "***") if key else text).split())
        return f"{text[:MAX_QUOTED]} ..." if len(text) > MAX_QUOTED else text or "nothing"


async def _bound_answer(response: Any) -> None:
    """Called with every answer before its body is read.

    Raises:
        ServerError: it is packed, though nobody asked for that.
    """
    packed = response.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise ServerError(f"the answer is packed ({packed[:20]!r}), which was not asked for")
    response.stream = _bounded(response.stream)


def _bounded(stream: Any) -> Any:
    """A stream of the HTTP library that fails beyond ``MAX_ANSWER_BYTES``."""
    # The library checks the class; openai has had two of them, each with one of this name.
    base = next(kind for kind in type(stream).__mro__ if kind.__name__ == "AsyncByteStream")

    class Bounded(base):  # type: ignore[valid-type, misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    raise ServerError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def check_server(server: str | None) -> str:
    """Refuse what cannot work before anything is asked; the base URL for requests.

    Raises:
        ValueError: package missing, no or no usable URL or key.
    """
    if openai is None:
        raise ValueError("--caption-server needs the package openai: pip install 'crossgru[server]'")
    if not (_api_key().isascii() and _api_key().isprintable()):
        raise ValueError("the environment variable OPENAI_API_KEY holds characters that no key has")
    return _base_url(server)


def frame_seed(seed: int, digest: bytes) -> int:
    """Seed of one frame's sampling, 31 bits: from the run's seed and the sha256 of the frame's pixels alone."""
    return int.from_bytes(sha256(f"{seed} ".encode() + digest).digest()[:4], "big") >> 1


def _base_url(server: str | None) -> str:
    example = "--caption-server http://HOST:8000/v1"
    if not server:
        raise ValueError(f"the captioner needs the URL of an OpenAI-compatible server: {example}")
    try:
        parts = urlsplit(server.strip())
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if "@" in server or "?" in server or "#" in server:  # not quoted: it may be a secret, and caches note the URL
        raise ValueError(
            f"--caption-server takes no user, password, query or fragment, expected {example}; a key goes into the "
            "environment variable OPENAI_API_KEY"
        )
    if not good:
        raise ValueError(f"--caption-server: expected a URL like {example}, found {server!r}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _choose(models: Mapping[str, str | None], wanted: str | None, url: str) -> str:
    """The model to ask, out of those that the server lists; any name goes if it lists none, as some do.

    Raises:
        ValueError: the wanted one is not there, or none is wanted and there is not exactly one.
    """
    if wanted is not None:
        if models and wanted not in models:
            raise ValueError(f"caption server {url}: {unknown_name('model', wanted, models)}")
        return wanted
    if len(models) != 1:
        names = f": {', '.join(sorted(models))}" if models else ""
        raise ValueError(f"caption server {url} lists {len(models)} models, choose by --caption-server-model{names}")
    return next(iter(models))


def _api_key() -> str:
    """Read on use, so that no object holds it; "" if there is none."""
    return os.environ.get("OPENAI_API_KEY", "").strip()
