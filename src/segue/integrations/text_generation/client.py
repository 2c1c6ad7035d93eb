"""Client and AsyncClient by the old names."""

import functools
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack, overload

import httpx

from segue.client import AsyncClient as CoreAsyncClient
from segue.client import Client as CoreClient
from segue.client import Endpoint, EndpointPool
from segue.integrations.text_generation.errors import translated
from segue.integrations.text_generation.types import (
    ChatComplete,
    ChatCompletionChunk,
    ChatRequest,
    Grammar,
    Message,
    Parameters,
    Request,
    Response,
    StreamResponse,
    Tool,
)

__all__ = ["AsyncClient", "Client"]


class GenerateParameters(TypedDict, total=False):
    do_sample: bool
    max_new_tokens: int
    best_of: int | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    return_full_text: bool
    seed: int | None
    stop_sequences: list[str] | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    truncate: int | None
    typical_p: float | None
    watermark: bool
    decoder_input_details: bool
    top_n_tokens: int | None
    grammar: Grammar | None


class ChatParameters(TypedDict, total=False):
    repetition_penalty: float | None
    frequency_penalty: float | None
    logit_bias: list[float] | None
    logprobs: bool | None
    top_logprobs: int | None
    max_tokens: int | None
    n: int | None
    presence_penalty: float | None
    seed: int | None
    temperature: float | None
    top_p: float | None
    tools: list[Tool] | None
    tool_choice: str | None


Messages = Sequence[Message | Mapping[str, Any]]


class _Base:
    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        timeout: float = 10,
        *,
        max_retries: int = 2,
    ) -> None:
        self.base_url = base_url
        self.headers = dict(headers or {})
        self.cookies = dict(cookies or {})
        self.timeout = timeout
        self.max_retries = max_retries
        self._pool = EndpointPool([Endpoint(base_url, max_concurrent=128, queue_size=None)])

    @property
    def _chat_url(self) -> str:
        return f"{self.base_url.rstrip('/')}/v1/chat/completions"

    def _settings(self) -> dict[str, Any]:
        """Read at each request: programs change these attributes."""
        headers = dict(self.headers)
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"extra_headers": headers, "timeout": self.timeout, "max_retries": self.max_retries}


class Client(_Base):
    """``timeout`` in seconds, for each of connect, write and read. Raises the errors of ``.errors``."""

    @functools.cached_property
    def _client(self) -> CoreClient:
        return CoreClient(pool=self._pool, environment={})

    def generate(self, prompt: str, **parameters: Unpack[GenerateParameters]) -> Response:
        with translated():
            body = _generate_body(prompt, parameters, stream=False)
            answer = self._client.request("POST", self.base_url, json=body, **self._settings()).json
            return Response.model_validate(_first(answer))

    def generate_stream(self, prompt: str, **parameters: Unpack[GenerateParameters]) -> Iterator[StreamResponse]:
        with translated():
            body = _generate_body(prompt, parameters, stream=True)
            with self._client.stream_request("POST", self.base_url, json=body, **self._settings()) as stream:
                for event in stream:
                    yield StreamResponse.model_validate(event)

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, **parameters: Unpack[ChatParameters]
    ) -> ChatComplete: ...

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], **parameters: Unpack[ChatParameters]
    ) -> Iterator[ChatCompletionChunk]: ...

    def chat(
        self, messages: Messages, *, stream: bool = False, **parameters: Unpack[ChatParameters]
    ) -> ChatComplete | Iterator[ChatCompletionChunk]:
        if stream:
            return self._chat_stream(messages, parameters)
        with translated():
            body = _chat_body(messages, parameters, stream=False)
            answer = self._client.request("POST", self._chat_url, json=body, **self._settings()).json
            return ChatComplete.model_validate(answer)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _chat_stream(self, messages: Messages, parameters: ChatParameters) -> Iterator[ChatCompletionChunk]:
        with translated():
            body = _chat_body(messages, parameters, stream=True)
            with self._client.stream_request("POST", self._chat_url, json=body, **self._settings()) as stream:
                for event in stream:
                    yield ChatCompletionChunk.model_validate(event)


class AsyncClient(_Base):
    """As Client. May be used from one event loop after the other: connections do not outlive a call."""

    async def generate(self, prompt: str, **parameters: Unpack[GenerateParameters]) -> Response:
        with translated():
            body = _generate_body(prompt, parameters, stream=False)
            answer = await self._post(self.base_url, body)
            return Response.model_validate(_first(answer))

    async def generate_stream(
        self, prompt: str, **parameters: Unpack[GenerateParameters]
    ) -> AsyncIterator[StreamResponse]:
        with translated():
            body = _generate_body(prompt, parameters, stream=True)
            async for event in self._events(self.base_url, body):
                yield StreamResponse.model_validate(event)

    @overload
    async def chat(
        self, messages: Messages, *, stream: Literal[False] = False, **parameters: Unpack[ChatParameters]
    ) -> ChatComplete: ...

    @overload
    async def chat(
        self, messages: Messages, *, stream: Literal[True], **parameters: Unpack[ChatParameters]
    ) -> AsyncIterator[ChatCompletionChunk]: ...

    async def chat(
        self, messages: Messages, *, stream: bool = False, **parameters: Unpack[ChatParameters]
    ) -> ChatComplete | AsyncIterator[ChatCompletionChunk]:
        if stream:
            return self._chat_stream(messages, parameters)
        with translated():
            answer = await self._post(self._chat_url, _chat_body(messages, parameters, stream=False))
            return ChatComplete.model_validate(answer)

    async def _chat_stream(self, messages: Messages, parameters: ChatParameters) -> AsyncIterator[ChatCompletionChunk]:
        with translated():
            async for event in self._events(self._chat_url, _chat_body(messages, parameters, stream=True)):
                yield ChatCompletionChunk.model_validate(event)

    async def _post(self, url: str, body: dict[str, Any]) -> Any:
        async with self._open() as http, CoreAsyncClient(pool=self._pool, http_client=http, environment={}) as client:
            return (await client.request("POST", url, json=body, **self._settings())).json

    async def _events(self, url: str, body: dict[str, Any]) -> AsyncIterator[Any]:
        async with (
            self._open() as http,
            CoreAsyncClient(pool=self._pool, http_client=http, environment={}) as client,
            await client.stream_request("POST", url, json=body, **self._settings()) as stream,
        ):
            async for event in stream:
                yield event

    def _open(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=_certificates())


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Loading them takes longer than a request."""
    return httpx.create_ssl_context()


def _generate_body(prompt: str, given: GenerateParameters, *, stream: bool) -> dict[str, Any]:
    """Raises ValidationError, and TypeError for an unknown name."""
    unknown = given.keys() - GenerateParameters.__optional_keys__
    if unknown:
        raise TypeError(f"unknown argument {min(unknown)!r}")
    named: dict[str, Any] = dict(given)
    parameters = Parameters(stop=named.pop("stop_sequences", None) or [], details=True, **named)
    request = Request(inputs=prompt, parameters=parameters, stream=stream)
    return request.model_dump(mode="json", exclude_none=True)


def _chat_body(messages: Messages, given: ChatParameters, *, stream: bool) -> dict[str, Any]:
    unknown = given.keys() - ChatParameters.__optional_keys__
    if unknown:
        raise TypeError(f"unknown argument {min(unknown)!r}")
    turns = [message if isinstance(message, Message) else Message.model_validate(message) for message in messages]
    return ChatRequest(messages=turns, stream=stream, **given).model_dump(mode="json", exclude_none=True)


def _first(answer: Any) -> Any:
    return answer[0] if isinstance(answer, list) and answer else answer
