"""The server's side of an engine in another process."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import cast

from segue.core.errors import ConfigError, EngineDeadError
from segue.core.limits import RouterLimits
from segue.core.output import EngineInfo, EngineStep, StepStats
from segue.core.request import AbortRequests, Request
from segue.engine.channel import FrameReader, Frames, framed, split_endpoint
from segue.engine.handle import Lane, RequestStream, StepCallback, Streams
from segue.engine.ipc import Heartbeat, Hello, Message, Refusal, RequestGroup, Shutdown, decode, encode

__all__ = ["RemoteEngine"]

BEATS = 4
"""Without an answer, and the engine counts as silent."""

RECONNECT_S = 0.02
"""How often an engine is looked for that does not listen yet."""

logger = logging.getLogger(__name__)


class RemoteEngine:
    """An ``EngineHandle`` of the engine that listens at ``endpoint``, now or later.

    When the connection breaks, or the launcher says ``mark_dead``, every request in flight fails at once, and the
    handle waits for a new engine at the same endpoint: it is healthy again as soon as one answers.
    """

    def __init__(self, endpoint: str, limits: RouterLimits | None = None, lane: Lane | None = None) -> None:
        """``limits`` are told to every engine that comes to serve here. ``lane`` serves what it can by itself."""
        self.endpoint = endpoint
        self._limits = limits
        self.lane = lane
        self._refusal: str | None = None
        self._streams = Streams()
        self._info: EngineInfo | None = None
        self._is_ready = asyncio.Event()
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        """Frames for an engine that is not there yet."""
        self._num_heard = 0

    @property
    def on_step(self) -> list[StepCallback]:
        return self._streams.on_step

    @property
    def info(self) -> EngineInfo:
        """Of the engine that answered last. Raises ``EngineDeadError`` before the first one did."""
        if self._info is None:
            raise EngineDeadError("the engine has not answered yet")
        return self._info

    @property
    def is_healthy(self) -> bool:
        return self._is_ready.is_set() and self._refusal is None

    async def connect(self, timeout_s: float | None = None) -> None:
        """Wait until the engine answers; also after it died.

        Raises ``EngineDeadError`` after ``timeout_s``, ``ConfigError`` when the engine refuses this handle's limits.
        """
        if self._connecting is None:
            self._open()
        try:
            await asyncio.wait_for(self._is_ready.wait(), timeout_s)
        except TimeoutError:
            raise EngineDeadError(f"no engine answered at {self.endpoint} within {timeout_s:g} s") from None
        if self._refusal is not None:
            raise ConfigError(self._refusal)

    async def close(self) -> None:
        """Give up all requests in flight and leave; the engine goes on."""
        self._is_ready.clear()
        self.settle()
        self._fail_all("Server error: the server is shutting down")
        connecting = self._hang_up()
        if connecting is not None:
            await asyncio.gather(connecting, return_exceptions=True)

    def mark_dead(self, reason: str = "engine process ended unexpectedly") -> None:
        """The engine process is gone: fail what is in flight, be unhealthy until a new engine answers."""
        self.settle()
        if self._is_ready.is_set():
            logger.error("The engine is lost: %s", reason)
            self._streams.deliver(EngineStep(outputs=(), stats=self._last_stats()))
        self._is_ready.clear()
        self._refusal = None
        self._fail_all(f"Server error: {reason}")
        self._hang_up()
        self._open()

    def settle(self) -> None:
        if self._connection is not None:
            self._hear(self._connection.frames.release())

    def _fail_all(self, reason: str) -> None:
        if self.lane is not None:
            self.lane.clear()
        self._streams.fail_all(reason)

    def _last_stats(self) -> StepStats:
        """Of an engine that is gone: nothing runs there any more, and the step that ran, if there was one, failed."""
        num_failed = int(self._streams.has_any)
        return StepStats(num_total_blocks=self.info.num_blocks, num_failed_decodes=num_failed, has_failed=True)

    async def until_silent(self, limit_s: float) -> None:
        """Return when the engine, asked several times, has said nothing for ``limit_s``.

        The time is counted in beats: when this process itself was stopped for long, the engine is not blamed.
        """
        num_missed = 0
        while num_missed < BEATS:
            num_heard = self._num_heard
            self._send(Heartbeat())
            await asyncio.sleep(limit_s / BEATS)
            num_missed = num_missed + 1 if self._num_heard == num_heard else 0

    async def mark_alive(self, endpoint: str | None = None, timeout_s: float | None = None) -> None:
        """A new engine was started (at another endpoint, if given): wait until it answers, as ``connect``."""
        if endpoint is not None and endpoint != self.endpoint:
            self.endpoint = endpoint
            self.mark_dead("engine process was replaced")
        await self.connect(timeout_s)

    def stop_engine(self) -> None:
        """Ask the engine process to end now, whatever is in flight. From here on the handle is not healthy."""
        self._send(Shutdown())
        self._is_ready.clear()

    def next_request_id(self) -> int:
        return self._streams.next_request_id()

    def submit(self, request: Request) -> RequestStream:
        stream = self._streams.open(request.request_id, self._give_up)
        if self.is_healthy:
            self._send(request)
        else:
            self._streams.fail(request.request_id, "Server error: engine process is not running")
        return stream

    def submit_group(self, requests: Sequence[Request]) -> list[RequestStream]:
        """As ``submit``, in one message, so that the engine may begin all of them in one step."""
        streams = [self._streams.open(request.request_id, self._give_up) for request in requests]
        if self.is_healthy:
            self._send(RequestGroup(tuple(requests)))
        else:
            for request in requests:
                self._streams.fail(request.request_id, "Server error: engine process is not running")
        return streams

    def abort(self, request_id: int) -> None:
        self._streams.end(request_id)
        self._give_up(request_id)

    def _give_up(self, request_id: int) -> None:
        if self.lane is not None:
            self.lane.drop(request_id)
        if self.is_healthy:
            self._send(AbortRequests((request_id,)))

    def _send(self, message: Message) -> None:
        """Never waits."""
        data = framed(encode(message))
        if self._connection is not None:
            self._connection.transport.write(data)
        elif self._connecting is not None:
            self._unsent.append(data)

    def _open(self) -> None:
        self._connecting = asyncio.create_task(self._connect(), name="engine connection")
        self._send(Hello(self._limits))

    async def _connect(self) -> None:
        place = split_endpoint(self.endpoint)
        while True:
            frames = FrameReader() if self.lane is None else self.lane.reader()
            connection = _Connection(frames, self._hear, self._lose)
            try:
                await self._connect_to(place, connection)
            except OSError:
                await asyncio.sleep(RECONNECT_S)
            else:
                if not connection.transport.is_closing():  # else it was lost before anybody could be told
                    break
        self._connection = connection
        connection.transport.write(b"".join(self._unsent))
        self._unsent.clear()

    async def _connect_to(self, place: str | tuple[str, int], connection: "_Connection") -> None:
        loop = asyncio.get_running_loop()
        if isinstance(place, str):
            await loop.create_unix_connection(lambda: connection, place)
        else:
            await loop.create_connection(lambda: connection, *place)

    def _hang_up(self) -> asyncio.Task[None] | None:
        """Returns the task that ends now."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.transport.close()
        self._unsent.clear()
        return connecting

    def _hear(self, frames: Sequence[bytes]) -> None:
        steps: list[EngineStep] = []
        for frame in frames:
            try:
                message = decode(frame)
            except ValueError:
                logger.exception("A message of the engine was ignored")
                continue
            self._num_heard += 1
            if isinstance(message, EngineStep):
                steps.append(message)
            elif isinstance(message, EngineInfo):
                self._info = message
                self._refusal = None
                self._is_ready.set()
            elif isinstance(message, Refusal):
                logger.error("The engine refuses this server: %s", message.reason)
                self._refusal = message.reason
                self._is_ready.set()
        if steps:
            self._streams.deliver_all(steps)

    def _lose(self, connection: "_Connection") -> None:
        if connection is self._connection:
            self.mark_dead()


class _Connection(asyncio.Protocol):
    """The engine's frames, heard in the call that the event loop makes when they come."""

    transport: asyncio.Transport

    def __init__(
        self, frames: Frames, hear: Callable[[Sequence[bytes]], None], lose: "Callable[[_Connection], None]"
    ) -> None:
        self.frames = frames
        self._hear = hear
        self._lose = lose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self.frames.feed(data)
        except ValueError:
            logger.exception("The engine's connection is broken")
            self.transport.abort()
        else:
            if frames:
                self._hear(frames)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(self)
