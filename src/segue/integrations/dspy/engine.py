"""Engines for ``dspy.LM``: one canonical request, one answer.

    engine, async_engine = SegueEngine("http://127.0.0.1:8080"), AsyncSegueEngine("http://127.0.0.1:8080")
    dspy.configure(lm=dspy.LM("segue/tgi", engine=engine, async_engine=async_engine, num_retries=0))

DSPy's LM caches, repeats and counts; the client's retries are off by default, so that they do not multiply.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from dspy import lm15

from segue.client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    Client,
    EndpointPool,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TGIError,
)
from segue.client.types import ChatChunk, ChatCompletion
from segue.integrations.dspy.chat_bodies import to_grammar
from segue.integrations.loop_clients import LoopClients

__all__ = ["AsyncSegueEngine", "SegueEngine"]

PATH = "/v1/chat/completions"
Request: TypeAlias = Any  # dspy.lm15.Request; dspy has no types
Response: TypeAlias = Any


class SegueEngine:
    """``complete`` and ``stream``; raises the errors of ``dspy.lm15``."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        pool: EndpointPool | None = None,
        api_key: str | None = None,
        max_retries: int = 0,
    ) -> None:
        self._client = Client(base_url, pool=pool, api_key=api_key, max_retries=max_retries)

    def complete(self, request: Request) -> Response:
        with translated():
            answer = self._client.request("POST", PATH, json=wire_body(request, is_stream=False))
        return to_response(answer.json, request)

    def stream(self, request: Request) -> Iterator[Any]:
        """A start, deltas, and an end that comes only if all went well."""
        body = wire_body(request, is_stream=True)
        with translated(), self._client.chat(body["messages"], stream=True, extra_body=body) as stream:
            started = False
            for chunk in stream:
                if not started:
                    started = True
                    yield start_event(chunk, request)
                yield from delta_events(chunk)
            yield end_event(stream.final())

    def close(self) -> None:
        self._client.close()


class AsyncSegueEngine:
    """The same for ``dspy.LM.acall``; for one event loop after the other."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        pool: EndpointPool | None = None,
        api_key: str | None = None,
        max_retries: int = 0,
    ) -> None:
        shared = AsyncClient(base_url, pool=pool, api_key=api_key).pool
        self._clients = LoopClients(lambda: AsyncClient(pool=shared, max_retries=max_retries))

    async def complete(self, request: Request) -> Response:
        with translated():
            answer = await self._clients.get().request("POST", PATH, json=wire_body(request, is_stream=False))
        return to_response(answer.json, request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        body = wire_body(request, is_stream=True)
        with translated():
            async with await self._clients.get().chat(body["messages"], stream=True, extra_body=body) as stream:
                started = False
                async for chunk in stream:
                    if not started:
                        started = True
                        yield start_event(chunk, request)
                    for event in delta_events(chunk):
                        yield event
                yield end_event(await stream.final())

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._clients.close()


def wire_body(request: Request, *, is_stream: bool) -> dict[str, Any]:
    """The body for TGI's chat route, made by DSPy's own writer of OpenAI's dialect."""
    compat = lm15.OpenAIChatCompat(max_tokens_field="max_tokens", instruction_role="system")
    writer = lm15.OpenAIChatLM(api_key="not sent", transport=None, compat=compat)
    body: dict[str, Any] = json.loads(writer.build_request(request, stream=is_stream).body)
    if request.config.top_k is not None:
        body["top_k"] = request.config.top_k
    if "response_format" in body:
        body["response_format"] = to_grammar(body["response_format"])
    return body


def to_response(body: Any, request: Request) -> Response:
    choices = [{**choice, "finish_reason": _finish_reason(choice.get("finish_reason"))} for choice in body["choices"]]
    return lm15.response_from_openai_chat({**body, "choices": choices}, model=request.model)


def start_event(chunk: ChatChunk, request: Request) -> Any:
    return lm15.StreamStartEvent(id=chunk.id or None, model=chunk.model or request.model)


def delta_events(chunk: ChatChunk) -> Iterator[Any]:
    """The text is part 0; tool calls are the parts after it."""
    for choice in chunk.choices:
        if choice.delta.content:
            yield lm15.StreamDeltaEvent(lm15.TextDelta(choice.delta.content))
        for call in choice.delta.tool_calls:
            delta = lm15.ToolCallDelta(call.function.arguments, call.index + 1, call.id, call.function.name)
            yield lm15.StreamDeltaEvent(delta)


def end_event(answer: ChatCompletion) -> Any:
    usage = lm15.Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)
    choice = answer.choices[0]
    reason = "tool_call" if choice.message.tool_calls else _finish_reason(choice.finish_reason)
    return lm15.StreamEndEvent(reason, usage)


def _finish_reason(reason: str | None) -> str | None:
    """TGI says eos_token and stop_sequence where OpenAI says stop."""
    return "stop" if reason in ("eos_token", "stop_sequence") else reason


@contextmanager
def translated() -> Iterator[None]:
    """Raises DSPy's error where the client raised its own."""
    try:
        yield
    except APITimeoutError as error:
        raise lm15.TimeoutError(str(error)) from error
    except APIConnectionError as error:
        raise lm15.TransportError(str(error)) from error
    except APIStatusError as error:
        raise _provider_error(error) from error
    except TGIError as error:
        raise lm15.ProviderError(str(error)) from error


def _provider_error(error: APIStatusError) -> Exception:
    kinds: tuple[tuple[type[APIStatusError], Any], ...] = (
        (AuthenticationError, lm15.AuthError),
        (PermissionDeniedError, lm15.AuthError),
        (RateLimitError, lm15.RateLimitError),
        (ServerError, lm15.ServerError),
    )
    kind = next((theirs for ours, theirs in kinds if isinstance(error, ours)), lm15.InvalidRequestError)
    made: Exception = kind(
        error.message, status=error.status_code, request_id=error.request_id, retry_after=error.retry_after_s
    )
    return made
