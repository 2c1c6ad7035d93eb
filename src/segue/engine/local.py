"""An engine in a thread of this process: for tests and small tools."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVarTuple

from segue.core.output import EngineInfo
from segue.core.request import AbortRequests, Request
from segue.engine.engine import Engine
from segue.engine.handle import RequestStream, StepCallback, Streams

__all__ = ["LocalEngine"]

logger = logging.getLogger(__name__)

Args = TypeVarTuple("Args")


class LocalEngine:
    """An ``EngineHandle`` whose engine runs in a thread from construction to ``close``.

    Serves one event loop at a time: the one of the last ``submit``. Also a context manager.
    """

    def __init__(self, engine: Engine, info: EngineInfo) -> None:
        self.info = info
        self._engine = engine
        self._streams = Streams()
        self._commands: SimpleQueue[Request | AbortRequests | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_healthy = True
        engine.wake_with(lambda: self._commands.put(AbortRequests(())))
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def on_step(self) -> list[StepCallback]:
        return self._streams.on_step

    @property
    def lane(self) -> None:
        """Nothing comes in frames here."""

    def settle(self) -> None:
        """Nothing is kept back here."""

    @property
    def is_healthy(self) -> bool:
        return self._is_healthy

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread after its present step; what is in flight fails."""
        self._commands.put(None)
        self._thread.join()
        self._is_healthy = False
        self._streams.fail_all("Server error: the engine was closed")

    def next_request_id(self) -> int:
        return self._streams.next_request_id()

    def submit(self, request: Request) -> RequestStream:
        self._loop = asyncio.get_running_loop()
        stream = self._streams.open(request.request_id, self._give_up)
        if self.is_healthy:
            self._commands.put(request)
        else:
            self._streams.fail(request.request_id, "Server error: engine thread is not running")
        return stream

    def abort(self, request_id: int) -> None:
        self._streams.end(request_id)
        self._give_up(request_id)

    def _give_up(self, request_id: int) -> None:
        self._commands.put(AbortRequests((request_id,)))

    def _run(self) -> None:
        try:
            while self._take_commands():
                step = self._engine.step()
                if step is not None:
                    self._in_loop(self._streams.deliver, step)
        except Exception as error:
            logger.exception("The engine's thread ended")
            self._is_healthy = False
            self._in_loop(self._streams.fail_all, f"Server error: engine thread ended unexpectedly: {error}")

    def _take_commands(self) -> bool:
        """Take all commands there are; wait for one if there is no work. False: end."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.has_work)
            except Empty:
                return True
            match command:
                case Request():
                    self._add(command)
                case AbortRequests():
                    self._engine.abort(command.request_ids)
                case None:
                    return False

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except ValueError as error:
            self._in_loop(self._streams.fail, request.request_id, str(error))

    def _in_loop(self, receive: Callable[[*Args], object], *news: *Args) -> None:
        # A closed loop has no readers left.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(receive, *news)
