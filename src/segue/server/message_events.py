"""What Anthropic's clients read: a message at once, and the events of one that is being written."""

import secrets
from collections.abc import Sequence
from typing import Any

from msgspec import Raw
from msgspec.json import encode

from segue.core.errors import RequestError
from segue.core.output import FinishReason
from segue.protocol.anthropic import MessagesRequest
from segue.server.generation import Generation, Token
from segue.server.tools import Answer, Call, Reading
from segue.text.tool_calls import CallArguments, CallEnd, CallStart, Piece, TextPiece

__all__ = ["MessageEvents", "MessageShape", "message_error"]

_STOP_REASONS = {
    FinishReason.EOS_TOKEN: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
}
_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}


def message_error(message: str, status: int) -> dict[str, Any]:
    """Anthropic's error object."""
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


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

    def ended(self, answer: Answer) -> dict[str, Any]:
        generation, stop = answer.generation, None
        parts = list(answer.parts)
        if generation.finish_reason is FinishReason.STOP_SEQUENCE and isinstance(parts[-1], str):
            parts[-1], stop = cut_at_stop(parts[-1], self.stops)
        usage = {"input_tokens": generation.num_inputs, "output_tokens": len(generation.tokens)}
        reasons = stop_words(generation, stop, has_calls=bool(answer.calls))
        return {**self._head, "content": [_block(part) for part in parts], **reasons, "usage": usage}


class MessageEvents:
    """Deltas of text and of calls' arguments, each in a block of its own, between the message's start and end."""

    token_event = None

    def __init__(self, shape: MessageShape, reading: Reading) -> None:
        self.reading = reading
        self._shape = shape
        self._has_begun = False
        self._block: str | None = None
        """Kind of the block that is open."""
        self._num_blocks = 0
        self._has_calls = False
        """Complete ones."""
        self._pending = ""
        """Text that may be the beginning of a stop sequence."""
        self._num_kept = max((len(stop) for stop in shape.stops), default=1) - 1

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        pieces = self.reading.read(generation, tokens)
        has_ended = generation.finish_reason is not None
        if self.reading.is_declined or not (pieces or has_ended):
            return b""
        events = [] if self._has_begun else [_event("message_start", message=self._shape.begun(generation))]
        self._has_begun = True
        for piece in pieces:
            events += self._piece_events(piece)
        if has_ended:
            events += self._end(generation)
        else:
            events += self._flush(len(self._pending) - self._num_kept)
        return b"".join(events)

    def error(self, error: RequestError) -> bytes:
        return _event("error", **message_error(str(error), error.status))

    def _piece_events(self, piece: Piece) -> list[bytes]:
        match piece:
            case TextPiece(text):
                self._pending += text
                return [] if self._block == "text" else self._open("text", text="")
            case CallStart(name):
                call = {"id": _new_id(), "name": name, "input": {}}
                return [*self._flush(len(self._pending)), *self._open("tool_use", **call)]
            case CallArguments(text):
                return [self._delta(type="input_json_delta", partial_json=text)]
            case CallEnd():
                self._has_calls = True
        return []

    def _open(self, kind: str, **fields: Any) -> list[bytes]:
        events = self._close()
        self._block = kind
        self._num_blocks += 1
        block = {"type": kind, **fields}
        return [*events, _event("content_block_start", index=self._num_blocks - 1, content_block=block)]

    def _close(self) -> list[bytes]:
        if self._block is None:
            return []
        self._block = None
        return [_event("content_block_stop", index=self._num_blocks - 1)]

    def _flush(self, end: int) -> list[bytes]:
        """The first ``end`` characters of the pending text."""
        if end <= 0:
            return []
        text, self._pending = self._pending[:end], self._pending[end:]
        return [self._delta(type="text_delta", text=text)]

    def _delta(self, **delta: Any) -> bytes:
        return _event("content_block_delta", index=self._num_blocks - 1, delta=delta)

    def _end(self, generation: Generation) -> list[bytes]:
        events = self._open("text", text="") if self._num_blocks == 0 else []
        stop = None
        if generation.finish_reason is FinishReason.STOP_SEQUENCE:
            self._pending, stop = cut_at_stop(self._pending, self._shape.stops)
        return [
            *events,
            *self._flush(len(self._pending)),
            *self._close(),
            _event(
                "message_delta",
                delta=stop_words(generation, stop, has_calls=self._has_calls),
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


def stop_words(generation: Generation, stop: str | None, *, has_calls: bool) -> dict[str, Any]:
    """Why the generation ended."""
    assert generation.finish_reason is not None, "the generation has not ended"
    reason = _STOP_REASONS[generation.finish_reason]
    if has_calls and generation.finish_reason is not FinishReason.LENGTH:
        reason = "tool_use"
    return {"stop_reason": reason, "stop_sequence": stop}


def _block(part: str | Call) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "tool_use", "id": _new_id(), "name": part.name, "input": Raw(part.arguments.encode())}


def _new_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"


def _event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name} | fields))
