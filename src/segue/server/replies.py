"""Responses, encoded fast and byte for byte as TGI's."""

from collections.abc import Mapping
from typing import Any

from msgspec.json import encode
from starlette.responses import Response

from segue.core.errors import RequestError

__all__ = ["empty_reply", "error_reply", "json_reply", "text_reply"]


_RETRY_AFTER_S = "1"
"""Permits come back as fast as sequences end; clients multiply this by themselves."""


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Non-finite floats become null."""
    return Response(encode(value), status, headers, "application/json")


def error_reply(error: RequestError, body: Any = None) -> Response:
    """TGI's error object, or ``body``, under the error's status; 429 says when to try again."""
    body = {"error": str(error), "error_type": error.error_type} if body is None else body
    return json_reply(body, error.status, {"retry-after": _RETRY_AFTER_S} if error.status == 429 else None)


def text_reply(text: str, status: int) -> Response:
    # The rest of a body that was given up would be taken for the next request's head.
    headers = {"connection": "close"} if status == 408 else None
    return Response(text, status, headers, "text/plain")


def empty_reply(status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(b"", status, headers)
