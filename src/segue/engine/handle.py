"""What the server holds of an engine: submit a request, read its outputs, abort it.

Two implementations: ``remote.RemoteEngine`` (the engine is another process) and ``local.LocalEngine`` (the engine is a
thread of this one). All methods belong to the event loop's thread.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol
from weakref import ref

from segue.core.errors import GenerationError
from segue.core.output import EngineInfo, EngineStep, RequestOutput, StepStats
from segue.core.request import Request
from segue.engine.channel import Frames

__all__ = ["EngineHandle", "Lane", "RequestStream", "StepCallback", "Streams"]

logger = logging.getLogger(__name__)

StepCallback = Callable[[StepStats], None]
TakeOutputs = Callable[[Sequence[RequestOutput]], bool]


class Lane(Protocol):
    """Takes what it can out of the engine's frames and serves it, before it becomes an object."""

    def reader(self) -> Frames:
        """For a new connection."""

    def open(self, request_id: int, pen: Any) -> None:
        """The request's next outputs are for ``pen``, of the lane's own kind."""

    def drop(self, request_id: int) -> None:
        """They are not any more."""

    def clear(self) -> None:
        """Nor are anybody's."""


class EngineHandle(Protocol):
    """The server's only view of an engine."""

    @property
    def on_step(self) -> list[StepCallback]:
        """Called in the event loop's thread with the statistics of every step, in order, before outputs that are handed
        out. Those of steps that a lane served whole come later, at the latest with ``settle``."""

    @property
    def lane(self) -> Lane | None:
        """Where there is one."""

    def settle(self) -> None:
        """Call ``on_step`` for all steps so far."""

    @property
    def info(self) -> EngineInfo:
        """Facts about the served model. Raises ``EngineDeadError`` before the first connection."""

    @property
    def is_healthy(self) -> bool:
        """Whether the engine runs and can take requests now."""

    def next_request_id(self) -> int:
        """A new id, unique among all servers of one engine."""

    def submit(self, request: Request) -> "RequestStream":
        """Send ``request`` to the engine and return its outputs; never waits.

        On an engine that is not healthy the stream raises ``GenerationError`` at once.
        Raises ``ValueError`` when ``request.request_id`` is in flight already.
        """

    def abort(self, request_id: int) -> None:
        """Free all that the request holds. Its stream ends without a last output; unknown ids are ignored."""


class RequestStream(AsyncIterator[RequestOutput]):
    """The outputs of one request, until the one with a ``finish_reason``; made by ``EngineHandle.submit``.

    An output with ``error`` is raised as ``GenerationError``. As with a generator, the request is aborted in the engine
    when the stream is closed early, when the task is cancelled while it waits here, or when the stream is dropped.
    """

    __slots__ = (
        "__weakref__", "_abort", "_is_closed", "_is_complete", "_loop", "_outputs", "_take", "_waiter", "request_id",
    )  # fmt: skip

    def __init__(self, request_id: int, abort: Callable[[int], None]) -> None:
        """``abort`` is called at most once, in the event loop's thread, if the request is given up before its end."""
        self.request_id = request_id
        self._abort = abort
        self._loop = asyncio.get_running_loop()
        self._outputs: deque[RequestOutput | None] = deque()
        self._waiter: asyncio.Future[bool] | None = None
        """Of the one task that reads; True: ``_take`` wants no more."""
        self._take: TakeOutputs | None = None
        """Where outputs go at once; only while ``_waiter`` waits and ``_outputs`` is empty."""
        self._is_complete = False
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Nothing more is to be read."""
        return self._is_closed

    def push(self, outputs: Sequence[RequestOutput]) -> None:
        """Producer's side: hand over the next outputs, at least one."""
        last = outputs[-1]
        take = self._take
        if last.finish_reason is not None or last.error is not None:
            self._is_complete = True
            if take is not None and last.error is None:
                self._is_closed = True
        if take is None or last.error is not None:
            self._put(outputs)
            return
        try:
            wants_more = take(outputs)
        except Exception as error:
            self._wake(error)
        else:
            if not wants_more or self._is_closed:
                self._wake(None)

    def end(self) -> None:
        """Producer's side: the request was aborted, no output follows."""
        self._is_complete = True
        self._put((None,))

    async def read(self, take: TakeOutputs) -> None:
        """Call ``take`` with outputs as they come, until it returns False or had the last one; may be called again.

        ``take`` is called where the outputs are pushed: no task is woken for it, which would cost more than what a
        server does with a token. What it raises is raised here.
        """
        while not self._is_closed:
            if self._outputs:
                outputs = self._pop_all()
                if not outputs or not take(outputs):
                    return
            elif await self._wait(take):
                return

    async def __anext__(self) -> RequestOutput:
        if self._is_closed:
            raise StopAsyncIteration
        while not self._outputs:
            await self._wait(None)
        output = self._pop()
        if output is None:
            raise StopAsyncIteration
        return output

    def _pop(self) -> RequestOutput | None:
        output = self._outputs.popleft()
        if output is None:
            self._is_closed = True
        elif output.error is not None:
            self._is_closed = True
            raise GenerationError(output.error)
        else:
            self._is_closed = output.finish_reason is not None
        return output

    def _pop_all(self) -> list[RequestOutput]:
        """Those there are. An error behind others is left for later."""
        outputs: list[RequestOutput] = []
        while self._outputs and not (outputs and self._outputs[0] is not None and self._outputs[0].error is not None):
            output = self._pop()
            if output is None:
                break
            outputs.append(output)
        return outputs

    async def _wait(self, take: TakeOutputs | None) -> bool:
        self._waiter = self._loop.create_future()
        self._take = take
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self._close()
            raise
        finally:
            self._take = None

    def _wake(self, error: Exception | None) -> None:
        """End ``read``."""
        self._take = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(True)
            else:
                waiter.set_exception(error)

    async def aclose(self) -> None:
        """End the stream; a request that has not come to its end is aborted. May be called again."""
        self._close()

    def _close(self) -> None:
        self._is_closed = True
        self._put((None,))  # for a task that may be waiting
        if not self._is_complete:
            self._is_complete = True
            self._abort(self.request_id)

    def _put(self, outputs: Sequence[RequestOutput | None]) -> None:
        self._outputs += outputs
        self._take = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(False)

    def __del__(self) -> None:
        # Garbage may be collected in any thread; a closed loop raises RuntimeError and has nothing left to abort.
        if not self._is_complete:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._abort, self.request_id)


