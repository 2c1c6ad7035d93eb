"""Calls of functions in OpenAI's chats: the message of an answer at once, and the chunks of a stream."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from msgspec.json import encode

from segue.server.generation import Generation, Token
from segue.server.openai_words import OpenAIWords
from segue.server.stream import ChatEvents, ChatShape, chat_logprob
from segue.server.tools import Answer, Call, Reading
from segue.text.tool_calls import CallArguments, CallEnd, CallStart, Piece, TextPiece
from segue.text.tool_json import compact_json

__all__ = ["ToolChatEvents", "message_of_calls"]


def message_of_calls(words: OpenAIWords, answer: Answer, new_id: Callable[[], str]) -> dict[str, Any]:
    """The assistant's message of an answer that has calls."""
    calls = [{"id": new_id(), "type": "function", "function": _function(words, call)} for call in answer.calls]
    if words.is_tgi:
        return {"role": "assistant", "tool_calls": calls}
    return {"role": "assistant", "content": answer.text or None, "tool_calls": calls}


def _function(words: OpenAIWords, call: Call) -> dict[str, Any]:
    if not words.is_tgi:
        return {"name": call.name, "arguments": call.arguments}
    return {"description": None, "name": call.name, "arguments": compact_json(call.arguments)}


class ToolChatEvents(ChatEvents):
    """Chunks of an answer that may have calls: one or more a step, or none while it is not certain what is coming."""

    def __init__(
        self, words: OpenAIWords, reading: Reading, new_id: Callable[[], str], **shape: Unpack[ChatShape]
    ) -> None:
        super().__init__(words, **shape)
        self.token_event = None
        self.reading = reading
        self._new_id = new_id
        self._num_started = self._num_ended = 0
        """Calls."""
        self._call_id = ""
        self._name: str | None = None
        """Of a call whose first chunk has not been sent."""
        self._logprobs: list[dict[str, Any]] = []
        """Of tokens without a chunk so far."""

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        pieces = self.reading.read(generation, tokens)
        if self.reading.is_declined:
            self._logprobs.clear()
            return b""
        if self._wants_logprobs:
            numbers = range(generation.num_tokens - len(tokens), generation.num_tokens)
            self._logprobs += [chat_logprob(generation, number) for number in numbers]
        events = [self._chunk_of(delta) for piece in pieces for delta in self._deltas(piece)]
        if generation.finish_reason is not None:
            has_calls = self._num_ended > 0
            reason = self._words.finish_reason(generation.finish_reason, has_calls=has_calls)
            last = {} if has_calls and not self._words.is_tgi else {"role": "assistant", "content": ""}
            events += [self._chunk_of(last, reason), self._usage_event(generation)]
        return b"".join(events)

    def _deltas(self, piece: Piece) -> list[dict[str, Any]]:
        match piece:
            case TextPiece(text):
                return [{"role": "assistant", "content": text}]
            case CallStart(name):
                self._num_started += 1
                self._call_id, self._name = self._new_id(), name
                return [] if self._words.is_tgi else [self._call_delta("")]
            case CallArguments(text):
                return [self._call_delta(text)]
            case CallEnd():
                self._num_ended += 1
        return []

    def _call_delta(self, arguments: str) -> dict[str, Any]:
        """TGI repeats all but the name, which OpenAI's clients would put together to one long id."""
        name, self._name = self._name, None
        call: dict[str, Any] = {"index": self._num_started - 1}
        if name is not None or self._words.is_tgi:
            call |= {"id": self._call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            return {"role": "assistant", "tool_calls": [call]}
        return {"tool_calls": [{**call, "function": {"arguments": arguments}}]}

    def _chunk_of(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        logprobs: dict[str, Any] | None = None
        if self._wants_logprobs:
            logprobs = {"content": self._logprobs}
            self._logprobs = []
        return b'%b%b,"logprobs":%b,"finish_reason":%b}],"usage":null}\n\n' % (
            self._delta_head,
            encode(delta),
            encode(logprobs),
            encode(reason),
        )
