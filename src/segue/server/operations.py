"""One operation of the API, and the ASGI endpoint that its path becomes."""

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from segue.core.errors import RequestError
from segue.server.bodies import BodyError
from segue.server.replies import empty_reply, error_reply, json_reply, text_reply
from segue.server.state import Server
from segue.server.tracing import traced

__all__ = ["Endpoint", "Handler", "Operation"]

logger = logging.getLogger(__name__)

Handler = Callable[[Server, Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A method on a path: who answers it, and what the OpenAPI document says of it."""

    method: str
    path: str
    handler: Handler
    summary: str
    _: KW_ONLY
    request: type[BaseModel] | None = None
    reply: Any = None
    """What pydantic describes as the answer; None: nothing, or text."""
    event: Any = None
    """What pydantic describes as each event of a stream, but for those that end one that failed."""
    operation_id: str = ""
    """Default: the handler's name."""
    text: bool = False
    """The answer is plain text."""
    errors: Sequence[int] = ()
    """Statuses with an error object."""
    error: Any = None
    """What pydantic describes as the error object; None: TGI's, or OpenAI's where ``is_openai``."""
    query: Sequence[str] = ()
    """Names that may be asked with, as ``?name=value``."""
    is_openai: bool = False
    """Errors are OpenAI's, in the words of ``OpenAIWords``."""
    needs_key: bool = False
    """Only callers with the API key are answered, where the server has one."""


class Endpoint:
    """All operations on one path, as an ASGI application. Errors become TGI's answers here."""

    def __init__(self, server: Server, operations: Sequence[Operation]) -> None:
        self._server = server
        self._by_method = {operation.method: operation for operation in operations}
        if "GET" in self._by_method:
            self._by_method["HEAD"] = self._by_method["GET"]
        # Of one length: how long a key is cannot be measured either.
        keys = [f"Bearer {key}".encode().lower() for key in server.config.api_key]
        self._keys = [hashlib.sha256(key).digest() for key in keys]
        self._allow = ",".join(sorted(self._by_method))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._by_method.get(scope["method"])
        traces = self._server.traces
        if traces is None or operation is None or operation.request is None:
            await self._reply(scope, receive, send)
            return
        handler = operation.operation_id or getattr(operation.handler, "__name__", "")
        await traced(self._reply, scope, receive, send, route=operation.path, handler=handler, on_end=traces.export)

    async def _reply(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        await reply(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        operation = self._by_method.get(request.method)
        if operation is None:
            return empty_reply(405, {"allow": self._allow})
        if operation.needs_key and not self._has_key(request):
            return empty_reply(401)
        try:
            return await operation.handler(self._server, request)
        except BodyError as error:
            words = self._server.words.body_error(str(error), error.status) if operation.is_openai else None
            return text_reply(str(error), error.status) if words is None else json_reply(words, error.status)
        except RequestError as error:
            return error_reply(error, self._server.words.error(error) if operation.is_openai else None)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("%s %s failed", request.method, request.url.path)
            return _internal_error()

    def _has_key(self, request: Request) -> bool:
        if not self._keys:
            return True
        # TGI compares the whole header without regard to case. All keys are compared, whichever fits.
        given = hashlib.sha256(request.headers.get("authorization", "").encode("latin-1").lower()).digest()
        fits = [hmac.compare_digest(given, key) for key in self._keys]
        # Anthropic's clients have a header of their own.
        own = hashlib.sha256(b"bearer " + request.headers.get("x-api-key", "").encode("latin-1").lower()).digest()
        fits += [hmac.compare_digest(own, key) for key in self._keys]
        return any(fits)


def _internal_error() -> Response:
    return json_reply({"error": "Internal server error", "error_type": "internal"}, 500)
