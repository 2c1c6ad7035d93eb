"""The engine process: a loop between its socket and its engine."""

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import socket as sockets
import time
from collections.abc import Iterable

from segue.core.errors import ConfigError
from segue.core.output import EngineInfo, EngineStep, RequestOutput, StepStats
from segue.core.request import AbortRequests, Request
from segue.engine.channel import ListeningEngine, Peer
from segue.engine.engine import Engine
from segue.engine.gathering import GATHERING
from segue.engine.ipc import Heartbeat, Hello, Message, Refusal, RequestGroup, Shutdown, decode, encode
from segue.engine.router_limits import narrow

__all__ = ["run_engine_loop"]

logger = logging.getLogger(__name__)


def run_engine_loop(
    engine: Engine, info: EngineInfo, endpoint: str, *, stop_signals: Iterable[signal.Signals] | None = None
) -> None:
    """Serve ``engine`` at ``endpoint`` (``ipc://…`` or ``tcp://…``) to any number of servers.

    Returns on a ``Shutdown`` message, and when the parent process ends or, for an engine that belongs to nobody
    (``stop_signals`` given; in the main thread), on one of these signals. Raises ``EngineDeadError`` when the runner
    does: let the process end then, its servers notice that.
    """
    # What is alive now (the model, its libraries) stays alive: without this each full collection walks it in a step.
    gc.collect()
    gc.freeze()
    with contextlib.closing(ListeningEngine(endpoint)) as channel:
        loop = _EngineLoop(engine, info, channel)
        if stop_signals is not None:
            loop.stop_on(stop_signals)
        loop.run()


