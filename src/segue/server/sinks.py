"""Where events go: what lies between the one that writes them and the connection."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from segue.server.concurrency import all_or_none

__all__ = ["BODY_WRITER", "BodyWriter", "EventSink", "Events", "merge", "response_sink", "until_client_leaves"]

BODY_WRITER = "segue.body_writer"
"""The ASGI extension, of which ``writer`` is a ``BodyWriter``."""


class BodyWriter(Protocol):
    """What a server may offer in ``scope["extensions"]``: a chunk more of the response, without a coroutine for it.

    It is as ``send`` with ``more_body`` and never waits. To be used after the response's start and before its end.
    """

    written_time: float
    """``time.monotonic()`` when something was written last, or of the beginning."""

    def begin(self, leave: Callable[[], None]) -> None:
        """Before the response's start, which then goes with the first body, as its end does with the last.

        ``leave`` is called when the client leaves, until ``end``.
        """

    def write(self, body: bytes) -> None:
        """Nothing happens when the client has left."""

    def add(self, body: bytes) -> None:
        """As ``write``; it may wait for what follows at once."""

    def flush(self) -> None:
        """Write what waits for others."""

    @property
    def is_full(self) -> bool:
        """The client does not read as fast; what is written now is kept in memory."""

    async def drain(self) -> None:
        """Wait until it is not full, or the client has left."""

    def end(self) -> None:
        """The response has ended, or nobody writes to it any more."""


class EventSink(Protocol):
    """Where the events of one response go."""

    @property
    def is_full(self) -> bool:
        """``drain`` is to be awaited before more is written."""

    def write(self, events: bytes) -> None:
        """Send what is not empty, later if need be."""

    def add(self, events: bytes) -> None:
        """As ``write``; it may wait for what follows at once."""

    async def drain(self) -> None:
        """Wait until it is not full."""


Events = Callable[[EventSink], Coroutine[Any, Any, None]]
"""Writes all events of a response."""


def merge(streams: Sequence[Events]) -> Events:
    """Everything from ``streams`` as it comes; what came since the last time in one piece."""

    async def write_all(sink: EventSink) -> None:
        gathered = _GatheredSink(sink)
        await all_or_none([stream(gathered) for stream in streams])
        await gathered.drain()

    return write_all


class _Gathering:
    """A sink that keeps what is written until its ``drain`` takes it; it is full as long as it has something."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    @property
    def is_full(self) -> bool:
        return len(self._pieces) > 0

    def write(self, events: bytes) -> None:
        self._pieces.append(events)

    add = write

    def _take(self) -> bytes:
        events = b"".join(self._pieces)
        self._pieces.clear()
        return events


class _GatheredSink(_Gathering):
    """What several streams write before one of them comes to ``drain`` goes on as one piece."""

    def __init__(self, sink: EventSink) -> None:
        super().__init__()
        self._sink = sink
        self._turn = asyncio.Lock()

    async def drain(self) -> None:
        async with self._turn:
            if self.is_full:
                self._sink.write(self._take())
            await self._sink.drain()


def response_sink(scope: Scope, receive: Receive, send: Send) -> BodyWriter:
    """For one response; the server's own way to the connection, where it offers one."""
    extension = scope.get("extensions", {}).get(BODY_WRITER)
    return _SendingSink(receive, send) if extension is None else extension["writer"]


class _SendingSink(_Gathering):
    """For any ASGI server."""

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self._leaving: asyncio.Future[None] | None = None
        self.written_time = time.monotonic()

    def begin(self, leave: Callable[[], None]) -> None:
        async def wait() -> None:
            await until_client_leaves(self._receive)
            leave()

        self._leaving = asyncio.ensure_future(wait())

    def flush(self) -> None:
        """Only ``drain`` can."""

    async def drain(self) -> None:
        if self.is_full:
            await self._send({"type": "http.response.body", "body": self._take(), "more_body": True})
            self.written_time = time.monotonic()

    def end(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()


async def until_client_leaves(receive: Receive) -> None:
    """Of a request whose body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
