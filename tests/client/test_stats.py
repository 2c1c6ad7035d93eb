import json
import random

import pytest

from segue.client import Endpoint, EndpointPool
from segue.client.limiter import ThreadSignal
from segue.client.stats import RESERVOIR_SIZE, Reservoir, summarize
from segue.client.types import Usage


def filled(values: list[float]) -> Reservoir:
    reservoir = Reservoir()
    for value in values:
        reservoir.add(value)
    return reservoir


def test_percentiles_of_a_small_sample_are_exact() -> None:
    latency = filled([float(n) for n in range(1, 101)]).latency()
    assert (latency.count, latency.sum, latency.p50, latency.p95) == (100, 5050, 50, 95)
    assert Reservoir().latency().p50 is None


def test_a_large_stream_is_sampled_uniformly() -> None:
    random.seed(1)
    reservoir = filled([float(n) for n in range(50_000)])
    assert len(reservoir.values()) == RESERVOIR_SIZE
    latency = reservoir.latency()
    assert latency.count == 50_000
    assert latency.p50 == pytest.approx(25_000, rel=0.2)


def test_sums_weigh_samples_by_what_they_stand_for() -> None:
    """A quiet endpoint must not move the percentiles of a busy one."""
    random.seed(1)
    busy, quiet = filled([1.0] * 10_000), filled([100.0] * 500)
    latency = summarize([busy, quiet])
    assert latency.count == 10_500
    assert latency.p50 == 1.0
    assert latency.p95 == 1.0


def pool_with_traffic() -> EndpointPool:
    pool = EndpointPool([Endpoint("http://a", id='a"1'), Endpoint("http://b", id="b")], "round_robin")
    for usage in (Usage(3, 4), Usage(None, 5)):
        visit = pool.enter(pool.arrival_number(), ThreadSignal)
        visit.begin_attempt(is_retry=False)
        visit.succeed(usage)
    pool.enter(pool.arrival_number(), ThreadSignal)
    return pool


def test_sums_and_views() -> None:
    stats = pool_with_traffic().stats()
    assert stats.endpoints_count == 2
    assert (stats.input_tokens, stats.output_tokens, stats.total_tokens) == (3, 9, 12)
    assert (stats.total_requests, stats.successful_requests, stats.global_current_requests) == (3, 2, 1)
    assert json.loads(stats.to_json())["endpoints"]["b"]["output_tokens"] == 5


def test_prometheus() -> None:
    lines = pool_with_traffic().stats().to_prometheus().splitlines()
    assert 'segue_client_total_requests{endpoint="a\\"1"} 2' in lines
    assert 'segue_client_output_tokens_total{endpoint="b"} 5' in lines
    assert 'segue_client_current_requests{endpoint="a\\"1"} 1' in lines
    assert 'segue_client_latency_seconds_count{endpoint="b"} 1' in lines
    assert "# TYPE segue_client_latency_seconds summary" in lines


def test_reset_keeps_what_is_under_way() -> None:
    """Else successes would outnumber the total."""
    pool = pool_with_traffic()
    pool.reset_stats()
    stats = pool.stats()
    assert (stats.total_requests, stats.successful_requests, stats.output_tokens) == (1, 0, 0)
    assert stats.global_current_requests == 1