class _EngineLoop:
    """Each request's outputs go to the server that sent it; the statistics of a step go to all."""

    def __init__(self, engine: Engine, info: EngineInfo, channel: ListeningEngine) -> None:
        self._engine = engine
        self._info = info
        self._config = engine.config
        self._channel = channel
        self._owners: dict[int, Peer] = {}
        self._servers: dict[Peer, set[int]] = {}
        self._stats = StepStats()
        self._unsent: list[tuple[Peer, EngineStep]] = []
        """They wait for others, but for the first and last of a request: at most as ``GATHERING`` says and a step."""
        self._flushed_time = 0.0
        self._must_stop = False
        self._wake_reader, self._wake_writer = sockets.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        channel.watch(self._wake_reader)
        engine.wake_with(self._wake)
        engine.news_file = channel.news_file
        self._watches_parent = True
        self._parent_pid = os.getppid()
        parent = multiprocessing.parent_process()
        self._parent_sentinel = None if parent is None else parent.sentinel
        if self._parent_sentinel is not None:
            channel.watch(self._parent_sentinel)

    def stop_on(self, signals: Iterable[signal.Signals]) -> None:
        """End on these, and not with the parent process."""

        def stop(number: int, frame: object) -> None:
            self._must_stop = True
            self._wake()

        for number in signals:
            signal.signal(number, stop)
        self._watches_parent = False

    def run(self) -> None:
        with self._wake_reader, self._wake_writer:
            while not self._must_stop:
                self._receive()
                step = None if self._must_stop else self._engine.step()
                if step is not None:
                    self._send_step(step)

    def _receive(self) -> None:
        """Take all messages there are; wait for one if there is no work. Without a sentinel, look at the parent too."""
        has_work = self._engine.has_work
        if has_work and not self._channel.has_news:
            return
        idle_timeout_s = 1.0 if self._watches_parent and self._parent_sentinel is None else None
        if not has_work:
            self._flush()
        frames, left, files = self._channel.poll(0.0 if has_work else idle_timeout_s)
        if frames:  # the next step may be a long one
            self._flush()
        if self._watches_parent and (self._parent_sentinel in files or os.getppid() != self._parent_pid):
            logger.warning("The parent process ended, so does the engine")
            self._must_stop = True
            return
        if self._wake_reader in files:
            self._wake_reader.recv(4096)
        for server, frame in frames:
            try:
                self._handle(server, decode(frame))
            except ValueError:
                logger.exception("A message to the engine was ignored")
        for server in left:
            self._drop(server)

    def _wake(self) -> None:
        """In any thread. A full buffer wakes as well as one more byte; a closed one belongs to an engine that ended."""
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"\0")

    def _handle(self, server: Peer, message: Message) -> None:
        match message:
            case Request():
                self._add(server, message)
            case RequestGroup():
                for request in message.requests:
                    self._add(server, request)
            case AbortRequests():
                owned = [i for i in message.request_ids if self._owners.get(i) == server]
                self._engine.abort(owned)
                for request_id in owned:
                    self._forget(request_id)
            case Hello():
                self._greet(server, message)
            case Heartbeat():
                self._send(server, message)
            case Shutdown():
                self._must_stop = True
            case _:
                raise ValueError(f"a server does not send {type(message).__name__}")

    def _greet(self, server: Peer, hello: Hello) -> None:
        info = self._info
        if hello.limits is not None:
            try:
                info, config = narrow(self._info, self._config, hello.limits)
                if config != self._engine.config:
                    self._engine.reconfigure(config)
            except (ConfigError, ValueError) as error:
                self._send(server, Refusal(str(error)))
                return
        self._servers.setdefault(server, set())
        self._send(server, info)

    def _add(self, server: Peer, request: Request) -> None:
        if server not in self._servers:
            raise ValueError("a request came before Hello")
        try:
            self._engine.add(request)
        except ValueError as error:
            refusal = RequestOutput(request_id=request.request_id, error=str(error))
            self._send(server, EngineStep(outputs=(refusal,), stats=self._stats))
            return
        self._owners[request.request_id] = server
        self._servers[server].add(request.request_id)

    def _send_step(self, step: EngineStep) -> None:
        self._stats = step.stats
        is_urgent = step.stats.num_waiting > 0 or step.stats.num_prefill_sequences > 0
        ended: list[int] = []
        for output in step.outputs:
            if output.finish_reason is not None or output.error is not None:
                ended.append(output.request_id)
            elif output.scheduled_time is not None:
                is_urgent = True
        if len(self._servers) == 1:
            # Of an output that is nobody's any more the server knows nothing either.
            (server,) = self._servers
            self._unsent.append((server, step))
        else:
            self._share_out(step)
        for request_id in ended:
            if request_id in self._owners:  # else refused, and aborted before the refusal could be told
                self._forget(request_id)
        now = time.monotonic()
        if is_urgent or ended or now - self._flushed_time >= GATHERING.of(len(self._owners)):
            self._flush()
            self._flushed_time = now

    def _share_out(self, step: EngineStep) -> None:
        outputs: dict[Peer, list[RequestOutput]] = {server: [] for server in self._servers}
        for output in step.outputs:
            server = self._owners.get(output.request_id)
            if server is not None:
                outputs[server].append(output)
        for server, own in outputs.items():
            self._unsent.append((server, EngineStep(outputs=tuple(own), stats=step.stats)))

    def _flush(self) -> None:
        """Send the steps that wait, of each server in one piece."""
        unsent, self._unsent = self._unsent, []
        frames: dict[Peer, list[bytearray]] = {}
        for server, step in unsent:
            frames.setdefault(server, []).append(encode(step))
        for server, own in frames.items():
            self._channel.send(server, *own)

    def _send(self, server: Peer, message: Message) -> None:
        self._flush()
        self._channel.send(server, encode(message))

    def _drop(self, server: Peer) -> None:
        request_ids = self._servers.pop(server, set())
        if request_ids:
            logger.info("A server is gone, its %d requests are aborted", len(request_ids))
        self._engine.abort(request_ids)
        for request_id in request_ids:
            del self._owners[request_id]

    def _forget(self, request_id: int) -> None:
        self._servers[self._owners.pop(request_id)].discard(request_id)
