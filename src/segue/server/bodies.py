"""Reading a request's body, and what the client hears when that fails: TGI's status and plain text."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from segue.core.errors import SegueError
from segue.server.serde import describe_mismatch

__all__ = ["BodyError", "read_json"]

Model = TypeVar("Model", bound=BaseModel)


class BodyError(SegueError):
    """The body cannot be used; answered with ``status`` and ``str(self)`` as plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def read_json(request: Request, model: type[Model], max_bytes: int) -> Model:
    """The body as ``model``. Raises BodyError; starlette's ClientDisconnect when the client leaves before its end."""
    if not _is_json(request.headers.get("content-type", "")):
        raise BodyError(415, "Expected request with `Content-Type: application/json`")
    return parse_json(await _read(request, max_bytes), model)


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


async def _read(request: Request, max_bytes: int) -> bytes:
    """All of the body. What is counted is what arrives, whatever Content-Length says."""
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise BodyError(413, "Failed to buffer the request body: length limit exceeded")
        chunks.append(chunk)
    return b"".join(chunks)


def _is_json(content_type: str) -> bool:
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))
