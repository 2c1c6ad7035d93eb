"""JSON of any TGI since 0.9, of Segue and of the hosted API → the client's types. No I/O.

Parsers are lenient in what they do not need: what is missing becomes None or empty. A missing or ill-typed field that
is needed raises KeyError, TypeError, ValueError, AttributeError or IndexError: the caller makes that an error of ours.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from pydantic_core import from_json

from segue.client.types import (
    BestOfSequence,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprob,
    ChatMessage,
    ChatTokenization,
    Completion,
    CompletionChoice,
    CompletionChunk,
    Details,
    FunctionCall,
    GenerateResult,
    Model,
    ModelList,
    PrefillToken,
    ResponseMetadata,
    ServerInfo,
    StreamEvent,
    TextSpan,
    Token,
    Tokenization,
    ToolCall,
    TopLogprob,
    Usage,
)

__all__ = [
    "UNREADABLE",
    "chat_chunk",
    "chat_completion",
    "chat_tokenization",
    "completion",
    "completion_chunk",
    "generate_result",
    "generate_usage",
    "loads",
    "model",
    "model_list",
    "raw_usage",
    "server_info",
    "stream_event",
    "tokenization",
    "usage",
]

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError)

Json: TypeAlias = Any


def loads(content: bytes) -> Json:
    """Raises ValueError. A quarter of ``json.loads``'s time, which was half of an event's (benchmarks/client.py)."""
    try:
        return from_json(content)
    except ValueError:
        return json.loads(content)  # takes lone surrogates, and names line and column of what is wrong


def generate_result(body: Json, response: ResponseMetadata) -> GenerateResult:
    """An object, or a list of which the first element counts (``POST /`` and the hosted API)."""
    answer = body[0] if isinstance(body, list) else body
    details = _details(answer.get("details"))
    return GenerateResult(str(answer["generated_text"]), details, generate_usage(details, response), response)


def generate_usage(details: Details | None, response: ResponseMetadata) -> Usage:
    """Details first; what they do not say is in TGI's headers."""
    prompt_tokens = completion_tokens = None
    if details is not None:
        completion_tokens = details.generated_tokens
        prompt_tokens = details.input_length or len(details.prefill) or None
    headers = response.headers
    if prompt_tokens is None:
        prompt_tokens = _int(headers.get("x-prompt-tokens"))
    if completion_tokens is None:
        completion_tokens = _int(headers.get("x-generated-tokens"))
    return Usage(prompt_tokens, completion_tokens)


def stream_event(body: Json, response: ResponseMetadata) -> StreamEvent:
    top_tokens = body.get("top_tokens")
    details = body.get("details")
    return StreamEvent(
        _token(body["token"]),
        body.get("index"),
        _tokens(top_tokens) if top_tokens else (),
        body.get("generated_text"),
        _details(details) if details else None,
        response,
    )


def chat_completion(body: Json, response: ResponseMetadata) -> ChatCompletion:
    return ChatCompletion(
        id=body.get("id") or "",
        created=body.get("created") or 0,
        model=body.get("model") or "",
        system_fingerprint=body.get("system_fingerprint"),
        choices=tuple(
            ChatChoice(
                choice.get("index") or 0,
                _message(choice["message"]),
                choice.get("finish_reason") or None,
                _logprobs(choice.get("logprobs")),
            )
            for choice in body["choices"]
        ),
        usage=usage(body.get("usage")) or _header_usage(response),
        response=response,
    )


def chat_chunk(body: Json, response: ResponseMetadata) -> ChatChunk:
    return ChatChunk(
        id=body.get("id") or "",
        created=body.get("created") or 0,
        model=body.get("model") or "",
        system_fingerprint=body.get("system_fingerprint"),
        choices=tuple(
            ChatChunkChoice(
                choice.get("index") or 0,
                _delta(choice["delta"]),
                choice.get("finish_reason") or None,
                _logprobs(choice.get("logprobs")),
            )
            for choice in body["choices"]
        ),
        usage=usage(body.get("usage")),
        response=response,
    )


def completion(body: Json, response: ResponseMetadata) -> Completion:
    return Completion(
        id=body.get("id") or "",
        created=body.get("created") or 0,
        model=body.get("model") or "",
        system_fingerprint=body.get("system_fingerprint"),
        choices=_completion_choices(body),
        usage=usage(body.get("usage")) or _header_usage(response),
        response=response,
    )


def completion_chunk(body: Json, response: ResponseMetadata) -> CompletionChunk:
    return CompletionChunk(
        id=body.get("id") or "",
        created=body.get("created") or 0,
        model=body.get("model") or "",
        system_fingerprint=body.get("system_fingerprint"),
        choices=_completion_choices(body),
        usage=usage(body.get("usage")),
        response=response,
    )


def usage(body: Json) -> Usage | None:
    return Usage(body.get("prompt_tokens"), body.get("completion_tokens")) if body else None


