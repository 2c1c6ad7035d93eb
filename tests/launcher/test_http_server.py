"""Connections that send too much, or too slowly."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from segue.core.config import ServeConfig
from segue.launcher.http_server import HTTPServer
from segue.launcher.limited_protocol import ConnectionLimits, allow_open_files
from segue.server.bodies import WHOLE_BODY
from segue.server.sinks import BODY_WRITER, Events, EventSink
from segue.server.stream import EventStream

OK = PlainTextResponse("ok")
GOOD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


STRICT = ConnectionLimits(max_head_bytes=4096, head_timeout_s=0.05)
PATIENT = ConnectionLimits(max_head_bytes=4096)


@asynccontextmanager
async def serving(limits: ConnectionLimits, app: ASGIApp = OK) -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HTTPServer(app, listener, has_lifespan=False, limits=limits)
    task = asyncio.create_task(server.run())
    await server.started.wait()
    yield listener.getsockname()
    server.force_stop()
    await task


async def answer(address: tuple[str, int], *pieces: bytes, ends: bool = False) -> bytes:
    """What comes back until the server closes, or, with ``ends``, for the pieces."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(20):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if ends:
                return await reader.readuntil(b"ok")
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 5000 + b"\r\n\r\n",),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",),
        (b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 5000 + b"\r\n",),
        # Never ends: what is kept of it is bounded.
        (b"GET / HTTP/1.1\r\nx: ", b"a" * 3000, b"a" * 3000),
    ],
)
async def test_H3_a_head_that_is_too_large(pieces: tuple[bytes, ...]) -> None:
    async with serving(PATIENT) as address:
        assert (await answer(address, *pieces)).startswith(b"HTTP/1.1 431 ")
        assert b"200 OK" in await answer(address, GOOD, ends=True)


@pytest.mark.parametrize("piece", [b"", b"GET / HTTP/1.1\r\nhost"])
async def test_H3_a_head_that_does_not_come_ends_the_connection(piece: bytes) -> None:
    async with serving(STRICT) as address:
        assert await answer(address, piece) == b""


async def test_a_long_body_is_no_head() -> None:
    post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n"
    async with serving(PATIENT) as address:
        assert b"200 OK" in await answer(address, post, b"a" * 4500, b"a" * 4500, ends=True)


@pytest.mark.parametrize("size", [0, 1, 1000])
async def test_a_body_that_is_there_is_taken_at_once(size: int) -> None:
    """And read from the application's side it is empty then; the connection goes on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        take = scope["extensions"][WHOLE_BODY]["take"]
        data = take()
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        assert take() == b""
        await PlainTextResponse(f"{len(data)} ok")(scope, receive, send)

    post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (size, b"a" * size)
    last = post.replace(b"host: a", b"host: a\r\nconnection: close")
    async with serving(PATIENT, app) as address:
        assert (await answer(address, post, last)).count(b"\r\n\r\n%d ok" % size) == 2


@pytest.mark.parametrize("size", [70_000, 200_000])
async def test_a_long_body_is_taken_or_received(size: int) -> None:
    """The connection reads no more of it than 64 KiB until somebody does either, and goes on then."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = scope["extensions"][WHOLE_BODY]["take"]()
        if body is None:
            body = await Request(scope, receive).body()
        await PlainTextResponse(f"{len(body)} ok")(scope, receive, send)

    post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (size, b"a" * size)
    async with serving(PATIENT, app) as address:
        reader, writer = await asyncio.open_connection(*address)
        async with asyncio.timeout(60):
            for _ in range(10):
                writer.write(post)
                assert (await reader.readuntil(b"ok")).endswith(b"\r\n\r\n%d ok" % size)
        writer.close()


@pytest.mark.parametrize("expects", [b"", b"expect: 100-continue\r\n"])
async def test_a_body_that_is_not_there_yet_is_received(expects: bytes) -> None:
    taken: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        taken.put_nowait(scope["extensions"][WHOLE_BODY]["take"]())
        body = await Request(scope, receive).body()
        await PlainTextResponse(f"{body.decode()} ok")(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nhost: a\r\n%bcontent-length: 4\r\n\r\n" % expects
    async with serving(PATIENT, app) as address:
        reader, writer = await asyncio.open_connection(*address)
        async with asyncio.timeout(60):
            writer.write(head)
            assert await taken.get() is None
            writer.write(b"body")
            assert (await reader.readuntil(b"ok")).endswith(b"body ok")
        writer.close()


async def test_trailers_are_no_headers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        await PlainTextResponse(f"{body.decode()} {request.headers.keys()} ok")(scope, receive, send)

    chunked = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nauthorization: y\r\n\r\n"
    async with serving(PATIENT, app) as address:
        assert b"x ['host', 'transfer-encoding'] ok" in await answer(address, chunked, ends=True)


@pytest.mark.parametrize("more", [b"", b"\r\n"])
async def test_a_connection_between_requests_ends(more: bytes) -> None:
    """A blank line, which a request may begin with, does not keep it."""
    async with serving(ConnectionLimits(keep_alive_s=0.5)) as address:
        reader, writer = await asyncio.open_connection(*address)
        async with asyncio.timeout(20):
            writer.write(GOOD)
            await reader.readuntil(b"ok")
            writer.write(more)
            assert await reader.read() == b""
        writer.close()


async def test_what_is_no_http_is_400() -> None:
    async with serving(PATIENT) as address:
        assert (await answer(address, b"what is this\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(("soft", "num_connections"), [(1024, 1024 - 128), (100, 1)])
def test_connections_are_as_many_as_open_files_allow(
    monkeypatch: pytest.MonkeyPatch, soft: int, num_connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, 4096))
    assert ConnectionLimits.of(ServeConfig()).max_connections == num_connections
    assert ConnectionLimits.of(ServeConfig(max_connections=7)).max_connections == 7


@pytest.mark.parametrize(
    ("limits", "raised"),
    [((1024, 4096), [(4096, 4096)]), ((1024, 10**6), [(65_664, 10**6)]), ((10**6, 10**6), []), ((-1, -1), [])],
)
def test_as_many_open_files_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: list[tuple[int, int]]
) -> None:
    done: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, given: done.append(given))
    allow_open_files()
    assert done == raised


