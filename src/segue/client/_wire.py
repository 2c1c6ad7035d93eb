"""Requests as values, and answers as results or errors. No I/O.

A ``Call`` is one request as the caller meant it; ``render`` makes it one for a certain endpoint.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from segue.client import _parse
from segue.client._failures import ErrorAnswer
from segue.client._streams import StreamFormat
from segue.client.endpoint import EndpointState
from segue.client.types import ResponseMetadata

__all__ = ["Call", "Outgoing", "encode", "json_answer", "merge", "render"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[R]):
    method: str
    path: str
    body: Mapping[str, Any] | None
    content: bytes
    """``body`` encoded, unless an endpoint needs it otherwise."""
    parse: Callable[[bytes, ResponseMetadata], R]
    events: StreamFormat[Any, Any] | None = None
    """Set: the answer is a stream of these."""
    has_default_model: bool = False
    """``model`` in the body is not the caller's choice: the endpoint's goes first."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    method: str
    url: httpx.URL
    headers: dict[str, str]
    content: bytes
    timeout: httpx.Timeout


def encode(body: Any) -> bytes:
    """Raises ValueError for NaN and lone surrogates, which are no JSON, and TypeError for what has no JSON form."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def merge(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``extra`` over ``body``; where both have a mapping, those are merged."""
    merged = dict(body)
    for name, value in extra.items():
        mine = merged.get(name)
        merged[name] = {**mine, **value} if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return merged


def render(call: Call[Any], state: EndpointState, headers: Mapping[str, str], timeout: httpx.Timeout) -> Outgoing:
    """``call`` as ``state``'s endpoint wants it; ``headers`` go over the endpoint's."""
    content, model = call.content, state.endpoint.model
    if call.body is not None:
        if call.has_default_model and model:
            content = encode({**call.body, "model": model})
        elif state.urls.is_hosted and call.path.startswith("/generate"):
            # The hosted API repeats the prompt unless told not to; /generate does not.
            parameters = {"return_full_text": False, **call.body["parameters"]}
            stream = {"stream": True} if call.events else {}
            content = encode({**call.body, "parameters": parameters, **stream})
    merged = state.headers | {name.lower(): value for name, value in headers.items()}
    if content:
        merged["content-type"] = "application/json"
    merged["accept"] = "text/event-stream" if call.events else "*/*"
    return Outgoing(call.method, state.urls.route(call.path), merged, content, timeout)


def json_answer(parse: Callable[[Any, ResponseMetadata], R]) -> Callable[[bytes, ResponseMetadata], R]:
    """``parse`` of a JSON body. Raises ErrorAnswer, and what ``_parse.UNREADABLE`` lists."""

    def parse_content(content: bytes, response: ResponseMetadata) -> R:
        body = _parse.loads(content)
        if isinstance(body, dict) and body.get("error") is not None:
            raise ErrorAnswer(body)
        return parse(body, response)

    return parse_content