def raw_usage(body: Json, response: ResponseMetadata) -> Usage:
    """Of an answer of any kind, as far as it tells."""
    try:
        answer = body[0] if isinstance(body, list) else body
        return usage(answer.get("usage")) or generate_usage(_details(answer.get("details")), response)
    except UNREADABLE:
        return _header_usage(response)


def tokenization(body: Json, response: ResponseMetadata) -> Tokenization:
    return Tokenization(_spans(body), response)


def chat_tokenization(body: Json, response: ResponseMetadata) -> ChatTokenization:
    return ChatTokenization(_spans(body["tokenize_response"]), body["templated_text"], response)


def server_info(body: Json, response: ResponseMetadata) -> ServerInfo:
    return ServerInfo(
        model_id=body["model_id"],
        max_input_tokens=body.get("max_input_tokens", body.get("max_input_length")),
        **{name: body.get(name) for name in _INFO_FIELDS},
        raw=body,
        response=response,
    )


_INFO_FIELDS = (
    "model_sha",
    "model_pipeline_tag",
    "max_concurrent_requests",
    "max_best_of",
    "max_stop_sequences",
    "max_total_tokens",
    "max_client_batch_size",
    "validation_workers",
    "router",
    "version",
    "sha",
    "docker_label",
)


def model_list(body: Json, response: ResponseMetadata) -> ModelList:
    return ModelList(tuple(model(entry) for entry in body["data"]), response)


def model(body: Json) -> Model:
    return Model(body["id"], body.get("created") or 0, body.get("owned_by") or "")


def _int(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _header_usage(response: ResponseMetadata) -> Usage:
    return generate_usage(None, response)


def _token(body: Json) -> Token:
    return Token(body["id"], body["text"], body.get("logprob"), bool(body.get("special")))


def _tokens(bodies: Iterable[Json]) -> tuple[Token, ...]:
    return tuple([_token(body) for body in bodies])


def _prefill(bodies: Iterable[Json] | None) -> tuple[PrefillToken, ...]:
    return tuple(PrefillToken(body["id"], body["text"], body.get("logprob")) for body in bodies or ())


def _top_tokens(rows: Iterable[Json] | None) -> tuple[tuple[Token, ...], ...]:
    return tuple(_tokens(row) for row in rows or ())


def _details(body: Json) -> Details | None:
    if not body:
        return None
    return Details(
        finish_reason=body["finish_reason"],
        generated_tokens=body["generated_tokens"],
        seed=body.get("seed"),
        prefill=_prefill(body.get("prefill")),
        tokens=_tokens(body.get("tokens") or ()),
        top_tokens=_top_tokens(body.get("top_tokens")),
        best_of_sequences=tuple(
            BestOfSequence(
                generated_text=sequence["generated_text"],
                finish_reason=sequence["finish_reason"],
                generated_tokens=sequence["generated_tokens"],
                seed=sequence.get("seed"),
                prefill=_prefill(sequence.get("prefill")),
                tokens=_tokens(sequence.get("tokens") or ()),
                top_tokens=_top_tokens(sequence.get("top_tokens")),
            )
            for sequence in body.get("best_of_sequences") or ()
        ),
        input_length=body.get("input_length"),
    )


def _message(body: Json) -> ChatMessage:
    return ChatMessage(body.get("role") or "assistant", body.get("content"), _tool_calls(body.get("tool_calls")))


def _delta(body: Json) -> ChatDelta:
    return ChatDelta(body.get("role"), body.get("content"), _tool_calls(body.get("tool_calls")))


def _tool_calls(body: Json) -> tuple[ToolCall, ...]:
    """TGI before 3.1 streams a single object instead of a list, before 2.0 its arguments are an object too."""
    if not body:
        return ()
    calls: list[Mapping[str, Any]] = [body] if isinstance(body, dict) else body
    return tuple(
        ToolCall(
            id=None if call.get("id") is None else str(call["id"]),
            type=call.get("type") or "function",
            function=FunctionCall(call["function"].get("name"), _arguments(call["function"].get("arguments"))),
            index=call.get("index", position),
        )
        for position, call in enumerate(calls)
    )


def _arguments(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _logprobs(body: Json) -> tuple[ChatLogprob, ...] | None:
    if not body:
        return None
    return tuple(
        ChatLogprob(
            entry["token"],
            entry["logprob"],
            tuple(TopLogprob(top["token"], top["logprob"]) for top in entry.get("top_logprobs") or ()),
        )
        for entry in body.get("content") or ()
    )


def _completion_choices(body: Json) -> tuple[CompletionChoice, ...]:
    return tuple(
        CompletionChoice(
            choice.get("index") or 0,
            choice.get("text") or "",
            choice.get("finish_reason") or None,
            choice.get("logprobs"),
        )
        for choice in body["choices"]
    )


def _spans(bodies: Iterable[Json]) -> tuple[TextSpan, ...]:
    return tuple(TextSpan(body["id"], body["text"], body["start"], body["stop"]) for body in bodies)
