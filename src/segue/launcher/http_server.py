"""uvicorn, told where to listen and when to stop by the launcher and by nobody else."""

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import cast

import uvicorn
import uvicorn.server
from starlette.types import ASGIApp, Receive, Scope, Send

from segue.launcher.limited_protocol import ConnectionLimits, LimitedProtocol

__all__ = ["HTTPServer", "metrics_only"]

BACKLOG = 2048


class HTTPServer:
    """One application on one listener that is bound but does not listen yet."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        has_lifespan: bool = True,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="none",
                http=_protocol(limits or ConnectionLimits()),
                ws="none",
                lifespan="on" if has_lifespan else "off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nobody asks who the client is
                backlog=BACKLOG,
            )
        )
        self.started = self._server.has_started

    async def run(self) -> None:
        """Until ``stop`` and the end of all running requests, or until ``force_stop``.

        Raises OSError when somebody else listens on the port by now.
        """
        self._listener.listen(BACKLOG)  # uvloop would only log that it cannot
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Let no one in any more; ``run`` returns when what runs has ended."""
        self._server.exit()

    def force_stop(self) -> None:
        """Wait for nobody."""
        self._server.force_exit = True
        self._server.exit()


def metrics_only(app: ASGIApp) -> ASGIApp:
    """``app``, of which only ``/metrics`` can be seen."""

    async def metrics_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/metrics":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
        else:
            await app(scope, receive, send)

    return metrics_app


def _protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """What uvicorn calls for each connection."""
    return cast("type[asyncio.Protocol]", functools.partial(LimitedProtocol, limits=limits))


class _State(uvicorn.server.ServerState):
    """With a ``date`` that is made when it is asked for."""

    def __init__(self) -> None:
        self._date_time = 0
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._date_time:
            self._date_time = now
            self._headers = [(b"date", formatdate(now, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(self, value: list[tuple[bytes, bytes]]) -> None:
        """uvicorn's begin with none."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State()
        self.has_started = asyncio.Event()
        self._must_exit = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def exit(self) -> None:
        """From any thread: a loop that nothing else wakes must hear of it."""
        self.should_exit = True
        if self._loop is None:
            self._must_exit.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._must_exit.set)

    async def main_loop(self) -> None:
        """uvicorn's wakes ten times a second, which an idle server should not."""
        await self._must_exit.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.has_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the launcher's."""
        yield
