"""A stream's bytes → events → one result. No I/O."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from segue.client import _parse
from segue.client._failures import event_error, unreadable
from segue.client._sse import EventDecoder
from segue.client.errors import IncompleteStreamError, TGIError
from segue.client.types import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprob,
    ChatMessage,
    Completion,
    CompletionChoice,
    CompletionChunk,
    FunctionCall,
    GenerateResult,
    ResponseMetadata,
    StreamEvent,
    Token,
    ToolCall,
    Usage,
)

__all__ = ["CHAT", "GENERATE", "RAW", "Assembler", "StreamFormat", "StreamReader", "completion_format"]

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Assembler(Protocol[E_contra, R_co]):
    """Puts the events of one stream together."""

    @property
    def is_complete(self) -> bool:
        """The final event has been added."""
        ...

    @property
    def text(self) -> str:
        """All text so far; of the first choice where there are several."""
        ...

    @property
    def usage(self) -> Usage | None: ...

    def add(self, event: E_contra) -> None: ...

    def end(self) -> None:
        """The body is over, and was not cut."""

    def result(self, response: ResponseMetadata) -> R_co: ...


@dataclass(frozen=True, slots=True)
class StreamFormat(Generic[E, R]):
    parse: Callable[[Any, ResponseMetadata], E]
    text_of: Callable[[E], str]
    new_assembler: Callable[[], Assembler[E, R]]
    events_of: Callable[[R], list[E]]
    """A whole answer as events: some servers do not stream though asked to."""


class StreamReader(Generic[E, R]):
    """Bytes in, ``events`` out. After the last event, when ``is_ended``, ``failure`` says why; None if all is well.

    ``new_response`` is called once, at the first event. ``secrets`` are kept out of error texts.
    """

    def __init__(
        self,
        format: StreamFormat[E, R],
        new_response: Callable[[], ResponseMetadata],
        secrets: Sequence[str] = (),
    ) -> None:
        self.format = format
        self.assembler = format.new_assembler()
        self.events: deque[E] = deque()
        self.failure: TGIError | None = None
        self.is_ended = False
        self._decoder = EventDecoder()
        self._new_response = new_response
        self._secrets = secrets
        self._response: ResponseMetadata | None = None

    @property
    def response(self) -> ResponseMetadata:
        if self._response is None:
            self._response = self._new_response()
        return self._response

    def feed(self, chunk: bytes | None) -> None:
        """The next bytes of the body; None at its end."""
        if self.is_ended:
            return
        self._take(self._decoder.close() if chunk is None else self._decoder.feed(chunk))
        if chunk is None and not self.is_ended:
            self._end_of_body()

    def add(self, events: list[E]) -> None:
        """Events of an answer that came whole."""
        for event in events:
            self.assembler.add(event)
        self.assembler.end()
        self.events.extend(events)
        self.is_ended = True

    def fail(self, error: TGIError) -> None:
        """Nothing more comes, because of ``error``; harmless once the final event is there."""
        if not self.is_ended:
            self._end(str(error))
            if self.failure is not None:
                self.failure.__cause__ = error

    def cut(self) -> None:
        """The caller wants no more."""
        self.events.clear()
        self.is_ended = True

    def result(self) -> R:
        """The whole answer, if the stream ended well. Raises IncompleteStreamError if it was cut."""
        if not self.assembler.is_complete:
            raise self.failure or IncompleteStreamError("the stream was closed", partial_text=self.assembler.text)
        return self.assembler.result(self.response)

    def _end_of_body(self) -> None:
        self.assembler.end()
        self._end("the stream ended before its final event")

    def _end(self, reason: str) -> None:
        self.is_ended = True
        if not self.assembler.is_complete:
            self.failure = IncompleteStreamError(reason, partial_text=self.assembler.text)

    def _refuse(self, error: TGIError) -> None:
        self.is_ended = True
        self.failure = error

    def _take(self, payloads: list[bytes]) -> None:
        loads, parse, add, append = _parse.loads, self.format.parse, self.assembler.add, self.events.append
        for payload in payloads:
            if payload == b"[DONE]":
                return self._end_of_body()
            response = self._response or self.response
            try:
                body = loads(payload)
                if "error" in body and body["error"] is not None:
                    return self._refuse(event_error(body, response, self._secrets))
                event = parse(body, response)
            except _parse.UNREADABLE as error:
                return self._refuse(unreadable(payload, error, response, self._secrets))
            add(event)
            append(event)


class _GenerateAssembler:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self._tokens: list[Token] = []
        self._top_tokens: list[tuple[Token, ...]] = []
        self._final: StreamEvent | None = None

    @property
    def is_complete(self) -> bool:
        return self._final is not None

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def usage(self) -> Usage | None:
        if self._final is None:
            return None
        return _parse.generate_usage(self._final.details, self._final.response)

    def end(self) -> None:
        """Complete is what had a final event."""

    def add(self, event: StreamEvent) -> None:
        self._tokens.append(event.token)
        self._parts.append(event.text)
        if event.top_tokens:
            self._top_tokens.append(event.top_tokens)
        if event.generated_text is not None:
            self._final = event

    def result(self, response: ResponseMetadata) -> GenerateResult:
        assert self._final is not None
        assert self._final.generated_text is not None
        details = self._final.details
        if details is not None:
            details = replace(details, tokens=tuple(self._tokens), top_tokens=tuple(self._top_tokens))
        return GenerateResult(self._final.generated_text, details, _parse.generate_usage(details, response), response)


def _generate_events(result: GenerateResult) -> list[StreamEvent]:
    token = Token(-1, result.generated_text, None, False)
    return [StreamEvent(token, 1, (), result.generated_text, result.details, result.response)]


class _ChatChoiceParts:
    def __init__(self) -> None:
        self.role = "assistant"
        self.content: list[str] = []
        self.has_content = False
        self.calls: dict[int, _ToolCallParts] = {}
        self.logprobs: list[ChatLogprob] = []
        self.finish_reason: str | None = None

    def message(self) -> ChatMessage:
        content = "".join(self.content) if self.has_content else None
        return ChatMessage(
            self.role, content, tuple(call.tool_call(index) for index, call in sorted(self.calls.items()))
        )


class _ToolCallParts:
    def __init__(self) -> None:
        self.id: str | None = None
        self.type = "function"
        self.name = ""
        self.arguments: list[str] = []

    def add(self, call: ToolCall) -> None:
        self.id = call.id or self.id
        self.type = call.type
        self.name = call.function.name or self.name
        self.arguments.append(call.function.arguments)

    def tool_call(self, index: int) -> ToolCall:
        return ToolCall(self.id, self.type, FunctionCall(self.name, "".join(self.arguments)), index)


class _ChatAssembler:
    def __init__(self) -> None:
        self._choices: dict[int, _ChatChoiceParts] = {}
        self._last: ChatChunk | None = None
        self.usage: Usage | None = None

    @property
    def is_complete(self) -> bool:
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    @property
    def text(self) -> str:
        return "".join(self._choices[min(self._choices)].content) if self._choices else ""

    def end(self) -> None:
        """Complete is what had a final event."""

    def add(self, event: ChatChunk) -> None:
        self._last = event
        self.usage = event.usage or self.usage
        for chunk in event.choices:
            choice = self._choices.setdefault(chunk.index, _ChatChoiceParts())
            choice.role = chunk.delta.role or choice.role
            if chunk.delta.content is not None:
                choice.has_content = True
                choice.content.append(chunk.delta.content)
            for call in chunk.delta.tool_calls:
                choice.calls.setdefault(call.index, _ToolCallParts()).add(call)
            choice.logprobs.extend(chunk.logprobs or ())
            choice.finish_reason = chunk.finish_reason or choice.finish_reason

    def result(self, response: ResponseMetadata) -> ChatCompletion:
        last = self._last
        assert last is not None
        return ChatCompletion(
            id=last.id,
            created=last.created,
            model=last.model,
            system_fingerprint=last.system_fingerprint,
            choices=tuple(
                ChatChoice(index, choice.message(), choice.finish_reason, tuple(choice.logprobs) or None)
                for index, choice in sorted(self._choices.items())
            ),
            usage=self.usage or Usage(),
            response=response,
        )


def _chat_events(result: ChatCompletion) -> list[ChatChunk]:
    body = {
        "id": result.id,
        "created": result.created,
        "model": result.model,
        "system_fingerprint": result.system_fingerprint,
        "choices": [
            {
                "index": choice.index,
                "delta": {"role": choice.message.role, "content": choice.message.content},
                "finish_reason": choice.finish_reason,
            }
            for choice in result.choices
        ],
    }
    chunk = _parse.chat_chunk(body, result.response)
    choices = tuple(
        replace(streamed, delta=replace(streamed.delta, tool_calls=choice.message.tool_calls), logprobs=choice.logprobs)
        for streamed, choice in zip(chunk.choices, result.choices, strict=True)
    )
    return [replace(chunk, choices=choices, usage=result.usage)]


class _CompletionAssembler:
    def __init__(self, num_prompts: int) -> None:
        self._num_prompts = num_prompts
        self._texts: dict[int, list[str]] = {}
        self._finish_reasons: dict[int, str | None] = {}
        self._last: CompletionChunk | None = None
        self.usage: Usage | None = None

    @property
    def is_complete(self) -> bool:
        return len(self._finish_reasons) >= self._num_prompts and all(self._finish_reasons.values())

    @property
    def text(self) -> str:
        return "".join(self._texts[min(self._texts)]) if self._texts else ""

    def end(self) -> None:
        """Complete is what had a final event."""

    def add(self, event: CompletionChunk) -> None:
        self._last = event
        self.usage = event.usage or self.usage
        for choice in event.choices:
            self._texts.setdefault(choice.index, []).append(choice.text)
            self._finish_reasons[choice.index] = choice.finish_reason or self._finish_reasons.get(choice.index)

    def result(self, response: ResponseMetadata) -> Completion:
        last = self._last
        assert last is not None
        return Completion(
            id=last.id,
            created=last.created,
            model=last.model,
            system_fingerprint=last.system_fingerprint,
            choices=tuple(
                CompletionChoice(index, "".join(parts), self._finish_reasons[index])
                for index, parts in sorted(self._texts.items())
            ),
            usage=self.usage or Usage(),
            response=response,
        )


def _completion_events(result: Completion) -> list[CompletionChunk]:
    return [
        CompletionChunk(
            id=result.id,
            created=result.created,
            model=result.model,
            system_fingerprint=result.system_fingerprint,
            choices=result.choices,
            usage=result.usage,
            response=result.response,
        )
    ]


GENERATE: StreamFormat[StreamEvent, GenerateResult] = StreamFormat(
    _parse.stream_event, lambda event: event.text, _GenerateAssembler, _generate_events
)
CHAT: StreamFormat[ChatChunk, ChatCompletion] = StreamFormat(
    _parse.chat_chunk, lambda event: event.text, _ChatAssembler, _chat_events
)


class _RawAssembler:
    """Knows the final events of TGI and of OpenAI; a stream of anything else is complete when its body is."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.is_complete = False
        self.usage: Usage | None = None
        self._parts: list[str] = []
        self._awaits_end = False

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def end(self) -> None:
        self.is_complete = not self._awaits_end

    def add(self, event: Any) -> None:
        self.bodies.append(event)
        self._parts.append(raw_text(event))
        choices = event.get("choices") or ()
        has_end = event.get("generated_text") is not None or any(choice.get("finish_reason") for choice in choices)
        self.is_complete = self.is_complete or has_end
        self._awaits_end = not self.is_complete and ("token" in event or bool(choices))
        self.usage = _parse.usage(event.get("usage")) or self.usage
        if details := event.get("details"):
            self.usage = Usage(details.get("input_length"), details.get("generated_tokens"))

    def result(self, response: ResponseMetadata) -> list[Any]:
        return self.bodies


def raw_text(event: Any) -> str:
    """What an event adds to the text: TGI's token, OpenAI's delta, or the whole text where neither is there."""
    if token := event.get("token"):
        return "" if token.get("special") else token.get("text") or ""
    for choice in event.get("choices") or ():
        return (choice.get("delta") or {}).get("content") or choice.get("text") or ""
    return event.get("generated_text") or ""


RAW: StreamFormat[Any, list[Any]] = StreamFormat(lambda body, _: body, raw_text, _RawAssembler, lambda bodies: bodies)


def completion_format(num_prompts: int) -> StreamFormat[CompletionChunk, Completion]:
    """Complete when the text of every prompt has its finish reason."""
    return StreamFormat(
        _parse.completion_chunk, lambda event: event.text, lambda: _CompletionAssembler(num_prompts), _completion_events
    )
