"""The client for asyncio."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import httpx

from segue.client import _calls
from segue.client._async import AsyncDriver, AsyncStream
from segue.client._base import HTTP_SETTINGS, ClientBase
from segue.client._calls import Messages
from segue.client._flow import OpenStream
from segue.client._wire import Call
from segue.client.errors import TGIError
from segue.client.limiter import LoopSignal
from segue.client.options import CallOptions, ChatOptions, CompletionOptions, GenerateOptions, Options
from segue.client.types import (
    ChatChunk,
    ChatCompletion,
    ChatTokenization,
    Completion,
    CompletionChunk,
    GenerateResult,
    Metrics,
    Model,
    ModelList,
    RawResponse,
    ServerInfo,
    StreamEvent,
    Tokenization,
)

__all__ = ["AsyncChat", "AsyncClient", "AsyncCompletions", "AsyncModels"]

R = TypeVar("R")


class AsyncClient(ClientBase[httpx.AsyncClient]):
    """Talks to Segue, to any TGI since 0.9, and to Hugging Face's hosted API. For one event loop; a pool may be shared.

        async with AsyncClient("http://127.0.0.1:8080") as client:
            print(await client.generate("Once upon", max_new_tokens=20))
            async for event in await client.generate("a time", stream=True):
                print(event.text, end="")
            print((await client.chat("Who are you?")).text)

    Without arguments it goes where the environment says (``TGI_BASE_URL``, ``HF_API_KEY_1`` …: see ``_environment``).
    ``endpoints`` or ``pool`` instead of ``base_url`` spread the requests over several servers or keys.
    Every method takes the options of ``CallOptions`` as keywords, and raises the errors of ``segue.client.errors``.
    """

    def _connect(self, http_client: httpx.AsyncClient | None) -> None:
        self._driver = AsyncDriver(http_client or httpx.AsyncClient(**HTTP_SETTINGS))

    @overload
    async def generate(
        self, prompt: str, *, stream: Literal[False] = False, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> GenerateResult: ...

    @overload
    async def generate(
        self, prompt: str, *, stream: Literal[True], details: bool = True, **options: Unpack[GenerateOptions]
    ) -> AsyncStream[StreamEvent, GenerateResult]: ...

    @overload
    async def generate(
        self, prompt: str, *, stream: bool, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> GenerateResult | AsyncStream[StreamEvent, GenerateResult]: ...

    async def generate(
        self, prompt: str, *, stream: bool = False, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> GenerateResult | AsyncStream[StreamEvent, GenerateResult]:
        """Continue ``prompt``; greedily, unless ``do_sample`` or a parameter of sampling is set.

        A stream is returned when its first event is there: until then the request can be, and is, repeated.
        """
        call, resolved = self._generate_call(prompt, stream, details, options)
        if stream:
            return await self._open(call, resolved)
        return await self._run(call, resolved)

    text_generation = generate

    async def generate_stream(
        self, prompt: str, *, details: bool = True, **options: Unpack[GenerateOptions]
    ) -> AsyncStream[StreamEvent, GenerateResult]:
        call, resolved = self._generate_call(prompt, True, details, options)
        return await self._open(call, resolved)

    async def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        concurrency: int | None = None,
        return_exceptions: bool = False,
        details: bool = True,
        **options: Unpack[GenerateOptions],
    ) -> list[GenerateResult]:
        """``generate`` for each prompt, ``concurrency`` at a time (default: all slots); results in the prompts' order.

        The first error ends it and is raised; with ``return_exceptions`` errors stand where the results would.
        """

        results: list[GenerateResult] = [cast(GenerateResult, None)] * len(prompts)
        waiting = iter(enumerate(prompts))

        async def work() -> None:
            for position, prompt in waiting:
                try:
                    results[position] = await self.generate(prompt, details=details, **options)
                except TGIError as error:
                    if not return_exceptions:
                        raise
                    results[position] = cast(GenerateResult, error)

        workers = [asyncio.create_task(work()) for _ in range(min(len(prompts), concurrency or self._num_slots()))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return results

    @property
    def chat(self) -> "AsyncChat":
        """``chat(messages)``, or in OpenAI's shape ``chat.completions.create(messages=…)``."""
        return AsyncChat(self)

    chat_completion = chat

    @property
    def completions(self) -> "AsyncCompletions":
        """``completions(prompt)`` or ``completions.create(prompt=…)``."""
        return AsyncCompletions(self)

    @property
    def models(self) -> "AsyncModels":
        return AsyncModels(self)

    async def tokenize(self, text: str, **options: Unpack[CallOptions]) -> Tokenization:
        resolved = self._options(options)
        return await self._run(_calls.tokenize(text, resolved.extra_body), resolved)

    async def chat_tokenize(
        self, messages: Messages, *, model: str | None = None, **options: Unpack[ChatOptions]
    ) -> ChatTokenization:
        return await self._run(*self._chat_tokenize_call(messages, model, options))

    async def info(self, **options: Unpack[CallOptions]) -> ServerInfo:
        return await self._ask(_calls.INFO, self._options(options))

    async def metrics(self, **options: Unpack[CallOptions]) -> Metrics:
        return await self._ask(_calls.METRICS, self._options(options))

    async def health(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the server answers that it can generate; one attempt of at most 5 s."""
        return await self._driver.run(self._health_flow(self._health_options(options), LoopSignal))

    async def check_endpoints(self, **options: Unpack[CallOptions]) -> dict[str, bool]:
        """``health`` of every endpoint; those that are not leave the rotation for their breaker's cool-down."""
        return await self._driver.run(self._check_flow(self._health_options(options), LoopSignal))

    async def wait_ready(
        self,
        timeout: float = 600.0,  # noqa: ASYNC109 - the name that Client has
        *,
        poll: float = 0.1,
        endpoint: str | None = None,
    ) -> None:
        """Ask for the health of every endpoint (or of ``endpoint``) each ``poll`` seconds until all are well.

        Raises APITimeoutError after ``timeout`` seconds, AuthenticationError and PermissionDeniedError at once.
        """
        await self._driver.run(self._ready_flow(timeout, poll, endpoint, LoopSignal))

    async def request(self, method: str, path: str, *, json: Any = None, **options: Unpack[CallOptions]) -> RawResponse:
        """Any request to a path below the endpoint's URL, or to a whole URL, in the line and with all retries."""
        return await self._run(_calls.raw(method, path, json), self._options(options))

    async def stream_request(
        self, method: str, path: str, *, json: Any = None, **options: Unpack[CallOptions]
    ) -> AsyncStream[Any, list[Any]]:
        """The same for an answer of server-sent events; their bodies come as they are."""
        return await self._open(_calls.raw_stream(method, path, json), self._options(options))

    async def close(self) -> None:
        """Close the connections, unless ``http_client`` was given: its giver closes it."""
        if self._owns_http:
            await self._driver.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[R], options: Options) -> R:
        return cast(R, await self._driver.run(self._exchange(call, options, LoopSignal).run()))

    async def _open(self, call: Call[R], options: Options) -> AsyncStream[Any, R]:
        stream = await self._driver.run(self._exchange(call, options, LoopSignal).run())
        return AsyncStream(cast("OpenStream[R]", stream))

    async def _ask(self, call: Call[R], options: Options) -> R:
        return await self._driver.run(self._exchange(call, options, LoopSignal).ask())


