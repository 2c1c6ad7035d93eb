"""``/v1/responses``: OpenAI's newer way to ask, for text."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from msgspec.json import encode
from starlette.requests import Request
from starlette.types import ASGIApp

from segue.core.errors import RequestError, ValidationError
from segue.core.output import FinishReason
from segue.protocol.openai import ChatRequest, Message
from segue.protocol.responses import InputMessage, ResponsesRequest
from segue.server.bodies import read_json
from segue.server.generation import Generation, Token, generate, timing_headers
from segue.server.replies import json_reply
from segue.server.routes.chat import chat_ask
from segue.server.state import Server
from segue.server.stream import EventStream, stream_events, unless_client_leaves

__all__ = ["responses"]


async def responses(server: Server, request: Request) -> ASGIApp:
    """The assistant's next message, at once or as a stream of named events."""
    body = await read_json(request, ResponsesRequest, server.config.payload_limit)
    server.metrics.request_count.add()
    try:
        ask = await chat_ask(server, _as_chat(body))
    except RequestError as error:
        server.record_failure("responses", error)
        raise
    shape = ResponseShape(body, server.model.model_id)
    if body.stream:
        headers = {"x-compute-type": server.compute_type, "x-compute-characters": str(len(ask.inputs))}
        return EventStream(stream_events(server, ask, ResponseEvents(shape)), headers)
    answer = await unless_client_leaves(request.receive, generate(server, ask), server.metrics.dropped)
    return json_reply(shape.ended(answer.best), headers=timing_headers(answer.best, server.compute_type))


class ResponseShape:
    """One response's object, in all its states."""

    def __init__(self, body: ResponsesRequest, model_id: str) -> None:
        self._message_id = f"msg_{secrets.token_hex(12)}"
        self._given: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(12)}",
            "object": "response",
            "created_at": int(time.time()),
            "error": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model if body.model not in (None, "tgi") else model_id,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": body.top_p,
            "truncation": "disabled",
        }

    def begun(self) -> dict[str, Any]:
        return {**self._given, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}

    def ended(self, generation: Generation) -> dict[str, Any]:
        is_cut = generation.finish_reason is FinishReason.LENGTH
        num_inputs, num_outputs = generation.num_inputs, len(generation.tokens)
        return {
            **self._given,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [self.message("incomplete" if is_cut else "completed", [self.part(generation.text())])],
            "usage": {
                "input_tokens": num_inputs,
                "input_tokens_details": {"cached_tokens": generation.num_cached_tokens},
                "output_tokens": num_outputs,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": num_inputs + num_outputs,
            },
        }

    def message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The one output item."""
        return {"id": self._message_id, "type": "message", "role": "assistant", "status": status, "content": content}

    @property
    def place(self) -> dict[str, Any]:
        """Of the text in the response."""
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    @staticmethod
    def part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class ResponseEvents:
    """One event of a delta for each token that has text, between those that open and close the message."""

    def __init__(self, shape: ResponseShape) -> None:
        self._shape = shape
        self._num_events = 0

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        shape, events = self._shape, list[bytes]()
        if self._num_events == 0:
            events += [
                self._event("response.created", response=shape.begun()),
                self._event("response.in_progress", response=shape.begun()),
                self._event("response.output_item.added", output_index=0, item=shape.message("in_progress", [])),
                self._event("response.content_part.added", **shape.place, part=shape.part("")),
            ]
        for token in tokens:
            if token.text and not token.special:
                events.append(self._event("response.output_text.delta", **shape.place, delta=token.text, logprobs=[]))
        if generation.finish_reason is not None:
            ended = shape.ended(generation)
            [item] = ended["output"]
            [part] = item["content"]
            events += [
                self._event("response.output_text.done", **shape.place, text=part["text"], logprobs=[]),
                self._event("response.content_part.done", **shape.place, part=part),
                self._event("response.output_item.done", output_index=0, item=item),
                self._event(f"response.{ended['status']}", response=ended),
            ]
        return b"".join(events)

    def error(self, error: RequestError) -> bytes:
        words = {"message": str(error), "code": error.error_type, "param": None}
        # The nested object is what OpenAI's clients raise.
        return self._event("error", **words, error={**words, "http_status_code": error.status})

    def _event(self, name: str, **fields: Any) -> bytes:
        event = {"type": name, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(event))


def _as_chat(body: ResponsesRequest) -> ChatRequest:
    """Raises ValidationError for what needs more than text."""
    for name, is_asked in (
        ("tools", bool(body.tools)),
        ("previous_response_id", body.previous_response_id is not None),
        ("background", bool(body.background)),
        ("text.format", body.text is not None and body.text.format is not None and body.text.format.type != "text"),
    ):
        if is_asked:
            raise ValidationError(f"`{name}` is not supported by /v1/responses")
    messages = [Message(role="system", content=body.instructions)] if body.instructions else []
    given = [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    messages += [Message(role=_role(each.role), content=_text_of(each)) for each in given]
    return ChatRequest(
        messages=messages,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        model=body.model,
    )


def _role(role: str) -> str:
    """Chat templates know no ``developer``."""
    return "system" if role == "developer" else role


def _text_of(message: InputMessage) -> str:
    content = message.content
    return content if isinstance(content, str) else "".join(part.text for part in content)
