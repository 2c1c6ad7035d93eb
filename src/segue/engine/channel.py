"""The socket between servers and engine: frames, each behind its length, on a Unix or TCP stream.

A frame wakes the process that it is for, and nobody else. (ZeroMQ has a thread for its sockets on either side, which
both must run before a token gets through: with the engine's threads on all cores, each of its steps waited for that.)
"""

import contextlib
import os
import select
import selectors
import socket as sockets
import stat
import struct
from pathlib import Path
from typing import Any, Protocol

__all__ = ["FrameError", "FrameReader", "Frames", "ListeningEngine", "Peer", "framed", "split_endpoint"]

_LENGTH = struct.Struct("<I")
_MAX_FRAME_BYTES = 1 << 28
_BACKLOG = 128
_READ_BYTES = 1 << 18
_SEND_BUFFER_BYTES = 1 << 20
"""A step of a thousand sequences is 40 kB."""


class FrameError(ValueError):
    """The stream cannot be what this module wrote."""


def framed(frame: bytes | bytearray) -> bytes:
    """``frame`` as it goes into the stream."""
    return _LENGTH.pack(len(frame)) + frame


class Frames(Protocol):
    """What becomes of the bytes of one stream."""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that end in ``data``, and those that were held. Raises ``ValueError``."""

    def release(self) -> list[bytes]:
        """The frames that ``feed`` held because nobody waits for them."""


class FrameReader:
    """The frames of one stream, none of which is held."""

    def __init__(self) -> None:
        self._rest = bytearray()
        """What came of the next frame, its length included."""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that end in ``data``. Raises ``FrameError``."""
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        frames = []
        start, size = 0, len(source)
        while size - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(source, start)
            if length > _MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes")
            end = start + _LENGTH.size + length
            if end > size:
                break
            frames.append(bytes(source[start + _LENGTH.size : end]))
            start = end
        if source is data:
            self._rest += data[start:]
        else:
            del self._rest[:start]
        return frames

    def release(self) -> list[bytes]:
        return []


def split_endpoint(endpoint: str) -> str | tuple[str, int]:
    """The path of ``ipc://path``; host and port of ``tcp://host:port``. Raises ``ValueError`` for anything else."""
    scheme, _, place = endpoint.partition("://")
    if scheme == "ipc" and place:
        return place
    host, _, port = place.rpartition(":")
    if scheme == "tcp" and host and port.isdecimal():
        return host.strip("[]"), int(port)
    raise ValueError(f"not an endpoint: {endpoint!r}")


class Peer:
    """A server, as the engine has it."""

    def __init__(self, connection: sockets.socket) -> None:
        self.connection = connection
        self.frames = FrameReader()
        self.unsent = bytearray()
        """What the kernel did not take yet: an output is never dropped."""


class ListeningEngine:
    """The engine's end; used by one thread, which waits in ``poll``."""

    def __init__(self, endpoint: str) -> None:
        """Raises ``OSError`` where nobody can listen. A socket that an engine left behind at a path is replaced."""
        self._listener = _listen(endpoint)
        address = self._listener.getsockname()
        self._path = address if isinstance(address, str) else None
        self._inode = None if self._path is None else os.stat(self._path).st_ino
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: set[Peer] = set()
        self._news = _poll_of(self._selector)

    def watch(self, file: int | sockets.socket) -> None:
        """Have ``poll`` return when ``file`` can be read."""
        self._selector.register(file, selectors.EVENT_READ, file)

    @property
    def news_file(self) -> int:
        """The number of a file that can be read when ``poll`` would find something; -1 where there is none."""
        return -1 if self._news is None else self._selector.fileno()

    @property
    def has_news(self) -> bool:
        """Whether ``poll`` would find something now; for a loop that has other work, at a tenth of its cost."""
        return self._news is None or len(self._news.poll(0)) > 0

    def poll(self, timeout_s: float | None) -> tuple[list[tuple[Peer, bytes]], list[Peer], list[Any]]:
        """Wait at most so long (None: for ever) for news: frames, servers that left, and watched files."""
        frames: list[tuple[Peer, bytes]] = []
        left: list[Peer] = []
        files: list[Any] = []
        for key, events in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, Peer):
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if events & selectors.EVENT_READ and not self._read(key.data, frames):
                    left.append(key.data)
            else:
                files.append(key.data)
        return frames, left, files

    def send(self, peer: Peer, *frames: bytes | bytearray) -> None:
        """In one piece; never waits. Of a peer that is gone ``poll`` will tell."""
        if peer not in self._peers:
            return
        data = b"".join([part for frame in frames for part in (_LENGTH.pack(len(frame)), frame)])
        if peer.unsent:
            peer.unsent += data
            self._flush(peer)
            return
        try:
            num_sent = peer.connection.send(data)
        except BlockingIOError:
            num_sent = 0
        except OSError:  # it has left: reading will say so
            return
        if num_sent < len(data):
            peer.unsent += data[num_sent:]
            self._selector.modify(peer.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)

    def close(self) -> None:
        """Hang up on all."""
        for peer in list(self._peers):
            self._drop(peer)
        self._selector.close()
        self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:  # else another engine has replaced it
                    os.unlink(self._path)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is gone already, or there are no files left
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            if connection.family in (sockets.AF_INET, sockets.AF_INET6):
                connection.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
            connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, _SEND_BUFFER_BYTES)
            peer = Peer(connection)
            self._peers.add(peer)
            self._selector.register(connection, selectors.EVENT_READ, peer)

    def _read(self, peer: Peer, frames: list[tuple[Peer, bytes]]) -> bool:
        """Whether the peer is still there."""
        try:
            while True:
                data = peer.connection.recv(_READ_BYTES)
                frames += [(peer, frame) for frame in peer.frames.feed(data)]
                if len(data) < _READ_BYTES:
                    break
        except BlockingIOError:
            return True
        except (OSError, FrameError):
            data = b""
        if not data:
            self._drop(peer)
        return bool(data)

    def _flush(self, peer: Peer) -> None:
        try:
            sent = peer.connection.send(peer.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has left: reading will say so
            sent = len(peer.unsent)
        del peer.unsent[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._selector.get_key(peer.connection).events != events:
            self._selector.modify(peer.connection, events, peer)

    def _drop(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._selector.unregister(peer.connection)
        peer.connection.close()


def _poll_of(selector: selectors.BaseSelector) -> "select.poll | None":
    """Says whether ``selector`` has something, in one call of the system and none of Python's; None: none can."""
    if not hasattr(select, "poll") or not hasattr(selector, "fileno"):
        return None
    news = select.poll()
    news.register(selector.fileno(), select.POLLIN)
    return news


def _listen(endpoint: str) -> sockets.socket:
    place = split_endpoint(endpoint)
    if isinstance(place, str):
        path = Path(place)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
        listener = sockets.socket(sockets.AF_UNIX)
        try:
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    else:
        listener = sockets.create_server(place, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener
