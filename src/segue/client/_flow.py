"""The course of a request, from the line to the answer, as a generator without I/O.

A driver runs it: it performs each effect that the generator yields, and sends the outcome back, or throws what
performing it raised. There are two drivers, for threads and for asyncio; everything that decides is here, once.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import httpx

from segue.client._failures import ErrorAnswer, event_error, redact, secrets_of, status_error, unreadable
from segue.client._parse import UNREADABLE
from segue.client._streams import StreamReader
from segue.client._wire import Call, Outgoing, render
from segue.client.endpoint import EndpointState, Visit
from segue.client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    CircuitOpenError,
    QueueTimeoutError,
    TGIError,
)
from segue.client.limiter import Signal
from segue.client.options import Options
from segue.client.pool import EndpointPool
from segue.client.retry import RetryPolicy
from segue.client.types import ResponseMetadata

__all__ = [
    "Body",
    "Close",
    "Effect",
    "Exchange",
    "Flow",
    "OpenStream",
    "Receive",
    "Send",
    "Sleep",
    "Wait",
    "transport_error",
]

R = TypeVar("R")
logger = logging.getLogger("segue.client")

MIN_TIMEOUT_S = 0.001
"""0 would mean "do not wait", and fail as a broken connection does."""


class Body(Protocol):
    """A response body that is still coming; each driver has its own."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Until the signal is set, or for ``timeout_s``."""

    signal: Signal
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Send:
    """Gives (response, its content); with ``keep_open`` (response, Body) as soon as the head is there."""

    request: Outgoing
    keep_open: bool
    deadline_s: float | None
    """Seconds left for it; TimeoutError when they are over."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Gives the next bytes of the body, None at its end."""

    body: Body
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class Close:
    body: Body


Effect = Wait | Sleep | Send | Receive | Close
Flow = Generator[Effect, Any, R]


@dataclass(slots=True)
class OpenStream(Generic[R]):
    """A stream whose first event has arrived, and the slot that it holds until ``settle``."""

    body: Body
    reader: StreamReader[Any, R]
    visit: Visit | None
    exchange: "Exchange[Any]"

    def settle(self) -> None:
        """The stream is over, well or not: give the slot back and count the outcome. Twice is once."""
        visit, self.visit = self.visit, None
        failure = self.reader.failure
        if failure is not None:
            self.exchange.locate(failure)
        if visit is None:
            return
        if failure is not None:
            visit.fail(failure)
        elif self.reader.assembler.is_complete:
            visit.succeed(self.reader.assembler.usage)
        else:
            visit.cancel()

    def abandon(self) -> None:
        """``settle`` for finalizers."""
        visit, self.visit = self.visit, None
        if visit is not None:
            visit.abandon()

    def time_left(self) -> float | None:
        return self.exchange.time_left()


