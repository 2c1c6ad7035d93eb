"""Several endpoints behind one client: which one gets a request."""

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from segue.client.endpoint import Endpoint, EndpointState, Visit
from segue.client.errors import CircuitOpenError, QueueFullError
from segue.client.limiter import Place, Signal
from segue.client.stats import EndpointStats, PoolStats, sums

__all__ = ["EndpointPool", "StrategyName"]

StrategyName = Literal["least_loaded", "round_robin", "lru", "weighted", "random", "first"]

Refusal = tuple[EndpointState, QueueFullError | CircuitOpenError]
# Orders endpoints, the best first; the list is never empty. Called under the pool's lock.
_Strategy = Callable[["EndpointPool", list[EndpointState]], list[EndpointState]]


class EndpointPool:
    """Endpoints, and a strategy that spreads requests over them. Safe to share between threads, loops and clients.

    ==============  ==========================================================================
    least_loaded    fewest requests running and waiting, in proportion to ``weight``
    round_robin     one after the other
    lru             the one that was chosen longest ago
    weighted        ``weight`` requests of every ``sum(weights)``, evenly interleaved
    random          any, with equal chances
    first           the first that is not down: the others are spares
    ==============  ==========================================================================

    A request with a ``session`` goes to the same endpoint as the others of its session for as long as that one is up
    (so that its prefix cache is hit), whatever the strategy.
    Endpoints whose circuit is open are left out; those that a ``Retry-After`` has paused come last.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint | str] = (),
        strategy: StrategyName | str = "least_loaded",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        name = strategy.replace("-", "_")
        if name not in _STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(get_args(StrategyName))}. Given: {strategy}")
        self.strategy = name
        self.clock = clock
        self._lock = threading.Lock()
        self._states: dict[str, EndpointState] = {}
        self._last_chosen: dict[str, int] = {}
        self._credit: dict[str, float] = {}
        self._turn = itertools.count(1)
        self._arrival = itertools.count()
        for endpoint in endpoints:
            self.add(endpoint)

    def __repr__(self) -> str:
        return f"EndpointPool({[state.endpoint for state in self._states.values()]!r}, strategy={self.strategy!r})"

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, id: object) -> bool:
        return id in self._states

    @property
    def ids(self) -> list[str]:
        return list(self._states)

    def add(self, endpoint: Endpoint | str) -> str:
        """Take an endpoint in; returns its id. Raises ValueError if the id is taken."""
        if isinstance(endpoint, str):
            endpoint = Endpoint(endpoint)
        with self._lock:
            id = endpoint.id or self._free_id(urlsplit(endpoint.url).netloc.rpartition("@")[2])
            if id in self._states:
                raise ValueError(f"there is an endpoint {id!r} already")
            self._states = {**self._states, id: EndpointState(replace(endpoint, id=id), id, self.clock)}
        return id

    def remove(self, id: str) -> None:
        """No new requests go there; those under way end as usual. Raises KeyError."""
        with self._lock:
            self._known(id)
            self._states = {key: state for key, state in self._states.items() if key != id}
            self._last_chosen.pop(id, None)
            self._credit.pop(id, None)

    def update(self, id: str, /, **changes: Any) -> Endpoint:
        """Change settings of an endpoint; requests in its line keep their places. Raises KeyError, TypeError."""
        state = self._known(id)
        if "id" in changes:
            raise TypeError("an endpoint keeps its id")
        endpoint = replace(state.endpoint, **changes)
        state.configure(endpoint)
        return endpoint

    def get(self, id: str) -> Endpoint:
        """Settings of an endpoint. Raises KeyError."""
        return self._known(id).endpoint

    def state(self, id: str) -> EndpointState:
        """What goes on at an endpoint. Raises KeyError."""
        return self._known(id)

    def states(self) -> list[EndpointState]:
        return list(self._states.values())

    def arrival_number(self) -> int:
        return next(self._arrival)

    def candidates(
        self, *, pinned: str | None = None, session: str | None = None, tried: Collection[str] = ()
    ) -> list[EndpointState]:
        """Endpoints that may be asked now, the best first; empty if all are tried or down. Raises KeyError."""
        now = self.clock()
        if pinned is not None:
            state = self._known(pinned)
            return [] if pinned in tried or not state.is_available(now) else [state]
        usable = [state for state in self._states.values() if state.id not in tried and state.is_available(now)]
        if len(usable) > 1:
            with self._lock:
                usable = (
                    _by_session(session, usable) if session is not None else _STRATEGIES[self.strategy](self, usable)
                )
                usable.sort(key=lambda state: state.is_paused(now))
                self._last_chosen[usable[0].id] = next(self._turn)
        return usable

    def enter(
        self,
        number: int,
        new_signal: Callable[[], Signal],
        *,
        priority: int = 0,
        pinned: str | None = None,
        session: str | None = None,
    ) -> Visit:
        """A place in the line of the best endpoint that has one; ``number`` is the ``arrival_number`` of the request.

        Raises QueueFullError, CircuitOpenError, KeyError (no such endpoint), ValueError (none at all).
        """
        entered = self.try_enter(number, new_signal, priority=priority, pinned=pinned, session=session)
        if isinstance(entered, Visit):
            return entered
        if entered:
            state, refusal = entered[0]
        else:
            state = self.fallback(pinned)
            refusal = state.circuit_open()
        refusal.endpoint = state.id
        state.count_refusal(refusal)
        raise refusal

    def try_enter(
        self,
        number: int,
        new_signal: Callable[[], Signal],
        *,
        priority: int = 0,
        pinned: str | None = None,
        session: str | None = None,
        tried: Collection[str] = (),
    ) -> Visit | list[Refusal]:
        """``enter`` without the endpoints ``tried``; returns the refusals, and counts none. Raises KeyError."""
        refusals: list[Refusal] = []
        for state in self.candidates(pinned=pinned, session=session, tried=tried):
            try:
                return state.enter(Place(priority, number), new_signal)
            except (QueueFullError, CircuitOpenError) as error:
                refusals.append((state, error))
        return refusals

    def stats(self) -> PoolStats:
        """Of all endpoints, taken in one moment."""
        states = self.states()
        with ExitStack() as stack:
            for state in states:
                stack.enter_context(state.guard)
            endpoints = {state.id: state.stats_locked() for state in states}
            added = sums([state.counters for state in states])
        added["total_requests"] -= added["failovers"]
        added["failed_requests"] -= added["failovers"]
        return PoolStats(
            endpoints=endpoints,
            endpoints_count=len(endpoints),
            global_queue_size=sum(stats.current_queue_size for stats in endpoints.values()),
            global_current_requests=sum(stats.current_requests for stats in endpoints.values()),
            **added,
        )

    def endpoint_stats(self, id: str) -> EndpointStats:
        """Raises KeyError."""
        return self._known(id).stats()

    def reset_stats(self, id: str | None = None) -> None:
        """Raises KeyError."""
        for state in self.states() if id is None else [self._known(id)]:
            state.reset_stats()

    def _known(self, id: str) -> EndpointState:
        try:
            return self._states[id]
        except KeyError:
            raise KeyError(f"no endpoint {id!r}; there are: {', '.join(self._states) or 'none'}") from None

    def _free_id(self, name: str) -> str:
        numbered = itertools.chain([name], (f"{name}#{number}" for number in itertools.count(2)))
        return next(id for id in numbered if id not in self._states)

    def fallback(self, pinned: str | None = None) -> EndpointState:
        """Where to ask when nobody is available: the endpoint that will be first. Raises ValueError, KeyError."""
        states = self.states() if pinned is None else [self._known(pinned)]
        if not states:
            raise ValueError("the pool has no endpoint")
        now = self.clock()
        return min(states, key=lambda state: state.breaker.retry_in_s(now))


def _by_session(session: str, states: list[EndpointState]) -> list[EndpointState]:
    """Rendezvous hashing (Thaler and Ravishankar 1998): an endpoint that goes moves its own sessions only."""
    return sorted(
        states,
        key=lambda state: hashlib.blake2b(f"{state.id}\0{session}".encode(), digest_size=8).digest(),
        reverse=True,
    )


def _least_loaded(pool: EndpointPool, states: list[EndpointState]) -> list[EndpointState]:
    return sorted(states, key=lambda state: (state.load, pool._last_chosen.get(state.id, 0)))


def _round_robin(pool: EndpointPool, states: list[EndpointState]) -> list[EndpointState]:
    order = list(pool._states)
    last = max(order, key=lambda id: pool._last_chosen.get(id, 0))
    start = order.index(last) + 1 if pool._last_chosen.get(last) else 0
    return sorted(states, key=lambda state: (order.index(state.id) - start) % len(order))


def _least_recently_used(pool: EndpointPool, states: list[EndpointState]) -> list[EndpointState]:
    return sorted(states, key=lambda state: pool._last_chosen.get(state.id, 0))


def _weighted(pool: EndpointPool, states: list[EndpointState]) -> list[EndpointState]:
    """Smooth weighted round robin (nginx 1.3.1): weights 5, 1, 1 give a a b a c a a."""
    for state in states:
        pool._credit[state.id] = pool._credit.get(state.id, 0.0) + state.endpoint.weight
    ranked = sorted(states, key=lambda state: -pool._credit[state.id])
    pool._credit[ranked[0].id] -= sum(state.endpoint.weight for state in states)
    return ranked


def _random(pool: EndpointPool, states: list[EndpointState]) -> list[EndpointState]:
    return random.sample(states, len(states))


def _first(pool: EndpointPool, states: list[EndpointState]) -> list[EndpointState]:
    return states


_STRATEGIES: Mapping[str, _Strategy] = {
    "least_loaded": _least_loaded,
    "round_robin": _round_robin,
    "lru": _least_recently_used,
    "weighted": _weighted,
    "random": _random,
    "first": _first,
}
