"""Errors by the old names. The client's own error, with status, body and request id, is each one's ``__cause__``.

TextGenerationError
├── ValidationError             validation, or refused before it was sent
├── GenerationError             generation
├── OverloadedError             overloaded
├── IncompleteGenerationError   incomplete_generation, and streams without their end
├── BadRequestError             400
├── ShardNotReadyError          403, 424
├── NotFoundError               404
├── RateLimitExceededError      429
├── ShardTimeoutError           504
├── NotSupportedError
└── UnknownError                anything else
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pydantic

from segue.client import APIStatusError, IncompleteStreamError, InvalidResponseError
from segue.core.errors import SegueError

__all__ = [
    "BadRequestError",
    "GenerationError",
    "IncompleteGenerationError",
    "NotFoundError",
    "NotSupportedError",
    "OverloadedError",
    "RateLimitExceededError",
    "ShardNotReadyError",
    "ShardTimeoutError",
    "TextGenerationError",
    "UnknownError",
    "ValidationError",
    "parse_error",
    "translated",
]


class TextGenerationError(SegueError):
    def __init__(self, message: str) -> None:
        super().__init__(message)


class ValidationError(TextGenerationError):
    pass


class GenerationError(TextGenerationError):
    pass


class OverloadedError(TextGenerationError):
    pass


class IncompleteGenerationError(TextGenerationError):
    pass


class BadRequestError(TextGenerationError):
    pass


class ShardNotReadyError(TextGenerationError):
    pass


class ShardTimeoutError(TextGenerationError):
    pass


class NotFoundError(TextGenerationError):
    pass


class RateLimitExceededError(TextGenerationError):
    pass


class NotSupportedError(TextGenerationError):
    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model `{model_id}` is not available for inference with this client.")


class UnknownError(TextGenerationError):
    pass


_BY_ERROR_TYPE: Mapping[str, type[TextGenerationError]] = {
    "generation": GenerationError,
    "incomplete_generation": IncompleteGenerationError,
    "incomplete_generation_stream": IncompleteGenerationError,
    "overloaded": OverloadedError,
    "validation": ValidationError,
}
_BY_STATUS: Mapping[int, type[TextGenerationError]] = {
    400: BadRequestError,
    403: ShardNotReadyError,
    404: NotFoundError,
    424: ShardNotReadyError,
    429: RateLimitExceededError,
    504: ShardTimeoutError,
}


def parse_error(status_code: int, payload: Mapping[str, Any]) -> TextGenerationError:
    """The error for a status and an error body: ``error_type`` decides, then the status."""
    message = str(payload.get("error", payload))
    kind = _BY_ERROR_TYPE.get(payload.get("error_type") or "") or _BY_STATUS.get(status_code, UnknownError)
    return kind(message)


@contextmanager
def translated() -> Iterator[None]:
    """Raises the old error where the client raised its own."""
    try:
        yield
    except APIStatusError as error:
        raise parse_error(error.status_code, {"error": error.message, "error_type": error.error_type}) from error
    except IncompleteStreamError as error:
        raise IncompleteGenerationError(error.message) from error
    except (InvalidResponseError, pydantic.ValidationError) as error:
        raise UnknownError(str(error)) from error
