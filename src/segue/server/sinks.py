"""Where events go: what lies between the one that writes them and the connection."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from starlette.types import Scope, Send

from segue.server.generation import all_or_none

__all__ = ["BODY_WRITER", "BodyWriter", "EventSink", "Events", "merge", "response_sink"]

BODY_WRITER = "segue.body_writer"
"""The ASGI extension, of which ``writer`` is a ``BodyWriter``."""


class BodyWriter(Protocol):
    """What a server may offer in ``scope["extensions"]``: a chunk more of the response, without a coroutine for it.

    It is as ``send`` with ``more_body`` and never waits. To be used after the response's start and before its end.
    """

    written_time: float
    """``time.monotonic()`` when something was written last, or of the beginning."""

    def write(self, body: bytes) -> None:
        """Nothing happens when the client has left."""

    @property
    def is_full(self) -> bool:
        """The client does not read as fast; what is written now is kept in memory."""

    async def drain(self) -> None:
        """Wait until it is not full, or the client has left."""


class EventSink(Protocol):
    """Where the events of one response go."""

    @property
    def is_full(self) -> bool:
        """``drain`` is to be awaited before more is written."""

    def write(self, events: bytes) -> None:
        """Send what is not empty, later if need be."""

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


def response_sink(scope: Scope, send: Send) -> BodyWriter:
    """For a response that has started; the server's own way to the connection, where it offers one."""
    extension = scope.get("extensions", {}).get(BODY_WRITER)
    return _SendingSink(send) if extension is None else extension["writer"]


class _SendingSink(_Gathering):
    """For any ASGI server."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send
        self.written_time = time.monotonic()

    async def drain(self) -> None:
        if self.is_full:
            await self._send({"type": "http.response.body", "body": self._take(), "more_body": True})
            self.written_time = time.monotonic()
