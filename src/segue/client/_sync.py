"""Driver for threads: performs what the flow asks for with ``httpx.Client``."""

import contextlib
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import httpx

from segue.client._flow import Close, Effect, Flow, OpenStream, Receive, Send, Sleep, Wait, transport_error
from segue.client.limiter import ThreadSignal
from segue.client.types import ResponseMetadata

__all__ = ["Stream", "SyncDriver"]

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")


class _Body:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks = response.iter_bytes()

    def read(self) -> bytes | None:
        return next(self._chunks, None)

    def close(self) -> None:
        self._response.close()


class SyncDriver:
    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def run(self, flow: Flow[T]) -> T:
        try:
            effect = next(flow)
            while True:
                try:
                    outcome = self._perform(effect)
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(outcome)
        except StopIteration as stop:
            return cast(T, stop.value)

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return self._send(effect)
            case Receive(body, deadline_s):
                if deadline_s == 0:
                    raise TimeoutError
                return cast(_Body, body).read()
            case Wait(signal, timeout_s):
                return cast(ThreadSignal, signal).wait(timeout_s)
            case Sleep(seconds):
                return time.sleep(seconds)
            case Close(body):
                return _close(cast(_Body, body))

    def _send(self, send: Send) -> tuple[httpx.Response, bytes | _Body]:
        out = send.request
        request = self.http.build_request(
            out.method, out.url, headers=out.headers, content=out.content or None, timeout=out.timeout
        )
        if send.deadline_s is None and not send.keep_open:
            response = self.http.send(request)
            return response, response.content
        until = None if send.deadline_s is None else time.monotonic() + send.deadline_s
        response = self.http.send(request, stream=True)
        if send.keep_open:
            return response, _Body(response)
        try:
            return response, b"".join(_before(until, response.iter_bytes()))
        finally:
            response.close()


def _before(until: float | None, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A read has a limit of its own; a body that trickles needs one over all reads."""
    for chunk in chunks:
        yield chunk
        if until is not None and time.monotonic() > until:
            raise TimeoutError


def _close(body: _Body) -> None:
    with contextlib.suppress(httpx.HTTPError, RuntimeError):
        body.close()


class Stream(Generic[E, R]):
    """Events of one generation, as they come. Iterate it; as a context manager it is closed at the end.

    Holds a slot of its endpoint, and a connection, until it is exhausted, closed, or garbage. Raises what ended it:
    APIStatusError for an error event, IncompleteStreamError if the final event never came.
    """

    def __init__(self, stream: OpenStream[R]) -> None:
        self._stream = stream

    @property
    def response(self) -> ResponseMetadata:
        return self._stream.reader.response

    @property
    def text(self) -> str:
        """All text that has arrived; of the first choice where there are several."""
        return self._stream.reader.assembler.text

    def __iter__(self) -> Iterator[E]:
        return self

    def __next__(self) -> E:
        reader = self._stream.reader
        while not reader.events:
            if reader.is_ended:
                self._end()
                raise StopIteration
            self._receive()
        return cast(E, reader.events.popleft())

    def text_deltas(self) -> Iterator[str]:
        """What each event adds to the text; events that add nothing are left out."""
        text_of = self._stream.reader.format.text_of
        for event in self:
            if text := text_of(event):
                yield text

    def final(self) -> R:
        """Read to the end; returns the whole answer, as if it had not been streamed."""
        for _ in self:
            pass
        return self._stream.reader.result()

    def close(self) -> None:
        """Stop here: the server sees the connection close, and ends the generation. Twice is once."""
        self._stream.reader.cut()
        self._stream.settle()
        _close(cast(_Body, self._stream.body))

    def _receive(self) -> None:
        stream = self._stream
        try:
            if stream.time_left() == 0:
                raise TimeoutError
            chunk = cast(_Body, stream.body).read()
        except (httpx.RequestError, TimeoutError) as error:
            stream.reader.fail(transport_error(error, stream.time_left() == 0))
        except BaseException:
            self.close()
            raise
        else:
            stream.reader.feed(chunk)

    def _end(self) -> None:
        """Once the events are used up: raise what ended the stream, if not its final event."""
        stream = self._stream
        if stream.visit is not None:
            stream.settle()
            if stream.reader.failure is None:
                with contextlib.suppress(httpx.RequestError):
                    cast(_Body, stream.body).read()  # up to the end of the response: its connection can be used again
            _close(cast(_Body, stream.body))
        if stream.reader.failure is not None:
            raise stream.reader.failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        stream: OpenStream[R] | None = getattr(self, "_stream", None)
        if stream is None or stream.visit is None:
            return
        stream.abandon()
        # The garbage collector may have stopped this thread inside httpx's connection pool, whose lock closing needs.
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            threading.Thread(target=_close, args=(stream.body,), daemon=True).start()
