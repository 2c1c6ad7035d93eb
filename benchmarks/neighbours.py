"""How much of the processors others use while something is measured."""

import os
import time
from collections.abc import Collection

from server import cpu_seconds

__all__ = ["Neighbours"]


class Neighbours:
    """All processes that do not belong to a measurement."""

    def __init__(self, own: Collection[int]) -> None:
        self._own = {os.getpid(), *own}
        self._before: dict[int, float] = {}
        self._started = 0.0

    def watch(self) -> None:
        """Begin."""
        self._before = self._seconds()
        self._started = time.perf_counter()

    def share(self) -> float:
        """Of one processor, since ``watch``; 2 where others used two all the time."""
        elapsed = time.perf_counter() - self._started
        used = sum(seconds - self._before.get(pid, 0.0) for pid, seconds in self._seconds().items())
        return used / elapsed

    def _seconds(self) -> dict[int, float]:
        found = {}
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) not in self._own:
                try:
                    found[int(name)] = cpu_seconds(int(name))
                except OSError:  # it ended just now
                    continue
        return found
