"""uvicorn's HTTP connection, less patient: what is too large, too slow or not read in time ends it.

It also reads the bodies of requests that offer an upgrade, which httptools drops: Java's HttpClient offers HTTP/2 with
every request.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from segue.core.config import ServeConfig
from segue.server.bodies import WHOLE_BODY
from segue.server.outlets import Outlet
from segue.server.sinks import BODY_WRITER

__all__ = ["ConnectionLimits", "LimitedProtocol", "allow_open_files"]

RESERVED_FILES = 128
"""Open files that are not connections: the engine's socket, logs, models, threads' pipes."""
MOST_CONNECTIONS = 65_536
FRAMING_PER_BYTE = 8
"""The most that chunked encoding adds: ``1\\r\\na\\r\\n`` for one byte."""

LEAST_READ_BYTES = 48 << 10
"""What a reader must take within ``unread_timeout_s``: as much as lets a stream that waits for it go on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a client may do to a connection."""

    max_connections: int = MOST_CONNECTIONS
    """One more is answered with 503 and closed."""
    max_head_bytes: int = 64 << 10
    """Of a request's line and headers; also of what follows a body in chunks."""
    head_timeout_s: float = 60.0
    """From the connection, or a later request's first byte, to the head's end."""
    keep_alive_s: float = 75.0
    """Between two requests."""
    unread_timeout_s: float = 60.0
    """How long what is sent may wait for the client to read on. Until then the answer waits too."""
    linger_s: float = 5.0
    """For the rest of a body whose request was answered before its end."""

    @classmethod
    def of(cls, config: ServeConfig) -> "ConnectionLimits":
        return cls(
            max_connections=config.max_connections or _connections_allowed(),
            head_timeout_s=config.client_timeout,
            unread_timeout_s=config.client_timeout,
        )


