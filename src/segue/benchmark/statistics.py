"""Averages, extremes and percentiles of measured values."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, fsum

__all__ = ["Summary", "percentile", "summarize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    average: float
    lowest: float
    highest: float
    p50: float
    p90: float
    p99: float


def summarize(values: Sequence[float]) -> Summary:
    """``values``: at least one."""
    ordered = sorted(values)
    return Summary(
        average=fsum(ordered) / len(ordered),
        lowest=ordered[0],
        highest=ordered[-1],
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that ``percent`` of all do not exceed."""
    return ordered[max(0, ceil(percent / 100 * len(ordered)) - 1)]
