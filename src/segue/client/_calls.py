"""The calls that TGI knows, built from the arguments of the client's methods. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from segue.client import _parse
from segue.client._streams import CHAT, GENERATE, RAW, completion_format
from segue.client._wire import Call, encode, json_answer, merge
from segue.client.types import (
    ChatCompletion,
    ChatTokenization,
    Completion,
    GenerateResult,
    Metrics,
    Model,
    ModelList,
    RawResponse,
    ResponseMetadata,
    ServerInfo,
    Tokenization,
)

__all__ = [
    "DEFAULT_MODEL",
    "HEALTH",
    "INFO",
    "METRICS",
    "MODELS",
    "Messages",
    "chat",
    "chat_tokenize",
    "completions",
    "generate",
    "model",
    "raw",
    "raw_stream",
    "tokenize",
]

Messages = Sequence[Mapping[str, Any]] | str
DEFAULT_MODEL = "tgi"
"""TGI takes any other name for an adapter's."""


def generate(
    prompt: str, parameters: Mapping[str, Any], extra: Mapping[str, Any], *, stream: bool, details: bool
) -> Call[GenerateResult]:
    # ``parameters`` is never left out: without it TGI samples, with an empty one it does not.
    body = merge({"inputs": prompt, "parameters": {**_stop_as_list(parameters), "details": details}}, extra)
    return Call(
        method="POST",
        path="/generate_stream" if stream else "/generate",
        body=body,
        content=encode(body),
        parse=json_answer(_parse.generate_result),
        events=GENERATE if stream else None,
    )


def chat(
    messages: Messages, model: str | None, parameters: Mapping[str, Any], extra: Mapping[str, Any], *, stream: bool
) -> Call[ChatCompletion]:
    body = _openai_body({"messages": _as_messages(messages)}, model, parameters, extra, stream)
    return Call(
        method="POST",
        path="/v1/chat/completions",
        body=body,
        content=encode(body),
        parse=json_answer(_parse.chat_completion),
        events=CHAT if stream else None,
        has_default_model=model is None,
    )


def completions(
    prompt: str | Sequence[str],
    model: str | None,
    parameters: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    stream: bool,
) -> Call[Completion]:
    prompts = prompt if isinstance(prompt, str) else list(prompt)
    body = _openai_body({"prompt": prompts}, model, parameters, extra, stream)
    num_prompts = 1 if isinstance(prompt, str) else len(prompts)
    return Call(
        method="POST",
        path="/v1/completions",
        body=body,
        content=encode(body),
        parse=json_answer(_parse.completion),
        events=completion_format(num_prompts) if stream else None,
        has_default_model=model is None,
    )


def tokenize(text: str, extra: Mapping[str, Any]) -> Call[Tokenization]:
    body = merge({"inputs": text, "parameters": {}}, extra)
    return Call(
        method="POST", path="/tokenize", body=body, content=encode(body), parse=json_answer(_parse.tokenization)
    )


def chat_tokenize(
    messages: Messages, model: str | None, parameters: Mapping[str, Any], extra: Mapping[str, Any]
) -> Call[ChatTokenization]:
    body = _openai_body({"messages": _as_messages(messages)}, model, parameters, extra, False)
    return Call(
        method="POST",
        path="/chat_tokenize",
        body=body,
        content=encode(body),
        parse=json_answer(_parse.chat_tokenization),
        has_default_model=model is None,
    )


def raw_stream(method: str, path: str, body: Any) -> Call[list[Any]]:
    content = b"" if body is None else encode(body)
    parse = json_answer(lambda whole, _: whole if isinstance(whole, list) else [whole])
    return Call(method=method.upper(), path=path, body=None, content=content, parse=parse, events=RAW)


def raw(method: str, path: str, body: Any) -> Call[RawResponse]:
    """Any request; ``body`` goes as JSON, None as no body."""
    content = b"" if body is None else encode(body)
    return Call(method=method.upper(), path=path, body=None, content=content, parse=_raw_response)


def _raw_response(content: bytes, response: ResponseMetadata) -> RawResponse:
    try:
        body = _parse.loads(content)
    except ValueError:
        body = None
    return RawResponse(content, body, _parse.raw_usage(body, response), response)


def _metrics(content: bytes, response: ResponseMetadata) -> Metrics:
    return Metrics(content.decode("utf-8", "replace"), response)


def _healthy(content: bytes, response: ResponseMetadata) -> bool:
    return True


INFO: Call[ServerInfo] = Call(method="GET", path="/info", body=None, content=b"", parse=json_answer(_parse.server_info))
MODELS: Call[ModelList] = Call(
    method="GET", path="/v1/models", body=None, content=b"", parse=json_answer(_parse.model_list)
)
METRICS: Call[Metrics] = Call(method="GET", path="/metrics", body=None, content=b"", parse=_metrics)
HEALTH: Call[bool] = Call(method="GET", path="/health", body=None, content=b"", parse=_healthy)


def model(id: str) -> Call[Model]:
    path = f"/v1/models/{quote(id)}"
    return Call(method="GET", path=path, body=None, content=b"", parse=json_answer(lambda body, _: _parse.model(body)))


def _openai_body(
    body: dict[str, Any], model: str | None, parameters: Mapping[str, Any], extra: Mapping[str, Any], stream: bool
) -> dict[str, Any]:
    streamed = {"stream": True} if stream else {}
    return merge({"model": model or DEFAULT_MODEL, **body, **_stop_as_list(parameters), **streamed}, extra)


def _stop_as_list(parameters: Mapping[str, Any]) -> dict[str, Any]:
    stop = parameters.get("stop")
    return {**parameters, "stop": [stop]} if isinstance(stop, str) else dict(parameters)


def _as_messages(messages: Messages) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
