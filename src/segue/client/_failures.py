"""Answers that are no answers → errors. No I/O."""

import json
from collections.abc import Mapping, Sequence
from http.client import responses
from typing import Any

import httpx

from segue.client.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    GenerationError,
    IncompleteGenerationError,
    InvalidResponseError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    ShardNotReadyError,
    ValidationError,
)
from segue.client.retry import parse_retry_after
from segue.client.types import ResponseMetadata

__all__ = ["ErrorAnswer", "event_error", "redact", "secrets_of", "status_error", "unreadable"]

KEPT_BODY_CHARACTERS = 500
_SECRET_HEADERS = ("authorization", "proxy-authorization", "api-key", "x-api-key", "cookie")


class ErrorAnswer(Exception):
    """A body with ``error`` that came with a status of success: the hosted API does that."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = body


def secrets_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """What must not show up in texts: the credentials among ``headers``, whose names are in lower case."""
    values = (headers[name].rpartition(" ")[2] for name in _SECRET_HEADERS if name in headers)
    return tuple(value for value in values if len(value) >= 4)


def redact(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return text


_BY_ERROR_TYPE: Mapping[str, tuple[type[APIStatusError], int]] = {
    "generation": (GenerationError, 424),
    "incomplete_generation": (IncompleteGenerationError, 500),
    "incomplete_generation_stream": (IncompleteGenerationError, 500),
    "stream_serialization_error": (ServerError, 500),
    "overloaded": (OverloadedError, 429),
    "validation": (ValidationError, 422),
    "template_error": (ValidationError, 422),
    "missing_template_variable": (ValidationError, 422),
    "tool_error": (ValidationError, 422),
    "healthcheck": (ShardNotReadyError, 503),
}

_BY_STATUS: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    422: ValidationError,
    424: GenerationError,
    429: RateLimitError,
}


def status_error(
    content: bytes, headers: httpx.Headers, response: ResponseMetadata, secrets: Sequence[str]
) -> APIStatusError:
    """The error that an answer with a status of 300 or more stands for."""
    text = redact(content.decode("utf-8", "replace"), secrets)
    try:
        body = json.loads(text)
    except ValueError:
        body = text[:KEPT_BODY_CHARACTERS]
    message, error_type, _ = _describe(body)
    status = response.status
    kind = _class_of(status, error_type)
    if not message:
        phrase = responses.get(status, "")
        message = f"HTTP {status} {phrase}".rstrip()
    return kind(
        message,
        status_code=status,
        response=response,
        error_type=error_type,
        body=body,
        retry_after_s=parse_retry_after(headers) or _loading_time(status, body),
    )


def unreadable(
    content: bytes, cause: Exception, response: ResponseMetadata, secrets: Sequence[str]
) -> InvalidResponseError:
    """The error for a body, or an event, of which ``cause`` says why it cannot be parsed."""
    text = redact(content.decode("utf-8", "replace"), secrets)[:KEPT_BODY_CHARACTERS]
    reason = redact(f"{type(cause).__name__}: {cause}", secrets)
    return InvalidResponseError(f"the server's answer cannot be read ({reason})", response=response, body=text)


def event_error(body: Mapping[str, Any], response: ResponseMetadata, secrets: Sequence[str]) -> APIStatusError:
    """The error that an object with ``error`` stands for which came with status 200: an event of a stream."""
    body = json.loads(redact(json.dumps(body, ensure_ascii=False), secrets))
    message, error_type, status = _describe(body)
    if status is None:
        status = _BY_ERROR_TYPE.get(error_type or "", (ServerError, 500))[1]
    kind = _class_of(status, error_type)
    return kind(
        message or "error without a text", status_code=status, response=response, error_type=error_type, body=body
    )


def _loading_time(status: int, body: Any) -> float | None:
    """The hosted API says in the body how long a model will still load."""
    seconds = body.get("estimated_time") if status == 503 and isinstance(body, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None


def _class_of(status: int, error_type: str | None) -> type[APIStatusError]:
    if error_type is not None and error_type in _BY_ERROR_TYPE:
        return _BY_ERROR_TYPE[error_type][0]
    return _BY_STATUS.get(status, ServerError if status >= 500 else APIStatusError)


def _describe(body: Any) -> tuple[str, str | None, int | None]:
    """(text, error_type, status) of an error body: TGI's, OpenAI's, FastAPI's, or plain text."""
    if isinstance(body, str):
        return body.strip(), None, None
    if not isinstance(body, dict):
        return "", None, None
    error = body.get("error", body.get("detail", body.get("message")))
    error_type = body.get("error_type")
    status = None
    if isinstance(error, dict):
        error_type = error_type or error.get("error_type") or error.get("type")
        code = error.get("http_status_code", error.get("code"))
        status = code if isinstance(code, int) else None
        error = error.get("message", json.dumps(error))
    if isinstance(error, list):
        error = "; ".join(part if isinstance(part, str) else json.dumps(part) for part in error)
    return str(error or ""), error_type if isinstance(error_type, str) else None, status
