"""One server with one key: its settings, and what goes on there."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from segue.client._failures import secrets_of
from segue.client._urls import Dialect, Urls
from segue.client.breaker import BreakerPolicy, CircuitBreaker
from segue.client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    CircuitOpenError,
    QueueFullError,
    QueueTimeoutError,
    TGIError,
)
from segue.client.limiter import Guard, Limiter, LineFull, Place, PlaceState, Signal
from segue.client.retry import RetryPolicy
from segue.client.stats import Counters, EndpointStats, sums
from segue.client.types import Usage

__all__ = ["Endpoint", "EndpointState", "Visit"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, with which key, and how many at a time.

    Several endpoints may share a URL with different keys, or a key with different URLs.
    """

    url: str
    """Root of a server (``http://host:8080``), with or without a path; ``…/generate`` and ``…/v1`` mean the same
    server. The URL of a model on Hugging Face's hosted API is used as it is."""
    id: str | None = field(default=None, kw_only=True)
    """Default: host and port, numbered where they repeat."""
    api_key: str | None = field(default=None, kw_only=True, repr=False)
    model: str | None = field(default=None, kw_only=True)
    """Sent as ``model`` on the OpenAI routes; completes the URL of the hosted API."""
    max_concurrent: int = field(default=8, kw_only=True)
    queue_size: int | None = field(default=100, kw_only=True)
    """Requests that may wait for a slot; None: any number."""
    queue_enabled: bool = field(default=True, kw_only=True)
    """False: no waiting, QueueFullError as soon as all slots are taken."""
    queue_timeout: float | None = field(default=300.0, kw_only=True)
    """Seconds a request waits for a slot before QueueTimeoutError."""
    retry: RetryPolicy | None = field(default=None, kw_only=True)
    """Default: the client's."""
    breaker: BreakerPolicy = field(default=BreakerPolicy(), kw_only=True)
    weight: float = field(default=1, kw_only=True)
    """Share of the traffic, for the strategies weighted and least_loaded."""
    dialect: Literal["auto", "tgi", "hosted"] = field(default="auto", kw_only=True)
    """hosted: ``generate`` posts to the URL itself. auto: hosted for Hugging Face's hosts, else tgi."""
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an endpoint's url must start with http:// or https:// and name a host. Given: {self}")
        if self.max_concurrent < 1:
            raise ValueError(f"max_concurrent must be >= 1. Given: {self.max_concurrent}")
        if self.queue_size is not None and self.queue_size < 0:
            raise ValueError(f"queue_size must be >= 0 or None. Given: {self.queue_size}")
        if self.weight <= 0:
            raise ValueError(f"weight must be > 0. Given: {self.weight}")

    def __repr__(self) -> str:
        return f"Endpoint({self.display_url!r}, id={self.id!r}, model={self.model!r})"

    @property
    def display_url(self) -> str:
        """The URL without what may be secret in it: user, password and query."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class EndpointState:
    """What goes on at an endpoint: its line, breaker and counters, under one lock.

    May be used from any thread and event loop. ``clock`` gives monotonic seconds.
    """

    def __init__(self, endpoint: Endpoint, id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.id = id
        self.clock = clock
        self.guard = Guard()
        self.counters = Counters(time.time())
        self.limiter = Limiter(endpoint.max_concurrent, endpoint.queue_size)
        self.breaker = CircuitBreaker(endpoint.breaker)
        self.configure(endpoint)

    def configure(self, endpoint: Endpoint) -> None:
        """Take new settings; requests in the line keep their places."""
        self.endpoint = endpoint
        self.urls = Urls(endpoint.url, Dialect(endpoint.dialect), endpoint.model)
        self.headers = {name.lower(): value for name, value in endpoint.headers.items()}
        if endpoint.api_key:
            self.headers["authorization"] = f"Bearer {endpoint.api_key}"
        self.secrets = secrets_of(self.headers)
        queue_size = endpoint.queue_size if endpoint.queue_enabled else 0
        with self.guard:
            self.limiter.max_concurrent, self.limiter.queue_size = endpoint.max_concurrent, queue_size
            self.breaker.policy = endpoint.breaker
            self.limiter.dispatch(self.clock())

    def is_available(self, now: float) -> bool:
        """Whether a request that came now would be tried here at all."""
        return self.breaker.would_admit(now)

    def is_paused(self, now: float) -> bool:
        return self.limiter.paused_until > now

    @property
    def load(self) -> float:
        return (self.limiter.running + self.limiter.waiting + self.limiter.away) / self.endpoint.weight

    def enter(self, place: Place, new_signal: Callable[[], Signal]) -> "Visit":
        """Raises QueueFullError and CircuitOpenError; nothing is counted then."""
        now = self.clock()
        with self.guard:
            if not self.breaker.would_admit(now):
                raise self.circuit_open()
            try:
                self.limiter.join(place, new_signal, now)
            except LineFull:
                limit = self.limiter.queue_size
                raise QueueFullError(f"Request queue is full ({limit} items). Try again later.") from None
            self.counters.total_requests += 1
            self.counters.last_request_at = time.time()
        return Visit(self, place, now)

    def count_refusal(self, error: TGIError) -> None:
        """A request that could enter nowhere fails here."""
        with self.guard:
            self.counters.total_requests += 1
            self.counters.failed_requests += 1
            self.counters.last_request_at = time.time()
            self._count_error(error)

    def mark_health(self, is_healthy: bool) -> None:
        """An answer, or none, of ``/health`` opens or closes the circuit."""
        with self.guard:
            if is_healthy:
                self.breaker.close()
            elif self.breaker.policy.failure_threshold is not None:
                self.breaker.open(self.clock())

    def stats(self) -> EndpointStats:
        with self.guard:
            return self.stats_locked()

    def stats_locked(self) -> EndpointStats:
        return EndpointStats(
            endpoint_id=self.id,
            model=self.endpoint.model,
            created_at=self.counters.created_at,
            last_request_at=self.counters.last_request_at,
            current_requests=self.limiter.running,
            current_queue_size=self.limiter.waiting + self.limiter.away,
            breaker_state=str(self.breaker.state(self.clock())),
            **sums([self.counters]),
        )

    def reset_stats(self) -> None:
        """Start counting anew; requests that are under way belong to the new count."""
        with self.guard:
            created_at = self.counters.created_at
            self.counters = Counters(created_at)
            self.counters.total_requests = self.limiter.running + self.limiter.waiting + self.limiter.away

    def circuit_open(self) -> CircuitOpenError:
        retry_in_s = self.breaker.retry_in_s(self.clock())
        return CircuitOpenError(
            f"endpoint {self.id} failed repeatedly; it is tried again in {retry_in_s:.1f} s", retry_in_s=retry_in_s
        )

    def _count_error(self, error: TGIError) -> None:
        self.counters.errors_by_type[type(error).__name__] += 1
        if isinstance(error, QueueFullError):
            self.counters.queue_rejected += 1
        elif isinstance(error, QueueTimeoutError):
            self.counters.queue_timeouts += 1


class Visit:
    """One request's stay at one endpoint: through the line, one or more attempts, and exactly one way out."""

    __slots__ = ("_attempt_began", "_place", "_state", "_waiting_since")

    def __init__(self, state: EndpointState, place: Place, now: float) -> None:
        self._state = state
        self._place = place
        self._waiting_since = now
        self._attempt_began = now

    @property
    def state(self) -> EndpointState:
        return self._state

    @property
    def signal(self) -> Signal:
        assert self._place.signal is not None
        return self._place.signal

    def poll(self) -> tuple[bool, float | None]:
        """Whether the slot is ours, and else after how many seconds to ask again (None: when woken)."""
        state = self._state
        now = state.clock()
        with state.guard:
            check_in_s = state.limiter.check_in_s(now)
            # Of a pause ``dispatch`` tells the head of the line, which may be who asks: it would never sleep.
            if check_in_s is None:
                state.limiter.dispatch(now)
            return self._place.state is PlaceState.RUNNING, check_in_s

    def begin_attempt(self, is_retry: bool) -> float:
        """Ask the breaker; returns the seconds waited for the slot. Raises CircuitOpenError."""
        state = self._state
        now = state.clock()
        with state.guard:
            if not state.breaker.admit(self, now):
                raise state.circuit_open()
            waited = now - self._waiting_since
            state.counters.queue_wait.add(waited)
            state.counters.attempts += 1
            state.counters.retries += is_retry
            self._attempt_began = now
        return waited

    def count_first_event(self) -> None:
        state = self._state
        with state.guard:
            state.counters.streams += 1
            state.counters.first_token.add(state.clock() - self._attempt_began)

    def end_attempt(self, error: TGIError, pause_s: float | None) -> None:
        """If an attempt failed, not the waiting: tell the breaker, give the slot back, keep the place.

        With ``pause_s`` the server asked to be left alone: nobody gets a slot here for that long.
        """
        state = self._state
        now = state.clock()
        with state.guard:
            if self._place.state is not PlaceState.RUNNING:
                return
            self._judge(error, now)
            if isinstance(error, APIStatusError) and error.status_code == 429:
                state.counters.rate_limited += 1
            if pause_s is not None:  # before the slot is free, or the next in the line would have it
                state.limiter.pause(now + pause_s, now)
            state.limiter.step_aside(self._place, now)

    def rejoin(self, new_signal: Callable[[], Signal]) -> None:
        state = self._state
        now = self._waiting_since = state.clock()
        with state.guard:
            state.limiter.join(self._place, new_signal, now)

    def succeed(self, usage: Usage | None) -> None:
        state = self._state
        now = state.clock()
        with state.guard:
            if self._place.state is PlaceState.GONE:
                return
            state.breaker.succeed(self)
            state.counters.successful_requests += 1
            state.counters.latency.add(now - self._attempt_began)
            if usage is not None:
                state.counters.add_usage(usage)
            state.limiter.leave(self._place, now)

    def fail(self, error: TGIError, *, is_failover: bool = False) -> None:
        state = self._state
        now = state.clock()
        with state.guard:
            if self._place.state is PlaceState.GONE:
                return
            if self._place.state is PlaceState.RUNNING:
                self._judge(error, now)
            state.counters.failed_requests += 1
            state.counters.failovers += is_failover
            state._count_error(error)
            state.limiter.leave(self._place, now)

    def cancel(self) -> None:
        """The caller went away; from anywhere, also twice."""
        with self._state.guard:
            self._cancel()

    def abandon(self) -> None:
        """``cancel`` for finalizers."""
        self._state.guard.defer(self._cancel)

    def _cancel(self) -> None:
        if self._place.state is PlaceState.GONE:
            return
        state = self._state
        state.breaker.drop(self)
        state.counters.failed_requests += 1
        state.counters.cancelled += 1
        state.limiter.leave(self._place, state.clock())

    def _judge(self, error: TGIError, now: float) -> None:
        breaker = self._state.breaker
        if isinstance(error, APIStatusError):
            if error.status_code >= 500:
                breaker.fail(self, now)
            else:
                breaker.succeed(self)
        elif isinstance(error, APIConnectionError) and not _is_deadline(error):
            breaker.fail(self, now)
        else:
            breaker.drop(self)


def _is_deadline(error: APIConnectionError) -> bool:
    """The caller's own limit says nothing about the server."""
    return isinstance(error, APITimeoutError) and error.phase == "deadline"