class Streams:
    """The streams in flight of one handle, and the callbacks of its steps."""

    def __init__(self) -> None:
        self.on_step: list[StepCallback] = []
        # Servers of one engine draw different upper bits; 62 bits in all.
        self._request_ids = itertools.count(secrets.randbits(30) << 32)
        # Weak, so that a stream that its reader dropped is collected and gives its request up.
        # (A WeakValueDictionary does more for each output than what is needed of it here.)
        self._streams: dict[int, ref[RequestStream]] = {}

    def next_request_id(self) -> int:
        return next(self._request_ids)

    def open(self, request_id: int, abort: Callable[[int], None]) -> RequestStream:
        """Raises ``ValueError`` when the id is in flight already."""
        if request_id in self._streams:
            raise ValueError(f"request {request_id} is in flight already")
        stream = RequestStream(request_id, abort)
        streams = self._streams

        def drop(reference: ref[RequestStream]) -> None:
            if streams.get(request_id) is reference:
                del streams[request_id]

        streams[request_id] = ref(stream, drop)
        return stream

    def deliver(self, step: EngineStep) -> None:
        """As ``deliver_all``, of one step."""
        self.deliver_all((step,))

    def deliver_all(self, steps: Sequence[EngineStep]) -> None:
        """Hand out what one or several steps gave, to each request all of it at once."""
        for step in steps:
            self._call_back(step.stats)
        if len(steps) == 1:
            for output in steps[0].outputs:
                self._push(output.request_id, (output,))
            return
        gathered: dict[int, list[RequestOutput]] = {}
        for step in steps:
            for output in step.outputs:
                outputs = gathered.get(output.request_id)
                if outputs is None:
                    gathered[output.request_id] = [output]
                else:
                    outputs.append(output)
        for request_id, outputs in gathered.items():
            self._push(request_id, outputs)

    def _call_back(self, stats: StepStats) -> None:
        for callback in self.on_step:
            try:
                callback(stats)
            except Exception:
                logger.exception("A callback of the engine's steps failed")

    def _push(self, request_id: int, outputs: Sequence[RequestOutput]) -> None:
        reference = self._streams.get(request_id)
        stream = None if reference is None else reference()
        if stream is not None:
            stream.push(outputs)
            if outputs[-1].finish_reason is not None or outputs[-1].error is not None:
                self._streams.pop(request_id, None)

    def _take_out(self, request_id: int) -> RequestStream | None:
        reference = self._streams.pop(request_id, None)
        return None if reference is None else reference()

    def end(self, request_id: int) -> None:
        """The request was aborted."""
        stream = self._take_out(request_id)
        if stream is not None:
            stream.end()

    def fail(self, request_id: int, reason: str) -> None:
        """The request's stream raises ``GenerationError`` with ``reason``."""
        stream = self._take_out(request_id)
        if stream is not None:
            stream.push((RequestOutput(request_id=request_id, error=reason),))

    @property
    def has_any(self) -> bool:
        """Whether a request is in flight."""
        return len(self._streams) > 0

    def fail_all(self, reason: str) -> None:
        for request_id in list(self._streams):
            self.fail(request_id, reason)
