"""Counters, gauges, histograms and summaries, and their Prometheus text.

Not ``prometheus_client``'s: it forces ``_total`` onto counters, which TGI's names do not have, has no quantiles in
summaries, and finds a histogram's bucket by walking all of them (1024 for ``tgi_batch_next_size``) at every step.
All methods belong to the event loop's thread.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import ceil
from typing import Any, Protocol

__all__ = [
    "Buckets",
    "Counter",
    "Gauge",
    "Histogram",
    "Instrument",
    "Mergeable",
    "Summary",
    "exposition",
    "geometric",
    "linear",
]


class Instrument(Protocol):
    """One metric family."""

    name: str
    kind: str
    help: str

    def samples(self) -> Iterable[tuple[str, str, float]]:
        """(suffix of the name, labels as ``{a="b"}`` or nothing, value)."""


class Mergeable(Instrument, Protocol):
    """One whose parts in several processes make a whole."""

    def state(self) -> Any:
        """For MessagePack."""

    def add_state(self, state: Any) -> None:
        """Count what another process's counted, too."""


class Counter:
    """A number that only grows, one for each value of its label."""

    kind = "counter"

    def __init__(self, name: str, help: str, label: str | None = None, values: Sequence[str] = ("",)) -> None:
        self.name = name
        self.help = help
        self._label = label
        self._counts = dict.fromkeys(values, 0)

    def add(self, amount: int = 1, value: str = "") -> None:
        self._counts[value] += amount

    def samples(self) -> Iterable[tuple[str, str, float]]:
        return [("", _labels(self._label, value), count) for value, count in self._counts.items()]

    def state(self) -> dict[str, int]:
        return self._counts

    def add_state(self, state: dict[str, int]) -> None:
        for value, count in state.items():
            self._counts[value] += count


class Gauge:
    """A number that goes up and down."""

    kind = "gauge"

    def __init__(self, name: str, help: str) -> None:
        self.name = name
        self.help = help
        self.value: float = 0

    def samples(self) -> Iterable[tuple[str, str, float]]:
        return [("", "", self.value)]


class Histogram:
    """How often a value fell into each bucket, for each value of its label."""

    kind = "histogram"

    def __init__(
        self, name: str, help: str, bounds: Sequence[float], label: str | None = None, values: Sequence[str] = ("",)
    ) -> None:
        """``bounds``: ascending upper bounds, inclusive; ``+Inf`` is added."""
        self.name = name
        self.help = help
        self._bounds = list(bounds)
        self._label = label
        self._counts = {value: [0] * (len(bounds) + 1) for value in values}
        self._sums = dict.fromkeys(values, 0.0)

    def observe(self, amount: float, value: str = "", times: int = 1) -> None:
        self._counts[value][bisect_left(self._bounds, amount)] += times
        self._sums[value] += amount * times

    def samples(self) -> Iterable[tuple[str, str, float]]:
        for value, counts in self._counts.items():
            cumulative = list(accumulate(counts))
            for bound, count in zip([*self._bounds, float("inf")], cumulative, strict=True):
                yield "_bucket", _labels(self._label, value, f'le="{_number(bound)}"'), count
            yield "_sum", _labels(self._label, value), self._sums[value]
            yield "_count", _labels(self._label, value), cumulative[-1]

    def state(self) -> tuple[dict[str, list[int]], dict[str, float]]:
        return self._counts, self._sums

    def add_state(self, state: tuple[dict[str, list[int]], dict[str, float]]) -> None:
        counts, sums = state
        for value, own in self._counts.items():
            self._counts[value] = [mine + other for mine, other in zip(own, counts[value], strict=True)]
            self._sums[value] += sums[value]


class Buckets:
    """Those of a histogram alone, to stand beside a summary of the same name, which has the sum and the count."""

    kind = "counter"

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name = f"{name}_bucket"
        self.help = help
        self._histogram = Histogram(name, help, bounds)

    def observe(self, amount: float, times: int = 1) -> None:
        self._histogram.observe(amount, times=times)

    def samples(self) -> Iterable[tuple[str, str, float]]:
        for suffix, labels, value in self._histogram.samples():
            if suffix == "_bucket":
                yield "", labels, value

    def state(self) -> Any:
        return self._histogram.state()

    def add_state(self, state: Any) -> None:
        self._histogram.add_state(state)


class Summary:
    """Quantiles of small whole numbers seen lately: between half a window and one window back."""

    kind = "summary"

    def __init__(
        self,
        name: str,
        help: str,
        quantiles: Sequence[float],
        window_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.help = help
        self._quantiles = quantiles
        self._half_window_s = window_s / 2
        self._clock = clock
        self._older: dict[int, int] = {}
        self._newer: dict[int, int] = {}
        self._newer_since = clock()
        self._sum = 0
        self._count = 0

    def observe(self, amount: int, times: int = 1) -> None:
        self._turn()
        self._newer[amount] = self._newer.get(amount, 0) + times
        self._sum += amount * times
        self._count += times

    def samples(self) -> Iterable[tuple[str, str, float]]:
        self._turn()
        amounts = sorted({*self._older, *self._newer})
        cumulative = list(accumulate(self._older.get(each, 0) + self._newer.get(each, 0) for each in amounts))
        for quantile in self._quantiles:
            value = 0
            if cumulative:
                value = amounts[bisect_left(cumulative, max(1, ceil(quantile * cumulative[-1])))]
            yield "", _labels(None, "", f'quantile="{_number(quantile)}"'), value
        yield "_sum", "", self._sum
        yield "_count", "", self._count

    def state(self) -> tuple[dict[int, int], int, int]:
        """What was seen lately, the sum and the count."""
        self._turn()
        return _summed(self._older, self._newer), self._sum, self._count

    def add_state(self, state: tuple[dict[int, int], int, int]) -> None:
        lately, total, count = state
        self._newer = _summed(self._newer, lately)
        self._sum += total
        self._count += count

    def _turn(self) -> None:
        age_s = self._clock() - self._newer_since
        if age_s >= self._half_window_s:
            self._older = self._newer if age_s < 2 * self._half_window_s else {}
            self._newer = {}
            self._newer_since += age_s


def exposition(instruments: Iterable[Instrument]) -> bytes:
    """Prometheus' text format 0.0.4."""
    lines: list[str] = []
    for each in instruments:
        lines.append(f"# HELP {each.name} {each.help}")
        lines.append(f"# TYPE {each.name} {each.kind}")
        lines.extend(f"{each.name}{suffix}{labels} {_number(value)}" for suffix, labels, value in each.samples())
    return ("\n".join(lines) + "\n").encode()


def geometric(start: float, factor: float, count: int) -> list[float]:
    """``start * factor``, ``start * factor**2``, … (``count`` of them)."""
    return [start * factor**k for k in range(1, count + 1)]


def linear(top: float, count: int) -> list[float]:
    """``count`` equal steps up to ``top``."""
    return [top * k / count for k in range(1, count + 1)]


def _summed(a: dict[int, int], b: dict[int, int]) -> dict[int, int]:
    return {amount: a.get(amount, 0) + b.get(amount, 0) for amount in {*a, *b}}


def _labels(label: str | None, value: str, more: str = "") -> str:
    parts = [f'{label}="{value}"'] if label else []
    if more:
        parts.append(more)
    return "{" + ",".join(parts) + "}" if parts else ""


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return repr(int(value)) if value == int(value) else repr(value)
