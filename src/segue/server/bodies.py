"""Reading a request's body, and what the client hears when that fails: TGI's status and plain text."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.types import Scope

from segue.core.errors import SegueError
from segue.server.serde import describe_mismatch

__all__ = ["WHOLE_BODY", "BodyError", "TakeBody", "read_json"]

Model = TypeVar("Model", bound=BaseModel)

WHOLE_BODY = "segue.whole_body"
"""The ASGI extension, of which ``take`` is a ``TakeBody``."""

TakeBody = Callable[[], bytes | None]
"""The body, if all of it is there before anything of it was received; None: it is to be received. Nearly every body of
a prompt comes with its request, and to wait for it, with a time limit, takes as long as to read it."""

_BODY_GRACE_S = 60.0
_MIN_BYTES_PER_S = 32 << 10


class BodyError(SegueError):
    """The body cannot be used; answered with ``status`` and ``str(self)`` as plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def read_json(request: Request, model: type[Model], max_bytes: int, *, grace_s: float = _BODY_GRACE_S) -> Model:
    """The body as ``model``. Raises BodyError; starlette's ClientDisconnect when the client leaves before its end.

    A body that takes longer than ``grace_s`` and a second for each 32 KiB is given up.
    """
    if not _is_json(_content_type(request.scope)):
        raise BodyError(415, "Expected request with `Content-Type: application/json`")
    data = _take_whole(request.scope, max_bytes)
    return parse_json(await _read(request, max_bytes, grace_s) if data is None else data, model)


def parse_json(data: bytes, model: type[Model]) -> Model:
    """``data`` as ``model``. Raises BodyError."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    if errors[0]["type"] == "json_invalid":
        # jiter's messages and places are serde_json's; it does not know the path.
        text = errors[0]["msg"].removeprefix("Invalid JSON: ")
        raise BodyError(400, f"Failed to parse the request body as JSON: {text}")
    text = describe_mismatch(data, errors)
    raise BodyError(422, f"Failed to deserialize the JSON body into the target type: {text}")


def _take_whole(scope: Scope, max_bytes: int) -> bytes | None:
    extension = scope.get("extensions", {}).get(WHOLE_BODY)
    data: bytes | None = None if extension is None else extension["take"]()
    if data is not None and len(data) > max_bytes:
        raise _too_long()
    return data


async def _read(request: Request, max_bytes: int, grace_s: float) -> bytes:
    """All of the body. What is counted is what arrives, whatever Content-Length says."""
    chunks: list[bytes] = []
    num_bytes = 0
    start = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(grace_s) as timeout:
            async for chunk in request.stream():
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise _too_long()
                if chunks:
                    timeout.reschedule(start + grace_s + num_bytes / _MIN_BYTES_PER_S)
                chunks.append(chunk)
    except TimeoutError:
        raise BodyError(408, "Failed to buffer the request body: it comes too slowly") from None
    return b"".join(chunks)


def _too_long() -> BodyError:
    return BodyError(413, "Failed to buffer the request body: length limit exceeded")


def _content_type(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"content-type"), "")


def _is_json(content_type: str) -> bool:
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))
