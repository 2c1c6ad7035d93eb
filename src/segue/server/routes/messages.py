"""``/v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's way to ask, for text."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from msgspec.json import encode
from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, ValidationError
from segue.core.output import FinishReason
from segue.protocol.anthropic import CountTokensRequest, MessagesRequest, TextBlock
from segue.protocol.openai import ChatRequest, Message
from segue.server.admission import Ask
from segue.server.bodies import BodyError, read_json
from segue.server.generation import Generation, Token, generate, timing_headers
from segue.server.replies import error_reply, json_reply
from segue.server.routes.chat import chat_ask
from segue.server.state import Server
from segue.server.stream import EventStream, stream_events, unless_client_leaves

__all__ = ["count_tokens", "messages"]

_STOP_REASONS = {
    FinishReason.EOS_TOKEN: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
}
_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}


async def messages(server: Server, request: Request) -> ASGIApp:
    """The assistant's next message, at once or as a stream of named events."""
    return await _with_errors(_messages, server, request)


async def count_tokens(server: Server, request: Request) -> ASGIApp:
    """Tokens of the prompt that the conversation becomes."""
    return await _with_errors(_count_tokens, server, request)


async def _messages(server: Server, request: Request) -> ASGIApp:
    body = await read_json(request, MessagesRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    try:
        ask = await _ask(server, body)
    except RequestError as error:
        server.record_failure("messages", error)
        raise
    shape = MessageShape(body, server.model.model_id)
    if body.stream:
        headers = {"x-compute-type": server.compute_type, "x-compute-characters": str(len(ask.inputs))}
        return EventStream(stream_events(server, ask, MessageEvents(shape)), headers)
    answer = await unless_client_leaves(request.receive, generate(server, ask), server.metrics.dropped)
    return json_reply(shape.ended(answer.best), headers=timing_headers(answer.best, server.compute_type))


async def _count_tokens(server: Server, request: Request) -> ASGIApp:
    body = await read_json(request, CountTokensRequest, server.config.payload_limit)
    ask = await chat_ask(server, _as_chat(body))
    return json_reply({"input_tokens": len(await server.encode(ask.inputs, add_special_tokens=False))})


async def _with_errors(
    handler: Callable[[Server, Request], Awaitable[ASGIApp]], server: Server, request: Request
) -> ASGIApp:
    """Errors in Anthropic's shape, with TGI's ``error_type`` beside it."""
    try:
        return await handler(server, request)
    except BodyError as error:
        return json_reply(_error(str(error), error.status), error.status)
    except RequestError as error:
        return error_reply(error, {**_error(str(error), error.status), "error_type": error.error_type})


class MessageShape:
    """One message's object, at its start and at its end."""

    def __init__(self, body: MessagesRequest, model_id: str) -> None:
        self.stops = [each for each in body.stop_sequences or () if each]
        self._head = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": body.model if body.model not in (None, "tgi") else model_id,
        }

    def begun(self, generation: Generation) -> dict[str, Any]:
        usage = {"input_tokens": generation.num_inputs, "output_tokens": 0}
        return {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}

    def ended(self, generation: Generation) -> dict[str, Any]:
        text = generation.text()
        stop = None
        if generation.finish_reason is FinishReason.STOP_SEQUENCE:
            text, stop = cut_at_stop(text, self.stops)
        usage = {"input_tokens": generation.num_inputs, "output_tokens": len(generation.tokens)}
        content = [{"type": "text", "text": text}]
        return {**self._head, "content": content, **stop_words(generation, stop), "usage": usage}


class MessageEvents:
    """One event of a delta a step, between those that open and close the message."""

    def __init__(self, shape: MessageShape) -> None:
        self._shape = shape
        self._has_begun = False
        self._pending = ""
        """Text that may be the beginning of a stop sequence."""
        self._num_kept = max((len(stop) for stop in shape.stops), default=1) - 1

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        events = [] if self._has_begun else self._begin(generation)
        self._pending += "".join(token.text for token in tokens if not token.special)
        if generation.finish_reason is None:
            end = len(self._pending) - self._num_kept
            if end > 0:
                events.append(_delta(self._pending[:end]))
                self._pending = self._pending[end:]
        else:
            events += self._end(generation)
        return b"".join(events)

    def error(self, error: RequestError) -> bytes:
        return _event("error", **_error(str(error), error.status))

    def _begin(self, generation: Generation) -> list[bytes]:
        self._has_begun = True
        return [
            _event("message_start", message=self._shape.begun(generation)),
            _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        ]

    def _end(self, generation: Generation) -> list[bytes]:
        text, stop = self._pending, None
        if generation.finish_reason is FinishReason.STOP_SEQUENCE:
            text, stop = cut_at_stop(text, self._shape.stops)
        return [
            *([_delta(text)] if text else []),
            _event("content_block_stop", index=0),
            _event(
                "message_delta",
                delta=stop_words(generation, stop),
                usage={"output_tokens": len(generation.tokens)},
            ),
            _event("message_stop"),
        ]


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first stop sequence in it, and that stop sequence."""
    found = [(index, stop) for stop in stops if (index := text.find(stop)) >= 0]
    if not found:
        return text, None
    index, stop = min(found)
    return text[:index], stop


def stop_words(generation: Generation, stop: str | None) -> dict[str, Any]:
    """Why the generation ended."""
    assert generation.finish_reason is not None, "the generation has not ended"
    return {"stop_reason": _STOP_REASONS[generation.finish_reason], "stop_sequence": stop}


async def _ask(server: Server, body: MessagesRequest) -> Ask:
    chat = _as_chat(body).model_copy(
        update={
            "max_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "stop": [each for each in body.stop_sequences or () if each],
        }
    )
    ask = await chat_ask(server, chat)
    return replace(ask, parameters=ask.parameters.model_copy(update={"top_k": body.top_k}))


def _as_chat(body: CountTokensRequest) -> ChatRequest:
    if body.tools:
        raise ValidationError("`tools` is not supported by /v1/messages")
    system = [Message(role="system", content=_text_of(body.system))] if body.system else []
    given = [Message(role=each.role, content=_text_of(each.content)) for each in body.messages]
    return ChatRequest(messages=[*system, *given], model=body.model)


def _text_of(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def _delta(text: str) -> bytes:
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def _event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name} | fields))


def _error(message: str, status: int) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
