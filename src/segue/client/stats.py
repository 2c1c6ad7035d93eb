"""What an endpoint has done so far, and sums over endpoints.

For an endpoint, at any moment: total_requests = successful_requests + failed_requests + current_requests +
current_queue_size. ``cancelled``, ``queue_rejected``, ``queue_timeouts`` and ``failovers`` are among the failed.
A request that fails over counts at both endpoints, and once in the sums.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from segue.client.types import Usage

__all__ = ["Counters", "EndpointStats", "Latency", "PoolStats", "Reservoir"]

RESERVOIR_SIZE = 512


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds. Percentiles are of a fixed-size uniform sample, None before the first value."""

    count: int
    sum: float
    p50: float | None
    p95: float | None


class Reservoir:
    """A uniform sample of a stream of values (Vitter 1985, algorithm R)."""

    __slots__ = ("_sample", "count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._sample: list[float] = []

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        if len(self._sample) < RESERVOIR_SIZE:
            self._sample.append(value)
        elif (place := int(random.random() * self.count)) < RESERVOIR_SIZE:  # noqa: S311
            self._sample[place] = value

    def values(self) -> list[float]:
        return list(self._sample)

    def latency(self) -> Latency:
        return summarize([self])


def summarize(reservoirs: list[Reservoir]) -> Latency:
    """Over several samples, each weighted by how many values it stands for."""
    weighted = sorted((value, r.count / len(r.values())) for r in reservoirs if r.count for value in r.values())
    count = sum(r.count for r in reservoirs)
    return Latency(
        count, sum(r.sum for r in reservoirs), _percentile(weighted, 0.50, count), _percentile(weighted, 0.95, count)
    )


def _percentile(weighted: list[tuple[float, float]], share: float, count: int) -> float | None:
    """Nearest rank."""
    seen = 0.0
    for value, weight in weighted:
        seen += weight
        if seen >= share * count - 1e-9:
            return value
    return weighted[-1][0] if weighted else None


class Counters:
    """Mutable; changed under the endpoint's lock only."""

    __slots__ = (
        "attempts",
        "cancelled",
        "created_at",
        "errors_by_type",
        "failed_requests",
        "failovers",
        "first_token",
        "input_tokens",
        "last_request_at",
        "latency",
        "output_tokens",
        "queue_rejected",
        "queue_timeouts",
        "queue_wait",
        "rate_limited",
        "retries",
        "streams",
        "successful_requests",
        "total_requests",
    )

    def __init__(self, created_at: float) -> None:
        self.created_at = created_at
        self.last_request_at: float | None = None
        self.total_requests = self.successful_requests = self.failed_requests = 0
        self.attempts = self.retries = self.streams = self.failovers = 0
        self.rate_limited = self.queue_rejected = self.queue_timeouts = self.cancelled = 0
        self.input_tokens = self.output_tokens = 0
        self.errors_by_type: Counter[str] = Counter()
        self.queue_wait, self.first_token, self.latency = Reservoir(), Reservoir(), Reservoir()

    def add_usage(self, usage: Usage) -> None:
        self.input_tokens += usage.prompt_tokens or 0
        self.output_tokens += usage.completion_tokens or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    total_requests: int
    """Requests that entered; one that is repeated counts once."""
    successful_requests: int
    failed_requests: int
    total_tokens: int
    input_tokens: int
    output_tokens: int
    attempts: int
    """HTTP requests sent."""
    retries: int
    rate_limited: int
    """Answers with status 429."""
    queue_rejected: int
    queue_timeouts: int
    cancelled: int
    failovers: int
    streams: int
    queue_wait: Latency
    first_token: Latency
    """Streams: from the attempt to the first event."""
    latency: Latency
    """Of successful requests: from the last attempt to the end of the answer."""
    errors_by_type: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStats(_Sums):
    endpoint_id: str
    created_at: float
    """Unix time, as ``last_request_at``."""
    last_request_at: float | None
    current_requests: int
    """Hold a slot."""
    current_queue_size: int
    """Wait for a slot, or for the next attempt."""
    breaker_state: str
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats(_Sums):
    endpoints: Mapping[str, EndpointStats] = field(repr=False)
    endpoints_count: int
    global_queue_size: int
    global_current_requests: int

    def to_json(self) -> str:
        return json.dumps(self.as_dict())

    def to_prometheus(self, prefix: str = "segue_client") -> str:
        """Prometheus' text format, one series an endpoint."""
        lines: list[str] = []
        for name, kind in _PROMETHEUS.items():
            series = f"{prefix}_{name}" + ("_total" if kind == "counter" and not name.startswith("total_") else "")
            lines.append(f"# TYPE {series} {kind}")
            lines.extend(
                f'{series}{{endpoint="{_escape(id)}"}} {getattr(stats, name)}' for id, stats in self.endpoints.items()
            )
        for name in ("queue_wait", "first_token", "latency"):
            series = f"{prefix}_{name}_seconds"
            lines.append(f"# TYPE {series} summary")
            for id, stats in self.endpoints.items():
                latency: Latency = getattr(stats, name)
                label = f'endpoint="{_escape(id)}"'
                for quantile, value in (("0.5", latency.p50), ("0.95", latency.p95)):
                    if value is not None:
                        lines.append(f'{series}{{{label},quantile="{quantile}"}} {value}')
                lines += [f"{series}_sum{{{label}}} {latency.sum}", f"{series}_count{{{label}}} {latency.count}"]
        return "\n".join(lines) + "\n"


_PROMETHEUS = {
    "total_requests": "counter",
    "successful_requests": "counter",
    "failed_requests": "counter",
    "attempts": "counter",
    "retries": "counter",
    "rate_limited": "counter",
    "queue_rejected": "counter",
    "queue_timeouts": "counter",
    "cancelled": "counter",
    "failovers": "counter",
    "streams": "counter",
    "input_tokens": "counter",
    "output_tokens": "counter",
    "current_requests": "gauge",
    "current_queue_size": "gauge",
}


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def sums(counters: list[Counters]) -> dict[str, Any]:
    """The fields that an endpoint and a pool have in common, added up."""
    added: dict[str, Any] = {name: sum(getattr(c, name) for c in counters) for name in _ADDED}
    added["total_tokens"] = added["input_tokens"] + added["output_tokens"]
    for name in ("queue_wait", "first_token", "latency"):
        added[name] = summarize([getattr(c, name) for c in counters])
    added["errors_by_type"] = dict(sum((c.errors_by_type for c in counters), Counter()))
    return added


_ADDED = (
    "total_requests",
    "successful_requests",
    "failed_requests",
    "input_tokens",
    "output_tokens",
    "attempts",
    "retries",
    "rate_limited",
    "queue_rejected",
    "queue_timeouts",
    "cancelled",
    "failovers",
    "streams",
)