class _BodyWriter(Outlet):
    """``BodyWriter`` of one response in chunks."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        transport = cycle.transport
        super().__init__(_plain_socket(transport), transport.write, transport.get_write_buffer_size)
        self.is_full = cycle.flow.write_paused
        self._flow = cycle.flow
        self._cycle: RequestResponseCycle | None = cycle
        self._leave: Callable[[], None] | None = None

    def begin(self, leave: Callable[[], None]) -> None:
        if self._cycle is None:  # the client has left already
            leave()
            return
        self._leave = leave
        self._cycle.transport = cast("asyncio.Transport", _Beside(self._cycle.transport, self))

    def end(self) -> None:
        self._leave = None

    async def drain(self) -> None:
        if self.is_full:
            await self._flow.drain()

    def close(self) -> None:
        super().close()
        self._cycle = None
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class _Beside:
    """A transport whose first piece, the head of a response, waits for what its writer writes."""

    def __init__(self, transport: asyncio.Transport, writer: _BodyWriter) -> None:
        self._transport = transport
        self._writer = writer
        self._is_head = True

    def write(self, data: bytes) -> None:
        self._writer.hold(data)
        if not self._is_head:
            self._writer.flush()
        self._is_head = False

    def close(self) -> None:
        self._writer.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class LimitedProtocol(HttpToolsProtocol):
    """httptools holds an unfinished head or trailer in memory whatever its size; uvicorn waits for ever for a client
    that does not read, for the rest of a body that nobody wants, and after a blank line between requests."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self.timeout_keep_alive = limits.keep_alive_s  # type: ignore[assignment]  # uvicorn's type is int
        self._is_in_message = False
        self._is_in_head = True
        self._is_too_large = False
        self._declined = b""
        """The head of a request that offers an upgrade, without the offer."""
        self._num_begun = 0
        """Messages that began in the piece of data that is being read."""
        self._num_body_bytes = 0
        """Of the body, in that piece."""
        self._num_head_bytes = 0
        """Of the message, all but its body."""
        self._num_framed_bytes = 0
        """Of the message's body."""
        self._num_unread_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._writers: deque[_BodyWriter] = deque()
        """Of the requests that are not answered to the end, as they came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            logger.warning("More than %d connections: one is refused", self._limits.max_connections)
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n")
            transport.write(b"connection: close\r\n\r\n")
            transport.close()
            return
        self._close_after(self._limits.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        for writer in self._writers:
            writer.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        was_in_message = self._is_in_message
        self._num_begun = self._num_body_bytes = 0
        self._unset_keepalive_if_required()
        self._feed(data)
        if self.transport.is_closing():
            return
        if was_in_message + self._num_begun == 1:
            # With the end of one message and the begin of another in it, which bytes are whose is not known.
            self._num_head_bytes += len(data) - self._num_body_bytes
        self._num_framed_bytes += self._num_body_bytes
        limit = self._limits.max_head_bytes + (0 if self._is_in_head else FRAMING_PER_BYTE * self._num_framed_bytes)
        if self._num_head_bytes > limit:
            self._is_too_large = True
            self.send_400_response("")
        elif self._is_idle and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            head, self._declined = self._declined, b""
            if not head:
                self.send_400_response("Invalid HTTP request received.")
                return
            # The request as it were without the offer, read by a parser that has not given up.
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + data[upgrade.args[0] :])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._num_begun += 1
        self._num_head_bytes = self._num_framed_bytes = self._num_body_bytes = 0
        self._is_in_message = self._is_in_head = True
        if self._timer is None:
            self._close_after(self._limits.head_timeout_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # else a trailer, which must not look like a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_timer()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._limits.max_head_bytes:
            # httptools makes a parser error of it, which uvicorn answers by send_400_response.
            self._is_too_large = True
            raise ValueError("Request head too large.")
        if self._get_upgrade() is not None and self.parser.should_upgrade():
            self._declined = self._head_without_upgrade()
        else:
            super().on_headers_complete()
            writer = _BodyWriter(self.cycle)
            self._writers.append(writer)
            take = partial(_take_body, self.cycle)
            self.scope["extensions"] = {BODY_WRITER: {"writer": writer}, WHOLE_BODY: {"take": take}}

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_message = False
        self._stop_timer()
        if not self._declined:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._writers:
            writer = self._writers.popleft()
            writer.end()
            writer.close()
        super().on_response_complete()
        if self._is_in_message and not self._is_in_head and not self.transport.is_closing():
            self._close_after(self._limits.linger_s)

    def send_400_response(self, msg: str) -> None:
        """431 where it is the size; nothing in the middle of another answer, whose client would take it for a part."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
        elif self._is_too_large:
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n")
            self.transport.write(b"connection: close\r\n\r\n")
            self.transport.close()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        for writer in self._writers:
            writer.is_full = True
        self._watch_reader()

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        for writer in self._writers:
            writer.is_full = False
        super().resume_writing()

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() in (b"close", b"keep-alive"))
            if name != b"upgrade" and (value or name != b"connection"):
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    @property
    def _is_idle(self) -> bool:
        """Between two requests."""
        return not self._is_in_message and self.cycle is not None and self.cycle.response_complete

    def _watch_reader(self) -> None:
        self._stop_unread_timer()
        self._num_unread_bytes = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(self._limits.unread_timeout_s, self._judge_reader)

    def _judge_reader(self) -> None:
        if self._num_unread_bytes - self.transport.get_write_buffer_size() >= LEAST_READ_BYTES:
            self._watch_reader()
            return
        logger.info("A client that did not read its answer for %g s is dropped", self._limits.unread_timeout_s)
        self.transport.abort()

    def _close_after(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


def _take_body(cycle: RequestResponseCycle) -> bytes | None:
    """A ``TakeBody``; what is received afterwards is as it were empty."""
    if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue:
        return None
    data, cycle.body = bytes(cycle.body), bytearray()
    cycle.flow.resume_reading()  # uvicorn pauses behind a long body until it is received
    return data


def _plain_socket(transport: asyncio.Transport) -> int:
    """The file of a connection that carries bytes as they are; -1 where there is none."""
    connection = transport.get_extra_info("socket")
    return -1 if connection is None or transport.get_extra_info("sslcontext") else connection.fileno()


def allow_open_files() -> None:
    """Let this process have ``MOST_CONNECTIONS``, as far as the system does; shells often allow 1024 files."""
    if sys.platform == "win32":
        return
    import resource

    wanted = MOST_CONNECTIONS + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard):
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _connections_allowed() -> int:
    """As many as this process may open files, less what it needs itself."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, soft - RESERVED_FILES))
