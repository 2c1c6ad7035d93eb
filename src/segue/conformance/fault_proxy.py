"""A proxy on the loopback between a client and a live server: it watches, holds back, and breaks things on demand.

    async with FaultProxy("http://127.0.0.1:3000") as proxy:
        proxy.inject(Answer(429, headers={"retry-after": "1"}))
        ...                                      # one request to proxy.url is answered so, the next gets through
        assert [seen.key for seen in proxy.seen] == ["key-1", "key-1"]

Everything that is not injected is the server's own answer, byte for byte.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from segue.conformance.faults import Answer, CutStream, Disconnect, ErrorEvent, Fault
from segue.conformance.http_messages import (
    HOP_BY_HOP,
    LAST_CHUNK,
    BadRequest,
    RequestMessage,
    chunk,
    read_request,
    response_head,
)

__all__ = ["FaultProxy", "Seen"]

_TIMEOUT = httpx.Timeout(connect=10.0, read=600.0, write=60.0, pool=None)
_Break = ConnectionAbortedError


@dataclass(slots=True)
class Seen:
    """A request that arrived, and what became of it."""

    number: int
    """In the order of arrival, from 0."""
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    body: Any = field(repr=False)
    """The JSON; None if it has none."""
    arrived_at: float
    """Seconds on the proxy's clock."""
    status: int | None = None
    """Of the answer, once its head has been sent."""
    is_injected: bool = False
    """The server did not see it."""
    num_generated: int | None = None
    """Tokens, where the server counts them in its headers."""

    @property
    def key(self) -> str | None:
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" else None

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id")


class FaultProxy:
    """Listens on a free port of the loopback while it is entered.

    Args:
        upstream: Root URL of the server, with or without a path.
        upstream_key: Sent to the server, whatever key a client sent.
        passes_keys: Without ``upstream_key``: pass on what clients send. False: no key reaches the server.
    """

    def __init__(
        self,
        upstream: str,
        *,
        upstream_key: str | None = None,
        passes_keys: bool = False,
        patience_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seen: list[Seen] = []
        self.max_at_once = 0
        self.clock = clock
        self._upstream = httpx.URL(upstream)
        self._upstream_key = upstream_key
        self._passes_keys = passes_keys
        self._patience_s = patience_s
        self._faults: deque[Fault] = deque()
        self._at_once = 0
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._http: httpx.AsyncClient | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "the proxy is not running"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def generations(self) -> list[Seen]:
        """Without the questions about the server itself (health, info …)."""
        return [seen for seen in self.seen if seen.method == "POST"]

    @property
    def num_at_once(self) -> int:
        """POST requests that have arrived and are not answered to the end."""
        return self._at_once

    def inject(self, *faults: Fault) -> None:
        """Each strikes one POST request, in the order of their arrival; after the last all is well again."""
        self._faults.extend(faults)

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Inside, POST requests arrive but are not passed on, until the function that this gives is called."""
        self._open.clear()
        try:
            yield self._open.set
        finally:
            self._open.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until requests that arrive or end make ``condition`` true, at most ``patience_s``. Raises TimeoutError."""
        async with asyncio.timeout(self._patience_s), self._changed:
            await self._changed.wait_for(condition)

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, limits=httpx.Limits(max_connections=None))
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._http is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._http.aclose()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            request = await read_request(reader)
            if request is not None:
                await self._exchange(request, reader, writer)
        except BadRequest as error:
            writer.write(_whole(400, {"error": str(error)}, {}))
        except (OSError, httpx.StreamError):
            writer.transport.abort()
        except asyncio.CancelledError:  # the proxy is closing
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _exchange(
        self, request: RequestMessage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        seen = Seen(len(self.seen), request.method, request.target, request.headers, request.json, self.clock())
        is_post = request.method == "POST"
        self.seen.append(seen)
        fault = self._faults.popleft() if is_post and self._faults else None
        self._at_once += is_post
        self.max_at_once = max(self.max_at_once, self._at_once)
        await self._tell()
        answering = asyncio.create_task(self._answer(request, seen, fault, writer))
        # Nothing more may come from the client: one that goes away must not keep the server busy.
        leaving = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            else:
                writer.transport.abort()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
            self._at_once -= is_post
            await self._tell()

    async def _answer(
        self, request: RequestMessage, seen: Seen, fault: Fault | None, writer: asyncio.StreamWriter
    ) -> None:
        if request.method == "POST":
            await self._open.wait()
        match fault:
            case Answer():
                seen.status, seen.is_injected = fault.status, True
                writer.write(_whole(fault.status, fault.body, fault.headers))
            case Disconnect():
                seen.is_injected = True
                writer.transport.abort()
            case _:
                await self._pass_on(request, seen, fault, writer)
        await writer.drain()

    async def _pass_on(
        self, request: RequestMessage, seen: Seen, fault: CutStream | ErrorEvent | None, writer: asyncio.StreamWriter
    ) -> None:
        assert self._http is not None
        upstream = self._http.build_request(
            request.method, self._target(request.target), headers=self._headers(request), content=request.content
        )
        try:
            response = await self._http.send(upstream, stream=True)
        except httpx.TransportError as error:
            seen.status = 502
            writer.write(_whole(502, {"error": f"the server cannot be reached: {type(error).__name__}"}, {}))
            return
        async with contextlib.aclosing(response):
            seen.status = response.status_code
            counted = response.headers.get("x-generated-tokens", "")
            seen.num_generated = int(counted) if counted.isdecimal() else None
            headers = [(name, value) for name, value in response.headers.multi_items() if name not in HOP_BY_HOP]
            is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
            if not is_stream:
                content = b"".join([part async for part in response.aiter_raw()])
                writer.write(response_head(response.status_code, headers, len(content)) + content)
                return
            writer.write(response_head(response.status_code, headers, None))
            async for part in _with_fault(response.aiter_raw(), fault):
                writer.write(chunk(part))
                await writer.drain()
            writer.write(LAST_CHUNK)

    def _target(self, target: str) -> httpx.URL:
        path = self._upstream.raw_path.rstrip(b"/") + target.encode()
        return self._upstream.copy_with(raw_path=path.removesuffix(b"/") or b"/")

    def _headers(self, request: RequestMessage) -> dict[str, str]:
        dropped = HOP_BY_HOP | {"host", "accept-encoding"}
        headers = {name: value for name, value in request.headers.items() if name not in dropped}
        if self._upstream_key is not None:
            headers["authorization"] = f"Bearer {self._upstream_key}"
        elif not self._passes_keys:
            headers.pop("authorization", None)
        return {**headers, "accept-encoding": "identity"}

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _with_fault(parts: AsyncIterator[bytes], fault: CutStream | ErrorEvent | None) -> AsyncIterator[bytes]:
    """The stream as it comes, or up to the event after which the fault strikes. Raises _Break where it is cut."""
    if fault is None:
        async for part in parts:
            yield part
        return
    num_events = 0
    async for event in _events(parts):
        if num_events == fault.after_events:
            break
        yield event
        num_events += 1
    if isinstance(fault, CutStream):
        raise _Break
    error = json.dumps({"error": fault.error, "error_type": fault.error_type})
    yield f"data:{error}\n\n".encode()


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream cut between events."""
    waiting = b""
    async for part in parts:
        *events, waiting = (waiting + part).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            yield event + b"\n\n"
    if waiting:
        yield waiting


def _whole(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    content = json.dumps(body).encode()
    return response_head(status, [("content-type", "application/json"), *headers.items()], len(content)) + content
