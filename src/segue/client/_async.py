"""Driver for asyncio: performs what the flow asks for with ``httpx.AsyncClient``."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import httpx

from segue.client._flow import Close, Effect, Flow, OpenStream, Receive, Send, Sleep, Wait, transport_error
from segue.client.limiter import LoopSignal
from segue.client.types import ResponseMetadata

__all__ = ["AsyncDriver", "AsyncStream"]

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")


class _Body:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()

    async def read(self) -> bytes | None:
        return await anext(self._chunks, None)

    async def close(self) -> None:
        await self._response.aclose()


class AsyncDriver:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def run(self, flow: Flow[T]) -> T:
        try:
            effect = next(flow)
            while True:
                try:
                    outcome = await self._perform(effect)
                except GeneratorExit:  # the coroutine is garbage: nothing can be awaited any more
                    flow.close()
                    raise
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(outcome)
        except StopIteration as stop:
            return cast(T, stop.value)

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send(deadline_s=None):
                return await self._send(effect)
            case Send(deadline_s=deadline_s):
                async with asyncio.timeout(deadline_s):
                    return await self._send(effect)
            case Receive(body, deadline_s):
                async with asyncio.timeout(deadline_s):
                    return await cast(_Body, body).read()
            case Wait(signal, timeout_s):
                return await cast(LoopSignal, signal).wait(timeout_s)
            case Sleep(seconds):
                return await asyncio.sleep(seconds)
            case Close(body):
                return await _close(cast(_Body, body))

    async def _send(self, send: Send) -> tuple[httpx.Response, bytes | _Body]:
        out = send.request
        request = self.http.build_request(
            out.method, out.url, headers=out.headers, content=out.content or None, timeout=out.timeout
        )
        response = await self.http.send(request, stream=send.keep_open)
        return response, _Body(response) if send.keep_open else response.content


async def _close(body: _Body) -> None:
    with contextlib.suppress(httpx.HTTPError, RuntimeError):
        await body.close()


class AsyncStream(Generic[E, R]):
    """Events of one generation, as they come. Iterate it; as a context manager it is closed at the end.

    Holds a slot of its endpoint, and a connection, until it is exhausted, closed, or garbage. Raises what ended it:
    APIStatusError for an error event, IncompleteStreamError if the final event never came.
    """

    def __init__(self, stream: OpenStream[R]) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()

    @property
    def response(self) -> ResponseMetadata:
        return self._stream.reader.response

    @property
    def text(self) -> str:
        """All text that has arrived; of the first choice where there are several."""
        return self._stream.reader.assembler.text

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        reader = self._stream.reader
        while not reader.events:
            if reader.is_ended:
                await self._end()
                raise StopAsyncIteration
            await self._receive()
        return cast(E, reader.events.popleft())

    async def text_deltas(self) -> AsyncIterator[str]:
        """What each event adds to the text; events that add nothing are left out."""
        text_of = self._stream.reader.format.text_of
        async for event in self:
            if text := text_of(event):
                yield text

    async def final(self) -> R:
        """Read to the end; returns the whole answer, as if it had not been streamed."""
        async for _ in self:
            pass
        return self._stream.reader.result()

    async def close(self) -> None:
        """Stop here: the server sees the connection close, and ends the generation. Twice is once."""
        self._stream.reader.cut()
        self._stream.settle()
        await _close(cast(_Body, self._stream.body))

    async def _receive(self) -> None:
        stream = self._stream
        try:
            async with asyncio.timeout(stream.time_left()):
                chunk = await cast(_Body, stream.body).read()
        except (httpx.RequestError, TimeoutError) as error:
            stream.reader.fail(transport_error(error, stream.time_left() == 0))
        except GeneratorExit:
            stream.abandon()
            raise
        except BaseException:
            await self.close()
            raise
        else:
            stream.reader.feed(chunk)

    async def _end(self) -> None:
        """Once the events are used up: raise what ended the stream, if not its final event."""
        stream = self._stream
        if stream.visit is not None:
            stream.settle()
            if stream.reader.failure is None:
                with contextlib.suppress(httpx.RequestError):
                    await cast(_Body, stream.body).read()  # up to the end: the connection can be used again
            await _close(cast(_Body, stream.body))
        if stream.reader.failure is not None:
            raise stream.reader.failure

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        stream: OpenStream[R] | None = getattr(self, "_stream", None)
        if stream is None or stream.visit is None:
            return
        stream.abandon()
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections with it
            self._loop.call_soon_threadsafe(_close_soon, self._loop, cast(_Body, stream.body))


def _close_soon(loop: asyncio.AbstractEventLoop, body: _Body) -> None:
    task = loop.create_task(_close(body))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


# A loop holds its tasks weakly.
_closing: set[asyncio.Task[None]] = set()
