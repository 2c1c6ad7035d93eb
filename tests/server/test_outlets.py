"""Chunks of a response on their way into a connection, by the native class and by Python's."""

import socket
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from segue.server.outlets import Outlet, _Outlet

CLASSES = [_Outlet] if Outlet is _Outlet else [_Outlet, Outlet]
native = pytest.mark.skipif(Outlet is _Outlet, reason="built without a compiler")


class Transport:
    """Keeps what it is to send."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.num_waiting = 0
        self.num_calls = 0

    def write(self, data: bytes) -> None:
        self.num_calls += 1
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        self.num_calls += 1
        return self.num_waiting


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, which holds a few kilobytes, and the client's; neither waits."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def received(connection: socket.socket) -> bytes:
    data = b""
    try:
        while piece := connection.recv(1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data


Make = Callable[..., Any]


@pytest.mark.parametrize("make", CLASSES)
def test_a_body_goes_out_in_chunks(make: Make, transport: Transport) -> None:
    outlet = make(-1, transport.write, transport.get_write_buffer_size)
    outlet.write(b"hello")
    outlet.write(b"\0" * 300)
    assert transport.written == [chunk(b"hello"), chunk(b"\0" * 300)]


@pytest.mark.parametrize("make", CLASSES)
def test_what_is_added_and_held_goes_with_what_is_written_next(make: Make, transport: Transport) -> None:
    outlet = make(-1, transport.write, transport.get_write_buffer_size)
    outlet.hold(b"head")
    outlet.add(b"")
    outlet.write(b"hello")
    outlet.add(b"last")
    outlet.hold(b"end")
    assert transport.written[1:] == []
    outlet.flush()
    outlet.flush()
    assert b"".join(transport.written) == b"head" + chunk(b"hello") + chunk(b"last") + b"end"
    assert len(transport.written) == 2
    outlet.add(b"never")
    outlet.close()
    outlet.flush()
    assert len(transport.written) == 2


@pytest.mark.parametrize("make", CLASSES)
def test_an_empty_body_writes_nothing(make: Make, transport: Transport) -> None:
    """An empty chunk is the end of a response."""
    outlet = make(-1, transport.write, transport.get_write_buffer_size)
    before = outlet.written_time
    outlet.write(b"")
    assert (transport.num_calls, outlet.written_time) == (0, before)


@pytest.mark.parametrize("make", CLASSES)
def test_the_time_is_of_the_monotonic_clock(make: Make, transport: Transport) -> None:
    before = time.monotonic()
    outlet = make(-1, transport.write, transport.get_write_buffer_size)
    between = time.monotonic()
    assert before <= outlet.written_time <= between
    outlet.write(b"a")
    assert between <= outlet.written_time <= time.monotonic()
    outlet.written_time = 3.0
    assert outlet.written_time == 3.0


@pytest.mark.parametrize("make", CLASSES)
def test_nothing_is_touched_after_the_end(make: Make, transport: Transport, pair: Any) -> None:
    """The file's number may be another connection's by then."""
    ours, theirs = pair
    outlet = make(ours.fileno(), transport.write, transport.get_write_buffer_size)
    outlet.is_full = True
    outlet.close()
    outlet.write(b"hello")
    outlet.close()
    assert (transport.num_calls, received(theirs), outlet.is_full) == (0, b"", False)


@pytest.mark.parametrize("make", CLASSES)
def test_a_connection_that_ends_while_it_is_written_to(make: Make) -> None:
    def write(data: bytes) -> None:
        written.append(data)
        outlet.close()

    written: list[bytes] = []
    outlet = make(-1, write, lambda: 0)
    del write
    outlet.write(b"a")
    outlet.write(b"b")
    assert written == [chunk(b"a")]


@native
def test_the_socket_is_written_to_while_nothing_waits(transport: Transport, pair: Any) -> None:
    ours, theirs = pair
    outlet = Outlet(ours.fileno(), transport.write, transport.get_write_buffer_size)
    outlet.write(b"hello")
    outlet.write(b"more")
    assert (received(theirs), transport.written) == (chunk(b"hello") + chunk(b"more"), [])


@native
def test_what_the_socket_does_not_take_is_the_transports(transport: Transport, pair: Any) -> None:
    ours, theirs = pair
    outlet = Outlet(ours.fileno(), transport.write, transport.get_write_buffer_size)
    bodies = [bytes([65 + number]) * 50_000 for number in range(4)]
    outlet.write(bodies[0])
    assert 0 < len(transport.written[0]) < len(bodies[0])
    outlet.write(bodies[1])  # the socket is full, and says so
    assert transport.written[1] == chunk(bodies[1])
    sent = received(theirs)
    transport.num_waiting = 1
    outlet.write(bodies[2])  # there is room again, but others go before
    assert (received(theirs), transport.written[2]) == (b"", chunk(bodies[2]))
    assert sent + b"".join(transport.written) == b"".join(map(chunk, bodies[:3]))
    transport.num_waiting = 0
    outlet.write(b"last")
    assert received(theirs) == chunk(b"last")


@native
def test_a_client_that_is_gone_is_the_transports_to_notice(transport: Transport, pair: Any) -> None:
    ours, theirs = pair
    theirs.close()
    Outlet(ours.fileno(), transport.write, transport.get_write_buffer_size).write(b"hello")
    assert transport.written == [chunk(b"hello")]


@native
def test_the_end_lets_the_connection_go() -> None:
    """A connection has its outlets, and each has the connection: a circle that no collector of garbage sees."""
    transport = Transport()
    connection = weakref.ref(transport)
    outlet = Outlet(-1, transport.write, transport.get_write_buffer_size)
    del transport
    assert connection() is not None
    outlet.close()
    assert connection() is None