class Exchange(Generic[R]):
    """One call: what it was asked, what it has tried."""

    def __init__(
        self,
        call: Call[R],
        options: Options,
        pool: EndpointPool,
        retry: RetryPolicy,
        request_id: str,
        new_signal: Callable[[], Signal],
    ) -> None:
        self.call = call
        self.options = options
        self.pool = pool
        self.request_id = request_id
        self._default_retry = retry
        self._new_signal = new_signal
        self._began = pool.clock()
        self._deadline = None if options.deadline is None else self._began + options.deadline
        self._number = pool.arrival_number()
        self._attempts = 0
        self._queue_wait_s = 0.0
        self._endpoint_id: str | None = None
        self._tried: set[str] = set()
        self._pause_s = 0.0
        self._last_error: TGIError | None = None

    def run(self) -> Flow[R | OpenStream[Any]]:
        """Returns the result, or for a streaming call the open stream. Raises TGIError."""
        visit: Visit | None = None
        try:
            visit = self._enter()
            while True:
                try:
                    yield from self._take_slot(visit)
                    return (yield from self._attempt(visit))
                except TGIError as error:
                    visit = yield from self._after_failure(visit, error)
        except TGIError as error:
            if visit is not None:
                visit.fail(error)
            self.locate(error)
            raise
        except BaseException:
            if visit is not None:
                visit.cancel()
            raise

    def ask(self) -> Flow[R]:
        """The result of a question about the server itself: it waits in no line, and is not counted."""
        try:
            while True:
                state = self._any_endpoint()
                try:
                    return (yield from self._ask_once(state))
                except TGIError as error:
                    policy, retries = self._policy(state), self._attempts - 1
                    delay_s, left_s = policy.delay(error, retries), self.time_left()
                    is_too_long = delay_s > policy.max_retry_after or (left_s is not None and delay_s >= left_s)
                    if is_too_long or not policy.wants(error, retries):
                        raise
                    yield Sleep(delay_s)
        except TGIError as error:
            self.locate(error)
            raise

    def time_left(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self.pool.clock())

    def _check_deadline(self) -> None:
        if self.time_left() == 0:
            raise APITimeoutError(f"the deadline of {self.options.deadline} s passed", phase="deadline")

    def locate(self, error: TGIError) -> None:
        endpoint = self._endpoint_id or error.endpoint
        error.located(request_id=self.request_id, endpoint=endpoint, attempts=self._attempts)

    def _enter(self) -> Visit:
        options = self.options
        visit = self.pool.enter(
            self._number,
            self._new_signal,
            priority=options.priority,
            pinned=options.endpoint,
            session=options.session,
        )
        self._endpoint_id = visit.state.id
        return visit

    def _enter_elsewhere(self) -> Visit | None:
        options = self.options
        entered = self.pool.try_enter(
            self._number,
            self._new_signal,
            priority=options.priority,
            pinned=options.endpoint,
            session=options.session,
            tried=self._tried,
        )
        if not isinstance(entered, Visit):
            return None
        self._endpoint_id = entered.state.id
        return entered

    def _take_slot(self, visit: Visit) -> Flow[None]:
        limit = self.options.queue_timeout
        if limit is None:
            limit = visit.state.endpoint.queue_timeout
        if limit is not None:
            limit += self._pause_s
        began = self.pool.clock()
        while True:
            has_slot, check_in_s = visit.poll()
            if has_slot:
                return
            waited = self.pool.clock() - began
            left = self.time_left()
            if left == 0:
                raise APITimeoutError(
                    f"the deadline of {self.options.deadline} s passed in the queue", phase="deadline"
                )
            if limit is not None and waited >= limit:
                raise QueueTimeoutError(f"no slot became free within {limit} s")
            timeouts = [check_in_s, left, None if limit is None else limit - waited]
            yield Wait(visit.signal, min((t for t in timeouts if t is not None), default=None))

    def _any_endpoint(self) -> EndpointState:
        pinned = self.options.endpoint
        candidates = self.pool.candidates(pinned=pinned, session=self.options.session)
        state = candidates[0] if candidates else self.pool.fallback(pinned)
        self._endpoint_id = state.id
        return state

    def _ask_once(self, state: EndpointState) -> Flow[R]:
        self._check_deadline()
        self._attempts += 1
        try:
            response, content = yield Send(self._render(state), False, self.time_left())
        except (httpx.RequestError, TimeoutError) as error:
            raise self._broken(error) from error
        return self._read_whole(state, response, content)

    def _policy(self, state: EndpointState) -> RetryPolicy:
        policy = state.endpoint.retry or self._default_retry
        changed = self.options.max_retries
        return policy if changed is None else policy.with_max_retries(changed)

    def _attempt(self, visit: Visit) -> Flow[R | OpenStream[Any]]:
        state, call = visit.state, self.call
        self._check_deadline()
        self._queue_wait_s += visit.begin_attempt(is_retry=self._attempts > 0)
        self._attempts += 1
        request = self._render(state)
        try:
            response, body = yield Send(request, call.events is not None, self.time_left())
        except (httpx.RequestError, TimeoutError) as error:
            raise self._broken(error) from error
        if isinstance(body, bytes):
            result = self._read_whole(state, response, body)
            visit.succeed(getattr(result, "usage", None))
            return result
        try:
            return (yield from self._open_stream(visit, response, body))
        except GeneratorExit:
            raise
        except BaseException:
            yield Close(body)
            raise

    def _open_stream(self, visit: Visit, response: httpx.Response, body: Body) -> Flow[OpenStream[Any]]:
        """Read up to the first event: until then nothing has reached the caller, and the request may be repeated."""
        call, state = self.call, visit.state
        assert call.events is not None
        reader = StreamReader(call.events, lambda: self._metadata(state, response), self._secrets(state))
        if response.status_code < 300 and "json" not in response.headers.get("content-type", ""):
            while not reader.events and not reader.is_ended:
                reader.feed((yield from self._receive(body)))
        else:
            content = bytearray()
            while (chunk := (yield from self._receive(body))) is not None:
                content += chunk
            reader.add(call.events.events_of(self._read_whole(state, response, bytes(content))))
        if reader.failure is not None and not reader.events:
            raise reader.failure
        visit.count_first_event()
        return OpenStream(body, reader, visit, self)

    def _receive(self, body: Body) -> Flow[bytes | None]:
        try:
            return cast("bytes | None", (yield Receive(body, self.time_left())))
        except (httpx.RequestError, TimeoutError) as error:
            raise self._broken(error) from error

    def _read_whole(self, state: EndpointState, response: httpx.Response, content: bytes) -> R:
        metadata = self._metadata(state, response)
        secrets = self._secrets(state)
        if logger.isEnabledFor(logging.DEBUG):
            text = redact(content.decode("utf-8", "replace"), secrets)
            logger.debug("%s: status %d: %s", state.id, metadata.status, text, extra=self._log_fields(state))
        if response.status_code >= 300:
            raise status_error(content, response.headers, metadata, secrets)
        try:
            return self.call.parse(content, metadata)
        except ErrorAnswer as error:
            raise event_error(error.body, metadata, secrets) from None
        except UNREADABLE as error:
            raise unreadable(content, error, metadata, secrets) from error

    def _after_failure(self, visit: Visit, error: TGIError) -> Flow[Visit]:
        """The visit to go on with; raises ``error`` if that is the end."""
        retries = max(0, self._attempts - 1)
        policy = self._policy(visit.state)
        asked_s = error.retry_after_s if isinstance(error, APIStatusError) and policy.wants(error, -1) else None
        is_too_long = asked_s is not None and asked_s > policy.max_retry_after
        visit.end_attempt(error, None if is_too_long else asked_s)
        is_down = isinstance(error, CircuitOpenError)
        if not (is_down or policy.wants(error, retries)):
            raise error
        self._tried.add(visit.state.id)
        elsewhere = self._enter_elsewhere()
        if elsewhere is not None:
            visit.fail(error, is_failover=True)
            self._last_error = error
            return elsewhere
        if is_down:
            raise error from self._last_error
        if is_too_long:
            raise error
        self._last_error = error
        self._tried.clear()
        delay_s = policy.delay(error, retries)
        left_s = self.time_left()
        if left_s is not None and delay_s >= left_s:
            raise error
        logger.info(
            "%s at %s: attempt %d failed (%s), next in %.2f s",
            self.call.path,
            visit.state.id,
            self._attempts,
            error,
            delay_s,
            extra=self._log_fields(visit.state),
        )
        if asked_s is None:
            yield Sleep(delay_s)
        self._pause_s = asked_s or 0.0
        visit.rejoin(self._new_signal)
        return visit

    def _render(self, state: EndpointState) -> Outgoing:
        headers: dict[str, str] = {**self.options.extra_headers, "X-Request-ID": self.request_id}
        if self._attempts > 1:
            headers["X-Retry-Count"] = str(self._attempts - 1)
        request = render(self.call, state, headers, self._timeout())
        if logger.isEnabledFor(logging.DEBUG):
            text = redact(request.content.decode(), self._secrets(state))
            fields = self._log_fields(state)
            logger.debug("%s %s at %s: %s", request.method, self.call.path, state.id, text, extra=fields)
        return request

    def _secrets(self, state: EndpointState) -> tuple[str, ...]:
        return state.secrets + secrets_of({name.lower(): value for name, value in self.options.extra_headers.items()})

    def _timeout(self) -> httpx.Timeout:
        timeout, left = httpx.Timeout(self.options.timeout), self.time_left()
        if left is None:
            return timeout
        left = max(left, MIN_TIMEOUT_S)
        limits = timeout.as_dict().items()
        return httpx.Timeout(**{phase: left if limit is None else min(limit, left) for phase, limit in limits})

    def _metadata(self, state: EndpointState, response: httpx.Response) -> ResponseMetadata:
        return ResponseMetadata(
            status=response.status_code,
            headers=response.headers,
            request_id=self.request_id,
            elapsed=self.pool.clock() - self._began,
            attempts=self._attempts,
            endpoint=state.id,
            queue_wait=self._queue_wait_s,
        )

    def _broken(self, error: Exception) -> TGIError:
        return transport_error(error, self._deadline is not None and self.time_left() == 0)

    def _log_fields(self, state: EndpointState) -> Mapping[str, Any]:
        return {"request_id": self.request_id, "endpoint": state.id, "attempt": self._attempts}


_PHASES = {
    httpx.ConnectTimeout: "connect",
    httpx.ReadTimeout: "read",
    httpx.WriteTimeout: "write",
    httpx.PoolTimeout: "pool",
}


def transport_error(error: Exception, is_deadline: bool) -> TGIError:
    """Ours for what httpx, or a deadline, raised."""
    if isinstance(error, httpx.TimeoutException) and not is_deadline:
        phase = _PHASES.get(type(error), "read")
        return APITimeoutError(f"timed out ({phase})", phase=phase)
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return APITimeoutError("the deadline passed", phase="deadline")
    return APIConnectionError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
