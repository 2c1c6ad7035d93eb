"""One tree of the client's errors.

    SegueError
    └── TGIError                              request_id, endpoint, attempts
        ├── APIConnectionError                nothing, or not everything, came back
        │   ├── APITimeoutError               also TimeoutError; phase says which limit
        │   └── IncompleteStreamError         partial_text holds what had arrived
        ├── APIStatusError                    the server answered with an error
        │   ├── BadRequestError               400
        │   ├── AuthenticationError           401
        │   ├── PermissionDeniedError         403
        │   ├── NotFoundError                 404
        │   ├── ValidationError               422
        │   ├── GenerationError               424
        │   ├── RateLimitError                429
        │   │   └── OverloadedError           429 overloaded
        │   └── ServerError                   5xx
        │       ├── IncompleteGenerationError incomplete_generation, incomplete_generation_stream
        │       └── ShardNotReadyError        503 healthcheck
        ├── InvalidResponseError              a success status with a body that is no answer
        ├── QueueFullError                    also ValueError
        ├── QueueTimeoutError                 also TimeoutError
        └── CircuitOpenError                  the endpoint has failed too often; retry_in_s

Messages never hold a key: texts that come from a server are redacted before they get here.
"""

from collections.abc import Mapping
from typing import Any, Self

from segue.client.types import ResponseMetadata
from segue.core.errors import SegueError

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "CircuitOpenError",
    "GenerationError",
    "IncompleteGenerationError",
    "IncompleteStreamError",
    "InvalidResponseError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "QueueFullError",
    "QueueTimeoutError",
    "RateLimitError",
    "ServerError",
    "ShardNotReadyError",
    "TGIError",
    "ValidationError",
]


class TGIError(SegueError):
    """Base of every error of the client.

    ``request_id``, ``endpoint`` (its id) and ``attempts`` (requests sent) are filled in when the call ends.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.request_id: str | None = None
        self.endpoint: str | None = None
        self.attempts: int = 0

    def located(self, *, request_id: str, endpoint: str | None, attempts: int) -> Self:
        self.request_id, self.endpoint, self.attempts = request_id, endpoint, attempts
        return self

    # An exception is unpickled by calling its class with ``args``; ours take more than the message.
    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(cls: type[TGIError], args: tuple[Any, ...], state: Mapping[str, Any]) -> TGIError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class APIConnectionError(TGIError):
    """The server could not be reached, or the connection broke."""


class APITimeoutError(APIConnectionError, TimeoutError):
    """A limit in seconds passed; ``phase`` is connect, write, read, pool or deadline."""

    def __init__(self, message: str, *, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


class IncompleteStreamError(APIConnectionError):
    """The stream ended before its final event; ``partial_text`` is what had arrived."""

    def __init__(self, message: str, *, partial_text: str) -> None:
        super().__init__(message)
        self.partial_text = partial_text


class APIStatusError(TGIError):
    """The server answered with an error, as a status or as an event inside a stream.

    ``status_code`` of an event is the status that its ``error_type`` stands for, ``response.status`` is the real one.
    ``body`` is the parsed JSON, or the first 500 characters of anything else.
    ``retry_after_s`` is how long the server asked to wait, None if it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        response: ResponseMetadata,
        error_type: str | None = None,
        body: Any = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response = response
        self.error_type = error_type
        self.body = body
        self.retry_after_s = retry_after_s


class BadRequestError(APIStatusError):
    """400"""


class AuthenticationError(APIStatusError):
    """401"""


class PermissionDeniedError(APIStatusError):
    """403"""


class NotFoundError(APIStatusError):
    """404"""


class ValidationError(APIStatusError):
    """422"""


class GenerationError(APIStatusError):
    """424"""


class RateLimitError(APIStatusError):
    """429"""


class OverloadedError(RateLimitError):
    """429 with error_type overloaded: the server's own queue is full."""


class ServerError(APIStatusError):
    """5xx"""


class IncompleteGenerationError(ServerError):
    """The server lost the request half way."""


class ShardNotReadyError(ServerError):
    """503 healthcheck: the model is not loaded, or its worker died."""


class InvalidResponseError(TGIError):
    """The status says success but the body is not an answer; ``body`` is its first 500 characters."""

    def __init__(self, message: str, *, response: ResponseMetadata, body: str) -> None:
        super().__init__(message)
        self.response = response
        self.body = body


class QueueFullError(TGIError, ValueError):
    """No place in the endpoint's line."""


class QueueTimeoutError(TGIError, TimeoutError):
    """No slot became free in time; the server never saw the request."""


class CircuitOpenError(TGIError):
    """The endpoint failed too often in a row and is left alone for ``retry_in_s`` seconds."""

    def __init__(self, message: str, *, retry_in_s: float) -> None:
        super().__init__(message)
        self.retry_in_s = retry_in_s