class AsyncChat:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @property
    def completions(self) -> "AsyncChat":
        return self

    @overload
    async def create(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self, messages: Messages, *, model: str | None = None, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> AsyncStream[ChatChunk, ChatCompletion]: ...

    @overload
    async def create(
        self, messages: Messages, *, model: str | None = None, stream: bool, **options: Unpack[ChatOptions]
    ) -> ChatCompletion | AsyncStream[ChatChunk, ChatCompletion]: ...

    async def create(
        self, messages: Messages, *, model: str | None = None, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> ChatCompletion | AsyncStream[ChatChunk, ChatCompletion]:
        """``messages`` as in OpenAI's API, image parts and all; a string is one message of the user."""
        call, resolved = self._client._chat_call(messages, model, stream, options)
        if stream:
            return await self._client._open(call, resolved)
        return await self._client._run(call, resolved)

    __call__ = create


class AsyncCompletions:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @overload
    async def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: Literal[False] = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion: ...

    @overload
    async def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: Literal[True],
        **options: Unpack[CompletionOptions],
    ) -> AsyncStream[CompletionChunk, Completion]: ...

    @overload
    async def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: bool,
        **options: Unpack[CompletionOptions],
    ) -> Completion | AsyncStream[CompletionChunk, Completion]: ...

    async def create(
        self,
        prompt: str | Sequence[str],
        *,
        model: str | None = None,
        stream: bool = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion | AsyncStream[CompletionChunk, Completion]:
        call, resolved = self._client._completion_call(prompt, model, stream, options)
        if stream:
            return await self._client._open(call, resolved)
        return await self._client._run(call, resolved)

    __call__ = create


class AsyncModels:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, **options: Unpack[CallOptions]) -> ModelList:
        return await self._client._ask(_calls.MODELS, self._client._options(options))

    async def retrieve(self, id: str, **options: Unpack[CallOptions]) -> Model:
        return await self._client._ask(_calls.model(id), self._client._options(options))
