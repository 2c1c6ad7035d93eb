"""The last piece of a stream's way: chunks of a body into a connection."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

__all__ = ["Outlet"]


class _Outlet:
    """The body of one response in chunks. Where the native module is, its class takes this one's place."""

    def __init__(self, socket: int, write: Callable[[bytes], object], num_waiting: Callable[[], int]) -> None:
        """``socket``: the file of a connection that carries bytes as they are, or -1.

        ``write`` and ``num_waiting``: the transport's, the latter of bytes that it has not sent.
        """
        self._write = write
        self._pieces: list[bytes] = []
        self._is_closed = False
        self.is_full = False
        """The client does not read as fast; the connection says it here."""
        self.written_time = time.monotonic()
        """When something was written last, or of the beginning."""

    def write(self, body: bytes) -> None:
        """Never waits. Nothing happens when the client has left."""
        self.add(body)
        self.flush()

    def add(self, body: bytes) -> None:
        """As ``write``, but it goes with what is written next."""
        if body:  # an empty chunk would end the response
            self._pieces.append(b"%x\r\n%b\r\n" % (len(body), body))

    def hold(self, data: bytes) -> None:
        """As ``add``, with data that is no part of the body: the head or the end."""
        self._pieces.append(data)

    def flush(self) -> None:
        """Write what was added."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        if data and not self._is_closed:
            self.written_time = time.monotonic()
            self._write(data)

    def close(self) -> None:
        """The connection is gone."""
        self._is_closed = True
        self.is_full = False


if TYPE_CHECKING:
    from segue.server.native._lane import Outlet
else:
    try:
        from segue.server.native._lane import Outlet
    except ImportError:  # installed without a compiler
        Outlet = _Outlet
