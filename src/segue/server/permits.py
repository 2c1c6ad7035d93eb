"""How many sequences may run at a time: the count of one process, and of several together."""

import mmap
from pathlib import Path
from typing import Protocol

__all__ = ["OwnPermits", "Permits", "SharedPermits"]

_SLOT_BYTES = 8


class Permits(Protocol):
    """A number of permits to take from; never waits."""

    def take(self, count: int) -> bool:
        """Whether there were as many, which are the caller's until ``give_back``."""

    def give_back(self, count: int) -> None: ...


class OwnPermits:
    """Of this process alone."""

    def __init__(self, total: int) -> None:
        self._num_free = total

    def take(self, count: int) -> bool:
        if count > self._num_free:
            return False
        self._num_free -= count
        return True

    def give_back(self, count: int) -> None:
        self._num_free += count


class SharedPermits:
    """Of ``num_processes`` processes together.

    Each writes how many it holds to a place of its own, and reads all. Two that take the last ones in the same
    microsecond both get theirs: there may be more than ``total`` by what the others take at that moment.
    """

    def __init__(self, path: Path, index: int, num_processes: int, total: int) -> None:
        """``path`` is the same for all; ``index`` counts from 0."""
        size = num_processes * _SLOT_BYTES
        with path.open("a+b") as file:
            file.truncate(size)
            self._held = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        self._index = index
        self._total = total

    def take(self, count: int) -> bool:
        if sum(self._held) + count > self._total:
            return False
        self._held[self._index] += count
        return True

    def give_back(self, count: int) -> None:
        self._held[self._index] -= count
