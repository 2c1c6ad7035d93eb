"""uvicorn's HTTP connection, less patient: heads that are too large or too slow end it."""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["LimitedProtocol"]


class LimitedProtocol(HttpToolsProtocol):
    """A request's head is its line and headers. httptools holds an unfinished one in memory whatever its size."""

    max_head_bytes: ClassVar[int] = 64 << 10
    head_timeout_s: ClassVar[float] = 30.0
    """From the connection, or a later request's first byte, to the head's end. Between requests uvicorn's own
    ``timeout_keep_alive`` counts."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_in_head = True
        self._num_head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_timeout_s, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            self._num_head_bytes += len(data)
            if self._num_head_bytes > self.max_head_bytes:
                self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._num_head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_timer()
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if num_bytes > self.max_head_bytes:
            # httptools makes a parser error of it, which uvicorn answers by send_400_response.
            self._num_head_bytes = num_bytes
            raise ValueError("Request head too large.")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """431 where the head is too large."""
        if self._num_head_bytes <= self.max_head_bytes:
            super().send_400_response(msg)
            return
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        self.transport.write(head)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
