"""What clients of OpenAI's Responses API read: a response at once, and the events of one that is being written."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from msgspec.json import encode

from segue.core.errors import RequestError
from segue.core.output import FinishReason
from segue.protocol.responses import ResponsesRequest, TextFormat
from segue.server.generation import Generation, Token
from segue.server.tools import Answer, Call, Reading
from segue.text.tool_calls import CallArguments, CallEnd, CallStart, Piece, TextPiece

__all__ = ["ResponseEvents", "ResponseShape"]

Item = dict[str, Any]


class ResponseShape:
    """One response's object, in all its states."""

    def __init__(self, body: ResponsesRequest, model_id: str) -> None:
        text_format = body.text and body.text.format
        self._given: dict[str, Any] = {
            "id": _new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "error": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model if body.model not in (None, "tgi") else model_id,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": _shown(text_format) if text_format else {"type": "text"}},
            "tool_choice": _choice(body),
            "tools": [{**each.model_dump(), "strict": None} for each in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
        }

    def begun(self) -> dict[str, Any]:
        return {**self._given, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}

    def answered(self, answer: Answer) -> dict[str, Any]:
        """An answer at once."""
        items = [message_item(part) if isinstance(part, str) else call_item(part) for part in answer.parts]
        if answer.generation.finish_reason is FinishReason.LENGTH:
            items[-1]["status"] = "incomplete"
        return self.ended(answer.generation, items)

    def ended(self, generation: Generation, items: list[Item]) -> dict[str, Any]:
        is_cut = generation.finish_reason is FinishReason.LENGTH
        num_inputs, num_outputs = generation.num_inputs, generation.num_tokens
        return {
            **self._given,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": items,
            "usage": {
                "input_tokens": num_inputs,
                "input_tokens_details": {"cached_tokens": generation.num_cached_tokens},
                "output_tokens": num_outputs,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": num_inputs + num_outputs,
            },
        }


class ResponseEvents:
    """Deltas of text and of calls' arguments, each in an item of its own, between the response's start and end."""

    token_event = None

    def __init__(self, shape: ResponseShape, reading: Reading) -> None:
        self.reading = reading
        self._shape = shape
        self._num_events = 0
        self._items: list[Item] = []
        """The last may be open."""
        self._is_open = False
        self._texts: list[str] = []
        """Of the item that is open: its text, or its arguments."""

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        pieces = self.reading.read(generation, tokens)
        events = self._begin() if self._num_events == 0 else []
        if not self.reading.is_declined:
            for piece in pieces:
                events += self._piece_events(piece)
            if generation.finish_reason is not None:
                events += self._end(generation)
        return b"".join(events)

    def error(self, error: RequestError) -> bytes:
        words = {"message": str(error), "code": error.error_type, "param": None}
        # The nested object is what OpenAI's clients raise.
        return self._event("error", **words, error={**words, "http_status_code": error.status})

    def _begin(self) -> list[bytes]:
        return [self._event(f"response.{name}", response=self._shape.begun()) for name in ("created", "in_progress")]

    def _piece_events(self, piece: Piece) -> list[bytes]:
        match piece:
            case TextPiece(text):
                events = [] if self._is_open and self._items[-1]["type"] == "message" else self._open_message()
                return [*events, self._delta("output_text", text, content_index=0, logprobs=[])]
            case CallStart(name):
                return self._open(call_item(Call(name, ""), "in_progress"))
            case CallArguments(text):
                return [self._delta("function_call_arguments", text)]
            case CallEnd():
                return self._close("completed")
        return []

    def _open_message(self) -> list[bytes]:
        item = message_item(None)
        added = self._open(item)
        return [*added, self._event("response.content_part.added", **self._place(), content_index=0, part=_part(""))]

    def _open(self, item: Item) -> list[bytes]:
        events = self._close("completed")
        self._items.append(item)
        self._is_open = True
        added = self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)
        return [*events, added]

    def _close(self, status: str) -> list[bytes]:
        if not self._is_open:
            return []
        self._is_open = False
        text = "".join(self._texts)
        self._texts.clear()
        item, place = self._items[-1], self._place()
        if item["type"] == "message":
            item |= {"status": status, "content": [_part(text)]}
            events = [
                self._event("response.output_text.done", **place, content_index=0, text=text, logprobs=[]),
                self._event("response.content_part.done", **place, content_index=0, part=_part(text)),
            ]
        else:
            item |= {"status": status, "arguments": text}
            done = {"name": item["name"], "arguments": text}
            events = [self._event("response.function_call_arguments.done", **place, **done)]
        return [*events, self._event("response.output_item.done", output_index=place["output_index"], item=item)]

    def _delta(self, kind: str, text: str, **fields: Any) -> bytes:
        self._texts.append(text)
        return self._event(f"response.{kind}.delta", **self._place(), delta=text, **fields)

    def _place(self) -> dict[str, Any]:
        """Of the last item."""
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _end(self, generation: Generation) -> list[bytes]:
        events = [] if self._items else self._open_message()
        is_cut = generation.finish_reason is FinishReason.LENGTH
        is_broken_call = self._is_open and self._items[-1]["type"] == "function_call"
        events += self._close("incomplete" if is_cut or is_broken_call else "completed")
        ended = self._shape.ended(generation, self._items)
        return [*events, self._event(f"response.{ended['status']}", response=ended)]

    def _event(self, name: str, /, **fields: Any) -> bytes:
        event = {"type": name, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(event))


def message_item(text: str | None) -> Item:
    """Without a text, one that is being written."""
    status, content = ("in_progress", []) if text is None else ("completed", [_part(text)])
    return {"id": _new_id("msg_"), "type": "message", "role": "assistant", "status": status, "content": content}


def call_item(call: Call, status: str = "completed") -> Item:
    names = {"call_id": _new_id("call_"), "name": call.name, "arguments": call.arguments}
    return {"id": _new_id("fc_"), "type": "function_call", "status": status, **names}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _shown(text_format: TextFormat) -> dict[str, Any]:
    if text_format.type != "json_schema":
        return {"type": text_format.type}
    return {"type": "json_schema", "name": text_format.name, "schema": text_format.json_schema}


def _choice(body: ResponsesRequest) -> Any:
    if not body.tools:
        return "none"
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)
