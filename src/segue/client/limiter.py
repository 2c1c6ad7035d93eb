"""Slots, and a line in front of them: first come, first served, for threads and event loops alike.

``Limiter`` is the state, without lock, clock or I/O. Who waits holds a ``Place`` and sleeps on its ``Signal``, of which
there are two kinds; nobody polls. ``Guard`` is the lock around it.
"""

import asyncio
import heapq
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Protocol

__all__ = ["Guard", "Limiter", "LineFull", "LoopSignal", "Place", "PlaceState", "Signal", "ThreadSignal"]


class Signal(Protocol):
    def set(self) -> bool:
        """Wake the waiter, now or when it next waits; from any thread. False if it can never wake."""
        ...


class ThreadSignal:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> bool:
        self._event.set()
        return True

    def wait(self, timeout_s: float | None) -> None:
        """Return when set (and clear it), or after ``timeout_s``."""
        self._event.wait(timeout_s)
        self._event.clear()


class LoopSignal:
    """Made inside the event loop whose task will wait."""

    __slots__ = ("_event", "_loop", "_thread_id")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._event = asyncio.Event()

    def set(self) -> bool:
        if self._loop.is_closed():
            return False
        if threading.get_ident() == self._thread_id:
            self._event.set()
            return True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # closed in between
            return False
        return True

    async def wait(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


class PlaceState(Enum):
    NEW = auto()
    WAITING = auto()  # in the line
    RUNNING = auto()  # has a slot
    AWAY = auto()  # between two attempts: no slot, not in the line, but admitted
    GONE = auto()


class Place:
    """One request's place. Lower ``priority`` goes first; inside one, the lower ``number``: the order of arrival."""

    __slots__ = ("number", "priority", "signal", "state")

    def __init__(self, priority: int, number: int) -> None:
        self.priority = priority
        self.number = number
        self.signal: Signal | None = None
        self.state = PlaceState.NEW

    def __lt__(self, other: "Place") -> bool:
        return (self.priority, self.number) < (other.priority, other.number)


class LineFull(Exception):
    pass


class Limiter:
    """Invariants: ``running`` places are RUNNING; ``waiting`` places of the heap are WAITING, all others there GONE;
    if a slot is free and the line not paused, nobody waits; while it is paused and a slot is free, the head knows.
    """

    __slots__ = ("_line", "away", "max_concurrent", "paused_until", "queue_size", "running", "waiting")

    def __init__(self, max_concurrent: int, queue_size: int | None) -> None:
        self.max_concurrent = max_concurrent
        self.queue_size = queue_size
        self.running = 0
        self.waiting = 0
        self.away = 0
        self.paused_until = 0.0
        self._line: list[Place] = []

    def join(self, place: Place, new_signal: Callable[[], Signal], now: float) -> None:
        """Take a slot if one is free for ``place``, else a place in the line.

        A place that comes back from being AWAY is admitted whatever the length of the line.
        """
        assert place.state in (PlaceState.NEW, PlaceState.AWAY), place.state
        runs = self._runs_at_once(place, now)
        if place.state is PlaceState.AWAY:
            self.away -= 1
        elif not runs and self.queue_size is not None and self.waiting + self.away >= self.queue_size:
            raise LineFull
        if runs:
            place.state = PlaceState.RUNNING
            self.running += 1
            return
        place.signal = place.signal or new_signal()
        place.state = PlaceState.WAITING
        self.waiting += 1
        heapq.heappush(self._line, place)
        self._nudge(now)

    def leave(self, place: Place, now: float) -> None:
        """Give up whatever ``place`` holds; twice is once."""
        state, place.state = place.state, PlaceState.GONE
        if state is PlaceState.RUNNING:
            self.running -= 1
            self.dispatch(now)
        elif state is PlaceState.AWAY:
            self.away -= 1
        elif state is PlaceState.WAITING:
            self.waiting -= 1
            if len(self._line) > 64 and len(self._line) > 2 * self.waiting:
                self._line = [waiting for waiting in self._line if waiting.state is PlaceState.WAITING]
                heapq.heapify(self._line)
            self._nudge(now)

    def step_aside(self, place: Place, now: float) -> None:
        """Give the slot back between two attempts, keeping the right to return in the order of arrival."""
        assert place.state is PlaceState.RUNNING, place.state
        place.state = PlaceState.AWAY
        self.running -= 1
        self.away += 1
        self.dispatch(now)

    def pause(self, until: float, now: float) -> None:
        """Nobody gets a slot before ``until``."""
        self.paused_until = max(self.paused_until, until)
        self._nudge(now)

    def resume(self, now: float) -> None:
        self.paused_until = 0.0
        self.dispatch(now)

    def dispatch(self, now: float) -> None:
        """Hand free slots to the head of the line."""
        while self.running < self.max_concurrent and now >= self.paused_until:
            head = self._head()
            if head is None:
                return
            heapq.heappop(self._line)
            self.waiting -= 1
            assert head.signal is not None
            if head.signal.set():
                head.state = PlaceState.RUNNING
                self.running += 1
            else:
                head.state = PlaceState.GONE  # its event loop is closed
        self._nudge(now)

    def check_in_s(self, now: float) -> float | None:
        """After how long a waiter must call ``dispatch`` itself: a pause ends without anybody's doing."""
        return self.paused_until - now if self.paused_until > now else None

    def _runs_at_once(self, place: Place, now: float) -> bool:
        if self.running >= self.max_concurrent or now < self.paused_until:
            return False
        head = self._head()
        return head is None or place < head

    def _head(self) -> Place | None:
        line = self._line
        while line and line[0].state is not PlaceState.WAITING:
            heapq.heappop(line)
        return line[0] if line else None

    def _nudge(self, now: float) -> None:
        """Let the head see that the line is paused, so that it wakes itself when the pause ends."""
        while now < self.paused_until and (head := self._head()) is not None:
            assert head.signal is not None
            if head.signal.set():
                return
            heapq.heappop(self._line)
            self.waiting -= 1
            head.state = PlaceState.GONE


class Guard:
    """A lock that finalizers can use.

    A finalizer may run on the very thread that holds the lock, in the middle of its work; so it must neither block nor
    enter. It defers its work to the holder, who does it on the way out.
    """

    __slots__ = ("_deferred", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deferred: deque[Callable[[], None]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()
        if self._deferred:
            self._drain()

    def defer(self, work: Callable[[], None]) -> None:
        self._deferred.append(work)
        self._drain()

    def _drain(self) -> None:
        while self._deferred and self._lock.acquire(blocking=False):
            try:
                while self._deferred:
                    self._deferred.popleft()()
            finally:
                self._lock.release()