def test_client_timeout() -> None:
    limits = ConnectionLimits.of(ServeConfig(client_timeout=7))
    assert (limits.head_timeout_s, limits.unread_timeout_s) == (7, 7)


PIECE = b"data: " + b"x" * 10_000 + b"\n\n"


async def stream_to(address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_events_wait_for_a_client_that_does_not_read() -> None:
    is_full = asyncio.Event()
    num_written = 0

    async def events(sink: EventSink) -> None:
        nonlocal num_written
        while not sink.is_full:
            sink.write(PIECE)
            num_written += 1
        is_full.set()
        await sink.drain()
        sink.write(b"data: the end\n\n")

    app = EventStream(events, {}, last=b"data: [DONE]\n\n")
    async with serving(ConnectionLimits(), app) as address, asyncio.timeout(60):
        reader, writer = await stream_to(address)
        await is_full.wait()
        pieces = []
        while size := int((await reader.readline()), 16):
            pieces.append(await reader.readexactly(size))
            await reader.readline()
        writer.close()
    assert pieces == [PIECE] * num_written + [b"data: the end\n\n", b"data: [DONE]\n\n"]


async def test_events_of_a_client_that_left_while_it_did_not_read_are_cancelled() -> None:
    is_full, is_cancelled = asyncio.Event(), asyncio.Event()

    async def events(sink: EventSink) -> None:
        while not sink.is_full:
            sink.write(PIECE)
        is_full.set()
        try:
            await asyncio.Event().wait()
        finally:
            sink.write(b"nobody reads this")
            is_cancelled.set()

    async with serving(ConnectionLimits(), EventStream(events, {})) as address, asyncio.timeout(60):
        _, writer = await stream_to(address)
        await is_full.wait()
        writer.transport.abort()
        await is_cancelled.wait()


async def pieces_of(events: Events, goes_on: asyncio.Event) -> list[bytes]:
    """What a stream brings, as it is sent: a small piece that is sent at once is received at once.

    ``goes_on`` is set when the first one is there.
    """
    loop = asyncio.get_running_loop()
    pieces = [b""]
    async with serving(PATIENT, EventStream(events, {})) as address, asyncio.timeout(60):
        with socket.create_connection(address) as connection:
            connection.setblocking(False)
            await loop.sock_sendall(connection, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
            while b"0\r\n\r\n" not in pieces[-1]:
                pieces.append(await loop.sock_recv(connection, 1 << 16))
                assert pieces[-1], "the server hung up"
                goes_on.set()
    return pieces[1:]


async def test_the_head_goes_with_the_first_event_and_the_end_with_the_last() -> None:
    goes_on = asyncio.Event()

    async def events(sink: EventSink) -> None:
        sink.write(b"data: 1\n\n")
        await goes_on.wait()
        sink.add(b"data: 2\n\n")

    first, last = await pieces_of(events, goes_on)
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n")
    assert last == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


async def test_a_head_does_not_wait_for_an_event_that_is_slow_to_come() -> None:
    goes_on = asyncio.Event()

    async def events(sink: EventSink) -> None:
        await goes_on.wait()
        sink.write(b"data: 1\n\n")

    pieces = await pieces_of(events, goes_on)
    assert pieces[0].endswith(b"\r\n\r\n")
    assert b"data" not in pieces[0]
    assert b"".join(pieces[1:]) == b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"


async def test_the_head_of_a_stream_that_fails_is_sent() -> None:
    async def events(sink: EventSink) -> None:
        raise RuntimeError

    async with serving(PATIENT, EventStream(events, {})) as address:
        assert (await answer(address, GOOD)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_what_is_written_after_the_end_of_a_response_is_no_part_of_the_next() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        writer = scope["extensions"][BODY_WRITER]["writer"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        writer.write(b"ok")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        writer.write(b"late")

    async with serving(PATIENT, app) as address:
        last = GOOD.replace(b"host: a", b"host: a\r\nconnection: close")
        replies = await answer(address, GOOD, GOOD, last)
    assert [reply.split(b"\r\n\r\n", 1)[1] for reply in replies.split(b"HTTP/1.1 200 OK")[1:]] == [
        b"2\r\nok\r\n0\r\n\r\n"
    ] * 3


async def test_a_client_that_does_not_read_for_too_long_is_dropped() -> None:
    is_cancelled = asyncio.Event()

    async def events(sink: EventSink) -> None:
        try:
            while True:
                sink.write(PIECE)
                await sink.drain()
                await asyncio.sleep(0)
        finally:
            is_cancelled.set()

    limits = ConnectionLimits(unread_timeout_s=0.01)
    async with serving(limits, EventStream(events, {})) as address, asyncio.timeout(60):
        _, writer = await stream_to(address)
        await is_cancelled.wait()
        writer.transport.abort()
