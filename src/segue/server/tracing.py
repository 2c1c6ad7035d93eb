"""What happened in one request, noted while it runs; ``server/otlp.py`` makes spans of it when it has ended.

Where the server exports no traces no request has a ``RequestTrace``, and nothing is noted.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segue.core.errors import RequestError

__all__ = ["MAX_TEXT_CHARS", "Failure", "GenerationRecord", "RequestTrace", "Traced", "current_trace", "traced"]


MAX_TEXT_CHARS = 4096
"""Of headers, parameters and errors, each."""


class GenerationRecord(NamedTuple):
    """One sequence. Times are ``time.monotonic()``; None: it did not come so far."""

    name: str
    fields: Mapping[str, str]
    """Of the handler's span, by TGI's names."""
    received_time: float
    tokenize_times: tuple[float, float] | None
    """Begin and end; None: the prompt came as ids."""
    validated_time: float
    scheduled_time: float | None
    first_token_time: float | None
    end_time: float | None
    batch_size: int
    """Sequences that ran together when its first token came."""
    num_inputs: int
    num_cached_tokens: int
    num_tokens: int


class Failure(NamedTuple):
    """An error that the caller was told."""

    time: float
    name: str
    error_type: str
    text: str


class Traced(Protocol):
    """A sequence that runs."""

    def record(self) -> GenerationRecord: ...


@dataclass(slots=True, kw_only=True)
class RequestTrace:
    """One HTTP request. Times are ``time.monotonic()``."""

    method: str
    route: str
    handler: str
    """Names the handler's span where no generation does."""
    headers: Mapping[str, str]
    """``traceparent`` and ``user-agent``, where they were sent."""
    start_time: float
    generations: list[Traced] = field(default_factory=list)
    """Until the end; then ``records``, which hold little, are what waits for the collector."""
    records: list[GenerationRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    status: int | None = None
    """None: the client left before it was answered."""
    stream_time: float | None = None
    """When a stream of events began."""
    is_complete: bool = False
    """The answer was sent to its end."""
    end_time: float = 0.0

    def note_failure(self, name: str, error: RequestError) -> None:
        self.failures.append(Failure(time.monotonic(), name, error.error_type, str(error)[:MAX_TEXT_CHARS]))

    def end(self) -> None:
        """Nothing more happens."""
        self.end_time = time.monotonic()
        self.records = [each.record() for each in self.generations]
        self.generations.clear()

    def note_message(self, message: Message) -> None:
        """What is sent to the client."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if any(name == b"content-type" and value == b"text/event-stream" for name, value in message["headers"]):
                self.stream_time = time.monotonic()
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)


_current: ContextVar[RequestTrace | None] = ContextVar("request_trace", default=None)


def current_trace() -> RequestTrace | None:
    """Of the request that this task belongs to."""
    return _current.get()


async def traced(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    route: str,
    handler: str,
    on_end: Callable[[RequestTrace], None],
) -> None:
    """Run ``app``, then give ``on_end`` what was noted meanwhile."""
    headers = Headers(scope=scope)
    trace = RequestTrace(
        method=scope["method"],
        route=route,
        handler=handler,
        headers={name: headers[name][:MAX_TEXT_CHARS] for name in ("traceparent", "user-agent") if name in headers},
        start_time=time.monotonic(),
    )

    async def noting_send(message: Message) -> None:
        trace.note_message(message)
        await send(message)

    token = _current.set(trace)
    try:
        await app(scope, receive, noting_send)
    finally:
        _current.reset(token)
        trace.end()
        on_end(trace)
